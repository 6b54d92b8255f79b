"""Rigorous bounds of the interpolation error ``eps = |P T_beta x' - P T_(beta+gamma) x|_2`` over an attack range.

- :func:`individual_error_bounds`: ``x'`` is in hand and ``x`` is any image it can have been made from
  (Fischer et al. 2020, Eq. 10, with the inverse of section 6).
- :func:`forward_error_bounds`: ``x`` is in hand and ``x' = round8(T_gamma x)`` (Eq. 7 and 8).

Both bound the error of the pixels that are really classified: P T_t x is computed in float64 and rounded once
to float32 (``warp``), and each side may be off by ``PIXEL_SLACK`` a pixel; that is added at the end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .cells import BoundSettings, Cells, Parameters, Stage, no_stage
from .geometry import DIMENSIONS, GeometryError, as_parameters, attack_cells, cell_frames, kind_of
from .inverse import inverse_boxes
from .kernels import error_bound as kernels
from .preprocess import RECEIVED_BLUR, AnyOperator, GaussianOperator, Operator
from .residual import known_image_errors, received_image_error
from .warp import PIXEL_SLACK, check_images

PAIR_BATCH = 256
"""Pairs a CPU launch: enough for all cores, few enough for the scratch to stay in cache."""

def _shifted(cells: Cells, parameters: Parameters) -> tuple[Parameters, Parameters]:
    """``beta + cell`` for every pair, ends outward; inputs [M, d]."""
    return (
        np.nextafter(parameters + cells.lo, -np.inf),
        np.nextafter(parameters + cells.hi, np.inf),
    )


def _slack(operator: Operator, channels: int) -> float:
    rows, columns = operator.output_shape
    return 2.0 * PIXEL_SLACK * math.sqrt(rows * columns * channels) * (1.0 + 2.0**-40)


def _finish(squares: NDArray[np.float64], slack: float) -> NDArray[np.float64]:
    """Norms, rounded up; anything that is not a number is no bound at all."""
    norms = np.sqrt(squares) * (1.0 + 2.0**-50) + slack * (1.0 + 2.0**-50)
    return np.where(np.isfinite(norms), norms, np.inf)


def _checked(
    image: NDArray[np.float32], parameters: object, transformation: str, half_width: float
) -> tuple[NDArray[np.float32], Parameters]:
    """The image [H, W, C] and the draws [N, d]; raises GeometryError if an argument is out of range."""
    if not (math.isfinite(half_width) and half_width >= 0.0):
        raise GeometryError(f"attack range must be finite and >= 0, not {half_width}")
    return check_images(np.asarray(image)[None])[0], as_parameters(parameters, transformation)


def _chunks(count: int, size: int) -> Iterator[slice]:
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))


def _pair_step(operator: Operator, channels: int, settings: BoundSettings, device: str) -> int:
    height, width = operator.mask.shape
    step: int = max(1, settings.chunk_bytes // (8 * channels * width * 2 * (height + operator.output_shape[0])))
    return min(step, PAIR_BATCH) if device == "cpu" else step


def individual_error_bounds(
    received: NDArray[np.float32],
    parameters: object,
    transformation: str,
    half_width: float,
    operator: AnyOperator,
    settings: BoundSettings,
    *,
    device: str = "cpu",
    deadline: float | None = None,
    stage: Stage = no_stage,
) -> NDArray[np.float64]:
    """Bound ``eps`` at each drawn parameter for every original of a received image (Eq. 10).

    The inverse does not depend on the draws: it is computed once, first on wide cells, then on the halves
    of those that are not empty, until they are narrow or as many as the budget allows.

    Parameters
    ----------
    received : ndarray [H, W, C] float32
        The image in hand, ``round8(T_gamma x)`` for an unknown ``x`` in [0, 1] and unknown ``gamma``.
    parameters : array_like [N] degrees, or [N, 2] pixels
    transformation : {"rotation", "translation"}
    half_width : float
        G of the attack range ``[-G, G]^d``; degrees or pixels.
    operator : Operator or GaussianOperator
        P for H x W. With Gaussian interpolation all drawn parameters have the same bound (``residual``), and the first
        P is ``operator.for_attacked(RECEIVED_BLUR)``.
    settings : BoundSettings
    device : {"cpu", "cuda"}
    deadline : float, optional
        ``time.monotonic()`` after which cells are not split further; the bounds are valid all the same.
    stage : callable
        Called with "inverse" and "bound" around each part of the work.

    Returns
    -------
    ndarray [N] float64
        ``bound[n] >= eps(parameters[n], gamma, x)`` for all ``gamma`` in the range and all such ``x``;
        infinite where no finite bound was found.

    Raises
    ------
    GeometryError
        If an argument is out of range.
    """
    image, draws = _checked(received, parameters, transformation, half_width)
    if isinstance(operator, GaussianOperator):
        error = received_image_error(
            image, transformation, half_width, operator.for_attacked(RECEIVED_BLUR), settings, original=operator,
            device=device, deadline=deadline, stage=stage,
        )  # fmt: skip
        return np.full(len(draws), error)
    chunk = _inverse_chunk(image, settings)
    cells = surviving_cells(
        image, transformation, half_width, settings.width(transformation), settings, device, deadline, stage
    )
    squares = np.zeros(len(draws))
    found = False
    for part in _chunks(len(cells), chunk):
        with stage("inverse"):
            frames = cell_frames(cells[part].lo, cells[part].hi, transformation)
            boxes = inverse_boxes(image, frames, transformation, refinements=settings.refinements, device=device)
            kept = np.flatnonzero(~boxes.empty)
        if not len(kept):
            continue
        found = True
        sides = boxes.lower[kept], boxes.upper[kept]
        largest = _received_pairs(
            image, draws, cells[part][kept], sides, transformation, operator, settings, device, stage
        )
        squares = np.maximum(squares, largest)  # keeps what is not a number
    if not found:
        # gamma = 0 always has the original x = x', so this would be a contradiction: claim nothing.
        return np.full(len(draws), np.inf)
    return _finish(squares, _slack(operator, image.shape[2]))


def _inverse_chunk(image: NDArray[np.float32], settings: BoundSettings) -> int:
    """Cells whose inverses fit into ``chunk_bytes``."""
    per_cell: int = 8 * (4 * image.size + 4 * image.shape[0] * image.shape[1])
    return max(1, settings.chunk_bytes // per_cell)


def surviving_cells(
    image: NDArray[np.float32],
    transformation: str,
    half_width: float,
    width: float,
    settings: BoundSettings,
    device: str,
    deadline: float | None,
    stage: Stage,
) -> Cells:
    """Cells down to ``width`` that may hold the attacker's parameter; the others are proved empty on the way."""
    dimensions, chunk = DIMENSIONS[transformation], _inverse_chunk(image, settings)
    start = width * 2.0 ** max(0, math.ceil(math.log2(2.0 * half_width / width)) - 5) if half_width > 0 else width
    cells = Cells(*attack_cells(half_width, start, transformation))
    while cells.width() > width and len(cells) * 2**dimensions <= settings.kept_cells(image.size):
        if deadline is not None and time.monotonic() >= deadline:
            break
        kept = []
        for part in _chunks(len(cells), chunk):
            with stage("inverse"):
                frames = cell_frames(cells[part].lo, cells[part].hi, transformation)
                kept.append(~inverse_boxes(image, frames, transformation, refinements=3, device=device).empty)
        cells = cells[np.concatenate(kept)].halves()
    return cells


def _received_pairs(
    image: NDArray[np.float32],
    draws: Parameters,
    cells: Cells,
    sides: tuple[NDArray[np.float64], NDArray[np.float64]],
    transformation: str,
    operator: Operator,
    settings: BoundSettings,
    device: str,
    stage: Stage,
) -> NDArray[np.float64]:
    """The largest squared bound [N] of each draw over all cells; NaN where a pair gave none."""
    exact = image[None].astype(np.float64)
    draw_frames = cell_frames(draws, draws, transformation)
    largest = np.zeros(len(draws))
    for part in _chunks(len(cells) * len(draws), _pair_step(operator, image.shape[2], settings, device)):
        with stage("bound"):
            k, n = np.divmod(np.arange(part.start, part.stop), len(draws))
            lo, hi = _shifted(cells[k], draws[n])
            first = (exact, exact, draw_frames, np.zeros(len(n), dtype=np.int64), n)
            second = (*sides, cell_frames(lo, hi, transformation), k)
            squares = kernels.pair_norms(kind_of(transformation), operator, first, second, device)
            np.maximum.at(largest, n, squares)
    return largest


def forward_error_bounds(
    reference: NDArray[np.float32],
    parameters: object,
    transformation: str,
    half_width: float,
    operator: AnyOperator,
    settings: BoundSettings,
    *,
    target: float | None = None,
    device: str = "cpu",
    deadline: float | None = None,
    stage: Stage = no_stage,
) -> NDArray[np.float64]:
    """Bound ``max_gamma |P T_beta round8(T_gamma x) - P T_(beta+gamma) x|_2`` for a known image (Eq. 7, 8).

    With Gaussian interpolation the second P is ``operator.for_original()``.

    Cells of the attack range are refined best-first, all draws side by side: the cells with a draw's largest
    bounds are halved until its bound is at most ``target``, its cells are narrow (``cell_width``), its
    budget is spent or the deadline passes.

    Parameters
    ----------
    reference : ndarray [H, W, C] float32
        The known image x, in [0, 1].
    parameters : array_like [N] degrees, or [N, 2] pixels
    transformation, half_width, operator, settings, device
        As in :func:`individual_error_bounds`.
    target : float, optional
        Refinement of a draw stops once its bound is at most this.
    deadline : float, optional
        ``time.monotonic()`` after which nothing is refined; the bounds reached are valid.
    stage : callable
        Called with "bound" around each part of the work.

    Returns
    -------
    ndarray [N] float64
        Valid bounds, whenever and for whatever reason refinement stopped.

    Raises
    ------
    GeometryError
        If an argument is out of range.
    """
    image, draws = _checked(reference, parameters, transformation, half_width)
    if isinstance(operator, GaussianOperator):
        with stage("bound"):
            (error,) = known_image_errors(
                image[None], transformation, half_width, operator, operator.for_original(), floor=target or 0.0
            )
        return np.full(len(draws), error)
    width, dimensions = settings.width(transformation), DIMENSIONS[transformation]
    slack = _slack(operator, image.shape[2])
    goal = -math.inf if target is None else (max(target - slack, 0.0) * (1.0 - 2.0**-48)) ** 2
    per_axis = max(1, min(round(settings.cell_budget ** (1 / dimensions)) // 4, math.ceil(2 * half_width / width), 16))
    cells = Cells(*attack_cells(half_width, 2.0 * half_width / per_axis if half_width > 0 else 1.0, transformation))
    draw_of = np.repeat(np.arange(len(draws)), len(cells))
    cells = cells[np.tile(np.arange(len(cells)), len(draws))]
    squares = _forward_pairs(image, draws, cells, draw_of, transformation, operator, settings, device, stage)
    spent = np.bincount(draw_of, minlength=len(draws))
    while deadline is None or time.monotonic() < deadline:
        split = _worst_cells(cells, draw_of, squares, spent, goal, width, settings.cell_budget)
        if not len(split):
            break
        parts = cells[split].halves()
        owners = np.tile(draw_of[split], 2**dimensions)
        new = _forward_pairs(image, draws, parts, owners, transformation, operator, settings, device, stage)
        # A part's bound may exceed its parent's by rounding only; the parent's bound holds for it too.
        new = np.fmin(new, np.tile(squares[split], 2**dimensions))
        spent += np.bincount(owners, minlength=len(draws))
        keep = np.ones(len(cells), dtype=np.bool_)
        keep[split] = False
        cells = cells[keep].joined(parts)
        draw_of, squares = np.concatenate([draw_of[keep], owners]), np.concatenate([squares[keep], new])
    largest = np.zeros(len(draws))
    np.maximum.at(largest, draw_of, np.where(np.isnan(squares), np.inf, squares))
    return _finish(largest, slack)


def _worst_cells(
    cells: Cells,
    draw_of: NDArray[np.int64],
    squares: NDArray[np.float64],
    spent: NDArray[np.int64],
    goal: float,
    width: float,
    budget: int,
) -> NDArray[np.int64]:
    """Cells to halve next: for each open draw, those whose bound is near the draw's largest.

    A draw whose worst cell cannot be split further is finished: nothing would lower its bound.
    """
    draws = len(spent)
    largest = np.zeros(draws)
    np.maximum.at(largest, draw_of, squares)
    wide = (cells.hi - cells.lo).max(axis=1) > width * (1.0 + 1e-9)
    stuck = np.zeros(draws, dtype=np.bool_)
    stuck[draw_of[~wide & (squares >= largest[draw_of])]] = True
    open_draw = (largest > goal) & ~stuck & (spent + 2 * cells.lo.shape[1] <= budget)
    near = squares >= 0.9 * largest[draw_of]
    return np.flatnonzero(open_draw[draw_of] & wide & near & (squares > goal))


def _forward_pairs(
    image: NDArray[np.float32],
    draws: Parameters,
    cells: Cells,
    draw_of: NDArray[np.int64],
    transformation: str,
    operator: Operator,
    settings: BoundSettings,
    device: str,
    stage: Stage,
) -> NDArray[np.float64]:
    """Squared bounds [M] of pairs of a cell and a draw, with the attacked image rounded to 8 bits."""
    exact = image[None].astype(np.float64)
    kind = kind_of(transformation)
    draw_frames = cell_frames(draws, draws, transformation)
    squares = np.empty(len(cells))
    for part in _chunks(len(cells), _pair_step(operator, image.shape[2], settings, device)):
        with stage("bound"):
            inside, n = cells[part], draw_of[part]
            distinct, image_of = np.unique(np.concatenate([inside.lo, inside.hi], axis=1), axis=0, return_inverse=True)
            ends = distinct.shape[1] // 2
            attacked = kernels.rounded_images(
                image, cell_frames(distinct[:, :ends], distinct[:, ends:], transformation), kind, device
            )
            lo, hi = _shifted(inside, draws[n])
            first = (*attacked, draw_frames, image_of.reshape(-1).astype(np.int64), n)
            second = (exact, exact, cell_frames(lo, hi, transformation), np.zeros(len(n), dtype=np.int64))
            squares[part] = kernels.pair_norms(kind, operator, first, second, device)
    return squares
