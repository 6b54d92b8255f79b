"""Loops of Gaussian interpolation: every output pixel of every parameter."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda, prange
from numpy.typing import NDArray

from ..preprocess import GaussianOperator
from ..sampling import sample_row_into
from ..targets import cpu_kernel, cuda_kernel, cuda_launch


@cpu_kernel
def _sample_cpu(source, frames, kind, sigma, reach, pad, weights, out):
    for index in prange(out.shape[0]):
        n = np.int64(index)
        s = min(n, source.shape[0] - 1)
        for i in range(out.shape[2]):
            sample_row_into(
                source, kind, frames[n, 0], frames[n, 1], sigma, reach, pad, s, n, i, weights, n, out
            )


@cuda_kernel
def sample_cuda(source, frames, kind, sigma, reach, pad, weights, out):
    """One thread an output row."""
    index = cuda.grid(1)
    if index < out.shape[0] * out.shape[2]:
        n, i = index // out.shape[2], index % out.shape[2]
        s = min(n, source.shape[0] - 1)
        sample_row_into(
            source, kind, frames[n, 0], frames[n, 1], sigma, reach, pad, s, n, i, weights, index, out
        )


def launch(
    source: NDArray[np.float64], frames: NDArray[np.float64], kind: int, operator: GaussianOperator, out: Any,
    device: str, pad: int = 0,
) -> None:  # fmt: skip
    """Fill ``out`` [N, C, H + 2 pad, W + 2 pad] with the samples of masked images [M, C, H, W], M = 1 or N."""
    taps = 2 * math.ceil(operator.reach) + 1
    if device == "cpu":
        weights = np.empty((out.shape[0], 3, taps))
        _sample_cpu(source, frames, kind, operator.sigma, operator.reach, pad, weights, out)
        return
    rows = out.shape[0] * out.shape[2]
    target = cuda.as_cuda_array(out) if hasattr(out, "__cuda_array_interface__") else out
    cuda_launch(
        sample_cuda, rows, cuda.to_device(source), cuda.to_device(frames), kind, operator.sigma, operator.reach, pad,
        cuda.device_array((rows, 3, taps), np.float64), target,
    )  # fmt: skip
