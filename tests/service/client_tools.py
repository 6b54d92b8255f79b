"""What the tests of the clients share: either client, scripted replies, sockets that misbehave."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

import service.client
from service.client import AsyncClient, Client

from .pictures import encode, grey

READY = {"status": "ready", "version": "0"}
PROBLEM = {
    "type": "urn:surety:problem:overloaded",
    "title": "The server is busy",
    "status": 429,
    "detail": "all permits are taken",
    "instance": "/v1/certify",
}
DIGIT = encode(grey(), "PNG")
NO_REPLIES = {
    "a page": httpx.Response(200, html="<h1>hello</h1>"),
    "nothing": httpx.Response(200),
    "half a reply": httpx.Response(200, text='{"status": "rea'),
    "a list": httpx.Response(200, json=[]),
    "wrong types": httpx.Response(200, json={"status": 3, "version": ["0"]}),
    "not UTF-8": httpx.Response(200, content=b'{"status": "\xff", "version": "0"}'),
    "a redirect": httpx.Response(301, headers={"location": "http://elsewhere/"}),
}
Ask = Callable[..., Any]
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """``ask(url, "certify", image, n=100)``: a client's method, by either client; ``settings`` are the client's."""

    def blocking(url: str, name: str, *arguments: Any, settings: dict[str, Any] | None = None, **fields: Any) -> Any:
        with Client(url, **settings or {}) as client:
            return getattr(client, name)(*arguments, **fields)

    def awaited(url: str, name: str, *arguments: Any, settings: dict[str, Any] | None = None, **fields: Any) -> Any:
        async def run() -> Any:
            async with AsyncClient(url, **settings or {}) as client:
                return await getattr(client, name)(*arguments, **fields)

        return asyncio.run(run())

    return blocking if request.param == "sync" else awaited


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that clients wished to wait; they do not."""
    asked: list[float] = []

    async def sleep(seconds: float) -> None:
        asked.append(seconds)

    monkeypatch.setattr(service.client, "time", SimpleNamespace(sleep=asked.append))
    monkeypatch.setattr(service.client, "asyncio", SimpleNamespace(sleep=sleep, to_thread=asyncio.to_thread))
    return asked


class Script:
    """Answers requests with one response or exception after the other, the last one for ever; keeps the requests."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers, self.requests = list(answers), []
        self.transport = httpx.MockTransport(self)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def settings(self, **more: Any) -> dict[str, Any]:
        """A client's, to talk to this script."""
        return {"transport": self.transport, **more}


def busy(status: int = 429, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers=named, json={**PROBLEM, "status": status})


@pytest.fixture
def raw_server() -> Iterator[Callable[[bytes | None], tuple[str, threading.Event]]]:
    """``raw_server(reply)``: URL of a socket that sends these bytes and closes, or waits where there are none."""
    listeners: list[socket.socket] = []
    kept: list[socket.socket] = []

    def begin(reply: bytes | None) -> tuple[str, threading.Event]:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        arrived = threading.Event()

        def serve() -> None:
            peer, _ = listener.accept()
            peer.recv(65536)
            arrived.set()
            if reply is None:
                kept.append(peer)
            else:
                peer.sendall(reply)
                peer.close()

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}", arrived

    yield begin
    for one in (*listeners, *kept):
        one.close()
