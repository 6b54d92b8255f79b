"""The pixels: against an independent twin, torchvision, and exact cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu.geometry import GeometryError, attack_cells
from gpu.preprocess import Preprocessing, PreprocessingError
from gpu.warp import round8, transform_image, warp_batch
from models.torchvision_compat import torchvision
from tests.naive import naive_preprocess, naive_transform

SHAPES = [(7, 8, 1), (6, 6, 3), (5, 5, 1), (1, 4, 1)]


def image_of(shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("angle", [0.0, 17.3, 45.0, 90.0, -133.0, 180.0, 359.0, 725.5])
def test_rotation_equals_the_naive_twin(shape, angle):
    image = image_of(shape)
    np.testing.assert_allclose(
        transform_image(image, angle, "rotation"), naive_transform(image, angle, "rotation"), atol=1e-12
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shift", [(0.0, 0.0), (1.0, -2.0), (0.25, 0.75), (-1.5, 3.1), (40.0, 0.0)])
def test_translation_equals_the_naive_twin(shape, shift):
    image = image_of(shape)
    np.testing.assert_allclose(
        transform_image(image, shift, "translation"), naive_transform(image, shift, "translation"), atol=1e-12
    )


@pytest.mark.parametrize("angle", [0.0, 17.3, 90.0, -133.0])
@pytest.mark.parametrize("shape", [(7, 8, 3), (28, 28, 1), (33, 20, 1)])
def test_rotation_turns_like_torchvision_rotate_and_against_affine(shape, angle):
    """Oracle: torchvision's rotate and affine (float32, so a few 1e-6 of tolerance)."""
    image = image_of(shape)
    tensor = torch.from_numpy(image.transpose(2, 0, 1))
    functional = torchvision.transforms.functional
    bilinear = torchvision.transforms.InterpolationMode.BILINEAR
    ours = transform_image(image, angle, "rotation").transpose(2, 0, 1)
    np.testing.assert_allclose(ours, functional.rotate(tensor, angle, interpolation=bilinear), atol=5e-6)
    other = functional.affine(tensor, -angle, [0, 0], 1.0, [0.0], interpolation=bilinear)
    np.testing.assert_allclose(ours, other, atol=5e-6)


def test_translation_moves_right_and_down_like_torchvision_affine():
    image = image_of((9, 12, 1))
    tensor = torch.from_numpy(image.transpose(2, 0, 1))
    moved = torchvision.transforms.functional.affine(
        tensor, 0.0, [3, -2], 1.0, [0.0], interpolation=torchvision.transforms.InterpolationMode.BILINEAR
    )
    np.testing.assert_allclose(transform_image(image, (3, -2), "translation").transpose(2, 0, 1), moved, atol=5e-6)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, -1, 5])
@pytest.mark.parametrize("size", [5, 6])
def test_quarter_turns_permute_the_pixels_exactly(turns, size):
    image = image_of((size, size, 1))
    assert np.array_equal(transform_image(image, 90.0 * turns, "rotation"), np.rot90(image, turns).astype(float))


@settings(max_examples=25)
@given(
    angle=st.floats(-1000, 1000), vignette=st.sampled_from(["none", "circle", "rectangle"]),
    margin=st.floats(0, 2), blur=st.sampled_from([1, 3, 5, 9]), sigma=st.floats(0.3, 4),
)  # fmt: skip
def test_warp_is_preprocessing_of_the_transform(angle, vignette, margin, blur, sigma):
    """Oracle: the naive twin of P on the naive twin of T."""
    settings_ = Preprocessing(vignette, margin, blur, sigma)
    image = image_of((7, 6, 3))
    warped = warp_batch(image[None], [angle], "rotation", settings_.operator(7, 6))
    expected = naive_preprocess(naive_transform(image, angle, "rotation"), settings_)
    np.testing.assert_allclose(warped[0], expected, atol=1e-6)


def test_resize_and_crop_keep_a_constant_image_and_have_norm_at_most_their_bound():
    settings_ = Preprocessing(resize=(5, 7), crop=(3, 3))
    operator = settings_.operator(12, 10)
    out = operator.apply(np.full((1, 12, 10, 1), 0.5, dtype=np.float32))
    np.testing.assert_allclose(out, np.full((1, 1, 3, 3), 0.5), atol=1e-7)
    matrix = np.kron(operator.rows.dense(), operator.columns.dense())
    assert np.linalg.norm(matrix, 2) <= operator.norm_bound


@pytest.mark.parametrize("settings_", [Preprocessing("circle", 1.5, 9, 2.0), Preprocessing("rectangle", 3.0, 11, 3.0)])
def test_spectral_norm_of_the_blur_is_below_its_bound(settings_):
    operator = settings_.operator(12, 12)
    matrix = np.kron(operator.rows.dense(), operator.columns.dense()) * operator.mask.reshape(1, -1)
    assert np.linalg.norm(matrix, 2) <= operator.norm_bound <= 1.01


def test_one_image_a_parameter_and_one_image_for_all_agree():
    operator = Preprocessing("circle", 0.5, 3, 1.0).operator(8, 8)
    images = image_of((4, 8, 8, 1))
    angles = np.array([0.0, 10.0, 20.0, 30.0])
    together = warp_batch(images, angles, "rotation", operator)
    alone = [warp_batch(images[k : k + 1], angles[k : k + 1], "rotation", operator)[0] for k in range(4)]
    assert np.array_equal(together, np.stack(alone))


@pytest.mark.parametrize(
    ("images", "parameters"),
    [
        (np.full((1, 4, 4, 1), np.nan), [0.0]),
        (np.full((1, 4, 4, 1), 1.5), [0.0]),
        (np.zeros((4, 4, 1)), [0.0]),
        (np.zeros((1, 4, 4, 1)), [np.inf]),
        (np.zeros((1, 4, 4, 1)), [[0.0, 1.0]]),
        (np.zeros((3, 4, 4, 1)), [0.0, 1.0]),
        (np.zeros((1, 5, 4, 1)), [0.0]),
    ],
)
def test_bad_input_is_refused(images, parameters):
    with pytest.raises(GeometryError):
        warp_batch(images, parameters, "rotation", Preprocessing().operator(4, 4))


def test_unknown_transformations_and_bad_settings_are_refused():
    with pytest.raises(GeometryError, match="transformation"):
        transform_image(image_of((4, 4, 1)), 0.0, "scaling")
    for bad in (
        {"vignette": "star"}, {"blur_size": 2}, {"margin": -1.0}, {"blur_sigma": float("nan")}, {"crop": (0, 1)},
    ):  # fmt: skip
        with pytest.raises(PreprocessingError):
            Preprocessing(**bad)
    with pytest.raises(PreprocessingError, match="larger"):
        Preprocessing(crop=(9, 9)).operator(8, 8)
    with pytest.raises(PreprocessingError, match="no pixel"):
        Preprocessing("circle", 10.0).operator(8, 8)


def test_round8_is_the_nearest_multiple_and_idempotent():
    image = image_of((9, 9, 1))
    rounded = round8(image)
    assert np.abs(rounded - image).max() <= 1 / 510 + 1e-7
    assert np.array_equal(round8(rounded), rounded)


@pytest.mark.parametrize(("transformation", "count"), [("rotation", 7), ("translation", 49)])
def test_cells_cover_the_attack_range_without_gaps(transformation, count):
    lo, hi = attack_cells(2.0, 0.6, transformation)
    assert len(lo) == count
    assert lo.min() == -2.0
    assert hi.max() == 2.0
    assert set(np.unique(lo)) | {2.0} == set(np.unique(hi)) | {-2.0}
