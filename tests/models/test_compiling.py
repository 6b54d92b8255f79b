"""Who waits for a kernel to compile keeps its time, and nobody compiles it twice."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numba.core.registry import CPUDispatcher

from gpu.cells import BoundSettings
from gpu.error_bound import forward_error_bounds
from gpu.preprocess import Preprocessing
from gpu.residual import sampled_error
from gpu.total_error import TotalErrors
from models.batches import nothing
from models.compiling import Compiling, compile_known_image_kernels


class OutOfPatienceError(Exception):
    """Raised by a check."""


def impatient() -> None:
    raise OutOfPatienceError


def test_it_is_done_once_however_many_wait_or_stop_waiting() -> None:
    gate, done = threading.Event(), []

    def work(name: str) -> None:
        gate.wait(60)
        done.append(name)

    compiling = Compiling(work)
    with pytest.raises(OutOfPatienceError):
        compiling.wait("rotation", impatient)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(compiling.wait, "rotation", nothing) for _ in range(4)]
        other = threading.Thread(target=compiling.wait, args=("translation", nothing))
        other.start()
        gate.set()
        for one in waiting:
            one.result(60)
        other.join(60)
    compiling.wait("rotation", impatient)  # nothing to wait for
    assert sorted(done) == ["rotation", "translation"]


def test_a_failure_is_everybodys_and_the_next_one_tries_again() -> None:
    errors: list[Exception] = [MemoryError(), MemoryError()]

    def work(name: str) -> None:
        if errors:
            raise errors.pop()

    compiling = Compiling(work)
    for _ in range(2):
        with pytest.raises(MemoryError):
            compiling.wait("rotation", nothing)
    compiling.wait("rotation", nothing)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("transformation", ["rotation", "translation"])
def test_it_leaves_nothing_to_compile(transformation: str, channels: int) -> None:
    compile_known_image_kernels(transformation, "cpu")
    dispatchers = [one for one in gc.get_objects() if issubclass(type(one), CPUDispatcher)]
    before = sum(len(one.overloads) for one in dispatchers)
    operator = Preprocessing(vignette="circle", blur_sigma=2.0, interpolation="gaussian").operator(9, 8)
    image = np.random.default_rng(0).random((9, 8, channels)).astype(np.float32)
    drawn = np.array([0.5, -3.0, 2.0])
    parameters = drawn if transformation == "rotation" else np.stack([drawn, drawn[::-1]], axis=1)
    settings = BoundSettings(cell_budget=64)
    forward_error_bounds(image, parameters, transformation, 0.5, operator, settings)
    TotalErrors(image, transformation, 0.5, operator, settings).bounds(parameters)
    sampled_error(image, transformation, 0.5, operator, operator.for_original(), 3)
    assert sum(len(one.overloads) for one in dispatchers) == before > 0
