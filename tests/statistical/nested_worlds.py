"""Worst cases of the nested estimator: stored bounds (B.1), one for all draws, and one a draw (B.3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from certification.radius import inner_threshold, radius_received
from certification.vocabulary import Estimator, Guarantee, ImageIs, Transformation
from tests.certification.sources import constant
from tests.statistical.worlds import (
    ALPHA_DELTA,
    BELOW,
    NONE,
    RHO,
    Case,
    deceiving,
    just_failing,
    p_lower,
    plan_of,
    quantile,
    step,
    stored,
    uneven,
)


def nested_stored_cases() -> list[Case]:
    """Distributional: where the error exceeds E, a received image deceives, and an attacked reference loses."""
    p, E = 0.75, 0.3
    edge, failing = quantile(p), inner_threshold(E, 1.0) * BELOW
    draws = {"estimator": Estimator.NESTED, "n": 120, "n_delta": 40}
    received = stored(0.72, E, RHO, **draws)
    reference = stored(0.75, E, RHO, image_is=ImageIs.REFERENCE, **draws)
    lenient = stored(0.06, E, NONE, alpha_delta=0.4, **(draws | {"n_delta": 200}))
    p_reference = 0.85
    exact = quantile(p_reference) - quantile(0.5 + RHO)
    return [
        Case(
            "distributional, nested, received", received, deceiving(edge, RHO, failing), edge,
            naive=lambda found: radius_received(p_lower(found), ALPHA_DELTA, 0.0, 1.0),
        ),
        Case(
            "distributional, nested, reference", reference, step(quantile(p_reference), failing), exact,
            naive=lambda found: reference.radius(p_lower(found), 0.0),
        ),
        Case(
            "distributional, nested, lenient inner tests", lenient, step(quantile(0.52), failing), quantile(0.52),
            at_least=0.0, weight=0.3,
            naive=lambda found: radius_received(p_lower(found), 0.0, 0.0, 1.0),
        ),
    ]  # fmt: skip


def nested_own_bound_cases() -> list[Case]:
    """Individual, a bound for each draw (B.3), and one for all."""
    p = 0.75
    edge = quantile(p)
    draws = {"n": 120, "n_delta": 40}

    def far(beta: NDArray[np.float64]) -> NDArray[np.float64]:
        """Beyond the edge the error is large, so that these draws pass only where it is mistaken."""
        return np.where(beta <= edge, uneven(beta), 1.2)

    def is_even(t: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Half of the parameters; an attack by 0.1 turns them into the other half.

        H is .8 at them and .999 elsewhere; the error is 0 where beta is one of them, and up to 1 elsewhere. So at
        gamma = .1 every other beta reads H = .8, less an error of 1: below 1/2. Half of the draws are left, although
        each beta passes with the bound that belongs to it. At a total parameter the bound is 1, and half pass.
        """
        return np.asarray(np.floor(10.0 * t).astype(np.int64) % 2 == 0)

    own_received = plan_of(Guarantee.INDIVIDUAL, 1.0, **draws)
    own_reference = plan_of(Guarantee.INDIVIDUAL, 1.0, image_is=ImageIs.REFERENCE, **draws)
    for_all = {"bound_for_all": True, "estimator": Estimator.NESTED}
    shifts = plan_of(Guarantee.INDIVIDUAL, 0.8, transformation=Transformation.TRANSLATION, **draws)
    return [
        Case("individual, own bounds, received", own_received, step(edge, just_failing(uneven)), edge, bound=uneven),
        Case(
            "individual, own bounds, reference", own_reference, step(edge, just_failing(uneven)), edge,
            total=uneven,
        ),
        Case(
            "individual, own bounds, received, large where the draws fail", own_received,
            step(edge, just_failing(far)), edge, bound=far, false_bound=constant(0.3),
        ),
        Case(
            "individual, own bounds, reference, bounds of drawn parameters taken for those of total ones",
            plan_of(Guarantee.INDIVIDUAL, 1.0, image_is=ImageIs.REFERENCE, n=120, n_delta=60),
            lambda t: np.where(is_even(t), 0.8, 0.999), 0.1, bound=lambda beta: np.where(is_even(beta), 0.0, 1.0),
            total=constant(1.0), at_least=0.0, weight=0.5, false_bound=lambda beta: np.where(is_even(beta), 0.0, 1.0),
        ),
        Case("individual, own bounds, shifts", shifts, step(edge, just_failing(uneven)), edge, bound=uneven),
        Case(
            "individual, one bound for all, received", plan_of(Guarantee.INDIVIDUAL, 1.0, **for_all, n=120, n_delta=60),
            step(edge, inner_threshold(1.0, 1.0) * BELOW), edge, bound=constant(1.0), false_bound=constant(0.0),
        ),
        Case(
            "individual, one bound for all, reference",
            plan_of(Guarantee.INDIVIDUAL, 1.0, image_is=ImageIs.REFERENCE, **for_all, n=120, n_delta=60),
            step(edge, inner_threshold(1.0, 1.0) * BELOW), edge, bound=constant(1.0), false_bound=constant(0.0),
        ),
    ]  # fmt: skip
