"""Radii against mpmath at 50 digits: never above the exact formula, and hardly below."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.special import ndtri

from certification.binomial import binomial_lower_bound, smallest_sample_size
from certification.radius import (
    SAFETY,
    inner_threshold,
    radius_heuristic,
    radius_l2,
    radius_received,
    radius_reference,
    required_p_lower,
)
from certification.vocabulary import StatisticsError

PROBABILITIES = st.one_of(st.floats(0.0, 1.0), st.floats(0.0, 16.0).map(lambda digits: 1.0 - 10.0**-digits))
LOSSES = st.floats(0.0, 0.2)
SIGMAS = st.floats(1e-3, 1e3)


def quantile(p: mpmath.mpf) -> mpmath.mpf:
    """Phi^-1(p) at 50 digits."""
    if p <= 0:
        return mpmath.ninf
    if p >= 1:
        return mpmath.inf
    with mpmath.workdps(50):
        return mpmath.sqrt(2) * mpmath.erfinv(2 * p - 1)


def encloses(radius: float | None, exact: Callable[[mpmath.mpf], mpmath.mpf], p: float, sigma: float) -> bool:
    """Below the exact radius at p, and not below the one at ``p - 3 SAFETY`` by more than 1e-9 sigma."""
    with mpmath.workdps(50):
        least, most = exact(mpmath.mpf(p) - 3 * mpmath.mpf(SAFETY)) - 1e-9 * sigma, exact(mpmath.mpf(p))
    if radius is None:
        return bool(least <= 0)
    return bool(least <= radius < most)


@given(PROBABILITIES, LOSSES, LOSSES, SIGMAS)
def test_radius_received_stays_below_the_exact_one(p: float, a: float, rho: float, sigma: float) -> None:
    def exact(p: mpmath.mpf) -> mpmath.mpf:
        return sigma * quantile(p - mpmath.mpf(a) - mpmath.mpf(rho))

    assert encloses(radius_received(p, a, rho, sigma), exact, p, sigma)


@given(PROBABILITIES, LOSSES, LOSSES, SIGMAS)
def test_radius_reference_stays_below_the_exact_one(p: float, a: float, rho: float, sigma: float) -> None:
    def exact(p: mpmath.mpf) -> mpmath.mpf:
        return sigma * (quantile(p - mpmath.mpf(a)) - quantile(mpmath.mpf("0.5") + mpmath.mpf(rho)))

    assert encloses(radius_reference(p, a, rho, sigma), exact, p, sigma)


@given(PROBABILITIES, SIGMAS, st.floats(0.1, 10.0))
def test_radius_l2_stays_below_the_exact_one(p: float, sigma: float, norm: float) -> None:
    def exact(p: mpmath.mpf) -> mpmath.mpf:
        return mpmath.mpf(sigma) * quantile(p) / mpmath.mpf(norm)

    assert encloses(radius_l2(p, sigma, norm), exact, p, sigma / norm)


@given(PROBABILITIES, SIGMAS, st.floats(0.1, 10.0), st.floats(0.0, 1e-3), st.floats(0.0, 2.0))
@example(p=1.0, sigma=1.0, norm=1.0, variation=1e-09, loss=0.0)
def test_radius_l2_on_a_lattice_stays_below_the_exact_one(
    p: float, sigma: float, norm: float, variation: float, loss: float
) -> None:
    """Also where the loss, here in units of sigma, takes nearly all of the radius."""

    def exact(p: mpmath.mpf) -> mpmath.mpf:
        inside = quantile(p - mpmath.mpf(variation))
        return (mpmath.mpf(sigma) * inside - mpmath.mpf(loss * sigma)) / mpmath.mpf(norm)

    found = radius_l2(p, sigma, norm, lattice_loss=loss * sigma, total_variation=variation)
    assert encloses(found, exact, p, sigma / norm)
    assert (found or 0.0) <= (radius_l2(p, sigma, norm) or 0.0)


def test_a_loss_as_large_as_the_radius_leaves_nothing() -> None:
    """Oracle: Phi^-1 at 50 digits, rounded down; whatever is left would be rounding."""
    for p in np.random.default_rng(0).uniform(0.5, 1.0, 2000):
        with mpmath.workdps(50):
            loss = float(quantile(mpmath.mpf(p)))
        assert radius_l2(p, 1.0, 1.0, lattice_loss=loss) is None
    assert radius_l2(0.75, 1.0, 1.0, total_variation=0.25) is None
    assert radius_l2(1.0, 1.0, 1.0, total_variation=1.0) is None


@given(st.floats(0.0, 30.0), st.floats(1e-3, 10.0))
def test_inner_threshold_is_strictly_above_phi(error_bound: float, sigma_delta: float) -> None:
    """The strictness that B.3 asks for, unless the threshold is 1, which nothing passes."""
    tau = inner_threshold(error_bound, sigma_delta)
    with mpmath.workdps(50):
        exact = mpmath.ncdf(mpmath.mpf(error_bound) / mpmath.mpf(sigma_delta))
    assert tau == 1.0 or tau > exact
    assert tau <= exact * (1 + mpmath.mpf("1e-10"))


def test_losses_cost_what_the_documents_say() -> None:
    """docs/guarantees.md B.1: at p = .98, rho = .06 the radii are 1.90 and 1.41 sigma_gamma."""
    assert radius_reference(0.98, 0.0, 0.06, 1.0) == pytest.approx(1.90, abs=0.005)
    assert radius_received(0.98, 0.0, 0.06, 1.0) == pytest.approx(1.405, abs=0.005)


@pytest.mark.parametrize(("n", "radius"), [(100, 1.5), (1_000, 2.46), (10_000, 3.20), (100_000, 3.81)])
def test_radius_of_unanimous_votes_is_that_of_cohen(n: int, radius: float) -> None:
    """Cohen et al. 2019, section 3.2.2 and figure 5 (right): R = sigma Phi^-1(alpha^(1/n)), alpha = .001."""
    with mpmath.workdps(50):
        exact = quantile(mpmath.root(mpmath.mpf("0.001"), n))
    found = radius_l2(binomial_lower_bound(n, n, 0.001), 1.0, 1.0)
    assert found is not None
    assert exact - 1e-4 < found < exact
    assert found == pytest.approx(radius, abs=0.01)


def test_four_sigma_needs_the_order_of_samples_cohen_says() -> None:
    """Section 3.2.2: 4 sigma with 99.9 % confidence "would require about 10^5 samples"."""
    needed = required_p_lower(lambda p: radius_l2(p, 1.0, 1.0), 4.0)
    assert needed is not None
    size = smallest_sample_size(needed, 0.001)
    assert size is not None
    assert 1e5 < size < 2.5e5


@given(PROBABILITIES, PROBABILITIES, LOSSES, LOSSES)
def test_radii_grow_with_p_lower_and_shrink_with_losses(p: float, q: float, a: float, b: float) -> None:
    low, high = sorted((p, q))
    less, more = sorted((a, b))
    formulas: list[Callable[..., float | None]] = [radius_received, radius_reference]
    for formula in formulas:
        assert (formula(low, a, b, 1.0) or 0.0) <= (formula(high, a, b, 1.0) or 0.0)
        assert (formula(p, more, a, 1.0) or 0.0) <= (formula(p, less, a, 1.0) or 0.0)
        assert (formula(p, a, more, 1.0) or 0.0) <= (formula(p, a, less, 1.0) or 0.0)
    assert (radius_l2(p, 1.0, 2.0) or 0.0) <= (radius_l2(p, 1.0, 1.0) or 0.0)


@given(st.one_of(st.just(math.nan), st.floats(max_value=0.5), st.floats(min_value=1.0, exclude_min=True)))
def test_nothing_is_certified_without_a_probability_above_one_half(p: float) -> None:
    assert radius_received(p, 0.0, 0.0, 1.0) is None
    assert radius_reference(p, 0.0, 0.0, 1.0) is None
    assert radius_heuristic(p, 1.0) is None
    assert radius_l2(p, 1.0, 1.0) is None


def test_rounding_never_makes_a_radius_of_nothing() -> None:
    """Oracle: exact fractions. Where p - a - rho is 1/2 or less, plain floats often find a tiny radius."""
    generator = np.random.default_rng(0)
    careless = 0
    for a, rho in generator.uniform(0.0, 0.2, (2000, 2)):
        p = 0.5 + a + rho
        if Fraction(p) - Fraction(a) - Fraction(rho) <= Fraction(1, 2):
            careless += ndtri(p - a) + ndtri(0.5 - rho) > 0.0
            assert radius_received(p, a, rho, 1.0) is None
            assert radius_reference(p, a, rho, 1.0) is None
    assert careless > 0


def test_reference_radius_needs_an_error_probability_below_one_half() -> None:
    assert radius_reference(1.0, 0.0, 0.5, 1.0) is None
    assert radius_reference(1.0, 0.0, 0.5 - 1e-13, 1.0) is None
    assert radius_reference(1.0, 0.0, 1.0, 1.0) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_wrong_losses_and_noises_are_errors(bad: float) -> None:
    """A negative loss would lengthen the radius, so a wrong sign must not pass silently."""
    formulas: list[Callable[..., float | None]] = [radius_received, radius_reference]
    for formula in formulas:
        for arguments in ((0.9, bad, 0.0, 1.0), (0.9, 0.0, bad, 1.0), (0.9, 0.0, 0.0, bad)):
            with pytest.raises(StatisticsError):
                formula(*arguments)
    calls: list[Callable[[], float | None]] = [
        lambda: radius_l2(0.9, bad, 1.0),
        lambda: radius_l2(0.9, 1.0, bad),
        lambda: radius_l2(0.9, 1.0, 1.0, lattice_loss=bad),
        lambda: radius_l2(0.9, 1.0, 1.0, total_variation=bad),
        lambda: radius_heuristic(0.9, bad),
        lambda: inner_threshold(0.1, bad),
        lambda: required_p_lower(lambda p: p, bad),
    ]
    for call in calls:
        with pytest.raises(StatisticsError):
            call()


def test_inner_threshold_of_an_unbounded_error_cannot_be_passed() -> None:
    assert inner_threshold(math.inf, 0.3) == 1.0
    assert inner_threshold(1e308, 1e-308) == 1.0
    for bad in (math.nan, -1e-9):
        with pytest.raises(StatisticsError):
            inner_threshold(bad, 0.3)


@given(st.floats(0.01, 5.0), st.floats(0.0, 0.002), st.floats(0.0, 1e-9))
def test_required_p_lower_is_the_least_that_reaches_the_radius(wanted: float, alpha_delta: float, rho: float) -> None:
    def radius_of(p: float) -> float | None:
        return radius_received(p, alpha_delta, rho, 1.0)

    needed = required_p_lower(radius_of, wanted)
    if needed is None:
        assert (radius_of(1.0) or 0.0) < wanted
        return
    assert (radius_of(needed) or 0.0) >= wanted
    assert (radius_of(needed * (1.0 - 1e-12)) or 0.0) < wanted
