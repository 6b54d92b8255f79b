"""Loops of the lattice noise: every pixel of every noisy copy of one image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda, prange
from numpy.typing import ArrayLike, NDArray

from ..lattice import PIXELS, STEPS, LatticeNoise, fill_block, fill_row
from ..noise import TILE, WORDS, NoiseError, block_count, counter_words, key_words
from ..targets import cpu_kernel, cuda_kernel, cuda_launch
from .noise import as_rows


@cpu_kernel
def _lattice_cpu(rows, image, draws, votes, k0, k1, scale, survival):
    for index in prange(rows.shape[0]):
        n = np.int64(index)
        words, integers = np.empty((WORDS, TILE), np.uint32), np.empty(TILE, np.int32)
        fill_row(rows[n], image, draws[n], votes[n], k0, k1, scale, survival, words, integers)


@cuda_kernel
def lattice_cuda(rows, image, draws, votes, k0, k1, scale, survival, blocks):
    """One thread a block of a row."""
    index = cuda.grid(1)
    if index < rows.shape[0] * blocks:
        n = index // blocks
        fill_block(rows[n], image, index % blocks, draws[n], votes[n], k0, k1, scale, survival)


def launch(
    image: NDArray[np.int32], noise: LatticeNoise, key: int, draws: ArrayLike, votes: ArrayLike, out: Any, device: str
) -> None:
    """Fill ``out`` with ``(image + K) / STEPS``, K a function of (key, draw, vote, pixel) alone.

    Parameters
    ----------
    image : ndarray [C, h, w] int32
        Lattice integers, from :func:`gpu.lattice.to_lattice`.
    noise : LatticeNoise
    key : int
        In [0, 2^64).
    draws, votes : array_like [N] of int
        Numbers of the parameter draw and of the vote of each row, in [0, 2^32).
    out : array [N, C, h, w] float32
        Contiguous, on the device.
    device : {"cpu", "cuda"}

    Raises
    ------
    NoiseError
        If an argument is out of range.
    """
    rows = as_rows(out, device)
    if image.dtype != np.int32 or image.shape != tuple(out.shape[1:]):
        raise NoiseError(f"image must be {tuple(out.shape[1:])} int32, not {image.shape} {image.dtype}")
    k0, k1 = key_words(key)
    count, pixels = rows.shape
    numbers = counter_words("draws", draws, count), counter_words("votes", votes, count)
    flat = np.ascontiguousarray(image).reshape(-1)
    if count == 0 or pixels == 0:
        return
    scale = noise.sigma * STEPS
    if device == "cpu":
        _lattice_cpu(rows, flat, *numbers, k0, k1, scale, noise.survival)
        return
    blocks = block_count(pixels, PIXELS)
    on_device = [cuda.to_device(array) for array in (flat, *numbers)]
    cuda_launch(lattice_cuda, count * blocks, rows, *on_device, k0, k1, scale, noise.on_device, blocks)
