"""The distributional bound: E, rho_E and q_E as they are measured, stored and read back.

Fischer et al. 2020, section 5.1 (Eq. 6 to 8); docs/guarantees.md A.1, A.2 and B.2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .binomial import binomial_lower_bound
from .vocabulary import CalibrationError, Transformation

SCHEMA = 1

_POSITIVE = ("attack_range", "sigma_gamma")
_COUNTS = ("images", "parameter_draws", "pilot_images", "pilot_draws")


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """``P_{x~D}( P_beta( max_gamma eps <= E ) >= 1 - rho_E ) >= q_E``, with ``confidence``.

    Attributes
    ----------
    model : str
        Id of the model whose preprocessing was used.
    transformation : Transformation
        Rotation or translation.
    attack_range : float
        Half-width of Gamma, > 0; degrees or pixels.
    error_bound : float
        E >= 0, l2 norm in intensity after preprocessing.
    rho_E : float
        In (0, 1/2).
    q_E, confidence : float
        Lower bound in [0, 1] on the share of images, and its confidence in (0, 1).
    images, images_passed : int
        Images tested, and those whose inner test passed.
    parameter_draws : int
        Draws of beta at each image.
    pilot_images, pilot_draws : int
        Images, and draws at each, that chose E; none of them is counted in ``images``.
    dataset, split : str
        Where the images come from.
    seed : int
    sigma_gamma : float
        Standard deviation of beta, > 0; degrees or pixels.
    preprocessing_digest : str
        Of the operator P; a bound is only valid behind the very same P.
    version, created, method : str
        Code version, ISO date, how the errors were bounded.
    largest_bound : float
        The largest error bound seen in the pilot, >= 0.

    Raises
    ------
    CalibrationError
        If a field is out of range; the message names it.
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
    version: str
    created: str
    method: str
    largest_bound: float

    def __post_init__(self) -> None:
        checks = {name: getattr(self, name) > 0.0 for name in _POSITIVE}
        checks |= {name: getattr(self, name) >= 1 for name in _COUNTS}
        checks |= {
            "transformation": self.transformation is not Transformation.L2,
            "error_bound": self.error_bound >= 0.0,
            "largest_bound": self.largest_bound >= 0.0,
            "rho_E": 0.0 < self.rho_E < 0.5,
            "confidence": 0.0 < self.confidence < 1.0,
            "images_passed": 0 <= self.images_passed <= self.images,
        }
        for field in fields(self):
            value = getattr(self, field.name)
            finite = not isinstance(value, float) or math.isfinite(value)
            if not (checks.get(field.name, True) and finite and value != ""):
                raise CalibrationError(f"{field.name} of a calibration is out of range: {value!r}")
        # the correction for wrong inner tests only lowers q_E, so the plain bound is its ceiling
        ceiling = binomial_lower_bound(self.images_passed, self.images, 1.0 - self.confidence)
        if not 0.0 <= self.q_E <= ceiling * (1.0 + 1e-9):
            raise CalibrationError(
                f"q_E of a calibration is {self.q_E}, but {self.images_passed} of {self.images} images "
                f"support at most {ceiling} at confidence {self.confidence}"
            )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        """Read a parsed bounds file: exactly the fields above, and ``schema``.

        Raises
        ------
        CalibrationError
            If a field is unknown, missing, of the wrong type or out of range; the message names it.
        """
        if not isinstance(data, Mapping):
            raise CalibrationError(f"a calibration is a JSON object, not {type(data).__name__}")
        if type(data.get("schema")) is not int or data["schema"] != SCHEMA:
            raise CalibrationError(f"schema of a calibration must be {SCHEMA}, not {data.get('schema')!r}")
        known = {field.name: str(field.type) for field in fields(cls)}
        unknown = sorted(data.keys() - known.keys() - {"schema"}, key=str)
        missing = sorted(known.keys() - data.keys())
        if unknown or missing:
            kind, names = ("unknown", unknown) if unknown else ("missing", missing)
            raise CalibrationError(f"{kind} field of a calibration: {', '.join(map(str, names))}")
        return cls(**{name: _typed(name, kind, data[name]) for name, kind in known.items()})

    def to_json(self) -> dict[str, Any]:
        """The object that ``from_json`` reads."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"schema": SCHEMA} | values | {"transformation": self.transformation.value}


def _typed(name: str, kind: str, value: Any) -> Any:
    """The value as ``kind``; booleans are no numbers, and an integer is a float."""
    if kind == "Transformation" and value in [member.value for member in Transformation]:
        return Transformation(value)
    if kind == "float" and type(value) in (int, float):
        return float(value)
    if (kind == "int" and type(value) is int) or (kind == "str" and type(value) is str):
        return value
    raise CalibrationError(f"{name} of a calibration must be a {kind.lower()}, not {value!r}")
