"""Error bounds of one image: at total parameters for a reference image, and for no other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from certification.vocabulary import AttackRange, ImageIs, Transformation
from gpu.cells import BoundSettings
from gpu.preprocess import GaussianOperator
from gpu.warp import round8, transform_image, warp_batch
from models.card import read_card
from models.error_bounds import ImageErrorBounds
from models.registry import load_model
from tests.models.conftest import BILINEAR, GAUSSIAN, write_model
from tests.pictures import picture

IMAGE = picture("bits", (12, 12, 1), 4)
MOVED = [Transformation.ROTATION, Transformation.TRANSLATION]


def bounds_of(tmp_path, transformation, preprocessing, image_is):
    card = write_model(tmp_path / "tiny", transformation=str(transformation), preprocessing=preprocessing)
    model = load_model(read_card(card))
    return ImageErrorBounds(model, IMAGE, AttackRange(transformation, 0.5), image_is, BoundSettings(cell_budget=256))


@pytest.mark.parametrize("preprocessing", [BILINEAR, GAUSSIAN], ids=["bilinear", "gaussian"])
@pytest.mark.parametrize("transformation", MOVED)
def test_total_bounds_hold_for_the_pixels_that_are_classified(tmp_path, transformation, preprocessing):
    """By inclusion: sampled attacks, undone so that the total stays what it is."""
    source = bounds_of(tmp_path, transformation, preprocessing, ImageIs.REFERENCE)
    generator, kind = np.random.default_rng(0), str(transformation)
    totals = generator.normal(0.0, 3.0, (4, transformation.dimensions)[: transformation.dimensions])
    bounds = source.total_error_bounds(totals)
    assert bounds.shape == (4,)
    assert np.isfinite(bounds).all()
    np.testing.assert_array_equal(source.total_error_bounds(totals[:2]), bounds[:2])
    operator = source.model.operator
    original = operator.for_original() if isinstance(operator, GaussianOperator) else operator
    once = warp_batch(IMAGE[None], totals, kind, original).astype(float)
    for gamma in generator.uniform(-0.5, 0.5, (20, transformation.dimensions)):
        attacked = round8(transform_image(IMAGE, gamma, kind))
        backwards = totals - (gamma[0] if transformation.dimensions == 1 else gamma)
        twice = warp_batch(attacked[None], backwards, kind, operator).astype(float)
        assert (np.linalg.norm((twice - once).reshape(4, -1), axis=1) <= bounds).all()


def test_what_needs_the_clean_image_is_refused_for_a_received_one(tmp_path):
    source = bounds_of(tmp_path, Transformation.ROTATION, GAUSSIAN, ImageIs.RECEIVED)
    with pytest.raises(ValueError, match="reference"):
        source.total_error_bounds(np.zeros(2))
    with pytest.raises(ValueError, match="reference"):
        source.sampled_error(0.5, 3)


@pytest.mark.parametrize("transformation", MOVED)
def test_the_sampled_error_is_the_largest_of_those_on_the_grid(tmp_path, transformation):
    source = bounds_of(tmp_path, transformation, GAUSSIAN, ImageIs.REFERENCE)
    operator, kind, axis = source.model.operator, str(transformation), (-0.5, -0.25, 0.0, 0.25, 0.5)
    grid = axis if transformation.dimensions == 1 else list(itertools.product(axis, axis))
    errors = []
    for gamma in grid:
        attacked = round8(transform_image(IMAGE, np.array(gamma), kind))
        before = warp_batch(attacked[None], np.zeros_like([gamma]), kind, operator)
        after = warp_batch(IMAGE[None], np.array([gamma]), kind, operator.for_original())
        errors.append(np.linalg.norm(before - after))
    assert source.sampled_error(0.5, 5) == pytest.approx(max(errors), rel=1e-5)
    assert source.sampled_error(0.5, 1) <= source.sampled_error(0.5, 5) <= source.bound_for_all()


def test_a_bilinear_interpolation_has_no_sampled_error(tmp_path):
    with pytest.raises(ValueError, match="Gaussian"):
        bounds_of(tmp_path, Transformation.ROTATION, BILINEAR, ImageIs.REFERENCE).sampled_error(0.5, 3)
