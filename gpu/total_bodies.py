"""Scalar bodies of ``total_error``; the statements and proofs are there.

Images are ``[C, H, W]``. *Framed* ones have one more pixel of zeros around them, ``[C, H + 2, W + 2]``, so that the
four neighbours of every point of the frame can be read without a look at its edges.
"""

from __future__ import annotations

import math

import numpy as np

from .chord_bodies import arc_deviation, framed_value
from .inverse import TOLERANCE
from .targets import scalar


@scalar
def apply_bands(start, weights, values, out):
    """A banded matrix times ``values``, row by row."""
    for i in range(out.shape[0]):
        row = out[i]
        row[:] = 0.0
        for k in range(weights.shape[1]):
            weight, source = weights[i, k], values[start[i] + k]
            for j in range(row.shape[0]):
                row[j] += weight * source[j]


@scalar
def transpose(values, out):
    """Rows become columns."""
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[j, i] = values[i, j]


@scalar
def scratch_for(operands, channels, height, width):
    """Room for :func:`filtered_square`."""
    rows, columns = operands[0].shape[0], operands[2].shape[0]
    return np.empty((rows, width)), np.empty((width, rows)), np.empty((columns, rows))


@scalar
def filtered_square(operands, values, scratch):
    """``|P v|_2^2`` of masked values [C, H, W]; leaves the last channel's P v, transposed, in ``scratch``."""
    half, turned, out = scratch
    total = 0.0
    for c in range(values.shape[0]):
        apply_bands(operands[0], operands[1], values[c], half)
        transpose(half, turned)
        apply_bands(operands[2], operands[3], turned, out)
        for i in range(out.shape[0]):
            for j in range(out.shape[1]):
                total += out[i, j] * out[i, j]
    return total


@scalar
def sensitivity(operands, back, values, scratch, weights):
    """``|P v|_2^2`` of masked values [C, H, W]; ``weights`` becomes ``P^T P v`` but for the mask."""
    half, turned, out = scratch
    total = 0.0
    for c in range(values.shape[0]):
        total += filtered_square(operands, values[c : c + 1], scratch)
        apply_bands(back[2], back[3], out, turned)
        transpose(turned, half)
        apply_bands(back[0], back[1], half, weights[c])
    return total


@scalar
def leverage(weights, box):
    """``<|weights|, box>`` of two [C, H, W]."""
    total = 0.0
    for c in range(box.shape[0]):
        for i in range(box.shape[1]):
            for j in range(box.shape[2]):
                total += abs(weights[c, i, j]) * box[c, i, j]
    return total


@scalar
def turned_into(kept, framed, cos, sin, out):
    """``T_t x`` [C, H, W] of a framed image at the kept pixels [M, 2]; nothing else is written."""
    height, width = out.shape[1], out.shape[2]
    for m in range(kept.shape[0]):
        i, j = kept[m, 0], kept[m, 1]
        x, y = j - 0.5 * (width - 1), i - 0.5 * (height - 1)
        row, column = x * sin + y * cos + 0.5 * (height - 1), x * cos - y * sin + 0.5 * (width - 1)
        for c in range(out.shape[0]):
            out[c, i, j] = framed_value(framed, c, row, column)


@scalar
def read_cell(kept, once, chord, beta, width, before, after, box):
    """What P sees of one cell of gamma at one total angle t; all [C, H, W], written at the kept pixels [M, 2] only.

    ``before, after`` become ``T_(t-g) y - T_t x`` for the chord's images y at the cell's ends, ``box`` how far the cell
    strays from their chord; ``beta = t - g`` in the middle of the cell.
    """
    height, columns = once.shape[1], once.shape[2]
    cos, sin = math.cos(beta), math.sin(beta)
    cos_0, sin_0 = math.cos(beta + 0.5 * width), math.sin(beta + 0.5 * width)
    cos_1, sin_1 = math.cos(beta - 0.5 * width), math.sin(beta - 0.5 * width)
    for c in range(once.shape[0]):
        images = chord[c]
        for m in range(kept.shape[0]):
            i, j = kept[m, 0], kept[m, 1]
            x, y = j - 0.5 * (columns - 1), i - 0.5 * (height - 1)
            reach = arc_deviation(images, width, x * cos - y * sin, x * sin + y * cos)
            box[c, i, j], before[c, i, j], after[c, i, j] = reach, -once[c, i, j], -once[c, i, j]
            if reach > 0.0:
                before[c, i, j] += framed_value(
                    images, 0, x * sin_0 + y * cos_0 + 0.5 * (height - 1),
                    x * cos_0 - y * sin_0 + 0.5 * (columns - 1),
                )  # fmt: skip
                after[c, i, j] += framed_value(
                    images, 1, x * sin_1 + y * cos_1 + 0.5 * (height - 1),
                    x * cos_1 - y * sin_1 + 0.5 * (columns - 1),
                )  # fmt: skip


@scalar
def rotation_total_error(
    framed, chords, kept, operands, back, total, half_width, base, levels, tolerance, floor, budget
):
    """Square of the bound of the error over all gamma in ``[-G, G]`` at one total angle (radians); see ``total_error``.

    ``chords`` hold the cells of each level, the wide ones first, as :func:`attacked_cell` sets them.
    """
    shape = framed.shape[0], framed.shape[1] - 2, framed.shape[2] - 2
    once, before, after, box = np.zeros(shape), np.zeros(shape), np.zeros(shape), np.zeros(shape)
    weights, scratch = np.empty(shape), scratch_for(operands, shape[0], shape[1], shape[2])
    turned_into(kept, framed, math.cos(total), math.sin(total), once)
    # Open cells: level, index, bound.
    level_of, index_of = np.zeros(budget + 2, dtype=np.int64), np.zeros(budget + 2, dtype=np.int64)
    bounds = np.full(budget + 2, math.inf)
    for k in range(base):
        index_of[k] = k
    size, fresh, evaluated, best = base, 0, 0, 0.0
    while True:
        for n in range(fresh, size):
            count = base << level_of[n]
            cell, width = count - base + index_of[n], 2.0 * half_width / count
            middle = total + half_width - width * (index_of[n] + 0.5)
            read_cell(kept, once, chords[cell], middle, width, before, after, box)
            largest = 0.0
            for values in (before, after):
                square = sensitivity(operands, back, values, scratch, weights)
                best = max(best, square)
                largest = max(largest, square + 2.0 * leverage(weights, box))
            bounds[n] = min(bounds[n], largest + filtered_square(operands, box, scratch))
            evaluated += 1
        worst = 0
        for n in range(size):
            if not bounds[n] <= bounds[worst]:
                worst = n
        enough = max(best * (1.0 + tolerance) * (1.0 + tolerance), floor * floor)
        if bounds[worst] <= enough or level_of[worst] == levels or evaluated + 2 > budget:
            return bounds[worst]
        level, index, bound = level_of[worst] + 1, 2 * index_of[worst], bounds[worst]
        # The last open cell fills the gap; the parent's bound holds for its halves too.
        size -= 1
        level_of[worst], index_of[worst], bounds[worst] = level_of[size], index_of[size], bounds[size]
        fresh = size
        for n in range(2):
            level_of[size], index_of[size], bounds[size] = level, index + n, bound
            size += 1


@scalar
def shift_columns(values, weights, whole, out):
    """One axis operator along the columns: pixel j goes to ``j + whole - 1 .. j + whole + 2`` with ``weights[j]``."""
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            total = 0.0
            for o in range(4):
                source = j - whole + 1 - o
                if 0 <= source < values.shape[1]:
                    total += weights[source, o] * values[i, source]
            out[i, j] = total


@scalar
def shift_rows(values, weights, whole, out):
    """The same along the rows, with ``weights`` [H, 4]."""
    for i in range(values.shape[0]):
        out[i] = 0.0
        for o in range(4):
            source = i - whole + 1 - o
            if 0 <= source < values.shape[0]:
                weight, row = weights[source, o], values[source]
                for j in range(values.shape[1]):
                    out[i, j] += weight * row[j]


@scalar
def shifted_support(image, mask, whole_x, whole_y, box):
    """The most that rounding to 8 bits can change: ``TOLERANCE`` at the kept pixels that content can reach."""
    for i in range(mask.shape[0]):
        for j in range(mask.shape[1]):
            for c in range(image.shape[0]):
                box[c, i, j] = 0.0
                for m in range(max(i - whole_y - 2, 0), min(i - whole_y + 2, mask.shape[0])):
                    for n in range(max(j - whole_x - 2, 0), min(j - whole_x + 2, mask.shape[1])):
                        if mask[i, j] and image[c, m, n] > 0.0:
                            box[c, i, j] = TOLERANCE


@scalar
def translation_total_error(image, mask, operands, back, whole_x, whole_y, once_x, once_y, along_x, along_y):
    """Square of the bound of the error over all gamma in ``[-G, G]^2`` at one total shift; see ``total_error``.

    ``along_x`` [M, W, 4] and ``along_y`` [K, H, 4] are the axis operators of ``total_error.axis_controls``, ``once_x``
    [W, 4] and ``once_y`` [H, 4] those of ``T_t``.
    """
    shape = image.shape
    once, values, box = np.empty(shape), np.empty(shape), np.empty(shape)
    across, weights = np.empty(shape), np.empty(shape)
    scratch = scratch_for(operands, shape[0], shape[1], shape[2])
    for c in range(shape[0]):
        shift_columns(image[c], once_x, whole_x, across[c])
        shift_rows(across[c], once_y, whole_y, once[c])
    shifted_support(image, mask, whole_x, whole_y, box)
    rounding = filtered_square(operands, box, scratch)
    largest = 0.0
    for m in range(along_x.shape[0]):
        for c in range(shape[0]):
            shift_columns(image[c], along_x[m], whole_x, across[c])
        for k in range(along_y.shape[0]):
            for c in range(shape[0]):
                shift_rows(across[c], along_y[k], whole_y, values[c])
                for i in range(shape[1]):
                    for j in range(shape[2]):
                        values[c, i, j] = values[c, i, j] - once[c, i, j] if mask[i, j] else 0.0
            square = sensitivity(operands, back, values, scratch, weights)
            largest = max(largest, square + 2.0 * leverage(weights, box) + rounding)
    return largest
