"""Long runs pause for short ones, but not for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

import service.precedence
from models.batches import nothing
from service.engine import Cancellation, Cancelled
from service.precedence import Precedence

LONG = 60.0


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.precedence, "PAUSE_SECONDS", LONG)


def batch(precedence: Precedence, cancellation: Cancellation | None = None) -> None:
    """One of a run that is not urgent."""
    with precedence.turn(0.0, cancellation.check if cancellation else nothing) as check:
        check()


def pausing(pool: ThreadPoolExecutor, precedence: Precedence, cancellation: Cancellation | None = None) -> Future[None]:
    """One that was seen to pause."""
    run = pool.submit(batch, precedence, cancellation)
    time.sleep(0.2)
    assert not run.done()
    return run


def test_nobody_pauses_for_runs_that_are_not_urgent() -> None:
    precedence = Precedence()
    with precedence.turn(0.0, nothing) as check:
        batch(precedence)
        check()


def test_urgent_runs_do_not_pause_for_each_other() -> None:
    precedence = Precedence()
    with precedence.turn(LONG, nothing) as one, precedence.turn(LONG, nothing) as other:
        one()
        other()


@pytest.mark.parametrize("fails", [False, True])
def test_a_long_run_goes_on_when_the_last_urgent_one_has_ended(pool: ThreadPoolExecutor, fails: bool) -> None:
    precedence = Precedence()
    with precedence.turn(LONG, nothing):
        try:
            with precedence.turn(LONG, nothing):
                paused = pausing(pool, precedence)
                if fails:
                    raise MemoryError
        except MemoryError:
            pass
        time.sleep(0.2)
        assert not paused.done()
    paused.result(LONG)


def test_a_run_is_urgent_for_a_while_and_pauses_like_others_then(pool: ThreadPoolExecutor) -> None:
    precedence, begun = Precedence(), time.monotonic()
    with precedence.turn(0.5, nothing) as check:
        batch(precedence)
        assert time.monotonic() - begun >= 0.5
        with precedence.turn(LONG, nothing):
            paused = pool.submit(check)
            time.sleep(0.2)
            assert not paused.done()
        paused.result(LONG)


def test_a_pause_ends_though_urgent_runs_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.precedence, "PAUSE_SECONDS", 0.1)
    precedence = Precedence()
    with precedence.turn(LONG, nothing):
        begun = time.monotonic()
        batch(precedence)
        assert 0.1 <= time.monotonic() - begun < LONG / 2


def test_a_run_goes_on_for_a_while_after_the_longest_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through any number of batches, then it pauses again."""
    monkeypatch.setattr(service.precedence, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(service.precedence, "GO_ON_SECONDS", LONG)
    precedence = Precedence()
    with precedence.turn(10 * LONG, nothing), precedence.turn(0.0, nothing) as check:
        begun = time.monotonic()
        for _ in range(2000):
            check()
        assert time.monotonic() - begun < 2000 * 0.05 / 2
        monkeypatch.setattr(service.precedence, "GO_ON_SECONDS", 0.0)
        with precedence.turn(0.0, nothing) as other:
            for _ in range(3):
                begun = time.monotonic()
                other()
                assert time.monotonic() - begun >= 0.05


def test_a_paused_run_can_be_cancelled(pool: ThreadPoolExecutor) -> None:
    precedence, cancellation = Precedence(), Cancellation()
    with precedence.turn(LONG, nothing):
        paused = pausing(pool, precedence, cancellation)
        cancellation.cancel()
        with pytest.raises(Cancelled):
            paused.result(LONG)


def test_many_runs_of_both_kinds_all_end(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.precedence, "PAUSE_SECONDS", 0.005)
    precedence, batches = Precedence(), []
    together = threading.Barrier(4)

    def run(number: int) -> None:
        together.wait(LONG)
        for _ in range(50):
            with precedence.turn(0.002 * (number % 2), nothing) as check:
                for _ in range(3):
                    check()
                    batches.append(number)

    for one in [pool.submit(run, number) for number in range(4)]:
        one.result(LONG)
    assert len(batches) == 600
    assert not precedence._urgent
