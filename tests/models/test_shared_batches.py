"""Runs share the forward passes of a network: the same votes alone or in company, urgent ones first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from certification.outcome import Outcome
from certification.plan import CertificationPlan
from certification.procedures import certify
from certification.vocabulary import AttackRange, Guarantee, ImageIs, OutOfTime, Transformation
from gpu.cells import BoundSettings
from models.batches import LONG_SHARE, SharedBatches
from models.card import read_card
from models.error_bounds import ImageErrorBounds
from models.registry import LoadedModel, load_model
from models.votes import BaseClassifierVotes
from tests.models.conftest import GAUSSIAN, write_model
from tests.pictures import picture

SHAPE = (1, 4, 4)


class Gated(torch.nn.Module):
    """Gives an image the class that its first pixel names; keeps what each pass held; waits where it is told to."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.classes, self.passes = classes, []
        self.gate, self.begun = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self.gate.set()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes.append(images[:, 0, 0, 0].clone())
        self.begun.set()
        assert self.gate.wait(60)
        if self.error is not None:
            raise self.error
        named = images[:, 0, 0, 0].round().long()
        return torch.nn.functional.one_hot(named, self.classes).float() + (images[:, :1, 0, 1] / 0).nan_to_num(0.0)


def named(*labels: int) -> torch.Tensor:
    images = torch.zeros((len(labels), *SHAPE))
    images[:, 0, 0, 0] = torch.tensor(labels)
    return images


def held(network: Gated, batches: SharedBatches, pool: ThreadPoolExecutor) -> Any:
    """A first pass that does not end until the gate is opened."""
    network.gate.clear()
    network.begun.clear()
    first = pool.submit(batches.classify, named(9))
    assert network.begun.wait(60)
    return first


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def waiting(batches: SharedBatches, parts: int) -> None:
    wait_for(lambda: len(batches._waiting) == parts)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_alone_a_run_gets_its_classes_in_padded_passes_of_one_shape():
    network = Gated()
    batches = SharedBatches(network, 10, 4)
    assert batches.classify(named(3, 1, 2)).tolist() == [3, 1, 2]
    assert batches.classify(named(5)).tolist() == [5]
    assert [len(one) for one in network.passes] == [4, 4]
    assert (batches.passes, batches.rows) == (2, 4)


def test_more_images_than_a_pass_holds_take_several():
    network = Gated()
    labels = list(range(10)) * 2
    assert SharedBatches(network, 10, 8).classify(named(*labels)).tolist() == labels
    assert len(network.passes) == 3


def test_a_row_with_a_logit_that_is_not_finite_has_no_class():
    class Broken(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros((len(images), 3))
            logits[1, 2] = torch.nan
            logits[2, 0] = torch.inf
            return logits

    assert SharedBatches(Broken(), 3, 4).classify(named(0, 0, 0)).tolist() == [0, 3, 3]


def test_what_waits_shares_the_next_pass_in_the_order_in_which_it_came(pool):
    network = Gated()
    batches = SharedBatches(network, 10, 8)
    first = held(network, batches, pool)
    runs = []
    for number, labels in enumerate(([1, 1, 1], [2, 2], [3, 3, 3, 3]), 1):
        runs.append((pool.submit(batches.classify, named(*labels)), labels))
        waiting(batches, number)
    network.gate.set()
    assert first.result(60).tolist() == [9]
    assert [run.result(60).tolist() for run, _ in runs] == [labels for _, labels in runs]
    assert [one.int().tolist() for one in network.passes] == [
        [9] + [0] * 7, [1, 1, 1, 2, 2, 3, 3, 3], [3] + [0] * 7
    ]  # fmt: skip


def test_urgent_images_go_first_and_leave_the_others_their_share(pool):
    network = Gated()
    batches = SharedBatches(network, 10, 8)
    first = held(network, batches, pool)
    long = pool.submit(batches.classify, named(*[1] * 8))
    waiting(batches, 1)
    urgent = [pool.submit(batches.classify, named(*[label] * 4), urgent=True) for label in (2, 3)]
    waiting(batches, 3)
    network.gate.set()
    assert [one.result(60).tolist() for one in (first, long, *urgent)] == [[9], [1] * 8, [2] * 4, [3] * 4]
    second = network.passes[1].int().tolist()
    assert second.count(1) == 8 // LONG_SHARE
    assert len([label for label in second if label in (2, 3)]) == 8 - 8 // LONG_SHARE
    assert len(network.passes) == 3


def test_long_runs_are_not_starved_by_an_endless_stream_of_urgent_ones(pool):
    network = Gated()
    batches = SharedBatches(network, 10, 4)
    stop = threading.Event()

    def stream() -> None:
        while not stop.is_set():
            batches.classify(named(2, 2, 2, 2), urgent=True)

    streams = [pool.submit(stream) for _ in range(3)]
    wait_for(lambda: batches.passes > 10)
    assert pool.submit(batches.classify, named(*[1] * 40)).result(60).tolist() == [1] * 40
    stop.set()
    for one in streams:
        one.result(60)


def test_a_run_that_is_given_up_leaves_its_place_and_takes_nobody_along(pool):
    network = Gated()
    batches = SharedBatches(network, 10, 4)
    first = held(network, batches, pool)
    gone = threading.Event()

    def check() -> None:
        if gone.is_set():
            raise InterruptedError

    given_up = pool.submit(batches.classify, named(1, 1, 1), check=check)
    waiting(batches, 1)
    other = pool.submit(batches.classify, named(2, 2))
    waiting(batches, 2)
    gone.set()
    with batches._changed:
        batches._changed.notify_all()
    with pytest.raises(InterruptedError):
        given_up.result(60)
    network.gate.set()
    assert first.result(60).tolist() == [9]
    assert other.result(60).tolist() == [2, 2]
    assert not batches._waiting
    assert not batches._busy


def test_images_that_wait_are_ended_when_time_is_up():
    """Otherwise the votes of a run whose time was up would depend on the company."""

    def check() -> None:
        raise OutOfTime

    assert SharedBatches(Gated(), 10, 4).classify(named(1, 2), check=check).tolist() == [1, 2]


def test_an_error_is_that_of_all_in_the_pass_and_of_nobody_else(pool):
    network = Gated()
    batches = SharedBatches(network, 10, 4)
    first = held(network, batches, pool)
    runs = [pool.submit(batches.classify, named(label, label)) for label in (1, 2)]
    waiting(batches, 2)
    network.error = RuntimeError("the device is gone")
    network.gate.set()
    for run in (first, *runs):
        with pytest.raises(RuntimeError, match="the device is gone"):
            run.result(60)
    network.error = None
    assert batches.classify(named(3)).tolist() == [3]
    assert not batches._waiting


# certificates


class Held(torch.nn.Module):
    """A network whose passes wait for the gate."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.gate = network, threading.Event()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert self.gate.wait(60)
        logits: torch.Tensor = self.network(images)
        return logits


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    path = write_model(tmp_path_factory.mktemp("shared") / "tiny", transformation="rotation", preprocessing=GAUSSIAN)
    return load_model(read_card(path))


def run(model: LoadedModel, number: int, batches: SharedBatches) -> tuple[Outcome, int]:
    """One certificate of its own image, key and guarantee, and its votes."""
    guarantee = (Guarantee.HEURISTIC, Guarantee.INDIVIDUAL)[number % 2]
    plan = CertificationPlan(
        transformation=Transformation.ROTATION,
        guarantee=guarantee,
        sigma_gamma=model.card.noise.sigma_gamma,
        sigma_delta=model.card.noise.sigma_delta,
        attack_range=AttackRange(Transformation.ROTATION, 5.0),
        image_is=ImageIs.RECEIVED,
        bound_for_all=model.bound_for_all,
        operator_norm=model.operator.norm_bound,
        n=100,
        n_delta=64,
        alpha=0.05,
        max_votes=20_000,
    )
    image = picture("bits", (12, 12, 1), number)
    votes = BaseClassifierVotes(
        model, image, plan.transformation, key=bytes([number]), operator=model.measured_through(plan),
        batches=batches, urgent_seconds=60.0 * (number % 3 == 0),
    )  # fmt: skip
    bounds = ImageErrorBounds(model, image, plan.attack_range, plan.image_is, BoundSettings())
    return certify(plan, votes, bounds), votes.votes


def test_a_certificate_is_the_same_alone_or_in_company(model):
    """Bit-equal counts, classes, bounds and radii of ten runs, in order by themselves and all at once."""
    apart, shared = (SharedBatches(model.network, len(model.card.class_names), 16) for _ in range(2))
    alone = [run(model, number, apart) for number in range(10)]
    network = Held(model.network)
    shared.network = network
    with ThreadPoolExecutor(10) as pool:
        runs = [pool.submit(run, model, number, shared) for number in range(10)]
        wait_for(lambda: len(shared._waiting) > 4)
        network.gate.set()
        assert [one.result(60) for one in runs] == alone
    assert shared.rows == apart.rows == sum(votes for _, votes in alone)
    assert shared.passes < apart.passes
    assert len({str(outcome) for outcome, _ in alone}) > 1


def test_rows_do_not_see_their_neighbours(model):
    """A network whose rows mix would not be served; that of the zoo's architecture does not, at every place."""
    images = torch.from_numpy(np.random.default_rng(1).random((16, 1, 12, 12), dtype=np.float32))
    batches = SharedBatches(model.network, len(model.card.class_names), 16)
    together = batches.classify(images)
    for place in range(16):
        rolled = batches.classify(images.roll(place, dims=0))
        assert torch.equal(rolled.roll(-place), together)
