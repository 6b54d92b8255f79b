"""The inverse image: the paper's example, and inclusion of the true original, whatever it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpu.geometry import cell_frames, rotate_box, source_box
from gpu.inverse import TOLERANCE, inverse_boxes, region_constraint
from gpu.warp import round8, transform_image
from tests.pictures import PICTURES, picture

UNKNOWN = (0.0, 1.0)


def frames_of(lo, hi, transformation):
    return cell_frames(np.atleast_2d(lo).astype(float), np.atleast_2d(hi).astype(float), transformation)


def test_source_box_of_the_papers_example():
    """Section 6.1: c_(5,1) = ([4.06, 4.21], [2.85, 3.11]) for gamma in [23, 26] degrees, printed to two digits."""
    frames = frames_of([23.0], [26.0], "rotation")
    box = rotate_box(*frames[0, :4], 5.0, 1.0)
    assert [round(end, 2) for end in box] == [4.06, 4.21, 2.85, 3.11]
    ours = source_box(0, frames, 0, 5.0, 1.0)
    assert box[0] <= ours[0] <= ours[1] <= box[1]
    assert box[2] <= ours[2] <= ours[3] <= box[3]


def q_star(p, x, y, i, j):
    """The paper's closed form of the constraint on pixel (i, j), from the corner (x, y) furthest from it.

    Grid spacing 2; a and b are the distances from the pixel as shares of a region's side.
    """
    a, b = abs(x - i) / 2, abs(y - j) / 2
    near = (1 - a) * (1 - b)
    return (p - (1 - near)) / near, p / near


def test_constraints_of_the_papers_example():
    """Section 6.1 with p'_(5,1) = 230/255.

    The paper prints q*_(3,3) = [0.73, 2.48] and q*_(3,1) = [0.72, 2.48]. Not all of these ends come from one
    p'_(5,1). With 230/255, and ends rounded outward to two digits as for an enclosure, the formula gives the
    printed 0.73 and 2.48 (of q*_(3,1)), but 2.43 where q*_(3,3) prints 2.48, and 0.73 where q*_(3,1) prints
    0.72; no other multiple of 1/255 gives more of them. So the test is against the formula.
    """
    p = 230 / 255
    c = rotate_box(*frames_of([23.0], [26.0], "rotation")[0, :4], 5.0, 1.0)
    expected_33, expected_31 = q_star(p, c[1], c[3], 3, 3), q_star(p, c[1], c[2], 3, 3)
    ours_33 = region_constraint(p, p, (c[0] - 3) / 2, (c[1] - 3) / 2, 0.0, (c[3] - 3) / 2, UNKNOWN, UNKNOWN, UNKNOWN)
    ours_31 = region_constraint(p, p, (c[0] - 3) / 2, (c[1] - 3) / 2, 0.0, (3 - c[2]) / 2, UNKNOWN, UNKNOWN, UNKNOWN)
    np.testing.assert_allclose(ours_33, expected_33, rtol=1e-12)
    np.testing.assert_allclose(ours_31, expected_31, rtol=1e-12)
    outward = [(math.floor(100 * low) / 100, math.ceil(100 * high) / 100) for low, high in (ours_33, ours_31)]
    assert outward == [(0.73, 2.43), (0.73, 2.48)]


@st.composite
def attacks(draw):
    """A transformation, a picture, a parameter, and a cell that holds the parameter."""
    transformation = draw(st.sampled_from(["rotation", "translation"]))
    shape = draw(st.sampled_from([(6, 6, 1), (7, 5, 1), (5, 8, 3)]))
    image = picture(draw(st.sampled_from(PICTURES)), shape, draw(st.integers(0, 1000)))
    if transformation == "rotation":
        special = st.sampled_from([0.0, 90.0, 180.0, -90.0, 45.0])
        gamma = np.array([draw(st.one_of(special, st.floats(-200, 200)))])
        width = draw(st.sampled_from([0.0, 0.05, 1.0, 10.0]))
    else:
        axis = st.one_of(st.sampled_from([0.0, 1.0, -2.0]), st.floats(-3, 3))
        gamma = np.array([draw(axis), draw(axis)])
        width = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    share = draw(st.floats(0, 1))
    return transformation, image, gamma, gamma - share * width, gamma + (1 - share) * width


@settings(max_examples=120)
@given(attack=attacks(), refinements=st.sampled_from([0, 1, 10]))
def test_the_original_is_inside_the_box_of_its_rounded_transform(attack, refinements):
    transformation, image, gamma, lo, hi = attack
    received = round8(transform_image(image, gamma, transformation))
    boxes = inverse_boxes(received, frames_of(lo, hi, transformation), transformation, refinements=refinements)
    assert not boxes.empty[0]
    assert (boxes.lower[0] <= image).all()
    assert (image <= boxes.upper[0]).all()


@settings(max_examples=60)
@given(attack=attacks())
def test_the_original_is_inside_the_box_of_its_exact_transform(attack):
    """No rounding to 8 bits: only float32 of the received pixels stands between image and equation."""
    transformation, image, gamma, lo, hi = attack
    received = transform_image(image, gamma, transformation).astype(np.float32)
    frames = frames_of(lo, hi, transformation)
    boxes = inverse_boxes(received, frames, transformation, refinements=4, tolerance=2.0**-24)
    assert not boxes.empty[0]
    assert (boxes.lower[0] <= image).all()
    assert (image <= boxes.upper[0]).all()


@settings(max_examples=40)
@given(attack=attacks(), seed=st.integers(0, 100))
@example(attack=("rotation", np.full((6, 6, 1), 0.5, np.float32), np.zeros(1), np.zeros(1), np.zeros(1)), seed=0)
def test_worst_case_rounding_anywhere_in_the_tolerance_is_allowed_for(attack, seed):
    transformation, image, gamma, lo, hi = attack
    moved = transform_image(image, gamma, transformation)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], moved.shape)
    received = np.clip(moved + signs * (TOLERANCE - 2.0**-24), 0.0, 1.0).astype(np.float32)
    boxes = inverse_boxes(received, frames_of(lo, hi, transformation), transformation, refinements=3)
    assert not boxes.empty[0]
    assert (boxes.lower[0] <= image).all()
    assert (image <= boxes.upper[0]).all()


def test_more_refinements_only_tighten():
    image = picture("noise", (8, 8, 1), 3)
    received = round8(transform_image(image, 7.0, "rotation"))
    frames = frames_of([6.9], [7.1], "rotation")
    coarse, fine = (inverse_boxes(received, frames, "rotation", refinements=r) for r in (0, 10))
    assert (coarse.lower <= fine.lower).all()
    assert (fine.upper <= coarse.upper).all()
    assert (fine.upper - fine.lower).mean() < (coarse.upper - coarse.lower).mean()


@settings(max_examples=40)
@given(attack=attacks())
def test_what_is_known_of_a_wider_cell_sharpens_a_part_of_it(attack):
    transformation, image, gamma, lo, hi = attack
    received = round8(transform_image(image, gamma, transformation))
    narrow, wide = frames_of(lo, hi, transformation), frames_of(lo - 0.1, hi + 0.2, transformation)
    first = inverse_boxes(received, wide, transformation, refinements=2)
    known = first.lower.copy(), first.upper.copy()
    fine = inverse_boxes(received, narrow, transformation, refinements=0, start=known)
    fresh = inverse_boxes(received, narrow, transformation, refinements=0)
    assert not fine.empty[0]
    for tighter, looser in ((fine, first), (fine, fresh)):
        assert (tighter.lower >= looser.lower).all()
        assert (tighter.upper <= looser.upper).all()
    assert (fine.lower[0] <= image).all()
    assert (image <= fine.upper[0]).all()
    assert (first.lower == known[0]).all()
    assert (first.upper == known[1]).all()


@pytest.mark.parametrize("transformation", ["rotation", "translation"])
def test_wrong_cells_are_found_empty_and_the_cell_of_gamma_is_not(transformation):
    image = picture("noise", (12, 12, 1), 1)
    gamma = np.array([5.03]) if transformation == "rotation" else np.array([0.63, -0.31])
    received = round8(transform_image(image, gamma, transformation))
    wrong = gamma + (4.0 if transformation == "rotation" else 1.0)
    centres = np.stack([gamma, wrong])
    frames = frames_of(centres - 0.02, centres + 0.02, transformation)
    assert inverse_boxes(received, frames, transformation, refinements=5).empty.tolist() == [False, True]


def test_content_that_could_not_have_come_from_inside_makes_a_cell_empty():
    """A shift by 3 px leaves three columns that must be zero."""
    received = np.full((6, 6, 1), 0.8, dtype=np.float32)
    frames = frames_of([3.0, 0.0], [3.0, 0.0], "translation")
    assert inverse_boxes(received, frames, "translation", refinements=0).empty[0]
