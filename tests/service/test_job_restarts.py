"""Jobs and servers that end: killed, stopped, two at once on SQLite and PostgreSQL."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import until
from .forks import Forks, Served, is_alive
from .job_tools import CHANCY, CHEAP, events, finished, look, pictures, submit

LEASE = 3
QUICK, SLOW, STUCK = 0.0, 0.1, 30.0
"""Seconds that a batch sleeps; an image of CHANCY has 7 batches."""
SLOWLY = """
import time
from models.votes import BaseClassifierVotes

class Slow(BaseClassifierVotes):
    def _classify(self, images):
        time.sleep({seconds})
        return super()._classify(images)

service.computing.BaseClassifierVotes = Slow
"""


class House:
    """Servers on one database, each a process that can be killed."""

    def __init__(self, forks: Forks, **settings: Any) -> None:
        self._forks, self._settings = forks, settings
        self._begun: list[Served] = []
        self._clients: list[httpx.Client] = []

    def start(self, seconds: float, **settings: Any) -> tuple[Served, httpx.Client]:
        """A further server, whose batches sleep so long, ready; and a client of it."""
        server = self._forks.begin(SLOWLY.format(seconds=seconds), **self._settings, **settings)
        self._begun.append(server)
        client = httpx.Client(base_url=server.url, timeout=60.0)
        self._clients.append(client)
        server.until_ready()
        return server, client

    def close(self) -> None:
        """End them all."""
        for client in self._clients:
            client.close()
        for server in self._begun:
            server.kill()


@contextmanager
def house(forks: Forks, **settings: Any) -> Iterator[House]:
    made = House(forks, job_lease_seconds=LEASE, log_level="warning", **settings)
    with closing(made):
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def servers(request: pytest.FixtureRequest, forks: Forks, zoo: Path, tmp_path: Path) -> Iterator[House]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    else:
        url = request.getfixturevalue("postgres").create_database()
    with house(forks, zoo=zoo, data_dir=tmp_path / "data", database_url=url) as made:
        yield made


def done(client: httpx.Client, identifier: str) -> int:
    return sum(one["status"] == "done" for one in look(client, identifier)["items"])


def certificate_of(client: httpx.Client, item: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/v1/certificates/{item['reply']['certificate_id']}").json()["certificate"]
    return found


def assert_verified(client: httpx.Client, image: bytes, item: dict[str, Any]) -> None:
    """The run made again, uninterrupted, with the recorded key gives every number of the certificate."""
    path = f"/v1/certificates/{item['reply']['certificate_id']}/verify"
    reply = client.post(path, files={"image": ("x", image)}).json()
    assert reply["verified"], reply


def keys_of(database: Path, identifier: str) -> list[str | None]:
    connection = sqlite3.connect(database)
    rows = connection.execute("SELECT noise_key FROM job_items WHERE job_id = ? ORDER BY number", (identifier,))
    found = [row[0] for row in rows]
    connection.close()
    return found


def test_kill_9_loses_nothing_and_changes_no_certificate(forks: Forks, zoo: Path, tmp_path: Path) -> None:
    """What was done stays; what ran begins again with the key that it had, though the server's secret is another."""
    images = pictures(3)
    with house(forks, zoo=zoo, data_dir=tmp_path) as servers:
        doomed, client = servers.start(SLOW)
        identifier = submit(client, images, "k", **CHANCY)
        planned = keys_of(tmp_path / "certificates.sqlite", identifier)
        until(lambda: done(client, identifier) == 1)
        until(lambda: look(client, identifier)["items"][1]["status"] == "running")
        before = look(client, identifier)["items"][0]
        heard = look(client, identifier)["last_event_id"]
        doomed.kill()
        until(lambda: not is_alive(doomed.process))
        _, client = servers.start(QUICK)
        assert submit(client, images, "k", **CHANCY) == identifier, "its idempotency key was acknowledged too"
        job = finished(client, identifier)
        assert job["status"] == "done"
        assert job["items"][0] == before
        for image, item, key in zip(images, job["items"], planned, strict=True):
            assert certificate_of(client, item)["noise_key"] == key
            assert_verified(client, image, item)
        missed = events(client, identifier, heard)
        assert ("queued", {"item": 1}) in [(one.kind, one.data) for one in missed]
        assert missed[-1].kind == "done"
    connection = sqlite3.connect(tmp_path / "certificates.sqlite")
    assert connection.execute("SELECT count(*) FROM certificates").fetchone() == (3,)
    connection.close()


def test_sigterm_gives_back_what_runs_at_once(forks: Forks, zoo: Path, tmp_path: Path) -> None:
    """Long before the image would be done, or drain_seconds are over."""
    with house(forks, zoo=zoo, data_dir=tmp_path, drain_seconds=300) as servers:
        doomed, client = servers.start(STUCK)
        identifier = submit(client, pictures(2), **CHANCY)
        (planned, _) = keys_of(tmp_path / "certificates.sqlite", identifier)
        until(lambda: look(client, identifier)["items"][0]["status"] == "running")
        begun = time.monotonic()
        os.kill(doomed.process, signal.SIGTERM)
        until(lambda: not is_alive(doomed.process))
        assert time.monotonic() - begun < 25
        connection = sqlite3.connect(tmp_path / "certificates.sqlite")
        row = connection.execute("SELECT status, lease, begun FROM job_items WHERE number = 0").fetchone()
        connection.close()
        assert row == ("queued", None, 0)
        _, client = servers.start(QUICK)
        job = finished(client, identifier)
        assert job["status"] == "done"
        assert certificate_of(client, job["items"][0])["noise_key"] == planned


def test_two_servers_share_the_jobs_and_one_takes_over_what_the_other_lost(servers: House) -> None:
    images = pictures(8)
    (doomed, one), (_, other) = servers.start(SLOW), servers.start(SLOW)
    identifier = submit(one, images, **CHANCY)
    until(lambda: [item["status"] for item in look(other, identifier)["items"]].count("running") == 2)
    until(lambda: done(other, identifier) >= 2)
    kept = [item for item in look(other, identifier)["items"] if item["status"] == "done"]
    doomed.kill()
    job = finished(other, identifier)
    assert [item["status"] for item in job["items"]] == ["done"] * 8
    assert [item for item in job["items"] if item in kept] == kept
    for image, item in zip(images, job["items"], strict=True):
        assert_verified(other, image, item)
    told = events(other, identifier)
    assert sorted(one.data["item"] for one in told if one.kind == "item") == list(range(8))
    numbers = [one.number for one in told if one.number is not None]
    assert numbers == sorted(set(numbers))
    assert told[-1].kind == "done"


def test_a_deletion_reaches_the_server_that_computes(forks: Forks, zoo: Path, tmp_path: Path) -> None:
    """One that would compute for minutes is free for the next job soon after its lease is looked at."""
    with house(forks, zoo=zoo, data_dir=tmp_path) as servers:
        _, busy = servers.start(0.5)
        identifier = submit(busy, pictures(1), **{**CHANCY, "n": 100_000})
        until(lambda: look(busy, identifier)["status"] == "running")
        _, other = servers.start(STUCK)
        assert other.delete(f"/v1/jobs/{identifier}").json()["status"] == "cancelled"
        assert [one.kind for one in events(busy, identifier)][-1] == "cancelled"
        until(lambda: "surety_job_items_waiting 0.0" in busy.get("/metrics").text)
        # the stuck server may take one of them, the busy one does the others
        several = [submit(busy, pictures(1), **CHEAP) for _ in range(2)]
        until(lambda: "done" in [look(busy, one)["status"] for one in several])
