"""Scalar bodies of ``residual``; the statements and proofs are there."""

from __future__ import annotations

import math

import numpy as np

from .cover_bodies import slope_range, transform_into
from .filtering import filter_row
from .geometry import ROTATION, TRANSLATION, source_box, source_point
from .interpolation import bilinear, pixel, range_over_box
from .sampling import axis_weights, sample_row_into
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


@scalar
def gaussian_patch(kind, mask, sigma, reach, pad, first, second, cos_back, sin_back, a, b, weights, patch):
    """Column ``[a, b]`` of ``S_0 m T_c - S_c m`` on the padded grid, into ``patch``.

    Returns
    -------
    (int, int, int, int)
        The part of the padded grid where it may be non-zero: first row, rows, first column, columns.
    """
    height, width = mask.shape
    x, y = b - 0.5 * (width - 1), a - 0.5 * (height - 1)
    x_to, y_to = source_point(kind, cos_back, sin_back, x, y)
    row_to, column_to = y_to + 0.5 * (height - 1), x_to + 0.5 * (width - 1)
    # Padded indices; everything that column [a, b] reaches lies within reach + 2 of where its content goes.
    top = int(max(math.ceil(row_to + pad - reach - 2.0), 0.0))
    bottom = int(min(math.floor(row_to + pad + reach + 2.0), height + 2.0 * pad - 1.0))
    left = int(max(math.ceil(column_to + pad - reach - 2.0), 0.0))
    right = int(min(math.floor(column_to + pad + reach + 2.0), width + 2.0 * pad - 1.0))
    rows, columns = max(bottom - top + 1, 0), max(right - left + 1, 0)
    for p in range(rows):
        for q in range(columns):
            patch[p, q] = 0.0
    around_i, around_j = int(math.floor(row_to)), int(math.floor(column_to))  # noqa: RUF046 (on CUDA a float)
    for i in range(max(around_i - 1, 0), min(around_i + 2, height - 1) + 1):
        for j in range(max(around_j - 1, 0), min(around_j + 2, width - 1) + 1):
            x_from, y_from = source_point(kind, first, second, j - 0.5 * (width - 1), i - 0.5 * (height - 1))
            near_row = 1.0 - abs(y_from + 0.5 * (height - 1) - a)
            near_column = 1.0 - abs(x_from + 0.5 * (width - 1) - b)
            if near_row > 0.0 and near_column > 0.0 and mask[i, j] > 0.0:
                add_gaussian(
                    float(i + pad), float(j + pad), mask[i, j] * near_row * near_column, sigma, reach,
                    top, rows, left, columns, weights, patch,
                )  # fmt: skip
    if mask[a, b] > 0.0:
        add_gaussian(row_to + pad, column_to + pad, -mask[a, b], sigma, reach, top, rows, left, columns, weights, patch)
    return top, rows, left, columns


@scalar
def add_gaussian(row, column, scale, sigma, reach, top, rows, left, columns, weights, patch):
    """Add ``scale`` times the density around ``(row, column)`` to the patch whose corner is ``(top, left)``."""
    p, count_rows = axis_weights(row - top, rows, sigma, reach, weights, 0, 0)
    q, count_columns = axis_weights(column - left, columns, sigma, reach, weights, 0, 1)
    on_columns = weights[0, 1]
    for k in range(count_rows):
        weight = scale * weights[0, 0, k]
        target = patch[p + k, q : q + count_columns]
        for n in range(count_columns):
            target[n] += weight * on_columns[n]


@scalar
def spread_deviations(kind, mask, sigma, reach, pad, point, back, deviation, weights, patch, out):
    """``|S_0 m T_c - S_c m|`` applied to deviations [1, H, W, C] >= 0, added to ``out`` [1, C, Hp, Wp]."""
    for a in range(mask.shape[0]):
        for b in range(mask.shape[1]):
            largest = 0.0
            for c in range(deviation.shape[3]):
                largest = max(largest, deviation[0, a, b, c])
            if not largest > 0.0:
                continue
            top, rows, left, columns = gaussian_patch(
                kind, mask, sigma, reach, pad, point[0], point[1], back[0], back[1], a, b, weights, patch
            )
            for c in range(deviation.shape[3]):
                amount = deviation[0, a, b, c]
                for p in range(rows):
                    target, values = out[0, c, top + p], patch[p]
                    for q in range(columns):
                        target[left + q] += amount * abs(values[q])


@scalar
def cell_sway(kind, frames, k, mask, middle, deviation, values):
    """Masked bound of ``|(T_g - T_c) x|`` for ``g`` in cell ``k`` and x in the box, into ``values`` [1, C, H, W]."""
    height, width = mask.shape
    for i in range(height):
        y = i - 0.5 * (height - 1)
        for j in range(width):
            x = j - 0.5 * (width - 1)
            for c in range(values.shape[1]):
                values[0, c, i, j] = 0.0
            if not mask[i, j] > 0.0:
                continue
            x_lo, x_hi, y_lo, y_hi = source_box(kind, frames, k, x, y)
            moved = (x_hi - x_lo) + (y_hi - y_lo)  # |T_g - T_c| moves no weight by more than the box is wide
            # On CUDA floor is a float.
            first_i = int(math.floor(y_lo + 0.5 * (height - 1)))  # noqa: RUF046
            last_i = int(math.floor(y_hi + 0.5 * (height - 1))) + 1  # noqa: RUF046
            first_j = int(math.floor(x_lo + 0.5 * (width - 1)))  # noqa: RUF046
            last_j = int(math.floor(x_hi + 0.5 * (width - 1))) + 1  # noqa: RUF046
            for c in range(values.shape[1]):
                low, high = range_over_box(middle, middle, 0, x_lo, x_hi, y_lo, y_hi, c)
                unknown = 0.0
                for p in range(first_i, last_i + 1):
                    for q in range(first_j, last_j + 1):
                        unknown += pixel(deviation, 0, p, q, c)
                values[0, c, i, j] = mask[i, j] * ((high - low) + moved * unknown)


@scalar
def filter_sway(kind, source, radii, filters, absolute, along, across, half, out, other):
    """``sup |S_g m x - S_c m x|`` over a cell of half-widths ``radii``, for one masked image [1, C, H, W].

    ``filters``: bands of the density and of its product with the distance over the variance, or, if
    ``absolute``, with the absolute distance, for images known only in absolute value.
    """
    plain_start, plain_rows, moment_start, moment_rows, plain_c_start, plain_columns, moment_c_start, moment_columns = (
        filters
    )
    height, width = source.shape[2], source.shape[3]
    for c in range(source.shape[1]):
        for i in range(height):
            for j in range(width):
                vx, vy = 1.0, 1.0
                if kind == ROTATION:
                    vx, vy = -(i - 0.5 * (height - 1)), j - 0.5 * (width - 1)
                    if absolute:
                        vx, vy = abs(vx), abs(vy)
                along[0, c, i, j], across[0, c, i, j] = vx * source[0, c, i, j], vy * source[0, c, i, j]
    filter_into(along, plain_start, plain_rows, moment_c_start, moment_columns, half, out)
    filter_into(across, moment_start, moment_rows, plain_c_start, plain_columns, half, other)
    if kind != ROTATION:
        return radii[0] * math.sqrt(sum_of_squares(out)) + radii[1] * math.sqrt(sum_of_squares(other))
    total = 0.0
    for c in range(out.shape[1]):
        for i in range(out.shape[2]):
            for j in range(out.shape[3]):
                value = out[0, c, i, j] + other[0, c, i, j]
                total += value * value
    return radii[0] * math.sqrt(total)


@scalar
def received_cell_bound(
    kind, frames, k, point, back, radii, mask, sigma, reach, pad, lower, upper, received, rounding, filters,
    absolute_filters, images, planes, half, padded, weights, patch,
):  # fmt: skip
    """Bound of the residual of every original in the box of cell ``k``; see ``residual`` for the two forms.

    ``received`` is ``S_0 m x'``, ``rounding`` ``S_0 m`` of the most that rounding moves a pixel, both on the
    padded grid; ``back`` is the point frame of ``T_c`` forward. The last six are work arrays, the first three of
    them with places along their first axis: ``images`` [3, H, W, C], ``planes`` [5, C, H, W], ``padded``
    [4, C, Hp, Wp], ``half`` [1, C, Hp, W], ``weights`` [1, 3, taps] and ``patch`` of a side of ``taps + 6``.
    """
    height, width, channels = lower.shape[1], lower.shape[2], lower.shape[3]
    middle, deviation, moved = images[0:1], images[1:2], images[2:3]
    known, unknown, values, along, across = planes[0:1], planes[1:2], planes[2:3], planes[3:4], planes[4:5]
    out, sampled, spread, other = padded[0:1], padded[1:2], padded[2:3], padded[3:4]
    for i in range(height):
        for j in range(width):
            for c in range(channels):
                low, high = lower[k, i, j, c], upper[k, i, j, c]
                middle[0, i, j, c] = 0.5 * (low + high)
                deviation[0, i, j, c] = 0.5 * (high - low)
                known[0, c, i, j] = mask[i, j] * middle[0, i, j, c]
                unknown[0, c, i, j] = mask[i, j] * deviation[0, i, j, c]
    for c in range(channels):
        for i in range(out.shape[2]):
            for j in range(out.shape[3]):
                spread[0, c, i, j] = 0.0
    spread_deviations(kind, mask, sigma, reach, pad, point, back, deviation, weights, patch, spread)
    transform_into(kind, middle, point[0], point[1], moved)
    for i in range(height):
        for j in range(width):
            for c in range(channels):
                values[0, c, i, j] = mask[i, j] * moved[0, i, j, c]
    filter_into(values, filters[0], filters[1], filters[4], filters[5], half, out)
    sample_into(known, kind, point[0], point[1], sigma, reach, pad, weights, sampled)
    sample_into(unknown, kind, point[0], point[1], sigma, reach, pad, weights, other)
    total = 0.0
    for c in range(channels):
        for i in range(out.shape[2]):
            for j in range(out.shape[3]):
                here = sampled[0, c, i, j]
                cancelled = abs(out[0, c, i, j] - here) + spread[0, c, i, j] + rounding[i, j]
                plain = abs(received[c, i, j] - here) + other[0, c, i, j]
                least = min(cancelled, plain)
                total += least * least
    cell_sway(kind, frames, k, mask, middle, deviation, values)
    filter_into(values, filters[0], filters[1], filters[4], filters[5], half, out)
    sway = math.sqrt(sum_of_squares(out))
    sway += filter_sway(kind, known, radii, filters, False, along, across, half, out, other)
    sway += filter_sway(kind, unknown, radii, absolute_filters, True, along, across, half, out, other)
    return math.sqrt(total) + sway
