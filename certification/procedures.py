"""PREDICT and CERTIFY for every guarantee, as the papers' pseudo-code reads.

Cohen et al. 2019 (section 3.2) for l2; Fischer et al. 2020 for BaseSPT (heuristic), DistSPT
(distributional) and IndivSPT (individual), with the corrections of docs/guarantees.md B.1 and B.2.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .binomial import binomial_lower_bound, predict_p_value, smallest_passing_count
from .calibration import choose_error_bound, rho_upper
from .outcome import Abstained, Certified, Counts, ErrorBoundSummary, Outcome
from .plan import ALPHA_DELTA, CertificationPlan
from .protocols import ErrorBoundSource, Stage, VoteSource
from .radius import inner_threshold
from .vocabulary import CertificationError, Guarantee, PlanError, Transformation


def no_stage(name: str) -> AbstractContextManager[None]:
    """A stage clock that measures nothing."""
    return nullcontext()


@dataclass(frozen=True)
class Prediction:
    """The smoothed classifier's label, or None if it abstained; wrong with probability at most alpha."""

    label: int | None
    counts: Counts
    reason: str | None = None


def certify(
    plan: CertificationPlan, votes: VoteSource, bounds: ErrorBoundSource | None = None, stage: Stage = no_stage
) -> Outcome:
    """Certify the smoothed classifier's answer for one image.

    Parameters
    ----------
    plan : CertificationPlan
    votes : VoteSource
        Draws and votes for the image.
    bounds : ErrorBoundSource, optional
        The image's error bounds; needed by the individual guarantee.
    stage : Stage
        Opened around "bound", "select" and "estimate".

    Returns
    -------
    Outcome
        With probability at least ``1 - plan.alpha`` over the draws its statement is true.

    Raises
    ------
    CertificationError
        If the bounds are missing.
    """
    if not plan.is_nested:
        return _certify_single(plan, votes, stage)
    with stage("bound"):
        summary = _error_bound(plan, votes, bounds)
    try:
        n_delta = plan.votes_per_draw(summary.error_bound)
    except PlanError as refusal:
        # The bound of this very image came out too large: nothing was drawn yet.
        return Abstained(plan, str(refusal), Counts(0, 0, 0, 0, 0), error_bound=summary)
    tau = inner_threshold(summary.error_bound, plan.sigma_delta)
    with stage("select"):
        label = _leading_class(votes.class_counts(plan.n0, pixel_noise=True))
    if label is None:
        return Abstained(plan, "no class got a vote", Counts(plan.n0, 0, 0, 0, plan.n0), error_bound=summary)
    with stage("estimate"):
        passed = _passed_draws(votes, plan.n, label, n_delta, tau)
    counts = Counts(plan.n0, plan.n, passed, n_delta, plan.n0 + plan.n * n_delta)
    p_lower = binomial_lower_bound(passed, plan.n, plan.alpha_shares["alpha_gamma"])
    return _conclude(plan, label, p_lower, summary.rho_E, counts, summary)


def predict(plan: CertificationPlan, votes: VoteSource, stage: Stage = no_stage) -> Prediction:
    """The smoothed classifier's label, or an abstention.

    Without inner tests this is Cohen et al.'s PREDICT: the two leading classes of ``n`` votes are compared by a
    two-sided binomial test at ``alpha``. With inner tests, ``n0`` votes choose a class, and fresh draws test
    ``g_c > 1/2``, each draw by a test of ``H_c > 1/2`` at level ALPHA_DELTA.

    Parameters
    ----------
    plan : CertificationPlan
        ``n_delta`` must be given where the plan is nested; the attack range plays no part.
    votes : VoteSource
    stage : Stage

    Returns
    -------
    Prediction
        A label that is not the smoothed classifier's with probability at most ``plan.alpha``.
    """
    noisy = plan.transformation is Transformation.L2 or plan.is_nested
    if not plan.is_nested:
        with stage("estimate"):
            classes = votes.class_counts(plan.n, pixel_noise=noisy)
        order = np.argsort(-classes, kind="stable")
        top, runner_up = int(classes[order[0]]), int(classes[order[1]]) if len(order) > 1 else 0
        counts = Counts(0, plan.n, top, 1, plan.n)
        if top == 0 or predict_p_value(top, runner_up) > plan.alpha:
            return Prediction(None, counts, "the two leading classes are too close for this many draws")
        return Prediction(int(order[0]), counts)
    if plan.n_delta is None:
        raise PlanError("predict needs n_delta", field="n_delta")
    with stage("select"):
        label = _leading_class(votes.class_counts(plan.n0, pixel_noise=True))
    if label is None:
        return Prediction(None, Counts(plan.n0, 0, 0, 0, plan.n0), "no class got a vote")
    with stage("estimate"):
        passed = _passed_draws(votes, plan.n, label, plan.n_delta, 0.5)
    counts = Counts(plan.n0, plan.n, passed, plan.n_delta, plan.n0 + plan.n * plan.n_delta)
    if binomial_lower_bound(passed, plan.n, plan.alpha) - ALPHA_DELTA > 0.5:
        return Prediction(label, counts)
    return Prediction(None, counts, "no class is shown to have more than half of the smoothed vote")


def _certify_single(plan: CertificationPlan, votes: VoteSource, stage: Stage) -> Outcome:
    """One vote a draw: BaseSPT without pixel noise, or Cohen et al.'s CERTIFY for l2."""
    noisy = plan.transformation is Transformation.L2
    with stage("select"):
        label = _leading_class(votes.class_counts(plan.n0, pixel_noise=noisy))
    if label is None:
        return Abstained(plan, "no class got a vote", Counts(plan.n0, 0, 0, 0, plan.n0))
    with stage("estimate"):
        passed = int(votes.class_counts(plan.n, pixel_noise=noisy)[label])
    counts = Counts(plan.n0, plan.n, passed, 1, plan.n0 + plan.n)
    p_lower = binomial_lower_bound(passed, plan.n, plan.alpha_shares["alpha_gamma"])
    return _conclude(plan, label, p_lower, 0.0, counts, None)


def _conclude(
    plan: CertificationPlan,
    label: int,
    p_lower: float,
    rho: float,
    counts: Counts,
    summary: ErrorBoundSummary | None,
) -> Outcome:
    radius = plan.radius(p_lower, rho)
    if radius is None:
        reason = f"class {label} is not shown to have more than half of the smoothed vote with the margin needed"
        return Abstained(plan, reason, counts, p_lower, summary)
    if plan.transformation is not Transformation.L2:
        radius = min(radius, plan.wanted_radius)
    return Certified(plan, label, radius, p_lower, counts, summary)


def _error_bound(
    plan: CertificationPlan, votes: VoteSource, bounds: ErrorBoundSource | None
) -> ErrorBoundSummary:
    """E and rho_E: stored ones, or from this image: pilot draws choose E, fresh draws bound rho_E (Eq. 9)."""
    if plan.guarantee is Guarantee.DISTRIBUTIONAL and plan.calibration is not None:
        c = plan.calibration
        return ErrorBoundSummary(c.error_bound, c.rho_E, c.q_E, c.confidence)
    if bounds is None:
        raise CertificationError("the individual guarantee needs error bounds of the image")
    values = bounds.error_bounds(votes.draw_parameters(plan.n_pilot + plan.n_error))
    pilot, fresh = values[: plan.n_pilot], values[plan.n_pilot :]
    alpha_E = plan.alpha_shares["alpha_E"]
    chosen = choose_error_bound(pilot, plan.n_error, alpha_E, plan.rho_budget())
    return ErrorBoundSummary(
        error_bound=chosen,
        rho_E=rho_upper(fresh, chosen, alpha_E),
        draws=len(values),
        smallest=float(np.min(values)),
        median=float(np.median(values)),
        largest=float(np.max(values)),
    )


def _leading_class(counts: NDArray[np.int64]) -> int | None:
    return int(np.argmax(counts)) if counts.max() > 0 else None


def _passed_draws(votes: VoteSource, n: int, label: int, n_delta: int, tau: float) -> int:
    """How many of n fresh draws pass the inner test of ``H_c >= tau`` at level ALPHA_DELTA (B.2)."""
    threshold = smallest_passing_count(n_delta, tau, ALPHA_DELTA)
    if threshold is None:
        return 0
    counts = votes.votes_at(votes.draw_parameters(n), label=label, n_delta=n_delta)
    return int(np.count_nonzero(counts >= threshold))


__all__ = ["Prediction", "certify", "no_stage", "predict"]
