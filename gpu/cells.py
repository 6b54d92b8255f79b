"""Cells of an attack range, and how much effort goes into bounds over them."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .geometry import GeometryError

Parameters = NDArray[np.float64]


@dataclass(frozen=True)
class BoundSettings:
    """How finely and with how much memory bounds are computed. Every value gives a valid bound.

    Parameters
    ----------
    cell_width : float or None
        Cells of the attack range are split down to this width where they matter; degrees or pixels.
        None: .1 degree, 1/64 pixel; with Gaussian interpolation ``received.FINEST``.
    refinements : int
        Passes of the inverse after the first (the paper's 10).
    cell_budget : int
        Cells evaluated for one drawn parameter (forward); cells kept for one image of up to 784 values, and
        for a larger one fewer in proportion, but 256 (individual).
    chunk_bytes : int
        Scratch memory of one launch.
    """

    cell_width: float | None = None
    refinements: int = 10
    cell_budget: int = 16384
    chunk_bytes: int = 256 * 2**20

    def __post_init__(self) -> None:
        if self.cell_width is not None and not (math.isfinite(self.cell_width) and self.cell_width > 0.0):
            raise GeometryError(f"cell_width must be finite and > 0, not {self.cell_width}")
        if self.refinements < 0 or self.cell_budget < 1 or self.chunk_bytes < 2**20:
            raise GeometryError("refinements must be >= 0, cell_budget >= 1 and chunk_bytes >= 1 MiB")

    def kept_cells(self, values: int) -> int:
        """Cells that the individual bound may keep for an image of so many values."""
        return min(self.cell_budget, max(256, self.cell_budget * 784 // values))

    def width(self, transformation: str) -> float:
        """The width down to which cells are split."""
        return self.cell_width or {"rotation": 0.1, "translation": 1.0 / 64.0}[transformation]


Stage = Callable[[str], AbstractContextManager[None]]


def no_stage(name: str) -> AbstractContextManager[None]:
    """A stage that does nothing."""
    return nullcontext()


@dataclass(frozen=True)
class Cells:
    """Cells [K, d] of the attack range."""

    lo: Parameters
    hi: Parameters

    def __len__(self) -> int:
        return len(self.lo)

    def __getitem__(self, index: slice | NDArray[Any]) -> Cells:
        return Cells(self.lo[index], self.hi[index])

    def halves(self) -> Cells:
        """Each cell split in the middle of every axis: 2^d cells, neighbours share their ends exactly."""
        lo, hi = self.lo, self.hi
        for axis in range(lo.shape[1]):
            middle = lo[:, axis] + 0.5 * (hi[:, axis] - lo[:, axis])
            left_hi, right_lo = hi.copy(), lo.copy()
            left_hi[:, axis] = right_lo[:, axis] = middle
            lo, hi = np.concatenate([lo, right_lo]), np.concatenate([left_hi, hi])
        return Cells(lo, hi)

    def joined(self, others: Cells) -> Cells:
        """These cells and the others."""
        return Cells(np.concatenate([self.lo, others.lo]), np.concatenate([self.hi, others.hi]))

    def width(self) -> float:
        return float((self.hi - self.lo).max())
