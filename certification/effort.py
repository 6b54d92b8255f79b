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
from .sequential import smallest_accepting_n
from .vocabulary import Estimator, Guarantee, PlanError, Procedure, Transformation

ALPHA_DELTA = 0.002
"""Level of every inner test, subtracted once from the outer bound (B.2); the paper's value."""
MAX_DRAWS = 10_000_000
LEAST_ROOM, ROOM = 1.5, 4.0
"""A chosen n_delta is ROOM times the smallest that can pass, since a draw whose margin is not far above the error
bound needs it, but within COMFORTABLE_VOTES; LEAST_ROOM times where even that is more."""
COMFORTABLE_VOTES = 200_000
LEAST_N_DELTA = 100
NESTED_DRAWS, JOINT_DRAWS = 1000, 10_000
PAPER_NESTED_DRAWS, PAPER_SINGLE_DRAWS = 200, 1000
"""Default n: of the sequential procedure, where it is the most that may be drawn, and of the papers' one."""


@dataclass(frozen=True)
class Goal:
    """What a sequential outer test must show to be exceeded.

    Attributes
    ----------
    wanted, floor : float
        The probability that gives the wanted answer, and the one that gives any; floor <= wanted.
    settles_for_less : bool
        Whether the run goes on where the wanted answer is out of reach.
    """

    wanted: float
    floor: float
    settles_for_less: bool


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
    n0 : int
        Selection draws.
    n : int or None
        Estimation draws; sequential: the most there may be. None: a default, see :meth:`draws`.
    n_delta : int or None
        Pixel-noise draws at each drawn parameter; sequential: the most. None: chosen from the error bound.
    max_votes : int
        Base-classifier evaluations allowed.
    procedure : Procedure
    estimator : Estimator
        Matters only where there are both kinds of noise; ``auto`` chooses by the selection draws. The papers'
        procedure is nested.
    """

    DRAWS: ClassVar[tuple[str, ...]] = ("n0", "n", "n_delta")
    CHOICES: ClassVar[Mapping[str, type[StrEnum]]] = {
        "transformation": Transformation,
        "guarantee": Guarantee,
        "procedure": Procedure,
        "estimator": Estimator,
    }

    transformation: Transformation
    guarantee: Guarantee
    sigma_gamma: float
    sigma_delta: float
    alpha: float = 0.01
    alpha_delta: float = ALPHA_DELTA
    n0: int = 100
    n: int | None = None
    n_delta: int | None = None
    max_votes: int = 2_000_000
    procedure: Procedure = Procedure.SEQUENTIAL
    estimator: Estimator = Estimator.AUTO

    @property
    def has_both_noises(self) -> bool:
        """Whether there is parameter noise and pixel noise, so that a smoothed classifier can be nested or joint."""
        return self.transformation is not Transformation.L2 and self.guarantee is not Guarantee.HEURISTIC

    @property
    def is_sequential(self) -> bool:
        """Whether the run stops once the answer is known."""
        return self.procedure is Procedure.SEQUENTIAL

    @property
    def is_nested(self) -> bool:
        """Whether each drawn parameter may get a test of its own over pixel noise."""
        return self.has_both_noises and self.estimator is not Estimator.JOINT

    @property
    def candidates(self) -> tuple[Estimator, ...]:
        """The smoothed classifiers that the run may be about; joint where there is one kind of noise."""
        if not self.has_both_noises:
            return (Estimator.JOINT,)
        if self.estimator is not Estimator.AUTO:
            return (self.estimator,)
        return (Estimator.NESTED, Estimator.JOINT) if self.is_sequential else (Estimator.NESTED,)

    def draws(self, estimator: Estimator) -> int:
        """The most estimation draws that a sequential run makes: n, or the default."""
        return self.n or (NESTED_DRAWS if estimator is Estimator.NESTED else JOINT_DRAWS)

    @property
    def paper_draws(self) -> int:
        """Estimation draws where their number is fixed: n, or the default."""
        return self.n or (PAPER_NESTED_DRAWS if self.is_nested else PAPER_SINGLE_DRAWS)

    @property
    def pixel_noise(self) -> bool:
        """Whether the smoothed classifier has pixel noise: not for the heuristic guarantee."""
        return self.has_both_noises or self.transformation is Transformation.L2

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
            if not (name in ("n", "n_delta") and value is None) and not (is_whole(value) and 1 <= value <= largest):
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
        if self.is_sequential:
            return
        if self.estimator is Estimator.JOINT and self.has_both_noises:
            raise PlanError("the papers' procedure is nested: it has no joint estimator", field="estimator")
        self.check_fixed_votes()

    def check_fixed_votes(self) -> None:
        """Refuse a fixed number of draws that takes more votes than there may be."""
        votes = self.n0 + self.paper_draws * ((self.n_delta or 1) if self.is_nested else 1)
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
        if self.paper_draws < smallest:
            raise PlanError(
                f"n = {self.paper_draws} draws can never show {goal} at alpha = {self.alpha}, even if all agree: "
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
        return min((self.max_votes - self.n0) // self.paper_draws, MAX_DRAWS)

    @abstractmethod
    def goal(self, estimator: Estimator, error_bound: float = 0.0, rho_E: float = 0.0) -> Goal:
        """What must be shown; a :class:`PlanError` if no number of draws can."""

    def possible(self, error_bound: float = 0.0, rho_E: float = 0.0) -> dict[Estimator, int]:
        """The smoothed classifiers that could be shown to answer, with the least votes that takes.

        Raises
        ------
        PlanError
            If there is none; ``required`` says what would do.
        """
        possible: dict[Estimator, int] = {}
        refusals = []
        for estimator in self.candidates:
            try:
                possible[estimator] = self._least_votes(estimator, error_bound, rho_E)
            except PlanError as refusal:
                refusals.append(refusal)
        if not possible:
            raise refusals[0]
        return possible

    def least_votes(self, error_bound: float) -> int:
        """What a run costs at least: votes if every one is for the class, or the papers' fixed number.

        With an error bound too large for any run, or none at all, the selection votes alone.
        """
        try:
            if self.is_sequential:
                return self.n0 + min(self.possible(error_bound).values())
            return self.n0 + self.paper_draws * (self.votes_per_draw(error_bound) if self.is_nested else 1)
        except PlanError:
            return self.n0

    def _least_votes(self, estimator: Estimator, error_bound: float, rho_E: float) -> int:
        n = self.draws(estimator)
        least = smallest_accepting_n(self.goal(estimator, error_bound, rho_E).wanted, self.alpha_shares["alpha_gamma"])
        if least is None:
            raise PlanError(f"no number of draws up to {MAX_DRAWS} can show enough", field="alpha")
        if n < least:
            raise PlanError(
                f"n = {n} draws can never show enough at alpha = {self.alpha}, even if all agree: "
                f"n >= {least} would do",
                field="n",
                required={"n": least},
            )
        if estimator is Estimator.NESTED:
            least *= self.least_inner_votes(error_bound)
        if self.n0 + least > self.max_votes:
            raise PlanError(
                f"at least {self.n0 + least} votes are needed, which exceeds the limit of {self.max_votes}",
                field="guarantee",
                required={"max_votes": self.n0 + least},
            )
        return least

    def least_inner_votes(self, error_bound: float) -> int:
        """The fewest votes, all for the class, with which a draw passes; raises :class:`PlanError` if too many."""
        tau = inner_threshold(error_bound, self.sigma_delta)
        inner = smallest_accepting_n(tau, self.alpha_delta)
        there = f"at an error bound of {error_bound:.4g} ({error_bound / self.sigma_delta:.3g} sigma_delta)"
        if inner is None:
            raise PlanError(f"{there} no inner test can pass, however many votes it has", field="guarantee")
        if self.n_delta is not None and self.n_delta < inner:
            raise PlanError(
                f"{there} n_delta = {self.n_delta} votes can never pass: n_delta >= {inner} would do",
                field="n_delta",
                required={"n_delta": inner},
            )
        return inner

    def votes_per_draw(self, error_bound: float) -> int:
        """n_delta of the papers' procedure for an error bound: the one asked for, or the chosen one.

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
            required = {"n": fewer} if helps else {"max_votes": self.n0 + self.paper_draws * smallest}
            raise PlanError(
                f"{there} an inner test needs {smallest} votes: with n = {self.paper_draws} that exceeds the limit of "
                f"{self.max_votes} votes" + (f"; n = {fewer} would do" if helps else ""),
                field="n",
                required=required,
            )
        roomy = min(math.ceil(ROOM * smallest), COMFORTABLE_VOTES // self.paper_draws)
        return self.n_delta or min(max(math.ceil(LEAST_ROOM * smallest), roomy, LEAST_N_DELTA), affordable)
