"""Gaussian interpolation and its error bounds: the definition, one bound for all draws, and attacks on it."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from gpu.candidates import first_cells
from gpu.cells import BoundSettings, no_stage
from gpu.cover_bodies import transform_into
from gpu.error_bound import individual_error_bounds
from gpu.geometry import KINDS, GeometryError, point_frames
from gpu.known_bodies import moved_into
from gpu.preprocess import RECEIVED_BLUR, GaussianOperator, Preprocessing, PreprocessingError
from gpu.received import received_image_error
from gpu.residual import known_image_errors
from gpu.residual_bodies import sample_into
from gpu.residual_maps import sampled_into, spread_deviations, unsample_into, untransform_into
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


def readers(operator, pair):
    """What reads the attacked image, and what reads the original."""
    return {
        "one": (operator, operator),
        "reference": (operator, operator.for_original()),
        "received": (operator.for_attacked(), operator),
        "individual": (operator.for_attacked(RECEIVED_BLUR), operator),
    }[pair]


PAIRS = ["one", "reference", "received"]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000), kind=st.sampled_from(PICTURES), pair=st.sampled_from(PAIRS),
    shape=st.sampled_from([(6, 6, 1), (7, 5, 1), (5, 6, 3)]), sigma=st.sampled_from([1.5, 2.5]),
    vignette=st.sampled_from(["none", "circle", "rectangle"]), half_width=st.sampled_from([0.0, 0.02, 15.0, 180.0]),
    coarse=st.booleans(),
)  # fmt: skip
def test_no_draw_and_no_attack_on_a_known_image_errs_more_than_its_bound(
    seed, kind, pair, shape, sigma, vignette, half_width, coarse
):
    image, operator = picture(kind, shape, seed), gaussian(vignette, 0.5, sigma, 1.0, shape[:2])
    both, generator = readers(operator, pair), np.random.default_rng(seed)
    effort = {"floor": 10.0, "budget": 1} if coarse else {}
    (bound,) = known_image_errors(image[None], "rotation", half_width, *both, **effort)
    attacks = [*generator.uniform(-half_width, half_width, 25), 0.0, half_width, -half_width]
    for gamma, beta in zip(attacks, generator.uniform(-360, 360, 28), strict=True):
        assert true_error(image, [beta], np.array([gamma]), "rotation", *both) <= bound
    shift = min(half_width, 1.3)
    (bound,) = known_image_errors(image[None], "translation", shift, *both, **effort)
    attacks = [*generator.uniform(-shift, shift, (25, 2)), *(shift * np.array([(1, 1), (-1, 1), (0, -1)]))]
    for gamma, beta in zip(attacks, generator.normal(0, 3, (28, 2)), strict=True):
        assert true_error(image, beta, gamma, "translation", *both) <= bound


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(
    ("transformation", "half_width", "near"), [("rotation", 20.0, 1.03), ("translation", 1.0, 1.2)]
)
def test_the_bound_of_a_known_image_is_near_its_worst_attack(transformation, half_width, near, pair):
    """Rounding shifted pixels to 8 bits may go either way at once, as far as the bound knows."""
    image, both = digit(), readers(gaussian("circle", 0.5, taper=2.0), pair)
    (bound,) = known_image_errors(image[None], transformation, half_width, *both)
    generator = np.random.default_rng(0)
    attacks = list(generator.uniform(-half_width, half_width, (600,) if transformation == "rotation" else (600, 2)))
    attacks += [0.0, 0.01] if transformation == "rotation" else [np.zeros(2), np.array([0.5, 0.5])]
    zero = np.zeros(1 if transformation == "rotation" else 2)
    worst = max(true_error(image, zero, np.atleast_1d(g), transformation, *both) for g in attacks)
    assert worst <= bound <= near * worst


def test_an_attacked_image_is_read_best_through_a_narrower_filter():
    """What the two widths are for: the attack's interpolation has blurred it."""
    image, operator = digit(24), gaussian("circle", 0.5, taper=2.0, size=(24, 24))
    one, *two = (
        known_image_errors(image[None], "rotation", 30.0, *readers(operator, pair))[0] for pair in PAIRS
    )
    assert max(two) < 0.75 * one


def test_a_spent_budget_costs_tightness_and_not_validity():
    image, operator = digit(), gaussian("circle", 0.5, taper=2.0)
    found = [known_image_errors(image[None], "rotation", 20.0, operator, budget=n)[0] for n in (1, 60, 20_000)]
    assert found[0] > found[1] > found[2]
    assert np.isfinite(found).all()
    floor = 0.5 * (found[1] + found[2])
    (enough,) = known_image_errors(image[None], "rotation", 20.0, operator, floor=floor)
    assert found[2] <= enough <= floor


@pytest.mark.parametrize(("transformation", "parameter"), [("rotation", [31.0]), ("translation", [0.4, -1.3])])
def test_inner_products_over_the_plane_are_those_of_dense_matrices(transformation, parameter):
    operator, kind = gaussian("circle", 1.0, 1.5, 1.0, (9, 8)), KINDS[transformation]
    original = operator.for_original()
    image = np.random.default_rng(0).random((9, 8))
    still = matrices("rotation", np.zeros(1), operator, 20)[1] / np.maximum(operator.weights.ravel(), 1e-300)
    moved = matrices(transformation, parameter, original, 20)[1] @ image.ravel()
    first, second = point_frames(-np.array([parameter]), transformation)[0]
    sigma = math.hypot(operator.sigma, original.sigma)
    found = np.zeros((1, 9, 8))
    masked = (operator.weights * image)[None]
    moved_into(kind, masked, first, second, sigma, 7.5 * sigma, np.zeros((1, 3, 17)), found)
    seen = operator.weights > 0.0
    np.testing.assert_allclose(found[0][seen], (still.T @ moved).reshape(9, 8)[seen], rtol=1e-6)


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


def matrices(transformation, parameter, operator, pad):
    """``T_t`` [HW, HW] and ``S_t m`` on the padded grid [HpWp, HW], written from the definitions."""
    height, width = operator.input_shape
    rows, columns = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2

    def distances(padding):
        y = np.arange(-padding, height + padding)[:, None] - (height - 1) / 2
        x = np.arange(-padding, width + padding)[None, :] - (width - 1) / 2
        if transformation == "rotation":
            t = math.radians(float(parameter[0]))
            x, y = x * math.cos(t) - y * math.sin(t), x * math.sin(t) + y * math.cos(t)
        else:
            x, y = np.broadcast_arrays(x - parameter[0], y - parameter[1])
        return y.reshape(-1, 1) - rows, x.reshape(-1, 1) - columns

    def joined(on_rows, on_columns):
        return (on_rows[:, :, None] * on_columns[:, None, :]).reshape(len(on_rows), -1)

    transform = joined(*(np.maximum(1.0 - np.abs(d), 0.0) for d in distances(0)))
    s = operator.sigma
    sampled = joined(*(np.exp(-0.5 * (d / s) ** 2) / (s * math.sqrt(2.0 * math.pi)) for d in distances(pad)))
    return transform, sampled * operator.weights.ravel()


def worst_original(received, start, transformation, gamma, attacked, operator, rounds=4):
    """The largest residual found among the originals of a received image at one gamma, by linear programs.

    The norm is convex in the original, so each step goes to the best original for the gradient at the last.
    """
    pad = 14 + max(operator.input_shape) // 3
    transform, moved = matrices(transformation, gamma, operator, pad)
    known = matrices(transformation, np.zeros_like(gamma), attacked, pad)[1] @ received.ravel().astype(np.float64)
    most = (received.ravel() + 0.9999 / 510.0).astype(np.float64)
    least = (received.ravel() - 0.9999 / 510.0).astype(np.float64)
    original = start.ravel().astype(np.float64)
    largest = float(np.linalg.norm(known - moved @ original))
    for _ in range(rounds):
        gradient = moved.T @ (moved @ original - known)
        step = linprog(
            -gradient, np.concatenate([transform, -transform]), np.concatenate([most, -least]), bounds=(0.0, 1.0)
        )
        if step.status != 0:
            break
        original = step.x
        largest = max(largest, float(np.linalg.norm(known - moved @ original)))
    return largest


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000), kind=st.sampled_from(PICTURES), shape=st.sampled_from([(6, 6, 1), (7, 5, 1)]),
    vignette=st.sampled_from(["none", "circle", "rectangle"]), sigma=st.sampled_from([1.5, 2.5]),
    transformation=st.sampled_from(["rotation", "translation"]), width=st.sampled_from([None, 0.4, 5.0]),
    share=st.one_of(st.sampled_from([0.0, 1.0, -1.0]), st.floats(-1, 1)), half_width=st.sampled_from([0.0, 0.7, 1.3]),
    pair=st.sampled_from(["one", "received", "individual"]),
)  # fmt: skip
def test_no_original_found_by_linear_programs_errs_more_than_the_bound(
    seed, kind, shape, vignette, sigma, transformation, width, share, half_width, pair
):
    image, operator = picture(kind, shape, seed), gaussian(vignette, 0.5, sigma, 1.0, shape[:2])
    half_width = 10.0 * half_width if transformation == "rotation" else half_width
    gamma = np.array([share * half_width] if transformation == "rotation" else [share, share**2]) * 1.0
    if transformation == "translation":
        gamma *= half_width
    received = round8(transform_image(image, gamma, transformation))
    chosen, (attacked, original) = BoundSettings(cell_width=width, cell_budget=400), readers(operator, pair)
    bound = received_image_error(
        received, transformation, half_width, attacked, chosen, original=original, stage=no_stage
    )
    assert worst_original(received, image, transformation, gamma, attacked, original) <= bound


@pytest.mark.parametrize(
    ("transformation", "half_width", "gamma", "near"),
    [("rotation", 8.0, [5.2], 1.1), ("translation", 0.8, [0.5, -0.5], 1.5)],
)
def test_the_bound_of_a_received_image_is_near_the_worst_original(transformation, half_width, gamma, near):
    """Of those at the attack's own parameter; a shift by half a pixel hides most of the original."""
    image, operator = np.pad(digit(12), ((4, 4), (4, 4), (0, 0))), gaussian("rectangle", 1.0, size=(20, 20))
    received = round8(transform_image(image, np.array(gamma), transformation))
    bound = received_image_error(received, transformation, half_width, operator, BoundSettings(), stage=no_stage)
    worst = worst_original(received, image, transformation, np.array(gamma), operator, operator)
    assert true_error(image, np.zeros(len(gamma)), np.array(gamma), transformation, operator) < worst
    assert worst <= bound <= near * worst


@pytest.mark.parametrize("parameter", [[0.37, -0.81], [1.0, 0.0], [-2.2, 3.1]])
def test_a_shift_read_one_axis_after_the_other_is_the_same(parameter):
    source = picture("noise", (9, 7, 2), 1).transpose(2, 0, 1)[None].astype(np.float64)
    pad, weights, half = 12, np.zeros((1, 3, 21)), np.zeros((1, 2, 33, 31))
    found, expected = np.zeros((1, 2, 33, 31)), np.zeros((1, 2, 33, 31))
    sampled_into(source, KINDS["translation"], *parameter, 2.0, 10.0, pad, weights, half, found)
    sample_into(source, KINDS["translation"], *parameter, 2.0, 10.0, pad, weights, expected)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize(("transformation", "parameter"), [("rotation", [23.0]), ("translation", [0.4, -1.3])])
def test_transposes_have_the_same_inner_products(transformation, parameter):
    generator, kind = np.random.default_rng(0), KINDS[transformation]
    first, second = point_frames(np.array([parameter]), transformation)[0]
    image, moved = generator.random((1, 9, 7, 1)), np.zeros((1, 9, 7, 1))
    planes, padded = image.transpose(0, 3, 1, 2).copy(), generator.random((1, 1, 33, 31))
    weights, half = np.zeros((1, 3, 21)), np.zeros((1, 1, 33, 31))
    sampled, back = np.zeros_like(half), np.zeros_like(planes)
    sampled_into(planes, kind, first, second, 2.0, 10.0, 12, weights, half, sampled)
    unsample_into(padded, kind, first, second, 2.0, 10.0, 12, weights, half, back)
    assert np.vdot(back, planes) == pytest.approx(np.vdot(padded, sampled), rel=1e-12)
    transform_into(kind, image, first, second, moved)
    other = generator.random((1, 1, 9, 7))
    untransform_into(kind, other, first, second, back)
    assert np.vdot(back, planes) == pytest.approx(np.vdot(other, moved), rel=1e-12)


@pytest.mark.parametrize("vignette", ["none", "rectangle", "circle"])
@pytest.mark.parametrize(("transformation", "parameter"), [("rotation", [17.0]), ("translation", [0.4, -1.3])])
def test_entries_of_the_cancelled_form_are_those_of_dense_matrices(transformation, parameter, vignette):
    operator, pad = gaussian(vignette, 1.0, 1.5, 0.0, (12, 13)), 14
    deviation = np.random.default_rng(1).random((1, 12, 13, 1))
    original = operator.for_original()
    transform, moved = matrices(transformation, parameter, original, pad)
    still = matrices(transformation, np.zeros(2), operator, pad)[1]
    expected = np.abs(still @ transform - moved) @ deviation.ravel()
    point, back = (point_frames(sign * np.array([parameter]), transformation)[0] for sign in (1.0, -1.0))
    found, taps = np.zeros((1, 1, 40, 41)), 2 * math.ceil(original.reach) + 1
    spread_deviations(
        KINDS[transformation], operator.weights, (operator.sigma, operator.reach), original.sigma, original.reach, pad,
        point, back, deviation,
        np.zeros((1, 3, taps)), np.zeros((taps + 6, taps + 6)), found,
    )  # fmt: skip
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-5)  # the weights beyond five standard deviations


@pytest.mark.parametrize("half_width", [0.0, 0.3, 1.0, 1.3])
def test_first_cells_of_shifts_cover_the_range_and_hold_no_integer_inside(half_width):
    cells = first_cells("translation", half_width, 0.25)
    assert np.prod(cells.hi - cells.lo, axis=1).sum() == pytest.approx((2.0 * half_width) ** 2)
    assert (np.floor(cells.lo) + 1 >= cells.hi).all()
    assert (cells.lo.min(), cells.hi.max()) == (-half_width, half_width)


@pytest.mark.parametrize("transformation", ["rotation", "translation"])
def test_all_originals_of_a_received_image_obey_its_bound(transformation):
    """Originals that differ from the true one but give the same 8-bit image, searched by coordinates."""
    generator = np.random.default_rng(5)
    image, operator = digit(12), gaussian("circle", 0.5, size=(12, 12))
    both = readers(operator, "individual")
    gamma = np.array([6.0]) if transformation == "rotation" else np.array([0.45, -0.3])
    half_width = 10.0 if transformation == "rotation" else 0.6
    received = round8(transform_image(image, gamma, transformation))
    beta = np.array([25.0]) if transformation == "rotation" else np.array([1.2, 0.4])
    (bound,) = individual_error_bounds(received, beta[None], transformation, half_width, operator, BoundSettings())
    other, worst = image.astype(np.float64), true_error(image, beta, gamma, transformation, *both)
    for _ in range(600):
        i, j = generator.integers(0, 12, 2)
        candidate = other.copy()
        candidate[i, j, 0] = np.clip(candidate[i, j, 0] + generator.choice([-0.004, 0.004, 0.02, -0.02]), 0, 1)
        if (round8(transform_image(candidate.astype(np.float32), gamma, transformation)) == received).all():
            error = true_error(candidate.astype(np.float32), beta, gamma, transformation, *both)
            if error >= worst:
                other, worst = candidate, error
    assert worst > true_error(image, beta, gamma, transformation, *both)
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
    both = readers(operator, "individual")
    error = true_error(image, [10.0], np.array([3.0]), "rotation", *both)
    assert error <= fine[0] < coarse[0]
    assert fine[0] <= late[0] < np.inf


def test_a_received_image_is_bounded_more_tightly_through_two_widths():
    """The attack has blurred it; but it may as well be its own original."""
    image, operator = digit(20), gaussian("circle", 0.5, taper=2.0, size=(20, 20))
    received = round8(transform_image(image, 6.3, "rotation"))
    one, two = (
        received_image_error(
            received, "rotation", 10.0, attacked, BoundSettings(), original=original, stage=no_stage
        )
        for attacked, original in (readers(operator, "one"), readers(operator, "individual"))
    )  # fmt: skip
    assert two < 0.85 * one
    unattacked = true_error(received, [0.0], np.zeros(1), "rotation", *readers(operator, "individual"))
    assert 0.0 < unattacked <= two


@pytest.mark.parametrize("bad", [float("nan"), -1.0, float("inf"), 181.0])
def test_a_senseless_attack_range_is_refused(bad):
    with pytest.raises(GeometryError):
        known_image_errors(picture("noise", (6, 6, 1))[None], "rotation", bad, gaussian(size=(6, 6)))


def test_operators_of_another_size_or_with_two_vignettes_are_refused():
    blank = np.zeros((1, 6, 6, 1), dtype=np.float32)
    with pytest.raises(GeometryError, match="operator"):
        known_image_errors(blank[:, :5], "rotation", 1.0, gaussian(size=(6, 6)))
    with pytest.raises(GeometryError, match="vignette"):
        known_image_errors(blank, "rotation", 1.0, gaussian(size=(6, 6)), gaussian("circle", size=(6, 6)))
    with pytest.raises(GeometryError, match="vignette"):
        received_image_error(
            blank[0], "rotation", 1.0, gaussian(size=(6, 6)), BoundSettings(),
            original=gaussian("circle", size=(6, 6)), stage=no_stage,
        )  # fmt: skip
