"""Plans that can never answer are refused with the number that would do: it is accepted, one less is not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certification.binomial import binomial_lower_bound, binomial_upper_bound, smallest_sample_size
from certification.plan import MAX_DRAWS, CertificationPlan, PredictPlan
from certification.radius import inner_threshold
from certification.vocabulary import (
    AttackRange,
    CalibrationError,
    Guarantee,
    ImageIs,
    PlanError,
    Transformation,
)
from tests.certification.sources import (
    CALIBRATION,
    l2_plan,
    predict_plan,
    rotation_plan,
    translation_plan,
)

Make = Callable[..., CertificationPlan | PredictPlan]


def heuristic(**more: object) -> CertificationPlan:
    return rotation_plan(Guarantee.HEURISTIC, 30.0, **more)


def distributional(**more: object) -> CertificationPlan:
    return rotation_plan(Guarantee.DISTRIBUTIONAL, 30.0, **more)


def individual(**more: object) -> CertificationPlan:
    return rotation_plan(Guarantee.INDIVIDUAL, 20.0, **more)


def vote_predict(**more: object) -> PredictPlan:
    return predict_plan(Guarantee.HEURISTIC, **more)


CERTIFICATES: list[Make] = [heuristic, distributional, individual, translation_plan, l2_plan]
EVERY: list[Make] = [*CERTIFICATES, predict_plan, vote_predict]


def refused(make: Make, **numbers: object) -> PlanError:
    with pytest.raises(PlanError) as caught:
        make(**numbers)
    return caught.value


@pytest.mark.parametrize("make", EVERY)
def test_the_least_n_is_named_accepted_and_least(make: Make) -> None:
    error = refused(make, n=1)
    least = int(error.required["n"])
    assert error.field == "n"
    assert str(least) in str(error)
    assert make(n=least).n == least
    assert refused(make, n=least - 1).required == {"n": least}


@pytest.mark.parametrize("make", CERTIFICATES)
def test_the_least_n_just_reaches_the_attack_range(make: Make) -> None:
    """All draws passing certifies the wanted radius with it, and not with one draw less."""
    least = int(refused(make, n=1).required["n"])
    plan = make(n=least)
    assert isinstance(plan, CertificationPlan)
    shares = plan.alpha_shares
    rho = binomial_upper_bound(0, plan.n_error, shares["alpha_E"]) if "alpha_E" in shares else 0.0
    if plan.calibration:
        rho = plan.calibration.rho_E
    radii = [plan.radius(binomial_lower_bound(n, n, shares["alpha_gamma"]), rho) for n in (least - 1, least)]
    assert (radii[0] or 0.0) < plan.wanted_radius <= (radii[1] or 0.0)


@pytest.mark.parametrize("make", [individual, predict_plan])
def test_the_least_n_delta_is_nine_without_an_error(make: Make) -> None:
    """ln(.002) / ln(1/2) = 8.97."""
    assert refused(make, n_delta=8).required == {"n_delta": 9}
    assert make(n_delta=9).votes_per_draw(0.0) == 9


def test_the_least_n_delta_belongs_to_the_stored_error_bound() -> None:
    """E / sigma_delta = 1: 36 votes (docs/guarantees.md B.5)."""
    assert distributional().calibration == CALIBRATION
    error = refused(distributional, n_delta=35)
    assert (error.field, error.required) == ("n_delta", {"n_delta": 36})
    assert distributional(n_delta=36).votes_per_draw(0.3) == 36


def test_a_chosen_n_delta_leaves_room_for_wrong_votes_within_the_limit() -> None:
    """At 1, 1.83, 2.4 and 3.08 sigma_delta 36, 182, 755 and 6,002 votes can pass: 4 times that, or 1.5 times."""
    assert distributional().votes_per_draw(0.3) == 4 * 36
    assert distributional(sigma_delta=0.3 / 1.83).votes_per_draw(0.3) == 4 * 182
    assert distributional(sigma_delta=0.3 / 2.4).votes_per_draw(0.3) == math.ceil(1.5 * 755)
    assert distributional(sigma_delta=0.3 / 2.4, n=60).votes_per_draw(0.3) == 4 * 755
    assert distributional(sigma_delta=0.3 / 3.08).votes_per_draw(0.3) == pytest.approx(1.5 * 6002, rel=1e-2)
    assert distributional().votes_per_draw(0.0) == 100
    assert distributional(max_votes=100 + 200 * 50).votes_per_draw(0.3) == 50


def test_an_error_bound_beyond_the_vote_limit_is_refused_with_what_would_do() -> None:
    """E / sigma_delta = 2.4 needs 755 votes a draw."""
    error = refused(distributional, sigma_delta=0.3 / 2.4, max_votes=100 + 200 * 754)
    assert error.required == {"n": (200 * 754) // 755}
    assert distributional(sigma_delta=0.3 / 2.4, max_votes=100 + 200 * 754, **error.required).n == 199
    error = refused(distributional, sigma_delta=0.3 / 2.4, max_votes=755 * 20)
    assert error.required == {"max_votes": 100 + 200 * 755}
    assert distributional(sigma_delta=0.3 / 2.4, **error.required).votes_per_draw(0.3) == 755


@pytest.mark.parametrize("effort", [{}, {"n_delta": 40}, {"max_votes": 30_000}, {"n": 1000, "alpha_delta": 0.01}])
def test_the_largest_error_bound_is_where_inner_tests_can_just_pass(effort: dict[str, float]) -> None:
    plan = individual(**effort)
    largest = plan.largest_error_bound()
    assert plan.votes_per_draw(largest) >= 1
    with pytest.raises(PlanError):
        plan.votes_per_draw(largest * 1.001)


def test_an_error_bound_that_no_test_can_pass_is_refused() -> None:
    error = refused(distributional, sigma_delta=0.03)
    assert "10 sigma_delta" in str(error)
    assert error.required == {}
    with pytest.raises(PlanError):
        individual().votes_per_draw(math.inf)


@pytest.mark.parametrize("make", [heuristic, individual, l2_plan, predict_plan, vote_predict])
def test_more_votes_than_the_limit_are_refused(make: Make) -> None:
    error = refused(make, n0=100, n=1000, n_delta=50, max_votes=1000)
    votes = int(error.required["max_votes"])
    assert votes == (100 + 1000 * 50 if make in (individual, predict_plan) else 1100)
    assert make(n0=100, n=1000, n_delta=50, max_votes=votes).max_votes == votes
    assert refused(make, n0=100, n=1000, n_delta=50, max_votes=votes - 1).field == "n"


def test_too_few_error_draws_are_refused_with_the_numbers_that_would_do() -> None:
    """rho_E of 5 draws at level .001 is at least .75: nothing can be certified beside it."""
    error = refused(individual, n_error=5)
    assert error.field == "n_error"
    plan = individual(**error.required)
    assert plan.n_error == error.required["n_error"]
    fewer = refused(individual, n_error=plan.n_error - 1)
    assert fewer.required == error.required
    assert refused(individual, n_error=plan.n_error, n=plan.n - 1).field == "n" or plan.n == 200


@pytest.mark.parametrize("make", [heuristic, individual, translation_plan, l2_plan])
def test_an_attack_range_beyond_the_noise_is_refused_with_one_that_would_do(make: Make) -> None:
    sigma = "sigma_delta" if make is l2_plan else "sigma_gamma"
    error = refused(make, **{sigma: 0.01})
    assert error.field == "attack_range"
    reachable = AttackRange(make().transformation, error.required["attack_range"])
    assert make(**{sigma: 0.01}, attack_range=reachable).n == 200
    beyond = AttackRange(make().transformation, 1.01 * reachable.half_width)
    assert refused(make, **{sigma: 0.01}, attack_range=beyond).field == "n"


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *(("alpha", bad) for bad in (0.0, 1.0, -0.1, 1.1, math.nan, math.inf)),
        *(("alpha_delta", bad) for bad in (0.0, 0.5, math.nan)),
        *((name, bad) for name in ("n0", "n") for bad in (0, -1, MAX_DRAWS + 1, 1.5, True)),
        ("n0", None),
        *(("n_delta", bad) for bad in (0, -1, MAX_DRAWS + 1, 1.5, True)),
        ("max_votes", 0),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(make: Make, name: str, bad: object) -> None:
    error = refused(make, **{name: bad})
    assert error.field == name
    assert name in str(error)


@pytest.mark.parametrize("bad", [0, -1, MAX_DRAWS + 1, math.nan])
@pytest.mark.parametrize("name", ["n_pilot", "n_error"])
def test_error_draws_out_of_range_are_refused_by_name(name: str, bad: object) -> None:
    assert refused(individual, **{name: bad}).field == name


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_noise_that_is_needed_must_be_there(bad: float) -> None:
    needs: dict[str, list[Make]] = {
        "sigma_gamma": [heuristic, individual, distributional, predict_plan],
        "sigma_delta": [individual, distributional, predict_plan, l2_plan],
    }
    for name, makes in needs.items():
        for make in makes:
            assert name in str(refused(make, **{name: bad}))
    assert heuristic(sigma_delta=bad).pixel_noise is False
    assert l2_plan(sigma_gamma=bad).pixel_noise is True
    assert "operator_norm" in str(refused(l2_plan, operator_norm=bad))


@pytest.mark.parametrize(
    ("name", "plain"), [("transformation", "rotation"), ("guarantee", "individual"), ("image_is", "received")]
)
def test_plain_strings_are_no_choices(name: str, plain: str) -> None:
    """They would pass for the members in comparisons, but not where identity picks the formula."""
    with pytest.raises(PlanError) as caught:
        replace(individual(), **{name: plain})  # type: ignore[arg-type]
    assert caught.value.field == name


def test_l2_has_one_guarantee() -> None:
    for guarantee in (Guarantee.HEURISTIC, Guarantee.DISTRIBUTIONAL):
        with pytest.raises(PlanError, match="individual"):
            replace(l2_plan(), guarantee=guarantee)


def test_the_attack_range_must_be_of_the_transformation() -> None:
    """A rotation's range on a translation would lose the corner's factor sqrt(2)."""
    with pytest.raises(PlanError, match="rotation"):
        replace(translation_plan(), attack_range=AttackRange(Transformation.ROTATION, 1.0))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("transformation", list(Transformation))
def test_an_attack_range_is_a_positive_number(transformation: Transformation, bad: float) -> None:
    with pytest.raises(PlanError, match="attack_range"):
        AttackRange(transformation, bad)


@given(st.floats(1e-6, 1e6))
def test_the_largest_shift_is_the_corner(half_width: float) -> None:
    """At least sqrt(2) half_width exactly: the squares compare as fractions."""
    corner = Fraction(AttackRange(Transformation.TRANSLATION, half_width).largest_norm)
    assert corner**2 >= 2 * Fraction(half_width) ** 2
    assert corner**2 <= 2 * Fraction(half_width) ** 2 * (1 + Fraction(1, 10**14))
    assert AttackRange(Transformation.ROTATION, half_width).largest_norm == half_width


def test_a_distributional_plan_needs_a_calibration_that_covers_it() -> None:
    assert distributional().wanted_radius == 30.0
    with pytest.raises(CalibrationError, match="calibrate"):
        distributional(calibration=None)
    with pytest.raises(CalibrationError, match="for a reference image, not for a received one"):
        distributional(calibration=replace(CALIBRATION, image_is="reference"))
    assert distributional(calibration=replace(CALIBRATION, image_is="received")).calibration is not None
    with pytest.raises(CalibrationError, match="beyond the calibrated 29"):
        distributional(calibration=replace(CALIBRATION, attack_range=29.0))
    with pytest.raises(CalibrationError, match="sigma_gamma"):
        distributional(calibration=replace(CALIBRATION, sigma_gamma=20.0))
    with pytest.raises(CalibrationError, match="translation"):
        distributional(calibration=replace(CALIBRATION, transformation=Transformation.TRANSLATION))


def test_alpha_shares_are_those_in_use_and_sum_to_alpha() -> None:
    assert heuristic().alpha_shares == {"alpha_gamma": 0.01}
    assert l2_plan().alpha_shares == {"alpha_gamma": 0.01}
    assert distributional().alpha_shares == {"alpha_gamma": 0.01, "alpha_delta": 0.002}
    shares = individual().alpha_shares
    assert shares == {"alpha_gamma": pytest.approx(0.009), "alpha_delta": 0.002, "alpha_E": 0.001}
    assert shares["alpha_gamma"] + shares["alpha_E"] == pytest.approx(0.01, rel=1e-15)


def test_the_formula_depends_on_whose_image_it_is() -> None:
    """B.1: at p = .98, rho = .06 and without the inner level 1.90 against 1.41 sigma_gamma."""
    reference = individual(image_is=ImageIs.REFERENCE).radius(0.982, 0.06)
    received = individual(image_is=ImageIs.RECEIVED).radius(0.982, 0.06)
    assert reference == pytest.approx(30.0 * 1.90, rel=0.002)
    assert received == pytest.approx(30.0 * 1.405, rel=0.002)
    assert heuristic().radius(0.98, 0.06) == pytest.approx(30.0 * 2.0537, rel=1e-3)
    assert l2_plan(operator_norm=2.0).radius(0.98, 0.0) == pytest.approx(0.125 * 2.0537, rel=1e-3)


@given(st.floats(0.0, 1.5), st.integers(50, 400))
def test_a_chosen_n_delta_can_pass(error_bound: float, n: int) -> None:
    plan = individual(n=n)
    smallest = smallest_sample_size(inner_threshold(error_bound, 0.3), plan.alpha_delta)
    try:
        chosen = plan.votes_per_draw(error_bound)
    except PlanError:
        assert smallest is None or 100 + n * smallest > plan.max_votes
        return
    assert smallest is not None
    assert smallest <= chosen
    assert plan.n0 + n * chosen <= plan.max_votes
