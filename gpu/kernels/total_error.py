"""Loops of the error bounds at a total parameter: cells or draws side by side on the CPU."""

from __future__ import annotations

import numpy as np
from numba import prange

from ..chord_bodies import attacked_cell
from ..targets import cpu_kernel
from ..total_bodies import rotation_total_error, translation_total_error


@cpu_kernel
def cells_cpu(still, edges, chords):
    """One cell of gamma an iteration; ``edges`` [K, 2] in radians."""
    for index in prange(edges.shape[0]):
        n = np.int64(index)
        attacked_cell(still, edges[n, 0], edges[n, 1], chords[n])


@cpu_kernel
def rotation_totals_cpu(
    framed, chords, kept, row_start, row_weights, column_start, column_weights, back_row_start,
    back_row_weights, back_column_start, back_column_weights, totals, half_width, base, levels, tolerance, floor,
    budget, out,
):  # fmt: skip
    """One draw an iteration."""
    for index in prange(totals.shape[0]):
        n = np.int64(index)
        operands = (row_start, row_weights, column_start, column_weights)
        back = (back_row_start, back_row_weights, back_column_start, back_column_weights)
        out[n] = rotation_total_error(
            framed, chords, kept, operands, back, totals[n], half_width, base, levels, tolerance, floor,
            budget,
        )  # fmt: skip


@cpu_kernel
def translation_totals_cpu(
    image, mask, row_start, row_weights, column_start, column_weights, back_row_start, back_row_weights,
    back_column_start, back_column_weights, wholes, once_x, once_y, along_x, first_x, along_y, first_y, out,
):  # fmt: skip
    """One draw an iteration; draw n has the axis operators from ``first[n]`` to before ``first[n + 1]``."""
    for index in prange(wholes.shape[0]):
        n = np.int64(index)
        operands = (row_start, row_weights, column_start, column_weights)
        back = (back_row_start, back_row_weights, back_column_start, back_column_weights)
        out[n] = translation_total_error(
            image, mask, operands, back, wholes[n, 0], wholes[n, 1], once_x[n], once_y[n],
            along_x[first_x[n] : first_x[n + 1]], along_y[first_y[n] : first_y[n + 1]],
        )  # fmt: skip
