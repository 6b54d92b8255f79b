"""Noise by counter: random words and normals that depend on a key and a counter, and on nothing else.

Philox4x32-10 turns a 64-bit key and four 32-bit counter words into four random words. The counter is
``(block of pixels, vote, draw, stream)``, so a pixel's noise is the same in every batch, on every thread and in
any order. Pixels are numbered through [C, h, w]; a block serves a few of them that lie a fixed distance apart,
so that the loop over the blocks of a tile vectorises.

On a CPU the normals are the same bits everywhere: only exactly rounded operations are used, no library's
logarithm or sine. CUDA may fuse a product and a sum, which can move a float32 by its last bit.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .targets import scalar

PIXEL_STREAM, LATTICE_STREAM = 0, 1
"""Fourth counter word: what the words are for. Under one key, each use has a stream of its own."""
WORDS = 4
"""Random words in one block of Philox."""
TILE = 32
"""Blocks that are computed together; their pixels stand in ``WORDS`` runs of ``TILE`` pixels."""

_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_EXPONENT, _SQRT_HALF = np.int64(52), np.int64(0x3FE6A09E00000000)
_LOG_2, _QUARTER_TURN = math.log(2.0), 0.5 * math.pi
_QUADRANT, _ONE, _TWO = np.uint32(30), np.uint32(1), np.uint32(2)


class NoiseError(ValueError):
    """A key, a counter, a shape or a noise level that is out of range."""


@scalar
def philox_round(c0, c1, c2, c3, k0, k1):
    """One of the ten rounds: the next counter words and the next key words."""
    p0 = _M0 * c0
    p1 = _M1 * c2
    return (
        (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW, (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW, (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    )  # fmt: skip


@scalar
def philox(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10: four random words of counter ``c`` and key ``k``, all uint64 below 2^32.

    Source: Salmon, Moraes, Dror, Shaw (2011), Parallel random numbers: as easy as 1, 2, 3, SC'11.
    """
    for _ in range(10):
        c0, c1, c2, c3, k0, k1 = philox_round(c0, c1, c2, c3, k0, k1)
    return c0, c1, c2, c3


@scalar
def tile_words(first, vote, draw, stream, k0, k1, words):
    """The words of blocks ``first`` to ``first + TILE - 1``, into ``words`` [WORDS, TILE] uint32."""
    for j in range(TILE):
        # the rounds of philox stand here again: a call to it would not be inlined, so the loop would not vectorise
        c0, c1, c2, c3 = np.uint64(first + j), np.uint64(vote), np.uint64(draw), np.uint64(stream)
        key0, key1 = k0, k1
        for _ in range(10):
            c0, c1, c2, c3, key0, key1 = philox_round(c0, c1, c2, c3, key0, key1)
        words[0, j], words[1, j], words[2, j], words[3, j] = c0, c1, c2, c3


@scalar
def minus_log(word):
    """``-log((word + 1/2) / 2^32)`` for a word in [0, 2^32): finite and above 0, within 2e-10 of itself."""
    bits = np.float64((np.float64(np.uint32(word)) + 0.5) * 2.0**-32).view(np.int64)
    exponent = (bits - _SQRT_HALF) >> _EXPONENT
    mantissa = np.int64(bits - (exponent << _EXPONENT)).view(np.float64)  # in [sqrt(1/2), sqrt(2))
    s = (mantissa - 1.0) / (mantissa + 1.0)
    z = s * s
    log_mantissa = 2.0 * s * (1.0 + z * (1 / 3 + z * (1 / 5 + z * (1 / 7 + z * (1 / 9 + z * (1 / 11))))))
    return -(np.float64(np.int32(exponent)) * _LOG_2 + log_mantissa)


@scalar
def normal_pair(w0, w1):
    """Two independent standard normals of two words, by Box and Muller (1958); ``|z| <= 6.77``.

    The angle is one of 2^32 on the circle. The series of log, sin and cos are cut where the error is below 2e-9 of
    the radius, which disappears when the sum with a pixel becomes a float32.
    """
    radius = math.sqrt(2.0 * minus_log(w0))
    turn = np.float64(np.int32(np.uint32(w1 << _TWO))) * 2.0**-32 + 2.0**-31  # quarters, in (-1/2, 1/2)
    a = turn * _QUARTER_TURN
    z = a * a
    sine = a * (1.0 + z * (-1 / 6 + z * (1 / 120 + z * (-1 / 5040 + z * (1 / 362880)))))
    cosine = 1.0 + z * (-1 / 2 + z * (1 / 24 + z * (-1 / 720 + z * (1 / 40320 + z * (-1 / 3628800)))))
    quadrant = np.uint32(w1) >> _QUADRANT
    odd = (quadrant & _ONE) != 0
    x = sine if odd else cosine
    y = cosine if odd else sine
    x = -x if ((quadrant + _ONE) & _TWO) != 0 else x
    y = -y if (quadrant & _TWO) != 0 else y
    return radius * x, radius * y


@scalar
def add_row(row, draw, vote, k0, k1, sigma, words, normals):
    """Add noise to all pixels ``row`` [P] float32, tile by tile; scratch: words [4, TILE], normals [4, TILE]."""
    for start in range(0, row.shape[0], WORDS * TILE):
        tile_words(start // WORDS, vote, draw, PIXEL_STREAM, k0, k1, words)
        for k in range(0, WORDS, 2):
            for j in range(TILE):
                normals[k, j], normals[k + 1, j] = normal_pair(words[k, j], words[k + 1, j])
        for k in range(WORDS):
            first = start + k * TILE
            for j in range(min(TILE, row.shape[0] - first)):
                row[first + j] = row[first + j] + sigma * normals[k, j]


@scalar
def add_block(row, block, draw, vote, k0, k1, sigma):
    """Add noise to the pixels of one block, as :func:`add_row` does."""
    w0, w1, w2, w3 = philox(
        np.uint64(block), np.uint64(vote), np.uint64(draw), np.uint64(PIXEL_STREAM), k0, k1
    )  # fmt: skip
    first = block // TILE * (WORDS * TILE) + block % TILE
    for k in range(0, WORDS, 2):
        z0, z1 = normal_pair(np.uint32(w0), np.uint32(w1))
        if first + k * TILE < row.shape[0]:
            row[first + k * TILE] = row[first + k * TILE] + sigma * z0
        if first + (k + 1) * TILE < row.shape[0]:
            row[first + (k + 1) * TILE] = row[first + (k + 1) * TILE] + sigma * z1
        w0, w1 = w2, w3


def block_count(pixels: int, pixels_of_block: int) -> int:
    """Blocks that serve ``pixels`` pixels, in whole tiles."""
    return TILE * math.ceil(pixels / (TILE * pixels_of_block))


def key_words(key: int) -> tuple[np.uint64, np.uint64]:
    """The two 32-bit words of a key in [0, 2^64), low word first.

    Raises
    ------
    NoiseError
        If the key is out of range.
    """
    if not 0 <= key < 1 << 64:
        raise NoiseError(f"key must be in [0, 2^64), not {key}")
    return np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32)


def counter_words(name: str, values: ArrayLike, count: int) -> NDArray[np.int64]:
    """Draw or vote numbers as int64 [count], each in [0, 2^32).

    Raises
    ------
    NoiseError
        If a value is no integer of that range, or there are not ``count`` of them.
    """
    array = np.asarray(values)
    if array.shape != (count,):
        raise NoiseError(f"{name} must be [{count}], one for each row, not {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise NoiseError(f"{name} must be integers, not {array.dtype}")
    if count and not (array.min() >= 0 and array.max() < 1 << 32):
        raise NoiseError(f"{name} must be in [0, 2^32), not {array.min()} to {array.max()}")
    return np.ascontiguousarray(array, dtype=np.int64)
