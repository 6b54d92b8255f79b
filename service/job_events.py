"""Server-sent events of a job: what is in the database after the client's last one, then what comes (HTML, 9.2)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from weakref import WeakValueDictionary

from .errors import RecordsUnavailableError, RequestError, problem_document
from .job_tables import TERMINAL, Event, EventKind

PAGE = 100
"""Events that are read at once: what a slow reader keeps in memory."""
LOOK_SECONDS = 1.0
"""Between two looks for what other servers have told; this server's own events ring a bell."""
HEARTBEAT_SECONDS = 15.0
RETRY_MILLISECONDS = 1000
LONGEST_ID = 18
Read = Callable[[int, int], Awaitable[list[Event]]]


class Bells:
    """Wakes whoever follows a job; a bell that nobody listens to is gone. On the event loop."""

    def __init__(self) -> None:
        self._bells: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()

    def of(self, job_id: str) -> asyncio.Event:
        """What will be set once something new is told of a job."""
        return self._bells.setdefault(job_id, asyncio.Event())

    def ring(self, job_id: str) -> None:
        """Say that there is something new."""
        if (bell := self._bells.pop(job_id, None)) is not None:
            bell.set()

    def ring_all(self) -> None:
        """Wake everybody."""
        for job_id in list(self._bells):
            self.ring(job_id)


def last_seen(header: str | None, newest: int) -> int:
    """The event after which to go on; 0, the beginning, for what is no id of this job."""
    text = (header or "").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= LONGEST_ID):
        return 0
    return int(text) if int(text) <= newest else 0


async def follow(job_id: str, after: int, read: Read, bells: Bells, ended: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The stream: ends after the job's last event, or (``ended``) where the server does and the client shall reconnect.

    While the database is away it waits; a job that is deleted meanwhile ends with a failure.
    """
    yield f"retry: {RETRY_MILLISECONDS}\n\n".encode()
    spoken = time.monotonic()
    while not ended():
        bell = bells.of(job_id)
        found: list[Event] = []
        try:
            found = await read(after, PAGE)
        except RecordsUnavailableError:
            pass
        except RequestError as error:
            problem = problem_document(error, f"/v1/jobs/{job_id}/events")
            yield _message(EventKind.FAILED, json.dumps({"problem": problem}))
            return
        for event in found:
            yield _message(event.kind, event.data, event.number)
            if event.kind in TERMINAL:
                return
            after, spoken = event.number, time.monotonic()
        if not found:
            if time.monotonic() - spoken >= HEARTBEAT_SECONDS:
                yield b": still there\n\n"
                spoken = time.monotonic()
            with suppress(TimeoutError):
                await asyncio.wait_for(bell.wait(), LOOK_SECONDS)


def _message(kind: EventKind, data: str, number: int | None = None) -> bytes:
    """One event; ``data`` is JSON on one line."""
    identity = "" if number is None else f"id: {number}\n"
    return f"{identity}event: {kind}\ndata: {data}\n\n".encode()
