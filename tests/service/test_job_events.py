"""Events of jobs: what is told, to whom, after which interruption."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import service.jobs
from service.job_events import last_seen
from service.job_store import JobStore
from service.job_tables import EventKind, NewEvent
from service.jobs import THREADS
from service.progress import Progress, Watcher

from .conftest import Running, Start, until
from .job_tools import LONG, Gate, Told, events, finished, gate, look, parsed, pictures, submit

__all__ = ["gate"]


@contextmanager
def following(server: Running, identifier: str) -> Iterator[list[Told]]:
    """What comes of a stream, as it comes, on a thread of its own."""
    heard: list[Told] = []

    def listen() -> None:
        with httpx.stream("GET", f"{server.url}/v1/jobs/{identifier}/events", timeout=60.0) as response:
            heard.extend(parsed(response.iter_lines()))

    thread = threading.Thread(target=listen)
    thread.start()
    yield heard
    thread.join(60.0)
    assert not thread.is_alive()


def in_flight(server: Running) -> float:
    lines = server.client.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith("surety_requests_in_flight")).split()[1])


def test_progress_is_told_as_it_is_made(server: Running, gate: Gate) -> None:
    """Bounds only grow, and the last is at most the certificate's; oracle: the reply."""
    identifier = submit(server.client, **LONG)
    with following(server, identifier) as heard:

        def has_radius() -> bool:
            gate.let(1)
            return any(one.kind == "progress" and one.data["radius"] for one in heard)

        until(has_radius)
        gate.open = True
    progress = [one.data for one in heard if one.kind == "progress"]
    reply = finished(server.client, identifier)["items"][0]["reply"]
    assert {one["item"] for one in progress} == {0}
    assert [one["votes"] for one in progress] == sorted({one["votes"] for one in progress})
    assert 0 < progress[-1]["votes"] <= reply["counts"]["votes"]
    shown = [one["p_lower"] for one in progress if one["p_lower"] is not None]
    assert shown == sorted(shown)
    assert 0.0 < shown[-1] <= reply["p_lower"]
    radii = [one["radius"] for one in progress if one["radius"] is not None]
    assert radii == sorted(radii)
    assert all(radius <= reply["radius"] for radius in radii)
    assert {one["stage"] for one in progress} <= {"select", "estimate"}
    assert [one.kind for one in heard if one.kind != "progress"] == ["queued", "stage", "stage", "item", "done"]
    item = next(one.data for one in heard if one.kind == "item")
    assert (item["radius"], item["certificate_id"]) == (reply["radius"], reply["certificate_id"])
    # what it has shown on its way is of no use once it is done
    assert "progress" not in {one.kind for one in events(server.client, identifier)}


def test_looks_are_rare_and_the_newest_wins() -> None:
    progress = Progress()
    watcher = Watcher(progress, interval=0.2)
    begun = time.monotonic()
    looks = []
    for votes in range(1, 200):
        watcher._look("estimate", votes)
        looks += [data["votes"] for _, data in progress.news()]
        progress.told(progress.news())
        time.sleep(0.005)
    assert looks[0] == 1
    assert len(looks) <= (time.monotonic() - begun) / 0.2 + 1
    lazy = Progress()
    watcher = Watcher(lazy, interval=0.0)
    for votes in (1, 2, 3):
        watcher._look("estimate", votes)
    news = lazy.news()
    assert [data["votes"] for _, data in news] == [3]
    watcher._look("estimate", 4)
    lazy.told(news)
    assert [data["votes"] for _, data in lazy.news()] == [4]


def test_a_client_that_comes_again_gets_what_it_missed(server: Running) -> None:
    identifier = submit(server.client, pictures(3))
    finished(server.client, identifier)
    whole = events(server.client, identifier)
    for i, last in enumerate(whole[:-1]):
        assert events(server.client, identifier, last.number) == whole[i + 1 :]
    response = server.client.get(f"/v1/jobs/{identifier}/events", headers={"Last-Event-ID": str(whole[-1].number)})
    assert (response.status_code, response.content) == (204, b"")


@pytest.mark.parametrize("given", ["", "0", "999999", "9" * 400, "-1", "1.0", "x", "²"])
def test_an_id_of_no_event_begins_anew(server: Running, given: str) -> None:
    identifier = submit(server.client)
    whole = events(server.client, identifier)
    headers = {"Last-Event-ID": given.encode()}
    with server.client.stream("GET", f"/v1/jobs/{identifier}/events", headers=headers) as response:
        assert list(parsed(response.iter_lines())) == whole


def test_last_seen() -> None:
    assert [last_seen(text, 7) for text in (None, "", "7", " 3 ", "8", "+3", "3 4")] == [0, 0, 7, 3, 0, 0, 0]


def test_events_survive_a_restart(start: Start, tmp_path: Path) -> None:
    with start(data_dir=tmp_path, job_slots=0) as server:
        identifier = submit(server.client, pictures(2))
        first = look(server.client, identifier)["last_event_id"]
    with start(data_dir=tmp_path) as server:
        finished(server.client, identifier)
        whole = events(server.client, identifier)
        assert (whole[0].number, whole[0].kind) == (first, "queued")
        assert events(server.client, identifier, first) == whole[1:]


def test_streams_of_one_owner_are_limited(
    start: Start, tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever leaves makes room."""
    monkeypatch.setattr(service.jobs, "MOST_FOLLOWERS", 3)
    with start(data_dir=tmp_path) as server, ExitStack() as open_streams:
        path = f"{server.url}/v1/jobs/{submit(server.client, **LONG)}/events"
        streams = [open_streams.enter_context(httpx.stream("GET", path, timeout=60.0)) for _ in range(3)]
        heard = [stream.iter_bytes() for stream in streams]
        assert all(map(next, heard))
        refused = httpx.get(path)
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:surety:problem:overloaded")
        assert int(refused.headers["Retry-After"]) > 0
        streams[0].close()
        gate.open = True
        until(lambda: httpx.get(path, timeout=60.0).status_code == 200)


def test_a_client_that_leaves_leaves_nothing_behind(start: Start, tmp_path: Path) -> None:
    with start(data_dir=tmp_path, job_slots=0) as server:
        identifier = submit(server.client)
        for _ in range(10):
            with server.client.stream("GET", f"/v1/jobs/{identifier}/events") as response:
                next(response.iter_lines())
        until(lambda: in_flight(server) == 1.0)
        until(lambda: len(server.services.jobs._bells._bells) == 0)


def test_a_quiet_stream_says_that_it_is_there(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.job_events.HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr("service.job_events.LOOK_SECONDS", 0.05)
    with start(data_dir=tmp_path, job_slots=0) as server:
        identifier = submit(server.client)
        with server.client.stream("GET", f"/v1/jobs/{identifier}/events") as response:
            comments = (line for line in response.iter_lines() if line.startswith(":"))
            assert [next(comments) for _ in range(3)] == [": still there"] * 3


def test_a_slow_reader_gets_everything_and_holds_nobody_up(start: Start, tmp_path: Path) -> None:
    """More than sockets and a page hold: the server must stop reading the database for it."""
    with start(data_dir=tmp_path, job_slots=0) as server:
        identifier = submit(server.client)
        jobs, text = server.services.jobs.store, "x" * 10_000
        lease = jobs.take(60.0)
        assert lease is not None
        for _ in range(20):
            jobs.renew(lease, 60.0, [NewEvent(EventKind.STAGE, {"stage": text}, 0)] * 100)
        with socket.create_connection(("127.0.0.1", server.client.base_url.port or 0)) as slow:
            slow.sendall(f"GET /v1/jobs/{identifier}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            slow.recv(100)
            time.sleep(0.5)
            assert len(events_until_cancelled(server, identifier)) == 2002
            slow.settimeout(60.0)
            received = bytearray()
            while b"event: cancelled" not in received[-1000:]:
                received += slow.recv(65536)
        numbers = [int(line[4:]) for line in received.decode().split("\n") if line.startswith("id: ")]
        assert numbers == list(range(numbers[0], 2003))


def events_until_cancelled(server: Running, identifier: str) -> list[Told]:
    server.client.delete(f"/v1/jobs/{identifier}")
    return events(server.client, identifier)


def test_followers_that_wait_for_the_database_hold_up_no_request(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads of events hang, of more streams than there are threads; whatever else is asked of jobs is answered."""
    free, read, hanging = threading.Event(), JobStore.events, []

    def hang(*what: Any) -> Any:
        hanging.append(what)
        assert free.wait(60.0)
        return read(*what)

    with start(data_dir=tmp_path, job_slots=0) as server, ExitStack() as streams:
        identifier = submit(server.client)
        monkeypatch.setattr(JobStore, "events", hang)
        for _ in range(3 * THREADS):
            streams.enter_context(following(server, identifier))
        streams.callback(free.set)
        until(lambda: len(hanging) == THREADS and in_flight(server) == 3 * THREADS + 1)
        with httpx.Client(base_url=server.url, timeout=10.0) as client:
            assert look(client, submit(client))["status"] == "queued"
            assert client.delete(f"/v1/jobs/{identifier}").json()["status"] == "cancelled"


def test_a_stream_outlasts_its_database(start: Start, tmp_path: Path, gate: Gate) -> None:
    file, away = tmp_path / "certificates.sqlite", tmp_path / "away"
    with start(data_dir=tmp_path) as server:
        identifier = submit(server.client)
        with following(server, identifier) as heard:
            until(lambda: gate.asked == 1 and len(heard) > 0)
            file.rename(away)
            for response in (server.client.get(f"/v1/jobs/{identifier}"), server.certify()):
                assert response.status_code == 503
            gate.open = True
            time.sleep(1.5)
            away.rename(file)
        assert heard[-1].kind == "done"
        assert finished(server.client, identifier)["items"][0]["status"] == "done"


def test_a_job_that_is_deleted_ends_its_streams(start: Start, tmp_path: Path) -> None:
    with start(data_dir=tmp_path, job_slots=0) as server:
        identifier = submit(server.client)
        with following(server, identifier) as heard:
            until(lambda: len(heard) == 1)
            store: Any = server.services.jobs.store
            with store._store.transaction() as connection:
                connection.exec_driver_sql("DELETE FROM jobs")
        assert (heard[-1].kind, heard[-1].number) == ("failed", None)
        assert heard[-1].data["problem"]["type"] == "urn:surety:problem:unknown_job"


def test_a_server_that_drains_ends_its_streams(start: Start, tmp_path: Path) -> None:
    """Without a last event: the client comes again, to another server or this one after its restart."""
    with start(data_dir=tmp_path, job_slots=0) as server:
        identifier = submit(server.client)
        with following(server, identifier) as heard:
            until(lambda: len(heard) == 1)
            server.services.jobs._draining = True
        assert [one.kind for one in heard] == ["queued"]
