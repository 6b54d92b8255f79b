"""Loops of the error bounds of Gaussian interpolation: images, shifts or cells side by side on the CPU."""

from __future__ import annotations

import numpy as np
from numba import prange

from ..residual_bodies import largest_rotation_residual, largest_translation_residual, received_cell_bound
from ..targets import cpu_kernel


@cpu_kernel
def rotation_cpu(
    images, mask, sources, row_start, row_weights, column_start, column_weights, sigma, reach, pad, half_width,
    curvature, coarse, tolerance, floor, budget, rounding, out,
):  # fmt: skip
    """One image an iteration."""
    for index in prange(images.shape[0]):
        n = np.int64(index)
        bands = (row_start, row_weights, column_start, column_weights)
        out[n] = largest_rotation_residual(
            images[n : n + 1], mask, sources[n : n + 1], bands, sigma, reach, pad, half_width, curvature[n], coarse,
            tolerance, floor, budget, rounding,
        )  # fmt: skip


@cpu_kernel
def translation_cpu(
    images, mask, sources, row_start, row_weights, column_start, column_weights, sigma, reach, pad, shifts, coarse,
    fine, floors, out,
):  # fmt: skip
    """One image an iteration."""
    for index in prange(images.shape[0]):
        n = np.int64(index)
        bands = (row_start, row_weights, column_start, column_weights)
        out[n] = largest_translation_residual(
            images[n : n + 1], mask, sources[n : n + 1], bands, sigma, reach, pad, shifts, coarse[n], fine[n], floors[n]
        )


@cpu_kernel
def received_cpu(
    kind, frames, points, backs, radii, mask, sigma, reach, pad, lower, upper, received, rounding, filters,
    absolute_filters, out,
):  # fmt: skip
    """One cell an iteration."""
    for index in prange(frames.shape[0]):
        k = np.int64(index)
        out[k] = received_cell_bound(
            kind, frames, k, points[k], backs[k], radii[k], mask, sigma, reach, pad, lower, upper, received, rounding,
            filters, absolute_filters,
        )  # fmt: skip
