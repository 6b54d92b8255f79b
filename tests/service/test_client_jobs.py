"""The clients' methods for jobs: against real servers, also ones that end meanwhile, and against broken streams."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.client import AsyncClient, BadReply, Client, Refused, Unreachable
from service.event_schemas import KINDS, EndEvent, ItemEvent, JobEvent, QueuedEvent
from service.job_tables import EventKind, NewEvent
from service.schemas import JobStatus

from .client_tools import DIGIT, PROBLEM, Script, busy, pauses
from .conftest import Running, Start, until
from .forks import free_port
from .job_tools import CHEAP, events, finished, look, pictures, submit

__all__ = ["pauses"]
Ask = Callable[..., Any]
QUEUED = b'id: 1\nevent: queued\ndata: {"images": 1}\n\n'
DONE = b'id: 9\nevent: done\ndata: {"counts": {"done": 1}}\n\n'


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """``ask(url, "events", id)``: a client's method, by either client; of events, the list."""

    def blocking(url: str, name: str, *arguments: Any, settings: dict[str, Any] | None = None, **fields: Any) -> Any:
        with Client(url, **settings or {}) as client:
            found = getattr(client, name)(*arguments, **fields)
            return list(found) if name == "events" else found

    def awaited(url: str, name: str, *arguments: Any, settings: dict[str, Any] | None = None, **fields: Any) -> Any:
        async def run() -> Any:
            async with AsyncClient(url, **settings or {}) as client:
                found = getattr(client, name)(*arguments, **fields)
                return [one async for one in found] if name == "events" else await found

        return asyncio.run(run())

    return blocking if request.param == "sync" else awaited


@pytest.fixture(scope="module")
def idle(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that accepts jobs and leaves them to others."""
    with start(data_dir=tmp_path_factory.mktemp("idle"), job_slots=0) as running:
        yield running


# ---------------------------------------------------------------- against a real server


def test_a_job_from_its_submission_to_its_end(server: Running, ask: Ask) -> None:
    """Oracle: the raw replies of the same server."""
    job = ask(server.url, "submit_job", pictures(2), **CHEAP)
    assert [one.item for one in job.items] == [0, 1]
    heard: list[JobEvent] = []
    ended = ask(server.url, "wait_for_job", job.id, heard.append)
    assert (ended.id, ended.status) == (job.id, JobStatus.DONE)
    assert ended.model_dump(mode="json") == look(server.client, job.id)
    assert ask(server.url, "job", job.id) == ask(server.url, "cancel_job", job.id) == ended
    assert isinstance(heard[0], QueuedEvent)
    assert heard[0].images == 2
    assert isinstance(heard[-1], EndEvent)
    told = {one.item: one for one in heard if isinstance(one, ItemEvent)}
    for item in ended.items:
        assert item.reply is not None
        assert (told[item.item].radius, told[item.item].certificate_id) == (
            item.reply.radius, item.reply.certificate_id
        )  # fmt: skip
    raw = events(server.client, job.id)
    assert [(one.id, one.kind) for one in ask(server.url, "events", job.id)] == [(one.number, one.kind) for one in raw]
    assert ask(server.url, "events", job.id, last_event_id=raw[-2].number) == [heard[-1]]
    assert ask(server.url, "events", job.id, last_event_id=raw[-1].number) == [], "204"


def test_the_same_idempotency_key_is_the_same_job(idle: Running, ask: Ask) -> None:
    key = f"with spaces, and {ask.__qualname__}"
    first, again = (ask(idle.url, "submit_job", [DIGIT], idempotency_key=key, **CHEAP) for _ in range(2))
    assert first.id == again.id != ask(idle.url, "submit_job", [DIGIT], **CHEAP).id
    with pytest.raises(Refused) as caught:
        ask(idle.url, "submit_job", [DIGIT], idempotency_key=key, alpha=0.1, **CHEAP)
    assert caught.value.label == "idempotency_key"


def test_every_kind_of_event_is_read_without_loss(idle: Running, ask: Ask) -> None:
    """What servers tell, and what they tell of a cancelled job."""
    identifier = submit(idle.client, pictures(2))
    while (lease := idle.services.jobs.store.take(60.0)) is not None and lease.job_id != identifier:
        pass
    assert lease is not None
    progress = {"stage": "estimate", "votes": 7, "p_lower": 0.5, "radius": None}
    idle.services.jobs.store.renew(
        lease,
        60.0,
        [
            NewEvent(EventKind.STAGE, {"stage": "select"}, 0),
            NewEvent(EventKind.PROGRESS, progress, 0),
            NewEvent(EventKind.ITEM, {"status": "failed", "problem": {**PROBLEM, "more": 3}}, 0),
        ],
    )
    assert ask(idle.url, "cancel_job", identifier).status == JobStatus.CANCELLED
    raw = events(idle.client, identifier)
    read = ask(idle.url, "events", identifier)
    assert [one.model_dump(mode="json", exclude_unset=True) for one in read] == [
        {**one.data, "id": one.number, "kind": one.kind} for one in raw
    ]
    assert {one.kind for one in read} == {"queued", "stage", "progress", "item", "cancelled"}
    assert set(EventKind) == KINDS


@pytest.mark.parametrize("name", ["job", "cancel_job", "events", "wait_for_job"])
def test_a_job_that_is_not_there_is_refused(idle: Running, ask: Ask, name: str) -> None:
    with pytest.raises(Refused) as caught:
        ask(idle.url, name, "no/such job?")
    assert caught.value.status == 404
    with pytest.raises(Refused) as caught:
        ask(idle.url, name, "none")
    assert (caught.value.status, caught.value.label) == (404, "unknown_job")


def test_a_refusal_names_the_image(idle: Running, ask: Ask) -> None:
    with pytest.raises(Refused) as caught:
        ask(idle.url, "submit_job", [DIGIT, b"no image"])
    assert caught.value.members["item"] == 1


def test_events_outlast_a_restart(start: Start, tmp_path: Path, ask: Ask) -> None:
    """Its stream ends, then nobody listens, then there is another one at the same address."""
    port = free_port()
    found: list[JobEvent] = []
    with start(port=port, data_dir=tmp_path, job_slots=0) as server:
        identifier = submit(server.client, pictures(2))
        following = threading.Thread(
            target=lambda: found.extend(ask(server.url, "events", identifier)), name="following"
        )
        following.start()
        until(lambda: server.services.jobs._bells._bells.get(identifier) is not None)
    time.sleep(0.5)  # so that a connection is refused
    with start(port=port, data_dir=tmp_path) as server:
        following.join(60.0)
        assert not following.is_alive()
        assert [one.id for one in found] == [one.number for one in events(server.client, identifier)]
        assert finished(server.client, identifier)["status"] == "done"


# ---------------------------------------------------------------- what breaks


def test_a_submission_is_repeated_with_its_key(ask: Ask, pauses: list[float], idle: Running) -> None:
    """Whatever happened to it: the server knows it again."""
    made = idle.client.get(f"/v1/jobs/{submit(idle.client)}").json()
    broken = (httpx.ReadError(""), httpx.ConnectError(""), busy(502), busy(503), busy(429, retry_after="3"))
    script = Script(*broken, httpx.Response(202, json=made))
    settings = script.settings(retries=5)
    assert ask("http://there", "submit_job", [DIGIT], n=7, settings=settings).id == made["id"]
    (key,) = {one.headers["idempotency-key"] for one in script.requests}
    assert len(key) > 20
    assert len({one.content.count(DIGIT) for one in script.requests}) == 1
    assert pauses == [0.25, 0.5, 1.0, 2.0, 3.0]
    ask("http://there", "submit_job", [DIGIT], settings=settings)
    assert script.requests[-1].headers["idempotency-key"] != key


@pytest.mark.parametrize("key", ["", 'a"b', "a\\b", "a\nb", "é", "x" * 256])
def test_a_key_that_cannot_be_sent_is_refused(ask: Ask, key: str) -> None:
    with pytest.raises(ValueError, match="idempotency_key"):
        ask("http://there", "submit_job", [DIGIT], idempotency_key=key)


def test_one_image_is_no_list(ask: Ask) -> None:
    for one in ("digit.png", DIGIT, Path("digit.png")):
        with pytest.raises(TypeError, match="list of images"):
            ask("http://there", "submit_job", one)


class Streams(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in pieces, and perhaps an error instead of its end."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


class Sources:
    """Answers with one stream of events or other response after the other, the last one for ever."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.after = list(answers), []
        self.transport = httpx.MockTransport(self)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.after.append(request.headers.get("last-event-id"))
        assert request.headers["accept"] == "text/event-stream"
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        headers = {"content-type": "text/event-stream; charset=utf-8"}
        return httpx.Response(200, headers=headers, stream=Streams(*answer))

    def settings(self, **more: Any) -> dict[str, Any]:
        return {"transport": self.transport, **more}


def test_a_stream_is_read_as_html_says(ask: Ask) -> None:
    """Pieces that end anywhere, CR and CRLF, comments, data of several lines, and kinds of another version."""
    pieces = (
        b"retry: 10\r\n\r\n: hello\r\n\r\nid: 1\r\nevent: que", b'ued\r\ndata: {"images":\r', b"\ndata: 1}\r\n\r\n",
        b'event: celebration\ndata: {}\nid: 2\n\n\nevent: stage\rid: 3\r',
        b'data:{"item": 0, "stage": "n\xc3', b'\xa9"}\r\r',
        DONE, b"id: 10\nevent: stage\ndata: {}\n\n",
    )  # fmt: skip
    found = ask("http://there", "events", "j", settings=Sources(pieces).settings())
    assert [(one.id, one.kind) for one in found] == [(1, "queued"), (3, "stage"), (9, "done")]
    assert (found[0].images, found[1].stage) == (1, "né")


def test_lost_connections_are_made_again_after_the_last_event(ask: Ask, pauses: list[float]) -> None:
    half = b"id: 2\nevent: queued\ndata: {"
    sources = Sources(
        (QUEUED, half),
        (httpx.ReadError(""),),
        httpx.ConnectError("refused"),
        httpx.Response(502),
        httpx.Response(503, headers={"retry-after": "4"}),
        (b"retry: 3000\n\n", b'id: 2\nevent: queued\ndata: {"item": 0}\n\n', httpx.ReadTimeout("silent")),
        (DONE,),
    )
    found = ask("http://there", "events", "j", settings=sources.settings(retries=0))
    assert [one.id for one in found] == [1, 2, 9]
    assert sources.after == [None, "1", "1", "1", "1", "1", "2"]
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 3.0], "each longer, until an event comes; then as the server wishes"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((b"retry: 1000\n\n",), Unreachable),
        ((httpx.ReadTimeout("silent"),), Unreachable),
        (httpx.ConnectError("refused"), Unreachable),
        (httpx.Response(503), Refused),
        (httpx.Response(429, headers={"retry-after": "1"}), Refused),
    ],
    ids=str,
)
def test_a_server_that_does_not_come_back_is_given_up(
    ask: Ask, pauses: list[float], answer: Any, error: type[Exception]
) -> None:
    """No wait is longer than ``timeout``; the time itself stands still here, but for the few requests."""
    sources = Sources((QUEUED,), *[answer] * 3, httpx.Response(404))
    with pytest.raises((error, Refused)):
        ask("http://there", "events", "j", settings=sources.settings(timeout=100.0))
    assert len(sources.after) == 5, "it was asked again"
    sources = Sources(answer)
    with pytest.raises(error):
        ask("http://there", "events", "j", settings=sources.settings(timeout=0.2))
    assert len(sources.after) == 1


def test_a_quiet_connection_that_lasted_was_one(ask: Ask, pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A job may wait for hours, without events, behind a proxy that closes what is quiet."""
    quiet = [(b": still there\n\n",)] * 6
    settings = Sources(*quiet, (DONE,)).settings(timeout=0.7)
    with pytest.raises(Unreachable, match="ended before the job"):
        ask("http://there", "events", "j", settings=settings)
    pauses.clear()
    monkeypatch.setattr("service.following.LIVED_SECONDS", 0.0)
    (event,) = ask("http://there", "events", "j", settings=Sources(*quiet, (DONE,)).settings(timeout=0.7))
    assert (event.kind, pauses) == ("done", [0.25] * 6)


@pytest.mark.parametrize(
    "answer",
    [
        (b"event: done\ndata: []\n\n",),
        (b"event: done\ndata: {\n\n",),
        (b"event: stage\ndata: {}\n\n",),
        httpx.Response(200, json={}),
        httpx.Response(200),
        httpx.Response(301, headers={"location": "http://elsewhere/"}),
    ],
    ids=str,
)
def test_what_is_no_event_is_said(ask: Ask, answer: Any) -> None:
    with pytest.raises(BadReply, match="/v1/jobs/j/events"):
        ask("http://there", "events", "j", settings=Sources(answer).settings())


def test_a_job_that_is_deleted_meanwhile_is_said(ask: Ask) -> None:
    problem = {**PROBLEM, "type": "urn:surety:problem:unknown_job", "status": 404}
    gone = httpx.Response(200, json={"problem": problem}).content
    (event,) = ask(
        "http://there", "events", "j", settings=Sources((b"event: failed\ndata: " + gone + b"\n\n",)).settings()
    )
    assert (event.kind, event.id, event.problem.status) == ("failed", None, 404)
