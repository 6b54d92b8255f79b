"""Batches of votes: of one shape, full across parameters, bounded in memory, refused for a wrong image."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import torch

from certification.plan import CertificationPlan
from certification.protocols import ErrorBoundSource, VoteSource
from certification.vocabulary import AttackRange, Guarantee, ImageIs, Transformation
from gpu.cells import BoundSettings
from gpu.warp import round8, transform_image, warp_batch
from models.calibrate import Limits, image_bounds
from models.card import read_card
from models.error_bounds import ImageErrorBounds
from models.registry import load_model
from models.votes import BaseClassifierVotes
from tests.certification.sources import CALIBRATION
from tests.models.conftest import BILINEAR, GAUSSIAN, write_model
from tests.pictures import picture

IMAGE = picture("bits", (12, 12, 1), 4)
KINDS = [
    (Transformation.ROTATION, "rotation"),
    (Transformation.TRANSLATION, "translation"),
    (Transformation.L2, "rotation"),
]


def load(tmp_path, trained_for="rotation", **more):
    return load_model(read_card(write_model(tmp_path / "tiny", transformation=trained_for, **more)))


class Recorder(torch.nn.Module):
    """Passes images on and keeps them."""

    def __init__(self, network):
        super().__init__()
        self.network, self.seen = network, []

    def forward(self, images):
        self.seen.append(images.clone())
        return self.network(images)


def record(model):
    object.__setattr__(model, "network", Recorder(model.network))
    return model.network.seen


@pytest.mark.parametrize(("transformation", "trained_for"), KINDS)
def test_votes_at_equal_a_naive_loop_over_what_the_network_saw(tmp_path, transformation, trained_for):
    """Oracle: P T_beta x by itself, and one image a forward pass; 3 x 11 votes in batches of 8."""
    model = load(tmp_path, trained_for)
    network, seen = model.network, record(model)
    votes = BaseClassifierVotes(model, IMAGE, transformation, key=bytes([3]), batch_size=8)
    betas = votes.draw_parameters(3)
    counts = votes.votes_at(np.arange(3), np.full(3, 11), label=1)
    images = torch.cat(seen)[:33]
    with torch.inference_mode():
        expected = [int(network(image[None]).argmax()) == 1 for image in images]
    assert counts.tolist() == np.reshape(expected, (3, 11)).sum(axis=1).tolist()
    kind = "translation" if transformation is Transformation.L2 else str(transformation)
    clean = np.repeat(warp_batch(IMAGE[None], betas, kind, model.operator), 11, axis=0)
    residual = images.numpy() - clean
    # five standard errors of a mean and of a standard deviation
    assert abs(residual.mean()) < 5 * 0.3 / np.sqrt(residual.size)
    assert abs(residual.std() - 0.3) < 5 * 0.3 / np.sqrt(2 * residual.size)
    assert abs(np.corrcoef(residual[:-1].ravel(), residual[1:].ravel())[0, 1]) < 5 / np.sqrt(residual.size)


def test_every_batch_has_one_shape_and_none_is_more_than_needed(tmp_path):
    model = load(tmp_path)
    seen = record(model)
    votes = BaseClassifierVotes(model, IMAGE, Transformation.ROTATION, key=bytes([3]), batch_size=16)
    votes.draw_parameters(7)
    votes.votes_at(np.arange(7), np.full(7, 13), label=0)
    votes.class_counts(35, pixel_noise=True)
    assert {tuple(batch.shape) for batch in seen} == {(16, 1, 12, 12)}
    assert len(seen) == -(-7 * 13 // 16) + -(-35 // 16)
    assert votes.votes == 7 * 13 + 35


class Undecided(torch.nn.Module):
    """A random linear classifier of three classes: pixel noise and parameter decide together."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weights", torch.randn((3, 144), generator=torch.Generator().manual_seed(2)))

    def forward(self, images):
        return images.flatten(1) @ self.weights.T


def votes_by(model, batch_size, rounds, transformation=Transformation.ROTATION):
    """Votes for class 0 at 5 draws after some rounds of (draw, count), and the images seen, by (draw, vote)."""
    votes = BaseClassifierVotes(model, IMAGE, transformation, key=b"schedule", batch_size=batch_size)
    total = np.zeros(5, dtype=np.int64)
    for asked in rounds:
        draws, counts = np.array(asked).T
        if votes.drawn <= draws.max():
            votes.draw_parameters(int(draws.max()) + 1 - votes.drawn)
        total[draws] += votes.votes_at(draws, counts, label=0)
    return total


@pytest.mark.parametrize("transformation", [Transformation.ROTATION, Transformation.L2])
def test_the_same_key_gives_the_same_votes_on_any_schedule_and_in_batches_of_any_size(tmp_path, transformation):
    """40 votes at each of 5 draws: at once, in two orders, one by one, and with batches of 3 to 512."""
    model = load(tmp_path)
    object.__setattr__(model, "network", Undecided())
    whole = [[(i, 40) for i in range(5)]]
    expected = votes_by(model, 512, whole, transformation)
    assert 20 < expected.sum() < 180
    schedules = [
        whole,
        [[(4, 40), (2, 1), (0, 39)], [(3, 40), (1, 40), (2, 39), (0, 1)]],
        [[(i, 1)] for _ in range(40) for i in (1, 0, 4, 3, 2)],
    ]
    for schedule in schedules:
        for batch_size in (3, 64, 256):
            assert votes_by(model, batch_size, schedule, transformation).tolist() == expected.tolist()


def test_parameters_do_not_depend_on_how_many_are_drawn_at_once(tmp_path):
    model = load(tmp_path)
    one, two = (BaseClassifierVotes(model, IMAGE, Transformation.ROTATION, key=b"k") for _ in range(2))
    parts = np.concatenate([one.draw_parameters(n) for n in (1, 255, 3, 700, 41)])
    assert parts.tolist() == two.draw_parameters(1000).tolist()


def test_without_pixel_noise_the_network_sees_the_warped_image_alone(tmp_path):
    model = load(tmp_path, "translation")
    seen = record(model)
    votes, twin = (
        BaseClassifierVotes(model, IMAGE, Transformation.TRANSLATION, key=bytes([5]), batch_size=8) for _ in range(2)
    )
    votes.class_counts(8, pixel_noise=False)
    expected = warp_batch(IMAGE[None], twin.draw_parameters(8), "translation", model.operator)
    np.testing.assert_array_equal(seen[0].numpy(), expected)


def test_memory_does_not_grow_with_the_number_of_votes(tmp_path):
    """Every tensor that the network or its input need is one batch large, however many votes are asked for."""
    model = load(tmp_path)
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                sizes.append(result.numel())
            return result

    votes = BaseClassifierVotes(model, IMAGE, Transformation.ROTATION, key=bytes([5]), batch_size=32)
    with Watch():
        votes.draw_parameters(4)
        votes.votes_at(np.arange(4), np.full(4, 700), label=0)
        votes.class_counts(3000, pixel_noise=True)
    batch = 32 * 32 * 6 * 6  # the first convolution's output, the largest thing there is
    assert 32 * 144 <= max(sizes) <= batch


def test_streams_of_parameters_and_of_pixel_noise_are_independent(tmp_path):
    """Parameters do not depend on how much pixel noise was drawn before them."""
    model = load(tmp_path)
    one, two = (
        BaseClassifierVotes(model, IMAGE, Transformation.ROTATION, key=bytes([5]), batch_size=8) for _ in range(2)
    )
    one.draw_parameters(3)
    two.draw_parameters(3)
    one.votes_at(np.arange(3), np.full(3, 10), label=0)
    assert one.draw_parameters(6).tolist() == two.draw_parameters(6).tolist()


def test_an_image_or_a_transformation_that_does_not_fit_is_refused(tmp_path):
    model = load(tmp_path)
    with pytest.raises(ValueError, match="tiny takes images"):
        BaseClassifierVotes(model, np.zeros((12, 12, 3), np.float32), Transformation.ROTATION, key=bytes([1]))
    with pytest.raises(ValueError, match="not for translation"):
        BaseClassifierVotes(model, IMAGE, Transformation.TRANSLATION, key=bytes([1]))


@pytest.mark.parametrize(
    ("guarantee", "preprocessing"),
    [(Guarantee.INDIVIDUAL, BILINEAR), (Guarantee.INDIVIDUAL, GAUSSIAN), (Guarantee.DISTRIBUTIONAL, GAUSSIAN)],
    ids=["individual-bilinear", "individual-gaussian", "distributional-gaussian"],
)
@pytest.mark.parametrize("image_is", list(ImageIs))
@pytest.mark.parametrize("transformation", [Transformation.ROTATION, Transformation.TRANSLATION])
def test_error_bounds_are_about_what_votes_are_cast_on(tmp_path, transformation, image_is, guarantee, preprocessing):
    """What a certificate measures and what it is about, the attacked and the original image, by sampled attacks."""
    model = load(tmp_path, str(transformation), preprocessing=preprocessing)
    kind, attack_range = str(transformation), AttackRange(transformation, 0.5)
    plan = CertificationPlan(
        transformation=transformation, guarantee=guarantee, attack_range=attack_range, sigma_gamma=20.0,
        sigma_delta=0.3, image_is=image_is, bound_for_all=model.bound_for_all,
        calibration=replace(CALIBRATION, transformation=transformation, sigma_gamma=20.0),
    )  # fmt: skip
    through = model.measured_through(plan)
    settings = BoundSettings(cell_width=0.25, refinements=3, cell_budget=256)
    votes: VoteSource = BaseClassifierVotes(model, IMAGE, transformation, key=bytes([1]), operator=through)
    betas = votes.draw_parameters(3)
    for gamma in np.random.default_rng(0).uniform(-0.5, 0.5, (6,) if kind == "rotation" else (6, 2)):
        attacked = round8(transform_image(IMAGE, gamma, kind))
        received = image_is is ImageIs.RECEIVED
        before, after = (through, model.operator) if received else (model.operator, through)
        errors = warp_batch(attacked[None], betas, kind, before) - warp_batch(IMAGE[None], betas + gamma, kind, after)
        if guarantee is Guarantee.DISTRIBUTIONAL:
            task = Namespace(transformation=kind, attack_range=0.5, image_is=str(image_is))
            ((bound, _),) = image_bounds(IMAGE[None], np.arange(1), Limits(0.0), task, model.operator)
        else:
            held = attacked if received else IMAGE
            source: ErrorBoundSource = ImageErrorBounds(model, held, attack_range, image_is, settings)
            bound = source.error_bounds(betas)
        sizes = np.linalg.norm(errors.astype(float).reshape(3, -1), axis=1)
        assert (sizes > 0.0).any()
        assert (sizes <= bound).all()


@pytest.mark.parametrize(
    ("transformation", "guarantee"),
    [(Transformation.ROTATION, Guarantee.HEURISTIC), (Transformation.L2, Guarantee.INDIVIDUAL)],
)
def test_a_guarantee_without_error_bounds_is_measured_as_it_is_served(tmp_path, transformation, guarantee):
    model = load(tmp_path, preprocessing=GAUSSIAN)
    plan = CertificationPlan(
        transformation=transformation, guarantee=guarantee, attack_range=AttackRange(transformation, 0.1),
        sigma_gamma=20.0, sigma_delta=0.3, image_is=ImageIs.REFERENCE,
    )  # fmt: skip
    assert model.measured_through(plan) is model.operator


def test_votes_are_cast_behind_the_operator_that_was_asked_for(tmp_path):
    model = load(tmp_path, preprocessing=GAUSSIAN)
    seen, other = record(model), model.operator.for_original()
    votes = BaseClassifierVotes(model, IMAGE, Transformation.ROTATION, key=bytes([3]), operator=other, batch_size=4)
    votes.class_counts(4, pixel_noise=False)
    again = BaseClassifierVotes(model, IMAGE, Transformation.ROTATION, key=bytes([3]))
    betas = again.draw_parameters(4)
    np.testing.assert_array_equal(seen[0].numpy(), warp_batch(IMAGE[None], betas, "rotation", other))
    assert np.abs(seen[0].numpy() - warp_batch(IMAGE[None], betas, "rotation", model.operator)).max() > 0.005


def test_only_a_smooth_interpolation_has_one_bound_for_all_draws(tmp_path):
    attack_range = AttackRange(Transformation.ROTATION, 2.0)
    bilinear, smooth = load(tmp_path / "a"), load(tmp_path / "b", preprocessing=GAUSSIAN)
    assert (bilinear.bound_for_all, smooth.bound_for_all) == (False, True)
    for image_is in ImageIs:
        source = ImageErrorBounds(smooth, IMAGE, attack_range, image_is, BoundSettings())
        every = source.error_bounds(np.linspace(-50.0, 50.0, 4))
        assert every.tolist() == [source.bound_for_all()] * 4
        with pytest.raises(ValueError, match="no error bound for all"):
            ImageErrorBounds(bilinear, IMAGE, attack_range, image_is, BoundSettings()).bound_for_all()
