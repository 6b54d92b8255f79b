"""The largest interpolation error of a known image at a *total* parameter ``t = beta + gamma``.

    e(t) >= max over gamma in Gamma of |F(gamma) + P T_(t-gamma) r|_2,    F(gamma) = P (T_(t-gamma) T_gamma x - T_t x),

with ``r = round8(T_gamma x) - T_gamma x``: the threshold of a reference image (docs/guarantees.md B.3).

Boxes. Where ``v(gamma) = T_(t-gamma) round8(T_gamma x) - T_t x`` is, pixel by pixel, within ``b`` of a convex
combination of images ``v_1 .. v_n``, the largest ``|P (u + e)|_2`` over ``|e| <= b`` is a convex function of u, so

    |P v|_2^2 <= max over k of |P v_k|_2^2 + 2 <|P^T P v_k|, b> + |P b|_2^2 .

The errors alternate in sign from pixel to pixel and ``P^T P`` blurs, so the middle term is much smaller than
``2 |P v_k| |P b|``.

Rotation. On a cell of gamma of width w, a pixel of ``T_gamma x`` strays from its chord by at most ``w W / 4`` if its
slope lies in an interval of width W (``cover``), and by 1/510 more once it is rounded; where all of the cell rounds to
one value, that value is a chord that strays by nothing. The chord, read at a point that moves with gamma, is a
function of gamma with an enclosed slope, and so within ``w W / 4`` of its own chord, whose ends are ``v_1`` and
``v_2``; what strays is read by the same interpolation and added: together ``b``. The cell with the largest bound is
halved. The chords of ``T_gamma x`` do not depend on t: all draws share them.

Translation. On one axis, with ``gamma = k + a``, ``a`` in [0, 1] and ``f`` the fractional part of t, each of
``a <= f`` and ``a >= f`` makes ``T_(t-gamma) T_gamma`` three weights a pixel, quadratic in ``a``, also at the border
where a pixel is lost for k, for k + 1 or for both. A quadratic on an interval is a convex combination of its three
Bernstein coefficients, so on both axes ``v`` is a convex combination of products of them; ``b`` is 1/510 where content
can be. Split at the middle of ``[0, f]`` and of ``[f, 1]``, the coefficients of a pixel that is not lost are values
that are attained: ``T_(t-gamma) T_gamma - T_t`` is ``m D`` at an integer shift, ``D = [1, -2, 1]``, and m takes all of
``[0, f^2 / 4]`` or ``[0, (1 - f)^2 / 4]``. Equal coefficients are evaluated once: where nothing is lost, three on each
axis.

Arithmetic is float64 to nearest; ``cover.ARITHMETIC_SLACK`` covers what that costs.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import total_shift
from .cells import BoundSettings, Stage, no_stage
from .cover import operands_of, with_slack
from .error_norm import PRESENT
from .geometry import GeometryError, as_parameters, kind_of
from .kernels import total_error as kernels
from .preprocess import AnyOperator, Bands, GaussianOperator, Operator
from .residual import known_image_errors
from .warp import check_images

DRAWS_A_PART = 32
"""Draws between two looks at the clock, and between two openings of the stage."""
COARSE_PIXELS = 0.5
"""How far the outermost pixels move over one of the first cells of an angle."""
FINE_PIXELS = 0.01
"""The same over the last cells, unless a cell width is set."""
LEAST_HALF_WIDTH = 1e-6
"""Degrees; a narrower attack range is bounded as this one."""

Arrays = tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class TotalErrors:
    """Bounds of ``max_gamma |P T_(t-gamma) round8(T_gamma x) - P T_t x|_2`` at total parameters t, on the CPU.

    What does not depend on t is computed at the first call of :meth:`bounds` and kept.

    Parameters
    ----------
    reference : ndarray [H, W, C] float32
        The known image x, in [0, 1].
    transformation : {"rotation", "translation"}
    half_width : float
        G of the attack range ``[-G, G]^d``; degrees or pixels.
    operator : Operator or GaussianOperator
        P for H x W. With Gaussian interpolation all parameters have the same bound (``residual``), and the second P
        is ``operator.for_original()``.
    settings : BoundSettings
        Rotation: ``cell_width`` is the least width of a cell of gamma, ``cell_budget`` the cells of one draw,
        ``chunk_bytes`` the memory for all. Translation needs none of them.
    tolerance : float
        Rotation: refinement of a draw stops within ``1 + tolerance`` of about the largest error found.

    Raises
    ------
    GeometryError
        If an argument is out of range.
    """

    reference: NDArray[np.float32]
    transformation: str
    half_width: float
    operator: AnyOperator
    settings: BoundSettings
    tolerance: float = 0.04

    def __post_init__(self) -> None:
        kind_of(self.transformation)
        check_images(np.asarray(self.reference)[None])
        if not (math.isfinite(self.half_width) and self.half_width >= 0.0):
            raise GeometryError(f"attack range must be finite and >= 0, not {self.half_width}")
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0.0):
            raise GeometryError(f"tolerance must be finite and >= 0, not {self.tolerance}")

    def bounds(
        self, totals: object, *, target: float = 0.0, deadline: float | None = None, stage: Stage = no_stage
    ) -> NDArray[np.float64]:
        """Bounds [N] at total parameters [N] degrees or [N, 2] pixels.

        Parameters
        ----------
        totals : array_like
        target : float
            Rotation: refinement of a draw stops at this bound.
        deadline : float, optional
            ``time.monotonic()`` after which a draw gets its first cells only (rotation), or an infinite bound
            (translation); looked at once in ``DRAWS_A_PART`` draws.
        stage : callable
            Called with "bound" around each part of the work.

        Returns
        -------
        ndarray [N] float64
            Valid bounds, whenever and for whatever reason refinement stopped.
        """
        draws = as_parameters(totals, self.transformation)
        if isinstance(self.operator, GaussianOperator):
            with stage("bound"):
                return np.full(len(draws), self._gaussian)
        squares = np.full(len(draws), np.inf)
        for first in range(0, len(draws), DRAWS_A_PART):
            part = slice(first, min(first + DRAWS_A_PART, len(draws)))
            late = deadline is not None and time.monotonic() >= deadline
            with stage("bound"):
                if self.transformation == "rotation":
                    self._turned(draws[part, 0], target, late, squares[part])
                elif not late:
                    self._shifted(draws[part], squares[part])
        return with_slack(np.sqrt(squares), self.operator, self.reference.shape[2])

    @cached_property
    def _gaussian(self) -> float:
        assert isinstance(self.operator, GaussianOperator)
        image = np.asarray(self.reference)[None]
        half_width = min(self.half_width, 180.0) if self.transformation == "rotation" else self.half_width
        original = self.operator.for_original()
        return float(known_image_errors(image, self.transformation, half_width, self.operator, original)[0])

    @cached_property
    def _bilinear(self) -> tuple[NDArray[np.float64], NDArray[np.bool_], Arrays]:
        """Image [C, H, W], mask, and the bands of P and of its transpose."""
        assert isinstance(self.operator, Operator)
        exact, (mask, *bands) = operands_of(np.asarray(self.reference)[None], self.operator)
        back = [Bands.from_dense(side.dense().T) for side in (self.operator.rows, self.operator.columns)]
        arrays = (*bands, back[0].start, back[0].weights, back[1].start, back[1].weights)
        return np.ascontiguousarray(exact[0].transpose(2, 0, 1)), mask, arrays

    @cached_property
    def _cells(self) -> Chords:
        return Chords(self._bilinear[0], min(max(self.half_width, LEAST_HALF_WIDTH), 180.0), self.settings)

    def _turned(self, totals: NDArray[np.float64], target: float, late: bool, out: NDArray[np.float64]) -> None:
        """Squared bounds at a few angles [N], degrees, into ``out`` [N]."""
        cells, (_, mask, bands) = self._cells, self._bilinear
        assert isinstance(self.operator, Operator)
        slack = float(with_slack(np.zeros(1), self.operator, self.reference.shape[2])[0])
        kernels.rotation_totals_cpu(
            cells.framed, cells.chords, np.argwhere(mask), *bands, np.radians(np.fmod(totals, 360.0)),
            cells.half_width, cells.base, cells.levels, self.tolerance, max(target - slack, 0.0) * (1.0 - 1e-6),
            cells.base if late else max(self.settings.cell_budget, cells.base), out,
        )  # fmt: skip

    def _shifted(self, totals: NDArray[np.float64], out: NDArray[np.float64]) -> None:
        """Squared bounds at a few shifts [N, 2], pixels, into ``out`` [N]."""
        planes, mask, bands = self._bilinear
        operators = [total_shift.seen_controls(planes, mask, totals, self.half_width, axis) for axis in (0, 1)]
        kernels.translation_totals_cpu(
            planes, mask, *bands, np.floor(totals).astype(np.int64),
            total_shift.once(totals[:, 0], mask.shape[1]), total_shift.once(totals[:, 1], mask.shape[0]),
            *operators[0], *operators[1], out,
        )  # fmt: skip


class Chords:
    """Chords near ``round8(T_gamma x)`` over cells of an attack range of angles, halved again and again.

    Attributes
    ----------
    framed : ndarray [C, H + 2, W + 2]
        x in a frame of zeros.
    half_width : float
        Radians.
    base, levels : int
        Cells of the first level, and how often they are halved.
    chords : ndarray [base (2^(levels + 1) - 1), C, 3, H + 2, W + 2]
        The chord's ends, and how far the rounded image is from it at most; see ``chord_bodies.attacked_cell``.
    """

    def __init__(self, planes: NDArray[np.float64], half_width: float, settings: BoundSettings) -> None:
        self.framed = np.pad(planes, ((0, 0), (1, 1), (1, 1)))
        self.half_width = math.radians(half_width)
        radius = 0.5 * math.hypot(*planes.shape[1:])
        room = max(1, settings.chunk_bytes // (3 * self.framed.nbytes))
        self.base = max(1, min(math.ceil(2.0 * self.half_width * radius / COARSE_PIXELS), room))
        width = settings.cell_width or math.degrees(FINE_PIXELS / radius)
        self.levels = max(0, math.ceil(math.log2(2.0 * half_width / self.base / width)))
        while self.levels and self.base * (2 ** (self.levels + 1) - 1) > room:
            self.levels -= 1
        edges = np.linspace(-self.half_width, self.half_width, self.base * 2**self.levels + 1)
        sides = [edges[:: 2**halvings] for halvings in range(self.levels, -1, -1)]
        pairs = np.concatenate([np.stack([side[:-1], side[1:]], axis=1) for side in sides])
        presence = np.where(self.framed > 0.0, PRESENT, 0.0)
        still = np.stack([self.framed, self.framed, presence], axis=1)
        self.chords = np.empty((len(pairs), *still.shape))
        kernels.cells_cpu(still, pairs, self.chords)
