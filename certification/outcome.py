"""What comes out: a certificate, an abstention or a prediction, with the numbers behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .plan import CertificationPlan
from .statement import certified_sentence
from .vocabulary import Estimator, StoppedBy


@dataclass(frozen=True)
class Counts:
    """Draws and votes of one run.

    Attributes
    ----------
    selection : int
        Draws that chose the class.
    n : int
        Draws that estimated, none of them a selection draw; of a sequential run, the prefix that was read.
    passed : int
        How many of the n passed their inner test; without inner tests, voted for the class.
    n_delta : int
        Votes at each of the n draws; of a sequential run, the largest number at one.
    votes : int
        Base-classifier evaluations in all.
    """

    selection: int
    n: int
    passed: int
    n_delta: int
    votes: int


@dataclass(frozen=True)
class ErrorBoundSummary:
    """The error bound a run used: E, its rho_E, and where it comes from.

    Attributes
    ----------
    error_bound, rho_E : float
        E, l2 norm in intensity, and the probability over the parameter noise that the error exceeds it; where each
        draw has a bound of its own, their median, and 0.
    q_E, confidence : float or None
        Of the calibration (distributional).
    draws : int or None
        Draws whose error was bounded for this image: those that chose E and those behind rho_E (individual).
    smallest, median, largest : float or None
        Of these draws' bounds; infinite where none was found.
    per_draw : bool
        Whether each draw was tested against its own bound (B.3).
    """

    error_bound: float
    rho_E: float
    q_E: float | None = None
    confidence: float | None = None
    draws: int | None = None
    smallest: float | None = None
    median: float | None = None
    largest: float | None = None
    per_draw: bool = False


@dataclass(frozen=True)
class Certified:
    """The smoothed classifier answers ``label``, and keeps doing so within ``radius``.

    ``radius`` is > 0, in degrees, pixels or intensity, and cut at the attack range's largest norm except
    for l2; ``p_lower`` is the lower bound on the probability that a draw passes, before any loss; ``estimator`` says
    which smoothed classifier it is (None where there is one kind of noise), ``stopped_by`` why a sequential run ended.
    """

    plan: CertificationPlan
    label: int
    radius: float
    p_lower: float
    counts: Counts
    error_bound: ErrorBoundSummary | None = None
    estimator: Estimator | None = None
    stopped_by: StoppedBy | None = None

    @property
    def alpha_shares(self) -> dict[str, float]:
        """The levels in use, by name."""
        return _shares(self)

    @property
    def covers_attack_range(self) -> bool:
        """Whether every parameter of the attack range lies within the radius."""
        return self.radius >= self.plan.full_radius

    @property
    def statement(self) -> str:
        """The sentence this certificate means (docs/guarantees.md, C)."""
        return certified_sentence(
            self.plan,
            label=self.label,
            radius=self.radius,
            covers_attack_range=self.covers_attack_range,
            estimator=self.estimator,
        )


@dataclass(frozen=True)
class Abstained:
    """No statement; ``reason`` says what was missing, ``required`` the numbers that would have done."""

    plan: CertificationPlan
    reason: str
    counts: Counts
    p_lower: float | None = None
    error_bound: ErrorBoundSummary | None = None
    estimator: Estimator | None = None
    stopped_by: StoppedBy | None = None
    required: Mapping[str, float | int] = field(default_factory=dict)

    label = None
    radius = None
    covers_attack_range = False

    @property
    def alpha_shares(self) -> dict[str, float]:
        """The levels in use, by name."""
        return _shares(self)

    @property
    def statement(self) -> str:
        """The sentence an abstention means."""
        return f"No statement: {self.reason}."


Outcome = Certified | Abstained


def _shares(outcome: Outcome) -> dict[str, float]:
    """The plan's, without the level of inner tests where none was made."""
    shares = outcome.plan.alpha_shares
    if outcome.estimator is Estimator.JOINT:
        shares.pop("alpha_delta", None)
    return shares


@dataclass(frozen=True)
class Prediction:
    """The smoothed classifier's label, or None if it abstained; wrong with probability at most alpha."""

    label: int | None
    counts: Counts
    reason: str | None = None
    estimator: Estimator | None = None
    stopped_by: StoppedBy | None = None
