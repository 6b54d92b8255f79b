"""The error bounds, by inclusion: no sampled error may exceed them."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu.cells import BoundSettings
from gpu.cover import largest_rotation_errors, reads_lost_content, translation_draw_errors
from gpu.error_bound import forward_error_bounds, individual_error_bounds
from gpu.geometry import GeometryError
from gpu.preprocess import RECEIVED_BLUR, GaussianOperator, Preprocessing
from gpu.warp import round8, transform_image, warp_batch
from tests.pictures import PICTURES, picture

SMALL = BoundSettings(cell_width=0.5, refinements=3, cell_budget=64)


def true_error(image, beta, gamma, transformation, operator, original=None):
    """|P T_beta round8(T_gamma x) - P' T_(beta+gamma) x|_2 of the pixels that are classified."""
    attacked = round8(transform_image(image, gamma, transformation))
    twice = warp_batch(attacked[None], np.atleast_1d(beta)[None], transformation, operator)
    once = warp_batch(image[None], (np.atleast_1d(beta) + gamma)[None], transformation, original or operator)
    return float(np.linalg.norm(twice.astype(float) - once.astype(float)))


@st.composite
def cases(draw):
    transformation = draw(st.sampled_from(["rotation", "translation"]))
    shape = draw(st.sampled_from([(6, 6, 1), (7, 5, 1), (6, 7, 3)]))
    image = picture(draw(st.sampled_from(PICTURES)), shape, draw(st.integers(0, 1000)))
    vignette, margin = draw(st.sampled_from(["none", "circle", "rectangle"])), draw(st.sampled_from([0.0, 1.0]))
    if draw(st.booleans()):
        chosen = Preprocessing(vignette, margin, draw(st.sampled_from([1, 3])), 1.0)
    else:
        chosen = Preprocessing(
            vignette, margin, blur_sigma=draw(st.sampled_from([1.5, 2.0])), interpolation="gaussian",
            taper=draw(st.sampled_from([0.0, 1.5])),
        )  # fmt: skip
    operator = chosen.operator(*shape[:2])
    if transformation == "rotation":
        half_width = draw(st.sampled_from([1.0, 10.0, 100.0]))
        special = st.sampled_from([0.0, 90.0, 180.0])
        beta = np.array([draw(st.one_of(special, st.floats(-300, 300)))])
        gamma = np.array([draw(st.one_of(st.just(0.0), st.floats(-half_width, half_width)))])
    else:
        half_width = draw(st.sampled_from([0.5, 1.0, 2.0]))
        axis = st.one_of(st.sampled_from([0.0, 1.0, -2.0]), st.floats(-4, 4))
        inside = st.one_of(st.sampled_from([0.0, half_width]), st.floats(-half_width, half_width))
        beta, gamma = np.array([draw(axis), draw(axis)]), np.array([draw(inside), draw(inside)])
    return transformation, image, operator, half_width, beta, gamma


@settings(max_examples=120)
@given(case=cases())
def test_no_original_of_a_received_image_errs_more_than_the_individual_bound(case):
    transformation, image, operator, half_width, beta, gamma = case
    received = round8(transform_image(image, gamma, transformation))
    bound = individual_error_bounds(received, beta[None], transformation, half_width, operator, SMALL)
    attacked = operator.for_attacked(RECEIVED_BLUR) if isinstance(operator, GaussianOperator) else operator
    assert true_error(image, beta, gamma, transformation, attacked, operator) <= bound[0]


@settings(max_examples=120)
@given(case=cases(), budget=st.sampled_from([1, 16, 200]))
def test_no_attack_on_a_known_image_errs_more_than_the_forward_bound(case, budget):
    transformation, image, operator, half_width, beta, gamma = case
    settings_ = BoundSettings(cell_width=0.25, cell_budget=budget)
    bound = forward_error_bounds(image, beta[None], transformation, half_width, operator, settings_)
    original = operator.for_original() if isinstance(operator, GaussianOperator) else operator
    assert true_error(image, beta, gamma, transformation, operator, original) <= bound[0]


def digit(size=14):
    """A smooth blob off the centre, as a stand-in for a digit."""
    rows, columns = np.indices((size, size))
    blob = np.exp(-((rows - 0.4 * size) ** 2 + (columns - 0.55 * size) ** 2) / (0.03 * size * size))
    return round8(np.where(blob > 0.05, blob, 0.0))[:, :, None]


def test_refinement_tightens_until_target_budget_or_deadline_and_stays_valid():
    image, operator = digit(), Preprocessing("circle", 1.0, 5, 1.5).operator(14, 14)
    betas = np.array([-20.0, 0.0, 37.0])
    arguments = (image, betas, "rotation", 20.0, operator)
    coarse = forward_error_bounds(*arguments, BoundSettings(cell_budget=1))
    fine = forward_error_bounds(*arguments, BoundSettings(cell_budget=800))
    assert (fine < coarse).all()
    late = forward_error_bounds(*arguments, BoundSettings(cell_budget=800), deadline=time.monotonic() - 1)
    assert (late >= fine).all()
    target = float(fine.max()) * 1.5
    aimed = forward_error_bounds(*arguments, BoundSettings(cell_budget=800), target=target)
    assert (aimed <= target).all()
    for index, beta in enumerate(betas):
        worst = max(true_error(image, [beta], np.array([g]), "rotation", operator) for g in np.linspace(-20, 20, 41))
        assert worst <= fine[index] <= 4 * worst


def test_wider_attack_ranges_have_larger_bounds_and_chunks_do_not_matter():
    image, operator = digit(), Preprocessing("circle", 1.0, 5, 1.5).operator(14, 14)
    received = round8(transform_image(image, 4.0, "rotation"))
    betas = np.linspace(-40, 40, 5)
    narrow = individual_error_bounds(received, betas, "rotation", 5.0, operator, BoundSettings())
    wide = individual_error_bounds(received, betas, "rotation", 20.0, operator, BoundSettings())
    assert (narrow <= wide * (1 + 1e-6)).all()
    chunked = individual_error_bounds(received, betas, "rotation", 5.0, operator, BoundSettings(chunk_bytes=2**20))
    np.testing.assert_array_equal(narrow, chunked)


def test_stages_and_deadline_of_the_individual_bound():
    image, operator = digit(), Preprocessing("circle", 1.0, 5, 1.5).operator(14, 14)
    received = round8(transform_image(image, 2.0, "rotation"))
    bound = individual_error_bounds(
        received, [10.0], "rotation", 5.0, operator, BoundSettings(), deadline=time.monotonic() - 1
    )
    assert true_error(image, [10.0], np.array([2.0]), "rotation", operator) <= bound[0]


@pytest.mark.parametrize("bad", [float("nan"), -1.0, float("inf")])
def test_a_senseless_attack_range_is_refused(bad):
    operator = Preprocessing().operator(6, 6)
    with pytest.raises(GeometryError):
        individual_error_bounds(picture("noise", (6, 6, 1)), [0.0], "rotation", bad, operator, SMALL)


@pytest.mark.parametrize(("shape", "transformation"), [((32, 32, 3), "rotation"), ((224, 224, 3), "translation")])
def test_large_images_are_bounded_in_bounded_memory(shape, transformation):
    image = picture("bits", shape, 1)
    gamma = np.array([0.1]) if transformation == "rotation" else np.array([0.02, -0.01])
    received = round8(transform_image(image, gamma, transformation))
    operator = Preprocessing("circle", 2.0, 9, 2.0).operator(*shape[:2])
    beta = np.array([3.0]) if transformation == "rotation" else np.array([1.3, 0.4])
    settings_ = BoundSettings(cell_width=0.05, refinements=2, cell_budget=64)
    tracemalloc.start()
    bound = individual_error_bounds(received, beta[None], transformation, 0.2, operator, settings_)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**30
    assert true_error(image, beta, gamma, transformation, operator) <= bound[0] < np.inf


def test_rotation_cover_bounds_every_beta_and_gamma():
    image, operator = digit(), Preprocessing("circle", 1.0, 5, 1.5).operator(14, 14)
    (bound,) = largest_rotation_errors(image[None], 12.0, operator)
    generator = np.random.default_rng(0)
    worst = max(
        true_error(image, [b], np.array([g]), "rotation", operator)
        for b, g in zip(generator.uniform(-400, 400, 300), generator.uniform(-12, 12, 300), strict=True)
    )
    assert worst <= bound < np.inf


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(PICTURES))
def test_rotation_cover_holds_on_any_picture_and_on_rectangular_ones(seed, kind):
    image = picture(kind, (6, 7, 1), seed)
    operator = Preprocessing("circle", 0.5, 3, 1.0).operator(6, 7)
    (bound,) = largest_rotation_errors(image[None], 3.0, operator, tolerance=2.0, budget=4000)
    generator = np.random.default_rng(seed)
    for b, g in zip(generator.uniform(-180, 180, 20), generator.uniform(-3, 3, 20), strict=True):
        assert true_error(image, [b], np.array([g]), "rotation", operator) <= bound


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(PICTURES), half_width=st.sampled_from([0.7, 1.0, 2.0]))
def test_translation_bounds_of_drawn_shifts_hold_at_every_attack(seed, kind, half_width):
    image = picture(kind, (7, 6, 1), seed)
    operator = Preprocessing("rectangle", 1.0, 3, 1.0).operator(7, 6)
    generator = np.random.default_rng(seed)
    betas = np.concatenate([generator.normal(0, 2, (4, 2)), [[0.0, 1.0], [-2.0, 0.5]]])
    bounds = translation_draw_errors(image, betas, half_width, operator)
    for beta, bound in zip(betas, bounds, strict=True):
        for gamma in generator.uniform(-half_width, half_width, (15, 2)):
            assert true_error(image, beta, gamma, "translation", operator) <= bound


def test_translation_bounds_are_attained_and_lost_content_is_noticed():
    image = np.zeros((16, 16, 1), dtype=np.float32)
    image[5:10, 6:9] = 1.0
    operator = Preprocessing("rectangle", 1.0, 3, 1.0).operator(16, 16)
    beta = np.array([0.5, 0.25])
    (bound,) = translation_draw_errors(image, beta[None], 1.0, operator)
    points = [np.array([p, q]) for p in (-0.5, 0.5) for q in (-0.25, 0.75)]
    attained = max(true_error(image, beta, gamma, "translation", operator) for gamma in points)
    assert attained <= bound <= attained + 0.06
    assert not reads_lost_content(image, np.array([[9.0, -9.0]]), 2.0, operator).any()
    image[0, 8] = 0.5
    assert reads_lost_content(image, np.array([[0.0, 3.0], [0.0, -3.0]]), 2.0, operator).tolist() == [True, False]


def test_an_attack_range_wider_than_the_image_can_lose_all_of_it():
    """Whatever content there is, at whichever border it can leave."""
    image = np.zeros((16, 16, 1), dtype=np.float32)
    image[2, 3] = 1.0
    operator = Preprocessing("rectangle", 1.0, 3, 1.0).operator(16, 16)
    draws = np.array([[0.0, 3.0], [0.0, -3.0], [3.0, 0.0], [-3.0, 0.0]])
    for half_width in (14.0, 20.0, 31.0, 40.0):
        assert reads_lost_content(image, draws, half_width, operator).all(), half_width
