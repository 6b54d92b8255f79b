"""The maps of ``received``, pixel by pixel: ``S_t``, the transposes of ``S_t`` and ``T_t``, and the entries of K."""

from __future__ import annotations

import math

from .geometry import TRANSLATION, source_point
from .residual_bodies import sample_into
from .sampling import axis_weights
from .targets import scalar


@scalar
def sampled_into(source, kind, first, second, sigma, reach, pad, weights, half, out):
    """``sample_into``; a shift one axis after the other."""
    if kind != TRANSLATION:
        sample_into(source, kind, first, second, sigma, reach, pad, weights, out)
        return
    on_rows, on_columns = weights[0, 0], weights[0, 1]
    for i in range(out.shape[2]):
        row, rows = axis_weights(i - pad - second, source.shape[2], sigma, reach, weights, 0, 0)
        for c in range(out.shape[1]):
            target = half[0, c, i]
            for j in range(source.shape[3]):
                target[j] = 0.0
            for k in range(rows):
                values = source[0, c, row + k]
                for j in range(source.shape[3]):
                    target[j] += on_rows[k] * values[j]
    for j in range(out.shape[3]):
        column, columns = axis_weights(j - pad - first, source.shape[3], sigma, reach, weights, 0, 1)
        for c in range(out.shape[1]):
            for i in range(out.shape[2]):
                total = 0.0
                for n in range(columns):
                    total += on_columns[n] * half[0, c, i, column + n]
                out[0, c, i, j] = total


@scalar
def unsample_into(values, kind, first, second, sigma, reach, pad, weights, half, out):
    """The transpose of ``sampled_into``: ``values`` [1, C, Hp, Wp] into ``out`` [1, C, H, W]."""
    height, width = out.shape[2], out.shape[3]
    on_rows, on_columns = weights[0, 0], weights[0, 1]
    for c in range(out.shape[1]):
        for i in range(height):
            for j in range(width):
                out[0, c, i, j] = 0.0
            for j in range(values.shape[3]):
                half[0, c, i, j] = 0.0
    for i in range(values.shape[2]):
        y = i - pad - 0.5 * (height - 1)
        if kind == TRANSLATION:
            row, rows = axis_weights(i - pad - second, height, sigma, reach, weights, 0, 0)
            for c in range(out.shape[1]):
                for k in range(rows):
                    target = half[0, c, row + k]
                    for j in range(values.shape[3]):
                        target[j] += on_rows[k] * values[0, c, i, j]
            continue
        for j in range(values.shape[3]):
            x_from, y_from = source_point(kind, first, second, j - pad - 0.5 * (width - 1), y)
            row, rows = axis_weights(y_from + 0.5 * (height - 1), height, sigma, reach, weights, 0, 0)
            column, columns = axis_weights(x_from + 0.5 * (width - 1), width, sigma, reach, weights, 0, 1)
            for c in range(out.shape[1]):
                for k in range(rows):
                    weight = on_rows[k] * values[0, c, i, j]
                    target = out[0, c, row + k, column : column + columns]
                    for n in range(columns):
                        target[n] += weight * on_columns[n]
    if kind == TRANSLATION:
        for j in range(values.shape[3]):
            column, columns = axis_weights(j - pad - first, width, sigma, reach, weights, 0, 1)
            for c in range(out.shape[1]):
                for i in range(height):
                    target = out[0, c, i, column : column + columns]
                    for n in range(columns):
                        target[n] += on_columns[n] * half[0, c, i, j]


@scalar
def untransform_into(kind, values, first, second, out):
    """The transpose of ``T_t`` on ``values`` [1, C, H, W], into ``out`` of that shape."""
    height, width = values.shape[2], values.shape[3]
    for c in range(out.shape[1]):
        for i in range(height):
            for j in range(width):
                out[0, c, i, j] = 0.0
    for i in range(height):
        y = i - 0.5 * (height - 1)
        for j in range(width):
            x_from, y_from = source_point(kind, first, second, j - 0.5 * (width - 1), y)
            row, column = y_from + 0.5 * (height - 1), x_from + 0.5 * (width - 1)
            above, left = int(math.floor(row)), int(math.floor(column))  # noqa: RUF046 (on CUDA a float)
            for p in range(max(above, 0), min(above + 1, height - 1) + 1):
                for q in range(max(left, 0), min(left + 1, width - 1) + 1):
                    weight = (1.0 - abs(row - p)) * (1.0 - abs(column - q))
                    for c in range(out.shape[1]):
                        out[0, c, p, q] += weight * values[0, c, i, j]


@scalar
def gaussian_patch(kind, mask, before, sigma, reach, pad, first, second, cos_back, sin_back, a, b, weights, patch):
    """Column ``[a, b]`` of ``S_0 m T_c - S'_c m`` on the padded grid, into ``patch``; ``before``: S's width and reach.

    Returns
    -------
    (int, int, int, int)
        The part of the padded grid where it may be non-zero: first row, rows, first column, columns.
    """
    height, width = mask.shape
    x, y = b - 0.5 * (width - 1), a - 0.5 * (height - 1)
    x_to, y_to = source_point(kind, cos_back, sin_back, x, y)
    row_to, column_to = y_to + 0.5 * (height - 1), x_to + 0.5 * (width - 1)
    # Padded indices; everything that column [a, b] reaches lies within this of where its content goes.
    far = max(reach, before[1]) + 2.0
    top = int(max(math.ceil(row_to + pad - far), 0.0))
    bottom = int(min(math.floor(row_to + pad + far), height + 2.0 * pad - 1.0))
    left = int(max(math.ceil(column_to + pad - far), 0.0))
    right = int(min(math.floor(column_to + pad + far), width + 2.0 * pad - 1.0))
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
                    float(i + pad), float(j + pad), mask[i, j] * near_row * near_column, before[0], before[1],
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
def is_plain(mask, row, column):
    """Whether the vignette is 1 around a point, further than what is interpolated there can lie from it."""
    if row < 3.0 or column < 3.0 or row > mask.shape[0] - 4.0 or column > mask.shape[1] - 4.0:
        return False
    # On CUDA floor is a float.
    for i in range(int(math.floor(row)) - 1, int(math.floor(row)) + 3):  # noqa: RUF046
        for j in range(int(math.floor(column)) - 1, int(math.floor(column)) + 3):  # noqa: RUF046
            if mask[i, j] != 1.0:
                return False
    return True


@scalar
def spread_deviations(kind, mask, before, sigma, reach, pad, point, back, deviation, weights, patch, out):
    """``|S_0 m T_c - S'_c m|`` applied to deviations [1, H, W, C] >= 0, added to ``out`` [1, C, Hp, Wp].

    Where the vignette is 1, the columns of a shift are one and the same, moved: the last such patch serves again.
    """
    made, made_top, made_left, made_rows, made_columns, made_a, made_b = False, 0, 0, 0, 0, 0, 0
    for a in range(mask.shape[0]):
        for b in range(mask.shape[1]):
            largest = 0.0
            for c in range(deviation.shape[3]):
                largest = max(largest, deviation[0, a, b, c])
            if not largest > 0.0:
                continue
            plain = kind == TRANSLATION and mask[a, b] == 1.0 and is_plain(mask, a - back[1], b - back[0])
            if plain and made:
                top, rows, left, columns = made_top + a - made_a, made_rows, made_left + b - made_b, made_columns
            else:
                top, rows, left, columns = gaussian_patch(
                    kind, mask, before, sigma, reach, pad, point[0], point[1], back[0], back[1], a, b, weights, patch
                )
                made = plain
                made_top, made_left, made_rows, made_columns, made_a, made_b = top, left, rows, columns, a, b
            for c in range(deviation.shape[3]):
                amount = deviation[0, a, b, c]
                for p in range(rows):
                    target, values = out[0, c, top + p], patch[p]
                    for q in range(columns):
                        target[left + q] += amount * abs(values[q])
