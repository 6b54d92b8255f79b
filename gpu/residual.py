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

*Known image.* Over a small cell of gamma, ``T_gamma x`` is near its chord (rotation: as in ``cover``; translation:
it *is* multilinear between integers), and ``S_gamma x`` is within ``w^2 / 8`` times the norm of its second
derivative, which does not depend on gamma, per axis. So the largest residual at the corners, plus these terms and
what rounding to 8 bits adds, bounds the cell.

*Received image.* See ``received``.

Arithmetic is float64 to nearest; ``ARITHMETIC_SLACK`` covers what that costs, ``residual_terms.slack`` also the
weights left out.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .cover import ARITHMETIC_SLACK, COARSE
from .geometry import GeometryError, kind_of
from .inverse import TOLERANCE
from .kernels import residual as kernels
from .preprocess import GaussianOperator, filter_matrix
from .received import received_image_error
from .residual_terms import alias, curvature, filter_bands, most_energy, norm_of, padding, slack, with_slack
from .warp import check_images

SHIFT_STEP = 0.25
"""Distance of the shifts at which a known image's residual is computed first, pixels; divides 1."""


def known_image_errors(
    images: NDArray[np.float32],
    transformation: str,
    half_width: float,
    operator: GaussianOperator,
    *,
    tolerance: float = 0.02,
    floor: float = 0.0,
    budget: int = 20_000,
) -> NDArray[np.float64]:
    """Bound ``max_gamma |S_beta round8(T_gamma x) - S_(beta+gamma) x|_2`` for every beta.

    Parameters
    ----------
    images : ndarray [N, H, W, C] float32
        Known images in [0, 1].
    transformation : {"rotation", "translation"}
    half_width : float
        G of the attack range ``[-G, G]^d``, finite and ``>= 0``; degrees (at most 180) or pixels.
    operator : GaussianOperator
    tolerance, floor : float
        Refinement of an image stops at ``1 + tolerance`` times its largest residual found (rotation; before
        what rounding to 8 bits can add), or at ``floor``.
    budget : int
        Rotation: cells an image; an image that needs more gets an infinite bound.

    Returns
    -------
    ndarray [N] float64

    Raises
    ------
    GeometryError
        If an argument is out of range.
    """
    kind_of(transformation)
    limit = 180.0 if transformation == "rotation" else math.inf
    if not (0.0 <= half_width <= limit and math.isfinite(half_width)):
        raise GeometryError(f"half_width must be finite, >= 0 and <= {limit}, not {half_width}")
    exact = check_images(images).astype(np.float64)
    if operator.input_shape != exact.shape[1:3]:
        raise GeometryError(f"the operator is for {operator.input_shape}, the images are {exact.shape[1:3]}")
    pad, sources, channels = padding(operator, transformation, half_width), operator.masked(exact), exact.shape[3]
    rows, columns = filter_bands(operator, pad, 0)
    operands = (
        exact, operator.weights, sources, rows.start, rows.weights, columns.start, columns.weights, operator.sigma,
        operator.reach, pad,
    )  # fmt: skip
    bending = curvature(sources, operator, transformation, pad)
    out = np.empty(len(exact))
    # The floor is meant for the result, so what is added below comes off it first.
    energy = most_energy(sources, operator)
    aliased = math.sqrt(2.0 * alias(operator) * float(energy.max()))
    floor = max((floor - slack(operator, channels, pad)) / (1.0 + 2.0 * ARITHMETIC_SLACK) - aliased, 0.0)
    if transformation == "rotation":
        kernels.rotation_cpu(
            *operands, math.radians(half_width), bending, math.radians(COARSE), tolerance, floor, budget, TOLERANCE,
            out,
        )  # fmt: skip
    else:
        steps = np.arange(math.ceil(-half_width / SHIFT_STEP), math.floor(half_width / SHIFT_STEP) + 1) * SHIFT_STEP
        rounding = _shifted_rounding(exact, operator)
        coarse = 0.125 * SHIFT_STEP**2 * bending
        shifts = np.unique([-half_width, *steps, half_width])
        kernels.translation_cpu(*operands, shifts, coarse, 0.25 * coarse, floor - rounding, out)
        out += rounding
    return with_slack(out, energy, operator, channels, pad)


def _shifted_rounding(images: NDArray[np.float64], operator: GaussianOperator) -> NDArray[np.float64]:
    """``|S_0 r|_2`` [N]: r is at most ``TOLERANCE``, and only where a shifted image can be non-zero."""
    filled = np.pad(images > 0.0, ((0, 0), (1, 1), (1, 1), (0, 0)))
    spread = filled[:, 1:, 1:] | filled[:, :-1, 1:] | filled[:, 1:, :-1] | filled[:, :-1, :-1]
    rows, columns = (filter_matrix(size, operator.sigma, math.ceil(operator.reach)) for size in spread.shape[1:3])
    return norm_of([(rows, np.where(spread, TOLERANCE, 0.0).transpose(0, 3, 1, 2), columns)])


__all__ = ["known_image_errors", "received_image_error"]
