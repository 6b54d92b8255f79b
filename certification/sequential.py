"""Tests of a probability that may be looked at, and stopped, at any time (docs/guarantees.md, B.5).

For votes that are successes with probability ``p``, independently, the mixture of likelihood ratios

    M = integral over p > p0 of (p / p0)^k ((1 - p) / (1 - p0))^(n-k) dBeta(a, b)(p | p > p0)

after ``k`` successes in ``n`` is a non-negative martingale of mean 1 if ``p = p0``, and a supermartingale if
``p < p0``. By Ville's inequality it ever reaches ``1 / alpha`` with probability at most ``alpha``: one may look
after every vote, and stop at the first success, which a fixed-n bound does not allow.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincc, betaln

from .vocabulary import StatisticsError

A, B = 1.0, 0.25
"""The mixture's shape: most of its weight lies near 1, where votes nearly always agree."""
LARGEST_N = 10_000_000
SLACK = 1e-6
"""More than ``log_wealth`` loses to rounding for n up to ``LARGEST_N``."""
LARGEST_ALPHA = 0.75
"""Up to here M falls with p0 wherever it has reached 1 / alpha (B.5); confidence bounds use no larger level."""


def log_wealth(successes: ArrayLike, trials: ArrayLike, p0: ArrayLike) -> NDArray[np.float64]:
    """``ln M`` against ``p <= p0``, rounded down.

    Parameters
    ----------
    successes, trials : array_like of int
        ``0 <= successes <= trials <= 1e7``; broadcast.
    p0 : array_like
        In (0, 1).

    Returns
    -------
    ndarray of float64
        Minus infinity where M is too small for a float64; never NaN.

    Raises
    ------
    StatisticsError
        If a number is out of range.
    """
    k, n, p = (np.asarray(value, dtype=np.float64) for value in (successes, trials, p0))
    if not (np.all(p > 0.0) and np.all(p < 1.0)):
        raise StatisticsError(f"p0 must be in (0, 1), not {p0!r}")
    if not (np.all(k >= 0.0) and np.all(k <= n) and np.all(n <= LARGEST_N)):
        raise StatisticsError(f"counts must be 0 <= successes <= trials <= {LARGEST_N}")
    with np.errstate(divide="ignore"):
        posterior = np.log(betaincc(A + k, B + n - k, p))
    # For a = 1 the prior's weight above p0 is (1 - p0)^b exactly.
    prior = B * np.log1p(-p)
    total = betaln(A + k, B + n - k) - betaln(A, B) + posterior - prior
    total = total - k * np.log(p) - (n - k) * np.log1p(-p) - SLACK
    return np.where(np.isnan(total), -np.inf, total)


def accepts(successes: ArrayLike, trials: ArrayLike, p0: ArrayLike, alpha: float) -> NDArray[np.bool_]:
    """Whether ``p > p0`` is shown at level ``alpha``, looked at whenever and as often as one likes."""
    _check_level(alpha)
    return np.asarray(log_wealth(successes, trials, p0) >= -math.log(alpha))


def rejects(successes: ArrayLike, trials: ArrayLike, p0: ArrayLike, alpha: float) -> NDArray[np.bool_]:
    """Whether ``p < p0`` is shown: the mirrored test, for giving up early."""
    k, n, p = (np.asarray(value, dtype=np.float64) for value in (successes, trials, p0))
    return accepts(n - k, n, 1.0 - p, alpha)


def votes_to_accept(
    successes: ArrayLike, trials: ArrayLike, p0: ArrayLike, alpha: float, most: int = LARGEST_N
) -> NDArray[np.int64]:
    """How many more votes accept if all are successes, 0 if it is accepted already; -1 where ``most`` do not.

    With further successes M only grows, since the mixture lies above p0; so bisection finds the least number.
    ``trials + most`` beyond 1e7 counts as 1e7.
    """
    k, n, p = np.broadcast_arrays(*(np.asarray(value) for value in (successes, trials, p0)))
    high = np.minimum(most, LARGEST_N - n).astype(np.int64)
    possible = accepts(k + high, n + high, p, alpha)
    low = np.full(high.shape, -1, dtype=np.int64)
    while np.any(high - low > 1):
        middle = np.maximum((low + high) // 2, 0)
        passes = accepts(k + middle, n + middle, p, alpha)
        low, high = np.where(passes, low, middle), np.where(passes, middle, high)
    return np.where(possible, high, -1)


@lru_cache(maxsize=4096)
def smallest_accepting_n(p0: float, alpha: float) -> int | None:
    """The fewest votes that can accept, all of them successes; None if 1e7 cannot."""
    if not 0.0 < p0 < 1.0:
        return None
    needed = int(votes_to_accept(0, 0, p0, alpha))
    return None if needed < 0 else needed


def smallest_accepting_counts(trials: NDArray[np.int64], p0: float, alpha: float) -> NDArray[np.int64]:
    """The fewest successes in each number of votes that accept; one more than there are where none do."""
    low, high = np.full(trials.shape, -1, dtype=np.int64), trials + 1
    while np.any(high - low > 1):
        middle = np.maximum((low + high) // 2, 0)
        passes = accepts(middle, trials, p0, alpha)
        low, high = np.where(passes, low, middle), np.where(passes, middle, high)
    return high


def lower_bounds(successes: ArrayLike, trials: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """``inf { p0 : M(p0) < 1 / alpha }``, rounded down; the running maximum over time is a confidence sequence.

    With probability at least ``1 - alpha`` no value that it ever takes exceeds p.

    Parameters
    ----------
    successes, trials : array_like of int
        As for :func:`log_wealth`; broadcast.
    alpha : float
        In (0, 1).
    """
    _check_level(alpha)
    level = min(alpha, LARGEST_ALPHA)
    k, n = np.broadcast_arrays(np.asarray(successes), np.asarray(trials))
    low, high = np.zeros(k.shape), k / np.maximum(n, 1)
    while True:
        middle = 0.5 * (low + high)
        is_open = (low < middle) & (middle < high)
        if not is_open.any():
            return low
        passes = accepts(k, n, np.where(is_open, middle, 0.5), level)
        low, high = np.where(is_open & passes, middle, low), np.where(is_open & ~passes, middle, high)


def lower_bound(successes: int, trials: int, alpha: float) -> float:
    """One value of :func:`lower_bounds`."""
    return float(lower_bounds(successes, trials, alpha))


def _check_level(alpha: float) -> None:
    if not 0.0 < alpha < 1.0:
        raise StatisticsError(f"alpha must be in (0, 1), not {alpha}")
