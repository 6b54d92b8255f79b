"""Loops of the inverse image: source boxes, refinement passes, the final check; cells run side by side."""

from __future__ import annotations

import numpy as np
from numba import cuda, prange
from numpy.typing import NDArray

from ..inverse import InverseBoxes, constrain_pixel, source_boxes_at, unreachable
from ..targets import cpu_kernel, cuda_kernel, cuda_launch


@cpu_kernel
def _inverse_cpu(kind, reach, frames, received, tolerance, passes, boxes, lower, upper, next_lower, next_upper, empty):
    height, width, channels = received.shape
    for index in prange(frames.shape[0]):
        k = np.int64(index)
        for i in range(height):
            for j in range(width):
                source_boxes_at(kind, frames, k, i, j, boxes)
        for _ in range(passes):
            for i in range(height):
                if empty[k]:
                    break
                for j in range(width):
                    for c in range(channels):
                        if constrain_pixel(
                            kind, reach, frames, boxes, received, tolerance, lower, upper, k, i, j, c,
                            next_lower, next_upper,
                        ):
                            empty[k] = True
            if empty[k]:
                break
            lower[k] = next_lower[k]
            upper[k] = next_upper[k]
        for i in range(height):
            if empty[k]:
                break
            for j in range(width):
                for c in range(channels):
                    if unreachable(received, tolerance, boxes, lower, upper, k, i, j, c):
                        empty[k] = True


@cuda_kernel
def boxes_cuda(kind, frames, boxes):
    """One thread a source box."""
    index = cuda.grid(1)
    pixels = boxes.shape[1] * boxes.shape[2]
    if index < boxes.shape[0] * pixels:
        source_boxes_at(
            kind, frames, index // pixels, index % pixels // boxes.shape[2], index % boxes.shape[2], boxes
        )


@cuda_kernel
def constrain_cuda(kind, reach, frames, boxes, received, tolerance, lower, upper, next_lower, next_upper, empty):
    """One thread a pixel of a cell; a cell found empty stays empty and is skipped."""
    index = cuda.grid(1)
    height, width, channels = received.shape[0], received.shape[1], received.shape[2]
    values = height * width * channels
    if index < lower.shape[0] * values:
        k, rest = index // values, index % values
        if not empty[k]:
            i, j, c = rest // (width * channels), rest // channels % width, rest % channels
            if constrain_pixel(
                kind, reach, frames, boxes, received, tolerance, lower, upper, k, i, j, c, next_lower, next_upper
            ):
                empty[k] = True


@cuda_kernel
def check_cuda(received, tolerance, boxes, lower, upper, empty):
    """One thread a received pixel of a cell."""
    index = cuda.grid(1)
    height, width, channels = received.shape[0], received.shape[1], received.shape[2]
    values = height * width * channels
    if index < lower.shape[0] * values:
        k, rest = index // values, index % values
        if not empty[k]:
            i, j, c = rest // (width * channels), rest // channels % width, rest % channels
            if unreachable(received, tolerance, boxes, lower, upper, k, i, j, c):
                empty[k] = True


def launch(
    received: NDArray[np.float32],
    frames: NDArray[np.float64],
    kind: int,
    reach: float,
    tolerance: float,
    refinements: int,
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    device: str,
) -> InverseBoxes:
    """Run all cells at once, from ``lower`` and ``upper`` [K, H, W, C] on; see ``gpu.inverse.inverse_boxes``."""
    shape = lower.shape
    boxes = np.empty((*shape[:3], 4))
    empty = np.zeros(shape[0], dtype=np.bool_)
    if device == "cpu":
        scratch = np.empty(shape), np.empty(shape)
        _inverse_cpu(
            kind, reach, frames, received, tolerance, refinements + 1, boxes, lower, upper, *scratch, empty
        )
        return InverseBoxes(lower, upper, empty)
    d_received, d_frames, d_empty = cuda.to_device(received), cuda.to_device(frames), cuda.to_device(empty)
    d_boxes = cuda.device_array(boxes.shape, np.float64)
    current = cuda.to_device(lower), cuda.to_device(upper)
    following = cuda.device_array(shape, np.float64), cuda.device_array(shape, np.float64)
    cuda_launch(boxes_cuda, shape[0] * shape[1] * shape[2], kind, d_frames, d_boxes)
    for _ in range(refinements + 1):
        cuda_launch(
            constrain_cuda, lower.size, kind, reach, d_frames, d_boxes, d_received, tolerance, *current, *following,
            d_empty,
        )  # fmt: skip
        current, following = following, current
    cuda_launch(check_cuda, lower.size, d_received, tolerance, d_boxes, *current, d_empty)
    return InverseBoxes(current[0].copy_to_host(), current[1].copy_to_host(), d_empty.copy_to_host())
