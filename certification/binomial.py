"""Exact bounds and tests on proportions."""

from __future__ import annotations

import math

from scipy.stats import binom, binomtest
from statsmodels.stats.proportion import proportion_confint

from .vocabulary import StatisticsError

SAFETY = 1e-12
"""Results are moved this far (relative) to the safe side; the libraries are accurate to about 1e-14."""


def _check(successes: int, n: int, alpha: float) -> None:
    if not (isinstance(n, int) and isinstance(successes, int) and n >= 1 and 0 <= successes <= n):
        raise StatisticsError(f"need integers 0 <= successes <= n and n >= 1, not {successes} of {n}")
    _check_level("alpha", alpha)


def _check_level(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise StatisticsError(f"{name} must be in (0, 1), not {value}")


def binomial_lower_bound(successes: int, n: int, alpha: float) -> float:
    """One-sided Clopper-Pearson lower confidence bound on a proportion.

    Parameters
    ----------
    successes, n : int
        Successes among ``n`` independent trials, ``0 <= successes <= n``; ``n`` fixed beforehand.
    alpha : float
        Failure probability in (0, 1).

    Returns
    -------
    float
        ``p_lower`` with ``P(p_lower <= p) >= 1 - alpha`` for every true proportion ``p``.

    Raises
    ------
    StatisticsError
        If an argument is outside its range.

    References
    ----------
    Clopper and Pearson (1934), Biometrika 26(4); LowerConfBound in Cohen et al. (2019), section 3.2.
    """
    _check(successes, n, alpha)
    if successes == 0:
        return 0.0
    if alpha >= 0.5:
        # statsmodels takes the two-sided level, 2 alpha < 1; a smaller alpha is the safer one.
        alpha = 0.5 - SAFETY
    lower = float(proportion_confint(successes, n, alpha=2.0 * alpha, method="beta")[0])
    if not 0.0 <= lower <= 1.0:
        raise StatisticsError(f"no lower bound for {successes} of {n} at {alpha}")
    return lower * (1.0 - SAFETY)


def binomial_upper_bound(successes: int, n: int, alpha: float) -> float:
    """One-sided Clopper-Pearson upper confidence bound: the lower bound of the failures, mirrored."""
    return min(1.0 - binomial_lower_bound(n - successes, n, alpha), 1.0)


def smallest_passing_count(n: int, p0: float, alpha: float) -> int | None:
    """The least ``k`` with ``P(Bin(n, p0) >= k) <= alpha``, or None if not even ``n`` of ``n`` passes.

    A test that passes at ``k`` or more successes passes wrongly with probability at most ``alpha`` whenever
    the true proportion is below ``p0``.
    """
    _check(0, n, alpha)
    if not 0.0 <= p0 <= 1.0:
        raise StatisticsError(f"p0 must be in [0, 1], not {p0}")
    level = alpha * (1.0 - SAFETY)
    k = max(int(binom.isf(level, n, p0)) if 0.0 < p0 < 1.0 else 0, 0)
    while k <= n and not float(binom.sf(k - 1, n, p0)) <= level:
        k += 1
    while 0 < k <= n and float(binom.sf(k - 2, n, p0)) <= level:
        k -= 1
    return k if k <= n else None


def smallest_sample_size(p0: float, alpha: float) -> int | None:
    """The least ``n`` for which ``n`` successes of ``n`` reject ``p < p0`` at level ``alpha``.

    ``ln(alpha) / ln(p0)``, rounded up; None where no finite number would do (``p0 = 1``).
    """
    _check_level("alpha", alpha)
    if not 0.0 <= p0 <= 1.0:
        raise StatisticsError(f"p0 must be in [0, 1], not {p0}")
    if p0 == 0.0:
        return 1
    if p0 == 1.0:
        return None
    n = max(1, math.floor(math.log(alpha) / math.log(p0)) - 1)
    while smallest_passing_count(n, p0, alpha) is None:
        n += 1
    return n


def predict_p_value(top: int, runner_up: int) -> float:
    """Two-sided p-value of "the two leading classes are equally likely" (Cohen et al. 2019, PREDICT)."""
    _check(top, top + runner_up, 0.5)
    return float(binomtest(top, top + runner_up, 0.5).pvalue)
