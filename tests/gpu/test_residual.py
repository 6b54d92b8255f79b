"""Gaussian interpolation and its error bounds: the definition, one bound for all draws, and attacks on it."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu.error_bound import BoundSettings, individual_error_bounds
from gpu.geometry import GeometryError
from gpu.preprocess import GaussianOperator, Preprocessing, PreprocessingError
from gpu.residual import known_image_errors
from gpu.warp import round8, transform_image, warp_batch
from tests.gpu.test_error_bound import digit, true_error
from tests.naive import naive_gaussian
from tests.pictures import PICTURES, picture


def gaussian(vignette="none", margin=0.0, sigma=2.0, taper=0.0, size=(14, 14)):
    settings_ = Preprocessing(vignette, margin, blur_sigma=sigma, interpolation="gaussian", taper=taper)
    return settings_.operator(*size)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000), shape=st.sampled_from([(6, 6, 1), (7, 5, 1), (5, 6, 3)]),
    angle=st.one_of(st.sampled_from([0.0, 90.0, 180.0]), st.floats(-400, 400)),
    shift=st.tuples(st.floats(-20, 20), st.floats(-3, 3)), sigma=st.sampled_from([1.5, 2.3]),
)  # fmt: skip
def test_every_pixel_is_the_naive_mean(seed, shape, angle, shift, sigma):
    image = picture("noise", shape, seed)
    operator = gaussian("circle", 0.5, sigma, 1.0, shape[:2])
    for transformation, parameter in (("rotation", angle), ("translation", np.array(shift))):
        (found,) = warp_batch(image[None], np.array([parameter]), transformation, operator)
        expected = naive_gaussian(image, parameter, transformation, operator.weights, sigma)
        np.testing.assert_allclose(found, expected, atol=5e-6)  # the weights beyond five standard deviations


def test_the_identity_is_what_apply_gives_and_both_transformations_agree_on_it():
    images = np.stack([picture("noise", (9, 8, 3), seed) for seed in range(3)])
    operator = gaussian("rectangle", 1.0, size=(9, 8))
    expected = operator.apply(images)
    np.testing.assert_allclose(warp_batch(images, np.zeros(3), "rotation", operator), expected, atol=1e-6)
    np.testing.assert_allclose(warp_batch(images, np.zeros((3, 2)), "translation", operator), expected, atol=1e-6)


def test_a_quarter_turn_turns_the_filtered_image():
    image, operator = picture("noise", (8, 8, 1), 3), gaussian("circle", 0.5, size=(8, 8), taper=2.0)
    (turned,) = warp_batch(image[None], [90.0], "rotation", operator)
    np.testing.assert_allclose(turned[0], np.rot90(operator.apply(image[None])[0, 0]), atol=1e-6)


def test_the_norm_bound_is_nearly_one_and_holds():
    operator = gaussian(sigma=1.5, size=(10, 10))
    assert operator.norm_bound == pytest.approx(1.0, abs=1e-5)
    dense = np.stack([operator.apply(np.eye(100).reshape(100, 10, 10, 1)[k : k + 1]).ravel() for k in range(100)])
    assert np.linalg.norm(dense.astype(float), 2) <= operator.norm_bound


@pytest.mark.parametrize(("vignette", "corner", "centre"), [("none", 1.0, 1.0), ("circle", 0.0, 1.0)])
def test_the_soft_vignette_rises_from_zero_to_one(vignette, corner, centre):
    operator = gaussian(vignette, 1.0, taper=3.0)
    assert isinstance(operator, GaussianOperator)
    assert operator.weights[0, 0] == corner
    assert operator.weights[7, 7] == pytest.approx(centre)
    assert ((operator.weights >= 0.0) & (operator.weights <= 1.0)).all()
    row = operator.weights[7, :7]
    assert (np.diff(row) >= 0.0).all()


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("interpolation", {"interpolation": "cubic"}),
        ("blur_sigma", {"interpolation": "gaussian", "blur_sigma": 1.0}),
        ("blur_size", {"interpolation": "gaussian", "blur_sigma": 2.0, "blur_size": 9}),
        ("resize", {"interpolation": "gaussian", "blur_sigma": 2.0, "resize": (5, 5)}),
        ("taper", {"taper": 1.0}),
        ("taper", {"interpolation": "gaussian", "blur_sigma": 2.0, "taper": -1.0}),
    ],
)
def test_settings_that_do_not_go_together_are_refused(field, values):
    with pytest.raises(PreprocessingError, match=field):
        Preprocessing(**values)


@pytest.mark.parametrize("transformation", ["rotation", "translation"])
def test_the_error_is_the_same_at_every_drawn_parameter(transformation):
    """As long as nothing is moved out of the frame, which only lowers it."""
    image = np.zeros((40, 40, 1), dtype=np.float32)
    image[15:25, 16:23] = round8(picture("noise", (10, 7, 1), 1))
    operator = gaussian(size=(40, 40))
    gamma = np.array([7.3]) if transformation == "rotation" else np.array([0.4, -0.5])
    draws = np.random.default_rng(0).normal(0, 2.0, (12, len(gamma))) * (60.0 if len(gamma) == 1 else 1.0)
    errors = [true_error(image, beta, gamma, transformation, operator) for beta in draws]
    assert min(errors) > 0.01
    np.testing.assert_allclose(errors, errors[0], rtol=2e-4)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000), kind=st.sampled_from(PICTURES), shape=st.sampled_from([(6, 6, 1), (7, 5, 1)]),
    vignette=st.sampled_from(["none", "circle", "rectangle"]), sigma=st.sampled_from([1.5, 2.5]),
)  # fmt: skip
def test_no_draw_and_no_attack_on_a_known_image_errs_more_than_its_bound(seed, kind, shape, vignette, sigma):
    image, operator = picture(kind, shape, seed), gaussian(vignette, 0.5, sigma, 1.0, shape[:2])
    generator = np.random.default_rng(seed)
    (bound,) = known_image_errors(image[None], "rotation", 15.0, operator)
    for beta, gamma in zip(generator.uniform(-360, 360, 25), generator.uniform(-15, 15, 25), strict=True):
        assert true_error(image, [beta], np.array([gamma]), "rotation", operator) <= bound
    (bound,) = known_image_errors(image[None], "translation", 1.3, operator)
    for beta, gamma in zip(generator.normal(0, 3, (25, 2)), generator.uniform(-1.3, 1.3, (25, 2)), strict=True):
        assert true_error(image, beta, gamma, "translation", operator) <= bound


@pytest.mark.parametrize(("transformation", "half_width"), [("rotation", 20.0), ("translation", 1.0)])
def test_the_bound_of_a_known_image_is_near_its_worst_attack(transformation, half_width):
    image, operator = digit(), gaussian("circle", 0.5, taper=2.0)
    (bound,) = known_image_errors(image[None], transformation, half_width, operator)
    generator = np.random.default_rng(0)
    shape = (400,) if transformation == "rotation" else (400, 2)
    attacks = generator.uniform(-half_width, half_width, shape)
    zero = np.zeros(1 if transformation == "rotation" else 2)
    worst = max(true_error(image, zero, np.atleast_1d(g), transformation, operator) for g in attacks)
    rounding = math.sqrt(np.count_nonzero(image) + 40) / 510
    assert worst <= bound <= 1.1 * worst + rounding


def test_a_smooth_interpolation_errs_less_than_a_bilinear_one():
    """What it is for: the same attack, the same filter, less error."""
    image = digit(24)
    bilinear = Preprocessing(blur_size=21, blur_sigma=2.0).operator(24, 24)
    draws = np.random.default_rng(0).normal(0, 30, 200)
    attacks = np.random.default_rng(1).uniform(-30, 30, 200)

    def errors(operator):
        pairs = zip(draws, attacks, strict=True)
        return [true_error(image, [b], np.array([g]), "rotation", operator) for b, g in pairs]

    assert max(errors(gaussian(size=(24, 24)))) < 0.75 * max(errors(bilinear))


@pytest.mark.parametrize("transformation", ["rotation", "translation"])
def test_all_originals_of_a_received_image_obey_its_bound(transformation):
    """Originals that differ from the true one but give the same 8-bit image, searched by coordinates."""
    generator = np.random.default_rng(5)
    image, operator = digit(12), gaussian("circle", 0.5, size=(12, 12))
    gamma = np.array([6.0]) if transformation == "rotation" else np.array([0.45, -0.3])
    half_width = 10.0 if transformation == "rotation" else 0.6
    received = round8(transform_image(image, gamma, transformation))
    beta = np.array([25.0]) if transformation == "rotation" else np.array([1.2, 0.4])
    (bound,) = individual_error_bounds(received, beta[None], transformation, half_width, operator, BoundSettings())
    other, worst = image.astype(np.float64), true_error(image, beta, gamma, transformation, operator)
    for _ in range(600):
        i, j = generator.integers(0, 12, 2)
        candidate = other.copy()
        candidate[i, j, 0] = np.clip(candidate[i, j, 0] + generator.choice([-0.004, 0.004, 0.02, -0.02]), 0, 1)
        if (round8(transform_image(candidate.astype(np.float32), gamma, transformation)) == received).all():
            error = true_error(candidate.astype(np.float32), beta, gamma, transformation, operator)
            if error >= worst:
                other, worst = candidate, error
    assert worst > true_error(image, beta, gamma, transformation, operator)
    assert worst <= bound < np.inf


def test_a_received_image_is_bounded_at_once_for_all_draws_whatever_the_effort():
    image, operator = digit(), gaussian("circle", 0.5, taper=2.0)
    received = round8(transform_image(image, 3.0, "rotation"))
    draws = np.linspace(-80, 80, 7)
    fine = individual_error_bounds(received, draws, "rotation", 8.0, operator, BoundSettings())
    assert (fine == fine[0]).all()
    coarse = individual_error_bounds(received, draws, "rotation", 8.0, operator, BoundSettings(cell_width=4.0))
    late = individual_error_bounds(
        received, draws, "rotation", 8.0, operator, BoundSettings(), deadline=time.monotonic() - 1
    )
    error = true_error(image, [10.0], np.array([3.0]), "rotation", operator)
    assert error <= fine[0] < coarse[0]
    assert fine[0] <= late[0] < np.inf


@pytest.mark.parametrize("bad", [float("nan"), -1.0, float("inf"), 181.0])
def test_a_senseless_attack_range_is_refused(bad):
    with pytest.raises(GeometryError):
        known_image_errors(picture("noise", (6, 6, 1))[None], "rotation", bad, gaussian(size=(6, 6)))


def test_an_operator_of_another_size_is_refused():
    with pytest.raises(GeometryError, match="operator"):
        known_image_errors(np.zeros((1, 5, 6, 1), dtype=np.float32), "rotation", 1.0, gaussian(size=(6, 6)))
