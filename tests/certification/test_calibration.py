"""Stored distributional bounds: strict reading, and the statistics of E, rho_E and q_E."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from certification.binomial import binomial_lower_bound, binomial_upper_bound
from certification.calibration import Calibration, choose_error_bound, image_holds, q_lower, rho_upper
from certification.vocabulary import CalibrationError, StatisticsError, Transformation
from tests.certification.sources import CALIBRATION

STORED = CALIBRATION.to_json()


def test_a_calibration_survives_json() -> None:
    assert Calibration.from_json(json.loads(json.dumps(STORED))) == CALIBRATION
    assert STORED["schema"] == 3
    assert STORED["transformation"] == "rotation"


def test_whole_numbers_are_read_as_floats() -> None:
    stored = Calibration.from_json({**STORED, "attack_range": 30})
    assert stored.attack_range == 30.0
    assert isinstance(stored.attack_range, float)


@pytest.mark.parametrize("name", sorted(STORED))
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(CalibrationError, match=name):
        Calibration.from_json({key: value for key, value in STORED.items() if key != name})


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(CalibrationError, match="colour"):
        Calibration.from_json({**STORED, "colour": "red"})


@pytest.mark.parametrize("name", sorted(STORED))
@pytest.mark.parametrize("bad", [None, True, [], {}, "l2", ""])
def test_a_value_of_the_wrong_type_is_named(name: str, bad: object) -> None:
    if isinstance(STORED[name], str) and bad == "l2" and name not in ("transformation", "image_is"):
        assert getattr(Calibration.from_json({**STORED, name: bad}), name) == bad
        return
    with pytest.raises(CalibrationError, match=name):
        Calibration.from_json({**STORED, name: bad})


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *((name, bad) for name, value in STORED.items() if isinstance(value, float)
          for bad in (math.nan, math.inf, -math.inf, -1.0)),
        ("attack_range", 0.0),
        ("error_bound", 0.0),
        ("sigma_gamma", 0.0),
        ("rho_E", 0.5),
        ("q_E", 0.0),
        ("q_E", 1.0),
        ("confidence", 0.0),
        ("confidence", 1.0),
        ("error_bound", 10**400),
        ("images", 0),
        ("images", 10**400),
        ("parameter_draws", 10**400),
        ("images", 999),
        ("images_passed", -1),
        ("images_passed", 1001),
        ("images_passed", 900),
        ("parameter_draws", 0),
        ("pilot_images", -1),
        ("pilot_draws", -1),
        ("sampled_attacks", -1),
        ("sampled_attacks", 5),
        ("factor", 1.0),
        ("schema", 2),
        ("schema", 3.0),
        ("schema", True),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_named(name: str, bad: object) -> None:
    """images_passed = 900 of 1000 is in range but cannot support q_E = .99, so q_E is named instead."""
    with pytest.raises(CalibrationError, match="q_E" if bad == 900 else "images" if bad == 999 else name):
        Calibration.from_json({**STORED, name: bad})


@pytest.mark.parametrize("data", [[], "text", None, 3])
def test_anything_but_an_object_is_refused(data: object) -> None:
    with pytest.raises(CalibrationError, match="object"):
        Calibration.from_json(data)  # type: ignore[arg-type]


def test_a_calibration_is_checked_when_made() -> None:
    with pytest.raises(CalibrationError, match="transformation"):
        replace(CALIBRATION, transformation=Transformation.L2)
    with pytest.raises(CalibrationError, match="transformation"):
        replace(CALIBRATION, transformation="rotation")  # type: ignore[arg-type]
    with pytest.raises(CalibrationError, match="rho_E"):
        replace(CALIBRATION, rho_E=math.nan)


def test_only_the_errors_of_a_reference_image_can_be_sampled() -> None:
    sampled = replace(CALIBRATION, image_is="reference", sampled_attacks=61, factor=1.25)
    assert Calibration.from_json(sampled.to_json()) == sampled
    for change in ({"image_is": "received"}, {"sampled_attacks": 182}):
        with pytest.raises(CalibrationError, match="sampled_attacks"):
            replace(sampled, **change)
    with pytest.raises(CalibrationError, match="factor"):
        replace(sampled, factor=0.0)


@pytest.mark.parametrize(
    ("sampled", "expected"), [(0.0, 0.0), (0.1, 0.125), (0.24, 0.3), (0.3, 0.3), (math.inf, 0.3), (math.nan, 0.3)]
)
def test_the_bound_of_an_image_is_its_own_or_that_of_all(sampled: float, expected: float) -> None:
    stored = replace(CALIBRATION, image_is="reference", sampled_attacks=61, factor=1.25)
    assert stored.bound_for(sampled) == expected


@given(
    arrays(np.float64, st.integers(1, 60), elements=st.floats(0.0, 2.0)),
    st.floats(0.0, 2.0),
    st.sampled_from([0.001, 0.05]),
)
def test_rho_upper_counts_draws_above_e(
    bounds: np.ndarray[tuple[int], np.dtype[np.float64]], e: float, alpha: float
) -> None:
    above = sum(1 for bound in bounds if bound > e)
    assert rho_upper(bounds, e, alpha) == binomial_upper_bound(above, len(bounds), alpha)
    assert rho_upper(bounds, e, alpha) > above / len(bounds) or above == len(bounds)


@pytest.mark.parametrize("missing", [math.nan, math.inf])
def test_a_draw_without_a_bound_counts_as_above_any_e(missing: float) -> None:
    bounds = np.array([0.1, missing, 0.1])
    assert rho_upper(bounds, 1.0, 0.01) == binomial_upper_bound(1, 3, 0.01)
    assert rho_upper(bounds, math.inf, 0.01) == binomial_upper_bound(1, 3, 0.01)
    assert not image_holds(np.append(np.zeros(500), missing), math.inf, 0.005, 0.1)


@pytest.mark.parametrize("bad", [np.array([]), np.array([0.1, -0.1]), np.zeros((2, 2)), np.array(0.1)])
def test_impossible_bounds_are_errors(bad: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    for call in (
        lambda: rho_upper(bad, 1.0, 0.01),
        lambda: image_holds(bad, 1.0, 0.1, 0.01),
        lambda: choose_error_bound(bad, 100, 0.001, 0.2),
    ):
        with pytest.raises(StatisticsError):
            call()


def test_an_image_holds_exactly_where_the_lower_bound_reaches() -> None:
    """n of n at level (1 - rho)^n is the edge: alpha^(1/n) = 1 - rho."""
    bounds, rho = np.zeros(1000), 0.01
    edge = (1.0 - rho) ** 1000
    assert image_holds(bounds, 0.0, rho, edge * 1.001)
    assert not image_holds(bounds, 0.0, rho, edge * 0.999)
    assert not image_holds(np.append(bounds[1:], 1.0), 0.0, rho, edge * 1.001)


def test_q_lower_subtracts_the_level_of_the_images_tests() -> None:
    plain = binomial_lower_bound(990, 1000, 0.001)
    assert q_lower(990, 1000, 0.001, 0.0) == plain
    assert q_lower(990, 1000, 0.001, 0.002) == plain - 0.002
    assert q_lower(0, 1000, 0.001, 0.002) == 0.0
    for bad in (-0.1, 1.0, math.nan):
        with pytest.raises(StatisticsError):
            q_lower(990, 1000, 0.001, bad)


def test_q_lower_is_valid_where_images_pass_wrongly() -> None:
    """A share q of images has the property; the others pass with probability alpha_image (A.2).

    20,000 calibrations at alpha = .05: the share of bounds above q may exceed .05 by three standard
    deviations of the simulation, .0046. Without the correction it is far above.
    """
    q, images, alpha, alpha_image, runs = 0.9, 400, 0.05, 0.05, 20_000
    generator = np.random.default_rng(1)
    passed = generator.binomial(images, q + (1.0 - q) * alpha_image, runs)
    counts, times = np.unique(passed, return_counts=True)
    corrected = np.array([q_lower(int(k), images, alpha, alpha_image) for k in counts])
    plain = np.array([q_lower(int(k), images, alpha, 0.0) for k in counts])
    assert (times * (corrected > q)).sum() / runs <= alpha + 0.0046
    assert (times * (plain > q)).sum() / runs > alpha + 0.0046


def test_the_chosen_bound_has_the_least_expected_loss() -> None:
    """Oracle: every pilot value by itself. A tight pilot gives its largest value, an outlier is left out."""
    generator = np.random.default_rng(0)
    for outliers, sigma in ((0, 0.2), (2, 0.2), (10, 0.1), (3, 2.0)):
        pilot = np.concatenate([generator.uniform(0.2, 0.25, 50 - outliers), generator.uniform(1.0, 3.0, outliers)])
        losses = {}
        for value in pilot:
            expected = 4 * int((pilot > value).sum()) + 1
            losses[float(value)] = binomial_upper_bound(expected, 200, 0.001) + 0.2 * value / sigma
        chosen = choose_error_bound(pilot, 200, 0.001, sigma)
        assert chosen == min(losses, key=lambda value: losses[value])
        assert sigma > 1.0 or chosen <= 0.25


def test_draws_without_a_bound_choose_nothing() -> None:
    assert choose_error_bound(np.array([0.2, math.inf, math.nan]), 100, 0.001, 0.2) == 0.2
    assert choose_error_bound(np.array([math.inf, math.nan]), 100, 0.001, 0.2) == math.inf


def test_a_bound_that_no_inner_test_can_pass_is_not_chosen() -> None:
    """Of the useful values alone; without a useful one the smallest, which says what would be needed."""
    pilot = np.array([0.3, 0.2, 0.25, 0.4])
    assert choose_error_bound(pilot, 100, 0.001, 10.0) == 0.4
    assert choose_error_bound(pilot, 100, 0.001, 10.0, 0.3) == 0.3
    assert choose_error_bound(pilot, 100, 0.001, 10.0, 0.1) == 0.2
