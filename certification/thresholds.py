"""What a draw's inner test must show: one error bound for all draws, or one a draw (docs/guarantees.md, B.3)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .calibration import checked_bounds
from .outcome import ErrorBoundSummary
from .protocols import ErrorBoundSource, Stage
from .radius import inner_threshold
from .vocabulary import ImageIs, StatisticsError


@dataclass(frozen=True)
class CommonBound:
    """E for every draw."""

    summary: ErrorBoundSummary
    sigma_delta: float

    @property
    def error_bound(self) -> float:
        """E, which the plan's formulas need."""
        return self.summary.error_bound

    @property
    def rho_E(self) -> float:
        """The probability that the error exceeds E."""
        return self.summary.rho_E

    def thresholds(self, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        """tau at each parameter."""
        return np.full(len(parameters), inner_threshold(self.error_bound, self.sigma_delta))


@dataclass(frozen=True)
class OwnBounds:
    """A bound for each draw, found when the draw is first looked at: no common E, no rho_E."""

    source: ErrorBoundSource
    image_is: ImageIs
    sigma_delta: float
    stage: Stage
    found: list[NDArray[np.float64]] = field(default_factory=list)

    error_bound, rho_E = 0.0, 0.0

    @property
    def summary(self) -> ErrorBoundSummary:
        """Of the bounds so far; infinite before the first."""
        values = np.concatenate(self.found) if self.found else np.full(1, np.inf)
        return ErrorBoundSummary(
            error_bound=float(np.median(values)),
            rho_E=0.0,
            draws=len(values) if self.found else 0,
            smallest=float(np.min(values)),
            median=float(np.median(values)),
            largest=float(np.max(values)),
            per_draw=True,
        )

    def thresholds(self, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        """tau at each parameter."""
        received = self.image_is is ImageIs.RECEIVED
        bounds = self.source.error_bounds if received else self.source.total_error_bounds
        with self.stage("bound"):
            values = checked_bounds(bounds(parameters))
        if len(values) != len(parameters):
            raise StatisticsError(f"{len(values)} error bounds at {len(parameters)} parameters")
        self.found.append(values)
        return np.array([inner_threshold(value, self.sigma_delta) for value in values])


ErrorBound = CommonBound | OwnBounds
