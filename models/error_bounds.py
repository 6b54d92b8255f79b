"""Error bounds of one image at drawn parameters, as ``certification.protocols.ErrorBoundSource``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from certification.procedures import no_stage
from certification.protocols import Stage
from certification.vocabulary import AttackRange
from gpu.error_bound import BoundSettings, forward_error_bounds, individual_error_bounds

from .registry import LoadedModel


@dataclass(frozen=True)
class ReceivedErrorBounds:
    """The image in hand is the attacked one; the bound holds for every original it can have (Eq. 10)."""

    model: LoadedModel
    image: NDArray[np.float32]
    attack_range: AttackRange
    settings: BoundSettings
    device: str = "cpu"
    stage: Stage = no_stage

    def error_bounds(self, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bounds [n] of the interpolation error over the attack range."""
        return individual_error_bounds(
            self.image, parameters, str(self.attack_range.transformation), self.attack_range.half_width,
            self.model.operator, self.settings, device=self.device, stage=self.stage,
        )  # fmt: skip


@dataclass(frozen=True)
class ReferenceErrorBounds:
    """The image in hand is the clean one; the bound holds for every attack on it (Eq. 7, 8)."""

    model: LoadedModel
    image: NDArray[np.float32]
    attack_range: AttackRange
    settings: BoundSettings
    device: str = "cpu"
    stage: Stage = no_stage

    def error_bounds(self, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bounds [n] of the interpolation error over the attack range."""
        return forward_error_bounds(
            self.image, parameters, str(self.attack_range.transformation), self.attack_range.half_width,
            self.model.operator, self.settings, device=self.device,
        )  # fmt: skip
