"""What a request is expected to take, in seconds: its plan's votes times what a vote takes, and its error bound.

A plan knows the votes of a run in which everything agrees; what runs of its kind needed beyond that, what their bounds
took and what a vote takes is learned from those that are done. An estimate decides who waits and who is refused,
never an answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from certification.effort import Effort
from certification.outcome import Outcome, Prediction
from certification.plan import CertificationPlan
from certification.vocabulary import StoppedBy, Transformation
from models.registry import LoadedModel, Registry
from models.votes import BaseClassifierVotes

NEWEST, SURPRISE = 0.1, 4.0
"""Weight of the newest run in what is learned, and how many times the known value it counts for at most: one client
with runs unlike all others shall not make those of others look long.
"""
Key = tuple[str, ...]


@dataclass
class _Kind:
    """What is known of one kind of request: seconds of its bound, error bound / sigma_delta, votes / least votes."""

    bound_seconds: float = 0.0
    error_ratio: float = 1.0
    overrun: float = 1.5

    def learn(self, name: str, value: float) -> None:
        known = getattr(self, name)
        setattr(self, name, known + NEWEST * (value - known))


class Costs:
    """Estimates for the models of one server.

    Parameters
    ----------
    vote_seconds : mapping
        Seconds of a vote, by model id, > 0; see :func:`measured`.
    """

    def __init__(self, vote_seconds: Mapping[str, float]) -> None:
        self._alone, self._vote_seconds = dict(vote_seconds), dict(vote_seconds)
        self._kinds: dict[Key, _Kind] = {}
        self._lock = threading.Lock()

    def expected(self, model: LoadedModel, plan: Effort, *, alone: bool = False) -> float:
        """Seconds that a request is expected to take once it has a thread, beside others as of late, or alone."""
        with self._lock:
            kind = self._kinds.get(_key(model, plan)) or _Kind()
            votes = plan.least_votes(_error_bound(plan, kind)) * kind.overrun
            vote_seconds = self._alone if alone else self._vote_seconds
            return min(votes, plan.max_votes) * vote_seconds[model.card.id] + kind.bound_seconds

    def learn(
        self, model: LoadedModel, plan: Effort, found: Outcome | Prediction, seconds: Mapping[str, float]
    ) -> None:
        """Take what a run needed; ``seconds`` by stage."""
        votes, error = found.counts.votes, getattr(found, "error_bound", None)
        with self._lock:
            kind = self._kinds.setdefault(_key(model, plan), _Kind())
            # A run that was cut short would have needed more.
            late, bound_seconds = found.stopped_by is StoppedBy.DEADLINE, seconds["bound"] + seconds["inverse"]
            if not late or bound_seconds > kind.bound_seconds:
                kind.learn("bound_seconds", bound_seconds)
            if error is not None and np.isfinite(error.error_bound):
                kind.learn("error_ratio", error.error_bound / plan.sigma_delta)
            if votes > plan.n0:
                known = self._vote_seconds[model.card.id]
                spent = (seconds["select"] + seconds["estimate"]) / votes
                self._vote_seconds[model.card.id] = known + NEWEST * (spent - known)
                overrun = votes / plan.least_votes(_error_bound(plan, kind))
                if not late or overrun > kind.overrun:
                    kind.learn("overrun", min(overrun, SURPRISE * kind.overrun))


def measured(registry: Registry, device: str, batch_size: int | None) -> dict[str, float]:
    """Seconds of a vote of each model that certifies something, from one full batch after another one."""
    found = {}
    for name, model in registry.models.items():
        found[name] = 1e-6
        if model.card.transformations:
            takes = model.card.input
            blank = np.zeros((takes.height, takes.width, takes.channels), dtype=np.float32)
            kind = Transformation(model.card.transformations[0])
            votes = BaseClassifierVotes(model, blank, kind, key=b"cost", device=device, batch_size=batch_size)
            for _ in range(2):
                start = time.perf_counter()
                votes.class_counts(votes.batch_size, pixel_noise=True)
                found[name] = (time.perf_counter() - start) / votes.batch_size
    return found


def _key(model: LoadedModel, plan: Effort) -> Key:
    image = str(plan.image_is) if isinstance(plan, CertificationPlan) else "predict"
    return model.card.id, str(plan.transformation), str(plan.guarantee), str(plan.procedure), image


def _error_bound(plan: Effort, kind: _Kind) -> float:
    if not isinstance(plan, CertificationPlan) or not plan.has_both_noises:
        return 0.0
    return kind.error_ratio * plan.sigma_delta
