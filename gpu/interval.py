"""Outward-rounded interval arithmetic on float64, for the CPU and for CUDA.

An interval is a pair ``lo, hi`` of finite float64 numbers. Every operation returns an interval that
contains the exact result for every choice of exact operands inside the operands' intervals.

Rounding. ``round_down(v)`` is at or below the largest float64 smaller than ``v``, ``round_up`` its mirror
(Rump, Zimmermann, Boldo, Melquiond 2009, "Computing predecessor and successor in rounding to nearest",
BIT 49). Three properties matter here: it needs no branch, so loops vectorise; it works on CUDA;
and a compiler that contracts ``v - (PHI * |v| + ETA)`` into fused operations only makes it more exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .targets import scalar

PHI = 2.0**-53 * (1.0 + 2.0**-51)
ETA = 2.0**-1074
ANGLE_SLACK = 2.0**-49
"""Bounds the absolute error of sin and cos of a reduced angle: argument and library, 4 ulp each."""


@scalar
def round_down(value):
    """A float64 at or below the predecessor of ``value`` (finite)."""
    return value - (PHI * abs(value) + ETA)


@scalar
def round_up(value):
    """A float64 at or above the successor of ``value`` (finite)."""
    return value + (PHI * abs(value) + ETA)


@scalar
def interval_mul(a_lo, a_hi, b_lo, b_hi):
    """Enclose {a * b : a in [a_lo, a_hi], b in [b_lo, b_hi]}.

    Each product is correctly rounded, so one step outward covers the exact value.
    """
    p, q, r, s = a_lo * b_lo, a_lo * b_hi, a_hi * b_lo, a_hi * b_hi
    return round_down(min(min(p, q), min(r, s))), round_up(max(max(p, q), max(r, s)))


@scalar
def interval_add(a_lo, a_hi, b_lo, b_hi):
    """Enclose {a + b}."""
    return round_down(a_lo + b_lo), round_up(a_hi + b_hi)


@scalar
def interval_sub(a_lo, a_hi, b_lo, b_hi):
    """Enclose {a - b}."""
    return round_down(a_lo - b_hi), round_up(a_hi - b_lo)


def cos_sin_degrees(angle: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Cosine and sine of angles in degrees, exact at multiples of 90 degrees.

    The reduction modulo 90 degrees is exact in float64, so large angles lose nothing.

    Parameters
    ----------
    angle : ndarray of float64
        Finite angles, degrees, any size.

    Returns
    -------
    cos, sin : ndarray of float64
        Within ``ANGLE_SLACK`` of the exact values.
    """
    turn = np.fmod(np.asarray(angle, dtype=np.float64), 360.0)
    quarter = np.rint(turn / 90.0)
    rest = np.deg2rad(turn - 90.0 * quarter)
    c, s = np.cos(rest), np.sin(rest)
    quadrant = quarter.astype(np.int64) % 4
    cos = np.choose(quadrant, [c, -s, -c, s])
    sin = np.choose(quadrant, [s, c, -s, -c])
    return cos + 0.0, sin + 0.0


def cos_sin_interval(
    lo: NDArray[np.float64], hi: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Enclose cosine and sine over intervals of angles, extrema inside the interval included.

    Parameters
    ----------
    lo, hi : ndarray of float64
        Ends in degrees, ``lo <= hi``; intervals may cross any multiple of 90 or 180 degrees.

    Returns
    -------
    cos_lo, cos_hi, sin_lo, sin_hi : ndarray of float64
        Ends within [-1, 1].
    """
    lo, hi = np.asarray(lo, dtype=np.float64), np.asarray(hi, dtype=np.float64)
    (c0, s0), (c1, s1) = cos_sin_degrees(lo), cos_sin_degrees(hi)

    def holds(phase: float) -> NDArray[np.bool_]:
        # A multiple of 360 degrees plus phase lies in [lo, hi].
        return np.ceil((lo - phase) / 360.0) * 360.0 + phase <= hi

    def enclose(
        a: NDArray[np.float64], b: NDArray[np.float64], peak: float, trough: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        low = np.where(holds(trough), -1.0, np.minimum(a, b) - ANGLE_SLACK)
        high = np.where(holds(peak), 1.0, np.maximum(a, b) + ANGLE_SLACK)
        return np.maximum(low, -1.0), np.minimum(high, 1.0)

    cos_lo, cos_hi = enclose(c0, c1, 0.0, 180.0)
    sin_lo, sin_hi = enclose(s0, s1, 90.0, 270.0)
    return cos_lo, cos_hi, sin_lo, sin_hi
