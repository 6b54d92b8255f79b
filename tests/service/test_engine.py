"""Admission by cost, lanes, deadlines, cancellation and draining, with works that are let go by the test."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from certification.vocabulary import OutOfTime
from service.engine import MOST_RUNNING, Cancellation, Cancelled, Engine
from service.errors import ClientGoneError, DrainingError, OverloadedError

LONG = 100.0
"""Seconds that a work says it takes."""


class Work:
    """Runs until it is let go, cancelled, or out of time."""

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
        except OutOfTime:
            return "partial"
        return "done"


def noting(order: list[str], name: str) -> Callable[[Cancellation], bool]:
    """A work that ends at once."""

    def work(_: Cancellation) -> bool:
        order.append(name)
        return True

    return work


async def never() -> None:
    await asyncio.Event().wait()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def play(
    scene: Callable[[Engine], Awaitable[None]], running: int = 1, queue: float = 1e9, short: float = 1.0,
    patience: float = 1e9,
) -> None:  # fmt: skip
    """Run a scene with an engine of its own."""

    async def whole() -> None:
        engine = Engine(running, queue, short_seconds=short, patience=patience)
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


@pytest.mark.parametrize(
    ("running", "queue"), [(1, 0.0), (1, 150.0), (2, 0.0), (2, 150.0), (3, 99.0)]
)
@pytest.mark.parametrize("short", [1000.0, 1.0])
def test_what_waits_is_bounded_by_its_seconds(running: int, queue: float, short: float) -> None:
    """The next would wait for the works before it, shared among the threads; long ones have a thread less."""
    threads = running if short > LONG else max(running - 1, 1)
    admitted = max(threads, int(queue * threads / LONG) + 1)

    async def scene(engine: Engine) -> None:
        works = [Work() for _ in range(admitted)]
        tasks = [asyncio.create_task(engine.run(work, never, seconds=LONG)) for work in works]
        await until(lambda: engine.running + engine.waiting == admitted)
        with pytest.raises(OverloadedError) as caught:
            await engine.run(Work(), never, seconds=LONG)
        assert 1 <= caught.value.members["retry_after_seconds"] <= LONG
        await until(lambda: engine.running == threads)
        assert sum(work.begun.is_set() for work in works) == threads
        for work in works:
            work.gate.set()
        assert await asyncio.gather(*tasks) == ["done"] * len(works)
        await until(lambda: engine.idle)
        assert engine.queue_seconds == 0.0

    play(scene, running, queue, short)


def test_what_can_still_be_done_goes_before_what_would_be_cut_short() -> None:
    """A work that has waited for more than half of its time and has too little left begins if nothing else waits."""

    async def scene(engine: Engine) -> None:
        order: list[str] = []

        blocking = Work()
        tasks = [asyncio.create_task(engine.run(blocking, never, seconds=LONG))]
        await until(blocking.begun.is_set)
        now = time.monotonic()
        for name, seconds, left in (
            ("late", 5.0, 4.0),  # 4 s for 5 s of work: late once 2 s have passed
            ("hopeless", 1000.0, 100.0),  # but has waited for little of its time
            ("in time", 0.1, 4.0),
            ("patient", 5.0, math.inf),
        ):
            run = noting(order, name)
            tasks.append(asyncio.create_task(engine.run(run, never, seconds=seconds, deadline=now + left)))
            await until(lambda: engine.waiting == len(tasks) - 1)
        await asyncio.sleep(2.1)
        blocking.gate.set()
        await asyncio.gather(*tasks)
        assert order == ["hopeless", "in time", "patient", "late"]

    play(scene, short=0.01)


def test_a_short_work_is_not_stuck_behind_long_ones_nor_refused_for_them() -> None:
    async def scene(engine: Engine) -> None:
        works = [Work() for _ in range(3)]
        tasks = [asyncio.create_task(engine.run(work, never, seconds=LONG)) for work in works[:2]]
        await until(lambda: (engine.running, engine.waiting) == (1, 1))
        with pytest.raises(OverloadedError):
            await engine.run(Work(), never, seconds=LONG)
        works[2].gate.set()
        assert await engine.run(works[2], never, seconds=0.5) == "done"
        assert not works[1].begun.is_set()
        for work in works:
            work.gate.set()
        assert await asyncio.gather(*tasks) == ["done"] * 2

    play(scene, 2, LONG)


def test_a_short_work_is_not_stuck_behind_one_that_turns_out_to_be_long() -> None:
    """It runs beside them, though not beside more of them than twice the threads; long ones do not."""

    async def scene(engine: Engine) -> None:
        works = [Work() for _ in range(4)]
        tasks = [asyncio.create_task(engine.run(work, never, seconds=0.01)) for work in works[:2]]
        await until(lambda: engine.running == 2)
        tasks.append(asyncio.create_task(engine.run(works[2], never, seconds=LONG)))
        tasks.append(asyncio.create_task(engine.run(works[3], never, seconds=0.01)))
        await until(works[3].begun.is_set)
        assert not works[2].begun.is_set()
        assert engine.running == 3
        more = [Work() for _ in range(MOST_RUNNING * 2 - 3)]
        tasks += [asyncio.create_task(engine.run(work, never, seconds=0.01)) for work in more]
        for work in more:
            await until(work.begun.is_set)
        last = Work()
        tasks.append(asyncio.create_task(engine.run(last, never, seconds=0.01)))
        await asyncio.sleep(0.5)
        assert not last.begun.is_set()
        assert engine.running == MOST_RUNNING * 2
        for work in (*works, *more, last):
            work.gate.set()
        assert await asyncio.gather(*tasks) == ["done"] * len(tasks)

    play(scene, 2, short=0.02)


@pytest.mark.parametrize(("patience", "first"), [(0.0, "long"), (1e9, "short")])
def test_a_long_work_waits_for_short_ones_as_long_as_its_patience(patience: float, first: str) -> None:
    async def scene(engine: Engine) -> None:
        order: list[str] = []

        blocking = Work()
        tasks = [asyncio.create_task(engine.run(blocking, never, seconds=LONG))]
        await until(blocking.begun.is_set)
        for name, seconds in (("long", LONG), ("short", 0.1), ("short", 0.1)):
            tasks.append(asyncio.create_task(engine.run(noting(order, name), never, seconds=seconds)))
            await until(lambda: engine.waiting == len(tasks) - 1)
        blocking.gate.set()
        await asyncio.gather(*tasks)
        assert order == (["long", "short", "short"] if first == "long" else ["short", "short", "long"])

    play(scene, 1, patience=patience)


def test_a_long_work_that_has_lost_its_patience_begins_beside_short_ones_that_are_not() -> None:
    """However many of those come."""

    async def scene(engine: Engine) -> None:
        overdue, long = Work(), Work()
        tasks = [asyncio.create_task(engine.run(overdue, never, seconds=0.01))]
        await until(overdue.begun.is_set)
        await asyncio.sleep(0.05)
        tasks.append(asyncio.create_task(engine.run(long, never, seconds=LONG)))
        await asyncio.sleep(0.2)
        assert not long.begun.is_set()
        await until(long.begun.is_set)
        for work in (overdue, long):
            work.gate.set()
        assert await asyncio.gather(*tasks) == ["done"] * 2

    play(scene, 2, short=0.02, patience=2.0)


def test_a_work_counts_until_its_deadline_at_most() -> None:
    """Whatever it asks for: it ends there."""

    async def scene(engine: Engine) -> None:
        works = [Work() for _ in range(3)]
        now = time.monotonic()
        tasks = [
            asyncio.create_task(engine.run(work, never, seconds=1e6, deadline=now + 20 * (1 + number)))
            for number, work in enumerate(works)
        ]
        await until(lambda: (engine.running, engine.waiting) == (1, 2))
        assert 110 < engine.queue_seconds <= 120
        with pytest.raises(OverloadedError) as caught:
            await engine.run(Work(), never, seconds=1.0)
        assert caught.value.members["retry_after_seconds"] <= 20
        for work in works:
            work.gate.set()
        await asyncio.gather(*tasks)

    play(scene, 1, 100.0, short=0.1)


def test_what_waits_to_be_decoded_is_bounded_by_its_seconds() -> None:
    async def scene(engine: Engine) -> None:
        await engine.check(lambda: time.sleep(0.5))
        held = threading.Event()
        asked = [asyncio.create_task(engine.check(lambda: held.wait(30))) for _ in range(60)]
        await asyncio.wait(asked, timeout=0.2)
        held.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        refused = [one for one in answers if isinstance(one, OverloadedError)]
        assert 0 < len(refused) < len(asked)
        assert all(one.members["retry_after_seconds"] >= 1 for one in refused)
        assert [one for one in answers if one not in refused] == [True] * (len(asked) - len(refused))
        assert await engine.check(lambda: "done") == "done"

    play(scene, 1, 1.0)


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

    play(scene)


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


def test_a_work_answers_with_what_it_has_at_its_deadline_and_frees_its_slot_then() -> None:
    async def scene(engine: Engine) -> None:
        assert await engine.run(Work(), never, deadline=time.monotonic() + 0.05) == "partial"
        await until(lambda: engine.idle)

    play(scene)


def test_a_work_answers_at_its_deadline_while_it_waits_for_a_slot() -> None:
    async def scene(engine: Engine) -> None:
        first, second = Work(), Work()
        running = asyncio.create_task(engine.run(first, never))
        await until(first.begun.is_set)
        assert await engine.run(second, never, deadline=time.monotonic() + 0.05) == "partial"
        assert (engine.running, engine.waiting) == (1, 0)
        first.gate.set()
        assert await running == "done"

    play(scene)


def test_a_slot_is_taken_until_the_thread_is_done() -> None:
    """A work that does not look at its time, in a kernel say: its answer comes late and is not lost."""

    async def scene(engine: Engine) -> None:
        gate = threading.Event()
        task = asyncio.create_task(engine.run(lambda _: gate.wait(10), never, deadline=time.monotonic() + 0.02))
        await asyncio.sleep(0.1)
        assert (engine.running, task.done()) == (1, False)
        gate.set()
        assert await task
        await until(lambda: engine.idle)

    play(scene)


def test_hurried_works_answer_with_what_they_have() -> None:
    async def scene(engine: Engine) -> None:
        tasks = [asyncio.create_task(engine.run(Work(), never)) for _ in range(3)]
        await until(lambda: engine.waiting == 2)
        engine.hurry()
        assert await asyncio.gather(*tasks) == ["partial"] * 3
        with pytest.raises(DrainingError):
            await engine.run(Work(), never)

    play(scene)


def test_threads_tell_how_long_works_waited_and_computed() -> None:
    async def scene(engine: Engine) -> None:
        told: list[tuple[float, float]] = []
        engine.on_done = lambda waited, computed: told.append((waited, computed))
        first, second = Work(), Work()
        tasks = [asyncio.create_task(engine.run(work, never)) for work in (first, second)]
        await until(first.begun.is_set)
        await asyncio.sleep(0.05)
        first.gate.set()
        second.gate.set()
        await asyncio.gather(*tasks)
        await until(lambda: len(told) == 2)
        assert told[0][0] < told[1][0]
        assert min(told[0][1], told[1][0]) >= 0.05

    play(scene)


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

    play(scene)


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

    play(scene)
