"""What a run is told to have shown so far, while its votes are cast."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from certification.plan import CertificationPlan
from certification.procedures import certify
from certification.protocols import SoFar
from certification.vocabulary import Estimator, Guarantee, OutOfTime, Procedure
from tests.certification.sources import World, constant, l2_plan, rotation_plan

SEQUENTIAL = {"procedure": Procedure.SEQUENTIAL, "n": None}
HEURISTIC = rotation_plan(Guarantee.HEURISTIC, 30.0, **SEQUENTIAL)
DISTRIBUTIONAL = rotation_plan(Guarantee.DISTRIBUTIONAL, 30.0, **SEQUENTIAL)
PLANS = [
    HEURISTIC,
    l2_plan(**SEQUENTIAL),
    replace(DISTRIBUTIONAL, estimator=Estimator.JOINT),
    replace(DISTRIBUTIONAL, estimator=Estimator.NESTED),
    rotation_plan(**SEQUENTIAL, estimator=Estimator.NESTED),
]


class Watched(World):
    """Asks before each call what was shown until then; its time is up before call number ``last``."""

    last = 10**9

    def watch(self, so_far: SoFar) -> None:
        self.so_far = so_far
        self.seen: list[tuple[float, float | None]] = []

    def _look(self) -> None:
        if hasattr(self, "so_far"):
            self.seen.append(self.so_far())
            if len(self.seen) == self.last:
                raise OutOfTime

    def class_counts(self, n: int, *, pixel_noise: bool) -> NDArray[np.int64]:
        self._look()
        return super().class_counts(n, pixel_noise=pixel_noise)

    def votes_at(self, draws: NDArray[np.int64], counts: NDArray[np.int64], *, label: int) -> NDArray[np.int64]:
        self._look()
        return super().votes_at(draws, counts, label=label)


def world() -> Watched:
    return Watched(constant(0.955), 30.0, bound=constant(0.1))


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.transformation}-{plan.guarantee}-{plan.estimator}")
def test_what_is_shown_so_far_is_what_the_run_would_end_with(plan: CertificationPlan) -> None:
    """Oracle: the same run whose time is up there."""
    whole = world()
    outcome = certify(plan, whole, whole, watch=whole.watch)
    assert len(whole.seen) >= 1
    assert whole.seen[0] == (0.0, None)
    bounds = [p_lower for p_lower, _ in whole.seen]
    assert bounds == sorted(bounds)
    assert outcome.p_lower is not None
    assert bounds[-1] <= outcome.p_lower
    for number, shown in enumerate(whole.seen, 1):
        cut = world()
        cut.last = number
        ended = certify(plan, cut, cut, watch=cut.watch)
        assert (ended.p_lower, ended.radius) == shown


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.transformation}-{plan.guarantee}-{plan.estimator}")
def test_watching_changes_nothing(plan: CertificationPlan) -> None:
    watched = world()
    assert certify(plan, watched, watched, watch=watched.watch) == certify(plan, world(), world())
