"""Exact bounds and tests on proportions, rounded toward the safe side.

The libraries' answers are taken as guesses and checked against the inequality that defines them, with a
slack that is a thousand times their error; an answer that fails the check is an error, never a bound.
"""

from __future__ import annotations

import math
from numbers import Integral

from scipy.stats import binom, binomtest
from statsmodels.stats.proportion import proportion_confint

from .vocabulary import StatisticsError

SLACK = 1e-9
"""Relative slack. The incomplete beta function behind these calls is accurate to about 1e-12."""
LARGEST_SAMPLE = 10**9
"""Sample sizes beyond this are reported as none at all."""


def _check_level(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise StatisticsError(f"{name} must be in (0, 1), not {value}")


def is_whole(value: object) -> bool:
    """Whether the value is an integer, of Python or numpy, and no boolean."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _check(successes: int, n: int, alpha: float) -> None:
    if not (is_whole(n) and is_whole(successes) and n >= 1 and 0 <= successes <= n):
        raise StatisticsError(f"need integers 0 <= successes <= n and n >= 1, not {successes} of {n}")
    _check_level("alpha", alpha)


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
        ``p_lower`` in [0, 1) with ``P(p_lower <= p) >= 1 - alpha`` for every true proportion ``p``.

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
    # two-sided levels end at 1; a smaller alpha is the safer one
    two_sided = min(2.0 * alpha, 1.0)
    lower = float(proportion_confint(successes, n, alpha=two_sided, method="beta")[0]) * (1.0 - SLACK)
    if not (0.0 <= lower < 1.0 and float(binom.sf(successes - 1, n, lower)) <= alpha):
        raise StatisticsError(f"no lower bound for {successes} of {n} at level {alpha}: got {lower}")
    return lower


def binomial_upper_bound(successes: int, n: int, alpha: float) -> float:
    """One-sided Clopper-Pearson upper confidence bound: the failures' lower bound, mirrored.

    Parameters, errors and source as for :func:`binomial_lower_bound`; the result is in (0, 1].
    """
    _check(successes, n, alpha)
    # the subtraction rounds by at most half a step
    return min(math.nextafter(1.0 - binomial_lower_bound(n - successes, n, alpha), math.inf), 1.0)


def _passes(successes: int, n: int, p0: float, alpha: float) -> bool:
    """Whether ``P(Bin(n, p0) >= successes) <= alpha``, with the slack on the safe side; NaN is no."""
    return float(binom.sf(successes - 1, n, p0)) <= alpha * (1.0 - SLACK)


def smallest_passing_count(n: int, p0: float, alpha: float) -> int | None:
    """The least ``k`` with ``P(Bin(n, p0) >= k) <= alpha``, or None if not even ``n`` of ``n`` passes.

    A test that passes at ``k`` or more successes passes wrongly with probability at most ``alpha`` whenever
    the true proportion is at most ``p0``.

    Parameters
    ----------
    n : int
        Trials, >= 1.
    p0 : float
        Hypothetical proportion in [0, 1].
    alpha : float
        Level in (0, 1).

    Raises
    ------
    StatisticsError
        If an argument is outside its range.
    """
    _check(0, n, alpha)
    if not 0.0 <= p0 <= 1.0:
        raise StatisticsError(f"p0 must be in [0, 1], not {p0}")
    if not _passes(n, n, p0, alpha):
        return None
    fails, passes = 0, n  # P(Bin >= 0) is 1, and the probability falls with k
    while passes - fails > 1:
        middle = (fails + passes) // 2
        fails, passes = (fails, middle) if _passes(middle, n, p0, alpha) else (middle, passes)
    return passes


def smallest_sample_size(p0: float, alpha: float) -> int | None:
    """The least ``n`` for which ``n`` successes of ``n`` reject ``p <= p0`` at level ``alpha``.

    ``ln(alpha) / ln(p0)`` rounded up; also the least ``n`` for which ``n`` of ``n`` have a Clopper-Pearson
    lower bound of at least ``p0``.

    Parameters
    ----------
    p0 : float
        Proportion in [0, 1].
    alpha : float
        Level in (0, 1).

    Returns
    -------
    int or None
        None if no number up to ``LARGEST_SAMPLE`` will do.

    Raises
    ------
    StatisticsError
        If an argument is outside its range.
    """
    _check_level("alpha", alpha)
    if not 0.0 <= p0 <= 1.0:
        raise StatisticsError(f"p0 must be in [0, 1], not {p0}")
    if not _passes(LARGEST_SAMPLE, LARGEST_SAMPLE, p0, alpha):
        return None
    fails, passes = 0, LARGEST_SAMPLE
    while passes - fails > 1:
        middle = (fails + passes) // 2
        fails, passes = (fails, middle) if _passes(middle, middle, p0, alpha) else (middle, passes)
    return passes


def predict_p_value(top: int, runner_up: int) -> float:
    """Two-sided p-value of "the two leading classes are equally likely", rounded up.

    Parameters
    ----------
    top, runner_up : int
        Votes for the two leading classes, not both 0.

    Raises
    ------
    StatisticsError
        If a count is negative or there is no vote.

    References
    ----------
    PREDICT in Cohen et al. (2019), section 3.2.1; Hung and Fithian (2019).
    """
    _check(top, top + runner_up, 0.5)
    p_value = float(binomtest(top, top + runner_up, 0.5).pvalue) * (1.0 + SLACK)
    if not p_value >= 0.0:
        raise StatisticsError(f"no p-value for {top} against {runner_up}")
    return min(p_value, 1.0)
