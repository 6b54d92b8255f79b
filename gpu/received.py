"""The error bound of a received image with Gaussian interpolation; the setting and the words are those of ``residual``.

For a cell of gamma, the inverse encloses the original as ``x = middle + xi``, ``|xi| <= deviation``, and the range of
``T_gamma x`` over the cell encloses what rounding added, ``r = x' - T_gamma x = r_0 + z``, ``|z| <= w``: nothing but
what ``TOLERANCE`` allows, and less where the image is black or white. So, for every gamma in the cell,

    D = S_0 x' - S'_gamma x = b(gamma) + A z + K(gamma) xi,

    b(gamma) = (S_0 T_gamma - S'_gamma) middle + A r_0,    A = S_0 m,    K(gamma) = S_0 T_gamma - S'_gamma.

*The norm as a whole.* At one gamma, ``|D|^2 = |b|^2 + 2 z A'b + 2 xi K'b + |A z + K xi|^2``, hence

    |D|^2 <= |b|^2 + 2 w |A'b| + 2 deviation |K'b| + | A w + |K| deviation |^2

with absolute values entry by entry. It needs the entries of K, column by column (differences of normal densities of
nearly the same place and shape, so that they are small), but of ``A'b`` and ``K'b`` only the sums.

*Shifts.* Between integers ``T_gamma`` is multilinear in gamma, so ``b(gamma)`` and ``K(gamma)`` are averages of their
values at the cell's corners, but for ``S'_gamma x``, which is within ``1/8`` of the squared width times its second
derivative per axis of such an average. With b the mean of the corners', and for ``|K'b|`` and ``|K| deviation`` the
largest of the corners', pixel by pixel, D is longer by at most that and the largest distance of a corner's b from b.

*Angles.* b is the mean of the ends' ``b(gamma)``, K that of the centre, and D is longer by at most the distance of the
ends' b from b, plus what ``T_gamma middle`` strays from its chord (as in ``cover``), what ``S'_gamma middle`` does, and
what ``(K(gamma) - K) xi`` can be: deviations times the way that a source point has to go, through ``S_0``, and the
half-width of the cell times the derivative of ``S'_gamma xi``, of the same norm at every angle.

So cells need not be narrow. Those whose bound is near the largest are halved, and their inverses sharpened from those
of the cells that they were part of, until that stops helping.

Weights beyond ``REACH`` standard deviations are left out, for x', for middle and xi at gamma, and for the entries of K.
Matrices of such weights have rows and columns that sum to at most ``LEFT_OUT``, so their norm is at most that.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .candidates import Boxes, Candidates, first_cells
from .cells import BoundSettings, Cells, Stage
from .cover import ARITHMETIC_SLACK
from .geometry import DIMENSIONS, GeometryError, cell_frames, kind_of, point_frames
from .inverse import inverse_boxes
from .kernels import residual as kernels
from .preprocess import Bands, GaussianOperator
from .residual_terms import LEFT_OUT, alias, filter_bands, most_energy, padding
from .warp import PIXEL_SLACK

COARSEST = {"rotation": 0.8, "translation": 0.25}
"""Width of the first cells, degrees or pixels."""
COARSE = {"rotation": 0.2, "translation": 1.0 / 16.0}
"""Down to this width cells are halved whatever their bound: most of them are empty."""
FINEST = {"rotation": 1.0 / 160.0, "translation": 1.0 / 128.0}
"""Cells of this width or less are not halved, unless the settings name another."""
PASSES = 4
"""Refinements of an inverse that starts from nothing."""
SPLIT_WITHIN = 0.97
"""Cells whose bound is at least this share of the largest are halved together."""
WORTHWHILE = {"rotation": 0.99, "translation": 0.98}
"""Refinement ends when the largest bound has not fallen below this share of what it was two rounds before."""


def received_image_error(
    received: NDArray[np.float32],
    transformation: str,
    half_width: float,
    operator: GaussianOperator,
    settings: BoundSettings,
    *,
    original: GaussianOperator | None = None,
    device: str = "cpu",
    deadline: float | None = None,
    stage: Stage,
) -> float:
    """Bound ``|S_beta x' - S'_(beta+gamma) x|_2`` for every beta, every gamma in the range and every original x.

    Parameters
    ----------
    received : ndarray [H, W, C] float32
        The image in hand, ``round8(T_gamma x)`` for an unknown ``x`` in [0, 1] and unknown ``gamma``.
    operator : GaussianOperator
        S, which reads the received image.
    original : GaussianOperator, optional
        S', which reads its originals: S, or the same vignette and another width.
    transformation, half_width, settings, device, deadline, stage
        As in :func:`error_bound.individual_error_bounds`.

    Returns
    -------
    float
        Infinite where no finite bound was found.
    """
    original = original or operator
    if not np.array_equal(operator.weights, original.weights):
        raise GeometryError("both operators need the same vignette")
    bounds = _CellBounds(received, transformation, half_width, (operator, original), settings, device, stage)
    finest = settings.cell_width or FINEST[transformation]
    budget, parts = settings.kept_cells(received.size), 2 ** DIMENSIONS[transformation]
    found = Candidates(first_cells(transformation, half_width, max(COARSEST[transformation], finest)))

    def late() -> bool:
        return deadline is not None and time.monotonic() >= deadline

    while found.cells.width() > max(COARSE[transformation], finest) and len(found) * parts <= budget and not late():
        found = bounds.possible(found).halves()
    found = bounds.bounded(found)
    history, spent = [math.inf, math.inf, found.largest()], len(found)
    while not late():
        near = found.values >= SPLIT_WITHIN * history[-1]
        wide = (found.cells.hi - found.cells.lo).max(axis=1, initial=0.0) > finest
        spent += parts * int(near.sum())
        falling = history[-1] < WORTHWHILE[transformation] * history[-3]
        if not (near.any() and wide[near].all() and spent <= budget and falling):
            break
        found = found[~near].joined(bounds.bounded(found[near].halves()))
        history.append(found.largest())
    if not len(found):
        # gamma = 0 always has the original x = x', so this would be a contradiction: claim nothing.
        return math.inf
    return bounds.with_slack(history[-1])


class _CellBounds:
    """Inverses of cells, and bounds of the residual over them, for one received image."""

    def __init__(
        self, image: NDArray[np.float32], transformation: str, half_width: float,
        operators: tuple[GaussianOperator, GaussianOperator], settings: BoundSettings, device: str, stage: Stage,
    ) -> None:  # fmt: skip
        self.image, self.transformation = image, transformation
        self.operator, self.original = operator, original = operators
        self.pad = max(padding(one, transformation, half_width) for one in operators)
        self.passes, self.device, self.stage = min(settings.refinements, PASSES), device, stage
        plain, moved = filter_bands(operator, self.pad, 0), filter_bands(original, self.pad, 0)
        moments = filter_bands(original, self.pad, 1, absolute=True)
        self.filters = (
            _operands([(band.start, band.weights) for band in plain]),
            _operands([(back.start, back.weights) for back in (Bands.from_dense(band.dense().T) for band in plain)]),
            _operands([(band.start, band.weights) for band in moved]),
            _operands([(band.start, band.weights / original.sigma) for band in moments]),
        )
        reach = max(operator.reach, original.reach)
        shapes = kernels.scratch_shapes(image.shape, 2 ** DIMENSIONS[transformation], reach, self.pad)
        per_cell = sum(math.prod(shape) for shape in shapes) + 8 * image.size
        self.step = max(1, settings.chunk_bytes // (8 * per_cell))
        self.most_kept = settings.chunk_bytes // (16 * image.size)

    def possible(self, candidates: Candidates) -> Candidates:
        """Those that one more pass of the inverse does not prove to be empty."""
        return self._survivors(candidates, 0, bound=False)

    def bounded(self, candidates: Candidates) -> Candidates:
        """Those that are not proved to be empty, with bounds no larger than they had."""
        fresh = candidates.boxes is None
        return self._survivors(candidates, self.passes if fresh else min(self.passes, 1), bound=True)

    def _survivors(self, candidates: Candidates, refinements: int, *, bound: bool) -> Candidates:
        keep = len(candidates) <= self.most_kept
        found = []
        for first in range(0, max(len(candidates), 1), self.step):
            part = candidates[first : first + self.step]
            frames = cell_frames(part.cells.lo, part.cells.hi, self.transformation)
            with self.stage("inverse"):
                boxes = inverse_boxes(
                    self.image, frames, self.transformation, refinements=refinements, start=part.boxes,
                    device=self.device,
                )  # fmt: skip
            alive = np.flatnonzero(~boxes.empty)
            sides = boxes.lower[alive], boxes.upper[alive]
            values = part.values[alive]
            if bound and len(alive):
                with self.stage("bound"):
                    new = self._bounds(part.cells[alive], frames[alive], sides)
                # A part's bound may exceed its parent's; the parent's bound holds for it too.
                values = np.fmin(values, np.where(np.isnan(new), np.inf, new))
            found.append(Candidates(part.cells[alive], sides if keep else None, values))
        result = found[0]
        for part in found[1:]:
            result = result.joined(part)
        return result

    def _bounds(self, cells: Cells, frames: NDArray[np.float64], boxes: Boxes) -> NDArray[np.float64]:
        """Bounds [K] of cells that may not be empty."""
        centres = 0.5 * (cells.lo + cells.hi)
        # A little wider than half: the centre is rounded.
        radii = 0.5 * (cells.hi - cells.lo) * (1.0 + 1e-9) + 1e-12
        if self.transformation == "rotation":
            radii = np.repeat(np.deg2rad(radii), 2, axis=1)
        corners = np.concatenate([point_frames(corner, self.transformation) for corner in _corners(cells)], axis=1)
        points = corners, -corners
        if self.transformation == "rotation":
            points = point_frames(centres, self.transformation), point_frames(-centres, self.transformation)
        found = kernels.launch_received(
            kind_of(self.transformation), (frames, *points, radii), corners, (self.operator, self.original), self.pad,
            boxes, self.image.astype(np.float64), self.filters, self.device,
        )  # fmt: skip
        return found + self._bending(radii, boxes[1]) + self._left_out(boxes[1])

    def _bending(self, radii: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.float64]:
        """At most how far [K] ``S'_g m x`` strays from an average of its values at a cell's corners, for x <= upper.

        Entries of its second derivative (``residual_terms.curvature``) are at most ``(|d|^2 / s^4 + 1 / s^2) phi(d)
        |v|^2 + |d| / s^2 phi(d) |a|``. On any grid the sums of ``phi``, ``|d|^2 phi`` and ``|d| phi`` are at most 1,
        ``2 s^2`` and ``sqrt(2) s``, so by Schur's test the norm is at most ``3 / s^2 |v^2 m x| + 1.5 / s |a m x|``.
        """
        sources, s = self.original.masked(upper), self.original.sigma
        if self.transformation == "translation":
            size = 3.0 / s**2 * _norms(sources)
            return np.asarray(0.5 * np.square(radii).sum(axis=1) * size * (1.0 + 1e-6))
        height, width = self.operator.input_shape
        y, x = np.arange(height) - 0.5 * (height - 1), np.arange(width) - 0.5 * (width - 1)
        radius = np.hypot(y[:, None], x)
        size = 3.0 / s**2 * _norms(sources * radius**2) + 1.5 / s * _norms(sources * radius)
        return np.asarray(0.5 * np.square(radii[:, 0]) * size * (1.0 + 1e-6))

    def _left_out(self, upper: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the weights left out can add [K]."""
        received = _norms(self.operator.masked(self.image[None]))
        # The middle is at most upper, deviations at most half of it, and those are affected three times.
        return np.asarray(LEFT_OUT * (received + 3.0 * _norms(self.operator.masked(upper))))

    def with_slack(self, error: float) -> float:
        """The error with what float64 arithmetic, float32 pixels and the sum over another grid may add."""
        operator, channels = self.operator, self.image.shape[2]
        energy = float(most_energy(operator.masked(self.image[None]), operator)[0])
        wrapped = max(alias(operator), alias(self.original))
        total = math.sqrt(error**2 + 2.0 * wrapped * energy) * (1.0 + ARITHMETIC_SLACK) + ARITHMETIC_SLACK
        total += 2.0 * PIXEL_SLACK * math.sqrt(math.prod(operator.output_shape) * channels)
        return total if math.isfinite(total) else math.inf


def _norms(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Euclidean norms [K] of images [K, C, H, W]."""
    return np.asarray(np.sqrt(np.square(images).sum(axis=(1, 2, 3))))


def _corners(cells: Cells) -> list[NDArray[np.float64]]:
    """All corners of the cells, each [K, d]."""
    corners = [np.empty((len(cells), 0))]
    for axis in range(cells.lo.shape[1]):
        ends = cells.lo[:, axis : axis + 1], cells.hi[:, axis : axis + 1]
        corners = [np.concatenate([corner, end], axis=1) for corner in corners for end in ends]
    return corners


def _operands(sides: list[tuple[NDArray[Any], ...]]) -> tuple[NDArray[Any], ...]:
    """Bands along rows, then along columns, as the kernels take them."""
    return sides[0] + sides[1]
