"""A computer behind a queue of its own, for orders from other processes; nothing here knows how they are sent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from certification.vocabulary import CertificationError
from models.registry import Registry

from .computing import Computed, Computer, Machine, Order, Raised
from .engine import Cancellation, Engine
from .errors import RequestError, VoteEnginesError
from .progress import INTERVAL, News, Progress, Report
from .settings import Settings


@dataclass(frozen=True)
class Facts:
    """What an edge must know of a vote engine: see :class:`~service.computing.Computer`."""

    machine: Machine
    vote_seconds: dict[str, float]


@dataclass(frozen=True)
class Answer:
    """What came of an order, and when: a time of the monotonic clock where it was made."""

    found: Computed | Raised
    at: float

    def taken(self, now: float) -> Computed:
        """The run, its spans as times of another host's clock, on which it is ``now``; raises what was refused."""
        if isinstance(self.found, Raised):
            raise self.found.rebuilt()
        later = now - self.at
        spans = {name: (begun + later, ended + later) for name, (begun, ended) in self.found.spans.items()}
        return replace(self.found, spans=spans)


class VoteEngine:
    """Computes orders in the lanes of an :class:`~service.engine.Engine`; its methods run on one event loop.

    An order comes with the seconds that are left of it, since clocks of hosts differ. Whoever cancels the coroutine
    stops the run at its next batch.

    Parameters
    ----------
    registry : Registry
    computer : Computer
        For the same models.
    settings : Settings
    """

    def __init__(self, registry: Registry, computer: Computer, settings: Settings) -> None:
        self._registry, self._computer = registry, computer
        self._facts = Facts(computer.machine, dict(computer.vote_seconds()))
        self._engine = Engine(
            settings.max_running, settings.max_queue_seconds, short_seconds=settings.short_seconds,
            patience=settings.patience_seconds,
        )  # fmt: skip

    async def describe(self) -> Facts:
        """What does not change."""
        return self._facts

    async def watch(self, order: Order, seconds_left: float) -> AsyncIterator[News | Answer]:
        """As :meth:`compute`, whose answer comes last; how far the run has come is told before."""
        progress = Progress()
        run = asyncio.create_task(self.compute(order, seconds_left, progress))
        try:
            while not run.done():
                await asyncio.wait([run], timeout=INTERVAL)
                news = progress.news()
                for one in news:
                    yield one
                progress.told(news)
            yield await run
        finally:
            run.cancel()

    async def compute(self, order: Order, seconds_left: float, report: Report | None = None) -> Answer:
        """Make a run; refusals are part of the answer, errors that nobody foresaw are raised."""
        # What another process has sent cannot be written to, and would be copied for each kernel.
        order = replace(order, pixels=order.pixels.copy())
        try:
            self._check_model(order)
            found: Computed | Raised = await self._engine.run(
                lambda cancellation: self._make(order, cancellation, report), _never,
                seconds=order.seconds, short=order.urgent_seconds > 0, deadline=time.monotonic() + seconds_left,
            )  # fmt: skip
        except (CertificationError, RequestError, MemoryError) as error:
            found = Raised.of(error)
        return Answer(found, time.monotonic())

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What the number of engines follows; the name is Ray Serve's."""
        return {"backlog_seconds": self._engine.backlog_seconds}

    def _make(self, order: Order, cancellation: Cancellation, report: Report | None) -> Computed:
        """Make a run; on a thread."""
        return self._computer.compute(order, cancellation, report)

    def _check_model(self, order: Order) -> None:
        here = self._registry.models.get(order.model)
        if here is None or here.digest != order.digest:
            raise VoteEnginesError(
                f"the vote engines have another version of {order.model} than this server: they are being updated",
                retry_after_seconds=10,
            )


async def _never() -> None:
    """Orders are given up by cancelling their coroutine."""
    await asyncio.Event().wait()
