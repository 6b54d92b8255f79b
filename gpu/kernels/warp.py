"""Loops of the warp: transform and mask, filter rows, filter columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda, prange
from numpy.typing import NDArray

from ..filtering import filter_row
from ..geometry import source_point
from ..interpolation import bilinear
from ..preprocess import Operator
from ..targets import cpu_kernel, cuda_kernel, cuda_launch, scalar


@scalar
def transformed_pixel(images, frames, kind, n, i, j, c):
    """Pixel ``[i, j, c]`` of ``T_t x`` for parameter ``n``."""
    height, width = images.shape[1], images.shape[2]
    x, y = source_point(kind, frames[n, 0], frames[n, 1], j - 0.5 * (width - 1), i - 0.5 * (height - 1))
    return bilinear(images, min(n, images.shape[0] - 1), x, y, c)


@scalar
def masked_row(images, frames, kind, mask, n, c, i, out):
    """Row ``i`` of the masked transform, into ``out[n, c, i]``."""
    for j in range(images.shape[2]):
        if mask[i, j]:
            out[n, c, i, j] = transformed_pixel(images, frames, kind, n, i, j, c)
        else:
            out[n, c, i, j] = 0.0


@cpu_kernel
def transform_cpu(images, frames, kind, out):
    """``out`` [N, H, W, C]: the transform alone."""
    for index in prange(out.shape[0]):
        n = np.int64(index)  # prange counts unsigned, and unsigned with signed makes a float
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                for c in range(out.shape[3]):
                    out[n, i, j, c] = transformed_pixel(images, frames, kind, n, i, j, c)


@cpu_kernel
def _warp_cpu(images, frames, kind, mask, row_start, row_weights, column_start, column_weights, values, half, out):
    for index in prange(out.shape[0]):
        n = np.int64(index)
        for c in range(values.shape[1]):
            for i in range(values.shape[2]):
                masked_row(images, frames, kind, mask, n, c, i, values)
            for i in range(out.shape[2]):
                filter_row(values, row_start, row_weights, column_start, column_weights, n, c, i, half, out)


@cuda_kernel
def mask_cuda(images, frames, kind, mask, values):
    """One thread a row of the masked transform."""
    index = cuda.grid(1)
    rows = values.shape[1] * values.shape[2]
    if index < values.shape[0] * rows:
        masked_row(
            images, frames, kind, mask, index // rows, index % rows // values.shape[2], index % values.shape[2], values
        )


@cuda_kernel
def filter_cuda(values, row_start, row_weights, column_start, column_weights, half, out):
    """One thread an output row."""
    index = cuda.grid(1)
    rows = out.shape[1] * out.shape[2]
    if index < out.shape[0] * rows:
        n, c, i = index // rows, index % rows // out.shape[2], index % out.shape[2]
        filter_row(values, row_start, row_weights, column_start, column_weights, n, c, i, half, out)


def launch(
    images: NDArray[np.float32], frames: NDArray[np.float64], kind: int, operator: Operator, out: Any, device: str
) -> None:
    """Fill ``out`` [N, C, h, w] with P T_t x."""
    count, channels = out.shape[0], out.shape[1]
    height, width = operator.mask.shape
    half_shape = (count, channels, operator.output_shape[0], width)
    bands = (operator.rows.start, operator.rows.weights, operator.columns.start, operator.columns.weights)
    if device == "cpu":
        values = np.empty((count, channels, height, width))
        _warp_cpu(images, frames, kind, operator.mask, *bands, values, np.empty(half_shape), out)
        return
    on_device = [cuda.to_device(array) for array in bands]
    values = cuda.device_array((count, channels, height, width), np.float64)
    half = cuda.device_array(half_shape, np.float64)
    target = cuda.as_cuda_array(out) if hasattr(out, "__cuda_array_interface__") else out
    cuda_launch(
        mask_cuda, count * channels * height,
        cuda.to_device(images), cuda.to_device(frames), kind, cuda.to_device(operator.mask), values,
    )  # fmt: skip
    cuda_launch(filter_cuda, count * channels * operator.output_shape[0], values, *on_device, half, target)
