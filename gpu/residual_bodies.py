"""Scalar bodies of ``residual``; the statements and proofs are there."""

from __future__ import annotations

import math

import numpy as np

from .cover_bodies import slope_range, transform_into
from .filtering import filter_row
from .geometry import ROTATION, TRANSLATION
from .interpolation import bilinear
from .sampling import sample_row_into
from .targets import scalar


@scalar
def sample_into(source, kind, first, second, sigma, reach, pad, weights, out):
    """``S_t`` of one masked image [1, C, H, W] on the padded grid, into ``out`` [1, C, Hp, Wp]."""
    for i in range(out.shape[2]):
        sample_row_into(source, kind, first, second, sigma, reach, pad, 0, 0, i, weights, 0, out)


@scalar
def filter_into(values, row_start, row_weights, column_start, column_weights, half, out):
    """Two banded matrices on one image: ``values`` [1, C, H, W] into ``out`` [1, C, Hp, Wp]."""
    for c in range(out.shape[1]):
        for i in range(out.shape[2]):
            filter_row(values, row_start, row_weights, column_start, column_weights, 0, c, i, half, out)


@scalar
def sum_of_squares(values):
    """Of one image [1, C, H, W]."""
    total = 0.0
    for c in range(values.shape[1]):
        for i in range(values.shape[2]):
            for j in range(values.shape[3]):
                total += values[0, c, i, j] * values[0, c, i, j]
    return total


@scalar
def residual_norm(kind, image, mask, source, bands, sigma, reach, pad, first, second, scratch):
    """``|S_0 m T_g x - S_g m x|`` of a known image at the point frame of ``g``."""
    moved, values, half, out, sampled, weights = scratch
    start_rows, rows, start_columns, columns = bands
    transform_into(kind, image, first, second, moved)
    for c in range(values.shape[1]):
        for i in range(values.shape[2]):
            for j in range(values.shape[3]):
                values[0, c, i, j] = mask[i, j] * moved[0, i, j, c]
    filter_into(values, start_rows, rows, start_columns, columns, half, out)
    sample_into(source, kind, first, second, sigma, reach, pad, weights, sampled)
    total = 0.0
    for c in range(out.shape[1]):
        for i in range(out.shape[2]):
            for j in range(out.shape[3]):
                difference = out[0, c, i, j] - sampled[0, c, i, j]
                total += difference * difference
    return math.sqrt(total)


@scalar
def chord_deviation(image, mask, bands, gamma, width, rounding, scratch):
    """How far ``T_g x`` strays from its chord over the angles ``gamma +- width / 2``, and what rounding adds.

    Returns
    -------
    (float, float)
        ``|S_0 m dev|`` and ``|S_0 m r|``, with ``r = rounding`` where ``T_g x`` can be non-zero.
    """
    values, half, out, touched = scratch[1], scratch[2], scratch[3], scratch[0]
    start_rows, rows, start_columns, columns = bands
    cos, sin = math.cos(gamma), math.sin(gamma)
    for i in range(image.shape[1]):
        y = i - 0.5 * (image.shape[1] - 1)
        for j in range(image.shape[2]):
            x = j - 0.5 * (image.shape[2] - 1)
            reach = 0.5 * width * math.sqrt(x * x + y * y) * (1.0 + 1e-9) + 1e-9
            sx, sy = x * cos - y * sin, x * sin + y * cos
            for c in range(image.shape[3]):
                values[0, c, i, j], touched[0, i, j, c] = 0.0, 0.0
                if mask[i, j] > 0.0:
                    low, high = slope_range(image, image, sx, sy, reach, c)
                    values[0, c, i, j] = mask[i, j] * 0.25 * width * (high - low)
                    if low != 0.0 or high != 0.0 or bilinear(image, 0, sx, sy, c) != 0.0:
                        touched[0, i, j, c] = mask[i, j] * rounding
    filter_into(values, start_rows, rows, start_columns, columns, half, out)
    deviation = math.sqrt(sum_of_squares(out))
    for c in range(image.shape[3]):
        for i in range(image.shape[1]):
            for j in range(image.shape[2]):
                values[0, c, i, j] = touched[0, i, j, c]
    filter_into(values, start_rows, rows, start_columns, columns, half, out)
    return deviation, math.sqrt(sum_of_squares(out))


@scalar
def scratch_for(image, pad, taps):
    """Work arrays of one image [1, H, W, C]: moved, masked, half filtered, filtered, sampled, weights."""
    height, width, channels = image.shape[1], image.shape[2], image.shape[3]
    padded = (1, channels, height + 2 * pad, width + 2 * pad)
    return (
        np.empty((1, height, width, channels)), np.empty((1, channels, height, width)),
        np.empty((1, channels, height + 2 * pad, width)), np.empty(padded), np.empty(padded), np.empty((1, 3, taps)),
    )  # fmt: skip


@scalar
def largest_rotation_residual(
    image, mask, source, bands, sigma, reach, pad, half_width, curvature, coarse, tolerance, floor, budget,
    rounding,
):  # fmt: skip
    """Largest ``residual_norm`` over ``|g| <= half_width`` radians, from above; infinite beyond the budget."""
    scratch = scratch_for(image, pad, 2 * math.ceil(reach) + 1)
    count = max(1, math.ceil(2.0 * half_width / coarse))
    step = 2.0 * half_width / count
    depth = 60
    norms = np.empty(count + 1)
    largest = 0.0
    for k in range(count + 1):
        g = -half_width + k * step
        norms[k] = residual_norm(
            ROTATION, image, mask, source, bands, sigma, reach, pad, math.cos(g), math.sin(g), scratch
        )
        largest = max(largest, norms[k])
    stack = np.empty((depth, 4))
    worst, used = 0.0, 0
    for k in range(count):
        stack[0, 0], stack[0, 1] = -half_width + k * step, -half_width + (k + 1) * step
        stack[0, 2], stack[0, 3] = norms[k], norms[k + 1]
        height = 1
        while height > 0:
            height -= 1
            low, high, norm_low, norm_high = stack[height, 0], stack[height, 1], stack[height, 2], stack[height, 3]
            width, middle = high - low, 0.5 * (low + high)
            bound = max(norm_low, norm_high) + 0.125 * width * width * curvature
            deviation, rounded = chord_deviation(image, mask, bands, middle, width, rounding, scratch)
            bound += deviation
            used += 1
            if bound <= (1.0 + tolerance) * largest or bound + rounded <= floor:
                worst = max(worst, bound + rounded)
                continue
            if used >= budget or height + 2 > depth or not bound < math.inf:
                return math.inf
            norm = residual_norm(
                ROTATION, image, mask, source, bands, sigma, reach, pad, math.cos(middle), math.sin(middle), scratch
            )
            largest = max(largest, norm)
            stack[height, 0], stack[height, 1], stack[height, 2], stack[height, 3] = low, middle, norm_low, norm
            stack[height + 1, 0], stack[height + 1, 1] = middle, high
            stack[height + 1, 2], stack[height + 1, 3] = norm, norm_high
            height += 2
    return worst


@scalar
def largest_translation_residual(image, mask, source, bands, sigma, reach, pad, shifts, coarse, fine, floor):
    """Largest ``residual_norm`` over shifts within the sorted values ``shifts`` on both axes, from above.

    A square of the grid is bounded by its corners plus ``coarse``; where that exceeds ``floor`` and is not near
    the largest norm found, by the corners of its quarters plus ``fine``.
    """
    scratch = scratch_for(image, pad, 2 * math.ceil(reach) + 1)
    count = len(shifts)
    norms = np.empty((count, count))
    largest = 0.0
    for p in range(count):
        for q in range(count):
            norms[p, q] = residual_norm(
                TRANSLATION, image, mask, source, bands, sigma, reach, pad, shifts[p], shifts[q], scratch
            )
            if not norms[p, q] <= largest:  # keeps what is not a number
                largest = norms[p, q]
    if count == 1 or not largest < math.inf:
        return largest
    worst = 0.0
    for p in range(count - 1):
        for q in range(count - 1):
            top = norms[p : p + 2, q : q + 2].max()
            if top + coarse <= max(floor, largest + fine):
                worst = max(worst, top + coarse)
                continue
            for a in range(3):
                for b in range(3):
                    if a == 1 or b == 1:
                        first = 0.5 * (2 - a) * shifts[p] + 0.5 * a * shifts[p + 1]
                        second = 0.5 * (2 - b) * shifts[q] + 0.5 * b * shifts[q + 1]
                        top = max(top, residual_norm(
                            TRANSLATION, image, mask, source, bands, sigma, reach, pad, first, second, scratch
                        ))  # fmt: skip
            largest = max(largest, top)
            worst = max(worst, top + fine)
    return worst
