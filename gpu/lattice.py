"""Gaussian noise on a lattice, for l2 certificates that floating-point arithmetic cannot break.

The base classifier sees multiples of ``q = 1 / STEPS`` only, and the noise added to such a multiple is ``q K`` with
``K`` the integer nearest to a normal variable of deviation ``sigma / q``. The sum is exactly "Gaussian noise, then
round to the lattice", so Cohen et al.'s theorem holds without a word on floating point (docs/guarantees.md, D.6).
Adding float noise to a float pixel instead leaves traces of the pixel in the low bits of the sum, and a classifier
that reads them is certified wrongly (Jin et al. 2022). 8-bit intensities are lattice points: 65535 = 255 * 257.

Source: Voracek and Hein (2023), Sound randomized smoothing in floating-point arithmetic, ICLR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import ArrayLike, NDArray

from .noise import LATTICE_STREAM, TILE, WORDS, NoiseError, minus_log, philox, tile_words
from .targets import scalar

STEPS = 65535
"""Lattice points in an intensity of 1."""
PIXELS = WORDS // 2
"""Pixels that a block of random words serves."""
LEAST_SIGMA, LARGEST_SIGMA = 2.0**-8, 4.0
REACH = 8.5
"""Standard deviations beyond which no noise is drawn; outside is a probability below 2e-17."""
BITS = 63
"""Random bits that choose ``|K|``."""
_HALF_WORD, _ONE = np.uint64(31), np.uint64(1)


@dataclass(frozen=True, eq=False)
class LatticeNoise:
    """The distribution of ``K``; see :meth:`of`.

    Parameters
    ----------
    sigma : float
        Intensity.
    survival : ndarray [reach + 2] int64
        ``survival[k] / 2^63`` is the probability of ``|K| >= k`` for k >= 1; it does not increase, and ends with 0.
        Entry 0 stands for ``2^63``, which is no int64, and is never looked at.
    total_variation : float
        At least the total variation distance, for one number, between the noise drawn from ``survival`` and the exact
        one; for ``d`` numbers it is at most ``d`` times as large.
    """

    sigma: float
    survival: NDArray[np.int64]
    total_variation: float

    @classmethod
    def of(cls, sigma: float) -> LatticeNoise:
        """The noise of standard deviation ``sigma`` in [2^-8, 4], intensity.

        With ``h = q / sigma`` and ``x = k h``, ``P(K = k) = h phi(x) (1 + h^2 (x^2 - 1) / 24 + h^4 (x^4 - 6 x^2 + 3)
        / 1920)`` up to a part that sums to less than 1e-4 h^6 over k. In float64 each value is within a factor
        ``1 +- (3 x^2 + 17) 2^-53`` (allowing exp 4 units in the last place), 20 * 2^-53 on average, and rounding to
        multiples of 2^-63 adds 2^-64 for each ``|K|``. What is missing or left over falls to ``K = 0``. All this,
        and what lies beyond ``REACH``, stays below ``2^-48 + reach 2^-64``.

        Raises
        ------
        NoiseError
            If sigma is out of range.
        """
        if not LEAST_SIGMA <= sigma <= LARGEST_SIGMA:
            raise NoiseError(f"sigma must be in [{LEAST_SIGMA}, {LARGEST_SIGMA}], not {sigma}")
        h = 1.0 / (STEPS * float(sigma))
        k = np.arange(1.0, math.ceil(REACH / h) + 1.0)
        x2 = (k * h) ** 2
        series = 1.0 + h * h / 24.0 * (x2 - 1.0) + h**4 / 1920.0 * (x2 * x2 - 6.0 * x2 + 3.0)
        probability = h / math.sqrt(2.0 * math.pi) * np.exp(-k * k * (0.5 * h * h)) * series
        counts = np.rint(2.0 ** (BITS + 1) * probability).astype(np.int64)
        survival = np.zeros(len(k) + 2, dtype=np.int64)
        survival[1:-1] = np.cumsum(counts[::-1])[::-1]
        survival[0] = np.iinfo(np.int64).max
        return cls(float(sigma), survival, 2.0**-48 + len(k) * 2.0**-64)

    @cached_property
    def on_device(self) -> Any:
        """``survival`` on the CUDA device, copied once."""
        return cuda.to_device(self.survival)


def to_lattice(values: ArrayLike) -> NDArray[np.int32]:
    """The nearest lattice points, as integers: ``|value - integer / STEPS| <= (1/2 + 2^-36) / STEPS``.

    Exact for the float32 or float64 nearest to ``m / 255``, which becomes ``257 m``.

    Parameters
    ----------
    values : array_like of float
        Intensities, finite and in [-1, 2]; computed in float64, whose rounding is in the bound.

    Raises
    ------
    NoiseError
        If a value is out of range.
    """
    array = np.asarray(values, dtype=np.float64)
    if not (np.abs(array - 0.5) <= 1.5).all():
        raise NoiseError("intensities must be finite and in [-1, 2]")
    return np.rint(array * STEPS).astype(np.int32)


def lattice_loss(numbers: int, error: float = 0.0) -> float:
    """How much further apart two images behind P can be once they are rounded to the lattice, l2, intensity.

    Zero needs no function: where P only keeps or drops 8-bit pixels, nothing is rounded.

    Parameters
    ----------
    numbers : int
        Numbers in an image behind P, >= 1.
    error : float
        At least ``|computed - exact|`` of each number before it is rounded, >= 0.

    Raises
    ------
    NoiseError
        If an argument is out of range.
    """
    if numbers < 1 or not (math.isfinite(error) and error >= 0.0):
        raise NoiseError(f"numbers must be >= 1 and error finite and >= 0, not {numbers} and {error}")
    return math.sqrt(numbers) * ((1.0 + 2.0**-34) / STEPS + 2.0 * error) * (1.0 + 2.0**-40)


@scalar
def first_guess(high, scale):
    """About ``|K|`` for a two-sided tail probability of ``(high + 1/2) / 2^32``; ``scale`` is ``sigma STEPS``.

    A rational function of ``sqrt(-log p)``, within 3e-7 of the normal quantile. Nothing depends on that but time.
    """
    t2 = minus_log(high)
    t = math.sqrt(t2)
    above = 1.25334416 + t * (1.9586042 + t * (2.39406653 + t * (1.31374322 - t * 2.77474e-4)))
    below = 1.0 + t * (1.56229865 + t * (2.41867452 + t * (1.77992106 + t * 0.92355415)))
    return np.int32(scale * (t2 * above / below) + 0.5)


@scalar
def lattice_integer(high, low, guess, survival):
    """K of two words: 63 of their bits choose ``|K|``, the largest k with ``survival[k]`` above them; one the sign."""
    u = np.int64((np.uint64(high) << _HALF_WORD) | (np.uint64(low) >> _ONE))
    k = np.int64(min(guess, survival.shape[0] - 2))
    while k > 0 and survival[k] <= u:
        k -= 1
    while survival[k + 1] > u:
        k += 1
    return k * (1 - 2 * np.int64(np.uint64(low) & _ONE))  # a branch here would be mispredicted half the time


@scalar
def intensity(integer):
    """The float32 nearest to ``integer / STEPS`` (rounded twice): a function of the integer alone."""
    return np.float32(np.float64(integer) / np.float64(STEPS))


@scalar
def fill_row(row, image, draw, vote, k0, k1, scale, survival, words, integers):
    """``row`` [P] float32 from lattice integers ``image`` [P] and noise; scratch: words [4, TILE], integers [TILE]."""
    for start in range(0, row.shape[0], PIXELS * TILE):
        tile_words(start // PIXELS, vote, draw, LATTICE_STREAM, k0, k1, words)
        for k in range(PIXELS):
            first = start + k * TILE
            for j in range(TILE):
                integers[j] = first_guess(words[2 * k, j], scale)
            for j in range(TILE):
                integers[j] = lattice_integer(words[2 * k, j], words[2 * k + 1, j], integers[j], survival)
            for j in range(min(TILE, row.shape[0] - first)):
                row[first + j] = intensity(image[first + j] + integers[j])


@scalar
def fill_block(row, image, block, draw, vote, k0, k1, scale, survival):
    """The pixels of one block, as :func:`fill_row` fills them."""
    high, low, next_high, next_low = philox(
        np.uint64(block), np.uint64(vote), np.uint64(draw), np.uint64(LATTICE_STREAM), k0, k1
    )  # fmt: skip
    first = block // TILE * (PIXELS * TILE) + block % TILE
    for k in range(PIXELS):
        pixel = first + k * TILE
        if pixel < row.shape[0]:
            noise = lattice_integer(high, low, first_guess(high, scale), survival)
            row[pixel] = intensity(image[pixel] + noise)
        high, low = next_high, next_low
