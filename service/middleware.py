"""Pure ASGI middleware: a request's id and metrics, the last line against exceptions, the body's limits."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import urllib.parse
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .clock import StageClock
from .engine import Engine
from .errors import (
    INTERNAL,
    BodyTimeoutError,
    BodyTooLargeError,
    ClientGoneError,
    DrainingError,
    MalformedBodyError,
    OverloadedError,
    ProblemResponse,
    RequestError,
    problem_of,
)
from .logs import REQUEST, continue_trace
from .metrics import Metrics
from .settings import Settings

if TYPE_CHECKING:
    from .tracing import Tracing

logger = logging.getLogger("surety")

SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
LOGGED_CHARACTERS = 200
DISCARDED_BYTES = 64 * 2**20
"""So much of a body that is too large is read and dropped, so that its sender gets to read the answer."""
DISCARD_SECONDS = 5.0
RETRY_SECONDS = 5


@dataclass
class RequestState:
    """What is known of a request: by whose ``key``, its ``problem``'s label if refused, the ``votes`` of its answer."""

    request_id: str
    status: int = 0
    problem: str | None = None
    key: str | None = None
    scopes: Collection[str] | None = None
    votes: int = 0
    clock: StageClock | None = None


class RequestContext:
    """Gives every answer an X-Request-ID and counts it; answers HEAD; makes unforeseen errors a bare 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing | None, engine: Engine) -> None:
        self._app, self._metrics, self._tracing, self._engine = app, metrics, tracing, engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        state = RequestState(given if SAFE_ID.fullmatch(given) else uuid.uuid4().hex)
        span = self._tracing.begin(headers) if self._tracing else None
        if self._tracing and span:
            traceparent = self._tracing.traceparent(span)
        else:
            traceparent = continue_trace(headers.getlist("traceparent"))
        token = REQUEST.set({"request_id": state.request_id, "traceparent": traceparent})
        method, started = scope["method"], time.monotonic()
        scope["surety"] = state
        if method == "HEAD":
            scope["method"] = "GET"

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                state.status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = state.request_id
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            error: RequestError = ClientGoneError("the client left before the answer")
            if self._engine.draining:
                # In the middle of a transfer perhaps: whoever is still there may ask again.
                error = DrainingError("the server is shutting down", retry_after_seconds=RETRY_SECONDS)
            if not state.status:
                with suppress(Exception):
                    await problem_of(error, scope["path"])(scope, receive, send_with_id)
            raise
        except Exception:
            logger.exception("a request failed")
            if not state.status:
                detail = "An unforeseen error was logged under this request's id."
                response = ProblemResponse(INTERNAL, detail, instance=scope["path"])
                await response(scope, receive, send_with_id)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            known = method if method in METHODS else "other"
            shown = urllib.parse.quote(scope["path"])[:LOGGED_CHARACTERS]
            seconds = time.monotonic() - started
            fields = {
                "method": known,
                "path": shown,
                "route": route,
                "status": state.status,
                "seconds": round(seconds, 6),
                "key": state.key,
                "problem": state.problem,
            }
            logger.info("%s %s %d in %.3f s", known, shown, state.status, seconds, extra={"fields": fields})
            REQUEST.reset(token)
            if self._tracing and span:
                self._tracing.end(span, known, route, state.status, state.clock)
            self._metrics.in_flight.dec()
            self._metrics.requests.labels(route, known, str(state.status)).inc()
            self._metrics.request_seconds.labels(route).observe(seconds)
            if state.problem is not None:
                self._metrics.problems.labels(state.problem).inc()


class BodyLimit:
    """Refuses bodies by their announced length before reading, and by real length and time while reading.

    The bytes of all of them together are bounded until their requests are answered.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, self._settings.max_body_bytes, self._settings.body_seconds, self._hold)
        try:
            announced = await body.check_announced(Headers(scope=scope))
            if self._held and self._held + announced > self._settings.max_held_bytes:
                raise OverloadedError("too many uploads at once", retry_after_seconds=1)
            body.hold(announced)
        except RequestError as error:
            await problem_of(error, scope["path"])(scope, receive, send)
            return
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.hold(0)

    def _hold(self, more: int) -> None:
        self._held += more


class _Body:
    """Counts the bytes of one request body; ``held`` is told how many more of them take up memory."""

    def __init__(self, receive: Receive, maximum: int, seconds: float, held: Callable[[int], None]) -> None:
        self._receive, self._maximum, self._held = receive, maximum, held
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._size, self._complete, self._holding, self._compressed = 0, False, 0, False

    def hold(self, size: int) -> None:
        """From now on it takes up so many bytes."""
        self._held(size - self._holding)
        self._holding = size

    async def check_announced(self, headers: Headers) -> int:
        """The bytes that it may take up; refuses a Content-Length that is too large."""
        announced = headers.get("content-length")
        self._compressed = "content-encoding" in headers
        if announced is None:
            return self._maximum if "transfer-encoding" in headers else 0
        if not (announced.isascii() and announced.isdigit()):
            raise MalformedBodyError("Content-Length must be a number of bytes")
        if int(announced[:20]) > self._maximum:
            if int(announced[:20]) <= DISCARDED_BYTES and headers.get("expect", "").lower() != "100-continue":
                await self._discard()
            raise self._too_large()
        return self._maximum if self._compressed else int(announced[:20])

    async def receive(self) -> Message:
        """The next message, within the limits."""
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            raise BodyTimeoutError("the request body did not arrive in time") from error
        self._complete = message["type"] != "http.request" or not message.get("more_body", False)
        self._size += len(message.get("body", b""))
        if self._size > self._maximum:
            if not self._complete:
                await self._discard()
            raise self._too_large()
        if self._complete and not self._compressed:
            self.hold(self._size)
        return message

    async def _discard(self) -> None:
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                size = self._size
                while size <= DISCARDED_BYTES:
                    message = await self._receive()
                    size += len(message.get("body", b""))
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return
        except TimeoutError:
            return

    def _too_large(self) -> BodyTooLargeError:
        return BodyTooLargeError(f"the body may have at most {self._maximum} bytes", maximum=self._maximum)
