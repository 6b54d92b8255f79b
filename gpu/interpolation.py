"""Bilinear interpolation at a point, and its exact range over a box of coordinates.

Coordinates here are pixels from the image centre (``geometry``'s Convention block); images are stacks
``[S, H, W, C]`` and zero outside (Fischer et al. 2020, Eq. 11, with a grid spacing of 1 instead of 2).
"""

from __future__ import annotations

import math

from .interval import round_down, round_up
from .targets import scalar


@scalar
def pixel(images, s, i, j, c):
    """Value of pixel ``[i, j, c]`` of image ``s``; zero outside the image."""
    if i < 0 or j < 0 or i >= images.shape[1] or j >= images.shape[2]:
        return 0.0
    return float(images[s, i, j, c])


@scalar
def bilinear(images, s, x, y, c):
    """Interpolate image ``s`` at ``(x, y)``; plain float64, exact at pixel centres."""
    row = y + 0.5 * (images.shape[1] - 1)
    column = x + 0.5 * (images.shape[2] - 1)
    if row <= -1.0 or column <= -1.0 or row >= images.shape[1] or column >= images.shape[2]:
        return 0.0
    i, j = int(math.floor(row)), int(math.floor(column))  # noqa: RUF046 (on CUDA floor is a float)
    a, b = row - i, column - j
    top = pixel(images, s, i, j, c) * (1.0 - b) + pixel(images, s, i, j + 1, c) * b
    bottom = pixel(images, s, i + 1, j, c) * (1.0 - b) + pixel(images, s, i + 1, j + 1, c) * b
    return top * (1.0 - a) + bottom * a


@scalar
def mix_down(p, q, a_lo, a_hi):
    """Lower bound of ``p (1 - a) + q a`` for ``p, q >= 0`` at the exact ``a`` in ``[a_lo, a_hi]``."""
    return round_down(
        round_down(p * max(round_down(1.0 - a_hi), 0.0)) + round_down(q * max(a_lo, 0.0))
    )


@scalar
def mix_up(p, q, a_lo, a_hi):
    """Upper bound of ``p (1 - a) + q a`` for ``p, q >= 0`` at the exact ``a`` in ``[a_lo, a_hi]``."""
    return round_up(round_up(p * round_up(1.0 - max(a_lo, 0.0))) + round_up(q * a_hi))


@scalar
def offset_in_region(coordinate, region):
    """Enclose ``coordinate - region``, cut at [0, 1]."""
    difference = coordinate - region
    return min(max(round_down(difference), 0.0), 1.0), min(max(round_up(difference), 0.0), 1.0)


@scalar
def range_over_box(lower, upper, s, x_lo, x_hi, y_lo, y_hi, c):
    """Range of the interpolation over a box of coordinates, for every image between two images.

    In one interpolation region the value is bilinear in the coordinates and increases in each pixel, so
    its extremes over the intersection of the box with the region lie at corners of the intersection.

    Parameters
    ----------
    lower, upper : ndarray [S, H, W, C]
        Interval images, non-negative.
    s : int
        Which image of the stack.
    x_lo, x_hi, y_lo, y_hi : float
        Box of coordinates, pixels from the centre.
    c : int
        Channel.

    Returns
    -------
    lo, hi : float
        ``0 <= lo``.
    """
    height, width = lower.shape[1], lower.shape[2]
    row_lo = round_down(y_lo + 0.5 * (height - 1))
    row_hi = round_up(y_hi + 0.5 * (height - 1))
    column_lo = round_down(x_lo + 0.5 * (width - 1))
    column_hi = round_up(x_hi + 0.5 * (width - 1))
    low, high = math.inf, -math.inf
    if row_lo < -1.0 or column_lo < -1.0 or row_hi > height or column_hi > width:
        # Part of the box lies where the image is zero.
        low, high = 0.0, 0.0
    first_i, last_i = int(max(math.floor(row_lo), -1.0)), int(min(math.floor(row_hi), height - 1.0))
    first_j, last_j = int(max(math.floor(column_lo), -1.0)), int(min(math.floor(column_hi), width - 1.0))
    for i in range(first_i, last_i + 1):
        a0_lo, a0_hi = offset_in_region(row_lo, float(i))
        a1_lo, a1_hi = offset_in_region(row_hi, float(i))
        for j in range(first_j, last_j + 1):
            u00, u01 = pixel(upper, s, i, j, c), pixel(upper, s, i, j + 1, c)
            u10, u11 = pixel(upper, s, i + 1, j, c), pixel(upper, s, i + 1, j + 1, c)
            if u00 == 0.0 and u01 == 0.0 and u10 == 0.0 and u11 == 0.0:
                low, high = 0.0, max(high, 0.0)
                continue
            l00, l01 = pixel(lower, s, i, j, c), pixel(lower, s, i, j + 1, c)
            l10, l11 = pixel(lower, s, i + 1, j, c), pixel(lower, s, i + 1, j + 1, c)
            b0_lo, b0_hi = offset_in_region(column_lo, float(j))
            b1_lo, b1_hi = offset_in_region(column_hi, float(j))
            # Left and right edge of the intersection, then its two ends on each edge.
            t0, b0 = mix_up(u00, u01, b0_lo, b0_hi), mix_up(u10, u11, b0_lo, b0_hi)
            t1, b1 = mix_up(u00, u01, b1_lo, b1_hi), mix_up(u10, u11, b1_lo, b1_hi)
            high = max(high, max(mix_up(t0, b0, a0_lo, a0_hi), mix_up(t0, b0, a1_lo, a1_hi)))
            high = max(high, max(mix_up(t1, b1, a0_lo, a0_hi), mix_up(t1, b1, a1_lo, a1_hi)))
            t0, b0 = mix_down(l00, l01, b0_lo, b0_hi), mix_down(l10, l11, b0_lo, b0_hi)
            t1, b1 = mix_down(l00, l01, b1_lo, b1_hi), mix_down(l10, l11, b1_lo, b1_hi)
            low = min(low, min(mix_down(t0, b0, a0_lo, a0_hi), mix_down(t0, b0, a1_lo, a1_hi)))
            low = min(low, min(mix_down(t1, b1, a0_lo, a0_hi), mix_down(t1, b1, a1_lo, a1_hi)))
    return max(low, 0.0), high
