"""The server's side of the worker process: starts it, sends it runs, and starts it again when it dies.

A run that was under way when the worker died is made again, with the same key and so with the same answer. It is then
suspect and runs alone; if the worker dies once more, the run is refused from then on, by its digest. Those that were
under way beside it come to no harm but the delay.
"""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from .computing import Computed, Machine, Order
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
"""Of the worker under a run, after which it is refused."""
REMEMBERED = 10_000
BACKOFF_SECONDS = (0.0, 1.0, 5.0, 30.0)
"""Before another start, by how many starts failed in a row."""
CLOSING_SECONDS = 2.0
RETRY_SECONDS = 10


class WorkerError(Exception):
    """The worker cannot start."""


class _Died(Exception):
    """The worker ended under a run."""


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
        self._runs: dict[int, tuple[Future[Done], Report | None]] = {}
        self._numbers = 0
        self._suspects: OrderedDict[str, int] = OrderedDict()
        self._suspects_waiting = 0
        self._alone = False
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
            cancellation.check_wanted()
            try:
                done = self._run(digest, order, cancellation, report)
            except _Died:
                self._suspect(digest)
                continue
            if done.device_failed:
                self._suspect(digest)
                raise DeviceFailedError(
                    "the device failed under this request; it is started again", retry_after_seconds=RETRY_SECONDS
                )
            with self._changed:
                self._suspects.pop(digest, None)
            if isinstance(done.result, Computed):
                return done.result
            raise done.result.rebuilt()

    def _run(self, digest: str, order: Order, cancellation: Cancellation, report: Report | None) -> Done:
        """Send a run once and wait for what comes of it; raises :class:`_Died`."""
        future = Future[Done]()
        worker, number, suspect = self._begin(digest, cancellation, (future, report))
        try:
            worker.send(Run(number, order, cancellation.deadline, report is not None))
            told: set[type] = set()
            while True:
                with suppress(TimeoutError):
                    return future.result(LOOK_SECONDS)
                for kind, asked in ((Cancel, cancellation.is_cancelled), (Hurry, cancellation.is_hurried)):
                    if asked and kind not in told:
                        worker.send(kind(number))
                        told.add(kind)
        finally:
            if suspect:
                with self._changed:
                    self._alone = False
                    self._changed.notify_all()

    def _begin(
        self, digest: str, cancellation: Cancellation, run: tuple[Future[Done], Report | None]
    ) -> tuple[_Started, int, bool]:
        """Wait for the worker; a suspect, until nothing else runs, and nothing else begins before it has ended."""
        with self._changed:
            suspect = digest in self._suspects
            if self._suspects.get(digest, 0) >= DEATHS:
                raise PoisonedError("the worker process died twice under this request: it is not computed again")
            self._suspects_waiting += suspect
            try:
                while (worker := self._free_for(suspect)) is None:
                    cancellation.check_wanted()
                    self._changed.wait(LOOK_SECONDS)
                    if self._closed:
                        raise DrainingError("the server is shutting down", retry_after_seconds=RETRY_SECONDS)
            finally:
                self._suspects_waiting -= suspect
            self._alone = suspect
            self._numbers += 1
            self._runs[self._numbers] = run
            return worker, self._numbers, suspect

    def _free_for(self, suspect: bool) -> _Started | None:
        """The worker, if a run may begin now."""
        if self._ready is None or self._failing or self._alone or (self._runs if suspect else self._suspects_waiting):
            return None
        return self._worker

    def _suspect(self, digest: str) -> None:
        with self._changed:
            self._suspects[digest] = self._suspects.pop(digest, 0) + 1
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
            worker = self._spawn()
            status = self._read(worker)
            was_ready = self._ready is not None
            failed = 0 if was_ready else failed + 1
            with self._changed:
                self._ready, self._worker, self._failing = None, None, False
                runs, self._runs = self._runs, {}
                self._failure = self._failure or f"the worker process ended with status {status} while it started"
                self._changed.notify_all()
            if was_ready:
                self._on_ready(False)
            if was_ready and not self._closed:
                cause = "device" if status == DEVICE_FAILED else "crash"
                logger.error("the worker process ended with status %d under %d runs", status, len(runs))
                self._on_death(cause)
            # Last: whoever has the answer finds the death counted.
            for future, _ in runs.values():
                future.set_exception(_Died())

    def _sleep(self, seconds: float) -> bool:
        """Wait; whether the server goes on."""
        with self._changed:
            return not self._changed.wait_for(lambda: self._closed, seconds)

    def _spawn(self) -> _Started:
        ours, theirs = Pipe()
        with self._changed:
            process = subprocess.Popen([*COMMAND, str(theirs.fileno())], pass_fds=[theirs.fileno()])
            theirs.close()
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
            self._device_memory = done.device_memory
            self._changed.notify_all()
        if run is not None:
            run[0].set_result(done)

    def _tell(self, told: Told) -> None:
        with self._changed:
            _, report = self._runs.get(told.number, (None, None))
        if report is not None:
            report(told.news)


def _digest(order: Order) -> str:
    """Names what is computed, whatever its noise."""
    found = hashlib.sha256(f"{order.model} {order.digest} {order.plan!r} {order.pixels.shape}".encode())
    found.update(order.pixels.tobytes())
    return found.hexdigest()
