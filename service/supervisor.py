"""The server's side of the worker process: starts it, sends it runs, and starts it again when it dies.

A run that was under way when the worker died is made again, with the same key and so with the same answer. It is then
suspect and runs alone, one suspect after another; if the worker dies once more, the run is refused from then on, by its
digest. Those that were under way beside it come to no harm but the delay. A suspect that takes long gets company after
a while, since others wait; a death in company says nothing of it, but that it needs to be watched alone for longer.
"""

from __future__ import annotations

import hashlib
import logging
import math
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from certification.vocabulary import OutOfTime

from .computing import Computed, Machine, Order, too_late
from .engine import Cancellation
from .errors import DeviceFailedError, DrainingError, NotReadyError, PoisonedError
from .progress import Report
from .settings import Settings
from .worker import DEVICE_FAILED, Cancel, Done, Failed, Hurry, Ready, Run, Stop, Told

logger = logging.getLogger("surety")

COMMAND = (sys.executable, "-m", "service.worker")
"""Starts the worker; gets the number of its end of the pipe as the last argument."""
LOOK_SECONDS = 0.02
"""Between two looks at whether a run is still waited for."""
DEATHS = 2
"""Of the worker under a run, all but the first while it ran alone, after which it is refused."""
ALONE_SECONDS, LONGER = 10.0, 4.0
"""For so long a suspect runs alone, or waits for others to end before it begins; so many times as long after each death
in company."""
REMEMBERED = 10_000
BACKOFF_SECONDS = (0.0, 1.0, 5.0, 30.0)
"""Before another start, by how many starts failed in a row."""
CLOSING_SECONDS = 2.0
RETRY_SECONDS = 10


class WorkerError(Exception):
    """The worker cannot start."""


class _Died(Exception):
    """The worker ended under a run."""


@dataclass
class _Suspicion:
    """Of a run under which the worker has died."""

    deaths: int = 1
    alone_seconds: float = ALONE_SECONDS


@dataclass(frozen=True)
class _Running:
    """A run that was sent to the worker."""

    digest: str
    future: Future[Done]
    report: Report | None


@dataclass(eq=False)
class _Started:
    """One worker process."""

    process: subprocess.Popen[bytes]
    connection: Connection
    sending: threading.Lock = field(default_factory=threading.Lock)

    def send(self, message: Any) -> None:
        """Send; where the worker is gone, the reading thread will find out."""
        with self.sending, suppress(OSError):
            self.connection.send(message)


class Supervisor:
    """A :class:`~service.computing.Computer` in a process of its own.

    Parameters
    ----------
    settings : Settings
    on_ready : callable
        Told whether the worker takes runs, whenever that changes; on the supervising thread.
    on_death : callable
        Told the cause, ``crash`` or ``device``, when a worker that was ready has died.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_ready: Callable[[bool], None] = lambda ready: None,
        on_death: Callable[[str], None] = lambda cause: None,
    ) -> None:
        self._settings = settings
        self._on_ready, self._on_death = on_ready, on_death
        self._changed = threading.Condition()
        self._worker: _Started | None = None
        self._ready: Ready | None = None
        self._known: Ready | None = None
        self._failing = False
        self._failure: str | None = None
        self._closed = False
        self._runs: dict[int, _Running] = {}
        self._numbers = 0
        self._suspects: OrderedDict[str, _Suspicion] = OrderedDict()
        self._reported: set[str] = set()
        self._claims: dict[object, float] = {}
        """Of suspects that run or wait: until when they keep others from beginning."""
        self._suspect_runs = False
        self._device_memory: Mapping[str, int] = {}
        self._thread = threading.Thread(target=self._supervise, name="worker", daemon=True)

    def start(self) -> None:
        """Start the worker and wait until it is ready; raises :class:`WorkerError` if it cannot be."""
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._failure or self._closed)
            if self._ready is None:
                self._closed = True
                raise WorkerError(self._failure or "the server ended first")

    def close(self) -> None:
        """End the worker."""
        with self._changed:
            self._closed = True
            worker = self._worker
            self._changed.notify_all()
        if worker is not None:
            worker.send(Stop())
            try:
                worker.process.wait(CLOSING_SECONDS)
            except subprocess.TimeoutExpired:
                worker.process.kill()

    @property
    def machine(self) -> Machine:
        """See :class:`~service.computing.Computer`."""
        return self._started.machine

    def vote_seconds(self) -> Mapping[str, float]:
        """See :class:`~service.computing.Computer`; as the worker measured when it started."""
        return self._started.vote_seconds

    def check_ready(self) -> None:
        """Raise :class:`NotReadyError` while there is no worker."""
        if self._ready is None or self._failing:
            raise NotReadyError("the worker process is started again", retry_after_seconds=RETRY_SECONDS)

    @property
    def device_memory(self) -> Mapping[str, int]:
        """Bytes of the device in use by kind, at the end of the newest run."""
        return self._device_memory

    @property
    def process_id(self) -> int | None:
        """Of the worker."""
        worker = self._worker
        return None if worker is None else worker.process.pid

    def compute(self, order: Order, cancellation: Cancellation, report: Report | None = None) -> Computed:
        """See :class:`~service.computing.Computer`.

        Raises
        ------
        PoisonedError
            If the worker died twice under this run.
        DeviceFailedError
            If the device failed under it.
        """
        digest = _digest(order)
        while True:
            try:
                done = self._run(digest, order, cancellation, report)
            except _Died:
                continue
            except OutOfTime:
                return too_late(order)
            if done.device_failed:
                raise DeviceFailedError(
                    "the device failed under this request; it is started again", retry_after_seconds=RETRY_SECONDS
                )
            with self._changed:
                self._suspects.pop(digest, None)
            if isinstance(done.result, Computed):
                return done.result
            raise done.result.rebuilt()

    def _run(self, digest: str, order: Order, cancellation: Cancellation, report: Report | None) -> Done:
        """Send a run once and wait for what comes of it; raises :class:`_Died`, and ``OutOfTime`` if it never began."""
        with self._turn(_Running(digest, Future(), report), cancellation) as (worker, number, future):
            worker.send(Run(number, order, cancellation.deadline, report is not None))
            told: set[type] = set()
            while True:
                with suppress(TimeoutError):
                    return future.result(LOOK_SECONDS)
                for kind, asked in ((Cancel, cancellation.is_cancelled), (Hurry, cancellation.is_hurried)):
                    if asked and kind not in told:
                        worker.send(kind(number))
                        told.add(kind)

    @contextmanager
    def _turn(self, run: _Running, cancellation: Cancellation) -> Iterator[tuple[_Started, int, Future[Done]]]:
        """Wait for the worker; gives it and the run's number."""
        claim = object()
        with self._changed:
            try:
                while (worker := self._free_for(run.digest, claim)) is None:
                    cancellation.check()
                    self._changed.wait(LOOK_SECONDS)
                    if self._closed:
                        raise DrainingError("the server is shutting down", retry_after_seconds=RETRY_SECONDS)
            except BaseException:
                self._claims.pop(claim, None)
                raise
            suspicion = self._suspects.get(run.digest)
            if suspicion is not None:
                self._claims[claim] = time.monotonic() + suspicion.alone_seconds
                self._suspect_runs = True
            self._numbers += 1
            number = self._numbers
            self._runs[number] = run
        try:
            yield worker, number, run.future
        finally:
            with self._changed:
                self._claims.pop(claim, None)
                self._suspect_runs &= suspicion is None
                self._changed.notify_all()

    def _free_for(self, digest: str, claim: object) -> _Started | None:
        """The worker, if a waiting run may begin now; raises :class:`PoisonedError` if it never may."""
        suspicion, now = self._suspects.get(digest), time.monotonic()
        is_ready = self._ready is not None and not self._failing
        if suspicion is None:
            self._claims.pop(claim, None)  # the same run has ended well meanwhile
            is_free = all(until <= now for until in self._claims.values())
        elif suspicion.deaths >= DEATHS:
            raise PoisonedError("the worker process died twice under this request: it is not computed again")
        else:
            if not is_ready:
                self._claims[claim] = math.inf
            elif self._claims.get(claim, math.inf) == math.inf:
                self._claims[claim] = now + suspicion.alone_seconds
            is_free = not self._suspect_runs and (not self._runs or now >= self._claims[claim])
        return self._worker if is_ready and is_free else None

    def _suspect(self, digests: set[str]) -> None:
        """The worker has died under these runs."""
        for digest in digests:
            known = self._suspects.pop(digest, None)
            if known is not None and len(digests) == 1:
                known.deaths += 1
            elif known is not None:
                known.alone_seconds *= LONGER
            self._suspects[digest] = known or _Suspicion()
            if len(self._suspects) > REMEMBERED:
                self._suspects.popitem(last=False)

    @property
    def _started(self) -> Ready:
        if self._known is None:
            raise NotReadyError("the worker process was not started")
        return self._known

    def _supervise(self) -> None:
        """Start workers until the server ends."""
        failed = 0
        while not self._closed:
            if not self._sleep(BACKOFF_SECONDS[min(failed, len(BACKOFF_SECONDS) - 1)]):
                return
            try:
                worker = self._spawn()
            except OSError as error:
                logger.error("the worker process cannot be started: %s", error)
                failed += 1
                with self._changed:
                    self._failure = self._failure or f"the worker process cannot be started: {error}"
                    self._changed.notify_all()
                continue
            status = self._read(worker)
            was_ready = self._ready is not None
            failed = 0 if was_ready else failed + 1
            with self._changed:
                self._ready, self._worker, self._failing = None, None, False
                runs, self._runs = self._runs, {}
                self._suspect(self._reported | {run.digest for run in runs.values()})
                self._reported = set()
                self._failure = self._failure or f"the worker process ended with status {status} while it started"
                self._changed.notify_all()
            if was_ready:
                self._on_ready(False)
            if was_ready and not self._closed:
                cause = "device" if status == DEVICE_FAILED else "crash"
                logger.error("the worker process ended with status %d under %d runs", status, len(runs))
                self._on_death(cause)
            # Last: whoever has the answer finds the death counted.
            for run in runs.values():
                run.future.set_exception(_Died())

    def _sleep(self, seconds: float) -> bool:
        """Wait; whether the server goes on."""
        with self._changed:
            return not self._changed.wait_for(lambda: self._closed, seconds)

    def _spawn(self) -> _Started:
        ours, theirs = Pipe()
        with self._changed, theirs:
            try:
                process = subprocess.Popen([*COMMAND, str(theirs.fileno())], pass_fds=[theirs.fileno()])
            except OSError:
                ours.close()
                raise
            worker = self._worker = _Started(process, ours)
        worker.send(self._settings)
        return worker

    def _read(self, worker: _Started) -> int:
        """Take messages until the worker is gone; returns its exit status."""
        with suppress(EOFError, OSError):
            while True:
                message = worker.connection.recv()
                if isinstance(message, Done):
                    self._take(message)
                elif isinstance(message, Told):
                    self._tell(message)
                elif isinstance(message, Ready):
                    with self._changed:
                        self._ready = self._known = message
                        self._changed.notify_all()
                    self._on_ready(True)
                elif isinstance(message, Failed):
                    self._failure = message.message
                    logger.error("the worker process cannot start: %s", message.message)
        return worker.process.wait()

    def _take(self, done: Done) -> None:
        with self._changed:
            run = self._runs.pop(done.number, None)
            self._failing |= done.device_failed  # its process ends now: no run shall begin there
            if run is not None and done.device_failed:
                self._reported.add(run.digest)
            self._device_memory = done.device_memory or self._device_memory
            self._changed.notify_all()
        if run is not None:
            run.future.set_result(done)

    def _tell(self, told: Told) -> None:
        with self._changed:
            run = self._runs.get(told.number)
        if run is not None and run.report is not None:
            run.report(told.news)


def _digest(order: Order) -> str:
    """Names what is computed, whatever its noise."""
    found = hashlib.sha256(f"{order.model} {order.digest} {order.plan!r} {order.pixels.shape}".encode())
    found.update(order.pixels.tobytes())
    return found.hexdigest()
