"""What a procedure needs from outside: votes of the base classifier, and bounds on the interpolation error.

Whoever implements these owns the randomness. Every call must use draws that are independent of all
draws of earlier calls: selection, pilot, error and estimation draws are never shared.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Stage = Callable[[str], AbstractContextManager[None]]
"""Entered around each stage of a run, with its name.

``predict`` and ``certify`` enter "select" and "estimate". An error bound source enters "inverse" and
"bound" itself, since only it can tell the two apart.
"""


class VoteSource(Protocol):
    """The base classifier b on one image, under parameter noise N(0, sigma_gamma^2 I) and pixel noise."""

    def class_counts(self, n: int, *, pixel_noise: bool) -> NDArray[np.int64]:
        """Votes by class, [K], of ``b(P T_beta x + delta)`` over ``n`` fresh (beta, delta) draws.

        ``pixel_noise=False`` votes ``b(P T_beta x)``. For l2 the parameter is the identity. A vote that is
        no class (NaN logits) is dropped, so the counts may sum to less than ``n``.
        """
        ...

    def draw_parameters(self, n: int) -> NDArray[np.float64]:
        """``n`` fresh parameters: [n] degrees for rotation, [n, 2] pixels (dx, dy) for translation."""
        ...

    def votes_at(self, parameters: NDArray[np.float64], *, label: int, n_delta: int) -> NDArray[np.int64]:
        """Votes for ``label``, [n], among ``n_delta`` fresh pixel-noise draws at each parameter."""
        ...


class ErrorBoundSource(Protocol):
    """Upper bounds of the interpolation (and 8-bit rounding) error of one image over one attack range."""

    def error_bounds(self, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        """At each parameter beta an upper bound of eps(beta, gamma, x), [n], l2 norm in intensity.

        Over every gamma of the attack range, and for a received image over every x that can have produced
        it. ``inf`` where no bound was found.
        """
        ...
