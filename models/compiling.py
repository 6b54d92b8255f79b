"""Kernels that are compiled when a run first needs them, while the run goes on looking at its time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np

from gpu.cells import BoundSettings
from gpu.error_bound import forward_error_bounds
from gpu.preprocess import GaussianOperator, Preprocessing
from gpu.residual import sampled_error
from gpu.total_error import TotalErrors

LOOK_SECONDS = 0.05
SIDE = 6


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
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        while not done.wait(LOOK_SECONDS):
            check()
        future.result()

    def _do(self, name: str, future: Future[None]) -> None:
        try:
            self._work(name)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)


def compile_known_image_kernels(transformation: str, device: str) -> None:
    """Have the kernels of ``gpu.warm_up`` that it leaves out, on a tiny image: minutes once, then from the cache.

    Parameters
    ----------
    transformation : {"rotation", "translation"}
    device : {"cpu", "cuda"}
    """
    operator = Preprocessing(vignette="circle", blur_sigma=1.5, interpolation="gaussian").operator(SIDE, SIDE)
    if not isinstance(operator, GaussianOperator):
        raise TypeError("Gaussian interpolation has a Gaussian operator")
    image = np.full((SIDE, SIDE, 1), 0.5, dtype=np.float32)
    parameters = np.zeros(2) if transformation == "rotation" else np.zeros((2, 2))
    settings = BoundSettings(cell_width=0.5, refinements=1, cell_budget=8)
    forward_error_bounds(image, parameters, transformation, 1.0, operator, settings, device=device)
    TotalErrors(image, transformation, 1.0, operator, settings).bounds(parameters)
    sampled_error(image, transformation, 1.0, operator, operator.for_original(), 2)
