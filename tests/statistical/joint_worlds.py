"""Worst cases of one vote a draw: heuristic, l2, and the joint estimator (B.4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from certification.outcome import Outcome
from certification.radius import radius_joint_received, radius_joint_reference
from certification.vocabulary import Estimator, Guarantee, ImageIs, Transformation
from tests.certification.sources import constant
from tests.statistical.worlds import (
    JUST_ABOVE,
    NONE,
    RHO,
    Case,
    deceiving,
    lipschitz,
    p_lower,
    plan_of,
    quantile,
    step,
    stored,
)


def single_vote_cases() -> list[Case]:
    """One vote a draw: heuristic, and Cohen et al.'s linear classifier."""
    cases = []
    for p, at_least, weight in ((0.75, 0.0, 0.3), (0.99, 0.1, 1.0)):
        edge = quantile(p)
        largest = plan_of(Guarantee.HEURISTIC, 1.1 * edge, n=2000)
        wanted = plan_of(Guarantee.HEURISTIC, 1.1 * edge, n=2000, wanted=edge * JUST_ABOVE)
        l2 = plan_of(Guarantee.INDIVIDUAL, edge * JUST_ABOVE, n=2000, transformation=Transformation.L2)
        cases += [
            Case(f"heuristic, p = {p}, largest radius", largest, step(edge), edge, at_least=0.0, weight=weight),
            Case(
                f"heuristic, p = {p}, just beyond the true radius",
                wanted,
                step(edge),
                edge,
                at_least=at_least,
                weight=weight,
            ),
            Case(f"l2, p = {p}, just beyond the true radius", l2, constant(p), edge, at_least=at_least, weight=weight),
        ]
    return cases


@dataclass(frozen=True)
class LinearWorld:
    """A linear classifier of one-dimensional pixels: it votes for label 1 where ``u + delta <= threshold``.

    ``P T_t x = slope * t``, and the attack by gamma adds an interpolation error of E wherever it is read:
    ``P T_beta x' = slope * (beta + gamma) + E``. Both smoothings compose exactly, so that ``Phi^-1 G`` is linear in
    gamma and E. All noise has deviation 1.
    """

    threshold: float
    slope: float

    def share(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        """H of the image in hand."""
        return np.asarray(norm.cdf(self.threshold - self.slope * t))

    def probability(self, gamma: float, error: float) -> float:
        """G of the other image."""
        return float(norm.cdf((self.threshold - self.slope * gamma - error) / math.hypot(1.0, self.slope)))

    def edge(self, error: float) -> float:
        """The gamma at which the other image loses the label."""
        return (self.threshold - error) / self.slope


def worst_linear(quantile_in_hand: float, error: float, gamma: float) -> LinearWorld:
    """Of all classifiers with ``Phi^-1 G = quantile_in_hand``, the one that loses most to a gamma and an error.

    Minimising ``E Phi(Phi^-1 H(beta + gamma) - E)`` with ``E H(beta)`` given, Lagrange's condition reads
    ``Phi^-1 H(t) = c - (gamma / E) t``: the loss is the root of ``gamma^2 + E^2``.
    """
    slope = gamma / error
    return LinearWorld(quantile_in_hand * math.hypot(1.0, slope), slope)


def joint_cases() -> list[Case]:
    """One vote for each pair of parameter and pixel noise (B.4)."""
    p = 0.99
    E, edge = quantile(p), quantile(p - RHO)
    joint = {"estimator": Estimator.JOINT, "n": 2000}
    formulas = {ImageIs.RECEIVED: radius_joint_received, ImageIs.REFERENCE: radius_joint_reference}
    cases = []
    for image_is, formula in formulas.items():
        role = {"image_is": image_is, **joint}

        def errorless(found: Outcome, formula: Callable[..., float | None] = formula) -> float | None:
            rho_E = found.error_bound.rho_E if found.error_bound else 0.0
            return formula(p_lower(found), 0.0, 1.0, rho_E, 1.0)

        def never_exceeding(found: Outcome, formula: Callable[..., float | None] = formula) -> float | None:
            E = found.error_bound.error_bound if found.error_bound else 0.0
            return formula(p_lower(found), E, 1.0, 0.0, 1.0)

        # all parameters alike: only the error moves the votes, and no radius is right
        alike = Case(
            f"distributional, joint, {image_is}, error only", stored(0.001, E, 0.0, **role),
            constant(p), 0.0, naive=errorless,
        )  # fmt: skip
        # both: the worst case, which the sum of both losses does not reach
        world = worst_linear(1.0, 0.8, 0.6)
        both = Case(
            f"distributional, joint, {image_is}, linear classifier", stored(0.9, 0.8, 0.0, **role), world.share,
            world.edge(0.8), at_least=0.0, weight=0.5, naive=errorless,
        )  # fmt: skip
        one = Case(
            f"individual, joint, {image_is}, one bound for all",
            plan_of(Guarantee.INDIVIDUAL, 0.001, bound_for_all=True, **role),
            constant(p), 0.0, bound=constant(E), naive=errorless,
        )  # fmt: skip
        received = image_is is ImageIs.RECEIVED
        hidden = Case(
            f"distributional, joint, {image_is}, no error but with probability rho",
            stored(1.0 if received else 1.95, NONE, RHO, **role),
            deceiving(edge, RHO) if received else step(quantile(p)),
            edge if received else quantile(p) - quantile(0.5 + RHO),
            naive=never_exceeding,
        )
        # votes of .98 on the good side, which the error lowers; the rest deceives or is lost with probability rho
        good, rho_E, below = 0.85, 0.05, 0.98
        left = lipschitz(below, 0.3)
        losses = Case(
            f"distributional, joint, {image_is}, all losses", stored(1.0, 0.3, rho_E, **role),
            deceiving(quantile(good), rho_E, 0.0, below) if received else step(quantile(good), 0.0, below),
            quantile(good) - quantile(0.5 / left + (0.0 if received else rho_E)), at_least=0.0, weight=0.3,
        )  # fmt: skip
        cases += [alike, both, one, hidden, losses]
    return [*cases, _estimated_rho(), _either_estimator()]


def _estimated_rho() -> Case:
    """Individual, joint: E and rho_E are estimated; the error passes any E on 10 % of the parameters, which deceive."""
    plan = plan_of(Guarantee.INDIVIDUAL, 0.7, estimator=Estimator.JOINT, n=2000, n_pilot=20, n_error=100)
    p, hidden = 0.75, 0.1
    edge, end = quantile(p), quantile(p + hidden)
    return Case(
        "individual, joint, received, E and rho_E estimated", plan, deceiving(edge, hidden), edge,
        bound=lambda beta: np.where((beta > edge) & (beta <= end), math.inf, NONE), at_least=0.0,
        weight=0.3, naive=lambda found: plan.radius(p_lower(found), 0.0, Estimator.JOINT, 0.0),
    )  # fmt: skip


def _either_estimator() -> Case:
    """Individual, the estimator chosen by the selection votes: with no error both have the same edge."""
    edge = quantile(0.97)
    plan = plan_of(Guarantee.INDIVIDUAL, edge * JUST_ABOVE, bound_for_all=True, n=500, n_delta=24)
    return Case("individual, received, estimator chosen", plan, step(edge), edge, bound=constant(NONE), weight=0.5)
