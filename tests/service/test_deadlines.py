"""Deadlines and clients that leave, over real sockets: valid partial answers, and work that really stops."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import service.computing
from models.votes import BaseClassifierVotes
from service.demo import SAMPLES
from service.engine import DECODERS
from service.keys import Scope, make_key, write_keys
from service.settings import SHIPPED_ZOO

from .conftest import Running, Start, until
from .pictures import encode, grey
from .test_operations import sample

SLEEP = 0.05
SLOW = {"guarantee": "heuristic", "attack_range": 45, "alpha": 1e-40}
"""A run of more than a thousand votes, of which a batch of 64 takes ``SLEEP`` seconds."""


class Slow:
    """Votes that take their time, and the times of their batches."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches: list[float] = []
        batches, classify = self.batches, BaseClassifierVotes._classify

        def slowly(votes: BaseClassifierVotes, *batch: object) -> object:
            time.sleep(SLEEP)
            batches.append(time.monotonic())
            return classify(votes, *batch)  # type: ignore[arg-type]

        class SlowVotes(BaseClassifierVotes):
            _classify = slowly  # type: ignore[assignment]

        monkeypatch.setattr(service.computing, "BaseClassifierVotes", SlowVotes)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    return Slow(monkeypatch)


def test_the_answer_at_the_deadline_is_what_was_shown_until_then(server: Running, slow: Slow) -> None:
    """The same noise as without a deadline, so the radius only grows with the votes there was time for."""
    whole = server.certify(**SLOW).json()
    assert whole["stopped_by"] == "certified"
    seconds, shown = max(len(slow.batches) * SLEEP, slow.batches[-1] - slow.batches[0]), []
    for share in (0.02, 0.3, 0.8):
        reply = server.certify(**SLOW, deadline_ms=int(1000 * share * seconds) + 1)
        assert reply.status_code == 200
        answer = reply.json()
        assert answer["stopped_by"] == "deadline"
        assert answer["counts"]["votes"] < whole["counts"]["votes"]
        assert not answer["covers_attack_range"]
        assert answer["abstained"] is (answer["radius"] is None)
        shown.append((answer["counts"]["votes"], answer["radius"] or 0.0))
        again = server.post(f"/v1/certificates/{answer['certificate_id']}/verify").json()
        assert again["verified"], again
        until(lambda: sample(server, "surety_running") == 0)
        stopped = len(slow.batches)
        time.sleep(2 * SLEEP)
        assert len(slow.batches) == stopped, "the work goes on"
    radii = [radius for _, radius in sorted(shown)]
    assert radii == sorted(radii)
    assert 0.0 < radii[-1] < whole["radius"]


def test_votes_that_show_nothing_are_counted_too(server: Running, slow: Slow) -> None:
    """The papers' procedure has no partial result, but a budget shall not be spared by asking with short deadlines."""
    answer = server.certify(**{**SLOW, "procedure": "paper", "n": 4000}, deadline_ms=int(20_000 * SLEEP)).json()
    assert (answer["stopped_by"], answer["counts"]["n"]) == ("deadline", 0)
    assert 0 < 64 * (len(slow.batches) - 1) <= answer["counts"]["votes"] <= 64 * len(slow.batches)
    assert server.post(f"/v1/certificates/{answer['certificate_id']}/verify").json()["verified"]


@pytest.mark.parametrize("stored", [False, True])
def test_a_verification_has_a_deadline_too(start: Start, slow: Slow, tmp_path: Path, stored: bool) -> None:
    """What could not be made again in time is not called wrong, and the work for it ends."""
    with start(data_dir=tmp_path, store_images=stored, max_deadline_ms=100_000, default_deadline_ms=90_000) as server:
        path = f"/v1/certificates/{server.certify(**SLOW).json()['certificate_id']}/verify"
        for deadline in (1, 200):
            if stored:
                found = server.client.post(path, json={"deadline_ms": deadline}).json()
            else:
                found = server.post(path, deadline_ms=deadline).json()
            assert (found["verified"], found["stopped_by"], found["differences"]) == (False, "deadline", [])
            assert "time was up" in found["reason"]
        until(lambda: sample(server, "surety_running") == 0)
        stopped = len(slow.batches)
        time.sleep(2 * SLEEP)
        assert len(slow.batches) == stopped, "the work goes on"
        assert server.post(path, deadline_ms=100_001).status_code == 422
        assert server.post(path, deadline_ms="soon").status_code == 422
        answer = server.post(path).json()
        assert (answer["verified"], answer["stopped_by"]) == (True, None)


def test_a_verification_costs_the_votes_that_it_makes(start: Start, slow: Slow, tmp_path: Path) -> None:
    key, entry = make_key("auditor", [Scope.CERTIFY, Scope.ADMIN])
    write_keys(tmp_path / "keys.json", {"auditor": entry})

    def charged(server: Running) -> float:
        return sample(server, 'surety_key_votes_total{key="auditor"}')

    with start(data_dir=tmp_path, keys_file=tmp_path / "keys.json") as server:
        server.client.headers["X-API-Key"] = key
        answer = server.certify(**SLOW).json()
        votes, path = answer["counts"]["votes"], f"/v1/certificates/{answer['certificate_id']}/verify"
        until(lambda: charged(server) == votes)
        assert server.post(path).json()["verified"]
        until(lambda: charged(server) == 2 * votes)
        before = len(slow.batches)
        assert server.post(path, deadline_ms=int(20_000 * SLEEP)).json()["stopped_by"] == "deadline"
        until(lambda: charged(server) > 2 * votes)
        assert 64 * (len(slow.batches) - before - 1) <= charged(server) - 2 * votes < votes


def test_a_verification_that_a_shutdown_ends_calls_nothing_wrong(start: Start, slow: Slow) -> None:
    with start() as server, ThreadPoolExecutor(1) as pool:
        path = f"/v1/certificates/{server.certify(**SLOW).json()['certificate_id']}/verify"
        verifying = pool.submit(server.post, path)
        until(lambda: sample(server, "surety_running") == 1)
        server.services.engine.hurry()
        assert verifying.result().json()["stopped_by"] == "deadline"


def test_a_prediction_has_a_deadline_too(server: Running, slow: Slow) -> None:
    answer = server.predict(guarantee="heuristic", n=100_000, procedure="paper", deadline_ms=100).json()
    assert (answer["stopped_by"], answer["abstained"], answer["counts"]["n"]) == ("deadline", True, 0)
    assert "time was up" in answer["reason"]


def test_kernels_that_compile_for_minutes_do_not_hold_up_an_answer(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, asked = threading.Event(), []

    def compiling(transformation: str) -> None:
        asked.append(transformation)
        gate.wait(60)

    monkeypatch.setattr(service.computing, "warm_up_known_images", compiling)
    fields = {"transformation": "rotation", "guarantee": "individual", "image_is": "reference", "deadline_ms": 500}
    with start(zoo=SHIPPED_ZOO) as server:
        digit = next(SAMPLES.glob("*.png")).read_bytes()
        for _ in range(2):
            answer = server.post("/v1/certify", digit, **fields).json()
            assert (answer["stopped_by"], answer["counts"]["votes"]) == ("deadline", 0)
            until(lambda: sample(server, "surety_running") == 0)
        gate.set()
    assert asked == ["rotation"]


def test_a_request_whose_time_passes_in_the_queue_is_answered(start: Start, slow: Slow) -> None:
    with start(max_running=1) as server, ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.certify, **SLOW)
        until(lambda: sample(server, "surety_running") == 1)
        answer = server.certify(**SLOW, deadline_ms=50).json()
        assert (answer["stopped_by"], answer["counts"]["votes"]) == ("deadline", 0)
        assert running.result().json()["stopped_by"] == "certified"
        assert sample(server, 'surety_runs_total{stopped_by="deadline"}') == 1


def test_the_ceiling_is_the_server_s(start: Start) -> None:
    with start(max_deadline_ms=1000, default_deadline_ms=500) as server:
        refused = server.certify(guarantee="heuristic", deadline_ms=1001)
        assert refused.status_code == 422
        assert (refused.json()["field"], refused.json()["maximum"]) == ("deadline_ms", 1000)
        assert server.certify(guarantee="heuristic", deadline_ms=1000).status_code == 200


def test_a_ceiling_below_the_default_is_the_default(start: Start) -> None:
    with start(max_deadline_ms=60_000) as server:
        certificate = server.certify(guarantee="heuristic")
        assert certificate.status_code == 200
        verified = server.post(f"/v1/certificates/{certificate.json()['certificate_id']}/verify")
        assert verified.json()["verified"]


def test_the_time_until_an_image_is_decoded_counts_too(server: Running) -> None:
    """However many others are decoded first."""
    engine, held = server.services.engine, threading.Event()
    busy = [engine._decoders.submit(held.wait, 60) for _ in range(DECODERS)]
    with ThreadPoolExecutor(2) as pool:
        try:
            asked = [
                pool.submit(server.certify, **SLOW, deadline_ms=400),
                pool.submit(server.predict, guarantee="heuristic", deadline_ms=400),
            ]
            until(lambda: engine._decoders._work_queue.qsize() == 2)
            time.sleep(0.5)
        finally:
            held.set()
        for one in asked:
            answer = one.result(60).json()
            assert (answer["stopped_by"], answer["counts"]["votes"]) == ("deadline", 0)
    assert all(one.result(60) for one in busy)


@pytest.mark.parametrize("deadline", [0, -5, "soon", 1.5, True])
def test_a_senseless_deadline_is_refused(server: Running, deadline: object) -> None:
    refused = server.certify(guarantee="heuristic", deadline_ms=deadline)
    assert (refused.status_code, refused.json()["field"]) == (422, "deadline_ms")


def _request(server: Running) -> bytes:
    """A whole certify request as bytes."""
    request = server.client.build_request(
        "POST", "/v1/certify", data={name: str(value) for name, value in SLOW.items()},
        files={"image": ("image", encode(grey(), "PNG"))},
    )  # fmt: skip
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"POST /v1/certify HTTP/1.1\r\n{head}\r\n".encode() + request.read()


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_cut_socket_stops_the_work_within_a_batch_or_two(server: Running, slow: Slow, how: str) -> None:
    host, port = server.client.base_url.host, server.client.base_url.port
    with socket.create_connection((host, port)) as client:
        client.sendall(_request(server))
        until(lambda: len(slow.batches) >= 2)
        if how == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    until(lambda: sample(server, "surety_running") == 0)
    stopped = len(slow.batches)
    time.sleep(3 * SLEEP)
    assert len(slow.batches) == stopped


def test_clients_that_leave_at_random_moments_leave_nothing_behind(start: Start, slow: Slow) -> None:
    """A small one of ``benchmarks.disconnects``; health answers all the while."""
    with start(max_running=2) as server:
        host, port, body = server.client.base_url.host, server.client.base_url.port, _request(server)
        moments = [index / 40 for index in range(40)]

        def leave(moment: float) -> None:
            with socket.create_connection((host, port)) as client:
                client.sendall(body[: int(len(body) * min(1.0, 3 * moment))])
                threading.Event().wait(0.3 * moment)

        with ThreadPoolExecutor(8) as pool:
            left = [pool.submit(leave, moment) for moment in moments]
            while not all(one.done() for one in left):
                assert server.client.get("/health/live").status_code == 200
        for one in left:
            one.result()
        until(lambda: sample(server, "surety_running") == 0 and sample(server, "surety_queue_depth") == 0)
        until(lambda: sample(server, "surety_requests_in_flight") <= 1)
        assert server.certify(guarantee="heuristic").status_code == 200
