"""Jobs beside requests, keys that own jobs, cancelled work, and a database that goes away meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import service.computing
from service.computing import Computed, LocalComputer, Order
from service.errors import EnginesDiedError, NotReadyError, OverloadedError, PoisonedError, VoteEnginesError
from service.job_runner import MOST_BEGUN
from service.keys import KeyEntry, Scope, make_key, read_keys, write_keys

from .conftest import Running, Start, until
from .job_tools import CHEAP, Gate, events, finished, gate, look, pictures, problem, send, submit

__all__ = ["gate"]


def running(server: Running, identifier: str) -> bool:
    return look(server.client, identifier)["items"][0]["status"] == "running"


def test_a_job_takes_no_requests_slot(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one request runs at once, and a job's image never ends, requests are answered all the same."""
    certify = service.computing.certify

    def stuck(plan: Any, votes: Any, bounds: Any, stage: Any, watch: Any) -> Any:
        while plan.alpha == 0.5:
            time.sleep(0.02)
            votes.check()
        return certify(plan, votes, bounds, stage, watch)

    monkeypatch.setattr(service.computing, "certify", stuck)
    with start(data_dir=tmp_path, max_running=1, max_queue_seconds=0) as server:
        identifier = submit(server.client, alpha=0.5)
        until(lambda: running(server, identifier))
        for _ in range(3):
            assert server.certify(guarantee="heuristic").status_code == 200
        assert running(server, identifier)
        server.client.delete(f"/v1/jobs/{identifier}")


def test_an_image_of_a_job_is_not_urgent(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of requests pause for urgent ones, and a job may have a thousand."""
    compute, urgent = LocalComputer.compute, []

    def noted(computer: LocalComputer, order: Order, *what: Any) -> Computed:
        urgent.append(order.urgent_seconds > 0.0)
        return compute(computer, order, *what)

    monkeypatch.setattr(LocalComputer, "compute", noted)
    with start(data_dir=tmp_path, short_seconds=60.0) as server:
        assert server.certify(**CHEAP).status_code == 200
        finished(server.client, submit(server.client))
    assert urgent == [True, False]


def test_the_busy_share_is_that_of_requests_and_jobs(start: Start, tmp_path: Path) -> None:
    with start(data_dir=tmp_path, max_running=3, job_slots=2) as server:
        finished(server.client, submit(server.client))
        shown = server.services.metrics.registry.get_sample_value
        assert shown("surety_threads") == 5.0
        until(lambda: (shown("surety_busy_seconds_total") or 0.0) > 0.0)
        assert shown("surety_queue_wait_seconds_count") == 0.0


def test_images_of_jobs_wait_for_a_slot(start: Start, tmp_path: Path, gate: Gate) -> None:
    with start(data_dir=tmp_path, job_slots=2) as server:
        identifier = submit(server.client, pictures(3))
        until(lambda: gate.asked == 2)
        time.sleep(0.3)
        states = [one["status"] for one in look(server.client, identifier)["items"]]
        assert (states, gate.asked) == (["running", "running", "queued"], 2)
        gate.open = True
        assert finished(server.client, identifier)["status"] == "done"


def test_a_job_begins_once_no_request_waits(start: Start, tmp_path: Path, gate: Gate) -> None:
    """Or once they have kept it waiting for patience_seconds."""
    with start(data_dir=tmp_path, patience_seconds=1.0) as server:
        server.services.jobs._runner._requests = type("Busy", (), {"waiting": 1})()
        identifier = submit(server.client)
        until(lambda: running(server, identifier))
        assert gate.asked == 0
        until(lambda: gate.asked == 1)
        gate.open = True
        finished(server.client, identifier)


def test_a_deletion_stops_the_work_at_its_next_batch(start: Start, tmp_path: Path, gate: Gate) -> None:
    with start(data_dir=tmp_path) as server:
        identifier = submit(server.client, pictures(2))
        gate.let(1)
        until(lambda: gate.asked == 2)
        job = server.client.delete(f"/v1/jobs/{identifier}").json()
        assert (job["status"], [one["status"] for one in job["items"]]) == ("cancelled", ["cancelled"] * 2)
        gate.let(1)
        until(lambda: server.services.jobs._runner._engine.idle)
        assert gate.asked == 2
        assert [one.kind for one in events(server.client, identifier)][-1] == "cancelled"
        gate.open = True
        assert finished(server.client, submit(server.client))["status"] == "done"


def test_an_image_that_ends_its_server_again_and_again_is_given_up(start: Start, tmp_path: Path) -> None:
    with start(data_dir=tmp_path, job_slots=0) as server:
        identifier = submit(server.client, pictures(2))
        for _ in range(MOST_BEGUN):
            assert server.services.jobs.store.take(0.01) is not None
            time.sleep(0.05)
    with start(data_dir=tmp_path) as server:
        job = finished(server.client, identifier)
        assert [one["status"] for one in job["items"]] == ["failed", "done"]
        assert job["items"][0]["problem"]["type"] == "urn:surety:problem:given_up"


def refusing(monkeypatch: pytest.MonkeyPatch, *refusals: Exception) -> list[Exception]:
    """What computes raises these first, one a run; returns those that are left."""
    compute, left = LocalComputer.compute, list(refusals)

    def refuse(computer: LocalComputer, order: Order, *what: Any) -> Computed:
        if left:
            raise left.pop(0)
        return compute(computer, order, *what)

    monkeypatch.setattr(LocalComputer, "compute", refuse)
    return left


def test_an_image_waits_for_what_is_refused_for_now(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by vote engines that have too much to do or are being updated; nobody else takes it meanwhile."""
    refusals = [OverloadedError, VoteEnginesError, NotReadyError]
    refusing(monkeypatch, *(one("not now", retry_after_seconds=0.6) for one in refusals))
    with start(data_dir=tmp_path, job_slots=2, job_lease_seconds=1.0) as server:
        identifier = submit(server.client)
        job = finished(server.client, identifier)
        assert [one["status"] for one in job["items"]] == ["done"]
        assert [one.kind for one in events(server.client, identifier)].count("queued") == 1, "the lease was lost"


@pytest.mark.parametrize(
    ("refusal", "label"),
    [
        (PoisonedError("it brings the worker down"), "poisoned"),
        (EnginesDiedError("2 vote engines ended", retry_after_seconds=600), "vote_engines"),
        (NotReadyError("the worker process was not started"), "not_ready"),
    ],
)
def test_an_image_does_not_wait_for_what_will_not_pass(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Exception, label: str
) -> None:
    refusing(monkeypatch, refusal)
    with start(data_dir=tmp_path) as server:
        job = finished(server.client, submit(server.client))
        assert job["items"][0]["problem"]["type"] == f"urn:surety:problem:{label}"


def test_an_image_that_waits_is_given_up_at_once(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its job is deleted; and given back when the server ends."""
    left = refusing(monkeypatch, *(OverloadedError("not now", retry_after_seconds=600) for _ in range(2)))
    with start(data_dir=tmp_path) as server:
        deleted, kept = submit(server.client), submit(server.client)
        until(lambda: len(left) == 1)
        server.client.delete(f"/v1/jobs/{deleted}")
        until(lambda: len(left) == 0)
        server.services.jobs.drain()
        until(lambda: look(server.client, kept)["items"][0]["status"] == "queued")


def test_a_model_that_changed_meanwhile_is_not_asked(start: Start, tmp_path: Path, zoo: Path) -> None:
    with start(data_dir=tmp_path, job_slots=0) as server:
        known = submit(server.client, model="constant-rotation")
        gone = submit(server.client, model="constant-translation", transformation="translation")
    other = tmp_path / "zoo" / "constant-rotation"
    other.mkdir(parents=True)
    for name in ("card.toml", "weights.safetensors"):
        (other / name).write_bytes((zoo / "constant-rotation" / name).read_bytes())
    (other / "card.toml").write_text((other / "card.toml").read_text().replace("made by the tests", "another"))
    with start(data_dir=tmp_path, zoo=tmp_path / "zoo") as server:
        for identifier in (known, gone):
            job = finished(server.client, identifier)
            assert job["status"] == "failed"
            assert job["items"][0]["problem"]["type"] == "urn:surety:problem:model_changed"


def test_a_database_that_goes_away_costs_no_job(start: Start, tmp_path: Path, gate: Gate) -> None:
    """Its image is computed meanwhile, once, and written when it is back."""
    file, away = tmp_path / "certificates.sqlite", tmp_path / "away"
    with start(data_dir=tmp_path) as server:
        identifier = submit(server.client, key="k")
        until(lambda: gate.asked == 1)
        file.rename(away)
        try:
            for response in (
                send(server.client),
                server.client.get(f"/v1/jobs/{identifier}"),
                server.client.delete(f"/v1/jobs/{identifier}"),
                server.client.get(f"/v1/jobs/{identifier}/events"),
            ):
                assert problem(response) == (503, "records_unavailable")
                assert int(response.headers["retry-after"]) > 0
            gate.open = True
            until(lambda: server.services.jobs._runner._engine.idle)
            batches = gate.asked
        finally:
            away.rename(file)
        assert finished(server.client, identifier)["status"] == "done"
        assert gate.asked == batches
        assert submit(server.client, key="k") == identifier


def test_finished_jobs_are_deleted_by_their_age(start: Start, tmp_path: Path) -> None:
    with start(data_dir=tmp_path) as server:
        job = finished(server.client, submit(server.client))
        with server.services.jobs.store._store.transaction() as connection:
            connection.exec_driver_sql("UPDATE jobs SET finished = finished - 8 * 86400")
    with start(data_dir=tmp_path) as server:
        path = f"/v1/jobs/{job['id']}"
        until(lambda: problem_or_none(server.client.get(path)) == (404, "unknown_job"))
        certificate = job["items"][0]["reply"]["certificate_id"]
        assert server.client.get(f"/v1/certificates/{certificate}").status_code == 200


def problem_or_none(response: httpx.Response) -> tuple[int, str] | None:
    return None if response.status_code == 200 else problem(response)


# ---------------------------------------------------------------- whose job it is

Bearer = dict[str, str]


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Callable[..., Bearer]]:
    """A file of keys, and what adds one to it and gives the header."""
    path, entries = tmp_path / "keys.json", dict[str, KeyEntry]()

    def new(name: str, *scopes: Scope, **limits: Any) -> Bearer:
        key, entries[name] = make_key(name, scopes, **limits)
        write_keys(path, entries)
        return {"authorization": f"Bearer {key}"}

    new("first", Scope.ADMIN)
    return path, new


def test_a_key_sees_its_own_jobs_only(start: Start, tmp_path: Path, keys: Any) -> None:
    path, new = keys
    mine, other, reader = new("mine", Scope.CERTIFY), new("other", Scope.CERTIFY), new("reader", Scope.PREDICT)
    with start(data_dir=tmp_path / "data", keys_file=path, job_slots=0) as server:
        client = server.client
        first = send(client, key="k", headers=list(mine.items())).json()["id"]
        second = send(client, key="k", headers=list(other.items())).json()["id"]
        assert first != second, "an idempotency key belongs to its API key"
        for method, ending in (("GET", ""), ("DELETE", ""), ("GET", "/events")):
            url = f"/v1/jobs/{first}{ending}"
            assert problem(client.request(method, url, headers=other)) == (404, "unknown_job")
            assert problem(client.request(method, url, headers=reader)) == (403, "scope")
            assert problem(client.request(method, url)) == (401, "unauthenticated")
        assert problem(send(client, headers=list(reader.items()))) == (403, "scope")
        assert client.get(f"/v1/jobs/{first}", headers=mine).json()["status"] == "queued"


def test_votes_of_jobs_are_charged_and_a_spent_key_waits(start: Start, tmp_path: Path, keys: Any) -> None:
    """Oracle: the counts of the replies. Who has no votes left may still look, and cancel."""
    path, new = keys
    poor, admin = new("poor", Scope.CERTIFY, votes_per_day=1), new("admin", Scope.ADMIN)
    with start(data_dir=tmp_path / "data", keys_file=path) as server:
        client, given = server.client, list(poor.items())
        identifier = send(client, pictures(2), headers=given).json()["id"]

        def states() -> list[str]:
            items = client.get(f"/v1/jobs/{identifier}", headers=poor).json()["items"]
            return [one["status"] for one in items]

        until(lambda: states()[0] == "done")
        time.sleep(0.3)
        assert states() == ["done", "queued"]
        reply = client.get(f"/v1/jobs/{identifier}", headers=poor).json()["items"][0]["reply"]
        charged = f'surety_key_votes_total{{key="poor"}} {float(reply["counts"]["votes"])}'
        assert charged in client.get("/metrics", headers=admin).text
        assert problem(send(client, headers=given)) == (429, "budget")
        assert client.delete(f"/v1/jobs/{identifier}", headers=poor).json()["status"] == "cancelled"


def test_a_large_job_does_not_hold_up_another_keys(start: Start, tmp_path: Path, keys: Any) -> None:
    path, new = keys
    first, second = new("large", Scope.CERTIFY), new("small", Scope.CERTIFY)
    with start(data_dir=tmp_path / "data", keys_file=path, job_slots=0) as server:
        large = send(server.client, pictures(4), headers=list(first.items())).json()["id"]
        small = send(server.client, headers=list(second.items())).json()["id"]
    with start(data_dir=tmp_path / "data", keys_file=path) as server:
        until(lambda: server.services.jobs.store.counts()[0]["done"] == 2)
        ended = [server.services.jobs.store.get(*one).finished for one in ((small, "small"), (large, "large"))]
        assert ended == sorted(ended)


def test_a_job_of_a_key_that_a_server_does_not_know_waits(
    start: Start, tmp_path: Path, keys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may only have read an older file: nothing is computed, nothing is lost, and other keys go on."""
    path, new = keys
    lab, other = new("lab", Scope.CERTIFY), new("other", Scope.CERTIFY)
    with start(data_dir=tmp_path / "data", keys_file=path, job_slots=0) as server:
        mine = send(server.client, pictures(2), headers=list(lab.items())).json()["id"]
    known = read_keys(path)
    write_keys(path, {name: entry for name, entry in known.items() if name != "lab"})
    monkeypatch.setattr("service.jobs.COUNTING_SECONDS", 0.05)
    with start(data_dir=tmp_path / "data", keys_file=path) as server:
        jobs = server.services.jobs.store
        theirs = send(server.client, headers=list(other.items())).json()["id"]
        until(lambda: jobs.get(theirs, "other").status == "done")
        time.sleep(0.3)
        assert jobs.get(mine, "lab").status == "queued"
        write_keys(path, known)
        until(lambda: jobs.get(mine, "lab").status == "done")


def test_jobs_that_came_without_keys_wait_where_keys_are_demanded(start: Start, tmp_path: Path, keys: Any) -> None:
    path, new = keys
    other = new("other", Scope.CERTIFY)
    with start(data_dir=tmp_path / "data", job_slots=0) as server:
        identifier = submit(server.client)
    with start(data_dir=tmp_path / "data", keys_file=path) as server:
        theirs = send(server.client, headers=list(other.items())).json()["id"]
        until(lambda: server.services.jobs.store.get(theirs, "other").status == "done")
        assert server.services.jobs.store.get(identifier, "").status == "queued"
    with start(data_dir=tmp_path / "data") as server:
        assert finished(server.client, identifier)["status"] == "done"


def test_jobs_of_a_key_that_was_revoked_are_cancelled_once_they_are_old(
    start: Start, tmp_path: Path, keys: Any
) -> None:
    path, new = keys
    lab, other = new("lab", Scope.CERTIFY), new("other", Scope.CERTIFY)
    with start(data_dir=tmp_path / "data", keys_file=path, job_slots=0) as server:
        old, young = (send(server.client, headers=list(lab.items())).json()["id"] for _ in range(2))
        kept = send(server.client, headers=list(other.items())).json()["id"]
        with server.services.jobs.store._store.transaction() as connection:
            connection.exec_driver_sql(f"UPDATE jobs SET created = created - 8 * 86400 WHERE id != '{young}'")
    write_keys(path, {name: entry for name, entry in read_keys(path).items() if name != "lab"})
    with start(data_dir=tmp_path / "data", keys_file=path, job_slots=0) as server:
        jobs = server.services.jobs.store
        until(lambda: jobs.get(old, "lab").status == "cancelled")
        assert jobs.get(young, "lab").status == jobs.get(kept, "other").status == "queued"
