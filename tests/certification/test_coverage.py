"""Thousands of certified runs in worlds whose truth is known: no more of them are wrong than alpha allows.

The worlds are the worst cases of the theorems: the good parameters are a half-line, so that the exact radius
is known and reached; the draws outside it lie as high as a true "not good" can; and where the error bound
says nothing, the measured image looks perfect although the original does not. Where a loss is subtracted,
the same runs without it are shown to be wrong far more often than alpha.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from certification.outcome import Certified
from certification.plan import CertificationPlan
from certification.procedures import certify, predict
from certification.radius import inner_threshold, radius_received
from certification.vocabulary import AttackRange, Guarantee, ImageIs, Procedure, Transformation
from tests.certification.sources import CALIBRATION, Function, World, constant, predict_plan

RUNS = 600
ALPHA = 0.1
LIMIT = ALPHA + 3.0 * math.sqrt(ALPHA * (1.0 - ALPHA) / RUNS)
"""Three standard deviations of the simulation above alpha: .137."""
STORED = replace(CALIBRATION, sigma_gamma=1.0, rho_E=0.1, error_bound=0.5)


def step(edge: float, below: float, above: float) -> Function:
    return lambda beta: np.where(beta <= edge, below, above)


def certify_often(plan: CertificationPlan, share: Function, bound: Function = np.zeros_like) -> list[Certified]:
    """The certified runs for class 1, out of RUNS with different draws."""
    found = []
    for seed in range(RUNS):
        world = World(share, plan.sigma_gamma, plan.transformation.dimensions or 1, seed, bound)
        outcome = certify(plan, world, world)
        if isinstance(outcome, Certified) and outcome.label == 1:
            found.append(outcome)
    return found


def plan_of(
    guarantee: Guarantee, transformation: Transformation, half_width: float = 1.0, **more: object
) -> CertificationPlan:
    """Unit noise, and an attack range beyond the exact radius, so that it cuts none that is wrong."""
    numbers: dict[str, object] = {"n0": 20, "n": 300, "sigma_gamma": 1.0, "sigma_delta": 1.0, "alpha": ALPHA}
    numbers["procedure"] = Procedure.PAPER
    return CertificationPlan(
        transformation=transformation,
        guarantee=guarantee,
        attack_range=AttackRange(transformation, half_width),
        **(numbers | more),  # type: ignore[arg-type]
    )


def wrong(found: list[Certified], edge: float) -> float:
    """Share of all runs whose radius passes the edge beyond which the original's label is another."""
    return sum(outcome.radius > edge for outcome in found) / RUNS


@pytest.mark.parametrize("p", [0.6, 0.75, 0.9])
def test_heuristic_radii_hold_where_transformations_compose(p: float) -> None:
    """One vote a draw; Phi^-1(p) is the exact radius."""
    edge = float(norm.ppf(p))
    plan = plan_of(Guarantee.HEURISTIC, Transformation.ROTATION, 2.0)
    found = certify_often(plan, step(edge, 1.0, 0.0))
    assert len(found) > RUNS / 2
    assert 0.0 < wrong(found, edge) <= LIMIT


@pytest.mark.parametrize("p", [0.6, 0.9])
def test_l2_radii_hold(p: float) -> None:
    """Cohen et al.'s tight case, a linear classifier: the exact radius is Phi^-1(p)."""
    plan = plan_of(Guarantee.INDIVIDUAL, Transformation.L2)
    found = certify_often(plan, constant(p))
    assert len(found) > RUNS / 2
    assert 0.0 < wrong(found, float(norm.ppf(p))) <= LIMIT


def highest_failure(plan: CertificationPlan, error_bound: float) -> float:
    """The largest H_c that is still below the threshold of the inner test."""
    return inner_threshold(error_bound, plan.sigma_delta) * (1.0 - 1e-9)


def test_nested_radii_hold_although_inner_tests_err() -> None:
    """Distributional, received image: the error passes E on a tenth of the parameters, all beyond."""
    plan = plan_of(Guarantee.DISTRIBUTIONAL, Transformation.ROTATION, calibration=STORED)
    p = 0.75
    edge = float(norm.ppf(p))

    def share(beta: NDArray[np.float64]) -> NDArray[np.float64]:
        deceived = (beta > edge) & (beta <= norm.ppf(p + 0.1))
        return np.where((beta <= edge) | deceived, 1.0, highest_failure(plan, 0.5))

    found = certify_often(plan, share)
    assert len(found) > RUNS / 2
    assert 0.0 < wrong(found, edge) <= LIMIT
    naive = [radius_received(outcome.p_lower, 0.0, 0.0, 1.0) for outcome in found]
    assert sum((radius or 0.0) > edge for radius in naive) / RUNS > 2.0 * LIMIT


def test_reference_radii_hold_where_the_error_strikes_after_the_shift() -> None:
    """B.1, the other formula: the family is measured exactly, then loses rho_E at the attacked image.

    With K(t) = Phi(Phi^-1(p) - t) and the event of probability rho_E inside the good parameters, the attacked
    image has g = K(t) - rho_E, above 1/2 up to Phi^-1(p) - Phi^-1(1/2 + rho_E).
    """
    p = 0.9
    edge, exact = float(norm.ppf(p)), float(norm.ppf(p) - norm.ppf(0.6))
    plan = plan_of(
        Guarantee.DISTRIBUTIONAL,
        Transformation.ROTATION,
        1.5,
        calibration=STORED,
        image_is=ImageIs.REFERENCE,
        n_delta=100,
    )
    found = certify_often(plan, step(edge, 1.0, highest_failure(plan, 0.5)))
    assert len(found) > RUNS / 2
    assert 0.0 < wrong(found, exact) <= LIMIT
    naive = [plan.radius(outcome.p_lower, 0.0) for outcome in found]
    assert sum((radius or 0.0) > exact for radius in naive) / RUNS > 2.0 * LIMIT


def test_individual_radii_hold_although_e_and_rho_are_estimated() -> None:
    """The error passes any E on 4 % of the parameters, which look perfect in the received image."""
    plan = plan_of(Guarantee.INDIVIDUAL, Transformation.ROTATION, n_error=60, n_pilot=20, n=2000)
    p, hidden = 0.75, 0.04
    edge, end = float(norm.ppf(p)), float(norm.ppf(p + hidden))

    def is_hidden(beta: NDArray[np.float64]) -> NDArray[np.bool_]:
        return (beta > edge) & (beta <= end)

    def bound(beta: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(is_hidden(beta), math.inf, 0.3)

    def share(beta: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where((beta <= edge) | is_hidden(beta), 1.0, highest_failure(plan, 0.3))

    found = certify_often(plan, share, bound)
    assert len(found) > RUNS / 2
    assert wrong(found, edge) <= LIMIT
    naive = [plan.radius(outcome.p_lower, 0.0) for outcome in found]
    assert sum((radius or 0.0) > edge for radius in naive) / RUNS > 2.0 * LIMIT


@pytest.mark.parametrize("guarantee", [Guarantee.HEURISTIC, Guarantee.INDIVIDUAL])
def test_predictions_are_wrong_no_more_often_than_alpha(guarantee: Guarantee) -> None:
    """Class 1 has a share of .47 of the smoothed vote, so it is never the answer; the rest is class 0."""
    edge = float(norm.ppf(0.47))
    plan = predict_plan(guarantee, sigma_gamma=1.0, sigma_delta=1.0, n0=5, n=60, alpha=ALPHA)
    labels = []
    for seed in range(RUNS):
        world = World(step(edge, 1.0, 0.0), 1.0, seed=seed)
        labels.append(predict(plan, world).label)
    assert labels.count(1) / RUNS <= LIMIT
    assert labels.count(0) > labels.count(1)
