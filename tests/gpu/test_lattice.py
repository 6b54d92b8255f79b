"""Gaussian noise on the lattice: its table against mpmath at 40 digits, the sampler against its definition."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gpu.kernels.lattice import launch
from gpu.lattice import (
    LARGEST_SIGMA,
    LEAST_SIGMA,
    STEPS,
    LatticeNoise,
    first_guess,
    lattice_integer,
    lattice_loss,
    to_lattice,
)
from gpu.noise import LATTICE_STREAM, NoiseError, philox

SIGMAS = (LEAST_SIGMA, 0.12, 0.25, 1.0, LARGEST_SIGMA)
WORD = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def noise():
    return LatticeNoise.of(0.25)


def survival_probability(k, sigma):
    """P(|K| >= k), k >= 1."""
    return 2 * mpmath.ncdf(-(mpmath.mpf(k) - 0.5) / (STEPS * mpmath.mpf(sigma)))


def integers(noise, draws, votes, *, image=0, key=1, shape=(1, 28, 28)):
    """``image + K`` as the kernel used it, read back from its float32 output."""
    out = np.empty((len(draws), *shape), dtype=np.float32)
    launch(np.full(shape, image, dtype=np.int32), noise, key, draws, votes, out, "cpu")
    return np.rint(out.astype(np.float64) * STEPS).astype(np.int64)


def test_total_variation_is_within_its_bound():
    """Oracle: every probability of the smallest noise, exactly; the cut tail counts too."""
    noise = LatticeNoise.of(LEAST_SIGMA)
    reach = len(noise.survival) - 2
    with mpmath.workdps(40):
        exact = [mpmath.mpf(1)] + [survival_probability(k, LEAST_SIGMA) for k in range(1, reach + 2)]
        drawn = [mpmath.mpf(1)] + [mpmath.mpf(int(value)) / 2**63 for value in noise.survival[1:]]
        apart = exact[-1]
        for k in range(reach + 1):
            apart += abs((exact[k] - exact[k + 1]) - (drawn[k] - drawn[k + 1]))
        assert 0 < apart / 2 <= noise.total_variation


@pytest.mark.parametrize("sigma", SIGMAS)
def test_each_probability_is_as_near_as_stated(sigma):
    noise = LatticeNoise.of(sigma)
    survival = noise.survival
    assert survival[-1] == 0
    assert (np.diff(survival) <= 0).all()
    assert (len(survival) - 1.5) / (STEPS * sigma) >= 8.5
    assert noise.total_variation < 2e-13
    body = np.geomspace(1, len(survival) - 2, 60).astype(int)
    with mpmath.workdps(40):
        for k in body:
            exact = survival_probability(int(k), sigma) - survival_probability(int(k) + 1, sigma)
            relative = (3 * (k / (STEPS * sigma)) ** 2 + 17) * 2.0**-53 + 1e-4 * (STEPS * sigma) ** -6.0
            assert abs(int(survival[k] - survival[k + 1]) - exact * 2**63) <= 0.5 + relative * exact * 2**63


def test_noise_beyond_reach_is_as_rare_as_stated():
    with mpmath.workdps(40):
        assert 2 * mpmath.ncdf(-8.5) < 2e-17


@given(st.data())
def test_sampler_counts_the_entries_above_its_bits(noise, data):
    """Oracle: the definition, on bits at, just below and just above an entry; with the worst of guesses too."""
    reach = len(noise.survival) - 2
    at = int(noise.survival[data.draw(st.integers(1, reach))])
    u = min(max(at + data.draw(st.integers(-2, 2)), 0), 2**63 - 1)
    u = data.draw(st.sampled_from([u, data.draw(st.integers(0, 2**63 - 1)), 0, 2**63 - 1]))
    negative = data.draw(st.booleans())
    expected = int((noise.survival[1:] > u).sum())
    high, low = np.uint32(u >> 31), np.uint32((u & (2**31 - 1)) << 1 | negative)
    for guess in (first_guess(high, 0.25 * STEPS), 0, reach, 2 * reach):
        found = lattice_integer(high, low, np.int32(guess), noise.survival)
        assert found == (-expected if negative else expected)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_first_guess_is_nearly_always_right(sigma):
    noise = LatticeNoise.of(sigma)
    words = np.random.default_rng(0).integers(0, 2**32, (4000, 2), dtype=np.uint32)
    guesses = np.array([first_guess(high, sigma * STEPS) for high, _ in words])
    found = np.array([lattice_integer(*pair, np.int32(0), noise.survival) for pair in words[:200]])
    assert np.abs(guesses[:200] - np.abs(found)).max() <= 1
    exact = stats.norm.isf((words[:, 0] + 0.5) * 2.0**-33)
    assert np.abs(guesses / (sigma * STEPS) - exact).max() <= 0.51 / (sigma * STEPS) + 3e-7


def test_integers_have_the_distribution_of_the_rounded_normal(noise):
    """Oracle: differences of scipy's normal; 500 bins that are equally likely, up to the width of a step."""
    draws, votes = np.divmod(np.arange(1300), 37)
    values = integers(noise, draws, votes).ravel()
    deviation = 0.25 * STEPS
    edges = np.unique(np.floor(stats.norm.ppf(np.linspace(0, 1, 501)[1:-1]) * deviation)) + 0.5
    expected = np.diff(stats.norm.cdf(edges / deviation), prepend=0.0, append=1.0)
    observed = np.bincount(np.searchsorted(edges, values), minlength=len(expected))
    assert len(values) > 1e6
    assert stats.chisquare(observed, expected * len(values)).pvalue > 1e-5
    parity = stats.binomtest(int((values % 2).sum()), len(values), 0.5)
    assert parity.pvalue > 1e-5, "low-order bits are fair"
    for reach in (3.0, 4.0, 4.7):
        for tail in (values > reach * deviation, values < -reach * deviation):
            assert stats.binomtest(int(tail.sum()), len(values), stats.norm.sf(reach)).pvalue > 1e-6


def test_small_noise_has_every_integer_as_often_as_it_should():
    """Chi-square over single integers, where the steps are coarse enough to see them."""
    values = integers(LatticeNoise.of(LEAST_SIGMA), np.arange(1300), np.zeros(1300, int)).ravel()
    inside = np.arange(-700, 701)
    expected = np.diff(stats.norm.cdf((np.arange(-700, 702) - 0.5) / (LEAST_SIGMA * STEPS))) * len(values)
    observed = np.bincount(values[np.abs(values) <= 700] + 700, minlength=len(inside))
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-5


def test_neighbours_in_every_direction_are_uncorrelated(noise):
    draws, votes = np.divmod(np.arange(900), 30)
    values = integers(noise, draws, votes, shape=(1, 25, 25)).reshape(30, 30, 625) / (0.25 * STEPS)
    pairs = [(values[:, :, lag:], values[:, :, :-lag]) for lag in (1, 25, 32, 64)]
    pairs += [(values[1:], values[:-1]), (values[:, 1:], values[:, :-1])]
    for first, second in pairs:
        for feature in (np.positive, np.square):
            found = np.corrcoef(feature(first).ravel(), feature(second).ravel())[0, 1]
            assert abs(found) < 4.5 / np.sqrt(first.size)


def test_output_is_the_float32_of_image_plus_the_noise_of_its_counter(noise):
    """Which block and words serve a pixel is part of what makes a certificate reproducible."""
    image = np.random.default_rng(0).integers(0, STEPS + 1, (2, 9, 11), dtype=np.int32)
    out = np.empty((1, *image.shape), dtype=np.float32)
    launch(image, noise, 2**40 + 3, [9], [5], out, "cpu")
    for pixel in (0, 31, 32, 63, 64, 100, 197):
        block, half = pixel // 64 * 32 + pixel % 32, pixel % 64 // 32
        counter = (np.uint64(value) for value in (block, 5, 9, LATTICE_STREAM))
        high, low = philox(*counter, np.uint64(3), np.uint64(2**8))[2 * half : 2 * half + 2]
        k = lattice_integer(high, low, np.int32(0), noise.survival)
        assert out.ravel()[pixel] == np.float32((int(image.ravel()[pixel]) + k) / STEPS)


def test_noise_depends_on_nothing_but_its_counter(noise):
    """Neither on the image, nor on the batch, its order, or the threads."""
    draws, votes = np.random.default_rng(0).integers(0, 2**32, (2, 50))
    together = integers(noise, draws, votes)
    np.testing.assert_array_equal(integers(noise, draws, votes, image=40_000) - 40_000, together)
    order = np.random.default_rng(1).permutation(50)
    np.testing.assert_array_equal(integers(noise, draws[order], votes[order]), together[order])
    np.testing.assert_array_equal(integers(noise, draws[7:8], votes[7:8])[0], together[7])
    wide = integers(noise, draws[7:8], votes[7:8], shape=(3, 20, 20))
    np.testing.assert_array_equal(wide.ravel()[:784], together[7].ravel())
    assert (integers(noise, draws, votes, key=2) != together).mean() > 0.99
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        np.testing.assert_array_equal(integers(noise, draws, votes), together)
    finally:
        numba.set_num_threads(threads)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_8_bit_intensities_are_lattice_points(kind):
    intensities = np.arange(256, dtype=kind) / kind(255)
    np.testing.assert_array_equal(to_lattice(intensities), 257 * np.arange(256))


@given(st.floats(-1.0, 2.0))
def test_to_lattice_is_within_half_a_step(value):
    found = to_lattice(value)
    assert found.dtype == np.int32
    assert abs(Fraction(value) - Fraction(int(found), STEPS)) <= (Fraction(1, 2) + Fraction(1, 2**36)) / STEPS


@given(st.integers(1, 200_000), st.floats(0.0, 1.0))
def test_lattice_loss_is_above_the_sum_of_its_parts(numbers, error):
    """Oracle: each of two images moves by half a step and the error of computing it, in every number."""
    with mpmath.workdps(40):
        exact = mpmath.sqrt(numbers) * 2 * ((mpmath.mpf(0.5) + mpmath.mpf(2) ** -36) / STEPS + mpmath.mpf(error))
    assert exact <= lattice_loss(numbers, error) <= exact * (1 + mpmath.mpf("1e-9"))


@pytest.mark.parametrize("sigma", [0.0, -0.5, LEAST_SIGMA / 2, 2 * LARGEST_SIGMA, np.nan, np.inf])
def test_noise_levels_without_a_table_are_refused(sigma):
    with pytest.raises(NoiseError, match="sigma"):
        LatticeNoise.of(sigma)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.01, 2.01])
def test_intensities_out_of_range_are_refused(bad):
    with pytest.raises(NoiseError, match="intensities"):
        to_lattice([0.5, bad])


@pytest.mark.parametrize("bad", [(0, 0.0), (1, -1e-9), (1, np.nan), (1, np.inf)])
def test_losses_out_of_range_are_refused(bad):
    with pytest.raises(NoiseError, match="numbers"):
        lattice_loss(*bad)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((1, 4, 5), np.int32)}, "image"),
        ({"image": np.zeros((1, 4, 4))}, "int32"),
        ({"key": 2**64}, "key"),
        ({"draws": [0, 2**32]}, "draws"),
        ({"votes": [-1, 0]}, "votes"),
        ({"out": np.zeros((2, 1, 4, 4))}, "float32"),
    ],
)
def test_what_is_out_of_range_is_refused(noise, change, message):
    arguments = {
        "image": np.zeros((1, 4, 4), np.int32),
        "key": 1,
        "draws": [0, 1],
        "votes": [0, 1],
        "out": np.zeros((2, 1, 4, 4), np.float32),
    }
    launch(**arguments, noise=noise, device="cpu")
    with pytest.raises(NoiseError, match=message):
        launch(**arguments | change, noise=noise, device="cpu")
