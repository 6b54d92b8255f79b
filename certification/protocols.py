"""What a procedure needs from outside: votes of the base classifier, error bounds, and who watches it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Stage = Callable[[str], AbstractContextManager[None]]
"""``with stage(name)`` around a part of the work; names: select, bound, estimate, and inverse inside bound.

Stages may be nested; the time of an inner one is not the outer one's.
"""
SoFar = Callable[[], tuple[float, float | None]]
"""Computes ``p_lower`` and the radius (None: none yet) that a run has shown so far, on the run's own thread.

Both hold at any time, with the run's alpha: the lower bounds are a confidence sequence (docs/guarantees.md, B.5).
"""
Watch = Callable[[SoFar], None]
"""Given what a sequential run shows, once, before its estimation draws; to be asked while votes are cast."""


class VoteSource(Protocol):
    """Draws of the parameter and of pixel noise for one image, and the base classifier's votes on them.

    Draws are numbered in the order in which they are made, whatever they are made for, and each is independent of
    all others; so selection and estimation never share one. A vote that is no class (NaN logits) is dropped, so that
    it counts for nobody. A source may raise ``OutOfTime`` with the votes that could be cast.
    """

    @property
    def drawn(self) -> int:
        """Draws so far, which is the number of the next one."""
        ...

    @property
    def votes(self) -> int:
        """Base-classifier evaluations so far, for whatever."""
        ...

    def class_counts(self, n: int, *, pixel_noise: bool) -> NDArray[np.int64]:
        """Votes by class [classes] of the next ``n`` draws of (parameter, pixel noise), one vote each.

        Without pixel noise the vote is ``b(P T_beta x)``. For l2 the parameter is the identity.
        """
        ...

    def draw_parameters(self, n: int) -> NDArray[np.float64]:
        """The next ``n`` parameters ``beta ~ N(0, sigma_gamma^2)``: [n] degrees, or [n, 2] pixels (dx, dy)."""
        ...

    def votes_at(self, draws: NDArray[np.int64], counts: NDArray[np.int64], *, label: int) -> NDArray[np.int64]:
        """Votes [m] for ``label`` among the next ``counts`` [m] draws of pixel noise at each of ``draws`` [m]."""
        ...


class ErrorBoundSource(Protocol):
    """Upper bounds of the interpolation and rounding error at drawn parameters, over the whole attack range.

    For a received image the bound holds for every original that can have produced it, for a reference
    image for every attacked version of it.
    """

    def error_bounds(self, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bounds [n], l2 norm in intensity; infinite where none was found."""
        ...

    def total_error_bounds(self, totals: NDArray[np.float64]) -> NDArray[np.float64]:
        """For a reference image, bounds [n] at total parameters t: of ``|P T_{t-gamma} x' - P T_t x|`` (B.3)."""
        ...

    def sampled_error(self, half_width: float, attacks: int) -> float:
        """For a reference image, the largest error at ``attacks`` parameters an axis, evenly over the attack range.

        No upper bound: what a calibration multiplies.
        """
        ...

    def bound_for_all(self) -> float:
        """One bound that holds at every parameter; asked for only if the plan says that there is one."""
        ...
