"""The validated, frozen inputs of one run. A plan that could never certify cannot be made."""

from __future__ import annotations

from dataclasses import dataclass

from .calibration import Calibration
from .vocabulary import AttackRange, Guarantee, ImageIs, Transformation

DEFAULT_MAX_VOTES = 10_000_000


@dataclass(frozen=True, kw_only=True)
class CertificationPlan:
    """Inputs of ``certify``."""

    transformation: Transformation
    guarantee: Guarantee
    image_is: ImageIs
    attack_range: AttackRange
    sigma_gamma: float
    sigma_delta: float
    alpha: float = 0.01
    alpha_delta: float = 0.002
    n0: int = 100
    n: int = 200
    n_delta: int | None = None
    n_error: int = 100
    n_pilot: int = 50
    calibration: Calibration | None = None
    operator_norm: float = 1.0
    max_votes: int = DEFAULT_MAX_VOTES

    @property
    def alpha_shares(self) -> dict[str, float]:
        """The parts of alpha that this guarantee uses, by name."""
        return {"alpha_gamma": self.alpha}


@dataclass(frozen=True, kw_only=True)
class PredictPlan:
    """Inputs of ``predict``."""

    transformation: Transformation
    guarantee: Guarantee
    sigma_gamma: float
    sigma_delta: float
    alpha: float = 0.01
    alpha_delta: float = 0.002
    n0: int = 100
    n: int = 200
    n_delta: int | None = None
    max_votes: int = DEFAULT_MAX_VOTES
