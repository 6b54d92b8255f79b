"""The clients where no good server answers: retries, the time, broken replies, wrong settings."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from service.client import AsyncClient, BadReply, Client, Refused, Unreachable
from service.schemas import HealthReply

from .client_tools import DIGIT, NO_REPLIES, PROBLEM, READY, Ask, Script, ask, busy, pauses, raw_server

__all__ = ["ask", "pauses", "raw_server"]

def test_the_key_is_sent_as_a_bearer_token(ask: Ask) -> None:
    script = Script(httpx.Response(200, json=READY))
    ask("http://there/under/", "ready", settings=script.settings(api_key="s3cret"))
    ask("http://there", "ready", settings=script.settings())
    with_key, without = script.requests
    assert str(with_key.url) == "http://there/under/health/ready"
    assert with_key.headers["authorization"] == "Bearer s3cret"
    assert "authorization" not in without.headers


def test_retry_after_is_honoured_as_seconds_and_as_a_date(ask: Ask, pauses: list[float]) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    answers = busy(retry_after="2"), busy(503, retry_after="0"), busy(retry_after=date)
    script = Script(*answers, httpx.Response(200, json=READY))
    assert ask("http://there", "ready", settings=script.settings(retries=3)) == HealthReply(**READY)
    assert len(script.requests) == 4
    assert pauses[:2] == [2.0, 0.0]
    assert 0.0 < pauses[2] <= 60.0


def test_the_whole_request_is_sent_again(ask: Ask, pauses: list[float]) -> None:
    script = Script(busy(retry_after="1"), busy(400))
    with pytest.raises(Refused):
        ask("http://there", "certify", DIGIT, n=7, settings=script.settings())
    first, second = (request.content for request in script.requests)
    assert all(DIGIT in body and b'name="n"\r\n\r\n7\r\n' in body for body in (first, second))


def test_retries_end(ask: Ask, pauses: list[float]) -> None:
    script = Script(busy(retry_after="1"))
    with pytest.raises(Refused) as caught:
        ask("http://there", "ready", settings=script.settings(retries=2))
    assert (caught.value.status, caught.value.retry_after) == (429, 1.0)
    assert (len(script.requests), pauses) == (3, [1.0, 1.0])


def test_no_wait_that_is_longer_than_the_time_left(ask: Ask, pauses: list[float]) -> None:
    script = Script(busy(retry_after="60"))
    with pytest.raises(Refused) as caught:
        ask("http://there", "ready", settings=script.settings(timeout=59.0))
    assert caught.value.retry_after == 60.0
    assert (len(script.requests), pauses) == (1, [])


@pytest.mark.parametrize(
    ("settings", "deadline", "waited"),
    [
        ({}, None, 310.0), ({}, 1000, 310.0), ({}, 600_000, 660.0), ({}, 10**12, 86_400.0),
        ({"timeout": 20.0}, 600_000, 20.0),
    ],
)  # fmt: skip
def test_a_call_waits_for_longer_than_its_own_deadline_unless_a_time_was_chosen(
    ask: Ask, settings: dict[str, Any], deadline: int | None, waited: float
) -> None:
    script = Script(busy(400))
    for name, arguments in (("certify", [DIGIT]), ("predict", [DIGIT]), ("verify", ["x"]), ("verify", ["x", DIGIT])):
        with pytest.raises(Refused):
            ask("http://there", name, *arguments, deadline_ms=deadline, settings=script.settings(**settings))
        timeout = script.requests[-1].extensions["timeout"]
        assert (timeout["read"], timeout["connect"]) == (pytest.approx(waited, abs=1.0), 10.0)


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), httpx.ConnectTimeout("slow")])
def test_connections_that_were_not_made_are_tried_again(ask: Ask, pauses: list[float], error: Exception) -> None:
    script = Script(error, error, httpx.Response(200, json=READY))
    assert ask("http://there", "ready", settings=script.settings()).status == "ready"
    assert len(pauses) == 2
    script = Script(error)
    with pytest.raises(Unreachable, match=r"http://there/health/ready.*(refused|slow)"):
        ask("http://there", "ready", settings=script.settings(retries=1))
    assert len(script.requests) == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (busy(503), Refused),
        (busy(429, retry_after="soon"), Refused),
        (busy(500, retry_after="1"), Refused),
        (busy(422, retry_after="1"), Refused),
        (httpx.ReadTimeout("slow"), Unreachable),
        (httpx.RemoteProtocolError("gone"), Unreachable),
        (httpx.ReadError(""), Unreachable),
    ],
    ids=str,
)
def test_nothing_else_is_tried_again(ask: Ask, pauses: list[float], answer: Any, error: type[Exception]) -> None:
    script = Script(answer)
    with pytest.raises(error, match=r"\w\)?$"):
        ask("http://there", "ready", settings=script.settings())
    assert (len(script.requests), pauses) == (1, [])


@pytest.mark.parametrize("reply", NO_REPLIES.values(), ids=NO_REPLIES)
def test_a_reply_that_is_none_of_ours_is_said(ask: Ask, reply: httpx.Response) -> None:
    with pytest.raises(BadReply, match="http://there/health/ready"):
        ask("http://user:secret@there", "ready", settings=Script(reply).settings())


@pytest.mark.parametrize(
    "content", [b"<h1>Bad Gateway</h1>", b"", b"null", b'{"error": "x"}', b'{"type": 3, "status": "x"}', b"\xff"]
)
def test_a_refusal_without_a_problem_is_told_by_its_status(ask: Ask, content: bytes) -> None:
    script = Script(httpx.Response(502, content=content, headers={"x-request-id": "r1"}))
    with pytest.raises(Refused) as caught:
        ask("http://there", "ready", settings=script.settings())
    refusal = caught.value
    assert (refusal.status, refusal.type, refusal.title) == (502, "about:blank", "Bad Gateway")
    assert (refusal.members, refusal.request_id) == ({}, "r1")


def test_the_status_is_the_one_that_arrived(ask: Ask) -> None:
    with pytest.raises(Refused) as caught:
        ask("http://there", "ready", settings=Script(httpx.Response(502, json=PROBLEM)).settings())
    assert (caught.value.status, caught.value.label) == (502, "overloaded")


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"",
    ],
    ids=["truncated", "not gzip", "not HTTP", "closed"],
)
def test_broken_connections_are_unreachable(ask: Ask, raw_server: Any, reply: bytes) -> None:
    url, _ = raw_server(reply)
    with pytest.raises(Unreachable):
        ask(url, "ready")


def test_the_time_is_limited(ask: Ask, raw_server: Any) -> None:
    url, arrived = raw_server(None)
    with pytest.raises(Unreachable):
        ask(url, "ready", settings={"timeout": 0.3})
    assert arrived.wait(30)


@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": "127.0.0.1:8000"},
        {"base_url": "ftp://there"},
        {"base_url": "http://"},
        {"base_url": "http://there:port"},
        {"api_key": ""},
        {"api_key": "secret\n"},
        {"api_key": "sécret"},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"retries": -1},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_wrong_settings_are_refused_without_the_key(kind: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"base_url|api_key|timeout|retries") as caught:
        kind(**{"base_url": "http://there", **settings})
    assert "cret" not in str(caught.value)


def test_exceptions_pass_between_processes() -> None:
    with pytest.raises(Refused) as caught, Client("http://there", **Script(busy(400)).settings()) as client:
        client.ready()
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.status, again.members) == (str(caught.value), 400, caught.value.members)
