"""certify and predict: what they draw, what they conclude, and when they abstain."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from math import comb

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from certification.binomial import binomial_lower_bound, smallest_passing_count
from certification.outcome import Abstained, Certified, ErrorBoundSummary
from certification.plan import CertificationPlan
from certification.procedures import certify, predict
from certification.radius import inner_threshold
from certification.vocabulary import CertificationError, Guarantee, ImageIs, StatisticsError
from tests.certification.sources import (
    CALIBRATION,
    World,
    constant,
    l2_plan,
    predict_plan,
    rotation_plan,
    translation_plan,
)

HEURISTIC = rotation_plan(Guarantee.HEURISTIC, 30.0)
DISTRIBUTIONAL = rotation_plan(Guarantee.DISTRIBUTIONAL, 30.0)
INDIVIDUAL = rotation_plan(Guarantee.INDIVIDUAL, 10.0)
L2 = l2_plan()
EVERY = [HEURISTIC, DISTRIBUTIONAL, INDIVIDUAL, translation_plan(), L2]


class Fixed(World):
    """Returns given counts whatever is drawn."""

    counts: NDArray[np.generic] = np.array([0, 100, 0])
    inner: NDArray[np.generic] | None = None
    bounds: NDArray[np.float64] | None = None

    def class_counts(self, n: int, *, pixel_noise: bool) -> NDArray[np.int64]:
        super().class_counts(n, pixel_noise=pixel_noise)
        return self.counts  # type: ignore[return-value]

    def votes_at(self, draws: NDArray[np.int64], counts: NDArray[np.int64], *, label: int) -> NDArray[np.int64]:
        certain = super().votes_at(draws, counts, label=label)
        return certain if self.inner is None else self.inner  # type: ignore[return-value]

    def error_bounds(self, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        return super().error_bounds(parameters) if self.bounds is None else self.bounds


def certain(plan: CertificationPlan = INDIVIDUAL, bound: float = 0.1) -> World:
    """A world in which every vote is for class 1."""
    return World(constant(1.0), plan.sigma_gamma, plan.transformation.dimensions or 1, bound=constant(bound))


def certified(plan: CertificationPlan, world: World) -> Certified:
    outcome = certify(plan, world, world)
    assert isinstance(outcome, Certified), outcome
    return outcome


def abstained(plan: CertificationPlan, world: World) -> Abstained:
    outcome = certify(plan, world, world)
    assert isinstance(outcome, Abstained), outcome
    assert (outcome.label, outcome.radius, outcome.covers_attack_range) == (None, None, False)
    assert outcome.statement == f"No statement: {outcome.reason}."
    return outcome


@pytest.mark.parametrize("plan", EVERY)
def test_certainty_is_certified_over_the_whole_attack_range(plan: CertificationPlan) -> None:
    outcome = certified(plan, certain(plan))
    assert outcome.label == 1
    assert outcome.covers_attack_range
    assert outcome.counts.passed == outcome.counts.n == plan.n
    assert outcome.counts.votes == plan.n0 + plan.n * outcome.counts.n_delta
    assert outcome.p_lower == binomial_lower_bound(plan.n, plan.n, plan.alpha_shares["alpha_gamma"])


@pytest.mark.parametrize("plan", [HEURISTIC, DISTRIBUTIONAL, INDIVIDUAL, translation_plan()])
def test_a_radius_is_cut_at_the_attack_range(plan: CertificationPlan) -> None:
    assert certified(plan, certain(plan)).radius == plan.attack_range.largest_norm


def test_an_l2_radius_is_not_cut() -> None:
    """Oracle: .25 Phi^-1(.01^(1/200)) with mpmath, far above the attack range of .1."""
    with mpmath.workdps(30):
        exact = 0.25 * mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.root(mpmath.mpf("0.01"), 200) - 1)
    radius = certified(L2, certain(L2)).radius
    assert exact - 1e-7 < radius < exact
    assert radius > 4.0 * L2.wanted_radius


def test_the_heuristic_guarantee_draws_no_pixel_noise() -> None:
    world = certain(HEURISTIC)
    certify(HEURISTIC, world)
    assert world.calls == [("classes", 100), ("classes", 200)]


def test_l2_draws_pixel_noise_only() -> None:
    world = certain(L2)
    certify(L2, world)
    assert world.calls == [("noisy classes", 100), ("noisy classes", 200)]


def test_selection_error_and_estimation_draws_are_disjoint() -> None:
    """Error bounds come first (they may refuse cheaply), and no draw is used twice."""
    world = certain()
    asked: list[NDArray[np.int64]] = []
    original = world.votes_at

    def record(draws: NDArray[np.int64], counts: NDArray[np.int64], *, label: int) -> NDArray[np.int64]:
        asked.append(draws)
        return original(draws, counts, label=label)

    world.votes_at = record  # type: ignore[method-assign]
    certify(INDIVIDUAL, world, world)
    assert world.calls == [
        ("parameters", 250), ("bounds", 250), ("noisy classes", 100), ("parameters", 200), ("votes", 200),
    ]  # fmt: skip
    assert len(asked) == 1
    assert asked[0].tolist() == list(range(350, 550))


def test_pilot_draws_choose_e_and_only_the_others_judge_it() -> None:
    """50 pilot bounds of .1 and 200 fresh ones of .2: no fresh draw is below E, so rho_E is 1."""
    world = Fixed(constant(1.0), 30.0)
    world.bounds = np.repeat([0.1, 0.2], [50, 200])
    outcome = abstained(INDIVIDUAL, world)
    assert outcome.error_bound is not None
    assert (outcome.error_bound.error_bound, outcome.error_bound.rho_E) == (0.1, 1.0)
    world.bounds = np.repeat([0.2, 0.1], [50, 200])
    summary = certified(INDIVIDUAL, world).error_bound
    assert summary is not None
    assert summary.error_bound == 0.2
    assert summary.rho_E == pytest.approx(1.0 - 0.001**0.005, abs=1e-8)
    assert (summary.draws, summary.smallest, summary.median, summary.largest) == (250, 0.1, 0.1, 0.2)


def test_one_bound_for_all_draws_costs_neither_draws_nor_alpha() -> None:
    """No draw is spent on rho_E, which is 0, and alpha is not shared."""
    plan = rotation_plan(bound_for_all=True)
    world = World(constant(1.0), 30.0, bound=constant(0.25))
    outcome = certify(plan, world, world)
    assert isinstance(outcome, Certified)
    assert outcome.error_bound == ErrorBoundSummary(0.25, 0.0)
    assert plan.alpha_shares == {"alpha_gamma": 0.01, "alpha_delta": 0.002}
    assert [call for call in world.calls if "bound" in call[0]] == [("bound for all", 1)]
    assert plan.smallest_n is not None
    assert plan.smallest_n < rotation_plan().smallest_n


@pytest.mark.parametrize("bound", [math.inf, math.nan, 5.0])
def test_a_bound_for_all_that_is_missing_or_huge_abstains_before_any_vote(bound: float) -> None:
    world = World(constant(1.0), 30.0, bound=constant(bound))
    outcome = certify(rotation_plan(bound_for_all=True), world, world)
    assert isinstance(outcome, Abstained)
    assert outcome.counts.votes == 0


def test_a_distributional_certificate_uses_the_stored_bound() -> None:
    world = certain(DISTRIBUTIONAL)
    outcome = certify(DISTRIBUTIONAL, world)
    assert outcome.error_bound is not None
    assert (outcome.error_bound.error_bound, outcome.error_bound.rho_E) == (0.3, 0.01)
    assert (outcome.error_bound.q_E, outcome.error_bound.confidence) == (0.99, 0.999)
    assert world.calls == [("noisy classes", 100), ("parameters", 200), ("votes", 200)]


@pytest.mark.parametrize(("sampled", "expected"), [(0.1, 0.15), (0.25, 0.3), (math.nan, 0.3)])
def test_a_reference_image_may_have_a_distributional_bound_of_its_own(sampled: float, expected: float) -> None:
    """1.5 times its sampled errors, over the calibrated range, if that is less than the bound of all."""
    stored = replace(CALIBRATION, image_is="reference", sampled_attacks=61, factor=1.5)
    plan = rotation_plan(Guarantee.DISTRIBUTIONAL, 20.0, image_is=ImageIs.REFERENCE, calibration=stored)
    world = World(constant(1.0), 30.0, bound=constant(sampled))
    outcome = certify(plan, world, world)
    assert world.calls[0] == ("sampled within 30", 61)
    assert outcome.error_bound is not None
    assert outcome.error_bound.error_bound == pytest.approx(expected)
    without = certify(plan, World(constant(1.0), 30.0))
    assert without.error_bound is not None
    assert without.error_bound.error_bound == 0.3


@pytest.mark.parametrize("image_is", list(ImageIs))
def test_the_certified_radius_is_the_formula_of_its_p_lower(image_is: ImageIs) -> None:
    plan = rotation_plan(Guarantee.DISTRIBUTIONAL, 20.0, image_is=image_is, n=60)
    world = World(lambda beta: np.where(np.abs(beta) < 45.0, 1.0, 0.0), 30.0, seed=3)
    outcome = certified(plan, world)
    assert 0 < outcome.counts.passed < 60
    assert outcome.radius == plan.radius(outcome.p_lower, CALIBRATION.rho_E)
    assert not outcome.covers_attack_range


def test_a_draw_passes_from_the_smallest_passing_count_on() -> None:
    plan = replace(DISTRIBUTIONAL, n_delta=100)
    threshold = smallest_passing_count(100, inner_threshold(0.3, 0.3), 0.002)
    assert threshold is not None
    world = Fixed(constant(1.0), 30.0)
    world.inner = np.repeat([threshold, threshold - 1], [190, 10])
    assert certify(plan, world).counts.passed == 190


@pytest.mark.parametrize("bound", [math.nan, math.inf, 100.0])
def test_an_error_bound_that_is_missing_or_huge_abstains_before_any_vote(bound: float) -> None:
    world = certain(bound=bound)
    outcome = abstained(INDIVIDUAL, world)
    assert outcome.counts.votes == 0
    assert [what for what, _ in world.calls] == ["parameters", "bounds"]


def test_an_unaffordable_error_bound_abstains_with_the_number_that_would_do() -> None:
    """E / sigma_delta = 2.4 needs 755 votes a draw (docs/guarantees.md B.5)."""
    plan = replace(INDIVIDUAL, n_delta=754)
    outcome = abstained(plan, certain(bound=0.72))
    assert outcome.required == {"n_delta": 755}
    assert "755" in outcome.reason
    assert certified(replace(plan, n_delta=755), certain(bound=0.72)).counts.n_delta == 755


def test_error_bounds_that_are_too_often_exceeded_abstain_before_any_vote() -> None:
    world = World(constant(1.0), 30.0, bound=lambda beta: np.where(np.abs(beta) < 15.0, 0.1, math.inf))
    outcome = abstained(INDIVIDUAL, world)
    assert outcome.counts.votes == 0
    assert outcome.error_bound is not None
    assert outcome.error_bound.rho_E > 0.5


@pytest.mark.parametrize("plan", EVERY)
def test_an_even_vote_is_not_certified(plan: CertificationPlan) -> None:
    world = World(constant(0.5), plan.sigma_gamma, plan.transformation.dimensions or 1, bound=constant(0.1))
    outcome = abstained(plan, world)
    assert outcome.p_lower is not None
    assert outcome.p_lower < 0.5


@pytest.mark.parametrize("plan", EVERY)
def test_no_vote_at_all_abstains(plan: CertificationPlan) -> None:
    """NaN logits vote for no class."""
    world = Fixed(constant(1.0), plan.sigma_gamma, plan.transformation.dimensions or 1, bound=constant(0.1))
    world.counts = np.zeros(3, dtype=np.int64)
    assert "no class" in abstained(plan, world).reason


@pytest.mark.parametrize(
    "counts",
    [
        np.array([0, 201]),
        np.array([-1, 10]),
        np.array([1.0, 99.0]),
        np.array([math.nan, 1.0]),
        np.array([[1, 2]]),
        np.array([], dtype=np.int64),
    ],
)
def test_impossible_class_counts_are_errors(counts: NDArray[np.generic]) -> None:
    world = Fixed(constant(1.0))
    world.counts = counts
    with pytest.raises(StatisticsError):
        certify(HEURISTIC, world)
    with pytest.raises(StatisticsError):
        predict(predict_plan(Guarantee.HEURISTIC), world)


@pytest.mark.parametrize(
    "votes",
    [
        np.full(199, 100),
        np.full(200, 101),
        np.full(200, -1),
        np.full(200, 100.0),
        np.full(200, math.nan),
        np.array(7),
    ],
)
def test_impossible_votes_are_errors(votes: NDArray[np.generic]) -> None:
    world = Fixed(constant(1.0), 30.0)
    world.inner = votes
    with pytest.raises(StatisticsError):
        certify(replace(DISTRIBUTIONAL, n_delta=100), world)


@pytest.mark.parametrize("bounds", [np.zeros(249), np.full(250, -0.1), np.zeros((250, 1))])
def test_impossible_error_bounds_are_errors(bounds: NDArray[np.float64]) -> None:
    world = Fixed(constant(1.0), 30.0)
    world.bounds = bounds
    with pytest.raises(StatisticsError):
        certify(INDIVIDUAL, world, world)


def test_the_individual_guarantee_needs_error_bounds() -> None:
    with pytest.raises(CertificationError, match="error bounds"):
        certify(INDIVIDUAL, certain())


@given(st.lists(st.floats(0.0, 0.5) | st.sampled_from([math.nan, math.inf]), min_size=250, max_size=250))
def test_whatever_the_bounds_a_certificate_keeps_its_budget(bounds: list[float]) -> None:
    world = Fixed(constant(1.0), 30.0)
    world.bounds = np.array(bounds)
    outcome = certify(INDIVIDUAL, world, world)
    if isinstance(outcome, Certified):
        assert outcome.error_bound is not None
        fresh = np.array(bounds[50:])
        assert np.count_nonzero(~(fresh <= outcome.error_bound.error_bound)) / 200 < outcome.error_bound.rho_E
        assert 0.0 < outcome.radius <= 10.0
        assert outcome.counts.n_delta > 0


def test_stages_are_opened_in_order() -> None:
    opened: list[str] = []

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        opened.append(name)
        yield

    certify(INDIVIDUAL, certain(), certain(), stage)
    assert opened == ["bound", "select", "estimate"]
    opened.clear()
    predict(predict_plan(), certain(), stage)
    assert opened == ["select", "estimate"]


def test_predict_by_vote_is_the_two_sided_test_of_cohen() -> None:
    """Oracle: exact tails. Of 200 votes 118 are too few at alpha = .01, and 119 are enough."""
    tails = [2 * Fraction(sum(comb(200, k) for k in range(top, 201)), 2**200) for top in (118, 119)]
    assert tails[0] > Fraction(1, 100) >= tails[1]
    world = Fixed(constant(1.0))
    plan = predict_plan(Guarantee.HEURISTIC)
    world.counts = np.array([82, 118])
    prediction = predict(plan, world)
    assert prediction.label is None
    assert prediction.reason == "118 votes against 82 are too close"
    world.counts = np.array([119, 81])
    assert predict(plan, world).label == 0
    world.counts = np.array([200])
    assert predict(plan, world).label == 0
    world.counts = np.array([0, 0])
    assert predict(plan, world).label is None


def test_predict_with_inner_tests_draws_selection_and_estimation_apart() -> None:
    world = certain()
    prediction = predict(predict_plan(), world)
    assert prediction.label == 1
    assert prediction.counts.n_delta == 100
    assert world.calls == [("noisy classes", 100), ("parameters", 200), ("votes", 200)]
    assert predict(predict_plan(), World(constant(0.5), 30.0)).label is None
    assert predict(INDIVIDUAL, certain()).label == 1


def test_predict_with_inner_tests_subtracts_their_level() -> None:
    """A lower bound above 1/2 is not enough: the passes may be wrong at level alpha_delta (B.2)."""
    plan = predict_plan(alpha_delta=0.05, n_delta=100)
    lower = {passed: binomial_lower_bound(passed, 200, 0.01) for passed in range(100, 200)}
    between = [passed for passed, bound in lower.items() if 0.5 < bound <= 0.55]
    world = Fixed(constant(1.0), 30.0)
    for passed, expected in ((between[0], None), (between[-1], None), (between[-1] + 1, 1)):
        world.inner = np.repeat([100, 0], [passed, 200 - passed])
        assert predict(plan, world).label == expected
