"""Scalar bodies: chords of an image that turns, and how far it strays from them; see ``total_error``.

*Framed* images have one more pixel of zeros around them, ``[C, H + 2, W + 2]``, so that the four neighbours of every
point of the frame can be read without a look at its edges.
"""

from __future__ import annotations

import math

import numpy as np

from .error_norm import FLOAT32_SLACK, ROUND8_SLACK
from .inverse import TOLERANCE
from .targets import scalar


@scalar
def corners_of(framed, n, i, j):
    """Image n's four neighbours of the points between rows i, i + 1 and columns j, j + 1, all ``>= -1``."""
    u, v, one = np.uint64(i + 1), np.uint64(j + 1), np.uint64(1)
    return framed[n, u, v], framed[n, u, v + one], framed[n, u + one, v], framed[n, u + one, v + one]


@scalar
def mixed(corners, a, b):
    """Bilinear interpolation of four neighbours."""
    top = corners[0] + b * (corners[1] - corners[0])
    bottom = corners[2] + b * (corners[3] - corners[2])
    return top + a * (bottom - top)


@scalar
def framed_value(framed, n, row, column):
    """Bilinear interpolation of image n at a row and a column inside the frame; zero outside."""
    if row <= -1.0 or column <= -1.0 or row >= framed.shape[1] - 2 or column >= framed.shape[2] - 2:
        return 0.0
    i, j = int(math.floor(row)), int(math.floor(column))  # noqa: RUF046 (on CUDA floor is a float)
    return mixed(corners_of(framed, n, i, j), row - i, column - j)


@scalar
def ends_of(p, q):
    """The smaller and the larger of two numbers."""
    return (p, q) if p < q else (q, p)


@scalar
def product_range(a_lo, a_hi, b_lo, b_hi):
    """Range of a product, in plain float64."""
    p_lo, p_hi = ends_of(a_lo * b_lo, a_lo * b_hi)
    q_lo, q_hi = ends_of(a_hi * b_lo, a_hi * b_hi)
    return min(p_lo, q_lo), max(p_hi, q_hi)


@scalar
def mixed_range(corners, a0, a1, b0, b1):
    """Range of the interpolation of four neighbours over ``[a0, a1] x [b0, b1]``."""
    p_lo, p_hi = ends_of(mixed(corners, a0, b0), mixed(corners, a0, b1))
    q_lo, q_hi = ends_of(mixed(corners, a1, b0), mixed(corners, a1, b1))
    return min(p_lo, q_lo), max(p_hi, q_hi)


@scalar
def region_slopes(start, end, inverse_width, a0, a1, b0, b1, x, y, reach_x, reach_y):
    """Range of the slope by gamma, 1/radian, of the chord from ``start`` to ``end`` read inside one region.

    ``start, end`` are four neighbours each, ``[a0, a1] x [b0, b1]`` the offsets that are read. The source point is
    within ``reach`` of ``(x, y)`` and moves against the angle, with velocity ``(y, -x)``. Each derivative is linear in
    each variable, so its extremes are at the ends of all.
    """
    rise = end[0] - start[0], end[1] - start[1], end[2] - start[2], end[3] - start[3]
    low, high = mixed_range(rise, a0, a1, b0, b1)
    left, right = start[2] - start[0], start[3] - start[1]
    p_lo, p_hi = ends_of(left + b0 * (right - left), left + b1 * (right - left))
    left, right = end[2] - end[0], end[3] - end[1]
    q_lo, q_hi = ends_of(left + b0 * (right - left), left + b1 * (right - left))
    row_lo, row_hi = product_range(min(p_lo, q_lo), max(p_hi, q_hi), -x - reach_x, -x + reach_x)
    top, bottom = start[1] - start[0], start[3] - start[2]
    p_lo, p_hi = ends_of(top + a0 * (bottom - top), top + a1 * (bottom - top))
    top, bottom = end[1] - end[0], end[3] - end[2]
    q_lo, q_hi = ends_of(top + a0 * (bottom - top), top + a1 * (bottom - top))
    column_lo, column_hi = product_range(min(p_lo, q_lo), max(p_hi, q_hi), y - reach_y, y + reach_y)
    return low * inverse_width + row_lo + column_lo, high * inverse_width + row_hi + column_hi


@scalar
def arc_deviation(chord, width, x, y):
    """How far a chord of images, read while the source turns by ``width`` radians, is from its own chord at most.

    ``chord`` [3, H + 2, W + 2]: the image goes from the first to the second and strays by the third at most;
    ``(x, y)`` is the source point in the middle, pixels from the centre. Zero only where nothing is read but pixels
    without stray; these must be zero.
    """
    height, columns = chord.shape[1] - 2, chord.shape[2] - 2
    turn = 0.5 * width * (1.0 + 1e-9)
    reach_x = turn * (abs(y) + turn * (abs(x) + abs(y))) + 1e-9
    reach_y = turn * (abs(x) + turn * (abs(x) + abs(y))) + 1e-9
    row, column = y + 0.5 * (height - 1), x + 0.5 * (columns - 1)
    row_lo, row_hi, column_lo, column_hi = row - reach_y, row + reach_y, column - reach_x, column + reach_x
    if row_hi <= -1.0 or column_hi <= -1.0 or row_lo >= height or column_lo >= columns:
        return 0.0
    low, high, largest, inverse_width = math.inf, -math.inf, 0.0, 1.0 / width
    if row_lo < -1.0 or column_lo < -1.0 or row_hi > height or column_hi > columns:
        low, high = 0.0, 0.0
    first_i, last_i = max(int(math.floor(row_lo)), -1), min(int(math.floor(row_hi)), height - 1)  # noqa: RUF046
    first_j, last_j = max(int(math.floor(column_lo)), -1), min(int(math.floor(column_hi)), columns - 1)  # noqa: RUF046
    if first_i == last_i and first_j == last_j:
        # Most pixels of most images read nothing: the short way out.
        spread = corners_of(chord, 2, first_i, first_j)
        if spread[0] == 0.0 and spread[1] == 0.0 and spread[2] == 0.0 and spread[3] == 0.0:
            return 0.0
    for i in range(first_i, last_i + 1):
        a0, a1 = max(row_lo - i, 0.0), min(row_hi - i, 1.0)
        for j in range(first_j, last_j + 1):
            spread = corners_of(chord, 2, i, j)
            if spread[0] == 0.0 and spread[1] == 0.0 and spread[2] == 0.0 and spread[3] == 0.0:
                low, high = min(low, 0.0), max(high, 0.0)
                continue
            b0, b1 = max(column_lo - j, 0.0), min(column_hi - j, 1.0)
            largest = max(largest, mixed_range(spread, a0, a1, b0, b1)[1])
            least, most = region_slopes(
                corners_of(chord, 0, i, j), corners_of(chord, 1, i, j), inverse_width, a0, a1, b0, b1,
                x, y, reach_x, reach_y,
            )  # fmt: skip
            low, high = min(low, least), max(high, most)
    return 0.25 * width * (high - low) + largest


@scalar
def attacked_cell(still, first, last, chord):
    """A chord near ``round8(T_g x)`` for g in ``[first, last]`` radians, and how far that strays from it, by pixel.

    ``still`` [C, 3, H + 2, W + 2] is x, x again, and ``PRESENT`` where x is not zero. Where all of the cell
    rounds to one value, the chord is that value. Where the stray is zero, so is the rounded image.
    """
    height, width = still.shape[2] - 2, still.shape[3] - 2
    middle = 0.5 * (first + last)
    cos, sin = math.cos(middle), math.sin(middle)
    cos_first, sin_first, cos_last, sin_last = math.cos(first), math.sin(first), math.cos(last), math.sin(last)
    chord[:] = 0.0
    for c in range(still.shape[0]):
        image, out = still[c], chord[c]
        for i in range(height):
            y = i - 0.5 * (height - 1)
            for j in range(width):
                x = j - 0.5 * (width - 1)
                # The derivative against the angle has the same range but for its sign.
                bend = arc_deviation(image, last - first, x * cos - y * sin, x * sin + y * cos)
                if bend == 0.0:
                    continue
                before = framed_value(
                    image, 0, x * sin_first + y * cos_first + 0.5 * (height - 1),
                    x * cos_first - y * sin_first + 0.5 * (width - 1),
                )  # fmt: skip
                after = framed_value(
                    image, 0, x * sin_last + y * cos_last + 0.5 * (height - 1),
                    x * cos_last - y * sin_last + 0.5 * (width - 1),
                )  # fmt: skip
                bend += 1e-12
                low, high = max(min(before, after) - bend, 0.0), max(before, after) + bend
                steps = math.floor(low * 255.0 + 0.5 - ROUND8_SLACK)
                if steps < math.floor(high * 255.0 + 0.5 + ROUND8_SLACK):
                    out[0, i + 1, j + 1], out[1, i + 1, j + 1] = before, after
                    out[2, i + 1, j + 1] = bend + TOLERANCE
                elif steps > 0:
                    out[0, i + 1, j + 1] = out[1, i + 1, j + 1] = steps / 255.0
                    out[2, i + 1, j + 1] = FLOAT32_SLACK
