"""Where runs are made: the boundary between a server that answers requests and what computes for it.

An order says everything that an answer follows from and can be sent to another process; what comes back is the answer
of ``certification`` with the seconds it took. :class:`LocalComputer` computes in this process.
"""

from __future__ import annotations

import logging
import platform
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numba
import numpy as np
import torch
from numba.cuda.cudadrv.driver import CudaAPIError
from numpy.typing import NDArray

from certification.effort import Effort
from certification.outcome import Outcome, Prediction
from certification.plan import CertificationPlan, PredictPlan
from certification.procedures import certify, predict, too_late_to_certify, too_late_to_predict, unwatched
from certification.protocols import Stage
from certification.vocabulary import ImageIs, OutOfTime
from gpu.cells import BoundSettings
from gpu.preprocess import GaussianOperator
from gpu.targets import select_device, warm_up, warm_up_known_images
from models.batches import SharedBatches
from models.error_bounds import ImageErrorBounds
from models.registry import LoadedModel, Registry, load_registry
from models.votes import BaseClassifierVotes

from .clock import StageClock
from .compiling import Compiling
from .costs import measured
from .engine import Cancellation
from .precedence import Precedence
from .progress import Report, Watcher
from .settings import Settings

logger = logging.getLogger("surety")

LEAST_CHUNK_BYTES = 2**20
SHORTAGES = ("DefaultCPUAllocator", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
"""In the messages of torch's errors for a shortage of the host's memory, of the device's outside torch's own allocator,
and in cuBLAS and cuDNN, which have no class of their own."""
CUDA_SHORTAGE = 2
"""Code of numba's error for a shortage of the device's memory."""


@dataclass(frozen=True)
class Replay:
    """What else an answer follows from, to the last bit: the noise, and the sizes that work is cut into."""

    key: bytes
    batch_size: int
    bound_chunk_bytes: int
    votes: int | None = None
    """Of a run that is made again: how many it had cast, after which it goes no further. None: it ends by itself."""
    bounded: int = 0
    """And how many of its draws had error bounds of their own by then."""

    def halved(self) -> Replay | None:
        """The same noise in smaller pieces; None where they cannot be smaller."""
        if self.batch_size == 1:
            return None
        chunk = max(self.bound_chunk_bytes // 2, LEAST_CHUNK_BYTES)
        return replace(self, batch_size=self.batch_size // 2, bound_chunk_bytes=chunk)


@dataclass(frozen=True)
class Order:
    """One run: ``plan`` for the image ``pixels`` [H, W, C] float32 in [0, 1] and the model of that id and digest."""

    model: str
    digest: str
    plan: Effort
    pixels: NDArray[np.float32]
    replay: Replay
    urgent_seconds: float = 0.0
    """For so long from its beginning it goes before other runs."""
    seconds: float = 0.0
    """What it is expected to take; decides who waits, never an answer."""


@dataclass(frozen=True)
class Machine:
    """What computes, as far as the last bits of an answer may depend on it."""

    device: str
    processor: str
    threads: int
    torch: str = torch.__version__
    numpy: str = np.__version__
    numba: str = numba.__version__

    @classmethod
    def here(cls, device: str) -> Machine:
        """This process, on ``cpu`` or ``cuda``."""
        on_cpu = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
        processor = torch.cuda.get_device_name() if device == "cuda" else on_cpu
        return cls(device, processor, torch.get_num_threads())


@dataclass(frozen=True)
class Computed:
    """What came of an order; ``replay`` is its own but for sizes that had to be smaller."""

    found: Outcome | Prediction
    replay: Replay
    seconds: Mapping[str, float]
    spans: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """As :class:`~service.clock.StageClock` has them."""


@dataclass(frozen=True)
class Raised:
    """An exception on its way; most keep members that its constructor wants, which pickle does not know."""

    cls: type[BaseException]
    arguments: tuple[Any, ...]
    members: Mapping[str, Any]

    @classmethod
    def of(cls, error: BaseException) -> Raised:
        """Take an exception apart, without its traceback and cause."""
        return cls(type(error), error.args, dict(vars(error)))

    def rebuilt(self) -> BaseException:
        """The exception."""
        error = self.cls.__new__(self.cls, *self.arguments)
        error.args = self.arguments
        vars(error).update(self.members)
        return error


class Computer(Protocol):
    """Makes runs on one machine; from any number of threads."""

    @property
    def machine(self) -> Machine:
        """What a run is made on."""

    def check_ready(self) -> None:
        """Raise :class:`NotReadyError` while runs have to wait."""

    def close(self) -> None:
        """Compute no more."""

    def vote_seconds(self) -> Mapping[str, float]:
        """Seconds of a vote by model id, measured now."""

    def compute(self, order: Order, cancellation: Cancellation, report: Report | None = None) -> Computed:
        """Make a run; looks at the cancellation between batches, and ends early with what it has if time is up.

        ``report`` is told how far it has come.

        Raises
        ------
        Cancelled
        CertificationError
            If the run cannot be made as planned.
        MemoryError
            If it fits in no size of batches.
        """


class LocalComputer:
    """Computes in this process, on the networks of a registry.

    Parameters
    ----------
    registry : Registry
        Loaded for ``device``.
    device : {"cpu", "cuda"}
    batch_size : int, optional
        As :class:`~service.settings.Settings` says.
    """

    def __init__(self, registry: Registry, device: str, batch_size: int | None = None) -> None:
        self.registry, self._batch_size = registry, batch_size
        self.machine = Machine.here(device)
        self._batches: dict[tuple[str, int], SharedBatches] = {}
        self._compiling = Compiling(warm_up_known_images)
        self._precedence = Precedence()
        self._lock = threading.Lock()

    def check_ready(self) -> None:
        """Always."""

    def close(self) -> None:
        """Nothing is held but memory."""

    def vote_seconds(self) -> Mapping[str, float]:
        """See :class:`Computer`."""
        return measured(self.registry, self.machine.device, self._batch_size)

    def compute(self, order: Order, cancellation: Cancellation, report: Report | None = None) -> Computed:
        """See :class:`Computer`."""
        while True:
            try:
                return self._compute(order, cancellation, report)
            except Exception as error:
                if not is_shortage(error):
                    raise
                smaller = order.replay.halved()
                if smaller is None:
                    raise MemoryError from error
                logger.warning("out of memory: %s goes on with batches of %d", order.model, smaller.batch_size)
            # Not in the handler, whose traceback holds on to the memory. The run begins again, so that all its votes
            # are of one classifier: logits can depend on the batch size.
            order = replace(order, replay=smaller)
            if self.machine.device == "cuda":
                torch.cuda.empty_cache()

    def _compute(self, order: Order, cancellation: Cancellation, report: Report | None) -> Computed:
        with self._precedence.turn(order.urgent_seconds, cancellation.check) as check:
            return self._in_turn(order, check, report)

    def _in_turn(self, order: Order, check: Callable[[], None], report: Report | None) -> Computed:
        model, plan, clock = self.registry.get(order.model), order.plan, StageClock(check)
        found: Outcome | Prediction
        if isinstance(plan, CertificationPlan):
            votes, limit = self._votes(model, order, check), order.replay.votes
            if limit is not None:
                drawn = plan.n0 + order.replay.bounded

                def stop() -> None:
                    check()
                    if votes.votes >= limit:
                        raise OutOfTime

                # Draws are taken before their bounds are found, where the time may have been up as well.
                votes.check, clock.check = stop, lambda: stop() if limit == 0 or votes.drawn > drawn else check()
            bounds = ImageErrorBounds(
                model, order.pixels, plan.attack_range, plan.image_is,
                BoundSettings(chunk_bytes=order.replay.bound_chunk_bytes), self.machine.device,
                self._bounding(model, plan, clock),
            )  # fmt: skip
            watch = unwatched if report is None else Watcher(report).attach(clock, votes)
            found = certify(plan, votes, bounds, clock.stage, watch)
        elif isinstance(plan, PredictPlan):
            found = predict(plan, self._votes(model, order, check), clock.stage)
        else:
            raise TypeError(f"no run for a {type(plan).__name__}")
        return Computed(found, order.replay, clock.seconds, clock.spans)

    def _bounding(self, model: LoadedModel, plan: CertificationPlan, clock: StageClock) -> Stage:
        """The clock's stages; those of a known image wait for its kernels, which compile longer than deadlines last."""
        if plan.image_is is not ImageIs.REFERENCE or not isinstance(model.operator, GaussianOperator):
            return clock.stage

        @contextmanager
        def stage(name: str) -> Iterator[None]:
            with clock.stage(name):
                self._compiling.wait(str(plan.transformation), clock.check)
                yield

        return stage

    def _votes(self, model: LoadedModel, order: Order, check: Callable[[], None]) -> BaseClassifierVotes:
        plan = order.plan
        return BaseClassifierVotes(
            model,
            order.pixels,
            plan.transformation,
            key=order.replay.key,
            device=self.machine.device,
            operator=model.measured_through(plan) if isinstance(plan, CertificationPlan) else model.operator,
            batches=self._shared(model, order.replay.batch_size),
            urgent_seconds=order.urgent_seconds,
            check=check,
        )

    def _shared(self, model: LoadedModel, batch_size: int) -> SharedBatches:
        """The forward passes of a model; one object for all runs with the same size of batches."""
        with self._lock:
            known = (model.card.id, batch_size)
            if known not in self._batches:
                self._batches[known] = SharedBatches(model.network, len(model.card.class_names), batch_size)
            return self._batches[known]


def load_here(settings: Settings) -> LocalComputer:
    """The models on a device of this process, its kernels compiled; raises ``CardError``, ``DeviceError``."""
    device = select_device(settings.device)
    registry = load_registry([settings.zoo], device)
    warm_up(device, {model.card.preprocessing.interpolation for model in registry.models.values()})
    return LocalComputer(registry, device, settings.batch_size)


def too_late(order: Order) -> Computed:
    """What comes of a run whose time is up before it begins."""
    plan = order.plan
    found = too_late_to_certify(plan) if isinstance(plan, CertificationPlan) else too_late_to_predict()
    return Computed(found, order.replay, StageClock().seconds)


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that the host's or the device's memory is out."""
    if isinstance(error, CudaAPIError):
        return bool(error.code == CUDA_SHORTAGE)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SHORTAGES)
