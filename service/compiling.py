"""Kernels that are compiled when a run first needs them, while the run goes on looking at its time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait

LOOK_SECONDS = 0.05


class Compiling:
    """Each thing is done once, on a thread of its own, however many wait for it or stop waiting.

    Parameters
    ----------
    work : callable
        Does the thing of a name, such as to compile the kernels of a transformation.
    """

    def __init__(self, work: Callable[[str], None]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._begun: dict[str, Future[None]] = {}

    def wait(self, name: str, check: Callable[[], None]) -> None:
        """Return once it is done.

        Raises
        ------
        BaseException
            Whatever ``check`` raises, which is called every :data:`LOOK_SECONDS`, or the work has raised; whoever asks
            next then tries again.
        """
        with self._lock:
            future = self._begun.get(name)
            if future is None or (future.done() and future.exception() is not None):
                future = self._begun[name] = Future()
                threading.Thread(target=self._do, args=(name, future), name=f"compile-{name}", daemon=True).start()
        while wait([future], LOOK_SECONDS).not_done:
            check()
        future.result()

    def _do(self, name: str, future: Future[None]) -> None:
        try:
            self._work(name)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)
