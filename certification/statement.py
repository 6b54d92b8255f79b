"""The sentence a certificate means (docs/guarantees.md, C); its numbers promise no more than it does."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Context, Decimal

from .plan import CertificationPlan
from .vocabulary import Estimator, Guarantee, ImageIs, Transformation

NOT_SAID = "It does not say that the label is right."


def rounded_down(value: float, digits: int = 4) -> str:
    """``digits`` significant digits, never above the value as JSON shows it."""
    return f"{Context(prec=digits, rounding=ROUND_FLOOR).create_decimal(repr(value)):f}"


def _complement(alpha: float) -> str:
    """1 - alpha in decimals, rounded down."""
    return f"{Context(rounding=ROUND_FLOOR).subtract(Decimal(1), Decimal(repr(alpha))):f}"


def certified_sentence(
    plan: CertificationPlan,
    *,
    label: int,
    radius: float,
    covers_attack_range: bool,
    estimator: Estimator | None = Estimator.NESTED,
) -> str:
    """Who the certificate holds for, up to which radius, with which probability, about which classifier."""
    probability = f"probability at least {_complement(plan.alpha)} over the noise drawn for it"
    probably = f"With {probability}"
    if plan.transformation is Transformation.L2:
        return (
            f"{probably}, the smoothed classifier answers {label} for every image whose l2 distance from "
            f"this one is at most {rounded_down(radius)} (intensity in [0, 1]). {NOT_SAID}"
        )
    parameters = _parameters(plan, radius, covers_attack_range)
    if plan.guarantee is Guarantee.HEURISTIC:
        return (
            f"No proof, a well-motivated defence: with {probability}, the smoothed classifier would answer {label} "
            f"under {parameters} if {plan.transformation}s of pixel images composed exactly and lost no content; the "
            f"interpolation error is ignored. {NOT_SAID}"
        )
    if plan.image_is is ImageIs.RECEIVED:
        images = f"every image from which this one can have been made by {parameters}, rounded to 8 bits"
    else:
        images = f"every version of this image made by {parameters}, rounded to 8 bits"
    kind = "joint " if estimator is Estimator.JOINT else ""
    return f"{probably}, the {kind}smoothed classifier answers {label} for {images}{_share(plan)}. {NOT_SAID}"


def _parameters(plan: CertificationPlan, radius: float, covers_attack_range: bool) -> str:
    per_axis = " on each axis" if plan.transformation is Transformation.TRANSLATION else ""
    whole = f"the attack range of +-{plan.attack_range.half_width!r} {plan.transformation.unit}{per_axis}"
    if covers_attack_range:
        return f"any {plan.transformation} in {whole}"
    return f"a {plan.transformation} of at most {rounded_down(radius)} {plan.transformation.unit} in {whole}"


def _share(plan: CertificationPlan) -> str:
    """For how many images a distributional certificate holds."""
    stored = plan.calibration
    if plan.guarantee is not Guarantee.DISTRIBUTIONAL or stored is None:
        return ""
    return (
        f", provided that the original is among the share of at least {rounded_down(stored.q_E)} of images "
        f"like those of {stored.dataset} ({stored.split}) that obey the calibrated error bound (confidence "
        f"{stored.confidence!r})"
    )
