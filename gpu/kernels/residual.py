"""Loops of the error bounds of Gaussian interpolation: known images on the CPU; cells of a received one."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import numpy as np
from numba import cuda, prange
from numpy.typing import NDArray

from ..inverse import TOLERANCE
from ..known_bodies import largest_rotation_residual, largest_translation_residual
from ..preprocess import GaussianOperator
from ..received_bodies import received_cell_bound
from ..targets import cpu_kernel, cuda_kernel, cuda_launch


@cpu_kernel
def rotation_cpu(
    images, still, mask, sources, row_start, rows, column_start, columns, sigma, reach, own, half_width, bending,
    coarse, tolerance, floors, budget, out,
):  # fmt: skip
    """One image an iteration."""
    for index in prange(images.shape[0]):
        n = np.int64(index)
        out[n] = largest_rotation_residual(
            images[n : n + 1], still[n], mask, sources[n], (row_start, rows, column_start, columns), sigma, reach,
            own[n], half_width, bending[n], coarse, tolerance, floors[n], budget,
        )  # fmt: skip


@cpu_kernel
def translation_cpu(
    images, mask, sources, row_start, rows, column_start, columns, sigma, reach, own, shifts, coarse, fine, floors,
    out,
):  # fmt: skip
    """One image an iteration."""
    for index in prange(images.shape[0]):
        n = np.int64(index)
        out[n] = largest_translation_residual(
            images[n : n + 1], mask, sources[n], (row_start, rows, column_start, columns), sigma, reach, own[n],
            shifts, coarse[n], fine[n], floors[n], TOLERANCE,
        )  # fmt: skip


@cpu_kernel
def _received_cpu(
    kind, frames, points, backs, radii, mask, before, sigma, reach, pad, lower, upper, received, corners, plain,
    back_filter, moved_filter, absolute, images, planes, half, padded, weights, patch, out,
):  # fmt: skip
    """One cell an iteration."""
    for index in prange(frames.shape[0]):
        k = np.int64(index)
        out[k] = received_cell_bound(
            kind, frames, k, points[k], backs[k], radii[k], corners[k], mask, before, sigma, reach, pad, TOLERANCE,
            lower, upper, received, plain, back_filter, moved_filter, absolute, images[k], planes[k], half[k],
            padded[k], weights[k], patch[k],
        )  # fmt: skip


@cuda_kernel
def received_cuda(
    kind, frames, points, backs, radii, mask, before, sigma, reach, pad, lower, upper, received, corners,
    row_start, rows, column_start, columns,
    row_back_start, rows_back, column_back_start, columns_back,
    row_moved_start, rows_moved, column_moved_start, columns_moved,
    row_absolute_start, row_absolutes, column_absolute_start, column_absolutes,
    images, planes, half, padded, weights, patch, out,
):  # fmt: skip
    """One thread a cell."""
    k = cuda.grid(1)
    if k < out.shape[0]:
        plain = row_start, rows, column_start, columns
        back_filter = row_back_start, rows_back, column_back_start, columns_back
        moved_filter = row_moved_start, rows_moved, column_moved_start, columns_moved
        absolute = row_absolute_start, row_absolutes, column_absolute_start, column_absolutes
        out[k] = received_cell_bound(
            kind, frames, k, points[k], backs[k], radii[k], corners[k], mask, before, sigma, reach, pad, TOLERANCE,
            lower, upper, received, plain, back_filter, moved_filter, absolute, images[k], planes[k], half[k],
            padded[k], weights[k], patch[k],
        )  # fmt: skip


Filters = tuple[NDArray[Any], ...]


def scratch_shapes(shape: tuple[int, ...], corners: int, reach: float, pad: int) -> list[tuple[int, ...]]:
    """Of the work arrays of one cell, for an image [H, W, C] and the wider filter; see ``received_cell_bound``."""
    height, width, channels = shape
    taps = 2 * math.ceil(reach) + 1
    plane = (channels, height + 2 * pad, width + 2 * pad)
    return [
        (3, *shape), (7, channels, height, width), (1, *plane), (3 + corners, *plane), (1, 3, taps),
        (taps + 6, taps + 6),
    ]  # fmt: skip


def launch_received(
    kind: int, cells: tuple[NDArray[np.float64], ...], corners: NDArray[np.float64],
    operators: tuple[GaussianOperator, GaussianOperator], pad: int,
    boxes: tuple[NDArray[np.float64], NDArray[np.float64]], received: NDArray[np.float64],
    filters: tuple[Filters, ...], device: str,
) -> NDArray[np.float64]:  # fmt: skip
    """Bounds [K] of cells: their frames, points, the same back, half-widths; corners; boxes [K, H, W, C].

    ``filters``: bands along rows and columns of the operator, of its transpose, and of the original's: plain, and of
    the absolute derivative.
    """
    count, (operator, original) = len(corners), operators
    shapes = scratch_shapes(received.shape, corners.shape[1] // 2, max(operator.reach, original.reach), pad)
    numbers = (operator.sigma, operator.reach), original.sigma, original.reach, pad
    if device == "cpu":
        out = np.empty(count)
        work = [np.empty((count, *shape)) for shape in shapes]
        _received_cpu(kind, *cells, operator.weights, *numbers, *boxes, received, corners, *filters, *work, out)
        return out
    on_device = [cuda.to_device(np.ascontiguousarray(array)) for array in (*cells, operator.weights)]
    arrays = (*boxes, received, corners, *chain.from_iterable(filters))
    others = [cuda.to_device(np.ascontiguousarray(array)) for array in arrays]
    work = [cuda.device_array((count, *shape), np.float64) for shape in shapes]
    target = cuda.device_array(count, np.float64)
    cuda_launch(received_cuda, count, kind, *on_device, *numbers, *others, *work, target)
    return np.asarray(target.copy_to_host())
