"""From error bounds of draws to (E, rho_E, q_E) with their confidence, and how they are stored.

Fischer et al. 2020, section 5.1 (Eq. 6 to 8) and 5.2 (Eq. 9); docs/guarantees.md A.1, A.2 and B.2.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from .binomial import LARGEST_SAMPLE, SLACK, binomial_lower_bound, binomial_upper_bound
from .vocabulary import CalibrationError, ImageIs, StatisticsError, Transformation

SCHEMA = 3
LARGEST_GRID = 181
"""Sampled attacks an axis: a request for a certificate computes them all."""
STEEPNESS = 0.2
"""A rough guess, not a measurement: share of inner tests that fail more for each sigma_delta of error bound."""


@dataclass(frozen=True)
class Calibration:
    """A distributional bound, as stored beside a model's card (Fischer et al. 2020, Eq. 6).

    With probability at least ``confidence`` over the calibration's own draws, a share of at least ``q_E``
    of the images x has ``P_beta( max over the attack range of eps <= E(x) ) >= 1 - rho_E``, where E(x) is
    ``error_bound`` or, if that is less, ``factor`` times the largest of x's errors at a few parameters.

    Attributes
    ----------
    model : str
        Id of the model whose preprocessing P was used.
    transformation : Transformation
        Rotation or translation.
    attack_range, sigma_gamma : float
        Half-width of Gamma and standard deviation of beta, > 0; degrees or pixels.
    error_bound : float
        E > 0, l2 norm in intensity behind P; the most that any image's bound is, see :meth:`bound_for`.
    sampled_attacks : int
        Reference image: parameters an axis, spread evenly over the attack range, at which the image's own error is
        computed; 0: not at all.
    factor : float
        What the largest of those errors is multiplied by, > 0; 0 without them.
    rho_E : float
        In [0, 0.5).
    q_E, confidence : float
        In (0, 1] and (0, 1).
    images, images_passed : int
        Images tested, and those that were shown to have the property.
    parameter_draws : int
        Draws an image was tested with; where the method bounds the error over every parameter, all of them
        pass or fail together and ``rho_E`` is 0.
    pilot_images, pilot_draws : int
        Images and draws that chose E, none of them among ``images``.
    largest_bound : float
        The largest error bound seen, >= 0.
    image_is : str
        received, reference or either: which image is in hand when the bound is used. With Gaussian interpolation
        the two are read through different filters (docs/guarantees.md, D.5).
    dataset, split, seed, preprocessing_digest, method, version, created, command
        Where the numbers come from. A bound is valid only behind the very same P.

    Raises
    ------
    CalibrationError
        If a field is out of range; the message names it.
    """

    model: str
    transformation: Transformation
    attack_range: float
    error_bound: float
    sampled_attacks: int
    factor: float
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
    image_is: str
    version: str
    created: str
    command: str

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            self._require(field.name, not isinstance(value, float) or math.isfinite(value), "finite")
            self._require(field.name, value != "", "not empty")
        known = isinstance(self.transformation, Transformation) and self.transformation.dimensions > 0
        self._require("transformation", known, "rotation or translation")
        for name in ("attack_range", "error_bound", "sigma_gamma"):
            self._require(name, getattr(self, name) > 0.0, "> 0")
        for name in ("images", "parameter_draws"):
            fine = 1 <= getattr(self, name) <= LARGEST_SAMPLE
            self._require(name, fine, f"between 1 and {LARGEST_SAMPLE}")
        for name in ("pilot_images", "pilot_draws", "largest_bound"):
            self._require(name, getattr(self, name) >= 0, ">= 0")
        self._require("image_is", self.image_is in (*ImageIs, "either"), "received, reference or either")
        most = LARGEST_GRID if self.image_is == ImageIs.REFERENCE else 0
        allowed = f"in [0, {most}] if image_is is {self.image_is}"
        self._require("sampled_attacks", 0 <= self.sampled_attacks <= most, allowed)
        fine = self.factor > 0.0 if self.sampled_attacks else self.factor == 0.0
        self._require("factor", fine, "> 0 with sampled_attacks, 0 without")
        self._require("rho_E", 0.0 <= self.rho_E < 0.5, "in [0, 0.5)")
        self._require("confidence", 0.0 < self.confidence < 1.0, "in (0, 1)")
        self._require("images_passed", 0 <= self.images_passed <= self.images, f"in [0, {self.images}]")
        # the correction for wrong inner tests only lowers q_E: the plain bound is the most it can be
        largest = binomial_lower_bound(self.images_passed, self.images, 1.0 - self.confidence)
        supported = 0.0 < self.q_E <= largest * (1.0 + 2.0 * SLACK)
        self._require("q_E", supported, f"in (0, {largest:.6g}], which images_passed of images support")

    def _require(self, name: str, fine: bool, allowed: str) -> None:
        if not fine:
            raise CalibrationError(f"{name} must be {allowed}, not {getattr(self, name)}")

    def bound_for(self, sampled: float) -> float:
        """E of an image whose largest error at the sampled attacks is ``sampled``; not a number: of any image."""
        own = self.factor * sampled
        return own if own <= self.error_bound else self.error_bound

    def is_for(self, image_is: ImageIs) -> bool:
        """Whether the bound holds with such an image in hand."""
        return self.image_is in (image_is, "either")

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Calibration:
        """Read a parsed bounds file: exactly the fields above, and ``schema``.

        Raises
        ------
        CalibrationError
            If a field is unknown, missing, of the wrong type or out of range; the message names it.
        """
        if not isinstance(data, Mapping):
            raise CalibrationError(f"a stored bound must be a JSON object, not {type(data).__name__}")
        if type(data.get("schema")) is not int or data["schema"] != SCHEMA:
            raise CalibrationError(f"schema must be {SCHEMA}, not {data.get('schema')!r}")
        kinds = {field.name: str(field.type) for field in fields(cls)}
        if wrong := sorted(map(str, kinds.keys() ^ (data.keys() - {"schema"}))):
            raise CalibrationError(f"missing or unknown fields: {', '.join(wrong)}")
        return cls(**{name: _typed(name, kind, data[name]) for name, kind in kinds.items()})  # type: ignore[arg-type]

    def to_json(self) -> dict[str, object]:
        """The mapping that :meth:`from_json` reads."""
        return {"schema": SCHEMA, **asdict(self), "transformation": str(self.transformation)}


def _typed(name: str, kind: str, value: object) -> object:
    """The value as ``kind``: booleans are no numbers, whole numbers are floats where a float is due."""
    if kind == "Transformation" and value in ("rotation", "translation"):
        return Transformation(str(value))
    if kind == "float" and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) <= sys.float_info.max else math.inf
    if (kind == "int" and type(value) is int) or (kind == "str" and type(value) is str):
        return value
    raise CalibrationError(f"{name} must be of type {kind}, not {value!r}")


def checked_bounds(bounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Error bounds [n] with NaN as infinity: a draw without a bound.

    Raises
    ------
    StatisticsError
        If there is none, or one is negative.
    """
    values = np.asarray(bounds, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or bool((values < 0.0).any()):
        raise StatisticsError("error bounds must be a one-dimensional, not empty array of numbers >= 0")
    return np.where(np.isnan(values), np.inf, values)


def _count_within(bounds: NDArray[np.float64], error_bound: float) -> tuple[int, int]:
    """How many bounds are finite and at most E, of how many."""
    values = checked_bounds(bounds)
    return int(np.count_nonzero(np.isfinite(values) & (values <= error_bound))), len(values)


def image_holds(bounds: NDArray[np.float64], error_bound: float, rho_E: float, alpha: float) -> bool:
    """Whether ``P_beta(eps <= error_bound) >= 1 - rho_E`` is shown for one image at level ``alpha``.

    Parameters
    ----------
    bounds : ndarray [n]
        Upper bounds of the error at independently drawn parameters; NaN and inf count as failures.
    error_bound, rho_E, alpha : float
        E, fixed before the draws; the share that may exceed it; the level.
    """
    within, draws = _count_within(bounds, error_bound)
    return binomial_lower_bound(within, draws, alpha) >= 1.0 - rho_E


def q_lower(images_passed: int, images: int, alpha: float, alpha_image: float) -> float:
    """Lower bound of q_E from the images that passed their inner test (A.2).

    An inner test passes wrongly with probability at most ``alpha_image``, so
    ``E[pass] <= q_E + alpha_image`` and that much is subtracted from the outer bound, as in B.2.

    Parameters
    ----------
    images_passed, images : int
    alpha : float
        1 - confidence, in (0, 1).
    alpha_image : float
        In [0, 1); 0 where the images' tests cannot err.
    """
    if not 0.0 <= alpha_image < 1.0:
        raise StatisticsError(f"alpha_image must be in [0, 1), not {alpha_image}")
    return max(binomial_lower_bound(images_passed, images, alpha) - alpha_image, 0.0)


def rho_upper(bounds: NDArray[np.float64], error_bound: float, alpha_E: float) -> float:
    """Upper confidence bound of ``P_beta(eps > error_bound)`` from fresh draws (Eq. 9).

    Parameters
    ----------
    bounds : ndarray [n]
        Upper bounds of the error at drawn parameters that did not choose E; NaN and inf count as above E.
    error_bound, alpha_E : float
        E, and the probability with which the result may be too small.
    """
    within, draws = _count_within(bounds, error_bound)
    return binomial_upper_bound(draws - within, draws, alpha_E)


def choose_error_bound(
    pilot: NDArray[np.float64], n_error: int, alpha_E: float, sigma_delta: float, largest_useful: float = math.inf
) -> float:
    """Choose E from pilot draws: the least sum of what rho_E and what E itself is expected to cost.

    rho_E is subtracted from the share of passing draws; the fresh draws are expected to exceed E as often as the
    pilot's did, and once more. A larger E makes inner tests fail: a share ``STEEPNESS`` of them for each
    sigma_delta is assumed. Any choice is valid, because rho_E is estimated on other draws.

    Parameters
    ----------
    pilot : ndarray [m]
        Error bounds at pilot draws.
    n_error, alpha_E
        Number of fresh draws and level of rho_E.
    sigma_delta : float
        Standard deviation of the pixel noise, > 0, intensity.
    largest_useful : float
        Largest E at which the inner tests can pass with the votes there are; where no pilot value is that small,
        the smallest one is taken.

    Returns
    -------
    float
        Infinite if every pilot value is.
    """
    values = np.sort(checked_bounds(pilot))
    useful = values[np.isfinite(values) & (values <= largest_useful)]
    if len(useful) == 0:
        return float(values[0])
    above = len(values) - 1 - np.arange(len(useful))
    expected = np.minimum(-(-above * n_error // len(values)) + 1, n_error)
    rho = np.array([binomial_upper_bound(int(count), n_error, alpha_E) for count in expected])
    return float(useful[np.argmin(rho + STEEPNESS * useful / sigma_delta)])
