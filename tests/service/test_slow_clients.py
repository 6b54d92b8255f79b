"""Slow clients are cut off, slow answers and idle connections are not."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import closing
from http.client import HTTPConnection

import httpx
import pytest

import service.computing
import service.keys
from service.protocol import READ_BYTES, TimedProtocol

from .conftest import Start, until
from .pictures import encode, grey
from .sockets import connect, everything

IMAGE = encode(grey(), "PNG")


def test_heads_that_trickle_are_cut_off_and_others_are_served_meanwhile(start: Start) -> None:
    """Connections that say nothing, that never end their head, and that never end a body nobody wants."""
    with start(head_seconds=2.0) as server:
        begins = [
            b"", b"GET /health/live HTTP/1.1\r\nHost: x\r\n",
            b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\nGET /health/live HTT",
            b"POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
        ]  # fmt: skip
        stop = threading.Event()
        connections = [connect(server) for _ in range(5) for _ in begins]
        for connection, begin in zip(connections, begins * 5, strict=True):
            connection.sendall(begin)

        def trickle() -> None:
            alive = [one for one, begin in zip(connections, begins * 5, strict=True) if begin]
            while not stop.wait(0.1):
                for one in list(alive):
                    try:
                        one.sendall(b"a")
                    except OSError:
                        alive.remove(one)

        sender = threading.Thread(target=trickle)
        sender.start()
        try:
            assert httpx.get(f"{server.url}/health/live", timeout=60).status_code == 200
            answers = [everything(connection) for connection in connections]  # each ends, or its socket times out
        finally:
            stop.set()
            sender.join()
            for connection in connections:
                connection.close()
        assert [answer.count(b"HTTP/1.1") for answer in answers] == [0, 0, 1, 1] * 5
        assert httpx.get(f"{server.url}/health/live", timeout=60).status_code == 200


def test_a_connection_may_be_idle_between_requests_for_longer_than_a_head_may_take(start: Start) -> None:
    """As proxies keep theirs; and it is closed after keep_alive_seconds."""
    with (
        start(head_seconds=1.0, keep_alive_seconds=5) as server,
        closing(HTTPConnection(server.url.removeprefix("http://"), timeout=30)) as connection,
    ):
        for _ in range(2):
            connection.request("GET", "/health/live")
            used = connection.sock
            assert connection.getresponse().read()
            time.sleep(1.6)
            assert connection.sock is used
        assert everything(used) == b""


def test_a_slow_answer_is_no_slow_client(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    certify = service.computing.certify
    monkeypatch.setattr(service.computing, "certify", lambda *what: (gate.wait(30), certify(*what))[1])
    with start(head_seconds=2.0) as server:
        threading.Timer(3.0, gate.set).start()
        answer = httpx.post(f"{server.url}/v1/certify", files={"image": ("image", IMAGE)}, timeout=60)
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("path", "asked", "last"),
    [("/openapi.json", 8, b""), ("/health/live", 100, b"Connection: close\r\n")],
    ids=["more than a buffer", "less, and closed after it"],
)
def test_a_client_that_reads_no_answers_is_cut_off(
    start: Start, monkeypatch: pytest.MonkeyPatch, path: str, asked: int, last: bytes
) -> None:
    """One that begins to read in time gets all of them."""
    made = TimedProtocol.connection_made

    def with_little_room(protocol: TimedProtocol, transport: asyncio.Transport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made(protocol, transport)

    monkeypatch.setattr(TimedProtocol, "connection_made", with_little_room)
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\n".encode()
    requests = (head + b"\r\n") * (asked - 1) + head + last + b"\r\n"
    with start(body_seconds=1.0, keep_alive_seconds=3) as server:
        with connect(server, receives=2048) as silent:
            silent.sendall(requests)
            time.sleep(2.5)
            assert everything(silent).count(b"HTTP/1.1 200") < asked / 2
        with connect(server, receives=2048) as slow:
            slow.sendall(requests)
            time.sleep(0.5)
            assert everything(slow).count(b"HTTP/1.1 200") == asked


def test_little_is_parsed_at_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much has come: a chunk may have one byte, and others wait until all are parsed."""
    sizes, receive = [], TimedProtocol.data_received

    def noting(protocol: TimedProtocol, data: bytes) -> None:
        sizes.append(len(data))
        receive(protocol, data)

    monkeypatch.setattr(TimedProtocol, "data_received", noting)
    with start() as server:
        head = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        with closing(connect(server)) as connection:
            connection.sendall(head + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 415")
    assert max(sizes) == READ_BYTES


def test_an_upload_that_the_end_of_the_server_cuts_may_be_sent_again(start: Start) -> None:
    with start() as server:
        connection = connect(server)
        head = b"POST /v1/certify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        connection.sendall(head)
        until(lambda: "surety_requests_in_flight 2.0" in server.client.get("/metrics").text)
        server.services.engine.drain()
    with closing(connection):
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"urn:surety:problem:draining" in answer
    assert b"retry-after" in answer.lower()
