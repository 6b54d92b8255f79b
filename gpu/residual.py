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

*Received image.* For each cell the inverse gives a box ``x = middle + xi``, ``|xi| <= deviation``. At the cell's
centre c two forms hold, pixel by pixel (docs/guarantees.md B.6, multipliers 0 and ``S_0``); the smaller is taken:

    |D| <= |(S_0 T_c - S_c) middle| + |S_0 T_c - S_c| deviation + S_0 TOLERANCE          (the attack's rows cancel)
    |D| <= |S_0 x' - S_c middle| + S_c deviation

Away from c, D changes by at most the cell's half-width times derivatives of ``S``, plus the change of ``T_gamma``.
Cells with the largest bounds are halved until that stops helping.

Arithmetic is float64 to nearest; ``ARITHMETIC_SLACK`` covers what that costs, ``_truncation`` the weights left out.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .cover import ARITHMETIC_SLACK, COARSE
from .geometry import DIMENSIONS, GeometryError, cell_frames, kind_of, point_frames
from .inverse import TOLERANCE, inverse_boxes
from .kernels import residual as kernels
from .preprocess import Bands, GaussianOperator, filter_matrix
from .warp import PIXEL_SLACK, check_images

if TYPE_CHECKING:
    from .error_bound import BoundSettings, Cells, Stage

LEFT_OUT = 5e-6
"""At least the weights of the pixels that lie beyond ``REACH`` standard deviations of a point on an axis."""
SHIFT_STEP = 0.25
"""Distance of the shifts at which a known image's residual is computed first, pixels; divides 1."""
PASSES = 4
"""Refinements of an inverse at most: the cancelled form needs boxes less tight than the plain one."""
SPLIT_WITHIN = 0.97
"""Cells whose bound is at least this share of the largest are halved together."""
WORTHWHILE = 0.99
"""Refinement ends when the largest bound has not fallen below this share of what it was two rounds before."""


def _pad(operator: GaussianOperator, transformation: str, half_width: float) -> int:
    """Pixels around the frame that hold everything a transform moves out of it, and its Gaussian."""
    height, width = operator.input_shape
    moved = half_width if transformation == "translation" else 0.5 * (math.hypot(height, width) - min(height, width))
    return math.ceil(operator.reach) + math.ceil(moved) + 1


def _filters(operator: GaussianOperator, pad: int, power: int, *, absolute: bool = False) -> tuple[Bands, Bands]:
    """Bands of ``(d / sigma)^power phi(d)`` along rows and columns, or of its absolute value."""
    bands = []
    for size in operator.input_shape:
        distance = (np.arange(-pad, size + pad)[:, None] - np.arange(size)[None, :]) / operator.sigma
        weights = filter_matrix(size, operator.sigma, pad) * distance**power
        bands.append(Bands.from_dense(np.abs(weights) if absolute else weights))
    return bands[0], bands[1]


def _norm_of(terms: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]) -> NDArray[np.float64]:
    """``|sum of R v C'|_2`` [N] over terms of filters R, C and images v [N, C, H, W]."""
    total = sum(np.einsum("ij,ncjk,lk->ncil", rows, values, columns, optimize=True) for rows, values, columns in terms)
    return np.asarray(np.sqrt(np.square(total).sum(axis=(1, 2, 3))))


def _curvature(
    sources: NDArray[np.float64], operator: GaussianOperator, transformation: str, pad: int
) -> NDArray[np.float64]:
    """Norm [N] of the second derivative of ``S_g x`` by g, summed over the axes; 1/radian^2 or 1/pixel^2.

    With ``c`` the place of a pixel, ``v`` and ``a`` its velocity and acceleration and ``d = q - c``:
    ``(<d, v>^2 / s^4 - |v|^2 / s^2 + <d, a> / s^2) phi(d)``.
    """
    s = operator.sigma
    zeroth, first, second = (
        [band.dense() for band in _filters(operator, pad, power)] for power in (0, 1, 2)
    )
    if transformation == "translation":
        along = _norm_of([(zeroth[0], sources / s**2, second[1]), (zeroth[0], -sources / s**2, zeroth[1])])
        across = _norm_of([(second[0], sources / s**2, zeroth[1]), (zeroth[0], -sources / s**2, zeroth[1])])
        return np.asarray(along + across)
    height, width = operator.input_shape
    y = (np.arange(height) - 0.5 * (height - 1))[:, None]
    x = (np.arange(width) - 0.5 * (width - 1))[None, :]
    vx, vy = -y, x
    return _norm_of([
        (zeroth[0], sources * vx**2 / s**2, second[1]),
        (first[0], sources * 2.0 * vx * vy / s**2, first[1]),
        (second[0], sources * vy**2 / s**2, zeroth[1]),
        (zeroth[0], -sources * (x**2 + y**2) / s**2, zeroth[1]),
        (zeroth[0], -sources * x / s, first[1]),
        (first[0], -sources * y / s, zeroth[1]),
    ])  # fmt: skip


def _slack(operator: GaussianOperator, channels: int, pad: int) -> float:
    """What the weights left out, float32 pixels and float64 arithmetic may add to an error."""
    height, width = operator.input_shape
    truncation = 5.0 * LEFT_OUT * math.sqrt((height + 2 * pad) * (width + 2 * pad) * channels)
    return truncation + 2.0 * PIXEL_SLACK * math.sqrt(height * width * channels) + ARITHMETIC_SLACK


def _alias(operator: GaussianOperator) -> float:
    """By how much, per unit of energy, a sum of squares over a moved grid may differ from the integral."""
    return 8.2 * math.exp(-((math.pi * operator.sigma) ** 2))


def _with_slack(
    errors: NDArray[np.float64], energy: NDArray[np.float64], operator: GaussianOperator, channels: int, pad: int
) -> NDArray[np.float64]:
    """Errors plus :func:`_slack` and what the sum over another grid may add."""
    total = np.sqrt(errors**2 + 2.0 * _alias(operator) * energy) * (1.0 + ARITHMETIC_SLACK)
    total += _slack(operator, channels, pad)
    return np.where(np.isfinite(total), total, np.inf)


def _energy(sources: NDArray[np.float64], operator: GaussianOperator) -> NDArray[np.float64]:
    """At least the sums of squares of ``m x'`` and ``m x`` together [N], whatever x' or x is."""
    most = sources.shape[1] * float(np.square(operator.weights).sum())
    return np.asarray(np.square(sources).sum(axis=(1, 2, 3)) + most)


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
    pad, sources, channels = _pad(operator, transformation, half_width), operator.masked(exact), exact.shape[3]
    rows, columns = _filters(operator, pad, 0)
    operands = (
        exact, operator.weights, sources, rows.start, rows.weights, columns.start, columns.weights, operator.sigma,
        operator.reach, pad,
    )  # fmt: skip
    curvature = _curvature(sources, operator, transformation, pad)
    out = np.empty(len(exact))
    # The floor is meant for the result, so what is added below comes off it first.
    energy = _energy(sources, operator)
    alias = math.sqrt(2.0 * _alias(operator) * float(energy.max()))
    floor = max((floor - _slack(operator, channels, pad)) / (1.0 + 2.0 * ARITHMETIC_SLACK) - alias, 0.0)
    if transformation == "rotation":
        kernels.rotation_cpu(
            *operands, math.radians(half_width), curvature, math.radians(COARSE), tolerance, floor, budget, TOLERANCE,
            out,
        )  # fmt: skip
    else:
        steps = np.arange(math.ceil(-half_width / SHIFT_STEP), math.floor(half_width / SHIFT_STEP) + 1) * SHIFT_STEP
        rounding = _shifted_rounding(exact, operator)
        coarse = 0.125 * SHIFT_STEP**2 * curvature
        shifts = np.unique([-half_width, *steps, half_width])
        kernels.translation_cpu(*operands, shifts, coarse, 0.25 * coarse, floor - rounding, out)
        out += rounding
    return _with_slack(out, energy, operator, channels, pad)


def _shifted_rounding(images: NDArray[np.float64], operator: GaussianOperator) -> NDArray[np.float64]:
    """``|S_0 r|_2`` [N]: r is at most ``TOLERANCE``, and only where a shifted image can be non-zero."""
    filled = np.pad(images > 0.0, ((0, 0), (1, 1), (1, 1), (0, 0)))
    spread = filled[:, 1:, 1:] | filled[:, :-1, 1:] | filled[:, 1:, :-1] | filled[:, :-1, :-1]
    rows, columns = (filter_matrix(size, operator.sigma, math.ceil(operator.reach)) for size in spread.shape[1:3])
    return _norm_of([(rows, np.where(spread, TOLERANCE, 0.0).transpose(0, 3, 1, 2), columns)])


def received_image_error(
    received: NDArray[np.float32],
    transformation: str,
    half_width: float,
    operator: GaussianOperator,
    settings: BoundSettings,
    *,
    device: str = "cpu",
    deadline: float | None = None,
    stage: Stage,
) -> float:
    """Bound ``|S_beta x' - S_(beta+gamma) x|_2`` for every beta, every gamma in the range and every original x.

    Parameters
    ----------
    received : ndarray [H, W, C] float32
        The image in hand, ``round8(T_gamma x)`` for an unknown ``x`` in [0, 1] and unknown ``gamma``.
    transformation, half_width, operator, settings, device, deadline, stage
        As in :func:`error_bound.individual_error_bounds`.

    Returns
    -------
    float
        Infinite where no finite bound was found.
    """
    from .error_bound import surviving_cells  # that room dispatches to this one

    image = received[None].astype(np.float64)
    pad = _pad(operator, transformation, half_width)
    bounds = _CellBounds(image, transformation, operator, pad, settings, device, stage)
    finest = settings.finest(transformation)
    start = max(settings.width(transformation), finest)
    cells = surviving_cells(received, transformation, half_width, start, settings, device, deadline, stage)
    values = bounds(cells)
    history = [math.inf, math.inf, float(values.max(initial=0.0))]
    spent = len(cells)
    halves = 2 ** DIMENSIONS[transformation]
    while deadline is None or time.monotonic() < deadline:
        wide = (cells.hi - cells.lo).max(axis=1) > finest
        chosen = np.flatnonzero(wide & (values >= SPLIT_WITHIN * history[-1]))
        stuck = bool((~wide & (values >= SPLIT_WITHIN * history[-1])).any())
        if stuck or not len(chosen) or not history[-1] < WORTHWHILE * history[-3]:
            break
        if spent + halves * len(chosen) > settings.kept_cells(received.size):
            break
        parts = cells[chosen].halves()
        # A part's bound may exceed its parent's; the parent's bound holds for it too.
        new = np.fmin(bounds(parts), np.tile(values[chosen], halves))
        spent += len(parts)
        keep = np.ones(len(cells), dtype=np.bool_)
        keep[chosen] = False
        values = np.concatenate([values[keep], new])
        cells = cells[keep].joined(parts)
        history.append(float(values.max(initial=0.0)))
    if not (values >= 0.0).any():
        # gamma = 0 always has the original x = x', so this would be a contradiction: claim nothing.
        return math.inf
    energy = _energy(operator.masked(image), operator)
    return float(_with_slack(np.array([history[-1]]), energy, operator, received.shape[2], pad)[0])


class _CellBounds:
    """Bounds of the residual over cells, for one received image; ``-inf`` for a cell that is proved empty."""

    def __init__(
        self, image: NDArray[np.float64], transformation: str, operator: GaussianOperator, pad: int,
        settings: BoundSettings, device: str, stage: Stage,
    ) -> None:  # fmt: skip
        self.image, self.transformation, self.operator, self.pad = image, transformation, operator, pad
        self.passes, self.device, self.stage = min(settings.refinements, PASSES), device, stage
        filters = {
            (power, absolute): _filters(operator, pad, power, absolute=absolute)
            for power, absolute in ((0, False), (1, False), (1, True))
        }
        rows, columns = (band.dense() for band in filters[0, False])
        self.received = np.einsum("ij,cjk,lk->cil", rows, operator.masked(image)[0], columns, optimize=True)
        self.rounding = rows @ (operator.weights * TOLERANCE) @ columns.T
        operands: dict[bool, list[NDArray[Any]]] = {False: [], True: []}
        for absolute, arrays in operands.items():
            for axis in (0, 1):
                plain, moment = filters[0, False][axis], filters[1, absolute][axis]
                arrays += [plain.start, plain.weights, moment.start, moment.weights / operator.sigma]
        self.filters = tuple(operands[False]), tuple(operands[True])
        height, width, channels = image.shape[1:]
        padded = (height + 2 * pad) * (width + 2 * pad)
        self.step = max(1, settings.chunk_bytes // (8 * channels * (6 * padded + 12 * height * width)))

    def __call__(self, cells: Cells) -> NDArray[np.float64]:
        out = np.full(len(cells), -np.inf)
        image = self.image[0].astype(np.float32)
        for first in range(0, len(cells), self.step):
            part = slice(first, min(first + self.step, len(cells)))
            frames = cell_frames(cells[part].lo, cells[part].hi, self.transformation)
            with self.stage("inverse"):
                boxes = inverse_boxes(
                    image, frames, self.transformation, refinements=self.passes, device=self.device
                )
            kept = np.flatnonzero(~boxes.empty)
            if not len(kept):
                continue
            with self.stage("bound"):
                found = kernels.launch_received(
                    kind_of(self.transformation), (frames[kept], *self._points(cells[part][kept])), self.operator,
                    self.pad, (boxes.lower[kept], boxes.upper[kept]), (self.received, self.rounding), self.filters,
                    self.device,
                )  # fmt: skip
            out[first + kept] = np.where(np.isnan(found), np.inf, found)
        return out

    def _points(
        self, cells: Cells
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Point frames of the centres, forward and back, and half-widths [K, 2] in radians or pixels."""
        centres = 0.5 * (cells.lo + cells.hi)
        # A little wider than half: the centre is rounded.
        radii = 0.5 * (cells.hi - cells.lo) * (1.0 + 1e-9) + 1e-12
        if self.transformation == "rotation":
            radii = np.repeat(np.deg2rad(radii), 2, axis=1)
        return point_frames(centres, self.transformation), point_frames(-centres, self.transformation), radii
