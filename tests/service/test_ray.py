"""The service on a local Ray cluster of two vote engines: the certificates of one process, whatever dies."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from service.computing import Order
from service.engine import Cancellation, Cancelled
from service.progress import Progress

from .clusters import IGNORED, local_cluster
from .conftest import COMPILING, Running, until
from .forks import free_port
from .job_tools import events, submit
from .orders import SECRET, OneProcess

pytest.importorskip("ray", reason="the extra 'ray' is not installed")
pytestmark = IGNORED

LONG: dict[str, Any] = {"model": "undecided", "guarantee": "heuristic", "procedure": "paper", "n": 6000}
"""Seconds of work on any machine, and the same number of votes on each."""
ENDLESS = {**LONG, "n": 3_000_000}


@dataclass
class Cluster:
    """The service, and the edge's half of the boundary in this process."""

    edge: Running
    computer: Any
    engines: Any

    def backlogs(self) -> list[float]:
        """Of each engine."""
        told = self.engines.broadcast("record_autoscaling_stats").results()
        return [stats["backlog_seconds"] for stats in told]

    def idle(self) -> bool:
        """Whether no engine has an order."""
        return not any(self.backlogs())


@pytest.fixture(scope="module")
def one_process(zoo: Path) -> OneProcess:
    return OneProcess(zoo)


@pytest.fixture(scope="module")
def cluster(zoo: Path, one_process: OneProcess) -> Iterator[Cluster]:
    from ray import serve

    from service import ray_app
    from service.ray_computer import RayComputer

    port = free_port()
    changes = {
        "SURETY_ZOO": str(zoo), "SURETY_DEVICE": "cpu", "SURETY_BATCH_SIZE": "64", "SURETY_NOISE_SECRET": SECRET,
        "SURETY_ALLOW_PUBLIC_WITHOUT_KEYS": "true", "SURETY_MAX_RUNNING": "4",
    }  # fmt: skip
    with local_cluster(4, **changes):
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            serve.run(ray_app.app(ray_app.Scale(engines=2)), name="surety")
            engines = serve.get_deployment_handle("Engines", "surety")
            url = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=url, timeout=COMPILING) as client:
                # services lie in another process
                edge = Running(url, client, None)  # type: ignore[arg-type]
                yield Cluster(edge, RayComputer(engines), engines)
        finally:
            serve.shutdown()


def test_certificates_are_those_of_one_process_to_the_last_bit(cluster: Cluster, one_process: OneProcess) -> None:
    orders = [
        one_process.order(guarantee="heuristic"),
        one_process.order(guarantee="distributional", seed=1),
        one_process.order(guarantee="individual", attack_range=3),
        one_process.order(transformation="l2", attack_range=0.1),
        one_process.order(model="undecided", guarantee="heuristic", procedure="paper", n=300),
        one_process.order(transformation="translation", guarantee="heuristic"),
    ]
    with ThreadPoolExecutor(len(orders)) as threads:
        there = list(threads.map(lambda order: cluster.computer.compute(order, Cancellation()), orders))
    for order, computed in zip(orders, there, strict=True):
        here = one_process.computer.compute(order, Cancellation())
        assert computed.found == here.found
        assert computed.replay == order.replay
        assert computed.seconds.keys() == here.seconds.keys()
    assert cluster.computer.machine.device == "cpu"
    assert cluster.computer.vote_seconds().keys() == one_process.computer.vote_seconds().keys()


def test_stages_are_on_the_clock_of_whoever_asked(cluster: Cluster, one_process: OneProcess) -> None:
    before = time.monotonic()
    computed = cluster.computer.compute(one_process.order(guarantee="heuristic"), Cancellation())
    for begun, ended in computed.spans.values():
        assert before <= begun <= ended <= time.monotonic()


def test_the_edge_answers_as_one_process_does(cluster: Cluster, one_process: OneProcess) -> None:
    """With the same secret the noise is the same, so every number is."""
    asked: dict[str, Any] = {"guarantee": "individual", "attack_range": 4}
    answer = cluster.edge.certify(**asked)
    assert answer.status_code == 200, answer.text
    assert len(answer.headers.get_list("x-request-id")) == 1
    reply = answer.json()
    found = one_process.computer.compute(one_process.order(**asked), Cancellation()).found
    assert reply["label"] == found.label
    assert reply["radius"] == getattr(found, "radius", None)
    assert reply["p_lower"] == found.p_lower
    assert reply["counts"]["votes"] == found.counts.votes
    verified = cluster.edge.post(f"/v1/certificates/{reply['certificate_id']}/verify")
    assert verified.json()["verified"], verified.text
    assert cluster.edge.certify(guarantee="heuristic", image=b"").status_code == 422
    assert cluster.edge.client.get("/health/ready").status_code == 200


def test_a_job_tells_how_far_its_images_have_come(cluster: Cluster) -> None:
    client = cluster.edge.client
    told = events(client, submit(client, [one_grey()], **{**LONG, "n": 10 * LONG["n"]}))  # as it happens
    assert [one.data["stage"] for one in told if one.kind == "stage"] == ["select", "estimate"]
    votes = [one.data["votes"] for one in told if one.kind == "progress"]
    assert votes == sorted(votes)
    assert votes[-1] > 0
    assert told[-1].kind == "done"


def test_a_deadline_gives_what_was_shown_until_then(cluster: Cluster) -> None:
    asked = {"model": "undecided", "guarantee": "individual", "attack_range": 10}
    reply = cluster.edge.certify(deadline_ms=1500, **asked).json()
    assert (reply["stopped_by"], reply["abstained"]) == ("deadline", True)


def test_a_client_that_leaves_stops_its_run(cluster: Cluster) -> None:
    with pytest.raises(httpx.ReadTimeout):
        cluster.edge.client.post(
            "/v1/predict", data={name: str(value) for name, value in ENDLESS.items()},
            files={"image": ("image", one_grey())}, timeout=httpx.Timeout(COMPILING, read=3.0),
        )  # fmt: skip
    until(cluster.idle)


def test_an_order_that_is_called_off_stops(cluster: Cluster, one_process: OneProcess) -> None:
    cancellation = Cancellation()
    with ThreadPoolExecutor(1) as thread:
        run = thread.submit(cluster.computer.compute, one_process.order(**ENDLESS), cancellation)
        until(lambda: not cluster.idle())
        cancellation.cancel()
        with pytest.raises(Cancelled):
            run.result()
    until(cluster.idle)


def test_refusals_arrive_as_themselves(cluster: Cluster, one_process: OneProcess) -> None:
    from service.errors import VoteEnginesError

    order = Order(**{**vars(one_process.order()), "digest": "0" * 64})
    with pytest.raises(VoteEnginesError, match="another version of constant-rotation"):
        cluster.computer.compute(order, Cancellation())


def test_an_engine_whose_device_fails_is_replaced(cluster: Cluster, one_process: OneProcess, tmp_path: Path) -> None:
    """CUDA's errors stay until a process ends: whoever meets one is answered by the next process."""
    from ray import serve

    from service.ray_app import Engines
    from service.ray_computer import RayComputer

    class Failing(Engines):
        """Its device has failed, but in the process that starts after ``failed`` was written."""

        def __init__(self, failed: Path) -> None:
            super().__init__()
            computer: Any = self._computer
            if not failed.exists():
                computer.compute = lambda *_: fail(failed)

    def fail(failed: Path) -> None:
        import torch

        failed.touch()
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    engines = serve.run(serve.deployment(Failing).bind(tmp_path / "failed"), name="failing", route_prefix=None)
    try:
        order = one_process.order(guarantee="heuristic")
        found = RayComputer(engines).compute(order, Cancellation(), Progress()).found
        assert found == one_process.computer.compute(order, Cancellation()).found
        assert (tmp_path / "failed").exists()
    finally:
        serve.delete("failing")


def test_the_kill_of_an_engine_changes_no_certificate(
    cluster: Cluster, one_process: OneProcess, caplog: pytest.LogCaptureFixture
) -> None:
    """Last: the other engine is alone until a new one has started."""
    orders = [one_process.order(seed=seed, **LONG) for seed in range(4)]
    caplog.set_level(logging.WARNING, logger="surety")
    with ThreadPoolExecutor(len(orders)) as threads:
        runs = [threads.submit(cluster.computer.compute, order, Cancellation()) for order in orders]
        until(lambda: all(cluster.backlogs()))
        os.kill(engine_processes()[0], signal.SIGKILL)
        there = [run.result() for run in runs]
    assert "a vote engine ended" in caplog.text
    for order, computed in zip(orders, there, strict=True):
        assert computed.found == one_process.computer.compute(order, Cancellation()).found


def test_an_edge_that_anybody_could_reach_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment may be another than that of whoever deployed it."""
    from pydantic import SecretStr

    from service import ray_app
    from service.settings import SettingsError

    edge: Any = SimpleNamespace(_secret=SecretStr(SECRET), _load=None)
    monkeypatch.delenv("SURETY_ALLOW_PUBLIC_WITHOUT_KEYS", raising=False)
    with pytest.raises(SettingsError, match="no API keys"):
        ray_app.Edge.__serve_build_asgi_app__(edge)
    monkeypatch.setenv("SURETY_ALLOW_PUBLIC_WITHOUT_KEYS", "true")
    assert ray_app.Edge.__serve_build_asgi_app__(edge).state.services is edge._services


def engine_processes() -> list[int]:
    """Ids of the processes of this cluster's engines."""
    from ray._private import state

    return [
        actor["Pid"] for actor in state.actors().values()
        if actor["State"] == "ALIVE" and "#Engines#" in actor["Name"]
    ]  # fmt: skip


def one_grey() -> bytes:
    from .pictures import encode, grey

    return encode(grey(), "PNG")
