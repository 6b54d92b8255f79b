"""A device without memory: batches are halved and the run begins again, in one size from its first vote to its last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from service.computing import LocalComputer, Order
from service.engine import Cancellation
from service.schemas import CertifyFields

from .conftest import Running, Start
from .pictures import encode, grey

FULL = 64
OUT_OF_MEMORY: tuple[Callable[[], Exception], ...] = (
    MemoryError,
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
)


class Small(torch.nn.Module):
    """A network on a device that has room for ``room`` images; counts its passes."""

    def __init__(self, network: torch.nn.Module, room: int, shortage: Callable[[], Exception]) -> None:
        super().__init__()
        self.network, self.room, self.shortage = network, room, shortage
        self.sizes: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise self.shortage()
        logits: torch.Tensor = self.network(images)
        return logits


@pytest.fixture
def shortened(server: Running) -> Iterator[Callable[[int, Callable[[], Exception]], Small]]:
    """Give the served model a small device."""
    model = server.services.lifecycle.certifier.registry.get("constant-rotation")
    network = model.network

    def shorten(room: int, shortage: Callable[[], Exception] = MemoryError) -> Small:
        small = Small(network, room, shortage)
        object.__setattr__(model, "network", small)
        return small

    # passes hold on to the network that they were made with
    computer: Any = server.services.lifecycle.certifier._computer
    computer._batches.clear()
    yield shorten
    object.__setattr__(model, "network", network)
    computer._batches.clear()


@pytest.mark.parametrize("shortage", OUT_OF_MEMORY)
def test_the_answer_is_that_of_smaller_batches(
    server: Running, shortened: Callable[..., Small], shortage: Callable[[], Exception]
) -> None:
    certifier = server.services.lifecycle.certifier
    task = certifier.prepare_certify(CertifyFields(guarantee="heuristic"), encode(grey(), "PNG"))
    order = Order(task.model.card.id, task.model.digest, task.plan, task.image.pixels, task.replay)
    small = shortened(20, shortage)
    computer = LocalComputer(certifier.registry, "cpu")
    computed = computer.compute(order, Cancellation())
    assert computed.replay.batch_size == 16
    assert computed.replay.key == order.replay.key
    assert small.sizes[:2] == [64, 32]
    assert set(small.sizes[2:]) == {16}
    small.sizes.clear()
    again = computer.compute(Order(**{**vars(order), "replay": computed.replay}), Cancellation())
    assert (again.found, again.replay) == (computed.found, computed.replay)
    assert set(small.sizes) == {16}


def test_its_certificate_says_so_and_verifies(start: Start) -> None:
    with start() as server:
        model = server.services.lifecycle.certifier.registry.get("constant-rotation")
        network = model.network
        object.__setattr__(model, "network", Small(network, 40, MemoryError))
        answer = server.certify(guarantee="heuristic").json()
        object.__setattr__(model, "network", network)
        assert answer["stopped_by"] == "certified"
        path = f"/v1/certificates/{answer['certificate_id']}"
        assert server.client.get(path).json()["certificate"]["runtime"]["batch_size"] == FULL // 2
        verified = server.post(f"{path}/verify").json()
        assert verified["verified"], verified


def test_where_not_even_one_image_fits_it_is_503(server: Running, shortened: Callable[..., Small]) -> None:
    small = shortened(0)
    response = server.certify(guarantee="heuristic")
    assert (response.status_code, response.json()["type"]) == (503, "urn:surety:problem:out_of_memory")
    assert small.sizes == [64, 32, 16, 8, 4, 2, 1]


def test_another_error_is_no_shortage(server: Running, shortened: Callable[..., Small]) -> None:
    small = shortened(0, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert server.certify(guarantee="heuristic").status_code == 500
    assert small.sizes == [64]
