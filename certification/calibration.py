"""From error bounds of draws to (E, rho_E, q_E) with their confidence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from .binomial import binomial_lower_bound, binomial_upper_bound
from .vocabulary import CalibrationError, StatisticsError, Transformation

SCHEMA = 1


@dataclass(frozen=True)
class Calibration:
    """A distributional bound, as stored beside a model's card (Fischer et al. 2020, Eq. 6).

    With the stated confidence, for a random image of the data set, with probability at least ``q_E``:
    ``P_beta( max over the attack range of eps <= error_bound ) >= 1 - rho_E``.

    ``attack_range`` and ``sigma_gamma`` are in degrees or pixels, ``error_bound`` is an l2 norm in intensity.
    ``parameter_draws`` counts the draws an image was tested with; where the method bounds the error over
    every parameter, all of them pass or fail together and ``rho_E`` is 0.
    """

    model: str
    transformation: Transformation
    attack_range: float
    error_bound: float
    rho_E: float
    q_E: float
    confidence: float
    images: int
    images_passed: int
    parameter_draws: int
    pilot_images: int
    pilot_draws: int
    dataset: str
    split: str
    seed: int
    sigma_gamma: float
    preprocessing_digest: str
    method: str
    largest_bound: float
    version: str
    created: str
    command: str

    def __post_init__(self) -> None:
        for name in ("attack_range", "error_bound", "sigma_gamma"):
            self._require(name, math.isfinite(getattr(self, name)) and getattr(self, name) > 0.0, "finite and > 0")
        for name in ("q_E", "confidence"):
            self._require(name, 0.0 < getattr(self, name) <= 1.0, "in (0, 1]")
        self._require("rho_E", 0.0 <= self.rho_E < 0.5, "in [0, 0.5)")
        self._require("images", self.images >= 1, ">= 1")
        self._require("images_passed", 0 <= self.images_passed <= self.images, "at most images")
        self._require("parameter_draws", self.parameter_draws >= 1, ">= 1")

    def _require(self, name: str, fine: bool, allowed: str) -> None:
        if not fine:
            raise CalibrationError(f"{name} must be {allowed}, not {getattr(self, name)}")

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Calibration:
        """Read a stored bound; raises :class:`CalibrationError` naming the field at fault."""
        known = {field.name: str(field.type) for field in fields(cls)}
        if data.get("schema") != SCHEMA:
            raise CalibrationError(f"schema must be {SCHEMA}, not {data.get('schema')!r}")
        if wrong := sorted(set(known) ^ (set(data) - {"schema"})):
            raise CalibrationError(f"missing or unknown fields: {', '.join(wrong)}")
        values: dict[str, object] = {}
        for name, kind in known.items():
            value = data[name]
            if kind == "Transformation":
                if value not in ("rotation", "translation"):
                    raise CalibrationError(f"transformation must be rotation or translation, not {value!r}")
                value = Transformation(str(value))
            elif kind == "float":
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise CalibrationError(f"{name} must be a number, not {value!r}")
                value = float(value)
            elif isinstance(value, bool) or not isinstance(value, int if kind == "int" else str):
                raise CalibrationError(f"{name} must be of type {kind}, not {value!r}")
            values[name] = value
        return cls(**values)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, object]:
        """The mapping that :meth:`from_json` reads."""
        return {"schema": SCHEMA, **asdict(self), "transformation": str(self.transformation)}


def image_holds(bounds: NDArray[np.float64], error_bound: float, rho_E: float, alpha: float) -> bool:
    """Whether ``P_beta(eps <= error_bound) >= 1 - rho_E`` is shown for one image at level ``alpha``.

    ``bounds`` [n] are upper bounds of the error at independently drawn parameters; NaN counts as a failure.
    """
    passed = int(np.count_nonzero(np.asarray(bounds) <= error_bound))
    return binomial_lower_bound(passed, len(bounds), alpha) >= 1.0 - rho_E


def q_lower(images_passed: int, images: int, alpha: float, alpha_image: float) -> float:
    """Lower bound of q_E from the images that passed their inner test (A.2).

    An inner test passes wrongly with probability at most ``alpha_image``, so
    ``E[pass] <= q_E + alpha_image`` and that much is subtracted from the outer bound, as in B.2.
    """
    return max(binomial_lower_bound(images_passed, images, alpha) - alpha_image, 0.0)


def rho_upper(bounds: NDArray[np.float64], error_bound: float, alpha_E: float) -> float:
    """Upper confidence bound of ``P_beta(eps > error_bound)`` from fresh draws (Eq. 9); NaN counts as above."""
    values = np.asarray(bounds, dtype=np.float64)
    above = len(values) - int(np.count_nonzero(values <= error_bound))
    return binomial_upper_bound(above, len(values), alpha_E)


def choose_error_bound(pilot: NDArray[np.float64], n_error: int, alpha_E: float, rho_budget: float) -> float:
    """Choose E from pilot draws: the smallest one whose rho_E is expected to stay within the budget.

    The fresh draws are expected to exceed E as often as the pilot's did, and once more. A budget that
    nothing meets gives the largest pilot value, which rho_E then judges. Any choice is valid, because
    rho_E is estimated on other draws.

    Parameters
    ----------
    pilot : ndarray [m]
        Error bounds at pilot draws.
    n_error, alpha_E
        Number of fresh draws and level of rho_E.
    rho_budget : float
        Largest rho_E the wanted radius leaves room for.

    Returns
    -------
    float
        Infinite if every pilot value is.
    """
    values = np.sort(np.where(np.isnan(pilot), np.inf, pilot))
    if not len(values):
        raise StatisticsError("choosing E needs at least one pilot draw")
    finite = values[np.isfinite(values)]
    if not len(finite):
        return math.inf
    for rank, value in enumerate(finite):
        above = min(math.ceil((len(values) - rank - 1) / len(values) * n_error) + 1, n_error)
        if binomial_upper_bound(above, n_error, alpha_E) <= rho_budget:
            return float(value)
    return float(finite[-1])
