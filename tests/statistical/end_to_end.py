"""All that is measured through ``certify`` and ``predict``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from certification.outcome import Certified
from certification.procedures import certify, predict
from certification.vocabulary import Estimator, Guarantee, Procedure
from tests.certification.sources import World, constant, predict_plan
from tests.statistical.joint_worlds import joint_cases, single_vote_cases
from tests.statistical.nested_worlds import nested_own_bound_cases, nested_stored_cases
from tests.statistical.rates import Check
from tests.statistical.remembered import remembered
from tests.statistical.worlds import ALPHA, BELOW, plan_of, step


@dataclass
class Reusing(World):
    """A world whose estimation votes are its selection votes again."""

    first: NDArray[np.int64] | None = None

    def class_counts(self, n: int, *, pixel_noise: bool) -> NDArray[np.int64]:
        counts = super().class_counts(n, pixel_noise=pixel_noise)
        self.first = counts if self.first is None else self.first
        return self.first


def selection(share: float, *, reused: bool) -> Check:
    """The papers' procedure where both classes are equally likely, so that no certificate is right."""
    plan = plan_of(Guarantee.HEURISTIC, 0.05, procedure=Procedure.PAPER, n0=400, n=400)
    kind = Reusing if reused else World

    def simulate(runs: int, generator: np.random.Generator) -> int:
        seeds = generator.integers(2**60, size=runs).tolist()
        return sum(isinstance(certify(plan, kind(constant(0.5), seed=seed)), Certified) for seed in seeds)

    name = f"heuristic, no class wins, {'selection votes reused' if reused else 'fresh votes'}"
    return Check(name, ALPHA, simulate, valid=not reused, at_least=1.5 if reused else 0.5, share=share)


def prediction(estimator: Estimator, share: float) -> Check:
    """PREDICT where no class has a majority: at half of the draws each, or in half of the votes."""
    nested = estimator is Estimator.NESTED
    plan = predict_plan(
        sigma_gamma=1.0, sigma_delta=1.0, alpha=ALPHA, alpha_delta=0.05, n0=30, n=120, procedure=Procedure.SEQUENTIAL,
        estimator=estimator, n_delta=24 if nested else None,
    )  # fmt: skip
    votes = step(0.0, 0.5 * BELOW) if nested else constant(0.5)

    def simulate(runs: int, generator: np.random.Generator) -> int:
        with remembered():
            seeds = generator.integers(2**60, size=runs).tolist()
            return sum(predict(plan, World(votes, seed=seed)).label is not None for seed in seeds)

    return Check(f"predict, {estimator}", ALPHA, simulate, share=0.5 * share if nested else share)


def checks(share: float) -> list[Check]:
    """All cases, those without a loss among them, and predictions; ``share`` of the runs of the cheapest checks."""
    cases = [*single_vote_cases(), *nested_stored_cases(), *nested_own_bound_cases(), *joint_cases()]
    return [
        *(case.check(share) for case in cases),
        *(check for case in cases if (check := case.without_loss(0.2 * share)) is not None),
        *(selection(share, reused=reused) for reused in (False, True)),
        *(prediction(estimator, share) for estimator in (Estimator.NESTED, Estimator.JOINT)),
    ]
