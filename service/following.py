"""Following the events of a job, but for the sending and waiting: which ones were heard, when to connect again."""

from __future__ import annotations

import json
import math
import time
from typing import Any
from urllib.parse import quote

import httpx
from httpx_sse import ServerSentEvent

from .event_schemas import KINDS, JobEvent, event_of
from .exchange import FIRST_PAUSE, BadReply, Connection, Outcome, Patience, checked

EVENT_STREAM = "text/event-stream"
SILENCE_SECONDS = 60.0
"""A server says every 15 that it is there; a connection that is silent for so long is lost."""
LIVED_SECONDS = 5.0
"""A connection that lasted so long was one, though no event came."""
LONGEST_ID = 18


class Following:
    """Where a client stands in the events of one job, over all its connections.

    A connection that is lost, or ended by a server that shuts down, is made again, after the last event that was
    heard. This is given up once there was none for the ``timeout`` of the client.
    """

    def __init__(self, connection: Connection, job_id: str, last_event_id: int | None) -> None:
        self.path = f"/v1/jobs/{quote(job_id, safe='')}/events"
        self._connection = connection
        self._last = last_event_id
        self._pause = FIRST_PAUSE
        self._patience = self._new_patience()
        self._opened: float | None = None
        self._heard = False

    def request(self) -> dict[str, Any]:
        """What httpx's ``stream`` is called with, for one connection."""
        self._opened, self._heard = None, False
        headers = {"Accept": EVENT_STREAM, "Cache-Control": "no-store"}
        if self._last is not None:
            headers["Last-Event-ID"] = str(self._last)
        timeout = httpx.Timeout(SILENCE_SECONDS, connect=self._patience.timeout.connect)
        return {"method": "GET", "url": self.path, "headers": headers, "timeout": timeout}

    def opens(self, response: httpx.Response) -> bool:
        """Whether events follow; raises :class:`BadReply` where something else does."""
        if response.status_code != 200:
            return False
        found = response.headers.get("content-type", "")
        if found.partition(";")[0].strip() != EVENT_STREAM:
            raise BadReply(f"{response.url.copy_with(userinfo=b'')} answered with {found or 'nothing'}, not events")
        self._opened = time.monotonic()
        return True

    def hear(self, message: ServerSentEvent) -> JobEvent | None:
        """The event, if it is one that this client knows; raises :class:`BadReply` where it makes no sense."""
        if message.retry is not None:
            self._pause = max(message.retry / 1000.0, FIRST_PAUSE)
        if message.id.isascii() and message.id.isdigit() and len(message.id) <= LONGEST_ID:
            self._last = int(message.id)
        if not message.data or message.event not in KINDS:
            return None
        try:
            event = event_of(message.event, self._last, json.loads(message.data))
        except ValueError as error:
            raise BadReply(f"{self.path} told a {message.event} that is none: {error}") from error
        self._heard = True
        return event

    def pause_after(self, outcome: Outcome) -> float | None:
        """Seconds to wait before the next connection; None: the job is over. Raises :class:`ClientError`."""
        if isinstance(outcome, httpx.Response) and outcome.status_code == 204:
            return None
        if self._opened is not None:
            silent = SILENCE_SECONDS if isinstance(outcome, httpx.ReadTimeout) else 0.0
            if self._heard or time.monotonic() - self._opened - silent >= LIVED_SECONDS:
                self._patience = self._new_patience()
            if isinstance(outcome, httpx.Response):
                outcome = httpx.RemoteProtocolError("the events ended before the job", request=outcome.request)
        pause = self._patience.pause_after(outcome)
        if pause is None:
            checked(outcome, 200)
        return pause

    def _new_patience(self) -> Patience:
        return Patience(self._connection, repeatable=True, retries=math.inf, first_pause=self._pause)
