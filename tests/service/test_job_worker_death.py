"""kill -9 of the worker process under a job's image, images that bring it down, and a device that fails under them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import service.supervisor

from .conftest import COMPILING, Running, Start, until
from .dying_worker import FAILS, FAILS_ONCE, KILLS, MARK, WAITS
from .job_tools import CHEAP, events, finished, look, submit
from .test_worker import deaths, picture, supervisor

FIELDS = {"transformation": "l2", "guarantee": "individual", "model": "undecided", "procedure": "paper", "n": 600}
"""Some 10 batches, two seconds of an image of the grey WAITS; counts that depend on every bit of the noise."""


@pytest.fixture(scope="module")
def guarded(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose worker is the dying one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.supervisor, "COMMAND", (sys.executable, "-m", "tests.service.dying_worker"))
        patch.setenv(MARK, str(tmp_path_factory.mktemp("mark") / "failed"))
        with start(worker="process", data_dir=tmp_path_factory.mktemp("jobs")) as running:
            yield running


def running(server: Running, identifier: str, item: int) -> bool:
    return look(server.client, identifier)["items"][item]["status"] == "running"


def answer(reply: dict[str, Any]) -> dict[str, Any]:
    """All that follows from the image, the fields and the noise."""
    return {name: value for name, value in reply.items() if name not in ("certificate_id", "seconds")}


def assert_verified(server: Running, image: bytes, reply: dict[str, Any]) -> None:
    verified = server.post(f"/v1/certificates/{reply['certificate_id']}/verify", image).json()
    assert verified["verified"], verified


def test_killing_the_worker_changes_no_certificate_of_a_job(guarded: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Oracle: /v1/certify on the same server, with no kill, whose noise is the same for the same request."""
    images = [picture(level) for level in (100, WAITS, 101)]
    before, first = deaths(guarded, "crash"), supervisor(guarded).process_id
    identifier = submit(guarded.client, images, "k", **FIELDS)
    assert first is not None
    until(lambda: running(guarded, identifier, 1) and bool(supervisor(guarded)._runs))
    kept = look(guarded.client, identifier)["items"][0]
    os.kill(first, signal.SIGKILL)
    until(lambda: guarded.client.get("/health/ready").status_code == 503)
    until(lambda: guarded.client.get("/health/ready").status_code == 200, COMPILING)
    assert submit(guarded.client, images, "k", **FIELDS) == identifier
    job = finished(guarded.client, identifier)
    assert deaths(guarded, "crash") == before + 1
    assert "under 1 runs" in caplog.text
    assert [item["status"] for item in job["items"]] == ["done"] * 3
    assert job["items"][0] == kept
    reply = job["items"][1]["reply"]
    assert answer(guarded.certify(images[1], **FIELDS).json()) == answer(reply)
    for image, item in zip(images, job["items"], strict=True):
        assert_verified(guarded, image, item["reply"])
    told = events(guarded.client, identifier)
    assert [one.data["item"] for one in told if one.kind == "item"] == [0, 1, 2], "each is told once, as it is over"
    assert told[-1].kind == "done"


def test_an_image_that_kills_the_worker_twice_fails_alone(guarded: Running) -> None:
    images = [picture(level) for level in (102, KILLS, 103)]
    before = deaths(guarded, "crash")
    identifier = submit(guarded.client, images, **CHEAP)
    until(lambda: deaths(guarded, "crash") == before + 2, COMPILING)
    until(lambda: guarded.client.get("/health/ready").status_code == 200, COMPILING)
    job = finished(guarded.client, identifier)
    assert (job["status"], [item["status"] for item in job["items"]]) == ("done", ["done", "failed", "done"])
    problem = job["items"][1]["problem"]
    assert (problem["status"], problem["type"]) == (422, "urn:surety:problem:poisoned")
    for number in (0, 2):
        assert_verified(guarded, images[number], job["items"][number]["reply"])
    again = finished(guarded.client, submit(guarded.client, images, **CHEAP))
    assert [item["status"] for item in again["items"]] == ["done", "failed", "done"]
    assert deaths(guarded, "crash") == before + 2, "it is known by now"


def test_an_image_under_which_the_device_fails_is_begun_again(guarded: Running) -> None:
    """Once; one under which it always fails is poisoned."""
    before = deaths(guarded, "device")
    images = [picture(level) for level in (104, FAILS_ONCE, FAILS, 105)]
    job = finished(guarded.client, submit(guarded.client, images, **CHEAP))
    assert [item["status"] for item in job["items"]] == ["done", "done", "failed", "done"]
    assert job["items"][2]["problem"]["type"] == "urn:surety:problem:poisoned"
    assert deaths(guarded, "device") == before + 3
    until(lambda: guarded.client.get("/health/ready").status_code == 200, COMPILING)
    for number in (0, 1, 3):
        assert_verified(guarded, images[number], job["items"][number]["reply"])
