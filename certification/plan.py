"""The validated, frozen inputs of one run; a plan that can never answer is refused before any work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from .binomial import binomial_lower_bound, binomial_upper_bound, smallest_sample_size
from .calibration import Calibration
from .effort import ALPHA_DELTA, MAX_DRAWS, Effort, Goal
from .radius import (
    radius_heuristic,
    radius_joint_received,
    radius_joint_reference,
    radius_l2,
    radius_received,
    radius_reference,
    required_p_lower,
)
from .sequential import lower_bound
from .vocabulary import AttackRange, CalibrationError, Estimator, Guarantee, ImageIs, PlanError, Transformation

SHARE_E = 0.1
"""Share of alpha spent on rho_E by the individual guarantee."""
ROUNDING = 1e-9
"""Above a majority, so that the subtraction of a level leaves more than a half."""
SOME = 1e-6
"""Share of the wanted radius that counts as any radius."""


@dataclass(frozen=True, kw_only=True)
class PredictPlan(Effort):
    """What one prediction is asked for; there is no attack, so no attack range and no error bound.

    Raises
    ------
    PlanError
        If a number is out of range or no class could be shown with it; ``required`` says what would do.
    """

    def __post_init__(self) -> None:
        self.check_numbers()
        if self.is_sequential and self.has_both_noises:
            self.possible()
            return
        self.check_fixed_votes()
        self.check_smallest_n("a class")
        if self.is_nested:
            self.votes_per_draw(0.0)

    def least_votes(self, error_bound: float) -> int:
        """See :class:`Effort`; with one kind of noise the number is fixed, and there is no selection."""
        return super().least_votes(error_bound) if self.has_both_noises else self.paper_draws

    def goal(self, estimator: Estimator, error_bound: float = 0.0, rho_E: float = 0.0) -> Goal:
        """A majority, beside inner tests that err; there is no attack, so no error bound."""
        share = 0.5 + self.alpha_delta + ROUNDING if estimator is Estimator.NESTED else 0.5 + ROUNDING
        return Goal(share, share, settles_for_less=False)

    @property
    def smallest_n(self) -> int | None:
        """See :class:`Effort`: a lower bound above 1/2, or Cohen et al.'s two-sided test, can pass."""
        if self.is_nested:
            return smallest_sample_size(math.nextafter(0.5 + self.alpha_delta, 1.0), self.alpha)
        return smallest_sample_size(0.5, 0.5 * self.alpha)


@dataclass(frozen=True, kw_only=True)
class CertificationPlan(Effort):
    """What one certificate is asked for, and with which effort; the other parameters are :class:`Effort`'s.

    Parameters
    ----------
    attack_range : AttackRange
        Gamma.
    image_is : ImageIs
    wanted : float or None
        The radius at which a sequential run may stop, in (0, the largest norm in Gamma]; None: that norm, and
        where it is out of reach the run goes on for the largest radius that its draws can show.
    n_pilot, n_error : int
        Draws that choose E, and draws that bound rho_E (where both are estimated, see ``estimates_rho``).
    bound_for_all : bool
        Whether one error bound holds for every drawn parameter, so that rho_E is 0 (individual).
    calibration : Calibration or None
        The stored bound (distributional).
    operator_norm : float
        Upper bound of the preprocessing's spectral norm, > 0 (l2).
    lattice_loss, total_variation : float
        What the lattice of the noise takes from a radius, intensity, and from p_lower (l2; D.6).

    Raises
    ------
    PlanError
        If a number is out of range or the attack range could not be certified with it even if every draw
        passes; ``required`` says what would do.
    CalibrationError
        If the calibration is missing, of other noise, or does not cover the attack range.
    """

    DRAWS: ClassVar[tuple[str, ...]] = (*Effort.DRAWS, "n_pilot", "n_error")
    CHOICES: ClassVar[Mapping[str, type[StrEnum]]] = {**Effort.CHOICES, "image_is": ImageIs}

    attack_range: AttackRange
    image_is: ImageIs = ImageIs.RECEIVED
    wanted: float | None = None
    n_pilot: int = 50
    n_error: int = 200
    bound_for_all: bool = False
    calibration: Calibration | None = None
    operator_norm: float = 1.0
    lattice_loss: float = 0.0
    total_variation: float = 0.0

    def __post_init__(self) -> None:
        self.check_numbers()
        if self.attack_range.transformation is not self.transformation:
            raise PlanError(
                f"the attack range is one of {self.attack_range.transformation}, not {self.transformation}",
                field="attack_range",
            )
        if not (self.operator_norm > 0.0 and math.isfinite(self.operator_norm)):
            raise PlanError(f"operator_norm must be finite and > 0, not {self.operator_norm}", field="model")
        if self.wanted is not None and not 0.0 < self.wanted <= self.full_radius:
            raise PlanError(
                f"wanted_radius must be in (0, {self.full_radius:.6g}] {self.transformation.unit}, not {self.wanted}",
                field="wanted_radius",
            )
        stored = self._stored_bound()
        if self.is_sequential:
            E, rho_E = (stored.error_bound, stored.rho_E) if stored else (0.0, 0.0)
            self.possible(E, rho_E)
            return
        self._check_reach()
        if self.is_nested:
            self.votes_per_draw(0.0 if stored is None else stored.error_bound)

    @property
    def full_radius(self) -> float:
        """The radius that covers the attack range."""
        return self.attack_range.largest_norm

    @property
    def wanted_radius(self) -> float:
        """The radius that ends a sequential run."""
        return self.wanted or self.full_radius

    @property
    def candidates(self) -> tuple[Estimator, ...]:
        """See :class:`Effort`; where each draw has its own error bound (B.3), nested unless joint is asked for."""
        found = super().candidates
        own_bounds = self.guarantee is Guarantee.INDIVIDUAL and not self.bound_for_all and len(found) > 1
        return (Estimator.NESTED,) if own_bounds else found

    @property
    def alpha_shares(self) -> dict[str, float]:
        """See :class:`Effort`; the individual guarantee spends a part of alpha on rho_E where it must be estimated."""
        shares = super().alpha_shares
        if self.estimates_rho:
            alpha_E = SHARE_E * self.alpha
            return shares | {"alpha_gamma": self.alpha - alpha_E, "alpha_E": alpha_E}
        return shares

    def goal(self, estimator: Estimator, error_bound: float = 0.0, rho_E: float = 0.0) -> Goal:
        """The least p_lower with which the wanted radius, and any radius, is certified."""
        wanted, floor = (
            required_p_lower(lambda p: self.radius(p, rho_E, estimator, error_bound), radius)
            for radius in (self.wanted_radius, max(SOME * self.wanted_radius, math.ulp(0.0)))
        )
        if wanted is None or floor is None or wanted >= 1.0:
            radius, unit = self.wanted_radius, self.transformation.unit
            reachable = self._largest_radius(estimator, error_bound, rho_E) * self._half_width_share
            raise PlanError(
                f"a radius of {radius:.4g} {unit} cannot be certified with the model's noise, however many draws are "
                "made" + (f"; an attack_range of at most {reachable:.4g} {unit} would do" if reachable > 0.0 else ""),
                field="attack_range",
                required={"attack_range": reachable} if reachable > 0.0 else {},
            )
        return Goal(wanted, floor, settles_for_less=self.wanted is None)

    @property
    def smallest_n(self) -> int | None:
        """See :class:`Effort`: all draws passing shows the wanted radius."""
        return self._smallest_n(self.n_error)

    def radius(
        self, p_lower: float, rho_E: float, estimator: Estimator = Estimator.NESTED, error_bound: float = 0.0
    ) -> float | None:
        """The certified radius before it is cut at the attack range; None where nothing is certified.

        ``error_bound`` is E of the joint estimator; nested tests have it in their thresholds.
        """
        if self.transformation is Transformation.L2:
            return radius_l2(
                p_lower,
                self.sigma_delta,
                self.operator_norm,
                lattice_loss=self.lattice_loss,
                total_variation=self.total_variation,
            )
        if self.guarantee is Guarantee.HEURISTIC:
            return radius_heuristic(p_lower, self.sigma_gamma)
        if estimator is Estimator.JOINT:
            joint = radius_joint_received if self.image_is is ImageIs.RECEIVED else radius_joint_reference
            return joint(p_lower, error_bound, self.sigma_delta, rho_E, self.sigma_gamma)
        formula = radius_received if self.image_is is ImageIs.RECEIVED else radius_reference
        return formula(p_lower, self.alpha_delta, rho_E, self.sigma_gamma)

    @property
    def estimates_rho(self) -> bool:
        """Whether pilot draws choose E and others bound rho_E: individual, one E for all draws, no bound for all."""
        each_its_own = self.is_sequential and self.candidates == (Estimator.NESTED,)
        individual = self.has_both_noises and self.guarantee is Guarantee.INDIVIDUAL
        return individual and not self.bound_for_all and not each_its_own

    def _stored_bound(self) -> Calibration | None:
        """The calibration, checked against this plan; None where the guarantee uses none."""
        if self.guarantee is not Guarantee.DISTRIBUTIONAL:
            return None
        stored, half_width = self.calibration, self.attack_range.half_width
        if stored is None:
            raise CalibrationError(f"no error bound is stored for {self.transformation}: calibrate first")
        if (stored.transformation, stored.sigma_gamma) != (self.transformation, self.sigma_gamma):
            raise CalibrationError(
                f"the stored error bound is for {stored.transformation} with sigma_gamma = "
                f"{stored.sigma_gamma}, not for {self.transformation} with {self.sigma_gamma}"
            )
        if not stored.is_for(self.image_is):
            raise CalibrationError(
                f"the stored error bound is for a {stored.image_is} image, not for a {self.image_is} one"
            )
        if half_width > stored.attack_range:
            raise CalibrationError(
                f"attack_range {half_width} is beyond the calibrated {stored.attack_range} {self.transformation.unit}"
            )
        return stored

    def _least_rho(self, n_error: int) -> float:
        """The least rho_E there can be: the stored one, or that of ``n_error`` draws, all below E."""
        if self.estimates_rho:
            return binomial_upper_bound(0, n_error, self.alpha_shares["alpha_E"])
        stored = self._stored_bound()
        return 0.0 if stored is None else stored.rho_E

    def _smallest_n(self, n_error: int) -> int | None:
        """The least n that can show the wanted radius beside ``n_error`` draws for rho_E."""
        rho_E = self._least_rho(n_error)
        needed = required_p_lower(lambda p: self.radius(p, rho_E), self.full_radius)
        smallest = None if needed is None else smallest_sample_size(needed, self.alpha_shares["alpha_gamma"])
        return smallest if smallest is not None and smallest <= MAX_DRAWS else None

    def _check_reach(self) -> None:
        """Refuse draws that cannot certify the attack range, with the numbers that can."""
        goal = f"{self.full_radius:.4g} {self.transformation.unit}"
        if self.smallest_n is not None:
            self.check_smallest_n(goal)
        elif self.estimates_rho and self._smallest_n(MAX_DRAWS) is not None:
            fails, n_error = self.n_error, MAX_DRAWS
            while n_error - fails > 1:
                middle = (fails + n_error) // 2
                fails, n_error = (middle, n_error) if self._smallest_n(middle) is None else (fails, middle)
            n = max(self.paper_draws, self._smallest_n(n_error) or 0)
            raise PlanError(
                f"n_error = {self.n_error} draws cannot bound rho_E well enough to certify {goal}: "
                f"n_error >= {n_error} with n >= {n} would do",
                field="n_error",
                required={"n_error": n_error, "n": n},
            )
        else:
            sigma = self.sigma_delta if self.transformation is Transformation.L2 else self.sigma_gamma
            reachable = self._reachable_half_width()
            raise PlanError(
                f"{goal} cannot be certified with noise of {sigma} {self.transformation.unit}, however many "
                f"draws are made; an attack_range of at most {reachable:.4g} would do",
                field="attack_range",
                required={"attack_range": reachable} if reachable > 0.0 else {},
            )

    def _reachable_half_width(self) -> float:
        """The attack range that these draws just certify if all pass, less a little; 0 if there is none."""
        p_lower = binomial_lower_bound(self.paper_draws, self.paper_draws, self.alpha_shares["alpha_gamma"])
        radius = self.radius(p_lower, self._least_rho(self.n_error)) or 0.0
        return 0.999 * radius * self._half_width_share

    @property
    def _half_width_share(self) -> float:
        return self.attack_range.half_width / self.full_radius

    def _largest_radius(self, estimator: Estimator, error_bound: float, rho_E: float) -> float:
        """What all draws passing certify, less a little."""
        n = self.draws(estimator)
        p_lower = lower_bound(n, n, self.alpha_shares["alpha_gamma"])
        return 0.999 * (self.radius(p_lower, rho_E, estimator, error_bound) or 0.0)


__all__ = ["ALPHA_DELTA", "MAX_DRAWS", "SHARE_E", "CertificationPlan", "PredictPlan"]
