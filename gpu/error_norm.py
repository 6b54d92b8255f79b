"""Scalar bodies of the error bounds: two interval images, their difference, P of it, and its norm.

A *pair* is a draw of the transformation's parameter together with a cell of the attack range. Both sides
of the error ``P T_beta x' - P T_(beta+gamma) x`` are interval images read through a box of coordinates;
what differs between the guarantees is only which images stand on the two sides.
"""

from __future__ import annotations

import math

from .geometry import source_box
from .interpolation import range_over_box
from .interval import round_down, round_up
from .targets import scalar

ROUND8_SLACK = 2.0**-20
"""In units of 1/255: an attacker may round a tie, or a value just beside it, either way."""
FLOAT32_SLACK = 2.0**-24
"""A multiple of 1/255 stored as float32 is at most this far off."""
PRESENT = 1e-200
"""A stray that adds nothing; see ``chord_bodies.attacked_cell``."""


@scalar
def rounded_pixel(kind, frames, image, k, i, j, c, lower, upper):
    """Enclose pixel ``[i, j, c]`` of ``round8(T_t x)`` over cell ``k``; rounding is monotone."""
    x, y = j - 0.5 * (image.shape[2] - 1), i - 0.5 * (image.shape[1] - 1)
    x_lo, x_hi, y_lo, y_hi = source_box(kind, frames, k, x, y)
    low, high = range_over_box(image, image, 0, x_lo, x_hi, y_lo, y_hi, c)
    if high == 0.0:
        lower[k, i, j, c], upper[k, i, j, c] = 0.0, 0.0
        return
    steps_low = math.floor(low * 255.0 + 0.5 - ROUND8_SLACK)
    steps_high = math.floor(high * 255.0 + 0.5 + ROUND8_SLACK)
    lower[k, i, j, c] = max(steps_low / 255.0 - FLOAT32_SLACK, 0.0)
    upper[k, i, j, c] = steps_high / 255.0 + FLOAT32_SLACK


@scalar
def difference_row(
    kind, mask, first_lower, first_upper, first_frames, first_image, first_frame,
    second_lower, second_upper, second_frames, second_image, n, c, i, low, high,
):  # fmt: skip
    """Row ``i`` of ``mask * (T_first X - T_second Y)`` for pair ``n``, into ``low, high[n, c, i]``.

    ``first_image[n], first_frame[n]`` say which interval image and which frame stand on the first side;
    the second side has a frame for each pair.
    """
    s, f, q = first_image[n], first_frame[n], second_image[n]
    y = i - 0.5 * (mask.shape[0] - 1)
    for j in range(mask.shape[1]):
        low[n, c, i, j], high[n, c, i, j] = 0.0, 0.0
        if mask[i, j]:
            x = j - 0.5 * (mask.shape[1] - 1)
            x_lo, x_hi, y_lo, y_hi = source_box(kind, first_frames, f, x, y)
            a_lo, a_hi = range_over_box(first_lower, first_upper, s, x_lo, x_hi, y_lo, y_hi, c)
            x_lo, x_hi, y_lo, y_hi = source_box(kind, second_frames, n, x, y)
            b_lo, b_hi = range_over_box(second_lower, second_upper, q, x_lo, x_hi, y_lo, y_hi, c)
            low[n, c, i, j] = round_down(a_lo - b_hi)
            high[n, c, i, j] = round_up(a_hi - b_lo)


@scalar
def filtered_row(
    row_start, row_weights, column_start, column_weights, n, c, i, low, high, half_low, half_high, sums
):
    """Output row ``i`` of P on the interval image of pair ``n``: its sum of squares, rounded up."""
    width = low.shape[3]
    for j in range(width):
        half_low[n, c, i, j], half_high[n, c, i, j] = 0.0, 0.0
    for k in range(row_weights.shape[1]):
        weight, r = row_weights[i, k], row_start[i] + k
        for j in range(width):
            half_low[n, c, i, j] = round_down(half_low[n, c, i, j] + round_down(weight * low[n, c, r, j]))
            half_high[n, c, i, j] = round_up(half_high[n, c, i, j] + round_up(weight * high[n, c, r, j]))
    total = 0.0
    for j in range(column_weights.shape[0]):
        value_low, value_high = 0.0, 0.0
        for k in range(column_weights.shape[1]):
            weight, r = column_weights[j, k], column_start[j] + k
            value_low = round_down(value_low + round_down(weight * half_low[n, c, i, r]))
            value_high = round_up(value_high + round_up(weight * half_high[n, c, i, r]))
        largest = max(-value_low, value_high)
        total = round_up(total + round_up(largest * largest))
    sums[n, c, i] = total
