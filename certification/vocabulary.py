"""The words of the room: transformations, guarantees, attack ranges, and what can go wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class CertificationError(ValueError):
    """Anything this room refuses."""


class StatisticsError(CertificationError):
    """An argument of a statistical bound is outside its range, or a source returned impossible numbers."""


class PlanError(CertificationError):
    """A plan that can never certify, or whose numbers are out of range.

    Attributes
    ----------
    field : str
        The input to change.
    required : dict
        Numbers that would do, by field, all to be set together; empty where no number would.
    """

    def __init__(self, message: str, *, field: str, required: Mapping[str, float | int] | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.required: dict[str, float | int] = dict(required or {})


class CalibrationError(CertificationError):
    """No stored distributional bound covers what is asked for, or a stored bound is malformed."""


class Transformation(StrEnum):
    """What the attacker may do to the image."""

    ROTATION = "rotation"
    TRANSLATION = "translation"
    L2 = "l2"

    @property
    def unit(self) -> str:
        """Unit of parameters and radii."""
        return {"rotation": "degrees", "translation": "pixels", "l2": "intensity"}[self.value]

    @property
    def dimensions(self) -> int:
        """How many numbers a parameter is; 0 for l2, which has none."""
        return {"rotation": 1, "translation": 2, "l2": 0}[self.value]


class Guarantee(StrEnum):
    """How the interpolation error is handled, and so for whom a certificate holds."""

    HEURISTIC = "heuristic"
    DISTRIBUTIONAL = "distributional"
    INDIVIDUAL = "individual"


class Procedure(StrEnum):
    """How many draws and votes are made: until the answer is known (B.5), or a number fixed beforehand."""

    SEQUENTIAL = "sequential"
    PAPER = "paper"


class Estimator(StrEnum):
    """Which smoothed classifier a certificate is about.

    Nested: the class that wins the vote over pixel noise at most parameters (g, Fischer et al. 2020). Joint: the
    class that wins the vote over parameters and pixel noise together (G, docs/guarantees.md B.4).
    """

    AUTO = "auto"
    NESTED = "nested"
    JOINT = "joint"


class OutOfTime(Exception):
    """Raised by a source of votes or bounds, or on entering a stage: the run ends with what it has shown.

    Attributes
    ----------
    cast, found : ndarray or None
        Of the votes that were being cast, how many were, and what they were, as the source would have answered: of
        ``votes_at`` both [m]; of ``class_counts`` [1] and [classes].
    """

    def __init__(self, cast: NDArray[np.int64] | None = None, found: NDArray[np.int64] | None = None) -> None:
        super().__init__("the time is up")
        self.cast, self.found = cast, found


class StoppedBy(StrEnum):
    """Why a run ended: the wanted radius is certified or out of reach, or draws, votes or the time are used up."""

    CERTIFIED = "certified"
    HOPELESS = "hopeless"
    DRAWS = "draws"
    VOTES = "votes"
    DEADLINE = "deadline"


class ImageIs(StrEnum):
    """Whether the image in hand is the (possibly attacked) received one, or the clean reference."""

    RECEIVED = "received"
    REFERENCE = "reference"


@dataclass(frozen=True)
class AttackRange:
    """Gamma: ``[-G, G]`` degrees, ``[-G, G]^2`` pixels, or an l2 ball of radius G.

    Parameters
    ----------
    transformation : Transformation
    half_width : float
        G, > 0 and finite; degrees, pixels or intensity.

    Raises
    ------
    PlanError
        If ``half_width`` is not such a number.
    """

    transformation: Transformation
    half_width: float

    def __post_init__(self) -> None:
        if not (self.half_width > 0.0 and math.isfinite(self.largest_norm)):
            raise PlanError(
                f"attack_range must be finite and > 0 {self.transformation.unit}, not {self.half_width}",
                field="attack_range",
            )

    @property
    def largest_norm(self) -> float:
        """The largest Euclidean norm of a parameter in the range: a square's corner for translations."""
        if self.transformation is Transformation.TRANSLATION:
            # the rounded sqrt(2) lies above the true one; one more step covers the product's rounding
            return math.nextafter(self.half_width * math.sqrt(2.0), math.inf)
        return self.half_width
