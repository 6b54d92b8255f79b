"""The test martingale: against mpmath, under the null however often one looks, and at its extremes."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certification.sequential import (
    LARGEST_N,
    accepts,
    log_wealth,
    lower_bound,
    lower_bounds,
    rejects,
    smallest_accepting_counts,
    smallest_accepting_n,
    votes_to_accept,
)
from certification.vocabulary import StatisticsError


def exact(k, n, p0):
    """ln M by the definition, with 60 digits."""
    with mpmath.workdps(60):
        a, b, p = mpmath.mpf(1), mpmath.mpf(1) / 4, mpmath.mpf(p0)
        ratio = mpmath.betainc(a + k, b + n - k, p, 1) / mpmath.betainc(a, b, p, 1)
        return float(mpmath.log(ratio) - k * mpmath.log(p) - (n - k) * mpmath.log(1 - p))


@pytest.mark.parametrize(
    ("k", "n", "p0"),
    [
        (0, 0, 0.5), (1, 1, 0.5), (0, 1, 0.5), (36, 36, 0.84), (900, 1000, 0.5), (500, 1000, 0.5), (3, 10, 1e-6),
        (10_000_000, 10_000_000, 1.0 - 1e-9), (9_999_000, 10_000_000, 0.99989), (40, 10_000_000, 1e-6),
    ],
)  # fmt: skip
def test_wealth_is_the_integral_rounded_down(k, n, p0):
    found = float(log_wealth(k, n, p0))
    assert exact(k, n, p0) - 3e-6 <= found <= exact(k, n, p0)


@given(p0=st.floats(1e-6, 1.0 - 1e-9), n=st.integers(0, LARGEST_N), share=st.floats(0.0, 1.0))
def test_wealth_is_never_nan_and_grows_with_every_success(p0, n, share):
    k = round(share * n)
    found = float(log_wealth(k, n, p0))
    assert not math.isnan(found)
    if k < n:
        assert float(log_wealth(k + 1, n, p0)) >= found


def test_wealth_is_a_martingale():
    """Its mean over the next vote, at p = p0, is what it is."""
    for k, n, p0 in ((0, 0, 0.3), (5, 7, 0.6), (50, 60, 0.9), (3, 40, 0.2)):
        after = p0 * math.exp(log_wealth(k + 1, n + 1, p0)) + (1 - p0) * math.exp(log_wealth(k, n + 1, p0))
        assert after == pytest.approx(math.exp(log_wealth(k, n, p0)), rel=1e-5)


@pytest.mark.parametrize("p0", [0.5, 0.84, 0.99])
def test_looking_after_every_vote_errs_no_more_often_than_alpha(p0):
    """20,000 null runs of 400 votes each, looked at 400 times; .05 + 4 standard deviations of the simulation."""
    generator, alpha, runs = np.random.default_rng(1), 0.05, 20_000
    n = np.arange(1, 401)
    table = smallest_accepting_counts(n, p0, alpha)
    wrong = 0
    for _ in range(10):
        k = (generator.random((runs // 10, 400)) < p0).cumsum(axis=1)
        wrong += int((k >= table).any(axis=1).sum())
    assert 0 < wrong / runs <= alpha + 4.0 * math.sqrt(alpha * (1 - alpha) / runs)


def test_a_fixed_bound_looked_at_again_and_again_would_err_more_often():
    """The simulation above is able to catch it."""
    generator, alpha = np.random.default_rng(2), 0.05
    k = (generator.random((4000, 400)) < 0.5).cumsum(axis=1)
    n = np.arange(1, 401)
    peeking = (k - 0.5 * n > 1.645 * np.sqrt(0.25 * n)).any(axis=1).mean()
    assert peeking > 4 * alpha


@pytest.mark.parametrize(("ratio", "size"), [(1.0, 36), (1.83, 182), (2.4, 755), (3.08, 6002)])
def test_agreement_costs_little_more_than_the_least_that_is_possible(ratio, size):
    """docs/guarantees.md B.5: 6 to 12 % above ln(alpha) / ln(p0)."""
    p0 = 0.5 * math.erfc(-ratio / math.sqrt(2.0))
    found = smallest_accepting_n(p0, 0.002)
    assert found is not None
    assert 1.0 < found / size <= 1.12
    assert accepts(found, found, p0, 0.002)
    assert not accepts(found - 1, found - 1, p0, 0.002)
    assert smallest_accepting_counts(np.array([found, found - 1]), p0, 0.002).tolist() == [found, found]


def test_counts_accept_from_the_smallest_on():
    (least,) = smallest_accepting_counts(np.array([1000]), 0.8, 0.01)
    assert accepts(least, 1000, 0.8, 0.01)
    assert not accepts(least - 1, 1000, 0.8, 0.01)


def test_no_number_of_votes_accepts_certainty():
    assert smallest_accepting_n(1.0 - 1e-12, 0.002) is None


@given(n=st.integers(1, 10_000), share=st.floats(0.0, 1.0), alpha=st.floats(1e-6, 0.2))
def test_a_lower_bound_is_one_that_is_just_not_rejected(n, share, alpha):
    k = round(share * n)
    bound = lower_bound(k, n, alpha)
    assert 0.0 <= bound <= k / n
    if bound > 0.0:
        assert accepts(k, n, bound, alpha)
    if bound < k / n * (1 - 1e-9):
        assert not accepts(k, n, min(bound * (1.0 + 1e-9) + 1e-300, 1.0 - 1e-16), alpha)


@pytest.mark.parametrize(
    "arguments",
    [(-1, 3, 0.5), (4, 3, 0.5), (1, 10**8, 0.5), (1, 2, 0.0), (1, 2, 1.0), (1, 2, math.nan), (math.nan, 3, 0.5)],
)
def test_senseless_numbers_are_refused(arguments):
    with pytest.raises(StatisticsError):
        log_wealth(*arguments)
    with pytest.raises(StatisticsError):
        accepts(1, 2, 0.5, 0.0)


@given(n=st.integers(0, 2000), share=st.floats(0.0, 1.0), p0=st.floats(0.3, 0.999))
def test_votes_to_accept_are_the_least_that_do(n, share, p0):
    k = round(share * n)
    more = int(votes_to_accept(k, n, p0, 0.01, 5000))
    if more < 0:
        assert not accepts(k + 5000, n + 5000, p0, 0.01)
    else:
        assert accepts(k + more, n + more, p0, 0.01)
        assert more == 0 or not accepts(k + more - 1, n + more - 1, p0, 0.01)


def test_votes_to_accept_work_on_arrays():
    found = votes_to_accept(np.array([0, 10, 0]), np.array([0, 10, 50]), np.array([0.5, 0.5, 0.9]), 0.01, 20)
    assert found.tolist() == [smallest_accepting_n(0.5, 0.01), 0, -1]


def test_rejecting_mirrors_accepting():
    assert rejects(20, 100, 0.5, 0.01)
    assert not rejects(45, 100, 0.5, 0.01)
    assert not rejects(0, 0, 0.5, 0.01)
    assert rejects(np.array([0, 30]), np.array([30, 30]), 0.9, 0.01).tolist() == [True, False]


@given(n=st.integers(1, 3000), share=st.floats(0.0, 1.0), alpha=st.floats(1e-6, 0.75))
def test_the_values_that_are_rejected_are_an_interval(n, share, alpha):
    """So the lower bound, found by bisection, lies below every value that is not rejected (B.5)."""
    k = round(share * n)
    grid = np.linspace(1e-6, 1.0 - 1e-6, 400)
    rejected = accepts(k, n, grid[grid < k / n], alpha)
    assert not np.any(rejected[1:] & ~rejected[:-1])


def test_the_running_maximum_of_lower_bounds_is_a_confidence_sequence():
    """500 runs of 300 votes at p = .8: the best of all looks exceeds p in at most alpha of them."""
    generator, alpha, runs, p = np.random.default_rng(3), 0.05, 500, 0.8
    k = (generator.random((runs, 300)) < p).cumsum(axis=1)
    exceeded = accepts(k, np.arange(1, 301), p, alpha).any(axis=1)
    some = np.concatenate([np.flatnonzero(exceeded)[:3], np.flatnonzero(~exceeded)[:3]])
    best = lower_bounds(k[some], np.arange(1, 301), alpha).max(axis=1)
    assert (best > p).tolist() == exceeded[some].tolist()
    assert 0 < exceeded.mean() <= alpha + 4.0 * math.sqrt(alpha * (1 - alpha) / runs)
