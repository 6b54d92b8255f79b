"""Votes: against a naive loop, whatever the batch; fresh, reproducible, and failing closed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from certification.vocabulary import Transformation
from gpu.warp import warp_batch
from models.card import read_card
from models.registry import load_model
from models.votes import BaseClassifierVotes, default_batch_size
from tests.models.conftest import write_model
from tests.pictures import picture


@pytest.fixture
def model(tmp_path):
    return load_model(read_card(write_model(tmp_path / "tiny")))


IMAGE = picture("noise", (12, 12, 1), 2)


def votes_of(model, *, seed=1, batch_size=16, transformation=Transformation.ROTATION):
    return BaseClassifierVotes(model, IMAGE, transformation, key=bytes([seed]), batch_size=batch_size)


def test_votes_without_noise_equal_a_naive_loop(model):
    votes, twin = votes_of(model), votes_of(model)
    counts = votes.class_counts(50, pixel_noise=False)
    expected = np.zeros(3, dtype=np.int64)
    # The same stream of parameters, in the same portions.
    for size in (16, 16, 16, 2):
        for beta in twin.draw_parameters(size):
            u = torch.from_numpy(warp_batch(IMAGE[None], [beta], "rotation", model.operator))
            with torch.inference_mode():
                expected[int(model.network(u).argmax())] += 1
    assert counts.tolist() == expected.tolist()
    assert votes.votes == 50


def test_votes_at_counts_n_delta_votes_a_parameter_whatever_the_batch(model):
    for batch_size in (7, 16, 64):
        found = []
        for k in range(3):
            votes = votes_of(model, batch_size=batch_size)
            votes.draw_parameters(5)
            found.append(votes.votes_at(np.arange(5), np.full(5, 30), label=k))
        assert sum(found).tolist() == [30] * 5


def test_votes_at_follow_the_probability_of_the_label(model):
    """Oracle: 20,000 noisy copies classified directly; tolerance of five standard errors."""
    votes = votes_of(model, batch_size=256)
    betas = votes.draw_parameters(2)
    counts = votes.votes_at(np.arange(2), np.full(2, 20_000), label=1)
    warped = torch.from_numpy(warp_batch(IMAGE[None], betas, "rotation", model.operator))
    generator = torch.Generator().manual_seed(5)
    for k in range(2):
        noise = 0.3 * torch.randn((20_000, 1, 12, 12), generator=generator)
        with torch.inference_mode():
            direct = int((model.network(warped[k] + noise).argmax(1) == 1).sum())
        assert abs(int(counts[k]) - direct) < 5 * np.sqrt(2 * 20_000 * 0.25)


def test_the_same_seed_gives_the_same_votes_and_calls_draw_afresh(model):
    a, b, other = votes_of(model), votes_of(model), votes_of(model, seed=2)
    first = a.class_counts(40, pixel_noise=True)
    assert first.tolist() == b.class_counts(40, pixel_noise=True).tolist()
    assert not np.array_equal(a.draw_parameters(8), votes_of(model).draw_parameters(8))
    assert not np.array_equal(votes_of(model).draw_parameters(8), other.draw_parameters(8))


@pytest.mark.parametrize(
    ("transformation", "shape"), [(Transformation.ROTATION, (4000,)), (Transformation.L2, (4000, 2))]
)
def test_parameters_have_the_cards_deviation(model, transformation, shape):
    drawn = votes_of(model, transformation=transformation).draw_parameters(4000)
    assert drawn.shape == shape
    sigma = 20.0 if transformation is Transformation.ROTATION else 0.0
    assert abs(drawn.std() - sigma) <= 0.05 * sigma
    assert abs(drawn.mean()) <= 5 * sigma / np.sqrt(4000)


class Faulty(nn.Module):
    """Answers NaN for every other image."""

    def forward(self, images):
        logits = torch.zeros(len(images), 3)
        logits[:, 1] = 1.0
        logits[::2, 2] = float("nan")
        return logits


def test_a_logit_that_is_not_a_number_votes_for_no_class(model):
    object.__setattr__(model, "network", Faulty())
    votes = votes_of(model, batch_size=10)
    assert votes.class_counts(20, pixel_noise=True).tolist() == [0, 10, 0]
    votes.draw_parameters(2)
    assert votes.votes_at(np.array([20, 21]), np.full(2, 10), label=2).tolist() == [0, 0]


def test_batches_of_large_images_are_smaller():
    """28 x 28 x 1, 32 x 32 x 3 and 224 x 224 x 3 numbers."""
    assert [default_batch_size("cpu", n) for n in (784, 3072, 150_528)] == [256, 256, 8]
    assert [default_batch_size("cuda", n) for n in (784, 3072, 150_528)] == [4096, 4096, 64]
    assert default_batch_size("cpu", 10**9) == 8
