"""Readiness, load, draining: what an operator relies on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import pytest

import service.computing
from certification import __version__
from certification.vocabulary import StatisticsError
from gpu.targets import DeviceError
from models.votes import BaseClassifierVotes
from service.cli import main
from service.errors import ERROR_TABLE

from .conftest import COMPILING, Running, Start, until
from .forks import Forks, Served
from .pictures import encode, grey

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Votes wait until it is set; at the end it is."""
    event = threading.Event()

    class WaitingVotes(BaseClassifierVotes):
        def class_counts(self, n: int, *, pixel_noise: bool) -> Any:
            event.wait(30)
            return super().class_counts(n, pixel_noise=pixel_noise)

    monkeypatch.setattr(service.computing, "BaseClassifierVotes", WaitingVotes)
    yield event
    event.set()


def sample(server: Running, name: str) -> float:
    lines = server.client.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(name)).rsplit(" ", 1)[1])


def test_live_but_not_ready_while_loading(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    loading = threading.Event()
    warm_up = service.computing.warm_up
    monkeypatch.setattr(service.computing, "warm_up", lambda *what: (loading.wait(30), warm_up(*what)))
    with start(wait=False) as server:
        assert server.client.get("/health/live").status_code == 200
        assert sample(server, "surety_ready") == 0.0
        for response in (
            server.client.get("/health/ready"),
            server.client.get("/v1/models"),
            server.client.get("/v1/bounds"),
            server.certify(),
            server.predict(),
        ):
            assert response.status_code == 503
            assert response.json()["type"] == "urn:surety:problem:not_ready"
            assert int(response.headers["retry-after"]) > 0
        loading.set()
        until(lambda: server.client.get("/health/ready").status_code == 200, COMPILING)
        assert server.certify(guarantee="heuristic").status_code == 200


def test_the_next_request_gets_429(start: Start, gate: threading.Event) -> None:
    with start(max_running=2, max_queue_seconds=0, short_seconds=1e6) as server, ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(server.certify, guarantee="heuristic") for _ in range(2)]
        until(lambda: sample(server, "surety_running") == 2)
        assert sample(server, "surety_queue_seconds") > 0.0
        for refused in (server.certify(), server.predict()):
            assert refused.status_code == 429
            assert refused.json()["type"] == "urn:surety:problem:overloaded"
            assert int(refused.headers["retry-after"]) == refused.json()["retry_after_seconds"] > 0
        gate.set()
        assert [answer.result().status_code for answer in answers] == [200] * 2
        until(lambda: sample(server, "surety_running") == 0)
        assert server.certify(guarantee="heuristic").status_code == 200
        assert sample(server, 'surety_problems_total{type="overloaded"}') == 2


def test_a_client_that_leaves_frees_its_permit(start: Start, gate: threading.Event) -> None:
    with start(max_running=1, max_queue_seconds=0) as server:
        with httpx.Client(base_url=server.url, timeout=0.5) as impatient, pytest.raises(httpx.ReadTimeout):
            impatient.post("/v1/certify", files={"image": ("x", encode(grey(), "PNG"))})
        assert server.certify().status_code == 429
        gate.set()
        until(lambda: sample(server, "surety_running") == 0)
        assert server.certify(guarantee="heuristic").status_code == 200


def test_health_and_metrics_answer_while_certificates_are_computed(server: Running) -> None:
    """Real certificates on all threads: no answer waits for one. A ratio, since the machine may be busy itself."""
    stop = threading.Event()

    def certify() -> list[float]:
        spent = []
        while not stop.is_set():
            begun = time.perf_counter()
            assert server.certify(guarantee="individual", attack_range=5).status_code == 200
            spent.append(time.perf_counter() - begun)
        return spent

    with ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(certify) for _ in range(2)]
        until(lambda: sample(server, "surety_running") > 0)
        seconds: dict[str, list[float]] = {"/health/live": [], "/health/ready": [], "/metrics": []}
        while_running = 0
        for _ in range(15):
            for path, times in seconds.items():
                begun = time.perf_counter()
                response = server.client.get(path)
                times.append(time.perf_counter() - begun)
                assert response.status_code == 200
            while_running += "surety_running 0.0" not in response.text
        stop.set()
        certificates = [spent for done in busy for spent in done.result()]
    assert len(certificates) >= 2
    assert while_running > 5
    for path, times in seconds.items():
        assert median(times) < median(certificates) / 2, (path, times, certificates)


@pytest.mark.parametrize("kind", [RuntimeError, StatisticsError])
def test_an_unforeseen_error_says_nothing_but_to_the_log(
    server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: type[Exception]
) -> None:
    def broken(*_: Any) -> None:
        raise kind("secret of the house")

    monkeypatch.setattr(service.computing, "certify", broken)
    response = server.certify()
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == "urn:surety:problem:internal"
    assert "secret" not in response.text
    assert "secret of the house" in caplog.text
    monkeypatch.undo()
    assert server.certify(guarantee="heuristic").status_code == 200


def test_a_shortage_of_memory_is_503(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(service.computing, "certify", greedy)
    response = server.certify()
    assert (response.status_code, response.json()["type"]) == (503, "urn:surety:problem:out_of_memory")


def test_failing_to_load_is_told_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> str:
        raise DeviceError("no such device")

    monkeypatch.setattr(service.computing, "select_device", absent)
    with start(wait=False) as server:
        until(lambda: server.services.lifecycle.failure is not None)
        assert server.services.lifecycle.failure == "no such device"
        assert server.client.get("/health/ready").status_code == 503


SLOW = """
import time
from models.votes import BaseClassifierVotes

class Slow(BaseClassifierVotes):
    def class_counts(self, n, *, pixel_noise):
        time.sleep({seconds})
        return super().class_counts(n, pixel_noise=pixel_noise)

service.computing.BaseClassifierVotes = Slow
"""


@contextmanager
def slow_service(forks: Forks, zoo: Path, seconds: float, **settings: Any) -> Iterator[Served]:
    """``surety serve`` in a process of its own, whose votes sleep."""
    server = forks.begin(SLOW.format(seconds=seconds), zoo=zoo, **settings)
    try:
        server.until_ready()
        yield server
    finally:
        server.kill()


def _certify(url: str) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/certify", files={"image": ("x", encode(grey(), "PNG"))}, data={"guarantee": "heuristic"}, timeout=60
    )


def test_sigterm_finishes_what_runs_and_refuses_the_rest(zoo: Path, forks: Forks) -> None:
    with slow_service(forks, zoo, 1.5) as server, ThreadPoolExecutor(1) as pool:
        running = pool.submit(_certify, server.url)
        until(lambda: "surety_running 1.0" in server.metrics())
        os.kill(server.process, signal.SIGTERM)
        until(lambda: not server.ready())
        refused = _certify(server.url)
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:surety:problem:draining")
        assert httpx.get(f"{server.url}/health/live").status_code == 200
        assert running.result().status_code == 200
        assert server.ended() == 0


def test_sigterm_gives_up_after_its_limit(zoo: Path, forks: Forks) -> None:
    with slow_service(forks, zoo, 60, drain_seconds=0.5) as server, ThreadPoolExecutor(1) as pool:
        running = pool.submit(_certify, server.url)
        until(lambda: "surety_running 1.0" in server.metrics())
        begun = time.monotonic()
        os.kill(server.process, signal.SIGTERM)
        answer = running.result()
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:surety:problem:draining")
        assert server.ended() == 0
        assert time.monotonic() - begun < 15


def test_a_wrong_card_ends_the_process_with_its_message(zoo: Path, tmp_path: Path) -> None:
    broken = tmp_path / "zoo" / "constant-rotation"
    broken.mkdir(parents=True)
    for name in ("card.toml", "weights.safetensors"):
        (broken / name).write_bytes((zoo / "constant-rotation" / name).read_bytes())
    (broken / "card.toml").write_text((broken / "card.toml").read_text().replace("height = 12", "height = -1"))
    ended = subprocess.run(
        [sys.executable, "-m", "service.cli", "serve", "--port", "0"],
        cwd=ROOT, env={**os.environ, "SURETY_ZOO": str(tmp_path / "zoo"), "SURETY_DEVICE": "cpu"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert "card.toml" in last
    assert "input.height" in last
    assert "Traceback" not in ended.stderr


def test_an_address_that_is_taken_ends_the_process_with_a_message(zoo: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = subprocess.run(
            [sys.executable, "-m", "service.cli", "serve", "--port", str(taken.getsockname()[1])],
            cwd=ROOT, env={**os.environ, "SURETY_ZOO": str(zoo), "SURETY_DEVICE": "cpu"},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert (ended.returncode, ended.stderr.strip().splitlines()[-1][:24]) == (1, "surety: cannot listen on")


def test_sigterm_while_models_are_loaded_ends_the_process_in_order(zoo: Path) -> None:
    """Not by an abort of the libraries whose threads are at work."""
    with subprocess.Popen(
        [sys.executable, "-m", "service.cli", "serve", "--port", "0"],
        cwd=ROOT, env={**os.environ, "SURETY_ZOO": str(zoo), "SURETY_DEVICE": "cpu", "SURETY_WORKER": "thread"},
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        said = iter(process.stderr.readline, "")
        assert any("Uvicorn running" in line for line in said)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("name", "value"), [("SURETY_PORT", "99999"), ("SURETY_MAX_RUNNING", "0"), ("SURETY_DEVICE", "tpu")]
)
def test_wrong_settings_are_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)
    assert main(["serve"]) == 2
    assert capsys.readouterr().err.startswith(f"surety: {name}: ")


def test_the_version_is_the_package_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    listed = capsys.readouterr().out
    assert all(command in listed for command in ("serve", "train", "calibrate", "evaluate", "version"))


@pytest.mark.parametrize("command", ["train", "calibrate", "evaluate"])
def test_each_command_has_its_own_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert "--data" in capsys.readouterr().out


def test_problem_types_are_distinct() -> None:
    labels = [kind.label for kind in ERROR_TABLE.values()]
    assert len(set(labels)) == len(labels)
