"""Admission, the threads that compute, cancellation and draining.

A permit is held from admission until the thread is really done, so an abandoned certificate that cannot stop
at once still counts. Nothing here runs on the event loop but bookkeeping.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from .errors import ClientGoneError, DeadlineError, DrainingError, OverloadedError

T = TypeVar("T")
DECODERS = 2
RECENT = 0.2
"""Weight of the newest run in the mean duration from which Retry-After is estimated."""


class Cancelled(Exception):
    """Raised inside a run that nobody waits for."""


class Cancellation:
    """A flag that a run looks at between its stages."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the run to stop."""
        self._event.set()

    def check(self) -> None:
        """Raise :class:`Cancelled` if the run was asked to stop."""
        if self._event.is_set():
            raise Cancelled


class Engine:
    """Runs at most ``max_running`` works at once and lets ``max_waiting`` more wait.

    A work that has no result ``max_seconds`` after its admission is given up.
    """

    def __init__(self, max_running: int, max_waiting: int, max_seconds: float) -> None:
        self._max_seconds = max_seconds
        self._max_running = max_running
        self._capacity = max_running + max_waiting
        self._workers = ThreadPoolExecutor(max_running, thread_name_prefix="certify")
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self._lock = threading.Lock()
        self._admitted: set[Cancellation] = set()
        self._running = 0
        self._mean_seconds = 1.0
        self._aborted = asyncio.Event()
        self.draining = False

    @property
    def running(self) -> int:
        """Works on a thread."""
        return self._running

    @property
    def waiting(self) -> int:
        """Admitted works that wait for a thread."""
        with self._lock:
            return len(self._admitted) - self._running

    @property
    def idle(self) -> bool:
        """Whether nothing is admitted."""
        with self._lock:
            return not self._admitted

    def drain(self) -> None:
        """Admit nothing any more; safe to call from a signal handler."""
        self.draining = True

    def abort(self) -> None:
        """Answer everybody who still waits with a refusal and ask the works to stop; on the event loop."""
        self.drain()
        with self._lock:
            admitted = list(self._admitted)
        for cancellation in admitted:
            cancellation.cancel()
        self._aborted.set()

    async def check(self, work: Callable[[], T]) -> T:
        """Run a short piece of work (decoding, planning) off the event loop, without a permit."""
        if self.draining:
            raise _draining()
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    async def run(self, work: Callable[[Cancellation], T], abandoned: Callable[[], Awaitable[None]]) -> T:
        """Admit ``work`` and wait for its result.

        Parameters
        ----------
        work : callable
            Runs on a thread; looks at the cancellation between its stages.
        abandoned : callable
            Returns once nobody waits for the result any more.

        Raises
        ------
        DrainingError, OverloadedError
            If the work is not admitted, or (draining) was not done in time.
        ClientGoneError
            If it was abandoned.
        DeadlineError
            If it took too long.
        """
        cancellation = self._admit()
        future: Future[T] = self._workers.submit(self._work, work, cancellation)
        future.add_done_callback(lambda _: self._release(cancellation))
        result = asyncio.wrap_future(future)
        gone, aborted = asyncio.ensure_future(abandoned()), asyncio.ensure_future(self._aborted.wait())
        waiting: set[asyncio.Future[Any]] = {result, gone, aborted}
        try:
            await asyncio.wait(waiting, timeout=self._max_seconds, return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return result.result()
            if aborted.done():
                raise _draining()
            if gone.done():
                raise ClientGoneError("the client left before the answer")
            raise DeadlineError(
                f"no answer within {self._max_seconds:g} s: ask for less (n, n_delta, n_error, attack_range)",
                maximum_seconds=self._max_seconds,
            )
        except Cancelled:
            # Only abort cancels a work that is waited for, and its result may come before the news of it.
            raise _draining() from None
        finally:
            # Whatever ends the waiting ends the work: at once in the queue, at its next check on a thread.
            cancellation.cancel()
            for task in waiting:
                task.cancel()

    def close(self) -> None:
        """Let the threads end; does not wait for them."""
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def _admit(self) -> Cancellation:
        with self._lock:
            if self.draining:
                raise _draining()
            ahead = len(self._admitted)
            if ahead >= self._capacity:
                seconds = min(max(math.ceil(self._mean_seconds * ahead / self._max_running), 1), 120)
                raise OverloadedError(
                    f"{self._running} requests are computed and {ahead - self._running} wait; try again in {seconds} s",
                    retry_after_seconds=seconds,
                )
            cancellation = Cancellation()
            self._admitted.add(cancellation)
            return cancellation

    def _work(self, work: Callable[[Cancellation], T], cancellation: Cancellation) -> T:
        cancellation.check()
        started = time.monotonic()
        with self._lock:
            self._running += 1
        try:
            return work(cancellation)
        finally:
            with self._lock:
                self._running -= 1
                self._mean_seconds += RECENT * (time.monotonic() - started - self._mean_seconds)

    def _release(self, cancellation: Cancellation) -> None:
        with self._lock:
            self._admitted.discard(cancellation)


def _draining() -> DrainingError:
    return DrainingError("the server is shutting down and takes no new work", retry_after_seconds=5)
