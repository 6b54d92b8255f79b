"""Loops of the error bounds: range of images over cells, differences, interval filter and norm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda, prange
from numpy.typing import NDArray

from ..error_norm import difference_row, filtered_row, rounded_pixel
from ..preprocess import Operator
from ..targets import cpu_kernel, cuda_kernel, cuda_launch


@cpu_kernel
def _rounded_cpu(kind, frames, image, lower, upper):
    for index in prange(frames.shape[0]):
        k = np.int64(index)
        for i in range(image.shape[1]):
            for j in range(image.shape[2]):
                for c in range(image.shape[3]):
                    rounded_pixel(kind, frames, image, k, i, j, c, lower, upper)


@cuda_kernel
def rounded_cuda(kind, frames, image, lower, upper):
    """One thread a pixel of a cell."""
    index = cuda.grid(1)
    height, width, channels = image.shape[1], image.shape[2], image.shape[3]
    values = height * width * channels
    if index < frames.shape[0] * values:
        k, rest = index // values, index % values
        rounded_pixel(
            kind, frames, image, k, rest // (width * channels), rest // channels % width, rest % channels, lower, upper
        )


@cpu_kernel
def _pairs_cpu(
    kind, mask, first_lower, first_upper, first_frames, first_image, first_frame,
    second_lower, second_upper, second_frames, second_image,
    row_start, row_weights, column_start, column_weights, low, high, half_low, half_high, sums,
):  # fmt: skip
    for index in prange(low.shape[0]):
        n = np.int64(index)
        for c in range(low.shape[1]):
            for i in range(low.shape[2]):
                difference_row(
                    kind, mask, first_lower, first_upper, first_frames, first_image, first_frame,
                    second_lower, second_upper, second_frames, second_image, n, c, i, low, high,
                )  # fmt: skip
            for i in range(sums.shape[2]):
                filtered_row(
                    row_start, row_weights, column_start, column_weights, n, c, i, low, high, half_low, half_high, sums
                )


@cuda_kernel
def difference_cuda(
    kind, mask, first_lower, first_upper, first_frames, first_image, first_frame,
    second_lower, second_upper, second_frames, second_image, low, high,
):  # fmt: skip
    """One thread a row of a pair."""
    index = cuda.grid(1)
    rows = low.shape[1] * low.shape[2]
    if index < low.shape[0] * rows:
        difference_row(
            kind, mask, first_lower, first_upper, first_frames, first_image, first_frame, second_lower, second_upper,
            second_frames, second_image, index // rows, index % rows // low.shape[2], index % low.shape[2], low, high,
        )  # fmt: skip


@cuda_kernel
def norm_cuda(row_start, row_weights, column_start, column_weights, low, high, half_low, half_high, sums):
    """One thread an output row of a pair."""
    index = cuda.grid(1)
    rows = sums.shape[1] * sums.shape[2]
    if index < sums.shape[0] * rows:
        n, c, i = index // rows, index % rows // sums.shape[2], index % sums.shape[2]
        filtered_row(
            row_start, row_weights, column_start, column_weights, n, c, i, low, high, half_low, half_high, sums
        )


def rounded_images(
    image: NDArray[np.float32], frames: NDArray[np.float64], kind: int, device: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interval images [K, H, W, C] of ``round8(T_t x)`` for ``t`` in each cell."""
    lower, upper = np.empty((len(frames), *image.shape)), np.empty((len(frames), *image.shape))
    if device == "cpu":
        _rounded_cpu(kind, frames, image[None], lower, upper)
        return lower, upper
    ends = cuda.device_array(lower.shape, np.float64), cuda.device_array(lower.shape, np.float64)
    cuda_launch(rounded_cuda, lower.size, kind, cuda.to_device(frames), cuda.to_device(image[None]), *ends)
    return ends[0].copy_to_host(), ends[1].copy_to_host()


def pair_norms(
    kind: int,
    operator: Operator,
    first: tuple[NDArray[Any], ...],
    second: tuple[NDArray[Any], ...],
    device: str,
) -> NDArray[np.float64]:
    """Squared norms [N] of P (first - second), rounded up; see ``gpu.error_norm``."""
    count, channels = len(second[3]), first[0].shape[3]
    height, width = operator.mask.shape
    rows, _ = operator.output_shape
    bands = (operator.rows.start, operator.rows.weights, operator.columns.start, operator.columns.weights)
    full, half = (count, channels, height, width), (count, channels, rows, width)
    sums = np.empty((count, channels, rows))
    if device == "cpu":
        _pairs_cpu(
            kind, operator.mask, *first, *second, *bands,
            np.empty(full), np.empty(full), np.empty(half), np.empty(half), sums,
        )  # fmt: skip
    else:
        ends = cuda.device_array(full, np.float64), cuda.device_array(full, np.float64)
        halves = cuda.device_array(half, np.float64), cuda.device_array(half, np.float64)
        d_sums = cuda.device_array(sums.shape, np.float64)
        cuda_launch(
            difference_cuda, count * channels * height, kind, cuda.to_device(operator.mask),
            *(cuda.to_device(array) for array in first), *(cuda.to_device(array) for array in second), *ends,
        )  # fmt: skip
        cuda_launch(norm_cuda, sums.size, *(cuda.to_device(array) for array in bands), *ends, *halves, d_sums)
        sums = d_sums.copy_to_host()
    # math.fsum would be exact; this sum of non-negative terms is off by at most its length times 2^-52.
    total = sums.reshape(count, -1).sum(axis=1)
    return np.asarray(total * (1.0 + math.prod(sums.shape[1:]) * 2.0**-52))
