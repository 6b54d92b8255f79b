"""The sentence each outcome means; docs/guarantees.md C."""

from __future__ import annotations

from .plan import CertificationPlan, PredictPlan


def certified(plan: CertificationPlan, *, label: int, radius: float, covers: bool) -> str:
    """The sentence of a certificate."""
    return f"class {label} within {radius:.4g} {plan.transformation.unit}"


def abstained(reason: str) -> str:
    """The sentence of an abstention."""
    return f"No statement is made about this image: {reason}."


def predicted(plan: PredictPlan, *, label: int) -> str:
    """The sentence of a prediction."""
    return f"class {label}"
