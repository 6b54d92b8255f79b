"""Loops of the error bounds of Gaussian interpolation: known images on the CPU; cells of a received one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda, prange
from numpy.typing import NDArray

from ..preprocess import GaussianOperator
from ..residual_bodies import largest_rotation_residual, largest_translation_residual, received_cell_bound
from ..targets import cpu_kernel, cuda_kernel, cuda_launch


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
def _received_cpu(
    kind, frames, points, backs, radii, mask, sigma, reach, pad, lower, upper, received, rounding, filters,
    absolute_filters, images, planes, half, padded, weights, patch, out,
):  # fmt: skip
    """One cell an iteration."""
    for index in prange(frames.shape[0]):
        k = np.int64(index)
        out[k] = received_cell_bound(
            kind, frames, k, points[k], backs[k], radii[k], mask, sigma, reach, pad, lower, upper, received, rounding,
            filters, absolute_filters, images[k], planes[k], half[k], padded[k], weights[k], patch[k],
        )  # fmt: skip


@cuda_kernel
def received_cuda(
    kind, frames, points, backs, radii, mask, sigma, reach, pad, lower, upper, received, rounding,
    row_start, rows, row_moment_start, row_moments, column_start, columns, column_moment_start, column_moments,
    row_absolute_start, row_absolutes, column_absolute_start, column_absolutes,
    images, planes, half, padded, weights, patch, out,
):  # fmt: skip
    """One thread a cell."""
    k = cuda.grid(1)
    if k < out.shape[0]:
        filters = (
            row_start, rows, row_moment_start, row_moments, column_start, columns, column_moment_start, column_moments,
        )  # fmt: skip
        absolute_filters = (
            row_start, rows, row_absolute_start, row_absolutes, column_start, columns, column_absolute_start,
            column_absolutes,
        )  # fmt: skip
        out[k] = received_cell_bound(
            kind, frames, k, points[k], backs[k], radii[k], mask, sigma, reach, pad, lower, upper, received, rounding,
            filters, absolute_filters, images[k], planes[k], half[k], padded[k], weights[k], patch[k],
        )  # fmt: skip


Filters = tuple[NDArray[Any], ...]


def launch_received(
    kind: int, cells: tuple[NDArray[np.float64], ...], operator: GaussianOperator, pad: int,
    boxes: tuple[NDArray[np.float64], NDArray[np.float64]], received: tuple[NDArray[np.float64], NDArray[np.float64]],
    filters: tuple[Filters, Filters], device: str,
) -> NDArray[np.float64]:  # fmt: skip
    """Bounds [K] of cells: frames, point frames, those of the way back, half-widths; boxes [K, H, W, C]."""
    count, height, width, channels = boxes[0].shape
    taps = 2 * math.ceil(operator.reach) + 1
    tall, wide = height + 2 * pad, width + 2 * pad
    shapes = (
        (3, height, width, channels), (5, channels, height, width), (1, channels, tall, width),
        (4, channels, tall, wide), (1, 3, taps), (taps + 6, taps + 6),
    )  # fmt: skip
    numbers = operator.sigma, operator.reach, pad
    if device == "cpu":
        out = np.empty(count)
        work = [np.empty((count, *shape)) for shape in shapes]
        _received_cpu(kind, *cells, operator.weights, *numbers, *boxes, *received, *filters, *work, out)
        return out
    on_device = [cuda.to_device(np.ascontiguousarray(array)) for array in (*cells, operator.weights)]
    others = [cuda.to_device(np.ascontiguousarray(array)) for array in (*boxes, *received, *filters[0])]
    absolute = [cuda.to_device(filters[1][index]) for index in (2, 3, 6, 7)]
    work = [cuda.device_array((count, *shape), np.float64) for shape in shapes]
    target = cuda.device_array(count, np.float64)
    cuda_launch(received_cuda, count, kind, *on_device, *numbers, *others, *absolute, *work, target)
    return np.asarray(target.copy_to_host())
