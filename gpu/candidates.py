"""Cells of the attack range that may hold the attacker's parameter, with what is known of them so far."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cells import Cells

Boxes = tuple[NDArray[np.float64], NDArray[np.float64]]


def first_cells(transformation: str, half_width: float, width: float) -> Cells:
    """Equal cells of at most ``width``; those of shifts are cut at integers too, where ``T_gamma x`` has its kinks."""
    edges = np.linspace(-half_width, half_width, max(1, math.ceil(2.0 * half_width / width)) + 1)
    if transformation == "rotation":
        return Cells(edges[:-1, None].copy(), edges[1:, None].copy())
    if half_width > 0.0:
        edges = np.union1d(edges, np.arange(math.ceil(-half_width), math.floor(half_width) + 1))
    lo, hi = (np.stack(np.meshgrid(e, e, indexing="ij"), axis=-1).reshape(-1, 2) for e in (edges[:-1], edges[1:]))
    return Cells(lo, hi)


@dataclass(frozen=True)
class Candidates:
    """Cells that may hold the attacker's parameter.

    Parameters
    ----------
    cells : Cells
    boxes : (ndarray [K, H, W, C], ndarray [K, H, W, C]) or None
        What is known of originals in them; None if nothing is, or if it were too much to keep.
    values : ndarray [K]
        A bound of each; infinite where it has none yet.
    """

    cells: Cells
    boxes: Boxes | None = None
    values: NDArray[np.float64] | Any = None

    def __post_init__(self) -> None:
        if self.values is None:
            object.__setattr__(self, "values", np.full(len(self.cells), np.inf))

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, index: slice | NDArray[Any]) -> Candidates:
        boxes = None if self.boxes is None else (self.boxes[0][index], self.boxes[1][index])
        return Candidates(self.cells[index], boxes, self.values[index])

    def halves(self) -> Candidates:
        """Parts of all cells; what holds for a cell holds for its parts."""
        cells = self.cells.halves()
        count = len(cells) // max(len(self.cells), 1)
        boxes = None if self.boxes is None else (_repeated(self.boxes[0], count), _repeated(self.boxes[1], count))
        return Candidates(cells, boxes, np.tile(self.values, count))

    def joined(self, others: Candidates) -> Candidates:
        """These and the others."""
        boxes = None
        if self.boxes is not None and others.boxes is not None:
            low, high = (np.concatenate(pair) for pair in zip(self.boxes, others.boxes, strict=True))
            boxes = low, high
        values = np.concatenate([self.values, others.values])
        return Candidates(self.cells.joined(others.cells), boxes, values)

    def largest(self) -> float:
        return float(self.values.max(initial=0.0))


def _repeated(array: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    return np.concatenate([array] * count)
