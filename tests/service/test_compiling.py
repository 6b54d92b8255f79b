"""Who waits for a kernel to compile keeps its time, and nobody compiles it twice."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from models.batches import nothing
from service.compiling import Compiling


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
