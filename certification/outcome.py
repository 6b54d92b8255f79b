"""What comes out: a certificate or an abstention, each with the sentence that it guarantees."""

from __future__ import annotations

from dataclasses import dataclass

from .plan import CertificationPlan
from .vocabulary import Guarantee, ImageIs, Transformation


@dataclass(frozen=True)
class Counts:
    """Draws and votes of one run.

    ``selection`` draws chose the class; ``n`` parameters were drawn to estimate, ``passed`` of them passed (for
    guarantees without inner tests: voted for the class); ``n_delta`` votes each; ``votes`` in all.
    """

    selection: int
    n: int
    passed: int
    n_delta: int
    votes: int


@dataclass(frozen=True)
class ErrorBoundSummary:
    """The error bound a run used: E, its rho_E, and where it comes from.

    ``q_E`` and ``confidence`` belong to a calibration; ``draws`` and the spread to bounds computed for this image.
    """

    error_bound: float
    rho_E: float
    q_E: float | None = None
    confidence: float | None = None
    draws: int | None = None
    smallest: float | None = None
    median: float | None = None
    largest: float | None = None


@dataclass(frozen=True)
class Certified:
    """The smoothed classifier answers ``label``, and keeps doing so within ``radius``."""

    plan: CertificationPlan
    label: int
    radius: float
    p_lower: float
    counts: Counts
    error_bound: ErrorBoundSummary | None = None

    @property
    def covers_attack_range(self) -> bool:
        """Whether every parameter of the attack range lies within the radius."""
        return self.radius >= self.plan.wanted_radius

    @property
    def statement(self) -> str:
        """The sentence this certificate means (docs/guarantees.md, C)."""
        return _certified_sentence(self)


@dataclass(frozen=True)
class Abstained:
    """No statement; ``reason`` says what was missing."""

    plan: CertificationPlan
    reason: str
    counts: Counts
    p_lower: float | None = None
    error_bound: ErrorBoundSummary | None = None

    @property
    def statement(self) -> str:
        """The sentence an abstention means."""
        return f"No statement: {self.reason}."


Outcome = Certified | Abstained


def _number(value: float) -> str:
    """At most four significant digits, rounded down, so that a sentence never promises more than the number."""
    for digits in range(4, 18):
        text = f"{value:.{digits}g}"
        if float(text) <= value:
            return text
    return repr(value)


def _certified_sentence(outcome: Certified) -> str:
    plan = outcome.plan
    confidence = f"With probability at least {1.0 - plan.alpha:.6g} over the noise drawn for it"
    radius = f"{_number(outcome.radius)} {plan.transformation.unit}"
    if plan.transformation is Transformation.L2:
        return (
            f"{confidence}, the smoothed classifier answers {outcome.label} for every image within l2 distance "
            f"{_number(outcome.radius)} of this one. It does not say that the label is right."
        )
    named = f"a {plan.transformation} of at most {radius}"
    if plan.guarantee is Guarantee.HEURISTIC:
        return (
            f"No proof: if {plan.transformation}s of pixel images composed exactly, the smoothed classifier would "
            f"answer {outcome.label} under {named}; the interpolation error is ignored."
        )
    inside = f"inside the attack range of {_describe_range(plan)}"
    if plan.image_is is ImageIs.RECEIVED:
        holds = f"every image from which this image can have been made by {named} ({inside})"
    else:
        holds = f"every version of this image made by {named} ({inside})"
    sentence = f"{confidence}, the smoothed classifier answers {outcome.label} for {holds}"
    if plan.guarantee is Guarantee.DISTRIBUTIONAL and plan.calibration is not None:
        c = plan.calibration
        sentence += (
            f", provided that the original is one of the at least {100 * c.q_E:.4g} % of images like those of "
            f"{c.dataset} ({c.split}) whose interpolation error obeys the calibrated bound (confidence {c.confidence})"
        )
    return sentence + ". It does not say that the label is right."


def _describe_range(plan: CertificationPlan) -> str:
    per_axis = " on each axis" if plan.transformation is Transformation.TRANSLATION else ""
    return f"+-{plan.attack_range.half_width:g} {plan.transformation.unit}{per_axis}"
