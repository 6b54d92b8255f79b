"""``surety evaluate`` and ``surety calibrate`` with ``--ray``: their images as tasks of a Ray cluster.

What a result depends on is sent along, the network and the images too, so the other machines need nothing but Surety.
A task whose worker dies is made again; results come in the order of the images, so a stopped run goes on as ever.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

from gpu.targets import select_device
from models import calibrate as calibration
from models import evaluate as evaluation
from models.records import Map

T = TypeVar("T")
R = TypeVar("R")
LOCAL = "local"
ATTEMPTS_AGAIN = 3


class RayMissingError(Exception):
    """The extra is not installed."""


@contextmanager
def cluster_map(address: str, *, num_gpus: float = 0.0) -> Iterator[Map]:
    """A :class:`~models.records.Map` on a cluster.

    Parameters
    ----------
    address : str
        Of the cluster; ``auto``: the one that runs on this machine; ``local``: one of this machine's cores, which
        ends with the block.
    num_gpus : float
        Of a task, which has a core besides.

    Raises
    ------
    RayMissingError
    ConnectionError
        If no cluster is there.
    """
    try:
        import ray
    except ImportError as error:
        raise RayMissingError(f"--ray needs the extra 'ray' (surety[ray]): {error}") from error

    # Ray passes what it has stored, not its reference.
    call: Any = ray.remote(num_cpus=1, num_gpus=num_gpus, max_retries=ATTEMPTS_AGAIN)(_call)

    def mapped(function: Callable[[T], R], items: Iterable[T], /) -> Iterator[R]:
        stored = ray.put(function)
        yield from map(ray.get, [call.remote(stored, item) for item in items])

    options: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    ray.init(address, log_to_driver=False, **options)
    try:
        yield mapped
    finally:
        ray.shutdown()


def _call(function: Callable[[T], R], item: T) -> R:
    return function(item)


@dataclass(frozen=True)
class Command:
    """A command of ``models`` with one more option."""

    module: ModuleType

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        self.module.add_arguments(parser)
        parser.add_argument(
            "--ray",
            metavar="ADDRESS",
            help="make the images tasks of this Ray cluster; auto: the one here; local: one of this machine's cores",
        )

    def run(self, arguments: argparse.Namespace) -> int:
        """Run the command; the result does not depend on where, so its record does not say."""
        address = vars(arguments).pop("ray")
        if address is None:
            return int(self.module.run(arguments))
        on_gpu = select_device(getattr(arguments, "device", "cpu")) == "cuda"
        try:
            with cluster_map(address, num_gpus=float(on_gpu)) as mapped:
                return int(self.module.run(arguments, mapped))
        except (RayMissingError, ConnectionError) as error:
            print(f"surety: {error}", file=sys.stderr)
            return 2


evaluate, calibrate = Command(evaluation), Command(calibration)
