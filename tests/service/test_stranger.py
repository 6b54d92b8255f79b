"""What a running server that demands keys tells somebody without one, asked byte by byte."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from certification import __version__
from service.access import OPEN
from service.app import create_app
from service.certifier import Certifier
from service.errors import NotReadyError
from service.headers import SECURITY_HEADERS
from service.keys import Scope, make_key, write_keys
from service.settings import Settings

from .conftest import Running, Start
from .pictures import encode, grey
from .sockets import connect, everything

ROOT = Path(__file__).resolve().parents[2]
KEY_NAME, MODEL = "laboratory", "constant-rotation"
NAMED = {"date", "content-type", "content-length", "connection", "x-request-id", "www-authenticate", "allow",
         "retry-after"}  # fmt: skip
"""Headers that an answer may have, beside those of security: none of them names software."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND")
TARGETS = (
    "/", "//", "///", "//v1/models", "/v1//models", "/v1/models/", "/V1/MODELS", "/v1", "/v3", "/v1/models%00", "*",
    "/docs", "/docs/", "/redoc", "/openapi.json", "/openapi.yaml", "/metrics", "/metrics/", "/METRICS", "/metrics%20",
    "/health", "/health/live/", "/health/live/../../metrics", "/health/live%2f..%2f..%2fmetrics",
    "/health/live;/metrics", "/health/live%00", "//health/live", "/health/live/%2e%2e/%2e%2e/v1/models",
    "/%2e%2e/%2e%2e/etc/passwd", "/../../etc/passwd",
    "/.env", "/.git/config", "/robots.txt", "/favicon.ico", "/server-status", "/debug", "/admin", "/graphql",
    "http://other.example/v1/models", "http://other.example/metrics", "/v1/models?key=admin", "/\x80\xff", "/%ff%fe",
    f"/v1/models/{MODEL}", "/v1/models/none", f"/v2/models/{MODEL}", "/v2/models/none",
)  # fmt: skip
HEADS = (
    "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: localhost", "Forwarded: for=127.0.0.1", "X-Real-IP: 127.0.0.1",
    "X-Original-URL: /health/live", "X-Rewrite-URL: /health/live", "X-HTTP-Method-Override: GET",
    "X-Forwarded-Prefix: /x", "Origin: https://other.example", "Upgrade: websocket\r\nConnection: Upgrade",
    "Upgrade: h2c\r\nConnection: Upgrade", "Authorization: Bearer", "Authorization: Basic YWRtaW46YWRtaW4=",
    "Authorization: Negotiate x", "X-API-Key: " + "a" * 8000,
    f"X-API-Key: surety.{KEY_NAME}.wrong", "X-API-Key: surety.nobody.wrong", "Expect: 100-continue", "Range: bytes=0-1",
    "Accept: text/html", "If-None-Match: *", "X-Request-ID: ../../etc", "traceparent: x", "Cookie: key=admin",
)  # fmt: skip
MALFORMED = (
    b"GET / HTTP/1.1\r\n\r\n", b"GET /\r\n\r\n", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", b"\0\0\0\0\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000, b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/certify HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST /v1/certify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What a stranger reads; ``told`` is all of it but what it sent itself and what differs each time."""

    status: int
    headers: dict[str, str]
    body: str

    @property
    def told(self) -> str:
        shown = {name: value for name, value in self.headers.items() if name not in ("x-request-id", "date")}
        shown.pop("content-length", None)
        return f"{self.status} {shown} " + re.sub(r'"instance": "[^"]*"', "", self.body)


@dataclass(frozen=True)
class Guarded:
    """A server that demands keys, and the id of a certificate that it holds."""

    server: Running
    certificate: str

    def send(self, raw: bytes) -> Answer:
        with connect(self.server) as connection:
            with suppress(BrokenPipeError, ConnectionResetError):  # refused before the end of what is sent
                connection.sendall(raw)
            head, _, body = everything(connection).partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return Answer(int(first.split()[1]), headers, body.decode())

    def ask(self, method: str, target: str, *lines: str, version: str = "1.1") -> Answer:
        head = [f"{method} {target} HTTP/{version}", "Host: x", "Connection: close", *lines]
        return self.send("\r\n".join([*head, "", ""]).encode("latin-1"))


@pytest.fixture(scope="module")
def guarded(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("stranger")
    key, entry = make_key(KEY_NAME, [Scope.CERTIFY])
    write_keys(folder / "keys.json", {KEY_NAME: entry})
    with start(keys_file=folder / "keys.json", data_dir=folder) as server:
        response = httpx.post(
            f"{server.url}/v1/certify", headers={"x-api-key": key}, data={"guarantee": "heuristic"},
            files={"image": ("x", encode(grey(), "PNG"))}, timeout=60,
        )  # fmt: skip
        yield Guarded(server, response.json()["certificate_id"])


def check(guarded: Guarded, answer: Answer) -> None:
    """Nothing in it says what runs here, where, for whom, or what it holds."""
    assert set(answer.headers) <= NAMED | {name.lower() for name in SECURITY_HEADERS}, answer
    software = ["uvicorn", "starlette", "fastapi", "pydantic", "h11", "python", "torch", "numba", "pillow", "sqlite"]
    secrets = [
        *software, "traceback", 'file "', str(ROOT), str(Path.home()), "cuda", "cpu", __version__, MODEL, "rgb",
        KEY_NAME, guarded.certificate, "1 request", "votes",
    ]  # fmt: skip
    assert not [word for word in secrets if word.lower() in answer.told.lower()], answer


def refused(guarded: Guarded, answer: Answer) -> str:
    """Check a refusal for want of a key; what it tells."""
    check(guarded, answer)
    assert answer.status == 401, answer
    return answer.told


def test_every_path_of_the_document_says_the_same_whatever_it_names(guarded: Guarded) -> None:
    """Whether a model or a certificate exists cannot be told from its refusal."""
    told = set()
    for path in create_app(Settings()).openapi()["paths"]:
        for values in ({"model_id": MODEL, "certificate_id": guarded.certificate}, {}):
            target = re.sub(r"\{(\w+)\}", lambda name, known=values: known.get(name[1], "A" * 32), path)
            for method in METHODS:
                answer = guarded.ask(method, target)
                check(guarded, answer)
                if path not in OPEN:
                    told.add((path.startswith("/v2"), method == "HEAD", refused(guarded, answer)))
                else:
                    assert answer.status in (200, 204, 405), answer
    assert len(told) == 4, told


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_other_targets_are_refused_like_those_that_exist(guarded: Guarded, version: str) -> None:
    for target in TARGETS:
        for method in ("GET", "OPTIONS", "TRACE"):
            answer = guarded.ask(method, target, version=version)
            check(guarded, answer)
            assert answer.status in (400, 401), (target, answer)


def test_no_header_lets_a_stranger_in_or_is_answered_with_more(guarded: Guarded) -> None:
    plain = refused(guarded, guarded.ask("GET", "/v1/models"))
    invalid = refused(guarded, guarded.ask("GET", "/v1/models", "X-API-Key: x"))
    for line in HEADS:
        assert refused(guarded, guarded.ask("GET", "/v1/models", line)) in (plain, invalid), line
    names = {guarded.ask("GET", "/v1/models", f"X-API-Key: surety.{one}.x").told for one in (KEY_NAME, "none")}
    assert names == {invalid}


@pytest.mark.parametrize("raw", MALFORMED, ids=lambda raw: repr(raw[:30]))
def test_what_is_hardly_http_is_answered_with_a_problem(guarded: Guarded, raw: bytes) -> None:
    answer = guarded.send(raw.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
    check(guarded, answer)
    assert answer.status in (400, 401), answer
    assert json.loads(answer.body)["type"].startswith("urn:surety:problem:")


def test_a_body_that_turns_out_to_be_none_ends_the_connection_and_leaves_no_traceback(
    guarded: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    """After the refusal of its request, and with it."""
    head = b"POST /v1/certify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connect(guarded.server) as connection:
        connection.sendall(head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")
        connection.sendall(b"no chunk\r\n")
        assert b"HTTP/1.1" not in everything(connection)
    check(guarded, guarded.send(head + b"no chunk\r\n"))
    guarded.ask("GET", "/health/live")
    assert not [record for record in caplog.records if record.exc_info or record.name == "asyncio"]


def test_an_open_path_has_no_more_to_say_to_a_stranger_who_sends_more(guarded: Guarded) -> None:
    plain = guarded.ask("GET", "/health/ready")
    assert json.loads(plain.body) == {"status": "ready"}
    for line in HEADS:
        answer = guarded.ask("GET", "/health/ready?verbose=1", line)
        check(guarded, answer)
        assert (answer.status, answer.body) == (200, plain.body)


def test_a_stranger_is_not_told_why_the_server_is_not_ready(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    lifecycle, engine = guarded.server.services.lifecycle, guarded.server.services.engine

    def dead(_: Certifier) -> None:
        raise NotReadyError("the worker process is started again", retry_after_seconds=10)

    reasons: list[tuple[object, str, object]] = [
        (lifecycle, "_certifier", None), (lifecycle, "failure", "no such card"), (Certifier, "check_ready", dead),
        (engine, "draining", True),
    ]  # fmt: skip
    for path in ("/health/ready", "/v2/health/ready"):
        told = set()
        for reason in reasons:
            with monkeypatch.context() as patch:
                patch.setattr(*reason)
                if reason[1] == "failure":
                    patch.setattr(lifecycle, "_certifier", None)
                answer = guarded.ask("GET", path)
            check(guarded, answer)
            assert answer.status == 503
            told.add(answer.told)
        assert len(told) == 1, told
    assert guarded.ask("GET", "/health/ready").status == 200
