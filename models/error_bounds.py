"""Error bounds of one image at drawn parameters, as ``certification.protocols.ErrorBoundSource``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from certification.procedures import no_stage
from certification.protocols import Stage
from certification.vocabulary import AttackRange, ImageIs, Transformation
from gpu.cells import BoundSettings
from gpu.cover import translation_draw_errors
from gpu.error_bound import forward_error_bounds, individual_error_bounds
from gpu.preprocess import GaussianOperator, Operator
from gpu.residual import sampled_error
from gpu.total_error import TotalErrors

from .registry import LoadedModel

DRAWS_A_PART = 64
"""Draws between two openings of the stage, where a cancelled request stops."""


@dataclass(frozen=True)
class ImageErrorBounds:
    """Bounds of the interpolation error over the attack range, for a received or for a reference image.

    Parameters
    ----------
    model : LoadedModel
    image : ndarray [H, W, C] float32
        In [0, 1].
    attack_range : AttackRange
    image_is : ImageIs
        Received: the image is the attacked one, and the bound holds for every original it can have (Eq. 10).
        Reference: it is the clean one, and the bound holds for every attack on it (Eq. 7 and 8; for
        translation the maximum over the attack range is found exactly, ``gpu.cover``).
    settings : BoundSettings
    device : {"cpu", "cuda"}
    stage : Stage
        Opened around "inverse" and "bound", again and again: it may raise to stop the work.
    """

    model: LoadedModel
    image: NDArray[np.float32]
    attack_range: AttackRange
    image_is: ImageIs
    settings: BoundSettings
    device: str = "cpu"
    stage: Stage = no_stage

    def error_bounds(self, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bounds [n] at parameters [n] degrees, or [n, 2] pixels."""
        kind, half_width = self.attack_range.transformation, self.attack_range.half_width
        operator = self.model.operator
        shifted = self.image_is is ImageIs.REFERENCE and kind is Transformation.TRANSLATION
        if shifted and isinstance(operator, Operator):
            parts = []
            for first in range(0, len(parameters), DRAWS_A_PART):
                with self.stage("bound"):
                    part = parameters[first : first + DRAWS_A_PART]
                    parts.append(translation_draw_errors(self.image, part, half_width, operator))
            return np.concatenate(parts)
        return self._bounds(parameters)

    def total_error_bounds(self, totals: NDArray[np.float64]) -> NDArray[np.float64]:
        """For a reference image, bounds [n] at total parameters t = beta + gamma: [n] degrees, or [n, 2] pixels.

        ``bound >= max over gamma of |P T_(t-gamma) round8(T_gamma x) - P T_t x|_2`` (docs/guarantees.md, B.3).
        """
        if self.image_is is not ImageIs.REFERENCE:
            raise ValueError("the error at a total parameter can only be bounded for a reference image")
        return self._total_errors.bounds(totals, stage=self.stage)

    @cached_property
    def _total_errors(self) -> TotalErrors:
        attacked = self.attack_range
        return TotalErrors(
            self.image, str(attacked.transformation), attacked.half_width, self.model.operator, self.settings
        )

    def sampled_error(self, half_width: float, attacks: int) -> float:
        """The largest error of a reference image at a few attacks (``gpu.residual.sampled_error``)."""
        operator = self.model.operator
        if self.image_is is not ImageIs.REFERENCE or not isinstance(operator, GaussianOperator):
            raise ValueError("errors are sampled of a reference image, with Gaussian interpolation")
        kind, original = str(self.attack_range.transformation), operator.for_original()
        with self.stage("bound"):
            return sampled_error(self.image, kind, half_width, operator, original, attacks)

    def bound_for_all(self) -> float:
        """The bound at every parameter, for a model with Gaussian interpolation (``gpu.residual``)."""
        if not self.model.bound_for_all:
            raise ValueError(f"{self.model.card.id} has no error bound for all parameters at once")
        return float(self._bounds(np.zeros((1, self.attack_range.transformation.dimensions)))[0])

    def _bounds(self, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        kind, half_width = self.attack_range.transformation, self.attack_range.half_width
        bounds = individual_error_bounds if self.image_is is ImageIs.RECEIVED else forward_error_bounds
        return bounds(
            self.image, parameters, str(kind), half_width, self.model.operator, self.settings,
            device=self.device, stage=self.stage,
        )  # fmt: skip
