"""The largest interpolation error of a known image over *every* parameter, for calibration.

``forward_error_bounds`` bounds one drawn parameter at a time. Calibration needs thousands of draws of each
of thousands of images; here the bound holds for all parameters beta at once, so that a draw costs nothing.
Write ``F(beta, gamma) = P (T_beta T_gamma x - T_(beta+gamma) x)``; rounding ``T_gamma x`` to 8 bits adds
``P T_beta r`` with ``|r| <= 1/510`` where ``T_gamma x`` is not exactly zero, and nothing elsewhere.

Rotation. On a rectangle of (beta, gamma) a function whose slope in one variable lies in an interval of
width W differs from its chord of length w by at most ``w W / 4``. So F is, pixel by pixel, within ``dev`` of
the bilinear interpolation of its values at the four corners, and since a norm is convex

    |F|_2 <= (largest of the four corners' |F|_2) + |P dev|_2 .

Slopes jump where a source point crosses a grid line; few do in a small rectangle, which makes ``dev`` small
(naive interval evaluation pays for the slope itself, not for its jumps). Rectangles are halved
where the bound is not yet near the largest corner. A quarter turn permutes the pixels of a square image and
commutes with a symmetric P, so then beta in [-45, 45] degrees stands for all.

Translation. For a fixed b, F is bilinear in g between the points where g or b + g is an integer on an axis, and a
norm is convex along each axis, so it is largest at such points. As long as nothing that is lost at the border
is read back, F there is the convolution of x with ``(1 + m_y D_y)(1 + m_x D_x) - 1`` at an integer shift (b + g
integer on both axes), or lies between two values of one factor alone (g integer on the other axis); ``D`` is
the second difference [1, -2, 1] and ``m = a (1 - a)``, a the fractional part of b. So the norms of all draws follow
from the inner products of three images at each integer shift. Draws at which lost content is read back are
evaluated at the points themselves.

All this is computed in float64 without directed rounding; ``ARITHMETIC_SLACK`` covers what that costs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .geometry import GeometryError, as_parameters
from .inverse import TOLERANCE
from .kernels import cover as kernels
from .preprocess import Operator
from .warp import PIXEL_SLACK, check_images

COARSE = 0.8
"""Sides of the first rectangles, degrees."""
ARITHMETIC_SLACK = 1e-7
"""Relative and absolute; some 1e4 float64 operations on numbers below 1e3 lose less than 1e-9."""


def operands_of(
    images: NDArray[np.float32], operator: Operator
) -> tuple[NDArray[np.float64], tuple[NDArray[Any], ...]]:
    """Images as float64, and P as the kernels take it: mask, then both banded matrices."""
    exact = check_images(images).astype(np.float64)
    if operator.mask.shape != exact.shape[1:3]:
        raise GeometryError(f"the operator is for {operator.mask.shape}, the images are {exact.shape[1:3]}")
    rows, columns = operator.rows, operator.columns
    return exact, (operator.mask, rows.start, rows.weights, columns.start, columns.weights)


def with_slack(errors: NDArray[np.float64], operator: Operator, channels: int) -> NDArray[np.float64]:
    """Bounds [N] enlarged by what float64 arithmetic and float32 pixels may lose; infinite where there is none."""
    slack = 2.0 * PIXEL_SLACK * math.sqrt(math.prod(operator.output_shape) * channels) + ARITHMETIC_SLACK
    return np.where(np.isfinite(errors), errors * (1.0 + ARITHMETIC_SLACK) + slack, np.inf)


def _rounding(images: NDArray[np.float64], operator: Operator) -> NDArray[np.float64]:
    """``|P T_b r|_2 <= norm(P) |r|_2`` for a translation: r lives where a shifted image can be non-zero."""
    filled = np.pad(images > 0.0, ((0, 0), (1, 1), (1, 1), (0, 0)))
    spread = filled[:, 1:, 1:] | filled[:, :-1, 1:] | filled[:, 1:, :-1] | filled[:, :-1, :-1]
    return np.asarray(operator.norm_bound * TOLERANCE * np.sqrt(spread.sum(axis=(1, 2, 3))))


def _is_symmetric(operator: Operator) -> bool:
    rows, columns = operator.rows.dense(), operator.columns.dense()
    return (
        operator.mask.shape[0] == operator.mask.shape[1]
        and np.array_equal(operator.mask, np.rot90(operator.mask))
        and np.array_equal(rows, columns)
        and np.allclose(rows, rows[::-1, ::-1], rtol=0.0, atol=1e-15)
    )


def largest_rotation_errors(
    images: NDArray[np.float32],
    half_width: float,
    operator: Operator,
    *,
    tolerance: float = 0.1,
    floor: float = 0.0,
    budget: int = 200_000,
) -> NDArray[np.float64]:
    """Bound ``|P T_beta round8(T_gamma x) - P T_(beta+gamma) x|_2`` over every beta and ``|gamma| <= G``.

    Parameters
    ----------
    images : ndarray [N, H, W, C] float32
        Known images in [0, 1].
    half_width : float
        G, degrees, in (0, 180].
    operator : Operator
    tolerance, floor : float
        Refinement of an image stops at ``1 + tolerance`` times its largest error found plus the most that
        rounding to 8 bits can add, or at ``floor``.
    budget : int
        Rectangles an image; an image that needs more gets an infinite bound.

    Returns
    -------
    ndarray [N] float64
    """
    if not 0.0 < half_width <= 180.0:
        raise GeometryError(f"half_width must be in (0, 180] degrees, not {half_width}")
    exact, operands = operands_of(images, operator)
    out = np.empty(len(exact))
    rounding = operator.norm_bound * TOLERANCE * math.sqrt(operator.mask.sum() * exact.shape[3])
    # The floor is meant for the result, so what is added below comes off it first.
    slack = float(with_slack(np.zeros(1), operator, exact.shape[3])[0])
    floor = max((floor - slack) / (1.0 + ARITHMETIC_SLACK) * (1.0 - ARITHMETIC_SLACK), 0.0)
    kernels.rotation_cpu(
        exact, *operands, 1 if _is_symmetric(operator) else 4, math.radians(half_width), tolerance, rounding, floor,
        math.radians(COARSE), budget, out,
    )  # fmt: skip
    return with_slack(out, operator, exact.shape[3])


def reads_lost_content(
    image: NDArray[np.float32], parameters: object, half_width: float, operator: Operator
) -> NDArray[np.bool_]:
    """Draws b [N] at which ``P T_b`` can read content that ``T_g`` has moved out of the frame.

    On each side: the image has content within G of that border, and b moves pixels from beyond the border
    into the vignette. Elsewhere ``T_b T_g x`` is the same as without a border.
    """
    draws = as_parameters(parameters, "translation")
    filled = np.asarray(image).max(axis=2) > 0.0
    edge = math.ceil(half_width)
    rows, columns = np.flatnonzero(operator.mask.any(axis=1)), np.flatnonzero(operator.mask.any(axis=0))
    height, width = filled.shape
    top = filled[:edge].any() & (draws[:, 1] > rows[0])
    bottom = filled[max(height - edge, 0) :].any() & (-draws[:, 1] > height - 1 - rows[-1])
    left = filled[:, :edge].any() & (draws[:, 0] > columns[0])
    right = filled[:, max(width - edge, 0) :].any() & (-draws[:, 0] > width - 1 - columns[-1])
    return np.asarray(top | bottom | left | right)


def translation_draw_errors(
    image: NDArray[np.float32], parameters: object, half_width: float, operator: Operator
) -> NDArray[np.float64]:
    """The largest error over ``g`` in ``[-G, G]^2`` at each drawn translation [N, 2], for one image [H, W, C].

    Returns
    -------
    ndarray [N] float64
        Exact up to the rounding of the attacked image, which is bounded.
    """
    draws = as_parameters(parameters, "translation")
    exact, operands = operands_of(np.asarray(image)[None], operator)
    lost = reads_lost_content(image, draws, half_width, operator)
    out = np.zeros(len(draws))
    for chosen, is_lost in ((lost, True), (~lost, False)):
        if not chosen.any():
            continue
        found = np.empty(int(chosen.sum()))
        if is_lost:
            kernels.translation_draws_cpu(exact, *operands, draws[chosen], half_width, found)
        else:
            reach = math.ceil(np.abs(draws[chosen]).max() + half_width)
            grams = np.empty((2 * reach + 1, 2 * reach + 1, 6))
            kernels.grams_cpu(exact, *operands, reach, grams)
            kernels.unlost_draws_cpu(grams, reach, draws[chosen], half_width, found)
        out[chosen] = found
    return with_slack(out + _rounding(exact, operator)[0], operator, exact.shape[3])
