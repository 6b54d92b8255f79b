"""Error bounds at total parameters, by inclusion: no sampled attack may err more; and they are nearly attained."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu.cells import BoundSettings
from gpu.chord_bodies import arc_deviation, framed_value
from gpu.error_bound import forward_error_bounds
from gpu.geometry import GeometryError
from gpu.inverse import TOLERANCE
from gpu.preprocess import GaussianOperator, Preprocessing
from gpu.total_error import TotalErrors
from gpu.total_shift import axis_controls
from gpu.warp import round8, transform_image, warp_batch
from tests.naive import naive_preprocess, naive_transform
from tests.pictures import PICTURES, picture

BLUR = Preprocessing("circle", 0.5, 5, 1.5)


def true_errors(image, total, gammas, transformation, operator):
    """|P T_(t-gamma) round8(T_gamma x) - P T_t x|_2 of the pixels that are classified, at each gamma [K, d].

    With Gaussian interpolation x is read through a wider filter than the attacked image.
    """
    total = np.atleast_1d(total)
    original = operator.for_original() if isinstance(operator, GaussianOperator) else operator
    attacked = np.stack([round8(transform_image(image, gamma, transformation)) for gamma in gammas])
    twice = warp_batch(attacked, total[None] - gammas, transformation, operator)
    once = warp_batch(image[None], total[None], transformation, original)
    return np.sqrt(np.square(twice.astype(float) - once.astype(float)).sum(axis=(1, 2, 3)))


def naive_error(image, total, gamma, transformation, chosen):
    """The same from the definitions, before the attacked image is rounded."""
    twice = naive_transform(naive_transform(image, gamma, transformation), total - gamma, transformation)
    once = naive_transform(image, total, transformation)
    return np.linalg.norm(naive_preprocess(twice, chosen) - naive_preprocess(once, chosen))


def digit(size=28, shift=0.0):
    """A smooth blob and a stroke off the centre, as a stand-in for a digit."""
    rows, columns = np.indices((size, size))
    blob = np.exp(-((rows - 0.4 * size) ** 2 + (columns - (0.55 + shift) * size) ** 2) / (0.01 * size * size))
    stroke = np.exp(-((columns - 0.35 * size) ** 2) / 3.0) * (abs(rows - 0.5 * size) < 0.25 * size)
    return round8(np.where(blob + stroke > 0.05, np.minimum(blob + stroke, 1.0), 0.0))[:, :, None]


@st.composite
def cases(draw):
    transformation = draw(st.sampled_from(["rotation", "translation"]))
    shape = draw(st.sampled_from([(6, 6, 1), (7, 5, 1), (6, 7, 3)]))
    image = picture(draw(st.sampled_from(PICTURES)), shape, draw(st.integers(0, 1000)))
    vignette, margin = draw(st.sampled_from(["none", "circle", "rectangle"])), draw(st.sampled_from([0.0, 1.0]))
    chosen = Preprocessing(vignette, margin, draw(st.sampled_from([1, 3])), 1.0)
    if draw(st.integers(0, 9)) == 0:
        chosen = Preprocessing(vignette, margin, blur_sigma=1.5, interpolation="gaussian", taper=1.5)
    if draw(st.integers(0, 3)) == 0 and chosen.interpolation == "bilinear":
        chosen = replace(chosen, resize=(5, 9), crop=(4, 8))
    if transformation == "rotation":
        half_width = draw(st.sampled_from([0.0, 1.0, 10.0, 100.0, 200.0]))
        total = np.array([draw(st.one_of(st.sampled_from([0.0, 90.0, 180.0, -810.0]), st.floats(-300, 300)))])
        special = st.sampled_from([0.0, half_width, -half_width, min(half_width, 90.0)])
    else:
        half_width = draw(st.sampled_from([0.0, 0.3, 0.5, 1.0, 1.25, 2.0]))
        axis = st.one_of(st.sampled_from([0.0, 1.0, -2.0, 0.5]), st.floats(-4, 4))
        total = np.array([draw(axis), draw(axis)])
        near = float(np.clip(0.5 * (total[0] - np.floor(total[0])), 0.0, half_width))
        special = st.sampled_from([0.0, half_width, -half_width, near, -near])
    inside = st.one_of(special, st.floats(-half_width, half_width))
    gammas = np.array([[draw(inside) for _ in total] for _ in range(4)])
    return transformation, image, chosen.operator(*shape[:2]), half_width, total, gammas


@settings(max_examples=150)
@given(case=cases(), budget=st.sampled_from([1, 60, 1000]))
def test_no_attack_errs_more_than_the_bound_at_its_total_parameter(case, budget):
    transformation, image, operator, half_width, total, gammas = case
    source = TotalErrors(image, transformation, half_width, operator, BoundSettings(cell_budget=budget))
    (bound,) = source.bounds(total[None])
    assert true_errors(image, total, gammas, transformation, operator).max() <= bound < np.inf


@settings(max_examples=400)
@given(
    seed=st.integers(0, 10_000), width=st.floats(0.001, 0.6), x=st.floats(-4, 4), y=st.floats(-4, 4),
    share=st.floats(0, 1), rounding=st.sampled_from([-1, 1]), stray=st.sampled_from([1e-6, 0.1]),
)  # fmt: skip
def test_a_moving_chord_stays_within_the_arc_deviation_of_its_own_chord(seed, width, x, y, share, rounding, stray):
    """Oracle: the chord of images plus a stray image, read at the turned point."""
    generator = np.random.default_rng(seed)
    chord = np.zeros((3, 8, 7))
    chord[:, 1:-1, 1:-1] = generator.random((3, 6, 5)) * (generator.random((6, 5)) < 0.7)
    chord[2] *= stray

    def read(part):
        image = (1 - part) * chord[:1] + part * chord[1:2] + (0.0 if part in (0, 1) else rounding) * chord[2:]
        angle = (0.5 - part) * width
        turned_x, turned_y = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
        return framed_value(image, 0, turned_y + 2.5, turned_x + 2.0)

    expected = (1 - share) * read(0) + share * read(1)
    assert abs(read(share) - expected) <= arc_deviation(chord, width, x, y) + 1e-12


@settings(max_examples=200)
@given(
    total=st.floats(-3, 3), half_width=st.sampled_from([0.0, 0.2, 0.75, 1.0, 2.5]), share=st.floats(-1, 1),
    seed=st.integers(0, 10_000),
)  # fmt: skip
def test_every_shift_lies_between_the_control_points_of_its_axis(total, half_width, share, seed):
    """Oracle: two bilinear shifts of the frame as dense matrices; any linear form is largest at a control point."""
    size, g = 6, share * half_width
    whole = int(np.floor(total))

    def shift(by):
        rows = np.arange(size)
        return np.maximum(0.0, 1.0 - abs(rows[:, None] - by - rows[None, :]))

    form = np.random.default_rng(seed).normal(size=(size, size))
    controls = []
    for weights in axis_controls(total, half_width, size):
        matrix = np.zeros((size, size))
        for j in range(size):
            for o in range(4):
                if 0 <= j + whole - 1 + o < size:
                    matrix[j + whole - 1 + o, j] += weights[j, o]
        controls.append((form * matrix).sum())
    value = (form * (shift(total - g) @ shift(g))).sum()
    assert min(controls) - 1e-9 <= value <= max(controls) + 1e-9


@pytest.mark.parametrize(("transformation", "half_width"), [("rotation", 3.0), ("translation", 0.5)])
def test_the_rounding_of_the_attacked_image_is_counted(transformation, half_width):
    """Bilinear interpolation of a plane is exact, so that rounding is all the error there is."""
    rows, columns = np.indices((12, 12))
    image = ((40 + 3 * rows + 7 * columns) / 255).astype(np.float32)[:, :, None]
    operator, generator = Preprocessing("rectangle", 3.0).operator(12, 12), np.random.default_rng(2)
    dimensions = 1 if transformation == "rotation" else 2
    total = np.full(dimensions, 1.3)
    (bound,) = TotalErrors(image, transformation, half_width, operator, BoundSettings()).bounds(total[None])
    gammas = generator.uniform(-half_width, half_width, (200, dimensions))
    assert 0.3 * bound <= true_errors(image, total, gammas, transformation, operator).max() <= bound


@pytest.mark.parametrize("kind", ["noise", "border", "blob"])
@pytest.mark.parametrize("total", [(0.4, -1.3), (0.0, 2.0), (-0.5, 0.75)])
def test_shift_bounds_are_a_naive_maximum_but_for_rounding(kind, total):
    """Oracle: the definitions, on a grid of gamma that holds the points where interior errors are largest."""
    chosen = Preprocessing("rectangle", 1.0, 3, 1.0)
    image = digit(9) if kind == "blob" else picture(kind, (7, 6, 1), 3)
    operator, total, half_width = chosen.operator(*image.shape[:2]), np.array(total), 1.0
    (bound,) = TotalErrors(image, "translation", half_width, operator, BoundSettings()).bounds(total[None])
    points = []
    for t in total:
        middles = (t - np.floor(t)) / 2 + np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
        points.append([g for g in (*middles, -1.0, 0.0, 1.0) if abs(g) <= half_width])
    worst = max(
        naive_error(image, total, np.array([gx, gy]), "translation", chosen) for gx in points[0] for gy in points[1]
    )
    rounding = operator.norm_bound * TOLERANCE * np.sqrt(image.size) + 1e-5
    assert worst <= bound + 1e-6
    assert bound <= (1.0 if kind == "blob" else 1.15) * worst + rounding


def test_turn_bounds_are_near_a_naive_maximum_on_a_small_image():
    chosen, image = Preprocessing("circle", 0.5, 3, 1.0), digit(9)
    source = TotalErrors(image, "rotation", 20.0, chosen.operator(9, 9), BoundSettings(), tolerance=0.02)
    for total, bound in zip((13.0, 90.0), source.bounds([13.0, 90.0]), strict=True):
        worst = max(naive_error(image, total, gamma, "rotation", chosen) for gamma in np.linspace(-20, 20, 161))
        assert worst <= bound + TOLERANCE * 9
        assert bound <= 1.1 * worst


NEAR = [("rotation", 30.0, 1.06), ("translation", 1.0, 1.1)]


@pytest.mark.parametrize(("transformation", "half_width", "most"), NEAR)
def test_bounds_of_a_digit_are_near_the_largest_error_of_a_thousand_attacks(transformation, half_width, most):
    image, operator, generator = digit(), BLUR.operator(28, 28), np.random.default_rng(5)
    dimensions = 1 if transformation == "rotation" else 2
    totals = generator.normal(0.0, half_width, (5, dimensions))
    bounds = TotalErrors(image, transformation, half_width, operator, BoundSettings()).bounds(totals)
    ratios = []
    for total, bound in zip(totals, bounds, strict=True):
        gammas = generator.uniform(-half_width, half_width, (1000, dimensions))
        ratios.append(bound / true_errors(image, total, gammas, transformation, operator).max())
    assert min(ratios) >= 1.0
    assert np.median(ratios) <= most


def test_refinement_stops_at_target_budget_or_deadline_and_stays_valid():
    image, operator, totals = digit(14), BLUR.operator(14, 14), np.linspace(-60.0, 60.0, 7)
    fine = TotalErrors(image, "rotation", 20.0, operator, BoundSettings()).bounds(totals)
    source = TotalErrors(image, "rotation", 20.0, operator, BoundSettings(cell_budget=1, chunk_bytes=2**20))
    coarse = source.bounds(totals)
    assert (fine < coarse).all()
    target = 1.2 * float(fine.max())
    aimed = TotalErrors(image, "rotation", 20.0, operator, BoundSettings()).bounds(totals, target=target)
    assert (fine <= aimed).all()
    assert (aimed <= target).all()
    late = TotalErrors(image, "rotation", 20.0, operator, BoundSettings()).bounds(totals, deadline=time.monotonic() - 1)
    assert (fine < late).all()
    assert np.isfinite(late).all()
    shifted = TotalErrors(image, "translation", 1.0, operator, BoundSettings())
    assert np.isinf(shifted.bounds(np.zeros((2, 2)), deadline=time.monotonic() - 1)).all()
    parts = np.concatenate([source.bounds(totals[:2]), source.bounds(totals[2:])])
    np.testing.assert_array_equal(parts, coarse)


def test_a_wider_attack_range_has_no_smaller_bound_and_no_range_leaves_the_rounding():
    image, operator, totals = digit(14), BLUR.operator(14, 14), np.array([[0.3, -1.2], [2.0, 0.5]])
    small, wide = (
        TotalErrors(image, "translation", half_width, operator, BoundSettings()).bounds(totals)
        for half_width in (0.25, 1.5)
    )
    assert (small <= wide * (1 + 1e-9)).all()
    still = TotalErrors(image, "translation", 0.0, operator, BoundSettings()).bounds(totals)
    assert (still <= TOLERANCE * 14 + 1e-4).all()


def test_gaussian_operators_have_one_bound_for_all_parameters():
    operator = Preprocessing("circle", blur_sigma=1.5, interpolation="gaussian").operator(6, 6)
    image = picture("bits", (6, 6, 1), 2)
    bounds = TotalErrors(image, "rotation", 5.0, operator, BoundSettings()).bounds([0.0, 77.0])
    assert (bounds == forward_error_bounds(image, [0.0, 77.0], "rotation", 5.0, operator, BoundSettings())).all()


@pytest.mark.parametrize("bad", [{"half_width": -1.0}, {"half_width": np.nan}, {"transformation": "shear"}])
def test_senseless_arguments_are_refused(bad):
    good = {"reference": digit(6), "transformation": "rotation", "half_width": 5.0}
    with pytest.raises(GeometryError):
        TotalErrors(**{**good, **bad}, operator=BLUR.operator(6, 6), settings=BoundSettings())
    with pytest.raises(GeometryError):
        TotalErrors(**good, operator=BLUR.operator(7, 6), settings=BoundSettings()).bounds([0.0])
    with pytest.raises(GeometryError):
        TotalErrors(**good, operator=BLUR.operator(6, 6), settings=BoundSettings()).bounds([np.nan])
