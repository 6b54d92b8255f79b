"""Admission, cancellation and draining, with works that are let go by the test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from service.engine import Cancellation, Cancelled, Engine
from service.errors import ClientGoneError, DeadlineError, DrainingError, OverloadedError


class Work:
    """Runs until it is let go or cancelled."""

    def __init__(self) -> None:
        self.begun, self.gate, self.stopped = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, cancellation: Cancellation) -> str:
        self.begun.set()
        try:
            while not self.gate.wait(0.005):
                cancellation.check()
        except Cancelled:
            self.stopped.set()
            raise
        return "done"


async def never() -> None:
    await asyncio.Event().wait()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def play(scene: Callable[[Engine], Awaitable[None]], running: int = 1, waiting: int = 0, seconds: float = 60) -> None:
    """Run a scene with an engine of its own."""

    async def whole() -> None:
        engine = Engine(running, waiting, seconds)
        try:
            await scene(engine)
        finally:
            engine.abort()
            engine.close()

    asyncio.run(whole())


def test_results_and_errors_come_back() -> None:
    def fail(_: Cancellation) -> str:
        raise KeyError("mine")

    async def scene(engine: Engine) -> None:
        work = Work()
        work.gate.set()
        assert await engine.run(work, never) == "done"
        with pytest.raises(KeyError, match="mine"):
            await engine.run(fail, never)
        await until(lambda: engine.idle)

    play(scene)


@pytest.mark.parametrize(("running", "waiting"), [(1, 0), (1, 2), (2, 0), (3, 1)])
def test_exactly_the_set_number_is_admitted(running: int, waiting: int) -> None:
    async def scene(engine: Engine) -> None:
        works = [Work() for _ in range(running + waiting)]
        tasks = [asyncio.create_task(engine.run(work, never)) for work in works]
        await until(lambda: (engine.running, engine.waiting) == (running, waiting))
        with pytest.raises(OverloadedError) as caught:
            await engine.run(Work(), never)
        assert 1 <= caught.value.members["retry_after_seconds"] <= 120
        assert sum(work.begun.is_set() for work in works) == running
        for work in works:
            work.gate.set()
        assert await asyncio.gather(*tasks) == ["done"] * len(works)
        await until(lambda: engine.idle)

    play(scene, running, waiting)


def test_a_permit_is_free_again_after_success_and_failure() -> None:
    def fail(_: Cancellation) -> None:
        raise ValueError

    async def scene(engine: Engine) -> None:
        for _ in range(20):
            with pytest.raises(ValueError):  # noqa: PT011
                await engine.run(fail, never)
            await until(lambda: engine.idle)

    play(scene)


def test_an_abandoned_work_is_stopped_and_counts_until_it_is() -> None:
    async def scene(engine: Engine) -> None:
        work, left = Work(), asyncio.Event()

        async def gone() -> None:
            await left.wait()

        task = asyncio.create_task(engine.run(work, gone))
        await until(work.begun.is_set)
        left.set()
        with pytest.raises(ClientGoneError):
            await task
        await until(work.stopped.is_set)
        await until(lambda: engine.idle)

    play(scene)


def test_an_abandoned_work_in_the_queue_never_runs() -> None:
    async def scene(engine: Engine) -> None:
        first, second, left = Work(), Work(), asyncio.Event()

        async def gone() -> None:
            await left.wait()

        running = asyncio.create_task(engine.run(first, never))
        waiting = asyncio.create_task(engine.run(second, gone))
        await until(lambda: engine.waiting == 1)
        left.set()
        with pytest.raises(ClientGoneError):
            await waiting
        assert engine.waiting == 0
        first.gate.set()
        assert await running == "done"
        assert not second.begun.is_set()

    play(scene, 1, 1)


def test_a_cancelled_request_stops_its_work() -> None:
    async def scene(engine: Engine) -> None:
        work = Work()
        task = asyncio.create_task(engine.run(work, never))
        await until(work.begun.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(work.stopped.is_set)

    play(scene)


def test_a_work_that_takes_too_long_is_given_up() -> None:
    async def scene(engine: Engine) -> None:
        work = Work()
        with pytest.raises(DeadlineError):
            await engine.run(work, never)
        await until(work.stopped.is_set)

    play(scene, seconds=0.05)


def test_draining_finishes_what_is_admitted_and_refuses_the_rest() -> None:
    async def scene(engine: Engine) -> None:
        works = [Work(), Work()]
        tasks = [asyncio.create_task(engine.run(work, never)) for work in works]
        await until(works[0].begun.is_set)
        engine.drain()
        with pytest.raises(DrainingError):
            await engine.run(Work(), never)
        with pytest.raises(DrainingError):
            await engine.check(lambda: None)
        for work in works:
            work.gate.set()
        assert await asyncio.gather(*tasks) == ["done", "done"]

    play(scene, 1, 3)


def test_aborting_answers_everybody_and_stops_the_works() -> None:
    async def scene(engine: Engine) -> None:
        works = [Work(), Work()]
        tasks = [asyncio.create_task(engine.run(work, never)) for work in works]
        await until(works[0].begun.is_set)
        engine.abort()
        for task in tasks:
            with pytest.raises(DrainingError):
                await task
        await until(lambda: engine.idle)
        assert not works[1].begun.is_set()

    play(scene, 1, 1)
