"""A classifier that reads rounding errors: certified wrongly with float noise, rightly with noise on the lattice.

The idea is that of Voracek and Hein (ICLR 2023, section 3) and Jin et al. (2022): ``x + noise`` in float32 keeps the
last bits of ``x``. At a pixel of 16/255 the sum is always a multiple of ``GRID``: near zero, where floats are denser,
it is the difference of two that are. At a black pixel it is the noise itself, which once in fifteen times is so small
that it has finer bits. Exact Gaussian noise never lets a classifier tell images so near to each other apart so well;
therefore what Cohen et al.'s theorem concludes from the votes at the grey image is false at the black one.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import ndtri

from certification.binomial import binomial_lower_bound
from certification.radius import radius_l2
from gpu.kernels import lattice
from gpu.lattice import LatticeNoise, to_lattice

SIDE, SIGMA, N, ALPHA = 5, 0.25, 20_000, 0.001
SHAPE = (1, SIDE, SIDE)
GRID = 2.0**-28
"""The last bit of a float32 in [2^-5, 2^-4); 16/255 lies in [2^-4, 2^-3)."""
GREY = np.full(SHAPE, np.float32(16) / np.float32(255))
BLACK = np.zeros(SHAPE, dtype=np.float32)
DISTANCE = float(np.linalg.norm(GREY.astype(np.float64)))


def classify(batch):
    """Class 1 where every pixel is a multiple of ``GRID``, else class 0; [N] of images [N, C, h, w] float32."""
    assert batch.dtype == np.float32
    steps = batch.astype(np.float64) / GRID
    return (steps == np.rint(steps)).all(axis=(1, 2, 3)).astype(int)


def float_noise(image, seed):
    """As everybody writes it: a float32 image plus float32 noise."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.from_numpy(image) + SIGMA * torch.randn((N, *SHAPE), generator=generator)).numpy()


def lattice_noise(image, seed):
    out = np.empty((N, *SHAPE), dtype=np.float32)
    lattice.launch(to_lattice(image), LatticeNoise.of(SIGMA), seed, np.zeros(N, int), np.arange(N), out, "cpu")
    return out


def votes(noisy, image, seed):
    return np.bincount(classify(noisy(image, seed)), minlength=2)


def certify(noisy, image, seed, **losses):
    """Cohen et al.'s CERTIFY: the class and its radius, None where it abstains."""
    label = int(votes(noisy, image, seed).argmax())
    p_lower = binomial_lower_bound(int(votes(noisy, image, seed + 1)[label]), N, ALPHA)
    return label, radius_l2(p_lower, SIGMA, 1.0, **losses)


def excess(noisy, seed):
    """How far beyond ``DISTANCE / SIGMA`` the quantiles of class 1 are apart at least, each with confidence 1 - ALPHA.

    Above 0 is what Gaussian noise makes impossible (docs/guarantees.md, E.1).
    """
    at_grey, at_black = votes(noisy, GREY, seed), votes(noisy, BLACK, seed + 1)
    lower = binomial_lower_bound(int(at_grey[1]), N, ALPHA)
    upper = 1.0 - binomial_lower_bound(int(at_black[0]), N, ALPHA)
    return float(ndtri(lower) - ndtri(upper)) - DISTANCE / SIGMA


@pytest.mark.parametrize("seed", [1, 11, 21])
def test_float_noise_is_broken(seed):
    """The certificate says class 1 at the black image; its votes say class 0, beyond any doubt."""
    label, radius = certify(float_noise, GREY, seed)
    assert label == 1
    assert radius is not None
    assert radius > 2.0 * DISTANCE
    against = votes(float_noise, BLACK, seed + 2)[0]
    assert binomial_lower_bound(int(against), N, 1e-9) > 0.5
    assert excess(float_noise, seed + 3) > 2.0


@pytest.mark.parametrize("seed", [1, 11, 21])
def test_lattice_noise_is_not_broken(seed):
    """Same classifier, same images: the certificate, if there is one, is true at the black image."""
    variation = GREY.size * LatticeNoise.of(SIGMA).total_variation
    label, radius = certify(lattice_noise, GREY, seed, total_variation=variation)
    at_black = votes(lattice_noise, BLACK, seed + 2)
    assert radius is not None
    assert label == at_black.argmax()
    assert binomial_lower_bound(int(at_black[label]), N, 1e-9) > 0.5
    assert excess(lattice_noise, seed + 3) < 0.0
    apart = abs(int(votes(lattice_noise, GREY, seed)[1]) - int(at_black[1])) / N
    assert apart < 0.1, "the classifier has lost what told the images apart"


@pytest.mark.parametrize("seed", [1, 11, 21])
def test_lattice_noise_certifies_half_spaces_up_to_their_edge(seed):
    """The worst classifier there is: a radius beyond the edge would be wrong, one far short of it wasteful."""
    noise, edge = LatticeNoise.of(SIGMA), 0.4
    out = lattice_noise(GREY, seed)
    mean = (out.astype(np.float64) - GREY).sum(axis=(1, 2, 3)) / math.sqrt(GREY.size)
    p_lower = binomial_lower_bound(int((mean < edge).sum()), N, ALPHA)
    radius = radius_l2(p_lower, SIGMA, 1.0, total_variation=GREY.size * noise.total_variation)
    assert radius is not None
    assert 0.95 * edge < radius < edge
