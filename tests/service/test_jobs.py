"""Jobs: what is accepted and refused, what comes of it, and what a second request with the same key gets."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

import service.computing

from .conftest import Running, Start, until
from .databases import Postgres
from .job_tools import CHANCY, CHEAP, events, finished, look, pictures, problem, send, submit
from .pictures import encode, grey

ANYBODY = ""
"""The owner of jobs where there are no keys."""


@pytest.fixture(scope="module")
def idle(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server that accepts jobs and leaves them to others."""
    with start(data_dir=tmp_path_factory.mktemp("idle"), job_slots=0, max_job_images=3) as running:
        yield running


# ---------------------------------------------------------------- what comes of a job


def test_a_job_gives_each_image_the_answer_that_certify_gives(server: Running) -> None:
    """Oracle: /v1/certify on the same server, whose noise is the same for the same request."""
    images = pictures(3)
    response = send(server.client, images, **CHANCY)
    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert [one["item"] for one in job["items"]] == [0, 1, 2]
    job = finished(server.client, job["id"])
    assert job["status"] == "done"
    assert job["created"] < job["finished"]
    for image, item in zip(images, job["items"], strict=True):
        assert (item["status"], item["problem"]) == ("done", None)
        answer, reply = server.certify(image, **CHANCY).json(), item["reply"]
        stored = server.client.get(f"/v1/certificates/{reply['certificate_id']}").json()["certificate"]
        for one in (answer, reply, stored["reply"]):
            one.pop("certificate_id", None)
            one.pop("seconds")
        assert reply == answer == stored["reply"]


def test_a_certificate_of_a_job_is_verified(server: Running) -> None:
    (image,) = pictures(1)
    job = finished(server.client, submit(server.client, [image], **CHANCY))
    identifier = job["items"][0]["reply"]["certificate_id"]
    assert server.post(f"/v1/certificates/{identifier}/verify", image).json()["verified"]


def test_json_takes_one_image_or_a_list(server: Running) -> None:
    texts = [base64.b64encode(image).decode() for image in pictures(2)]
    for given, count in ((texts, 2), (texts[0], 1)):
        response = server.client.post("/v1/jobs", json={"image": given, **CHEAP})
        assert response.status_code == 202, response.text
        assert len(finished(server.client, response.json()["id"])["items"]) == count


def test_an_image_that_fails_does_not_fail_the_others(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one at first; then all of them."""
    certify, calls = service.computing.certify, []

    def breaks(*given: Any) -> Any:
        calls.append(given)
        if len(calls) != 1:
            raise RuntimeError("secret of the house")
        return certify(*given)

    monkeypatch.setattr(service.computing, "certify", breaks)
    job = finished(server.client, submit(server.client, pictures(2)))
    assert (job["status"], [one["status"] for one in job["items"]]) == ("done", ["done", "failed"])
    assert job["items"][1]["problem"]["type"] == "urn:surety:problem:internal"
    assert "secret" not in str(job)
    identifier = submit(server.client, pictures(2))
    told = events(server.client, identifier)
    assert [one.kind for one in told if one.kind != "stage"] == ["queued", "item", "item", "failed"]
    assert told[-1].data["counts"] == {"queued": 0, "running": 0, "done": 0, "failed": 2, "cancelled": 0}
    assert finished(server.client, identifier)["status"] == "failed"


def test_a_shortage_of_memory_is_told_as_such(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(service.computing, "certify", greedy)
    job = finished(server.client, submit(server.client))
    assert job["items"][0]["problem"]["type"] == "urn:surety:problem:out_of_memory"


def test_the_deadline_of_a_job_is_for_computing_each_image(server: Running) -> None:
    """Of 4,000,000 votes some are cast in that time, never all."""
    fields = {"model": "undecided", "guarantee": "individual", "attack_range": 12, "n": 100_000, "n0": 1}
    job = finished(server.client, submit(server.client, pictures(1), **fields, deadline_ms=50))
    assert job["items"][0]["reply"]["stopped_by"] == "deadline"


# ---------------------------------------------------------------- what is refused

FILE = encode(grey(), "PNG")
REFUSED: dict[str, tuple[Callable[[httpx.Client], httpx.Response], int, str]] = {
    "no image": (lambda c: c.post("/v1/jobs", data=CHEAP, files={"other": b""}), 422, "invalid_field"),
    "too many images": (lambda c: send(c, pictures(4)), 422, "invalid_field"),
    "far too many images": (lambda c: send(c, pictures(9)), 422, "invalid_field"),
    "empty list": (lambda c: c.post("/v1/jobs", json={"image": []}), 422, "invalid_field"),
    "too long a list": (lambda c: c.post("/v1/jobs", json={"image": ["QQ=="] * 4}), 422, "invalid_field"),
    "list of numbers": (lambda c: c.post("/v1/jobs", json={"image": [1, 2]}), 422, "invalid_field"),
    "unknown field": (lambda c: send(c, radius=3), 422, "invalid_field"),
    "unknown model": (lambda c: send(c, model="none"), 422, "invalid_field"),
    "wide range": (lambda c: send(c, attack_range=99), 422, "attack_range"),
    "hopeless plan": (lambda c: send(c, n=1, guarantee="individual"), 422, "cannot_certify"),
    "long deadline": (lambda c: send(c, deadline_ms=10**9), 422, "invalid_field"),
    "no body": (lambda c: c.post("/v1/jobs"), 415, "content_type"),
    "broken body": (lambda c: c.post("/v1/jobs", content=b"{", headers={"content-type": "application/json"}), 400,
                    "malformed_body"),
    "query": (lambda c: c.post("/v1/jobs?n=3", files={"image": FILE}), 422, "invalid_field"),
    "empty key": (lambda c: send(c, key=""), 422, "invalid_field"),
    "empty quoted key": (lambda c: send(c, key='""'), 422, "invalid_field"),
    "open quote": (lambda c: send(c, key='"x'), 422, "invalid_field"),
    "long key": (lambda c: send(c, key="k" * 256), 422, "invalid_field"),
    "two keys": (lambda c: send(c, headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "b")]), 422, "invalid_field"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_at_once(idle: Running, name: str) -> None:
    ask, status, label = REFUSED[name]
    before = idle.services.jobs.store.unfinished(ANYBODY)
    assert problem(ask(idle.client)) == (status, label)
    assert idle.services.jobs.store.unfinished(ANYBODY) == before


@pytest.mark.parametrize("number", [0, 2])
def test_an_image_at_fault_is_named_and_nothing_is_accepted(idle: Running, number: int) -> None:
    images = pictures(3)
    images[number] = encode(grey(5, 5), "PNG")
    response = send(idle.client, images, key=f"at-fault-{number}")
    assert problem(response) == (422, "image_shape")
    assert (response.json()["item"], response.json()["expected"]) == (number, [12, 12])
    assert response.json()["detail"].startswith(f"image {number}: ")
    # so the key is still free
    assert send(idle.client, pictures(1), key=f"at-fault-{number}").status_code == 202


@pytest.mark.parametrize("wrong", ["!", 7, None, ""])
def test_an_image_of_json_that_is_no_file_is_named(idle: Running, wrong: Any) -> None:
    good = base64.b64encode(FILE).decode()
    for given, item in (([good, good, wrong], 2), ([wrong, wrong], 0), (wrong, 0)):
        response = idle.client.post("/v1/jobs", json={"image": given, **CHEAP})
        assert problem(response)[0] == 422
        assert response.json()["item"] == item
        assert response.json()["detail"].startswith(f"image {item}: ")
    assert "item" not in idle.client.post("/v1/certify", json={"image": wrong, **CHEAP}).json()


def test_an_image_that_is_no_file_part_is_named(idle: Running) -> None:
    parts = [("image", ("0.png", FILE)), ("image", (None, "text"))]
    response = idle.client.post("/v1/jobs", data=CHEAP, files=parts)
    assert problem(response) == (422, "invalid_field")
    assert response.json()["item"] == 1


@pytest.mark.parametrize("path", ["A" * 32, "A" * 5000, "a%00b", "%F0%9F%98%80", "..%2Fx"])
def test_unknown_jobs(idle: Running, path: str) -> None:
    for method, ending in (("GET", ""), ("DELETE", ""), ("GET", "/events")):
        response = idle.client.request(method, f"/v1/jobs/{path}{ending}")
        assert problem(response) in {(404, "unknown_job"), (404, "not_found")}


def test_odd_ids_are_unknown_to_postgresql_too(start: Start, tmp_path: Any, postgres: Postgres) -> None:
    """Its text holds no NUL."""
    with start(data_dir=tmp_path, database_url=postgres.create_database(), job_slots=0) as server:
        for path in ("a%00b", "%00", "%ED%A0%80", f"{'0' * 32}%00", f"{'0' * 32}%0A", "0" * 32):
            for method, ending in (("GET", ""), ("DELETE", ""), ("GET", "/events")):
                response = server.client.request(method, f"/v1/jobs/{path}{ending}")
                assert problem(response) == (404, "unknown_job"), path
        assert look(server.client, submit(server.client))["status"] == "queued"


def test_too_many_unfinished_jobs(start: Start, tmp_path: Any) -> None:
    with start(data_dir=tmp_path, job_slots=0, max_unfinished_jobs=2) as server:
        first, _ = submit(server.client, key="one"), submit(server.client)
        refused = send(server.client)
        assert problem(refused) == (429, "job_limit")
        assert int(refused.headers["retry-after"]) > 0
        assert submit(server.client, key="one") == first, "what was accepted is found again"
        server.client.delete(f"/v1/jobs/{first}")
        submit(server.client)


def test_without_records_there_are_no_jobs(start: Start) -> None:
    with start(records="off") as server:
        for response in (
            send(server.client),
            server.client.get("/v1/jobs/x"),
            server.client.delete("/v1/jobs/x"),
            server.client.get("/v1/jobs/x/events"),
        ):
            assert problem(response) == (409, "jobs_disabled")


def test_a_server_that_drains_takes_no_jobs(start: Start, tmp_path: Any) -> None:
    with start(data_dir=tmp_path) as server:
        server.services.engine.drain()
        assert problem(send(server.client)) == (503, "draining")


# ---------------------------------------------------------------- idempotency keys


def test_the_same_key_and_request_make_one_job(idle: Running) -> None:
    """However the body is encoded; a quoted key is the same as a bare one."""
    images = pictures(2)
    first = send(idle.client, images, key="k1", alpha=0.02)
    again = send(idle.client, images, key='"k1"', alpha=0.02)
    texts = [base64.b64encode(image).decode() for image in images]
    body = {"image": texts, "alpha": 0.02, **CHEAP, "n0": 100}
    other = idle.client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "k1"})
    assert [one.status_code for one in (first, again, other)] == [202] * 3
    assert len({one.json()["id"] for one in (first, again, other)}) == 1
    assert len({one.headers["location"] for one in (first, again, other)}) == 1


@pytest.mark.parametrize("change", [{"alpha": 0.03}, {"images": pictures(1)}, {"images": pictures(2)[::-1]}])
def test_the_same_key_with_another_request_is_refused(idle: Running, change: dict[str, Any]) -> None:
    given: dict[str, Any] = {"images": pictures(2), "alpha": 0.02, "key": "k2"}
    first = send(idle.client, **given)
    assert problem(send(idle.client, **{**given, **change})) == (422, "idempotency_key")
    assert send(idle.client, **given).json()["id"] == first.json()["id"]


def test_without_a_key_each_request_is_a_job(idle: Running) -> None:
    assert submit(idle.client) != submit(idle.client)


def test_requests_of_one_key_at_once_make_one_job(idle: Running) -> None:
    barrier = threading.Barrier(8)

    def ask(_: int) -> httpx.Response:
        with httpx.Client(base_url=idle.url, timeout=60) as client:
            barrier.wait()
            return send(client, pictures(2), key="at-once")

    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(ask, range(8)))
    assert [one.status_code for one in responses] == [202] * 8
    assert len({one.json()["id"] for one in responses}) == 1


# ---------------------------------------------------------------- deletion


def test_a_job_that_waits_is_cancelled(idle: Running) -> None:
    identifier = submit(idle.client, pictures(2))
    job = idle.client.delete(f"/v1/jobs/{identifier}").json()
    assert (job["status"], [one["status"] for one in job["items"]]) == ("cancelled", ["cancelled"] * 2)
    assert job["finished"]
    assert [one.kind for one in events(idle.client, identifier)] == ["queued", "cancelled"]
    assert idle.client.delete(f"/v1/jobs/{identifier}").json() == job


def test_a_finished_job_stays_as_it_is(server: Running) -> None:
    job = finished(server.client, submit(server.client))
    assert server.client.delete(f"/v1/jobs/{job['id']}").json() == job == look(server.client, job["id"])


def test_ids_are_no_options_of_commands(server: Running) -> None:
    """As those with a hyphen at the beginning would be."""
    job = finished(server.client, submit(server.client))
    for identifier in (job["id"], job["items"][0]["reply"]["certificate_id"]):
        assert re.fullmatch("[0-9a-f]{32}", identifier)


def test_metrics(start: Start, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.jobs.COUNTING_SECONDS", 0.05)
    with start(data_dir=tmp_path) as server:
        finished(server.client, submit(server.client, pictures(2)))
        until(lambda: 'surety_jobs{status="done"} 1.0' in server.client.get("/metrics").text)
        text = server.client.get("/metrics").text
        for sample in ('surety_job_items_total{status="done"} 2.0', "surety_job_items_waiting 0.0"):
            assert sample in text
        assert 'surety_records_total{result="stored"} 2.0' in text
