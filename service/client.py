"""A typed client of the service, sync and async (docs/client.md); it needs neither torch nor the server's packages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import aclosing
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx
from httpx_sse import EventSource

from .calls import Calls
from .event_schemas import EndEvent, JobEvent
from .exchange import BadReply, Call, ClientError, Connection, Patience, Refused, Unreachable
from .following import Following
from .schemas import JobReply, Reply

__all__ = ["AsyncClient", "BadReply", "Client", "ClientError", "Refused", "Unreachable"]

RETRIES = 3

P = ParamSpec("P")
R = TypeVar("R", bound=Reply)


def _blocking(build: Callable[Concatenate[Any, P], Call[R]]) -> Callable[Concatenate[Client, P], R]:
    """A method of :class:`Client` that makes this call."""

    @wraps(build)
    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._answer(build(self, *args, **kwargs))

    return method


def _awaited(
    build: Callable[Concatenate[Any, P], Call[R]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, R]]:
    """A method of :class:`AsyncClient` that makes this call."""

    @wraps(build)
    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> R:
        # On a thread: it may read or compress a large image.
        return await self._answer(await asyncio.to_thread(build, self, *args, **kwargs))

    return method


class Client:
    """Asks one server, and waits; for threads to share.

    Parameters
    ----------
    base_url : str
        Such as ``http://127.0.0.1:8000``, or with a path where the service lies under one.
    api_key : str, optional
        Sent as ``Authorization: Bearer ...``.
    timeout : float, optional
        Seconds for one call, all its attempts and the pauses between them included: nothing is waited for longer
        than what is left of it. By default 310, or a minute more than the ``deadline_ms`` of a call that has a longer
        one.
    retries : int
        How often a call is tried again where no connection was made, or on 429 and 503 with Retry-After, for which is
        waited; at once given up where that would take longer than ``timeout``. Calls of jobs, which can be sent twice,
        are also tried again after a connection that broke, and on 502, 503 and 504.
    transport : httpx.BaseTransport, optional
        How requests are sent, by default httpx's own.

    Raises
    ------
    ValueError
        If one of them is out of range.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout: float | None = None,
        retries: int = RETRIES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._connection = Connection(base_url, api_key, timeout, retries)
        self._http = httpx.Client(**self._connection.arguments, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def _answer(self, call: Call[R]) -> R:
        patience = Patience(self._connection, repeatable=call.repeatable, deadline=call.deadline)
        while True:
            outcome: httpx.Response | httpx.RequestError
            try:
                outcome = self._http.request(call.method, call.path, **call.content, timeout=patience.timeout)
            except httpx.RequestError as error:
                outcome = error
            pause = patience.pause_after(outcome)
            if pause is None:
                return call.read(outcome)
            time.sleep(pause)

    certify = _blocking(Calls.certify)
    predict = _blocking(Calls.predict)
    models = _blocking(Calls.models)
    model = _blocking(Calls.model)
    bounds = _blocking(Calls.bounds)
    certificate = _blocking(Calls.certificate)
    verify = _blocking(Calls.verify)
    signing_key = _blocking(Calls.signing_key)
    ready = _blocking(Calls.ready)
    submit_job = _blocking(Calls.submit_job)
    job = _blocking(Calls.job)
    cancel_job = _blocking(Calls.cancel_job)

    def events(self, job_id: str, *, last_event_id: int | None = None) -> Generator[JobEvent, None, None]:
        """``GET /v1/jobs/{job_id}/events``: what happens to a job, all of it or after an event, until it is over.

        A connection that is lost is made again, also to a server that starts meanwhile, and nothing is told twice;
        given up once there was none for ``timeout`` seconds. Kinds of events that are not known here are left out.

        Raises
        ------
        Refused, Unreachable, BadReply
            All are ClientError.
        """
        following = Following(self._connection, job_id, last_event_id)
        pause: float | None = 0.0
        while pause is not None:
            outcome: httpx.Response | httpx.RequestError
            try:
                with self._http.stream(**following.request()) as outcome:
                    if following.opens(outcome):
                        for message in EventSource(outcome).iter_sse():
                            if (event := following.hear(message)) is not None:
                                yield event
                            if isinstance(event, EndEvent):
                                return
                    else:
                        outcome.read()
            except httpx.RequestError as error:
                outcome = error
            pause = following.pause_after(outcome)
            if pause is not None:
                time.sleep(pause)

    def wait_for_job(self, job_id: str, on_event: Callable[[JobEvent], object] | None = None) -> JobReply:
        """The job, once it is over; each of its events is told to ``on_event``. Raises as :meth:`events`."""
        for event in self.events(job_id):
            if on_event is not None:
                on_event(event)
        return self.job(job_id)


class AsyncClient:
    """As :class:`Client`, for asyncio; ``transport`` is an httpx.AsyncBaseTransport."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout: float | None = None,
        retries: int = RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._connection = Connection(base_url, api_key, timeout, retries)
        self._http = httpx.AsyncClient(**self._connection.arguments, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def _answer(self, call: Call[R]) -> R:
        patience = Patience(self._connection, repeatable=call.repeatable, deadline=call.deadline)
        while True:
            outcome: httpx.Response | httpx.RequestError
            try:
                outcome = await self._http.request(call.method, call.path, **call.content, timeout=patience.timeout)
            except httpx.RequestError as error:
                outcome = error
            pause = patience.pause_after(outcome)
            if pause is None:
                return call.read(outcome)
            await asyncio.sleep(pause)

    certify = _awaited(Calls.certify)
    predict = _awaited(Calls.predict)
    models = _awaited(Calls.models)
    model = _awaited(Calls.model)
    bounds = _awaited(Calls.bounds)
    certificate = _awaited(Calls.certificate)
    verify = _awaited(Calls.verify)
    signing_key = _awaited(Calls.signing_key)
    ready = _awaited(Calls.ready)
    submit_job = _awaited(Calls.submit_job)
    job = _awaited(Calls.job)
    cancel_job = _awaited(Calls.cancel_job)

    async def events(self, job_id: str, *, last_event_id: int | None = None) -> AsyncGenerator[JobEvent, None]:
        """As :meth:`Client.events`, for ``async for``; who leaves early closes it (``contextlib.aclosing``)."""
        following = Following(self._connection, job_id, last_event_id)
        pause: float | None = 0.0
        while pause is not None:
            outcome: httpx.Response | httpx.RequestError
            try:
                async with self._http.stream(**following.request()) as outcome:
                    if following.opens(outcome):
                        async with aclosing(EventSource(outcome).aiter_sse()) as messages:
                            async for message in messages:
                                if (event := following.hear(message)) is not None:
                                    yield event
                                if isinstance(event, EndEvent):
                                    return
                    else:
                        await outcome.aread()
            except httpx.RequestError as error:
                outcome = error
            pause = following.pause_after(outcome)
            if pause is not None:
                await asyncio.sleep(pause)

    async def wait_for_job(self, job_id: str, on_event: Callable[[JobEvent], object] | None = None) -> JobReply:
        """As :meth:`Client.wait_for_job`."""
        async with aclosing(self.events(job_id)) as events:
            async for event in events:
                if on_event is not None:
                    on_event(event)
        return await self.job(job_id)
