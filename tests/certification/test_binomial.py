"""Bounds and tests on proportions, against R's published output, exact fractions and mpmath."""

from __future__ import annotations

import math
from fractions import Fraction
from math import comb

import mpmath
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from certification.binomial import (
    binomial_lower_bound,
    binomial_upper_bound,
    predict_p_value,
    smallest_passing_count,
    smallest_sample_size,
)
from certification.vocabulary import StatisticsError

LEVELS = st.floats(1e-6, 0.49)


def tail(successes: int, n: int, p: Fraction) -> Fraction:
    """P(Bin(n, p) >= successes), exactly."""
    return sum((comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(successes, n + 1)), start=Fraction(0))


@st.composite
def counts(draw: st.DrawFn, largest: int = 60) -> tuple[int, int]:
    n = draw(st.integers(1, largest))
    return draw(st.integers(0, n)), n


@pytest.mark.parametrize(
    ("successes", "n", "lower", "upper"),
    [
        (682, 925, 0.7076683, 0.7654066),  # binom.test(682, 925), the example of R's help page
        (5, 10, 0.1870860, 0.8129140),  # binom.test(5, 10)
        (0, 10, 0.0, 0.3084971),  # binom.test(0, 10)
        (10, 10, 0.6915029, 1.0),  # binom.test(10, 10)
    ],
)
def test_bounds_are_those_of_r(successes: int, n: int, lower: float, upper: float) -> None:
    """Oracle: R's binom.test, whose two-sided 95 % interval has the one-sided levels .025."""
    assert binomial_lower_bound(successes, n, 0.025) == pytest.approx(lower, abs=6e-8)
    assert binomial_upper_bound(successes, n, 0.025) == pytest.approx(upper, abs=6e-8)


@given(counts(), LEVELS)
def test_lower_bound_meets_its_defining_inequality_and_is_tight(pair: tuple[int, int], alpha: float) -> None:
    """Oracle: exact fractions."""
    successes, n = pair
    lower = binomial_lower_bound(successes, n, alpha)
    if successes == 0:
        assert lower == 0.0
        return
    assert tail(successes, n, Fraction(lower)) <= Fraction(alpha)
    assert tail(successes, n, Fraction(lower) * (1 + Fraction(3, 10**9))) > Fraction(alpha)


@given(counts(), LEVELS)
def test_upper_bound_meets_its_defining_inequality(pair: tuple[int, int], alpha: float) -> None:
    """Oracle: exact fractions; P(Bin <= k) is the mirrored tail."""
    successes, n = pair
    upper = binomial_upper_bound(successes, n, alpha)
    if successes == n:
        assert upper == 1.0
    else:
        assert tail(n - successes, n, 1 - Fraction(upper)) <= Fraction(alpha)


@pytest.mark.parametrize("n", [1, 7, 23])
@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3])
def test_lower_bound_covers_every_proportion(n: int, alpha: float) -> None:
    """Oracle: the error probability summed over all outcomes, for proportions on and beside every bound."""
    bounds = [binomial_lower_bound(k, n, alpha) for k in range(n + 1)]
    places = [Fraction(b) for b in bounds] + [Fraction(b) * (1 - Fraction(1, 10**8)) for b in bounds]
    for p in places:
        wrong = [k for k, bound in enumerate(bounds) if Fraction(bound) > p]
        assert sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in wrong) <= Fraction(alpha)


def mpmath_tail(successes: int, n: int, p: mpmath.mpf) -> mpmath.mpf:
    """P(Bin(n, p) >= successes) for p below successes / n, where the terms fall: summed until they vanish."""
    term = mpmath.binomial(n, successes) * p**successes * (1 - p) ** (n - successes)
    total = mpmath.mpf(0)
    for k in range(successes, n + 1):
        total += term
        if term < total * mpmath.mpf("1e-30"):
            break
        term *= p / (1 - p) * (n - k) / (k + 1)
    return total


@pytest.mark.parametrize(("successes", "n"), [(99_000, 100_000), (999_999, 1_000_000), (500, 1_000_000)])
def test_lower_bound_holds_for_many_draws(successes: int, n: int) -> None:
    """Oracle: mpmath, 40 digits."""
    alpha = 0.001
    lower = binomial_lower_bound(successes, n, alpha)
    with mpmath.workdps(40):
        assert mpmath_tail(successes, n, mpmath.mpf(lower)) <= alpha
        assert mpmath_tail(successes, n, mpmath.mpf(lower) * (1 + mpmath.mpf("3e-9"))) > alpha


def test_lower_bound_stays_valid_beyond_one_half() -> None:
    assert binomial_lower_bound(3, 10, 0.9) <= binomial_lower_bound(3, 10, 0.5)


@given(st.integers(1, 50), st.fractions(0, 1, max_denominator=1000), LEVELS)
@example(n=10, p0=Fraction(1, 2), alpha=1 / 1024)
def test_smallest_passing_count_is_the_least_that_keeps_the_level(n: int, p0: Fraction, alpha: float) -> None:
    """Oracle: exact fractions; at a tie the count may be one higher, never lower."""
    p = Fraction(float(p0))
    found = smallest_passing_count(n, float(p0), alpha)
    if found is None:
        assert tail(n, n, p) > Fraction(alpha) * (1 - Fraction(2, 10**9))
        return
    assert tail(found, n, p) <= Fraction(alpha)
    assert found > 0
    assert tail(found - 1, n, p) > Fraction(alpha) * (1 - Fraction(2, 10**9))


@pytest.mark.parametrize(("ratio", "size"), [(1.0, 36), (1.83, 182), (2.4, 755), (3.08, 6002)])
def test_smallest_sample_size_is_that_of_the_documents(ratio: float, size: int) -> None:
    """Oracle: ln(alpha) / ln(Phi(E / sigma_delta)) with mpmath; the sizes of docs/guarantees.md B.5."""
    with mpmath.workdps(40):
        p0 = mpmath.ncdf(mpmath.mpf(ratio))
        exact = mpmath.log(mpmath.mpf("0.002")) / mpmath.log(p0)
    assert smallest_sample_size(float(p0), 0.002) == math.ceil(exact) == size


@given(st.floats(0.0, 0.9999), LEVELS)
def test_smallest_sample_size_is_least(p0: float, alpha: float) -> None:
    """Oracle: exact powers. The number that would do does, and one less does not."""
    size = smallest_sample_size(p0, alpha)
    assert size is not None
    assert smallest_passing_count(size, p0, alpha) == size
    assert size == 1 or smallest_passing_count(size - 1, p0, alpha) is None
    assert mpmath.mpf(p0) ** size <= mpmath.mpf(alpha)


def test_smallest_sample_size_is_none_where_no_practical_number_would_do() -> None:
    assert smallest_sample_size(1.0, 0.01) is None
    assert smallest_sample_size(1.0 - 1e-12, 0.01) is None


@given(st.integers(0, 40), st.integers(0, 40))
def test_predict_p_value_is_the_exact_two_sided_one(top: int, runner_up: int) -> None:
    """Oracle: exact fractions; the binomial with p = 1/2 is symmetric."""
    n = top + runner_up
    if n == 0:
        with pytest.raises(StatisticsError):
            predict_p_value(top, runner_up)
        return
    exact = min(Fraction(1), 2 * tail(max(top, runner_up), n, Fraction(1, 2)))
    value = Fraction(predict_p_value(top, runner_up))
    assert exact <= value <= exact * (1 + Fraction(2, 10**9))


@pytest.mark.parametrize(
    "call",
    [
        lambda: binomial_lower_bound(-1, 10, 0.1),
        lambda: binomial_lower_bound(11, 10, 0.1),
        lambda: binomial_lower_bound(0, 0, 0.1),
        lambda: binomial_lower_bound(5.0, 10, 0.1),  # type: ignore[arg-type]
        lambda: binomial_lower_bound(True, 10, 0.1),
        lambda: binomial_lower_bound(5, 10, 0.0),
        lambda: binomial_lower_bound(5, 10, 1.0),
        lambda: binomial_lower_bound(5, 10, math.nan),
        lambda: binomial_upper_bound(11, 10, 0.1),
        lambda: binomial_upper_bound(5, 10, math.nan),
        lambda: smallest_passing_count(10, math.nan, 0.1),
        lambda: smallest_passing_count(10, -0.1, 0.1),
        lambda: smallest_passing_count(0, 0.5, 0.1),
        lambda: smallest_sample_size(math.nan, 0.1),
        lambda: smallest_sample_size(1.5, 0.1),
        lambda: smallest_sample_size(0.5, math.nan),
        lambda: predict_p_value(-1, 3),
    ],
)
def test_impossible_arguments_are_errors(call: object) -> None:
    with pytest.raises(StatisticsError):
        call()  # type: ignore[operator]


def test_numpy_integers_are_counts() -> None:
    assert binomial_lower_bound(int(np.int64(5)), 10, 0.1) == binomial_lower_bound(
        np.int64(5),  # type: ignore[arg-type]
        np.int64(10),  # type: ignore[arg-type]
        0.1,
    )
