"""Worlds whose smoothed classifier, and whose true radius, are known in closed form, and ``certify`` in them.

Label 1 is right for the image in hand. A world is the worst case of its theorem where that is known: the good
parameters are a half-line, so that moving by gamma costs exactly gamma / sigma_gamma; draws outside it lie just below
what an inner test must show; and where the error bound says nothing, the draws deceive. Its ``edge`` is the smallest
gamma at which the other image (the attacked one, or the original) has another label, so that a certificate with a
larger radius, or for another label, is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from certification.outcome import Outcome
from certification.plan import CertificationPlan
from certification.procedures import certify
from certification.radius import inner_threshold
from certification.vocabulary import AttackRange, Guarantee, Procedure, Transformation
from tests.certification.sources import CALIBRATION, Function, World, constant
from tests.statistical.rates import Check
from tests.statistical.remembered import remembered

ALPHA = 0.1
BELOW = 1.0 - 1e-9
"""Just below a threshold."""
JUST_ABOVE = 1.0 + 1e-6
NONE = 1e-9
"""An error bound that costs nothing; a stored one must be positive."""
RHO = 0.15
ALPHA_DELTA = 0.01
Radius = Callable[[Outcome], float | None]


@dataclass
class TwoBounds(World):
    """A world with one kind of error bound at drawn parameters and another at total parameters (B.3)."""

    total: Function = np.zeros_like

    def total_error_bounds(self, totals: NDArray[np.float64]) -> NDArray[np.float64]:
        self.calls.append(("total bounds", len(totals)))
        return self.total(totals)


@dataclass(frozen=True)
class Case:
    """A plan, a world, and what is true there.

    Attributes
    ----------
    name : str
    plan : CertificationPlan
    share : callable
        Probability at a parameter that the base classifier votes for label 1, over pixel noise.
    edge : float
        Certificates with a larger radius are wrong, and those for another label.
    bound, total : callable
        True error bounds, at drawn parameters and at total ones.
    at_least : float
        Share of alpha that certificates are wrong: 0 where the theorem's bound is not attained, or most of alpha is
        spent before the first look.
    weight : float
        Runs, for each run of other cases.
    naive : callable or None
        The radius that the same run would have without a loss that must be subtracted.
    false_bound : callable or None
        Error bounds of a procedure that mistakes them.
    """

    name: str
    plan: CertificationPlan
    share: Function
    edge: float
    bound: Function = np.zeros_like
    total: Function = np.zeros_like
    at_least: float = 0.1
    weight: float = 1.0
    naive: Radius | None = None
    false_bound: Function | None = None

    def outcome(self, seed: int) -> Outcome:
        """One run."""
        dimensions = self.plan.transformation.dimensions or 1
        world = TwoBounds(
            self.share,
            sigma_gamma=self.plan.sigma_gamma,
            dimensions=dimensions,
            seed=seed,
            bound=self.bound,
            total=self.total,
        )
        return certify(self.plan, world, world)

    def check(self, share: float) -> Check:
        """The procedure as it is."""
        return self._check(self.name, lambda outcome: outcome.radius, self.at_least, self.weight * share, valid=True)

    def without_loss(self, share: float) -> Check | None:
        """The procedure without a loss, which is noticed."""
        name = f"{self.name}, loss forgotten"
        if self.naive is not None:
            return self._check(name, self.naive, 3.0, share, valid=False)
        if self.false_bound is not None:
            false = replace(self, bound=self.false_bound, total=self.false_bound)
            return false._check(name, lambda outcome: outcome.radius, 3.0, share, valid=False)
        return None

    def _check(self, name: str, radius: Radius, at_least: float, share: float, *, valid: bool) -> Check:
        def simulate(runs: int, generator: np.random.Generator) -> int:
            with remembered():
                found = [self.outcome(seed) for seed in generator.integers(2**60, size=runs).tolist()]
            return sum(one.label == 0 or (radius(one) or -math.inf) > self.edge for one in found)

        return Check(name, self.plan.alpha, simulate, at_least=at_least, valid=valid, share=share)


def p_lower(outcome: Outcome) -> float:
    """What the run showed, whether or not that was enough."""
    return outcome.p_lower or 0.0


def plan_of(guarantee: Guarantee, half_width: float, **more: object) -> CertificationPlan:
    """Unit noise, cheap inner tests, few draws."""
    numbers: dict[str, object] = {
        "transformation": Transformation.ROTATION,
        "n0": 30,
        "alpha": ALPHA,
        "alpha_delta": ALPHA_DELTA,
        "sigma_gamma": 1.0,
        "sigma_delta": 1.0,
        "procedure": Procedure.SEQUENTIAL,
    }
    numbers |= more
    kind = numbers["transformation"]
    assert isinstance(kind, Transformation)
    return CertificationPlan(
        guarantee=guarantee,
        attack_range=AttackRange(kind, half_width),
        **numbers,  # type: ignore[arg-type]
    )


def stored(half_width: float, error_bound: float, rho_E: float, **more: object) -> CertificationPlan:
    """Distributional: E and rho_E are given."""
    calibration = replace(CALIBRATION, sigma_gamma=1.0, error_bound=error_bound, rho_E=rho_E)
    return plan_of(Guarantee.DISTRIBUTIONAL, half_width, calibration=calibration, **more)


def step(edge: float, above: float | Function = 0.0, below: float = 1.0) -> Function:
    """Votes for label 1 with probability ``below`` up to an edge, and beyond it with ``above``."""
    beyond = above if callable(above) else constant(above)
    return lambda beta: np.where(beta <= edge, below, beyond(beta))


def deceiving(edge: float, hidden: float, above: float | Function = 0.0, below: float = 1.0) -> Function:
    """A step, but for a region of probability ``hidden`` beyond it where all votes are for label 1."""
    end = float(norm.ppf(norm.cdf(edge) + hidden))
    honest = step(edge, above, below)
    return lambda beta: np.where((beta > edge) & (beta <= end), 1.0, honest(beta))


def lipschitz(share: float, error: float) -> float:
    """The least share of votes at an image ``error`` away, with unit pixel noise (E.1)."""
    return float(norm.cdf(norm.ppf(share) - error))


def uneven(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """Error bounds that depend on the parameter: 0.1, 0.3 and 0.6, in bands."""
    return np.array([0.1, 0.3, 0.6])[np.floor(3.0 * np.abs(parameters)).astype(np.int64) % 3]


def just_failing(bound: Function) -> Function:
    """The largest probabilities that are still below the thresholds of the inner tests."""
    return lambda beta: np.array([inner_threshold(e, 1.0) for e in bound(beta)]) * BELOW


def quantile(p: float) -> float:
    """Phi^-1."""
    return float(norm.ppf(p))
