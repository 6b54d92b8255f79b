"""Loops of the calibration bounds: images, or draws, side by side on the CPU."""

from __future__ import annotations

import numpy as np
from numba import prange

from ..cover_bodies import (
    largest_rotation_error,
    translation_draw_error,
    translation_grams,
    unlost_translation_error,
)
from ..targets import cpu_kernel


@cpu_kernel
def rotation_cpu(
    images, mask, row_start, row_weights, column_start, column_weights, quarter_turns, half_width, tolerance,
    rounding, floor, coarse, budget, out,
):  # fmt: skip
    """One image an iteration."""
    for index in prange(images.shape[0]):
        n = np.int64(index)
        operands = (row_start, row_weights, column_start, column_weights)
        out[n] = largest_rotation_error(
            images[n : n + 1], mask, operands, quarter_turns, half_width, tolerance, rounding, floor, coarse, budget
        )


@cpu_kernel
def grams_cpu(image, mask, row_start, row_weights, column_start, column_weights, reach, grams):
    """One row of shifts an iteration."""
    for index in prange(grams.shape[0]):
        m = np.int64(index)
        operands = (row_start, row_weights, column_start, column_weights)
        for n in range(grams.shape[1]):
            translation_grams(image, mask, operands, m - reach, n - reach, grams[m, n])


@cpu_kernel
def unlost_draws_cpu(grams, reach, draws, half_width, out):
    """One draw an iteration."""
    for index in prange(draws.shape[0]):
        n = np.int64(index)
        out[n] = unlost_translation_error(grams, reach, draws[n, 0], draws[n, 1], half_width)


@cpu_kernel
def translation_draws_cpu(image, mask, row_start, row_weights, column_start, column_weights, draws, half_width, out):
    """One draw an iteration."""
    for index in prange(draws.shape[0]):
        n = np.int64(index)
        operands = (row_start, row_weights, column_start, column_weights)
        out[n] = translation_draw_error(image, mask, operands, draws[n, 0], draws[n, 1], half_width)
