"""The validated, frozen inputs of one run; a plan that can never certify is refused before any work."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .binomial import smallest_passing_count, smallest_sample_size
from .calibration import Calibration
from .radius import inner_threshold, radius_l2, radius_received, radius_reference, required_p_lower
from .vocabulary import AttackRange, CalibrationError, Guarantee, ImageIs, PlanError, Transformation

ALPHA_DELTA = 0.002
"""Level of every inner test, subtracted once from the outer bound (B.2); the paper's value."""
SHARE_E = 0.1
"""Share of alpha spent on rho_E by the individual guarantee."""
MAX_DRAWS = 10_000_000
ROOM = 1.5
"""A chosen n_delta is this multiple of the smallest that can pass, so that some votes may be wrong."""


@dataclass(frozen=True)
class CertificationPlan:
    """What one certificate is asked for, and with which effort.

    Parameters
    ----------
    transformation, guarantee, image_is, attack_range
    sigma_gamma : float
        Standard deviation of the parameter noise, degrees or pixels (unused for l2).
    sigma_delta : float
        Standard deviation of the pixel noise, intensity.
    alpha : float
        Failure probability of the whole certificate, in (0, 1).
    n0, n : int
        Selection and estimation draws.
    n_delta : int or None
        Pixel-noise draws at each drawn parameter; None: chosen from the error bound.
    n_pilot, n_error : int
        Draws that choose E, and draws that bound rho_E (individual).
    max_votes : int
        Base-classifier evaluations allowed in the estimation.
    calibration : Calibration or None
        The stored bound (distributional).
    operator_norm : float
        Bound of the preprocessing's spectral norm (l2).

    Raises
    ------
    PlanError
        If a number is out of range or nothing could be certified with it; ``required`` says what would do.
    CalibrationError
        If no calibration covers the attack range.
    """

    transformation: Transformation
    guarantee: Guarantee
    attack_range: AttackRange
    sigma_gamma: float
    sigma_delta: float
    image_is: ImageIs = ImageIs.RECEIVED
    alpha: float = 0.01
    n0: int = 100
    n: int = 200
    n_delta: int | None = None
    n_pilot: int = 50
    n_error: int = 100
    max_votes: int = 2_000_000
    calibration: Calibration | None = None
    operator_norm: float = 1.0

    def __post_init__(self) -> None:
        self._check_ranges()
        if self.transformation is Transformation.L2:
            self._check_reach(0.0)
            return
        if not (math.isfinite(self.sigma_gamma) and self.sigma_gamma > 0.0):
            raise PlanError(
                f"the model has no parameter noise (sigma_gamma = {self.sigma_gamma}): nothing can be certified",
                field="model",
            )
        if self.guarantee is Guarantee.HEURISTIC:
            self._check_reach(0.0)
            return
        if self.guarantee is Guarantee.DISTRIBUTIONAL:
            calibration = self._covering_calibration()
            self._check_reach(calibration.rho_E)
            self.votes_per_draw(calibration.error_bound)
        else:
            self._check_reach(0.0)

    def _check_ranges(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise PlanError(f"alpha must be in (0, 1), not {self.alpha}", field="alpha")
        numbers = {"n0": self.n0, "n": self.n, "n_pilot": self.n_pilot, "n_error": self.n_error}
        if self.n_delta is not None:
            numbers["n_delta"] = self.n_delta
        for name, value in numbers.items():
            if not 1 <= value <= MAX_DRAWS:
                raise PlanError(f"{name} must be between 1 and {MAX_DRAWS}, not {value}", field=name)
        needs_noise = self.transformation is Transformation.L2 or self.guarantee is not Guarantee.HEURISTIC
        if needs_noise and not (math.isfinite(self.sigma_delta) and self.sigma_delta > 0.0):
            raise PlanError(
                f"the model has no pixel noise (sigma_delta = {self.sigma_delta}): only the heuristic guarantee "
                "does without",
                field="model",
            )
        if self.n * (self.n_delta if self.is_nested and self.n_delta else 1) > self.max_votes:
            raise PlanError(
                f"n x n_delta = {self.n * (self.n_delta or 1)} votes exceed the limit of {self.max_votes}",
                field="n",
                required={"n": self.max_votes // (self.n_delta or 1)},
            )

    def _covering_calibration(self) -> Calibration:
        calibration = self.calibration
        if calibration is None:
            raise CalibrationError(
                f"no stored bound for {self.transformation}: run calibrate, or ask for another guarantee"
            )
        if self.attack_range.half_width > calibration.attack_range:
            raise CalibrationError(
                f"attack_range {self.attack_range.half_width} is beyond the calibrated {calibration.attack_range} "
                f"{self.transformation.unit}"
            )
        return calibration

    def _check_reach(self, rho: float) -> None:
        """Refuse if not even n votes of n would certify the attack range."""
        wanted = self.wanted_radius
        needed = required_p_lower(lambda p: self.radius(p, rho), wanted)
        if needed is None or needed >= 1.0:
            raise PlanError(
                f"a radius of {wanted:.4g} {self.transformation.unit} cannot be certified with sigma "
                f"{self.sigma_delta if self.transformation is Transformation.L2 else self.sigma_gamma}, "
                "however many draws are made: ask for a smaller attack_range",
                field="attack_range",
            )
        smallest = smallest_sample_size(needed, self.alpha_shares["alpha_gamma"])
        if smallest is None or self.n < smallest:
            raise PlanError(
                f"n = {self.n} draws can never certify {wanted:.4g} {self.transformation.unit} at alpha = "
                f"{self.alpha}, even if all agree: n >= {smallest} would do",
                field="n",
                required={} if smallest is None else {"n": smallest},
            )

    @property
    def wanted_radius(self) -> float:
        """The radius that covers the attack range."""
        return self.attack_range.largest_norm

    @property
    def is_nested(self) -> bool:
        """Whether each drawn parameter gets a test of its own over pixel noise."""
        return self.transformation is not Transformation.L2 and self.guarantee is not Guarantee.HEURISTIC

    @property
    def alpha_shares(self) -> dict[str, float]:
        """How alpha is spent; ``alpha_delta`` is no share of it but the inner level subtracted from p_lower (B.2)."""
        if not self.is_nested:
            return {"alpha_gamma": self.alpha}
        if self.guarantee is Guarantee.INDIVIDUAL:
            alpha_E = SHARE_E * self.alpha
            return {"alpha_gamma": self.alpha - alpha_E, "alpha_delta": ALPHA_DELTA, "alpha_E": alpha_E}
        return {"alpha_gamma": self.alpha, "alpha_delta": ALPHA_DELTA}

    def radius(self, p_lower: float, rho: float) -> float | None:
        """The certified radius before it is cut at the attack range."""
        if self.transformation is Transformation.L2:
            return radius_l2(p_lower, self.sigma_delta, self.operator_norm)
        if self.guarantee is Guarantee.HEURISTIC:
            return radius_received(p_lower, 0.0, 0.0, self.sigma_gamma)
        formula = radius_received if self.image_is is ImageIs.RECEIVED else radius_reference
        return formula(p_lower, ALPHA_DELTA, rho, self.sigma_gamma)

    def rho_budget(self) -> float:
        """The rho_E that leaves room for the wanted radius when a tenth of the estimation draws fail."""
        reachable = 0.9 * self.alpha_shares["alpha_gamma"] ** (1.0 / self.n)
        low, high = 0.0, 0.5
        for _ in range(40):
            middle = 0.5 * (low + high)
            fine = (self.radius(reachable, middle) or 0.0) >= self.wanted_radius
            low, high = (middle, high) if fine else (low, middle)
        return low

    def votes_per_draw(self, error_bound: float) -> int:
        """n_delta for an error bound: the one asked for, or the chosen one.

        Raises
        ------
        PlanError
            If no test of that size, or of the size ``max_votes`` allows, can pass.
        """
        tau = inner_threshold(error_bound, self.sigma_delta)
        smallest = smallest_sample_size(tau, ALPHA_DELTA) if tau < 1.0 - 1e-7 else None
        ratio = error_bound / self.sigma_delta
        if smallest is None or smallest * self.n > self.max_votes:
            raise PlanError(
                f"the error bound {error_bound:.4g} is {ratio:.3g} sigma_delta: an inner test needs "
                f"{'more than 1e7' if smallest is None else smallest} votes, {self.n} of them exceed the limit of "
                f"{self.max_votes}",
                field="n",
                required={} if smallest is None else {"n_delta": smallest, "n": self.max_votes // smallest},
            )
        if self.n_delta is None:
            return min(max(math.ceil(ROOM * smallest), 100), self.max_votes // self.n)
        if self.n_delta < smallest or smallest_passing_count(self.n_delta, tau, ALPHA_DELTA) is None:
            raise PlanError(
                f"n_delta = {self.n_delta} can never pass at an error bound of {error_bound:.4g} "
                f"({ratio:.3g} sigma_delta): n_delta >= {smallest} would do",
                field="n_delta",
                required={"n_delta": smallest},
            )
        return self.n_delta
