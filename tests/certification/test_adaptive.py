"""Sequential runs of certify and predict: what they draw, when they stop, and what they say they are about."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from certification.adaptive import joint_is_safe, run_single
from certification.effort import Goal
from certification.outcome import Abstained, Certified, Counts
from certification.plan import CertificationPlan
from certification.procedures import certify, predict
from certification.radius import required_p_lower
from certification.sequential import smallest_accepting_n
from certification.vocabulary import (
    Estimator,
    Guarantee,
    ImageIs,
    OutOfTime,
    PlanError,
    Procedure,
    StatisticsError,
    StoppedBy,
)
from tests.certification.sources import World, constant, l2_plan, predict_plan, rotation_plan, translation_plan

SEQUENTIAL = {"procedure": Procedure.SEQUENTIAL, "n": None}
HEURISTIC = rotation_plan(Guarantee.HEURISTIC, 30.0, **SEQUENTIAL)
DISTRIBUTIONAL = rotation_plan(Guarantee.DISTRIBUTIONAL, 30.0, **SEQUENTIAL)
ONE_BOUND = rotation_plan(bound_for_all=True, **SEQUENTIAL)
OWN_BOUNDS = rotation_plan(**SEQUENTIAL)
L2 = l2_plan(**SEQUENTIAL)
EVERY = [
    HEURISTIC,
    DISTRIBUTIONAL,
    replace(DISTRIBUTIONAL, estimator=Estimator.JOINT),
    replace(DISTRIBUTIONAL, image_is=ImageIs.REFERENCE),
    ONE_BOUND,
    replace(ONE_BOUND, estimator=Estimator.NESTED),
    replace(ONE_BOUND, estimator=Estimator.JOINT, image_is=ImageIs.REFERENCE),
    OWN_BOUNDS,
    replace(OWN_BOUNDS, image_is=ImageIs.REFERENCE),
    replace(OWN_BOUNDS, estimator=Estimator.JOINT),
    translation_plan(**SEQUENTIAL),
    translation_plan(bound_for_all=True, **SEQUENTIAL),
    L2,
]


def world_of(plan: CertificationPlan, share: float = 1.0, bound: float = 0.1, seed: int = 0) -> World:
    dimensions = plan.transformation.dimensions or 1
    return World(constant(share), plan.sigma_gamma, dimensions, seed=seed, bound=constant(bound))


def certified(plan: CertificationPlan, world: World) -> Certified:
    outcome = certify(plan, world, world)
    assert isinstance(outcome, Certified), outcome
    return outcome


@pytest.mark.parametrize("plan", EVERY)
def test_certainty_covers_the_attack_range_at_a_fraction_of_the_papers_votes(plan: CertificationPlan) -> None:
    outcome = certified(plan, world_of(plan))
    assert (outcome.label, outcome.stopped_by, outcome.covers_attack_range) == (1, StoppedBy.CERTIFIED, True)
    if not plan.transformation.dimensions:
        assert outcome.radius >= plan.full_radius
    else:
        assert outcome.radius == plan.full_radius
    assert outcome.counts.votes < 6000


@pytest.mark.parametrize("plan", EVERY)
def test_even_votes_abstain(plan: CertificationPlan) -> None:
    outcome = certify(plan, world_of(plan, 0.5), world_of(plan, 0.5))
    assert isinstance(outcome, Abstained)
    assert outcome.stopped_by in (StoppedBy.HOPELESS, StoppedBy.DRAWS)
    assert (outcome.p_lower or 0.0) < 0.5


@pytest.mark.parametrize("plan", EVERY)
def test_the_radius_is_the_formula_of_p_lower(plan: CertificationPlan) -> None:
    """Three of four draws are good: less than the attack range is certified, or nothing."""
    edge = 0.7 * plan.sigma_gamma
    world = World(
        lambda beta: np.where(beta < edge, 1.0, 0.0), plan.sigma_gamma, plan.transformation.dimensions or 1,
        bound=constant(0.01), seed=2,
    )  # fmt: skip
    outcome = certify(plan, world, world)
    assert outcome.p_lower is not None
    bound = outcome.error_bound
    joint = outcome.estimator is Estimator.JOINT
    E, rho = (bound.error_bound, bound.rho_E) if bound and not bound.per_draw else (0.0, 0.0)
    expected = plan.radius(outcome.p_lower, rho, Estimator.JOINT if joint else Estimator.NESTED, E)
    cut = plan.full_radius if plan.transformation.dimensions else math.inf
    assert outcome.radius == (expected if expected is None else min(expected, cut))


def test_votes_say_how_many_were_cast() -> None:
    for plan in EVERY:
        world = world_of(plan, 0.97)
        outcome = certify(plan, world, world)
        cast, original = 0, world_of(plan, 0.97)
        counting = original.votes_at

        def count(draws, counts, *, label, counting=counting):  # type: ignore[no-untyped-def]
            nonlocal cast
            cast += int(counts.sum())
            return counting(draws, counts, label=label)

        original.votes_at = count  # type: ignore[method-assign]
        again = certify(plan, original, original)
        assert again.counts == outcome.counts
        single = sum(n for what, n in original.calls if "classes" in what)
        assert outcome.counts.votes == single + cast


def test_each_draw_is_tested_against_its_own_bound_in_the_papers_place_of_e_and_rho() -> None:
    """Half of the draws have a bound that no test can pass: they fail, the others do not suffer."""
    plan = rotation_plan(half_width=3.0, **SEQUENTIAL)
    world = World(constant(1.0), 30.0, bound=lambda beta: np.where(beta < 0.0, math.inf, 0.1), seed=1)
    outcome = certify(plan, world, world)
    assert outcome.error_bound is not None
    assert outcome.error_bound.per_draw
    assert outcome.error_bound.largest == math.inf
    assert outcome.error_bound.rho_E == 0.0
    assert outcome.alpha_shares == {"alpha_gamma": 0.01, "alpha_delta": 0.002}
    assert isinstance(outcome, Abstained)
    fewer = World(constant(1.0), 30.0, bound=lambda beta: np.where(beta < -45.0, math.inf, 0.1), seed=1)
    assert certified(plan, fewer).covers_attack_range


def test_bounds_are_asked_for_draws_that_are_looked_at_only() -> None:
    world = world_of(OWN_BOUNDS)
    certified(OWN_BOUNDS, world)
    asked = [n for what, n in world.calls if what == "bounds"]
    drawn = [n for what, n in world.calls if what == "parameters"]
    assert asked == drawn
    assert sum(asked) < 100


def test_a_reference_image_is_bounded_at_total_parameters() -> None:
    """B.3: there the threshold must be a function of beta + gamma."""
    plan = replace(OWN_BOUNDS, image_is=ImageIs.REFERENCE)
    world = world_of(plan)
    certified(plan, world)
    whats = {what for what, _ in world.calls}
    assert "total bounds" in whats
    assert "bounds" not in whats


def test_a_wanted_radius_is_enough_and_ends_the_run_where_it_is_out_of_reach() -> None:
    plan = replace(DISTRIBUTIONAL, estimator=Estimator.NESTED)

    def world() -> World:
        return World(lambda beta: np.where(np.abs(beta) < 40.0, 1.0, 0.0), 30.0, seed=3)

    modest = certified(replace(plan, wanted=10.0), world())
    assert modest.stopped_by is StoppedBy.CERTIFIED
    assert modest.radius >= 10.0
    assert not modest.covers_attack_range
    strict, default = certify(replace(plan, wanted=30.0), world()), certify(plan, world())
    assert strict.stopped_by is StoppedBy.HOPELESS
    assert isinstance(default, Certified)
    assert default.radius >= (strict.radius or 0.0)
    assert default.counts.votes > strict.counts.votes


@pytest.mark.parametrize("wanted", [0.0, -1.0, 30.1, math.nan, math.inf])
def test_a_wanted_radius_outside_the_attack_range_is_refused(wanted: float) -> None:
    with pytest.raises(PlanError) as caught:
        replace(DISTRIBUTIONAL, wanted=wanted)
    assert caught.value.field == "wanted_radius"


@pytest.mark.parametrize("bound", [math.inf, math.nan, 5.0])
def test_a_bound_for_all_that_is_missing_or_huge_abstains_before_any_vote(bound: float) -> None:
    outcome = certify(ONE_BOUND, world_of(ONE_BOUND, bound=bound), world_of(ONE_BOUND, bound=bound))
    assert isinstance(outcome, Abstained)
    assert outcome.counts.votes == 0


def test_too_few_draws_or_votes_are_refused_with_the_number_that_would_do() -> None:
    for plan, estimator in ((HEURISTIC, None), (DISTRIBUTIONAL, Estimator.NESTED), (DISTRIBUTIONAL, Estimator.JOINT)):
        asked = {} if estimator is None else {"estimator": estimator}
        with pytest.raises(PlanError) as caught:
            replace(plan, n=1, **asked)
        least = int(caught.value.required["n"])
        replace(plan, n=least, **asked)
        with pytest.raises(PlanError):
            replace(plan, n=least - 1, **asked)
    with pytest.raises(PlanError) as caught:
        replace(DISTRIBUTIONAL, estimator=Estimator.NESTED, n_delta=20)
    assert caught.value.required == {"n_delta": 40}
    with pytest.raises(PlanError) as caught:
        replace(DISTRIBUTIONAL, max_votes=300)
    enough = int(caught.value.required["max_votes"])
    assert replace(DISTRIBUTIONAL, max_votes=enough, estimator=Estimator.NESTED).max_votes == enough


def test_an_attack_range_beyond_the_noise_is_refused() -> None:
    with pytest.raises(PlanError) as caught:
        rotation_plan(Guarantee.HEURISTIC, 180.0, **SEQUENTIAL, sigma_gamma=10.0)
    assert caught.value.field == "attack_range"
    reachable = caught.value.required["attack_range"]
    assert rotation_plan(Guarantee.HEURISTIC, reachable, **SEQUENTIAL, sigma_gamma=10.0).full_radius == reachable


def test_the_papers_procedure_is_nested() -> None:
    with pytest.raises(PlanError) as caught:
        rotation_plan(bound_for_all=True, estimator=Estimator.JOINT)
    assert caught.value.field == "estimator"


def test_the_joint_estimator_is_chosen_where_it_is_clearly_cheaper() -> None:
    """.999 of all votes are right; then .9, where E / sigma_delta + gamma / sigma_gamma asks for more."""
    assert certified(ONE_BOUND, world_of(ONE_BOUND, 0.999)).estimator is Estimator.JOINT
    assert certify(ONE_BOUND, world_of(ONE_BOUND, 0.9, 0.3), world_of(ONE_BOUND, 0.9, 0.3)).estimator is (
        Estimator.NESTED
    )
    assert joint_is_safe(100, 100, 0.8, 0.01, 500)
    assert not joint_is_safe(100, 100, 0.98, 0.01, 500), "100 votes do not promise so much"
    assert not joint_is_safe(79, 100, 0.8, 0.01, 10**9)
    assert not joint_is_safe(100, 100, 0.96, 0.01, 20), "nested votes are cheaper"


def test_the_choice_of_estimator_uses_selection_draws_only() -> None:
    """No draw before the selection but those of the error bound, and what follows is drawn afresh."""
    world = world_of(ONE_BOUND, 0.999)
    outcome = certified(ONE_BOUND, world)
    assert world.calls == [("bound for all", 1), ("noisy classes", 100), ("noisy classes", outcome.counts.n)]


def test_the_statement_names_the_joint_classifier() -> None:
    joint = certified(replace(DISTRIBUTIONAL, estimator=Estimator.JOINT), world_of(DISTRIBUTIONAL))
    nested = certified(replace(DISTRIBUTIONAL, estimator=Estimator.NESTED), world_of(DISTRIBUTIONAL))
    assert "the joint smoothed classifier" in joint.statement
    assert "joint" not in nested.statement
    assert "alpha_delta" not in joint.alpha_shares


@pytest.mark.parametrize("estimator", list(Estimator))
def test_predictions_stop_once_the_class_is_shown(estimator: Estimator) -> None:
    plan = predict_plan(estimator=estimator, **SEQUENTIAL)
    prediction = predict(plan, World(constant(0.97), 30.0))
    assert (prediction.label, prediction.stopped_by) == (1, StoppedBy.CERTIFIED)
    assert prediction.counts.votes < 1000
    assert estimator in (Estimator.AUTO, prediction.estimator)
    assert predict(plan, World(constant(0.5), 30.0)).label is None


def test_a_single_vote_run_needs_the_least_number_where_all_agree() -> None:
    goal = Goal(0.999, 0.5, settles_for_less=True)
    shown = run_single(lambda m: (m, m), goal, 0.01, 100_000)
    assert shown.stopped_by is StoppedBy.CERTIFIED
    assert shown.n == shown.passed == smallest_accepting_n(0.999, 0.01)


@pytest.mark.parametrize("found", [-1, 257, 10**6])
def test_impossible_counts_are_errors(found: int) -> None:
    with pytest.raises(StatisticsError):
        run_single(lambda m: (found, m), Goal(0.6, 0.5, settles_for_less=False), 0.01, 1000)


def test_goals_are_the_least_probabilities_that_reach_the_radius() -> None:
    goal = DISTRIBUTIONAL.goal(Estimator.JOINT, 0.3, 0.01)
    assert DISTRIBUTIONAL.radius(goal.wanted, 0.01, Estimator.JOINT, 0.3) >= 30.0  # type: ignore[operator]
    below = goal.wanted * (1.0 - 1e-12)
    assert DISTRIBUTIONAL.radius(below, 0.01, Estimator.JOINT, 0.3) < 30.0  # type: ignore[operator]
    floor = required_p_lower(lambda p: DISTRIBUTIONAL.radius(p, 0.01, Estimator.JOINT, 0.3), 3e-5)
    assert goal.floor == floor


class Timed(World):
    """Casts ``left`` votes after the selection, whatever is asked, and then its time is up."""

    left = 0
    selected = False

    def class_counts(self, n: int, *, pixel_noise: bool) -> NDArray[np.int64]:
        if not self.selected:
            self.selected = True
            return super().class_counts(n, pixel_noise=pixel_noise)
        made = min(n, self.left)
        self.left -= made
        found = super().class_counts(made, pixel_noise=pixel_noise)
        if made < n:
            raise OutOfTime(np.array([made]), found)
        return found

    def votes_at(self, draws: NDArray[np.int64], counts: NDArray[np.int64], *, label: int) -> NDArray[np.int64]:
        ends = np.cumsum(counts)
        made = np.clip(self.left - (ends - counts), 0, counts)
        self.left -= int(made.sum())
        found = super().votes_at(draws, made, label=label)
        if made.sum() < counts.sum():
            raise OutOfTime(made, found)
        return found


def timed(plan: CertificationPlan, left: int, share: float = 1.0) -> Timed:
    world = Timed(constant(share), plan.sigma_gamma, plan.transformation.dimensions or 1, bound=constant(0.1))
    world.left = left
    return world


@pytest.mark.parametrize("plan", EVERY)
def test_what_was_shown_when_the_time_is_up_is_the_answer(plan: CertificationPlan) -> None:
    """Radii grow with the votes there was time for, and never exceed that of the whole run."""
    whole = certified(plan, world_of(plan))
    votes = whole.counts.votes - plan.n0
    radii = []
    for left in np.linspace(0, votes, 20).astype(int).tolist():
        world = timed(plan, left)
        outcome = certify(plan, world, world)
        assert outcome.counts.votes == plan.n0 + left
        # a round is filled up, so that the votes there was time for may have been enough
        radii.append(outcome.radius or 0.0)
        assert outcome.stopped_by is (StoppedBy.CERTIFIED if radii[-1] >= plan.wanted_radius else StoppedBy.DEADLINE)
    assert radii == sorted(radii)
    assert (radii[0], radii[-1]) == (0.0, whole.radius)
    assert any(0.0 < radius < whole.radius for radius in radii)


@pytest.mark.parametrize("plan", EVERY)
def test_a_run_whose_time_is_up_before_any_vote_abstains(plan: CertificationPlan) -> None:
    def late(name: str) -> AbstractContextManager[None]:
        raise OutOfTime

    world = world_of(plan)
    for outcome in (certify(plan, world, world, late), predict(plan, world, late)):
        assert (outcome.label, outcome.stopped_by) == (None, StoppedBy.DEADLINE)
        assert outcome.counts.votes == 0
        assert "time was up" in str(outcome.reason)
    assert world.calls == []


def test_the_papers_procedure_has_no_partial_result() -> None:
    plan = replace(DISTRIBUTIONAL, procedure=Procedure.PAPER)
    world = timed(plan, 1000)
    outcome = certify(plan, world, world)
    assert isinstance(outcome, Abstained)
    assert outcome.stopped_by is StoppedBy.DEADLINE
    assert outcome.counts == Counts(0, 0, 0, 0, plan.n0 + 1000), "they were cast all the same"


@pytest.mark.parametrize("plan", [HEURISTIC, ONE_BOUND])
def test_deadlines_do_not_make_certificates_wrong_more_often(plan: CertificationPlan) -> None:
    """Draws vote, or pass, with a probability just too small for any radius; deadlines everywhere.

    300 runs that are wrong with probability .05 are wrong more than 36 times with probability below 1e-6.
    """
    plan = replace(plan, n=200, alpha=0.05, estimator=Estimator.AUTO if plan is HEURISTIC else Estimator.NESTED)
    wrong = 0
    for seed in range(300):
        half = World(lambda beta: np.where(beta < 0.0, 1.0, 0.0), plan.sigma_gamma)
        world = Timed(half.share, plan.sigma_gamma, seed=seed, bound=constant(0.1))
        world.left = int(np.random.default_rng(seed).integers(1, 3000))
        outcome = certify(plan, world, world)
        wrong += outcome.radius is not None
    assert wrong <= 36
