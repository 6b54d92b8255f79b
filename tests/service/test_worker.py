"""The worker process: the same answers, and its death is nobody else's."""

from __future__ import annotations

import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

import service.precedence
import service.supervisor
import service.worker
from certification.vocabulary import CalibrationError, PlanError
from models.batches import nothing
from service.certifier import Certifier, Task
from service.computing import LocalComputer, Order, Raised, is_shortage
from service.engine import Cancellation, Cancelled
from service.errors import DeviceFailedError, DrainingError, FieldError, NotReadyError, PoisonedError, problem_of
from service.schemas import CertifyFields, CertifyReply, PredictFields
from service.settings import Settings
from service.supervisor import Supervisor, WorkerError
from service.worker import is_device_failure

from .conftest import COMPILING, Running, Start, until
from .dying_worker import FAILS, KILLS, WAITS
from .forks import Forks, is_alive
from .pictures import SIDE, encode, grey
from .test_deadlines import SLOW
from .test_operations import sample

CHEAP = {"guarantee": "heuristic"}


def picture(level: int) -> bytes:
    """A PNG of one grey."""
    return encode(np.full((SIDE, SIDE), level, dtype=np.uint8), "PNG")


@pytest.fixture(scope="module")
def guarded(start: Start) -> Iterator[Running]:
    """A server whose worker is the dying one; nothing that a test leaves behind is seen by another one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.supervisor, "COMMAND", (sys.executable, "-m", "tests.service.dying_worker"))
        with start(worker="process", max_running=4) as running:
            yield running


def supervisor(server: Running) -> Supervisor:
    """Of a server that is ready: whatever a test before this one has left, its worker is there again."""
    until(lambda: server.client.get("/health/ready").status_code == 200, COMPILING)
    found: Any = server.services.lifecycle.certifier._computer
    return found


def deaths(server: Running, cause: str) -> float:
    return sample(server, f'surety_worker_deaths_total{{cause="{cause}"}}')


def order_of(server: Running, level: int | None = None, **fields: Any) -> Order:
    certifier: Certifier = server.services.lifecycle.certifier
    image = encode(grey(), "PNG") if level is None else picture(level)
    return ordered(certifier.prepare_certify(CertifyFields(**{**CHEAP, **fields}), image))


def ordered(task: Task[Any]) -> Order:
    return Order(task.model.card.id, task.model.digest, task.plan, task.image.pixels, task.replay)


# answers


@pytest.mark.parametrize("fields", [CHEAP, {"guarantee": "individual"}, {"guarantee": "distributional"}])
def test_an_order_gives_the_same_answer_in_either_process(guarded: Running, fields: dict[str, Any]) -> None:
    order = order_of(guarded, **fields)
    local = LocalComputer(guarded.services.lifecycle.certifier.registry, "cpu")
    here, there = (one.compute(order, Cancellation()) for one in (local, supervisor(guarded)))
    assert (there.found, there.replay) == (here.found, here.replay)
    assert there.seconds["select"] > 0.0
    assert supervisor(guarded).machine == local.machine


def test_a_certificate_verifies_and_a_prediction_is_made(guarded: Running) -> None:
    answer = guarded.certify(**CHEAP).json()
    assert guarded.post(f"/v1/certificates/{answer['certificate_id']}/verify").json()["verified"]
    assert guarded.predict(**CHEAP).json()["label"] == answer["label"]


def test_a_refusal_by_the_run_arrives_as_itself(guarded: Running) -> None:
    """The plan is possible before the error bound is known, and not after."""
    order = order_of(guarded, guarantee="individual")
    bad = Order(**{**vars(order), "plan": object()})
    with pytest.raises(TypeError, match="no run for a object"):
        supervisor(guarded).compute(bad, Cancellation())


@pytest.mark.parametrize(
    "error",
    [
        PlanError("too few", field="n", required={"n": 7}),
        CalibrationError("none"),
        FieldError("bad", field="alpha", maximum=1),
        Cancelled(),
        MemoryError("full"),
        KeyError("x"),
        OSError(28, "No space left on device"),
    ],
)
def test_exceptions_travel_with_their_members(error: BaseException) -> None:
    rebuilt = pickle.loads(pickle.dumps(Raised.of(error))).rebuilt()
    assert type(rebuilt) is type(error)
    assert (rebuilt.args, vars(rebuilt), str(rebuilt)) == (error.args, vars(error), str(error))
    if isinstance(error, Exception):
        assert problem_of(rebuilt, "/").body == problem_of(error, "/").body


def test_a_deadline_is_kept_there(guarded: Running) -> None:
    answer = guarded.certify(picture(WAITS), **SLOW, deadline_ms=1500).json()
    assert answer["stopped_by"] == "deadline"
    assert 0 < answer["counts"]["votes"] < 2000


def test_a_run_that_nobody_waits_for_stops_there(guarded: Running) -> None:
    cancellation = Cancellation()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(supervisor(guarded).compute, order_of(guarded, WAITS, **SLOW), cancellation)
        time.sleep(0.3)
        cancellation.cancel()
        begun = time.monotonic()
        with pytest.raises(Cancelled):
            run.result(30)
    assert time.monotonic() - begun < 20


def test_a_run_that_is_hurried_answers_with_what_it_has(guarded: Running) -> None:
    cancellation = Cancellation()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(supervisor(guarded).compute, order_of(guarded, WAITS, **SLOW), cancellation)
        time.sleep(0.5)
        cancellation.hurry()
        assert run.result(30).found.stopped_by == "deadline"


# deaths


def test_a_worker_that_is_killed_costs_nobody_an_answer(guarded: Running) -> None:
    """kill -9 under four runs: they are made again with the same keys; readiness is off meanwhile."""
    before, computer = deaths(guarded, "crash"), supervisor(guarded)
    stored = guarded.certify(**CHEAP).json()["certificate_id"]
    orders = [order_of(guarded, WAITS, guarantee="heuristic", attack_range=45, alpha=10.0**-power) for power in (4, 8)]
    local = LocalComputer(guarded.services.lifecycle.certifier.registry, "cpu")
    expected = [local.compute(order, Cancellation()).found for order in orders]
    first = computer.process_id
    assert first is not None
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(computer.compute, order, Cancellation()) for order in orders]
        until(lambda: len(computer._runs) == 2)
        os.kill(first, signal.SIGKILL)
        until(lambda: sample(guarded, "surety_ready") == 0.0)
        reply = guarded.client.get("/health/ready")
        assert (reply.status_code, reply.json()["type"]) == (503, "urn:surety:problem:not_ready")
        assert guarded.certify(**CHEAP).status_code == 503
        late = computer.compute(orders[0], Cancellation(time.monotonic() + 0.1)).found
        assert (late.stopped_by, late.counts.votes, late.label) == ("deadline", 0, None)
        certifier: Certifier = guarded.services.lifecycle.loaded
        prediction = ordered(certifier.prepare_predict(PredictFields(**CHEAP), picture(WAITS)))
        predicted = computer.compute(prediction, Cancellation(time.monotonic())).found
        assert (predicted.stopped_by, predicted.counts.votes, predicted.label) == ("deadline", 0, None)
        for path in ("/health/live", "/v1/models", "/v1/bounds", f"/v1/certificates/{stored}", "/v1/keys/signing"):
            assert guarded.client.get(path).status_code == 200, path
        assert [run.result(COMPILING).found for run in runs] == expected
    assert computer.process_id != first
    assert deaths(guarded, "crash") == before + 1
    assert sample(guarded, "surety_ready") == 1.0
    assert not computer._suspects


def test_two_of_the_same_under_one_death_are_no_poison(guarded: Running) -> None:
    computer, order = supervisor(guarded), order_of(guarded, WAITS, guarantee="heuristic", attack_range=45, alpha=1e-4)
    assert computer.process_id is not None
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(computer.compute, order, Cancellation()) for _ in range(3)]
        until(lambda: len(computer._runs) == 3)
        os.kill(computer.process_id, signal.SIGKILL)
        found = [run.result(COMPILING).found for run in runs]
    assert found[0].label is not None
    assert found == found[:1] * 3
    assert not computer._claims


def test_a_run_that_is_no_suspect_any_more_keeps_nobody_waiting() -> None:
    """The same run has ended well while it waited."""
    computer = Supervisor(Settings())
    claim = object()
    computer._suspect({"same", "other"})
    assert computer._free_for("same", claim) is None
    assert computer._claims[claim] == math.inf
    del computer._suspects["same"]
    computer._free_for("same", claim)
    assert not computer._claims


def test_a_suspect_that_takes_long_gets_company(guarded: Running) -> None:
    """It is not alone for longer than it is watched; nor are others kept waiting until those before it have ended."""
    computer, slow = supervisor(guarded), order_of(guarded, WAITS, **{**SLOW, "procedure": "paper", "n": 100_000})
    for suspect in (True, False):
        digest = service.supervisor._digest(slow if suspect else order_of(guarded))
        computer._suspects[digest] = service.supervisor._Suspicion(alone_seconds=0.5)
        cancellation = Cancellation()
        begun = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            run = pool.submit(computer.compute, slow, cancellation)
            until(lambda: bool(computer._runs))
            assert computer.compute(order_of(guarded), Cancellation()).found.label is not None
            assert time.monotonic() - begun > 0.5
            assert not run.done()
            cancellation.cancel()
            with pytest.raises(Cancelled):
                run.result(30)
        computer._suspects.clear()


def test_a_death_in_company_is_not_the_suspects(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts alone only, and is watched for longer the next time."""
    computer = Supervisor(Settings())
    computer._suspect({"long", "new"})
    assert [one.deaths for one in computer._suspects.values()] == [1, 1]
    for _ in range(2):
        computer._suspect({"long", "another"})
    long = computer._suspects["long"]
    assert (long.deaths, long.alone_seconds) == (1, 16 * service.supervisor.ALONE_SECONDS)
    computer._suspect({"long"})
    with pytest.raises(PoisonedError):
        computer._free_for("long", object())


def test_a_worker_is_started_again_though_that_fails_at_first(
    guarded: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no memory or no descriptor left for it."""
    computer = supervisor(guarded)
    failures = [OSError(24, "Too many open files")]
    popen: Any = subprocess.Popen

    def start(*arguments: Any, **named: Any) -> Any:
        if failures:
            raise failures.pop()
        return popen(*arguments, **named)

    monkeypatch.setattr(subprocess, "Popen", start)
    assert computer.process_id is not None
    os.kill(computer.process_id, signal.SIGKILL)
    until(lambda: not failures and guarded.client.get("/health/ready").status_code == 200, COMPILING)
    assert guarded.certify(**CHEAP).status_code == 200


def test_an_error_that_cannot_be_sent_is_told_all_the_same() -> None:
    """Else whoever waits for the run would do so for ever."""

    class Stuck:
        def compute(self, *ignored: Any) -> Any:
            error = ValueError("no way out")
            error.lock = threading.Lock()  # type: ignore[attr-defined]
            raise error

    ours, theirs = Pipe()
    stuck: Any = Stuck()
    service.worker._Worker(theirs, stuck)._run(service.worker.Run(7, stuck, 0.0, False), Cancellation())
    done = ours.recv()
    assert (done.number, done.device_failed) == (7, False)
    assert "no way out" in str(done.result.rebuilt())


def test_a_request_that_kills_the_worker_twice_is_refused_by_digest(guarded: Running) -> None:
    """Those beside it are answered; the third time nothing is computed."""
    before = deaths(guarded, "crash")
    with ThreadPoolExecutor(4) as pool:
        beside = [pool.submit(guarded.certify, picture(WAITS), **SLOW, n0=100 + number) for number in range(2)]
        until(lambda: sample(guarded, "surety_running") == 2)
        poisoned = pool.submit(guarded.certify, picture(KILLS), **CHEAP)
        refused = poisoned.result(COMPILING)
        assert (refused.status_code, refused.json()["type"]) == (422, "urn:surety:problem:poisoned")
        answers = [one.result(COMPILING) for one in beside]
    assert [one.status_code for one in answers] == [200, 200]
    assert deaths(guarded, "crash") == before + 2
    until(lambda: guarded.client.get("/health/ready").status_code == 200, COMPILING)
    again = guarded.certify(picture(KILLS), **CHEAP)
    assert again.json()["type"] == "urn:surety:problem:poisoned"
    assert deaths(guarded, "crash") == before + 2
    assert guarded.certify(picture(KILLS + 20), **CHEAP).status_code == 200


def test_a_device_failure_fails_the_request_and_rebuilds_the_worker(guarded: Running) -> None:
    before, first = deaths(guarded, "device"), supervisor(guarded).process_id
    failed = guarded.certify(picture(FAILS), **CHEAP)
    assert (failed.status_code, failed.json()["type"]) == (503, "urn:surety:problem:device_failed")
    assert "Retry-After" in failed.headers
    assert "illegal" not in failed.text
    until(lambda: deaths(guarded, "device") == before + 1, COMPILING)
    until(lambda: guarded.client.get("/health/ready").status_code == 200, COMPILING)
    assert supervisor(guarded).process_id != first
    assert guarded.certify(**CHEAP).status_code == 200


def test_what_is_a_device_failure_and_what_a_shortage() -> None:
    cuda = torch.AcceleratorError("CUDA error: device-side assert triggered")
    old = RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")
    full = torch.OutOfMemoryError("CUDA out of memory.")
    outside = torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later")
    library = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    assert [is_device_failure(one) for one in (cuda, old, full, ValueError("CUDA error"))] == [True, True, False, False]
    assert [is_shortage(one) for one in (cuda, old, ValueError("CUDA error: out of memory"))] == [False] * 3
    assert [is_shortage(one) for one in (full, outside, library, MemoryError())] == [True] * 4


def test_memory_of_both_processes_is_shown(guarded: Running) -> None:
    for kind in ("resident", "worker_resident"):
        assert sample(guarded, f'surety_device_memory_bytes{{device="cpu",kind="{kind}"}}') > 50e6


def test_a_long_run_pauses_for_an_urgent_one(guarded: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.precedence, "PAUSE_SECONDS", 60.0)
    local, order = LocalComputer(guarded.services.lifecycle.certifier.registry, "cpu"), order_of(guarded)
    expected = local.compute(order, Cancellation()).found
    with ThreadPoolExecutor(1) as pool, local._precedence.turn(60.0, nothing):
        long = pool.submit(local.compute, order, Cancellation())
        assert local.compute(replace(order, urgent_seconds=60.0), Cancellation()).found == expected
        time.sleep(0.2)
        assert not long.done()
    assert long.result().found == expected


def test_the_server_has_the_cores_before_its_worker(guarded: Running) -> None:
    worker: Any = supervisor(guarded)._worker
    assert os.getpriority(os.PRIO_PROCESS, worker.process.pid) > os.getpriority(os.PRIO_PROCESS, 0)


# beginning and end


def test_a_worker_that_cannot_start_says_why(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"no models|nowhere"):
        Supervisor(Settings(zoo=tmp_path / "nowhere", device="cpu")).start()


def test_a_worker_that_dies_while_it_starts_is_no_mystery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.supervisor, "COMMAND", (sys.executable, "-c", "import sys; sys.exit(3)"))
    supervisor = Supervisor(Settings())
    with pytest.raises(WorkerError, match="status 3"):
        supervisor.start()
    with pytest.raises(NotReadyError):
        supervisor.check_ready()


LOADING = """
import sys, time
import service.worker
service.worker.load_here = lambda settings: time.sleep(300)
service.worker.main(int(sys.argv[1]))
"""


def test_a_worker_that_still_loads_ends_with_its_server() -> None:
    ours, theirs = Pipe()
    with theirs:
        process = subprocess.Popen([sys.executable, "-c", LOADING, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    try:
        ours.send(Settings())
        time.sleep(0.5)
        assert process.poll() is None
        ours.close()
        assert process.wait(COMPILING) == 0
    finally:
        process.kill()


def test_closing_ends_the_worker_and_whoever_waits_for_it(guarded: Running) -> None:
    """The last test of this server."""
    order, computer = order_of(guarded, WAITS, **SLOW), supervisor(guarded)
    process = computer._worker.process if computer._worker else None
    assert process is not None
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(computer.compute, order, Cancellation())
        until(lambda: bool(computer._runs))
        computer.close()
        with pytest.raises(DrainingError):
            run.result(30)
    assert process.poll() is not None


DYING = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
service.supervisor.COMMAND = (sys.executable, "-m", "tests.service.dying_worker")
"""


def test_servers_that_end_end_their_workers(zoo: Path, forks: Forks) -> None:
    """Ctrl-C in a terminal and systemd reach the worker too; the answer that is under way is given first.

    The third server is killed, and ends nothing itself.
    """
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
    servers = [forks.begin(DYING, zoo=zoo, worker="process", drain_seconds=1) for _ in signals]
    try:
        for server in servers:
            server.until_ready()
        workers = [child for server in servers for child in children(server.process)]
        assert len(workers) == len(servers)
        with ThreadPoolExecutor(len(servers)) as pool:
            answers = [pool.submit(ask_slowly, server.url) for server in servers]
            until(lambda: all("surety_running 1.0" in server.metrics() for server in servers))
            for server, sent in zip(servers, signals, strict=True):
                (os.kill if sent == signal.SIGKILL else os.killpg)(server.process, sent)
        assert [server.ended() for server in servers] == [0, 0, -signal.SIGKILL]
        for answer in answers[:2]:
            reply = CertifyReply.model_validate(answer.result().json())
            assert (answer.result().status_code, reply.stopped_by) == (200, "deadline")
        assert isinstance(answers[2].exception(), httpx.TransportError)
        until(lambda: not any(map(is_alive, workers)))
    finally:
        for server in servers:
            server.kill()


def ask_slowly(url: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/certify", files={"image": ("x", picture(WAITS))}, data=SLOW, timeout=60)


def children(process: int) -> list[int]:
    """Ids of the processes that any thread of it has begun."""
    found = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for path in found for child in path.read_text().split()]


def test_errors_of_the_supervisor_are_problems() -> None:
    for error, status in ((PoisonedError("x"), 422), (DeviceFailedError("x"), 503)):
        assert problem_of(error, "/").kind.status == status
