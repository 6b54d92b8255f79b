"""B.4's bound is never exceeded, and attained where one of its losses is alone.

Oracle: ``G(x')`` of one-dimensional images in closed form, or by quadrature over the parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from certification.radius import radius_joint_received, radius_joint_reference
from tests.statistical.joint_worlds import LinearWorld, worst_linear
from tests.statistical.worlds import quantile

Formula = Callable[[float, float, float, float, float], float | None]
FORMULAS: tuple[Formula, ...] = (radius_joint_received, radius_joint_reference)
NODES = np.linspace(-9.0, 9.0, 6001)


def mean(values: NDArray[np.float64], shift: float = 0.0) -> float:
    """Over parameters N(shift, 1)."""
    weights = norm.pdf(NODES - shift)
    return float((values * weights).sum() / weights.sum())


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0, 4.0])
def test_the_linear_world_is_what_its_formula_says(slope: float) -> None:
    world = LinearWorld(0.7, slope)
    attacked = norm.cdf(0.7 - slope * (NODES + 0.4) - 0.2)
    assert world.probability(0.4, 0.2) == pytest.approx(mean(attacked), abs=1e-12)


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize(("error", "gamma"), [(1e-4, 0.9), (0.8, 1e-4), (0.4, 0.4), (1.5, 0.3), (0.3, 1.5)])
def test_no_linear_world_loses_more_than_the_bound(formula: Formula, error: float, gamma: float) -> None:
    """At the world's true edge the certificate ends before it, and nearly there where one loss is alone."""
    world = worst_linear(math.hypot(error, gamma), error, gamma)
    assert world.edge(error) == pytest.approx(gamma)
    assert world.probability(gamma, error) == pytest.approx(0.5)
    radius = formula(world.probability(0.0, 0.0), error, 1.0, 0.0, 1.0) or 0.0
    assert radius < gamma
    if min(error, gamma) < 1e-3:
        assert radius > gamma - 2e-4


def test_no_classifier_loses_more_than_the_worst_linear_one() -> None:
    """Random votes H(t): ``G(x') = E Phi(Phi^-1 H(beta + gamma) - E)`` is least for the linear one (Lagrange)."""
    generator = np.random.default_rng(0)
    for _ in range(300):
        error, gamma = generator.uniform(0.05, 2.0, 2)
        waves = generator.normal(size=(4, 1)) * np.sin(
            generator.uniform(0.1, 3.0, (4, 1)) * NODES + generator.normal(size=(4, 1))
        )
        scores = (
            generator.normal(0.0, 2.0) * NODES
            + generator.normal(1.0, 1.0)
            + generator.uniform(0.0, 3.0) * waves.sum(axis=0)
        )
        in_hand = mean(norm.cdf(scores))
        if not 1e-9 < in_hand < 1.0 - 1e-9:
            continue
        other = mean(norm.cdf(scores - error), shift=gamma)
        assert other >= norm.cdf(quantile(in_hand) - math.hypot(error, gamma)) - 1e-9
