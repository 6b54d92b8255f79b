"""Noise by counter: known answers, exact formulas at many digits, independence of the batch, and the distribution."""

from __future__ import annotations

import mpmath
import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gpu.kernels.noise import launch
from gpu.noise import PIXEL_STREAM, TILE, WORDS, NoiseError, key_words, normal_pair, philox, tile_words

LARGEST = 2**32 - 1
WORD = st.integers(0, LARGEST)
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def noise(draws, votes, *, key=1, sigma=1.0, shape=(1, 28, 28)):
    """``sigma z`` alone, on an image of zeros."""
    out = np.zeros((len(draws), *shape), dtype=np.float32)
    launch(key, draws, votes, sigma, out, "cpu")
    return out


def words(text):
    return [np.uint64(int(word, 16)) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_known_answers(counter, key, expected):
    """Oracle: kat_vectors of Random123, the authors' own implementation."""
    assert list(philox(*words(counter), *words(key))) == words(expected)


@given(st.integers(0, 2**20), WORD, WORD, WORD, st.integers(0, 2**64 - 1))
def test_a_tile_holds_the_words_of_its_blocks(first, vote, draw, stream, key):
    found = np.empty((WORDS, TILE), np.uint32)
    tile_words(first, vote, draw, stream, *key_words(key), found)
    for j in (0, 7, TILE - 1):
        counter = (np.uint64(word) for word in (first + j, vote, draw, stream))
        assert list(found[:, j]) == list(philox(*counter, *key_words(key)))


@given(st.one_of(WORD, st.sampled_from([0, 1, 2**31 - 1, 2**31, LARGEST])), WORD)
def test_normal_pair_is_box_muller(w0, w1):
    """Oracle: the same formula at 30 digits."""
    with mpmath.workdps(30):
        u = (mpmath.mpf(w0) + 0.5) / 2**32
        low = ((w1 << 2) + 2**31) % 2**32 - 2**31
        angle = (mpmath.mpf(w1 >> 30) + mpmath.mpf(low + 2) / 2**32) * mpmath.pi / 2
        radius = mpmath.sqrt(-2 * mpmath.log(u))
        expected = radius * mpmath.cos(angle), radius * mpmath.sin(angle)
        found = normal_pair(np.uint32(w0), np.uint32(w1))
        assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= 2e-9 * radius


def test_no_word_gives_a_normal_that_is_not_finite_and_the_tails_are_long():
    ends = np.array([0, 1, 2**30, 2**31 - 1, 2**31, 2**31 + 1, LARGEST - 1, LARGEST], dtype=np.uint32)
    found = np.array([normal_pair(a, b) for a in ends for b in ends])
    assert np.isfinite(found).all()
    assert 6.7 < np.abs(found).max() < 6.77


def test_pixel_noise_is_the_normal_of_its_counter():
    """Which block and word serve a pixel is part of what makes a certificate reproducible."""
    found = noise([9], [5], key=2**40 + 3, sigma=0.25)[0].ravel()
    for pixel in (0, 31, 32, 127, 128, 700, 783):
        block, word = pixel // 128 * 32 + pixel % 32, pixel % 128 // 32
        counter = (np.uint64(value) for value in (block, 5, 9, PIXEL_STREAM))
        random = [np.uint32(value) for value in philox(*counter, np.uint64(3), np.uint64(2**8))]
        pair = normal_pair(*random[word // 2 * 2 : word // 2 * 2 + 2])
        assert found[pixel] == np.float32(0.25 * pair[word % 2])


def test_noise_does_not_depend_on_the_batch_its_order_or_the_threads():
    generator = np.random.default_rng(0)
    draws, votes = generator.integers(0, 2**32, (2, 50))
    together = noise(draws, votes)
    order = generator.permutation(50)
    np.testing.assert_array_equal(noise(draws[order], votes[order]), together[order])
    for n in (0, 17, 49):
        np.testing.assert_array_equal(noise(draws[n : n + 1], votes[n : n + 1])[0], together[n])
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        np.testing.assert_array_equal(noise(draws, votes), together)
    finally:
        numba.set_num_threads(threads)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (1, 16, 8), (2, 9, 33)])
def test_a_pixel_has_the_same_noise_in_an_image_of_any_size(shape):
    small = noise([3], [4], shape=shape).ravel()
    np.testing.assert_array_equal(small, noise([3], [4], shape=(3, 20, 20)).ravel()[: small.size])


def test_noise_is_added_and_rounded_once():
    generator = np.random.default_rng(1)
    batch = generator.random((4, 2, 9, 10), dtype=np.float32)
    z = np.empty((4, 180))
    for n in range(4):
        for pixel in range(180):
            block, word = pixel // 128 * 32 + pixel % 32, pixel % 128 // 32
            random = philox(*(np.uint64(value) for value in (block, n, 2 * n, PIXEL_STREAM)), *key_words(8))
            pair = [np.uint32(value) for value in random[word // 2 * 2 : word // 2 * 2 + 2]]
            z[n, pixel] = normal_pair(*pair)[word % 2]
    expected = (batch.astype(np.float64) + 0.3 * z.reshape(batch.shape)).astype(np.float32)
    launch(8, 2 * np.arange(4), np.arange(4), 0.3, batch, "cpu")
    np.testing.assert_array_equal(batch, expected)


@pytest.fixture(scope="module")
def million():
    """Normals [40 draws, 40 votes, 625 pixels]."""
    draws, votes = np.divmod(np.arange(1600), 40)
    return noise(draws, votes, shape=(1, 25, 25)).astype(np.float64).reshape(40, 40, 625)


def test_normals_are_normal(million):
    """Each of these rejects a correct generator with probability below 1e-5; the seed is fixed."""
    values = million.ravel()
    count = values.size
    assert stats.kstest(values, "norm").pvalue > 1e-5
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((values**power).mean() - moment) < 4.5 * np.sqrt(variance / count)
    for reach in (2.0, 3.0, 4.0, 4.7):
        for tail in (values > reach, values < -reach):
            assert stats.binomtest(int(tail.sum()), count, stats.norm.sf(reach)).pvalue > 1e-6


def test_neighbours_in_every_direction_are_uncorrelated(million):
    """Pixels near and a block apart, draws, votes, draw and vote exchanged, and another key."""
    pairs = [(million[:, :, lag:], million[:, :, :-lag]) for lag in (1, 25, TILE, 2 * TILE, WORDS * TILE)]
    pairs += [(million[1:], million[:-1]), (million[:, 1:], million[:, :-1])]
    upper, lower = np.triu_indices(40, 1), np.triu_indices(40, 1)[::-1]
    pairs.append((million[upper], million[lower]))
    draws, votes = np.divmod(np.arange(1600), 40)
    pairs.append((million, noise(draws, votes, key=2, shape=(1, 25, 25)).reshape(million.shape)))
    for first, second in pairs:
        for feature in (np.positive, np.square, np.abs):
            found = np.corrcoef(feature(first).ravel(), feature(second).ravel())[0, 1]
            assert abs(found) < 4.5 / np.sqrt(first.size)


@pytest.mark.parametrize("key", [0, 2, 1 + 2**32, 2**64 - 1])
def test_another_key_gives_other_noise(key):
    same = noise([0], [0], key=1) == noise([0], [0], key=key)
    assert same.mean() < 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": -1}, "key"),
        ({"key": 2**64}, "key"),
        ({"draws": [-1, 0]}, "draws"),
        ({"draws": [0, 2**32]}, "draws"),
        ({"draws": [0]}, "draws"),
        ({"votes": [0, 2**32]}, "votes"),
        ({"votes": [0.0, 1.0]}, "votes"),
        ({"sigma": -0.1}, "sigma"),
        ({"sigma": np.nan}, "sigma"),
        ({"sigma": np.inf}, "sigma"),
        ({"out": np.zeros((2, 1, 4, 4))}, "float32"),
        ({"out": np.zeros((2, 16), np.float32)}, r"\[N, C, h, w\]"),
        ({"out": np.zeros((2, 1, 4, 8), np.float32)[..., ::2]}, "contiguous"),
    ],
)
def test_what_is_out_of_range_is_refused(change, message):
    arguments = {
        "key": 1,
        "draws": [0, 1],
        "votes": [0, LARGEST],
        "sigma": 0.5,
        "out": np.zeros((2, 1, 4, 4), np.float32),
    }
    launch(**arguments, device="cpu")
    with pytest.raises(NoiseError, match=message):
        launch(**arguments | change, device="cpu")
