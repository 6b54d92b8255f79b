"""What every run is given: the noise, the levels, and how much may be drawn; too little is refused."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from scipy.stats import norm

from .binomial import LARGEST_SAMPLE, is_whole, smallest_sample_size
from .radius import inner_threshold
from .vocabulary import Guarantee, PlanError, Transformation

ALPHA_DELTA = 0.002
"""Level of every inner test, subtracted once from the outer bound (B.2); the paper's value."""
MAX_DRAWS = 10_000_000
LEAST_ROOM, ROOM = 1.5, 4.0
"""A chosen n_delta is ROOM times the smallest that can pass, since a draw whose margin is not far above the error
bound needs it, but within COMFORTABLE_VOTES; LEAST_ROOM times where even that is more."""
COMFORTABLE_VOTES = 200_000
LEAST_N_DELTA = 100


@dataclass(frozen=True, kw_only=True)
class Effort(ABC):
    """What predictions and certificates share.

    Parameters
    ----------
    transformation, guarantee
        l2 knows the individual guarantee only.
    sigma_gamma : float
        Standard deviation of the parameter noise, degrees or pixels (unused for l2).
    sigma_delta : float
        Standard deviation of the pixel noise, intensity (unused by the heuristic guarantee).
    alpha : float
        Failure probability of the whole answer, in (0, 1).
    alpha_delta : float
        Level of the inner tests, in (0, 1/2).
    n0, n : int
        Selection and estimation draws.
    n_delta : int or None
        Pixel-noise draws at each drawn parameter; None: chosen from the error bound.
    max_votes : int
        Base-classifier evaluations allowed.
    """

    DRAWS: ClassVar[tuple[str, ...]] = ("n0", "n", "n_delta")
    CHOICES: ClassVar[Mapping[str, type[StrEnum]]] = {
        "transformation": Transformation,
        "guarantee": Guarantee,
    }

    transformation: Transformation
    guarantee: Guarantee
    sigma_gamma: float
    sigma_delta: float
    alpha: float = 0.01
    alpha_delta: float = ALPHA_DELTA
    n0: int = 100
    n: int = 200
    n_delta: int | None = None
    max_votes: int = 2_000_000

    @property
    def is_nested(self) -> bool:
        """Whether each drawn parameter gets a test of its own over pixel noise."""
        return self.transformation is not Transformation.L2 and self.guarantee is not Guarantee.HEURISTIC

    @property
    def pixel_noise(self) -> bool:
        """Whether the smoothed classifier has pixel noise: not for the heuristic guarantee."""
        return self.is_nested or self.transformation is Transformation.L2

    @property
    def alpha_shares(self) -> dict[str, float]:
        """The levels in use, by name.

        ``alpha_gamma`` and ``alpha_E`` sum to alpha; ``alpha_delta`` is no share of it but the inner level
        that is subtracted from p_lower (B.2).
        """
        return {"alpha_gamma": self.alpha} | ({"alpha_delta": self.alpha_delta} if self.is_nested else {})

    @property
    @abstractmethod
    def smallest_n(self) -> int | None:
        """The least n that can answer if all draws agree; None if no number can."""

    def check_numbers(self) -> None:
        """Refuse choices, levels, draws and noise that are out of range."""
        for name, kind in self.CHOICES.items():
            # a plain string equals its member but is not identical with it: formulas would be mixed up
            if not isinstance(getattr(self, name), kind):
                raise PlanError(f"{name} must be one of {', '.join(kind)} as a {kind.__name__}", field=name)
        for name, top in {"alpha": 1.0, "alpha_delta": 0.5}.items():
            if not 0.0 < getattr(self, name) < top:
                raise PlanError(f"{name} must be in (0, {top:g}), not {getattr(self, name)}", field=name)
        limits = dict.fromkeys(self.DRAWS, MAX_DRAWS) | {"max_votes": LARGEST_SAMPLE}
        for name, largest in limits.items():
            value = getattr(self, name)
            if not (name == "n_delta" and value is None) and not (is_whole(value) and 1 <= value <= largest):
                raise PlanError(f"{name} must be between 1 and {largest}, not {value}", field=name)
        if self.transformation is Transformation.L2 and self.guarantee is not Guarantee.INDIVIDUAL:
            raise PlanError(f"l2 has the individual guarantee, not {self.guarantee}", field="guarantee")
        noises = (
            ("sigma_gamma", self.sigma_gamma, self.transformation is not Transformation.L2),
            ("sigma_delta", self.sigma_delta, self.pixel_noise),
        )
        for name, sigma, is_needed in noises:
            if is_needed and not (sigma > 0.0 and math.isfinite(sigma)):
                raise PlanError(f"the model's noise level must be finite and > 0: {name} = {sigma}", field="model")
        votes = self.n0 + self.n * ((self.n_delta or 1) if self.is_nested else 1)
        if votes > self.max_votes:
            raise PlanError(
                f"n0 + n x n_delta = {votes} votes exceed the limit of {self.max_votes}",
                field="n",
                required={"max_votes": votes},
            )

    def check_smallest_n(self, goal: str) -> None:
        """Refuse an n with which not even n draws of n would show ``goal``."""
        smallest = self.smallest_n
        if smallest is None or smallest > MAX_DRAWS:
            raise PlanError(f"no number of draws up to {MAX_DRAWS} can show {goal}", field="alpha")
        if self.n < smallest:
            raise PlanError(
                f"n = {self.n} draws can never show {goal} at alpha = {self.alpha}, even if all agree: "
                f"n >= {smallest} would do",
                field="n",
                required={"n": smallest},
            )

    def largest_error_bound(self) -> float:
        """The largest E, intensity, at which an inner test can pass with ``n_delta`` or all affordable votes.

        That is where ``Phi(E / sigma_delta)^n_delta = alpha_delta``, less a little.
        """
        votes = min(self.n_delta or self._affordable_votes, self._affordable_votes)
        threshold = -math.expm1(math.log(self.alpha_delta) / max(votes, 1))
        return max(self.sigma_delta * float(norm.isf(threshold)) * (1.0 - 1e-9), 0.0)

    @property
    def _affordable_votes(self) -> int:
        return min((self.max_votes - self.n0) // self.n, MAX_DRAWS)

    def votes_per_draw(self, error_bound: float) -> int:
        """n_delta for an error bound: the one asked for, or the chosen one.

        Parameters
        ----------
        error_bound : float
            E >= 0, l2 norm in intensity; 0 for ``predict``.

        Raises
        ------
        PlanError
            If no test of that size, or of the size ``max_votes`` allows, can pass.
        """
        smallest = smallest_sample_size(inner_threshold(error_bound, self.sigma_delta), self.alpha_delta)
        there = f"at an error bound of {error_bound:.4g} ({error_bound / self.sigma_delta:.3g} sigma_delta)"
        if smallest is None:
            raise PlanError(f"{there} no inner test can pass, however many votes it has", field="guarantee")
        if self.n_delta is not None and self.n_delta < smallest:
            raise PlanError(
                f"{there} n_delta = {self.n_delta} votes can never pass: n_delta >= {smallest} would do",
                field="n_delta",
                required={"n_delta": smallest},
            )
        affordable = self._affordable_votes
        if affordable < smallest:
            fewer = (self.max_votes - self.n0) // smallest
            helps = fewer >= (self.smallest_n or math.inf)
            required = {"n": fewer} if helps else {"max_votes": self.n0 + self.n * smallest}
            raise PlanError(
                f"{there} an inner test needs {smallest} votes: with n = {self.n} that exceeds the limit of "
                f"{self.max_votes} votes" + (f"; n = {fewer} would do" if helps else ""),
                field="n",
                required=required,
            )
        roomy = min(math.ceil(ROOM * smallest), COMFORTABLE_VOTES // self.n)
        return self.n_delta or min(max(math.ceil(LEAST_ROOM * smallest), roomy, LEAST_N_DELTA), affordable)
