"""Loops of the pixel noise: every pixel of every row of a batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda, prange
from numpy.typing import ArrayLike

from ..noise import TILE, WORDS, NoiseError, add_block, add_row, block_count, counter_words, key_words
from ..targets import cpu_kernel, cuda_kernel, cuda_launch


@cpu_kernel
def _noise_cpu(rows, draws, votes, k0, k1, sigma):
    for index in prange(rows.shape[0]):
        n = np.int64(index)
        words, normals = np.empty((WORDS, TILE), np.uint32), np.empty((WORDS, TILE), np.float64)
        add_row(rows[n], draws[n], votes[n], k0, k1, sigma, words, normals)


@cuda_kernel
def noise_cuda(rows, draws, votes, k0, k1, sigma, blocks):
    """One thread a block of a row."""
    index = cuda.grid(1)
    if index < rows.shape[0] * blocks:
        n = index // blocks
        add_block(rows[n], index % blocks, draws[n], votes[n], k0, k1, sigma)


def as_rows(out: Any, device: str) -> Any:
    """``out`` [N, C, h, w] float32, contiguous, as [N, C h w] on its device: a view.

    Raises
    ------
    NoiseError
        If it is of another shape or type, or not contiguous.
    """
    if device == "cuda" and hasattr(out, "__cuda_array_interface__"):
        out = cuda.as_cuda_array(out)
    if len(out.shape) != 4 or out.dtype != np.float32:
        raise NoiseError(f"out must be [N, C, h, w] float32, not {tuple(out.shape)} {out.dtype}")
    contiguous = out.flags["C_CONTIGUOUS"] if device == "cpu" else out.is_c_contiguous()
    if not contiguous:
        raise NoiseError("out must be contiguous")
    return out.reshape(out.shape[0], math.prod(out.shape[1:]))


def launch(key: int, draws: ArrayLike, votes: ArrayLike, sigma: float, out: Any, device: str) -> None:
    """Add ``sigma * z`` to ``out``, z standard normal, a function of (key, draw, vote, pixel) alone.

    Parameters
    ----------
    key : int
        In [0, 2^64).
    draws, votes : array_like [N] of int
        Numbers of the parameter draw and of the vote of each row, in [0, 2^32).
    sigma : float
        Intensity, finite and >= 0.
    out : array [N, C, h, w] float32
        Contiguous, on the device; the sum is computed in float64 and rounded once.
    device : {"cpu", "cuda"}

    Raises
    ------
    NoiseError
        If an argument is out of range.
    """
    if not (math.isfinite(sigma) and sigma >= 0.0):
        raise NoiseError(f"sigma must be finite and >= 0, not {sigma}")
    rows = as_rows(out, device)
    k0, k1 = key_words(key)
    count, pixels = rows.shape
    numbers = counter_words("draws", draws, count), counter_words("votes", votes, count)
    if count == 0 or pixels == 0:
        return
    if device == "cpu":
        _noise_cpu(rows, *numbers, k0, k1, float(sigma))
        return
    blocks = block_count(pixels, WORDS)
    on_device = [cuda.to_device(array) for array in numbers]
    cuda_launch(noise_cuda, count * blocks, rows, *on_device, k0, k1, float(sigma), blocks)
