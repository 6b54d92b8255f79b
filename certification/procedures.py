"""PREDICT and CERTIFY for every guarantee, as the papers' pseudo-code reads.

Cohen et al. 2019 (section 3.2) for l2; Fischer et al. 2020 for BaseSPT (heuristic), DistSPT
(distributional) and IndivSPT (individual), with the corrections of docs/guarantees.md B.1 and B.2.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
from numpy.typing import NDArray

from .binomial import binomial_lower_bound, predict_p_value, smallest_passing_count
from .calibration import checked_bounds, choose_error_bound, rho_upper
from .effort import Effort
from .outcome import Abstained, Certified, Counts, ErrorBoundSummary, Outcome, Prediction
from .plan import CertificationPlan
from .protocols import ErrorBoundSource, Stage, VoteSource
from .radius import inner_threshold
from .vocabulary import CertificationError, Guarantee, PlanError, StatisticsError, Transformation

NO_VOTE = "no class got a vote"


def no_stage(name: str) -> AbstractContextManager[None]:
    """A stage clock that measures nothing."""
    return nullcontext()


def certify(
    plan: CertificationPlan,
    votes: VoteSource,
    bounds: ErrorBoundSource | None = None,
    stage: Stage = no_stage,
) -> Outcome:
    """Certify the smoothed classifier's answer for one image.

    Parameters
    ----------
    plan : CertificationPlan
    votes : VoteSource
        Draws and votes for the image, with the plan's noise.
    bounds : ErrorBoundSource, optional
        The image's error bounds over the plan's attack range; needed by the individual guarantee.
    stage : Stage
        Opened around "bound", "select" and "estimate".

    Returns
    -------
    Outcome
        With probability at least ``1 - plan.alpha`` over the draws its statement is true.

    Raises
    ------
    CertificationError
        If the bounds are missing, or a source returns impossible numbers.
    """
    summary, n_delta, tau = None, 1, None
    if plan.is_nested:
        with stage("bound"):
            summary = _error_bound(plan, votes, bounds)
        try:
            n_delta = _affordable_votes(plan, summary)
        except PlanError as refusal:
            # the bound of this very image came out too large; no vote was cast yet
            nothing = Counts(0, 0, 0, 0, 0)
            return Abstained(plan, str(refusal), nothing, error_bound=summary, required=refusal.required)
        tau = inner_threshold(summary.error_bound, plan.sigma_delta)
    with stage("select"):
        label = _leading_class(_class_counts(plan, votes, plan.n0))
    if label is None:
        return Abstained(plan, NO_VOTE, Counts(plan.n0, 0, 0, 0, plan.n0), error_bound=summary)
    with stage("estimate"):
        passed = _passed(plan, votes, label, n_delta=n_delta, tau=tau)
    counts = Counts(plan.n0, plan.n, passed, n_delta, plan.n0 + plan.n * n_delta)
    p_lower = binomial_lower_bound(passed, plan.n, plan.alpha_shares["alpha_gamma"])
    radius = plan.radius(p_lower, summary.rho_E if summary else 0.0)
    if radius is None:
        return Abstained(plan, _too_few(passed, plan.n, label), counts, p_lower, summary)
    if plan.transformation is not Transformation.L2:
        radius = min(radius, plan.wanted_radius)
    return Certified(plan, label, radius, p_lower, counts, summary)


def predict(plan: Effort, votes: VoteSource, stage: Stage = no_stage) -> Prediction:
    """The smoothed classifier's label, or an abstention.

    Without inner tests this is Cohen et al.'s PREDICT: the two leading classes of ``n`` votes are compared
    by a two-sided binomial test at ``alpha``. With inner tests, ``n0`` votes choose a class, and fresh draws
    test ``g_c > 1/2``, each draw by a test of ``H_c > 1/2`` at level alpha_delta.

    Parameters
    ----------
    plan : PredictPlan or CertificationPlan
        Of the latter the attack range, the image's role and the calibration play no part.
    votes : VoteSource
        Draws and votes for the image, with the plan's noise.
    stage : Stage
        Opened around "select" and "estimate".

    Returns
    -------
    Prediction
        A label that is not the smoothed classifier's with probability at most ``plan.alpha``.

    Raises
    ------
    CertificationError
        If the source returns impossible numbers.
    """
    if not plan.is_nested:
        with stage("estimate"):
            classes = _class_counts(plan, votes, plan.n)
        order = np.argsort(-classes, kind="stable")
        top, runner_up = int(classes[order[0]]), int(classes[order[1:2]].sum())
        counts = Counts(0, plan.n, top, 1, plan.n)
        if top == 0:
            return Prediction(None, counts, NO_VOTE)
        if predict_p_value(top, runner_up) <= plan.alpha:
            return Prediction(int(order[0]), counts)
        return Prediction(None, counts, f"{top} votes against {runner_up} are too close")
    n_delta = plan.votes_per_draw(0.0)
    with stage("select"):
        label = _leading_class(_class_counts(plan, votes, plan.n0))
    if label is None:
        return Prediction(None, Counts(plan.n0, 0, 0, 0, plan.n0), NO_VOTE)
    with stage("estimate"):
        tau = inner_threshold(0.0, plan.sigma_delta)
        passed = _passed(plan, votes, label, n_delta=n_delta, tau=tau)
    counts = Counts(plan.n0, plan.n, passed, n_delta, plan.n0 + plan.n * n_delta)
    if binomial_lower_bound(passed, plan.n, plan.alpha) - plan.alpha_delta > 0.5:
        return Prediction(label, counts)
    return Prediction(None, counts, _too_few(passed, plan.n, label))


def _error_bound(plan: CertificationPlan, votes: VoteSource, bounds: ErrorBoundSource | None) -> ErrorBoundSummary:
    """E and rho_E: stored; or one bound for all draws; or pilot draws choose E and fresh ones bound rho_E (Eq. 9)."""
    if plan.guarantee is Guarantee.DISTRIBUTIONAL and plan.calibration is not None:
        stored = plan.calibration
        return ErrorBoundSummary(stored.error_bound, stored.rho_E, stored.q_E, stored.confidence)
    if bounds is None:
        raise CertificationError("the individual guarantee needs error bounds of the image")
    if plan.bound_for_all:
        (error,) = checked_bounds(np.array([bounds.bound_for_all()]))
        return ErrorBoundSummary(float(error), 0.0)
    draws = plan.n_pilot + plan.n_error
    values = checked_bounds(bounds.error_bounds(votes.draw_parameters(draws)))
    if len(values) != draws:
        raise StatisticsError(f"{len(values)} error bounds at {draws} parameters")
    pilot, fresh = values[: plan.n_pilot], values[plan.n_pilot :]
    alpha_E = plan.alpha_shares["alpha_E"]
    chosen = choose_error_bound(pilot, plan.n_error, alpha_E, plan.sigma_delta, plan.largest_error_bound())
    return ErrorBoundSummary(
        error_bound=chosen,
        rho_E=rho_upper(fresh, chosen, alpha_E),
        draws=draws,
        smallest=float(np.min(values)),
        median=float(np.median(values)),
        largest=float(np.max(values)),
    )


def _affordable_votes(plan: CertificationPlan, summary: ErrorBoundSummary) -> int:
    """n_delta, or a PlanError where no number of passed draws would certify anything."""
    n_delta = plan.votes_per_draw(summary.error_bound)
    all_pass = binomial_lower_bound(plan.n, plan.n, plan.alpha_shares["alpha_gamma"])
    if plan.radius(all_pass, summary.rho_E) is None:
        raise PlanError(
            f"the error may exceed E = {summary.error_bound:.4g} with probability rho_E = "
            f"{summary.rho_E:.3g}, which leaves no radius",
            field="n_error",
        )
    return n_delta


def _class_counts(plan: Effort, votes: VoteSource, n: int) -> NDArray[np.int64]:
    """Votes by class of n draws, checked: fewer than n where a vote was no class, never more."""
    counts = np.asarray(votes.class_counts(n, pixel_noise=plan.pixel_noise))
    whole = counts.ndim == 1 and counts.size > 0 and counts.dtype.kind in "iu"
    if not (whole and counts.min() >= 0 and counts.sum() <= n):
        raise StatisticsError(f"class counts of {n} draws cannot be {counts}")
    return counts.astype(np.int64)


def _leading_class(counts: NDArray[np.int64]) -> int | None:
    return int(np.argmax(counts)) if counts.max() > 0 else None


def _passed(plan: Effort, votes: VoteSource, label: int, *, n_delta: int, tau: float | None) -> int:
    """How many of n fresh draws vote for the label, or pass the inner test of ``H_c >= tau`` (B.2)."""
    if tau is None:
        return int(_class_counts(plan, votes, plan.n)[label])
    threshold = smallest_passing_count(n_delta, tau, plan.alpha_delta)
    if threshold is None:
        return 0
    counts = np.asarray(votes.votes_at(votes.draw_parameters(plan.n), label=label, n_delta=n_delta))
    whole = counts.shape == (plan.n,) and counts.dtype.kind in "iu"
    if not (whole and counts.min() >= 0 and counts.max() <= n_delta):
        raise StatisticsError(f"votes at {plan.n} parameters, {n_delta} each, cannot be {counts}")
    return int(np.count_nonzero(counts >= threshold))


def _too_few(passed: int, n: int, label: int) -> str:
    return f"{passed} of {n} draws for class {label} do not show that it wins by the margin needed"


__all__ = ["Prediction", "certify", "no_stage", "predict"]
