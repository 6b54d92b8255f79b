"""What a run ends with: Certified or Abstained, each with the sentence it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from . import statements
from .plan import CertificationPlan, PredictPlan


@dataclass(frozen=True)
class Counts:
    """What was drawn.

    Attributes
    ----------
    selection : int
        Draws that chose the label (n0).
    n : int
        Draws that estimated its probability, disjoint from the selection.
    passed : int
        How many of the n passed: votes for the label, or draws whose inner test passed.
    n_delta : int
        Pixel-noise draws at each of the n parameters; 0 where there is no inner test.
    votes : int
        Base-classifier evaluations, all together.
    """

    selection: int = 0
    n: int = 0
    passed: int = 0
    n_delta: int = 0
    votes: int = 0


@dataclass(frozen=True)
class ErrorBoundSummary:
    """The bound on the interpolation error that a run used.

    Attributes
    ----------
    error_bound : float
        E, l2 norm in intensity.
    rho_E : float
        Upper bound on the probability, over the parameter noise, that the error exceeds E.
    q_E, confidence : float or None
        Share of images it holds for, and the confidence of that (distributional only).
    smallest, median, largest : float or None
        Of the bounds of the draws behind rho_E, unbounded draws left out (individual only).
    draws, unbounded : int
        How many draws are behind rho_E, and for how many of them no bound was found.
    """

    error_bound: float
    rho_E: float
    q_E: float | None = None
    confidence: float | None = None
    smallest: float | None = None
    median: float | None = None
    largest: float | None = None
    draws: int = 0
    unbounded: int = 0


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What certified and abstained runs share."""

    plan: CertificationPlan
    counts: Counts
    p_lower: float | None = None
    error_bound: ErrorBoundSummary | None = None

    @property
    def alpha_shares(self) -> dict[str, float]:
        """The parts of alpha, by name."""
        return self.plan.alpha_shares


@dataclass(frozen=True, kw_only=True)
class Certified(_Run):
    """A certificate.

    Attributes
    ----------
    label : int
        The smoothed classifier's class.
    radius : float
        > 0; degrees, pixels or intensity. Cut at the attack range's largest norm, except for l2.
    covers_attack_range : bool
        Whether the certificate reaches every parameter of the attack range.
    p_lower : float
        Lower confidence bound on the probability that a draw passes.
    """

    label: int
    radius: float
    covers_attack_range: bool

    @property
    def statement(self) -> str:
        """The sentence this certificate means."""
        return statements.certified(
            self.plan, label=self.label, radius=self.radius, covers=self.covers_attack_range
        )


@dataclass(frozen=True, kw_only=True)
class Abstained(_Run):
    """No certificate, and why.

    Attributes
    ----------
    reason : str
    required : mapping
        The number that would have done, where the run stopped for want of it.
    """

    reason: str
    required: Mapping[str, float | int] = field(default_factory=dict)
    label: None = None
    radius: None = None
    covers_attack_range: bool = False

    @property
    def statement(self) -> str:
        """The sentence this abstention means."""
        return statements.abstained(self.reason)


Outcome = Certified | Abstained


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The smoothed classifier's label at one image, or None with the reason for abstaining."""

    plan: PredictPlan
    label: int | None
    counts: Counts
    reason: str | None = None

    @property
    def abstained(self) -> bool:
        """Whether there is no label."""
        return self.label is None

    @property
    def statement(self) -> str:
        """The sentence this prediction means."""
        if self.label is None:
            return statements.abstained(self.reason or "no reason given")
        return statements.predicted(self.plan, label=self.label)
