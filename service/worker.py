"""The worker process: computes what the server sends it, and survives nothing.

The server (:mod:`service.supervisor`) starts it and sends :class:`Run`, :class:`Cancel` and :class:`Hurry`; the worker
answers with :class:`Ready` or :class:`Failed` once, then with :class:`Done` for every run, and for some with
:class:`Told` before. It ends when the server is gone, and when the device has failed, since nothing computed on it
afterwards can be trusted.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.connection import Connection

import torch
from numba.cuda.cudadrv.driver import CudaAPIError

from gpu.targets import DeviceError
from models.card import CardError

from . import logs
from .computing import Computed, LocalComputer, Machine, Order, Raised, load_here
from .engine import Cancellation
from .progress import News
from .settings import Settings

NICE, LONG_NICE = 5, 10
"""Added to the niceness of the process, so that the server answers while it computes, and of runs that are not urgent.
"""
SWITCH_SECONDS = 0.001
"""How long a thread may keep the interpreter from the event loop, or from an urgent run; Python's own 5 ms add up."""
LOOK_SECONDS = 0.2
"""Between two looks at whether the server is still there, while the worker starts."""
DEVICE_FAILED = 70
"""Exit status after a device error."""
CUDA_LIBRARIES = ("CUDA error", "cuDNN error", "CUBLAS_STATUS")
"""In the messages of torch's errors that have no class of their own."""


@dataclass(frozen=True)
class Run:
    """Make a run, to be answered at ``deadline``, a time of ``time.monotonic()``: one clock for all processes."""

    number: int
    order: Order
    deadline: float
    watched: bool


@dataclass(frozen=True)
class Cancel:
    """Nobody waits for a run any more."""

    number: int


@dataclass(frozen=True)
class Hurry:
    """Answer a run with what it has."""

    number: int


@dataclass(frozen=True)
class Stop:
    """End."""


@dataclass(frozen=True)
class Ready:
    """Models are loaded and kernels compiled."""

    machine: Machine
    vote_seconds: Mapping[str, float]


@dataclass(frozen=True)
class Failed:
    """The worker cannot start."""

    message: str


@dataclass(frozen=True)
class Told:
    """How far a watched run has come."""

    number: int
    news: News


@dataclass(frozen=True)
class Done:
    """What came of a run; ``device_memory`` in bytes by kind, where there was an answer and the device has its own."""

    number: int
    result: Computed | Raised
    device_failed: bool = False
    device_memory: Mapping[str, int] = field(default_factory=dict)


def main(descriptor: int) -> None:
    """The process; ``descriptor`` is its end of the pipe, on which the settings come first."""
    for ignored in (signal.SIGINT, signal.SIGTERM):  # sent to the whole group; the server says when the worker ends
        signal.signal(ignored, signal.SIG_IGN)
    os.nice(NICE)
    sys.setswitchinterval(SWITCH_SECONDS)
    connection = Connection(descriptor)
    settings: Settings = connection.recv()
    logs.configure(settings)
    try:
        with _ending_with(connection):
            computer = load_here(settings)
            gc.collect()
            gc.freeze()  # as the server does
            ready = Ready(computer.machine, computer.vote_seconds())
        connection.send(ready)
    except (CardError, DeviceError) as error:
        connection.send(Failed(str(error)))
    except Exception as error:
        logging.getLogger("surety").exception("loading failed")
        connection.send(Failed(f"loading failed: {type(error).__name__}: {error}"))
    else:
        _Worker(connection, computer).serve()


@contextmanager
def _ending_with(connection: Connection) -> Iterator[None]:
    """Until the worker is ready, it ends as soon as the server says so or is gone; there is no other news then."""
    loaded = threading.Event()

    def watch() -> None:
        while not loaded.is_set():
            if connection.poll(LOOK_SECONDS):
                os._exit(0)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        loaded.set()
        watching.join()


class _Worker:
    """Reads messages on one thread, computes on others: as many as the server sends at once."""

    def __init__(self, connection: Connection, computer: LocalComputer) -> None:
        self._connection, self._computer = connection, computer
        self._running: dict[int, Cancellation] = {}
        self._sending = threading.Lock()

    def serve(self) -> None:
        """Until the server is gone."""
        try:
            while True:
                self._take(self._connection.recv())
        except (EOFError, OSError):
            # Threads may be in the middle of a kernel; nobody waits for them.
            os._exit(0)

    def _take(self, message: Run | Cancel | Hurry | Stop) -> None:
        if isinstance(message, Stop):
            raise EOFError
        if isinstance(message, Run):
            cancellation = _Yielding(message.deadline, message.order.urgent_seconds)
            self._running[message.number] = cancellation
            threading.Thread(target=self._run, args=(message, cancellation), daemon=True).start()
        elif (running := self._running.get(message.number)) is not None:
            if isinstance(message, Cancel):
                running.cancel()
            else:
                running.hurry()

    def _run(self, message: Run, cancellation: Cancellation) -> None:
        number = message.number
        try:
            report = partial(self._tell, number) if message.watched else None
            result = self._computer.compute(message.order, cancellation, report)
            done = Done(number, result, device_memory=_device_memory(self._computer.machine.device))
        except BaseException as error:
            done = Done(number, Raised.of(error), is_device_failure(error))
            if done.device_failed:
                logging.getLogger("surety").exception("the device failed")
        self._running.pop(number, None)
        with self._sending:
            try:
                self._connection.send(done)
            except Exception as error:  # it cannot be pickled
                unsaid = RuntimeError(f"{done.result!r} cannot be sent: {error!r}")
                self._connection.send(replace(done, result=Raised.of(unsaid)))
            finally:
                if done.device_failed:
                    os._exit(DEVICE_FAILED)

    def _tell(self, number: int, news: News) -> None:
        with self._sending:
            self._connection.send(Told(number, news))


class _Yielding(Cancellation):
    """Of a run whose thread lets those of urgent runs have the cores first, once it is not urgent itself.

    The threads that libraries start for it inherit that from there on.
    """

    def __init__(self, deadline: float, urgent_seconds: float) -> None:
        super().__init__(deadline)
        self._urgent_until, self._urgent = time.monotonic() + urgent_seconds, True

    def check(self) -> None:
        """See Cancellation; on the run's thread."""
        if self._urgent and time.monotonic() >= self._urgent_until:
            self._urgent = False
            _give_way()
        super().check()


def _give_way() -> None:
    with suppress(AttributeError, OSError):  # threads have priorities of their own on Linux
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + LONG_NICE)


def is_device_failure(error: BaseException) -> bool:
    """Whether an error says that the device, not the run, is at fault: CUDA's errors stay until the process ends."""
    if isinstance(error, torch.AcceleratorError | CudaAPIError):
        return True
    return isinstance(error, RuntimeError) and any(name in str(error) for name in CUDA_LIBRARIES)


def _device_memory(device: str) -> Mapping[str, int]:
    """Bytes, by kind."""
    if device != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info()
    return {"torch_allocated": torch.cuda.memory_allocated(), "in_use": total - free, "total": total}


if __name__ == "__main__":
    # not from __main__, whose classes would be others than those that the server knows
    from service.worker import main as work

    work(int(sys.argv[1]))
