"""PREDICT and CERTIFY for every guarantee: bound the error, choose a class, test it on fresh draws.

Cohen et al. 2019 (section 3.2) for l2; Fischer et al. 2020 for BaseSPT (heuristic), DistSPT
(distributional) and IndivSPT (individual), with the corrections of docs/guarantees.md B.1 and B.2; sequentially
by B.3 to B.5 (``adaptive``, ``schedule``), or with the papers' fixed numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .adaptive import Shown, joint_is_safe, run_nested, run_single
from .binomial import binomial_lower_bound, predict_p_value, smallest_passing_count
from .calibration import checked_bounds, choose_error_bound, rho_upper
from .effort import Effort
from .outcome import Abstained, Certified, Counts, ErrorBoundSummary, Outcome, Prediction
from .plan import CertificationPlan
from .protocols import ErrorBoundSource, SoFar, Stage, VoteSource, Watch
from .radius import inner_threshold
from .schedule import NestedTest
from .thresholds import CommonBound, ErrorBound, OwnBounds
from .vocabulary import (
    CertificationError,
    Estimator,
    Guarantee,
    OutOfTime,
    PlanError,
    StatisticsError,
    StoppedBy,
    Transformation,
)

NO_VOTE = "no class got a vote"
TOO_LATE = "the time was up before there was anything to show"


def no_stage(name: str) -> AbstractContextManager[None]:
    """A stage clock that measures nothing."""
    return nullcontext()


def unwatched(so_far: SoFar) -> None:
    """Nobody watches the run."""


def certify(
    plan: CertificationPlan,
    votes: VoteSource,
    bounds: ErrorBoundSource | None = None,
    stage: Stage = no_stage,
    watch: Watch = unwatched,
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
    watch : Watch
        Given what a sequential run has shown so far.

    Where a source or a stage raises :class:`OutOfTime`, the outcome is what was shown until then, and as valid: a
    sequential run may stop at any time. The papers' procedure then has nothing to show.

    Returns
    -------
    Outcome
        With probability at least ``1 - plan.alpha`` over the draws its statement is true.

    Raises
    ------
    CertificationError
        If the bounds are missing, or a source returns impossible numbers.
    """
    try:
        return _certify(plan, votes, bounds, stage, watch)
    except OutOfTime:
        return too_late_to_certify(plan, votes.votes)


def _certify(
    plan: CertificationPlan, votes: VoteSource, bounds: ErrorBoundSource | None, stage: Stage, watch: Watch
) -> Outcome:
    error: ErrorBound | None = None
    try:
        if plan.has_both_noises:
            with stage("bound"):
                error = _error_bound(plan, votes, bounds, stage)
            _check_affordable(plan, error)
    except PlanError as refusal:
        # the bound of this very image came out too large; no vote was cast yet
        summary = error.summary if error else None
        return Abstained(plan, str(refusal), Counts(0, 0, 0, 0, 0), None, summary, required=refusal.required)
    with stage("select"):
        classes = _class_counts(plan, votes, plan.n0)
    label = _leading_class(classes)
    if label is None:
        nothing = Counts(plan.n0, 0, 0, 0, plan.n0)
        return Abstained(plan, NO_VOTE, nothing, None, error.summary if error else None)

    def seen(estimator: Estimator | None, p_lower: Callable[[], float]) -> None:
        def so_far() -> tuple[float, float | None]:
            reached = p_lower()
            return reached, _radius(plan, reached, estimator, error)

        watch(so_far)

    with stage("estimate"):
        shown, estimator = _estimate(plan, votes, label, int(classes[label]), error, seen)
    counts, summary = _counts(plan, shown), error.summary if error else None
    radius = _radius(plan, shown.p_lower, estimator, error)
    if radius is None:
        reason = _too_few(shown, label)
        return Abstained(plan, reason, counts, shown.p_lower, summary, estimator, shown.stopped_by)
    return Certified(plan, label, radius, shown.p_lower, counts, summary, estimator, shown.stopped_by)


def predict(plan: Effort, votes: VoteSource, stage: Stage = no_stage) -> Prediction:
    """The smoothed classifier's label, or an abstention.

    Without inner tests this is Cohen et al.'s PREDICT: the two leading classes of ``n`` votes are compared
    by a two-sided binomial test at ``alpha``. With both kinds of noise, ``n0`` votes choose a class, and fresh draws
    test ``g_c > 1/2``, each draw by a test of ``H_c > 1/2`` at level alpha_delta, or ``G_c > 1/2``.

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
    try:
        return _predict(plan, votes, stage)
    except OutOfTime:
        return too_late_to_predict(votes.votes)


def too_late_to_certify(plan: CertificationPlan, votes: int = 0) -> Abstained:
    """The outcome of a run that had nothing to show when its time was up, though it had cast ``votes``."""
    return Abstained(plan, TOO_LATE, Counts(0, 0, 0, 0, votes), stopped_by=StoppedBy.DEADLINE)


def too_late_to_predict(votes: int = 0) -> Prediction:
    """The same of a prediction."""
    return Prediction(None, Counts(0, 0, 0, 0, votes), TOO_LATE, stopped_by=StoppedBy.DEADLINE)


def _predict(plan: Effort, votes: VoteSource, stage: Stage) -> Prediction:
    if not plan.has_both_noises:
        with stage("estimate"):
            classes = _class_counts(plan, votes, plan.paper_draws)
        order = np.argsort(-classes, kind="stable")
        top, runner_up = int(classes[order[0]]), int(classes[order[1:2]].sum())
        counts = Counts(0, plan.paper_draws, top, 1, plan.paper_draws)
        if top == 0:
            return Prediction(None, counts, NO_VOTE)
        if predict_p_value(top, runner_up) <= plan.alpha:
            return Prediction(int(order[0]), counts)
        return Prediction(None, counts, f"{top} votes against {runner_up} are too close")
    with stage("select"):
        classes = _class_counts(plan, votes, plan.n0)
    label = _leading_class(classes)
    if label is None:
        return Prediction(None, Counts(plan.n0, 0, 0, 0, plan.n0), NO_VOTE)
    with stage("estimate"):
        no_error = CommonBound(ErrorBoundSummary(0.0, 0.0), plan.sigma_delta)
        shown, estimator = _estimate(plan, votes, label, int(classes[label]), no_error)
    level = plan.alpha_delta if estimator is Estimator.NESTED else 0.0
    if shown.p_lower - level > 0.5:
        return Prediction(label, _counts(plan, shown), None, estimator, shown.stopped_by)
    return Prediction(None, _counts(plan, shown), _too_few(shown, label), estimator, shown.stopped_by)


def _error_bound(
    plan: CertificationPlan, votes: VoteSource, bounds: ErrorBoundSource | None, stage: Stage
) -> ErrorBound:
    """E and rho_E, stored or found; of a sequential nested run with bilinear interpolation one bound a draw (B.3)."""
    if plan.guarantee is Guarantee.DISTRIBUTIONAL and plan.calibration is not None:
        stored = plan.calibration
        E = stored.error_bound
        if stored.sampled_attacks and bounds is not None:
            E = stored.bound_for(bounds.sampled_error(stored.attack_range, stored.sampled_attacks))
        summary = ErrorBoundSummary(E, stored.rho_E, stored.q_E, stored.confidence)
    elif bounds is None:
        raise CertificationError("the individual guarantee needs error bounds of the image")
    elif plan.bound_for_all:
        (error,) = checked_bounds(np.array([bounds.bound_for_all()]))
        summary = ErrorBoundSummary(float(error), 0.0)
    elif plan.estimates_rho:
        summary = _estimated_bound(plan, votes, bounds)
    else:
        return OwnBounds(bounds, plan.image_is, plan.sigma_delta, stage)
    return CommonBound(summary, plan.sigma_delta)


def _estimated_bound(plan: CertificationPlan, votes: VoteSource, bounds: ErrorBoundSource) -> ErrorBoundSummary:
    """Pilot draws choose E, fresh ones bound rho_E (Eq. 9)."""
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


def _check_affordable(plan: CertificationPlan, error: ErrorBound) -> None:
    """A PlanError where no number of passed draws would certify anything, or too many votes are needed."""
    if plan.is_sequential:
        plan.possible(error.error_bound, error.rho_E)
        return
    plan.votes_per_draw(error.error_bound)
    all_pass = binomial_lower_bound(plan.paper_draws, plan.paper_draws, plan.alpha_shares["alpha_gamma"])
    if plan.radius(all_pass, error.rho_E) is None:
        raise PlanError(
            f"the error may exceed E = {error.error_bound:.4g} with probability rho_E = "
            f"{error.rho_E:.3g}, which leaves no radius",
            field="n_error",
        )


def _radius(
    plan: CertificationPlan, p_lower: float, estimator: Estimator | None, error: ErrorBound | None
) -> float | None:
    """What a lower bound shows, cut at the attack range."""
    E, rho_E = (error.error_bound, error.rho_E) if error else (0.0, 0.0)
    radius = plan.radius(p_lower, rho_E, estimator or Estimator.JOINT, E)
    if radius is None or plan.transformation is Transformation.L2:
        return radius
    return min(radius, plan.full_radius)


def _estimate(
    plan: Effort,
    votes: VoteSource,
    label: int,
    leading: int,
    error: ErrorBound | None,
    seen: Callable[[Estimator | None, Callable[[], float]], None] = lambda estimator, p_lower: None,
) -> tuple[Shown, Estimator | None]:
    """Fresh draws for or against the class that ``leading`` of the selection votes chose, and which estimator.

    ``seen`` is given the estimator, and what computes the lower bound shown so far.
    """
    E, rho_E = (error.error_bound, error.rho_E) if error else (0.0, 0.0)
    alpha = plan.alpha_shares["alpha_gamma"]
    if not plan.is_sequential:
        return _fixed(plan, votes, label, E, alpha), Estimator.NESTED if plan.is_nested else None
    possible = plan.possible(E, rho_E)
    estimator = next(iter(possible))
    if len(possible) > 1:
        safe = joint_is_safe(
            leading, plan.n0, plan.goal(Estimator.JOINT, E, rho_E).wanted, alpha, possible[Estimator.NESTED]
        )
        estimator = Estimator.JOINT if safe else Estimator.NESTED
    goal, draws, budget = plan.goal(estimator, E, rho_E), plan.draws(estimator), plan.max_votes - plan.n0
    if estimator is Estimator.JOINT or error is None:
        named = estimator if error else None
        watch = partial(seen, named)
        return run_single(lambda m: _votes_for(plan, votes, label, m), goal, alpha, min(draws, budget), watch), named
    test = NestedTest(goal, alpha=alpha, alpha_delta=plan.alpha_delta, draws=draws, budget=budget, n_delta=plan.n_delta)
    return run_nested(votes, label, error.thresholds, test, partial(seen, estimator)), estimator


def _fixed(plan: Effort, votes: VoteSource, label: int, error_bound: float, alpha: float) -> Shown:
    """The papers' way: numbers of draws and votes that are fixed beforehand."""
    n = plan.paper_draws
    if not plan.is_nested:
        passed, n_delta = int(_class_counts(plan, votes, n)[label]), 1
    else:
        n_delta = plan.votes_per_draw(error_bound)
        tau = inner_threshold(error_bound, plan.sigma_delta)
        threshold = smallest_passing_count(n_delta, tau, plan.alpha_delta)
        passed = 0 if threshold is None else _passed(votes, label, n, n_delta, threshold)
    return Shown(n, passed, binomial_lower_bound(passed, n, alpha), n_delta, n * n_delta, None)


def _passed(votes: VoteSource, label: int, n: int, n_delta: int, threshold: int) -> int:
    """How many of n fresh draws get at least ``threshold`` votes of n_delta (B.2)."""
    first = votes.drawn
    votes.draw_parameters(n)
    asked = np.full(n, n_delta, dtype=np.int64)
    counts = np.asarray(votes.votes_at(first + np.arange(n), asked, label=label))
    whole = counts.shape == (n,) and counts.dtype.kind in "iu"
    if not (whole and counts.min() >= 0 and counts.max() <= n_delta):
        raise StatisticsError(f"votes at {n} parameters, {n_delta} each, cannot be {counts}")
    return int(np.count_nonzero(counts >= threshold))


def _counts(plan: Effort, shown: Shown) -> Counts:
    return Counts(plan.n0, shown.n, shown.passed, shown.n_delta, plan.n0 + shown.votes)


def _class_counts(plan: Effort, votes: VoteSource, n: int) -> NDArray[np.int64]:
    """Votes by class of n draws, checked: fewer than n where a vote was no class, never more."""
    counts = np.asarray(votes.class_counts(n, pixel_noise=plan.pixel_noise))
    whole = counts.ndim == 1 and counts.size > 0 and counts.dtype.kind in "iu"
    if not (whole and counts.min() >= 0 and counts.sum() <= n):
        raise StatisticsError(f"class counts of {n} draws cannot be {counts}")
    return counts.astype(np.int64)


def _votes_for(plan: Effort, votes: VoteSource, label: int, n: int) -> tuple[int, int]:
    """Votes for the class among those of n draws that could be cast, and their number."""
    try:
        return int(_class_counts(plan, votes, n)[label]), n
    except OutOfTime as late:
        if late.cast is None or late.found is None:
            return 0, 0
        return int(late.found[label]), int(late.cast[0])


def _leading_class(counts: NDArray[np.int64]) -> int | None:
    return int(np.argmax(counts)) if counts.max() > 0 else None


def _too_few(shown: Shown, label: int) -> str:
    when = " by the deadline" if shown.stopped_by is StoppedBy.DEADLINE else ""
    return f"{shown.passed} of {shown.n} draws for class {label} do not show{when} that it wins by the margin needed"


__all__ = ["Prediction", "certify", "no_stage", "predict", "too_late_to_certify", "too_late_to_predict"]
