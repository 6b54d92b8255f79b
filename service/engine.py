"""Admission by cost, two lanes, the threads that compute, deadlines, cancellation and draining.

What waits is bounded by the seconds that it is expected to take, not by its number. Short works have a lane of their
own, so that they are not stuck behind long ones, nor behind one that was expected to be short and is not; a long one
that has waited ``patience`` goes first. What can no longer be done before its deadline goes last. A slot is held until
the thread is really done, so a work that was given up and cannot stop at once still counts. Nothing here runs on the
event loop but bookkeeping.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from certification.vocabulary import OutOfTime

from .errors import ClientGoneError, DrainingError, OverloadedError

T = TypeVar("T")
DECODERS = LATE = 2
"""Threads for images, and for answers to what is still in the queue at its deadline."""
NEWEST, SHORTLY = 0.1, 1.0
"""Weight of the newest image in what decoding is expected to take, and how many seconds any may wait for its turn."""
LEAST_SECONDS = 0.01
MOST_RUNNING = 3
"""Times ``max_running``, where that is not 1: works on threads while short ones turn out to be long."""
MARGIN = 1.5
"""A work can still be done if so many times the seconds that it is expected to take are left until its deadline."""
LOOK_SECONDS = 0.1
LONGEST_RETRY = 600
"""Seconds; the most that Retry-After says."""


class Cancelled(Exception):
    """Raised inside a run that nobody waits for."""


class Cancellation:
    """What a run looks at between its batches: whether it is still waited for, and how long it may go on.

    ``deadline`` is a time of ``time.monotonic()``.
    """

    def __init__(self, deadline: float = math.inf) -> None:
        self.deadline = deadline
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the run to stop."""
        self._event.set()

    def hurry(self) -> None:
        """Ask the run to answer with what it has."""
        self.deadline = -math.inf

    @property
    def is_cancelled(self) -> bool:
        """Whether the run was asked to stop."""
        return self._event.is_set()

    @property
    def is_hurried(self) -> bool:
        """Whether the run was asked to answer with what it has."""
        return self.deadline == -math.inf

    def check_wanted(self) -> None:
        """Raise :class:`Cancelled` if the run was asked to stop."""
        if self._event.is_set():
            raise Cancelled

    def check(self) -> None:
        """The same, and ``OutOfTime`` once its time is up."""
        self.check_wanted()
        if time.monotonic() >= self.deadline:
            raise OutOfTime


@dataclass(eq=False)
class Work:
    """One admitted piece of work; ``seconds`` is what it is expected to take, ``since`` when it was admitted."""

    run: Callable[[Cancellation], Any]
    seconds: float
    cancellation: Cancellation
    short: bool
    since: float = field(default_factory=time.monotonic)
    begun: float | None = None
    future: Future[Any] = field(default_factory=Future)

    def ahead(self, now: float) -> float:
        """Seconds that are left of it, as far as can be told; never nothing, nor more than until its deadline."""
        left = self.seconds - (0.0 if self.begun is None else now - self.begun)
        return max(min(left, self.cancellation.deadline - now), LEAST_SECONDS)

    def is_late(self, now: float) -> bool:
        """Whether it has waited for more than half of its time and would be cut short if it began now."""
        left = self.cancellation.deadline - now
        return left < min(now - self.since, MARGIN * self.seconds)


class Engine:
    """Runs at most ``max_running`` works at once; the others wait. Up to three times as many while short ones turn out
    to be long.

    Parameters
    ----------
    max_running : int
        Threads; all but one may run long works at once, or the only one.
    max_queue_seconds : float
        A work is refused if it would have to wait longer than this, by estimate; never if nothing is before it.
    short_seconds : float
        Works that are expected to take at most this have the short lane.
    patience : float
        Seconds after which a waiting long work goes before the short ones.

    Attributes
    ----------
    on_done : callable
        Told by each thread how many seconds a work waited for it and computed.
    """

    def __init__(
        self,
        max_running: int,
        max_queue_seconds: float,
        *,
        short_seconds: float = 1.0,
        patience: float = 10.0,
    ) -> None:
        self._max_queue_seconds, self._short_seconds, self._patience = max_queue_seconds, short_seconds, patience
        self.max_running, self._max_long = max_running, max(max_running - 1, 1)
        threads = MOST_RUNNING * max_running if max_running > 1 else 1
        self.on_done: Callable[[float, float], None] = lambda waited, computed: None
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self._late = ThreadPoolExecutor(LATE, thread_name_prefix="late")
        self._changed = threading.Condition()
        self._short: deque[Work] = deque()
        self._long: deque[Work] = deque()
        self._running: set[Work] = set()
        self._checking, self._check_seconds = 0, 0.0
        self._aborted = asyncio.Event()
        self._closed = False
        self.draining = False
        for number in range(threads):
            threading.Thread(target=self._serve, name=f"certify-{number}", daemon=True).start()

    @property
    def running(self) -> int:
        """Works on a thread."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Admitted works that wait for a thread."""
        return len(self._short) + len(self._long)

    @property
    def idle(self) -> bool:
        """Whether nothing is admitted."""
        with self._changed:
            return not (self._short or self._long or self._running)

    @property
    def queue_seconds(self) -> float:
        """How long a long work admitted now would wait for a thread, by estimate."""
        with self._changed:
            return self._ahead(short=False)

    @property
    def backlog_seconds(self) -> float:
        """Seconds of work that are admitted and not done, by estimate, for one thread."""
        now = time.monotonic()
        return sum(work.ahead(now) for work in self._admitted())

    def drain(self) -> None:
        """Admit nothing any more; safe to call from a signal handler."""
        self.draining = True

    def hurry(self) -> None:
        """Ask every work to answer with what it has."""
        self.drain()
        for work in self._admitted():
            work.cancellation.hurry()

    def abort(self) -> None:
        """Answer everybody who still waits with a refusal and ask the works to stop; on the event loop."""
        self.drain()
        for work in self._admitted():
            work.cancellation.cancel()
        self._aborted.set()

    async def check(self, work: Callable[[], T]) -> T:
        """Run a short piece of work (decoding, planning) off the event loop, without a slot.

        Raises
        ------
        DrainingError
        OverloadedError
            If it would have to wait for longer than a work may, going by those before it.
        """
        if self.draining:
            raise _draining()
        ahead = self._checking * self._check_seconds / DECODERS
        most = max(self._max_queue_seconds, SHORTLY)
        if ahead > most:
            raise _overloaded(f"{self._checking} images wait to be decoded", ahead - most)

        def timed() -> T:
            begun = time.monotonic()
            try:
                return work()
            finally:
                self._check_seconds += NEWEST * (time.monotonic() - begun - self._check_seconds)

        self._checking += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._decoders, timed)
        finally:
            self._checking -= 1

    async def run(
        self,
        work: Callable[[Cancellation], T],
        abandoned: Callable[[], Awaitable[None]],
        *,
        seconds: float = 0.0,
        short: bool | None = None,
        deadline: float = math.inf,
    ) -> T:
        """Admit ``work`` and wait for its result.

        Parameters
        ----------
        work : callable
            Runs on a thread; looks at the cancellation between its batches, and answers soon after ``OutOfTime``.
            If its time is up while it waits for a slot it is called all the same, elsewhere, to answer at once.
        abandoned : callable
            Returns once nobody waits for the result any more.
        seconds : float
            What it is expected to take.
        short : bool, optional
            Whether it has the short lane; by its seconds, by default.
        deadline : float
            Time of ``time.monotonic()`` at which it shall answer.

        Raises
        ------
        DrainingError, OverloadedError
            If the work is not admitted, or (draining) was not done in time.
        ClientGoneError
            If it was abandoned.
        """
        short = seconds <= self._short_seconds if short is None else short
        admitted = self._admit(Work(work, seconds, Cancellation(deadline), short))
        result = asyncio.wrap_future(admitted.future)
        gone, aborted = asyncio.ensure_future(abandoned()), asyncio.ensure_future(self._aborted.wait())
        waiting: set[asyncio.Future[Any]] = {result, gone, aborted}
        try:
            left = None if deadline == math.inf else max(deadline - time.monotonic(), 0.0)
            await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not any(one.done() for one in waiting):
                if self._withdraw(admitted):
                    self._late.submit(self._answer, admitted)
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return result.result()  # type: ignore[no-any-return]
            if aborted.done():
                raise _draining()
            raise ClientGoneError("the client left before the answer")
        except Cancelled:
            # Only abort cancels a work that is waited for, and its result may come before the news of it.
            raise _draining() from None
        finally:
            # Whatever ends the waiting ends the work: at once in the queue, at its next batch on a thread.
            admitted.cancellation.cancel()
            self._withdraw(admitted)
            for task in waiting:
                task.cancel()

    def close(self) -> None:
        """Let the threads end; does not wait for them."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for pool in (self._decoders, self._late):
            pool.shutdown(wait=False, cancel_futures=True)

    def _admitted(self) -> list[Work]:
        with self._changed:
            return [*self._short, *self._long, *self._running]

    def _is_overdue(self, work: Work) -> bool:
        """Whether it was expected to be short and is not."""
        return work.short and work.begun is not None and time.monotonic() - work.begun > self._short_seconds

    @property
    def _running_long(self) -> list[Work]:
        return [work for work in self._running if not work.short]

    @property
    def _may_begin(self) -> tuple[bool, bool, bool]:
        """Whether a short, a long, and a long work that has lost its patience may begin.

        One that is overdue takes the place of a long one, not of a short one, nor of one that has lost its patience.
        """
        overdue, long = sum(map(self._is_overdue, self._running)), len(self._running_long)
        may = len(self._running) - overdue < self.max_running
        return may, may and long + overdue < self._max_long, may and long < self._max_long

    def _ahead(self, *, short: bool) -> float:
        """Seconds that a new work would wait for a thread, by what is known of those before it; 0 if one is free."""
        now, long = time.monotonic(), self._running_long
        waiting, threads = (self._short, self.max_running - len(long)) if short else (self._long, self._max_long)
        same = (work for work in self._running if work.short == short and not self._is_overdue(work))
        before = [*waiting, *same]
        if len(before) < threads and self.running + self.waiting < self.max_running:
            return 0.0
        # Where the other lane has all threads, one of its works must end first.
        others = () if len(before) >= threads > 0 else self._running
        first = min((work.ahead(now) for work in others), default=0.0)
        return first + sum(work.ahead(now) for work in before) / max(threads, 1)

    def _admit(self, work: Work) -> Work:
        with self._changed:
            if self.draining:
                raise _draining()
            ahead = self._ahead(short=work.short)
            if ahead > self._max_queue_seconds:
                waits = f"{self.running} requests are computed and {self.waiting} wait, about {ahead:.0f} s of work"
                raise _overloaded(waits, ahead - self._max_queue_seconds)
            (self._short if work.short else self._long).append(work)
            self._changed.notify()
        return work

    def _withdraw(self, work: Work) -> bool:
        """Take a work out of the queue; whether it was there."""
        with self._changed:
            for lane in (self._short, self._long):
                if work in lane:
                    lane.remove(work)
                    return True
        return False

    def _next(self) -> Work | None:
        may_short, may_long, may_impatient = self._may_begin
        if not may_short:
            return None
        now = time.monotonic()
        short, long = _first(self._short, now), _first(self._long, now)
        if long is not None:
            impatient = may_impatient and now - long.since > self._patience
            if impatient or (may_long and short is None):
                self._long.remove(long)
                return long
        if short is not None:
            self._short.remove(short)
        return short

    def _serve(self) -> None:
        """A thread's life."""
        while True:
            with self._changed:
                while (work := self._next()) is None:
                    if self._closed:
                        return
                    # One that runs may become overdue, and one that waits lose its patience, which nobody tells.
                    self._changed.wait(LOOK_SECONDS if self._short or self._long else None)
                work.begun = time.monotonic()
                self._running.add(work)
            try:
                self._answer(work)
            finally:
                self.on_done(work.begun - work.since, time.monotonic() - work.begun)
                with self._changed:
                    self._running.discard(work)
                    # Another long one may be allowed now.
                    self._changed.notify_all()

    def _answer(self, work: Work) -> None:
        """Run it and keep what comes."""
        try:
            if work.future.set_running_or_notify_cancel():
                work.future.set_result(work.run(work.cancellation))
        except BaseException as error:
            work.future.set_exception(error)


def _first(lane: deque[Work], now: float) -> Work | None:
    """The first that is not late, so that under load works are done in time and not all of them cut short."""
    return next((work for work in lane if not work.is_late(now)), lane[0] if lane else None)


def _overloaded(why: str, seconds: float) -> OverloadedError:
    """Refuses what may be admitted after so many seconds."""
    whole = min(max(math.ceil(seconds), 1), LONGEST_RETRY)
    return OverloadedError(f"{why}; try again in {whole} s", retry_after_seconds=whole)


def _draining() -> DrainingError:
    return DrainingError("the server is shutting down and takes no new work", retry_after_seconds=5)
