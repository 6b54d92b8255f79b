"""How many vote engines there shall be. Ray sends this module to its controller as it stands: it imports nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

METRIC = "backlog_seconds"


def wanted_engines(backlog_seconds: list[float], engines: int, target_seconds: float) -> float:
    """So many engines that each would have ``target_seconds`` of work.

    Parameters
    ----------
    backlog_seconds : list of float
        Estimated seconds of work, waiting and running, of the engines that have reported.
    engines : int
        All that run; those that have not reported are taken for the others' like.
    target_seconds : float
        > 0.

    Returns
    -------
    float
        Not rounded and not bounded, which Ray Serve does; ``engines`` where nothing is known.
    """
    if not backlog_seconds:
        return float(engines)
    return sum(backlog_seconds) / len(backlog_seconds) * engines / target_seconds


class QueueSeconds:
    """An autoscaling policy of Ray Serve: see :func:`wanted_engines`."""

    def __init__(self, target_seconds: float) -> None:
        self._target_seconds = target_seconds

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """The number of replicas to aim at, and nothing to remember."""
        reported = (context.aggregated_metrics or {}).get(METRIC, {})
        running = context.current_num_replicas
        return wanted_engines(list(reported.values()), running, self._target_seconds), {}
