"""Error bounds of Gaussian interpolation: one number that holds for every drawn parameter.

Let ``S_t x(q) = sum_j phi(T_t^-1 q - p_j) m_j x_j`` be an image under a :class:`GaussianOperator`: a sum of normal
densities, moved as a whole by ``T_t``, which is an isometry of the plane. With ``x' = round8(T_gamma x)``, the
attack's bilinear interpolation, the error at a drawn ``beta`` is

    (S_beta x' - S_(beta+gamma) x)(q) = D(T_beta^-1 q),    D = S_0 x' - S_gamma x,

read at the pixel centres q. ``D`` does not depend on beta. Neither does the norm: the square of ``D`` is a sum of
normal densities of standard deviation ``sigma / sqrt(2)``, so by Poisson's summation formula its sum over any
moved grid differs from its integral over the plane by at most ``8.2 exp(-(pi sigma)^2)``, 2e-9 for the smallest
sigma allowed, times the sum of squares of ``m x'`` and ``m x``. So ``|D|_2`` on the pixel grid,
padded so that nothing is cut, bounds the error of all draws at once, and there is no share ``rho_E`` of draws that
exceed it. A bilinear ``T_beta`` has no such property: it spreads pixels by amounts that vary over the image.

*Known image.* ``x'`` may be read with one width, s, and x with another, s': the ``S_0 x'`` that follows is of the
first, ``S_gamma x`` of the second (D.5 in docs/guarantees.md says what for). On the whole plane norms and inner
products of such images are sums over pairs of pixels of normal densities (``known_bodies``). Over a cell of angles
``x' = round8(T_gamma x)`` is near a chord, and often known exactly (``chord_bodies.attacked_cell``); between integer
shifts ``T_gamma x`` is multilinear. ``S_gamma x`` is within ``w^2 / 8`` times the norm of its second derivative, per
axis, of its chord; that norm does not depend on gamma. So ``D`` is ``D_c + A e`` plus that, where ``D_c`` is an
average of the cell's corners, ``|e| <= b`` pixel by pixel, and ``A = S_0 m`` has no negative entry, and at every corner

    |D_c + A e|^2 <= |D_c|^2 + 2 <|A'D_c|, b> + |A b|^2 .

*Received image.* See ``received``; the two widths differ by less.

Arithmetic is float64 to nearest; ``GRAM_SLACK`` covers what that costs sums that nearly cancel, and the densities left
out beyond ``GRAM_REACH``; ``ARITHMETIC_SLACK`` the rest; ``LEFT_OUT`` the weights that the served map leaves out.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .cover import ARITHMETIC_SLACK, COARSE
from .error_norm import PRESENT
from .geometry import DIMENSIONS, GeometryError, kind_of
from .kernels import residual as kernels
from .preprocess import Bands, GaussianOperator, normal_density
from .received import received_image_error
from .residual_terms import LEFT_OUT, alias, curvature, most_energy, padding
from .warp import PIXEL_SLACK, check_images, round8, transform_image, warp_batch

SHIFT_STEP = 0.25
"""Distance of the shifts at which a known image's residual is computed first, pixels; divides 1."""
LEAST_HALF_WIDTH = 1e-6
"""Degrees; a narrower attack range is bounded as this one."""
GRAM_REACH = 7.5
"""Standard deviations beyond which a density is left out of sums over pairs; what is left weighs below 1e-12."""
GRAM_SLACK = 4e-12
"""Of the energy of x' and x, in a squared norm; ``SUM_SLACK`` more for every number that is added up."""
SUM_SLACK = 2.0**-50


def known_image_errors(
    images: NDArray[np.float32],
    transformation: str,
    half_width: float,
    operator: GaussianOperator,
    original: GaussianOperator | None = None,
    *,
    tolerance: float = 0.02,
    floor: float | NDArray[np.float64] = 0.0,
    budget: int = 20_000,
) -> NDArray[np.float64]:
    """Bound ``max_gamma |S_beta round8(T_gamma x) - S'_(beta+gamma) x|_2`` for every beta.

    Parameters
    ----------
    images : ndarray [N, H, W, C] float32
        Known images in [0, 1].
    transformation : {"rotation", "translation"}
    half_width : float
        G of the attack range ``[-G, G]^d``, finite and ``>= 0``; degrees (at most 180) or pixels.
    operator : GaussianOperator
        S, which reads the attacked image.
    original : GaussianOperator, optional
        S', which reads the image itself: S, or the same vignette and another width.
    tolerance, floor : float
        Refinement of an image stops at ``1 + tolerance`` times its largest residual found, or at ``floor`` (or [N]).
    budget : int
        Rotation: cells an image; those left over are not refined.

    Returns
    -------
    ndarray [N] float64

    Raises
    ------
    GeometryError
        If an argument is out of range, or the operators do not fit the images or each other.
    """
    kind_of(transformation)
    limit = 180.0 if transformation == "rotation" else math.inf
    if not (0.0 <= half_width <= limit and math.isfinite(half_width)):
        raise GeometryError(f"half_width must be finite, >= 0 and <= {limit}, not {half_width}")
    exact = check_images(images).astype(np.float64)
    original = original or operator
    if operator.input_shape != exact.shape[1:3]:
        raise GeometryError(f"the operator is for {operator.input_shape}, the images are {exact.shape[1:3]}")
    if not np.array_equal(operator.weights, original.weights):
        raise GeometryError("both operators need the same vignette")
    sources, mask = original.masked(exact), operator.weights
    gram = _gram(operator.input_shape, math.sqrt(2.0) * operator.sigma)
    own = _squares(sources, _gram(operator.input_shape, math.sqrt(2.0) * original.sigma))
    sigma = math.hypot(operator.sigma, original.sigma)
    bending = curvature(sources, original, transformation, padding(original, transformation, half_width))
    bending = bending * (1.0 + 1e-6)
    energy = most_energy(sources, operator)
    # The floor is meant for the result, so what is added below comes off it first.
    excess, slack = _excess(energy, operator, original), _slack(sources, operator)
    floors = np.maximum((floor - slack) / (1.0 + 2.0 * ARITHMETIC_SLACK) - np.sqrt(excess), 0.0)
    bands = [array for side in gram for array in (side.start, side.weights)]
    out = np.empty(len(exact))
    if transformation == "rotation":
        framed = np.pad(exact.transpose(0, 3, 1, 2), ((0, 0), (0, 0), (1, 1), (1, 1)))
        still = np.stack([framed, framed, np.where(framed > 0.0, PRESENT, 0.0)], axis=2)
        kernels.rotation_cpu(
            exact, still, mask, sources, *bands, sigma, GRAM_REACH * sigma, own,
            math.radians(max(half_width, LEAST_HALF_WIDTH)), bending, math.radians(COARSE), tolerance, floors, budget,
            out,
        )  # fmt: skip
    else:
        steps = np.arange(math.ceil(-half_width / SHIFT_STEP), math.floor(half_width / SHIFT_STEP) + 1) * SHIFT_STEP
        coarse = 0.125 * SHIFT_STEP**2 * bending
        shifts = np.unique([-half_width, *steps, half_width])
        kernels.translation_cpu(
            exact, mask, sources, *bands, sigma, GRAM_REACH * sigma, own, shifts,
            coarse, 0.25 * coarse, floors, out,
        )  # fmt: skip
    out = np.sqrt(np.square(out) + excess) * (1.0 + ARITHMETIC_SLACK) + slack
    return np.where(np.isfinite(out), out, np.inf)


def sampled_error(
    image: NDArray[np.float32],
    transformation: str,
    half_width: float,
    operator: GaussianOperator,
    original: GaussianOperator,
    attacks: int,
) -> float:
    """The largest ``|S_0 round8(T_gamma x) - S'_gamma x|_2`` of a known image at evenly spread gamma: no bound.

    Parameters
    ----------
    image : ndarray [H, W, C] float32
        In [0, 1].
    transformation, half_width, operator, original
        As in :func:`known_image_errors`.
    attacks : int
        Parameters an axis, ``>= 1``, from ``-half_width`` to ``half_width``; of an odd number, 0 is one.
    """
    axis = np.linspace(-half_width, half_width, attacks)
    grid = np.stack(np.meshgrid(*[axis] * DIMENSIONS[transformation]), axis=-1)
    parameters = grid if transformation == "rotation" else grid.reshape(-1, 2)
    attacked = np.stack([round8(transform_image(image, gamma, transformation)) for gamma in parameters])
    twice = warp_batch(attacked, np.zeros_like(parameters), transformation, operator).astype(np.float64)
    once = warp_batch(image[None], parameters, transformation, original)
    return float(np.sqrt(np.square(twice - once).sum(axis=(1, 2, 3))).max())


def _gram(shape: tuple[int, int], sigma: float) -> tuple[Bands, Bands]:
    """Normal densities between the pixels of an axis, rows and columns; hardly cut."""
    sides = [np.arange(size)[:, None] - np.arange(size)[None, :] for size in shape]
    rows, columns = (Bands.from_dense(normal_density(side, sigma, GRAM_REACH)) for side in sides)
    return rows, columns


def _squares(values: NDArray[np.float64], gram: tuple[Bands, Bands]) -> NDArray[np.float64]:
    """``v'G v`` [N] of images [N, C, H, W]."""
    filtered = np.einsum("ij,ncjk,lk->ncil", gram[0].dense(), values, gram[1].dense(), optimize=True)
    return np.asarray((values * filtered).sum(axis=(1, 2, 3)))


def _excess(
    energy: NDArray[np.float64], operator: GaussianOperator, original: GaussianOperator
) -> NDArray[np.float64]:
    """What sums over a moved grid and float64 may add to a square [N]."""
    rows, columns = operator.output_shape
    relative = GRAM_SLACK + SUM_SLACK * rows * columns
    return energy * (max(alias(operator), alias(original)) + relative)


def _slack(sources: NDArray[np.float64], operator: GaussianOperator) -> NDArray[np.float64]:
    """What the weights left out, float32 pixels and float64 arithmetic may add to an error [N]."""
    channels = sources.shape[1]
    seen = math.sqrt(channels * float(np.square(operator.weights).sum()))
    pixels = 2.0 * PIXEL_SLACK * math.sqrt(math.prod(operator.output_shape) * channels)
    norms = np.sqrt(np.square(sources).sum(axis=(1, 2, 3)))
    return np.asarray(LEFT_OUT * (norms + seen) + pixels + ARITHMETIC_SLACK)


__all__ = ["known_image_errors", "received_image_error", "sampled_error"]
