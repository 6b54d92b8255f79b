"""What the tests of jobs share: sending, waiting, reading events."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from torch import Tensor

import service.computing
from models.votes import BaseClassifierVotes

from .conftest import until
from .pictures import encode, grey

CHEAP = {"guarantee": "heuristic", "model": "constant-rotation"}
CHANCY = {"transformation": "l2", "guarantee": "individual", "model": "undecided", "procedure": "paper", "n": 300}
"""Counts that depend on every bit of the noise."""
OVER = ("done", "failed", "cancelled")


LONG = {"transformation": "l2", "guarantee": "individual", "model": "constant-rotation", "attack_range": 0.4}
"""Some 150 batches in many rounds, where one vote in twelve is for another class, as with the gate."""


class Gate:
    """Lets the batches of a base classifier through, one by one or all."""

    def __init__(self) -> None:
        self._free = threading.Semaphore(0)
        self.open, self.asked = False, 0

    def pass_(self) -> None:
        """What a batch waits for."""
        self.asked += 1
        deadline = time.monotonic() + 60.0
        while not (self.open or self._free.acquire(timeout=0.02)):
            if time.monotonic() > deadline:
                raise TimeoutError("nobody opened the gate")

    def let(self, batches: int) -> None:
        """So many may pass."""
        self._free.release(batches)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Every batch of every run waits at it, and one vote in twelve is for class 0; open at the end."""
    made = Gate()

    class Gated(BaseClassifierVotes):
        def _classify(self, images: Tensor) -> Tensor:
            made.pass_()
            labels = super()._classify(images).clone()
            labels[::12] = 0
            return labels

    monkeypatch.setattr(service.computing, "BaseClassifierVotes", Gated)
    yield made
    made.open = True


@dataclass(frozen=True)
class Told:
    """One server-sent event."""

    number: int | None
    kind: str
    data: dict[str, Any]


def pictures(count: int) -> list[bytes]:
    """Different images that the models take."""
    return [encode(grey(seed=i), "PNG") for i in range(count)]


def send(
    client: httpx.Client, images: Sequence[bytes] = (), key: str | None = None, headers: Any = (), **fields: Any
) -> httpx.Response:
    """POST /v1/jobs as multipart."""
    return client.post(
        "/v1/jobs",
        data={name: str(value) for name, value in {**CHEAP, **fields}.items()},
        files=[("image", (f"{i}.png", image)) for i, image in enumerate(images or pictures(1))],
        headers=[*headers, *([] if key is None else [("Idempotency-Key", key)])],
    )


def submit(client: httpx.Client, images: Sequence[bytes] = (), key: str | None = None, **fields: Any) -> str:
    """The id of a new job."""
    response = send(client, images, key, **fields)
    assert response.status_code == 202, response.text
    identifier = response.json()["id"]
    assert isinstance(identifier, str)
    return identifier


def look(client: httpx.Client, identifier: str) -> dict[str, Any]:
    """GET /v1/jobs/{id}."""
    response = client.get(f"/v1/jobs/{identifier}")
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def finished(client: httpx.Client, identifier: str) -> dict[str, Any]:
    """The job, once it is over."""
    until(lambda: look(client, identifier)["status"] in OVER, 120.0)
    return look(client, identifier)


def events(client: httpx.Client, identifier: str, after: int | str | None = None) -> list[Told]:
    """All events of a stream, until the server ends it."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    with client.stream("GET", f"/v1/jobs/{identifier}/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(parsed(response.iter_lines()))


def parsed(lines: Iterator[str]) -> Iterator[Told]:
    """Events as they come (HTML, 9.2.6); comments and the time to wait are left out."""
    fields: dict[str, str] = {}
    for line in lines:
        if line == "":
            if "data" in fields:
                number = int(fields["id"]) if "id" in fields else None
                yield Told(number, fields["event"], json.loads(fields["data"]))
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value


def problem(response: httpx.Response) -> tuple[int, str]:
    """Status and label of a refusal."""
    return response.status_code, response.json()["type"].removeprefix("urn:surety:problem:")
