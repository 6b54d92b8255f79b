"""A typed client of the service, sync and async (docs/client.md); it needs neither torch nor the server's packages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import httpx

from .calls import Calls
from .exchange import BadReply, Call, ClientError, Connection, Patience, Refused, Unreachable
from .schemas import Reply

__all__ = ["AsyncClient", "BadReply", "Client", "ClientError", "Refused", "Unreachable"]

TIMEOUT = 310.0
"""Seconds; a server gives a request up after 300 by default (SURETY_MAX_SECONDS)."""
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
    timeout : float
        Seconds for one call, all its attempts and the pauses between them included: nothing is waited for longer
        than what is left of it.
    retries : int
        How often a call is tried again where no connection was made, or on 429 and 503 with Retry-After, for which is
        waited; at once given up where that would take longer than ``timeout``.
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
        timeout: float = TIMEOUT,
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
        patience = Patience(self._connection)
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
    ready = _blocking(Calls.ready)


class AsyncClient:
    """As :class:`Client`, for asyncio; ``transport`` is an httpx.AsyncBaseTransport."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout: float = TIMEOUT,
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
        patience = Patience(self._connection)
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
    ready = _awaited(Calls.ready)
