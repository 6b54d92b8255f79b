"""Computes the images of jobs, one a slot: takes, keeps the lease, certifies, writes what came of it."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from .access import Accounts
from .certifier import Certifier
from .engine import Cancellation, Engine
from .errors import (
    INTERNAL,
    ClientGoneError,
    DeviceFailedError,
    DrainingError,
    EnginesDiedError,
    GivenUpError,
    NotReadyError,
    OverloadedError,
    RecordsUnavailableError,
    VoteEnginesError,
    kind_of,
    problem_document,
)
from .job_events import Bells
from .job_recipe import Recipe
from .job_store import JobStore, LeaseLost
from .job_tables import EventKind, Lease, NewEvent
from .lifecycle import Lifecycle
from .metrics import Metrics
from .progress import INTERVAL, News, Progress
from .records import Records
from .schemas import CertifyReply, JobStatus
from .settings import Settings
from .store import Record

logger = logging.getLogger("surety")


T = TypeVar("T")
POLL_SECONDS = 1.0
"""Between two looks for jobs that other servers accepted or lost."""
GIVING_WAY = 0.1
"""Seconds between two looks whether requests wait, before an image is begun."""
RENEWALS = 4
"""A lease is renewed so often before it would end."""
MOST_BEGUN = 5
"""So often an image is begun whose server ended in the middle: it may be why."""
CLOSING_SECONDS = 5.0
TEMPORARY = (NotReadyError, OverloadedError, VoteEnginesError)
"""What computes refuses for now: an image that was accepted is tried again."""
TEMPORARY_SECONDS = 60.0
"""For so long, before the next one has its turn."""
TOLD = {"label", "class_name", "abstained", "radius", "radius_unit", "p_lower", "certificate_id"}


@dataclass(frozen=True)
class Result:
    """What came of an image: a reply and its record, or a problem."""

    reply: CertifyReply | None
    record: Record | None
    problem: dict[str, Any] | None

    @property
    def status(self) -> JobStatus:
        """How the image ended."""
        return JobStatus.FAILED if self.reply is None else JobStatus.DONE

    @property
    def told(self) -> dict[str, Any]:
        """The event of it: what matters most; the whole reply is in the job."""
        if self.reply is None:
            return {"status": self.status, "problem": self.problem}
        return {"status": self.status, **self.reply.model_dump(mode="json", include=TOLD)}


@dataclass(frozen=True, eq=False)
class Held:
    """An image that is ours: how far it has come, whether it shall stop, and who tells of it now."""

    lease: Lease
    progress: Progress = field(default_factory=Progress)
    given_up: asyncio.Event = field(default_factory=asyncio.Event)
    telling: asyncio.Lock = field(default_factory=asyncio.Lock)

    def events(self, news: list[News]) -> list[NewEvent]:
        """What is told."""
        return [NewEvent(EventKind(kind), data, self.lease.number) for kind, data in news]


class JobRunner:
    """The workers of one server; all but the computing itself happens on the event loop.

    They have threads of their own, so that no request waits for a slot that a job has.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics, requests: Engine, lifecycle: Lifecycle, records: Records,
        accounts: Accounts | None, store: Callable[[], JobStore], bells: Bells,
    ) -> None:  # fmt: skip
        self._settings, self._metrics, self._requests = settings, metrics, requests
        self._lifecycle, self._records, self._accounts = lifecycle, records, accounts
        self._store, self._bells = store, bells
        self._engine = Engine(settings.job_slots, math.inf)
        metrics.observe_jobs(self._engine)
        self._threads = ThreadPoolExecutor(2 * settings.job_slots + 1, thread_name_prefix="jobs")
        self._tasks: list[asyncio.Task[None]] = []
        self._held: set[Held] = set()
        self._served = ""  # the owner whose turn was last
        self._stopping, self._waiting = asyncio.Event(), asyncio.Event()

    @property
    def idle(self) -> bool:
        """Whether no image is held."""
        return not self._held

    def start(self) -> None:
        """Begin to work, as soon as there are models."""
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._settings.job_slots)]

    def wake(self) -> None:
        """Say that an item waits."""
        self._waiting.set()

    def forget(self, job_id: str) -> None:
        """Stop what is computed of a job, at the next batch."""
        for held in self._held:
            if held.lease.job_id == job_id:
                held.given_up.set()

    def drain(self) -> None:
        """Take nothing any more and give back what is held."""
        self._stopping.set()
        self._waiting.set()
        for held in self._held:
            held.given_up.set()

    async def close(self) -> None:
        """Drain, and let go of the threads."""
        self.drain()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSING_SECONDS)
            for task in late:
                task.cancel()
        self._engine.abort()
        self._engine.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        while not self._stopping.is_set():
            lease = None
            try:
                certifier = self._lifecycle.certifier
                self._waiting.clear()
                # The work of a key that is not known here stays: another server may have read a newer file of keys.
                owners = None if self._accounts is None else self._accounts.unspent
                take = partial(self._store().take, self._settings.job_lease_seconds, owners, self._served)
                lease = await self._call(take)
                if lease is not None:
                    self._served = lease.owner
                    await self._attempt(certifier, lease)
            except (NotReadyError, RecordsUnavailableError):
                lease = None  # told where it happened; the next look tries again
            except Exception:
                logger.exception("a worker of jobs failed")
            if lease is None:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._waiting.wait(), POLL_SECONDS)

    async def _attempt(self, certifier: Certifier, lease: Lease) -> None:
        """Compute one image, and keep its lease until what came of it is written."""
        held = Held(lease)
        if self._stopping.is_set():
            held.given_up.set()
        self._held.add(held)
        keeping = asyncio.create_task(self._keep(held))
        try:
            result = await self._compute(certifier, held)
            if result is None:
                await self._call(partial(self._store().give_back, lease))
            else:
                await self._write(held, result)
        except LeaseLost:
            pass  # cancelled, or taken over: it is no longer ours to tell
        finally:
            keeping.cancel()
            self._held.discard(held)
            self._bells.ring(lease.job_id)

    async def _keep(self, held: Held) -> None:
        """Renew a lease, and tell how far its image has come."""
        seconds = self._settings.job_lease_seconds
        renewed = time.monotonic()
        while True:
            await asyncio.sleep(min(INTERVAL, seconds / RENEWALS))
            async with held.telling:
                news = held.progress.news()
                if not news and time.monotonic() - renewed < seconds / RENEWALS:
                    continue
                try:
                    await self._call(partial(self._store().renew, held.lease, seconds, held.events(news)))
                except LeaseLost:
                    held.given_up.set()
                    return
                except RecordsUnavailableError:
                    continue
                renewed = time.monotonic()
                held.progress.told(news)
            self._bells.ring(held.lease.job_id)

    async def _compute(self, certifier: Certifier, held: Held) -> Result | None:
        """What came of an image; None if it was given up."""
        patience = time.monotonic() + self._settings.patience_seconds
        while self._requests.waiting and time.monotonic() < patience and not held.given_up.is_set():
            await asyncio.sleep(GIVING_WAY)

        async def abandoned() -> None:
            await held.given_up.wait()

        try:
            if held.lease.begun > MOST_BEGUN:
                raise GivenUpError(f"servers ended {MOST_BEGUN} times in the middle of it")
            gives_back = time.monotonic() + TEMPORARY_SECONDS
            while True:
                try:
                    return await self._engine.run(partial(self._certify, certifier, held), abandoned)
                except TEMPORARY as error:
                    seconds = error.members.get("retry_after_seconds")
                    if seconds is None or isinstance(error, EnginesDiedError):
                        raise
                    logger.info("image %d of job %s waits: %s", held.lease.number, held.lease.job_id, error)
                with suppress(TimeoutError):
                    await asyncio.wait_for(held.given_up.wait(), seconds)
                    return None
                if time.monotonic() >= gives_back:
                    return None  # others have their turn
        except (ClientGoneError, DrainingError):
            return None
        except Exception as error:
            if kind_of(error) is INTERNAL:
                logger.exception("an image of a job failed")
            return Result(None, None, problem_document(error, f"/v1/jobs/{held.lease.job_id}"))

    def _certify(self, certifier: Certifier, held: Held, cancellation: Cancellation) -> Result:
        """Compute a certificate and sign it; on a thread."""
        recipe = Recipe.model_validate_json(held.lease.recipe)
        task = recipe.task(certifier, held.lease.image, bytes.fromhex(held.lease.noise_key))
        task = replace(task, short=False)  # nobody waits for it, so that it goes before no request
        if recipe.deadline_ms is not None:
            cancellation.deadline = time.monotonic() + recipe.deadline_ms / 1000.0
        while True:
            try:
                task, reply = certifier.certify(task, cancellation, held.progress)
                break
            except DeviceFailedError:
                # Begun again once the device is there; the second failure makes it a poisoned one.
                logger.warning("the device failed under image %d of job %s", held.lease.number, held.lease.job_id)
        cancellation.check_wanted()
        record = self._records.sign(task, reply, certifier.machine)
        return Result(reply.model_copy(update={"certificate_id": record.id}), record, None)

    async def _write(self, held: Held, result: Result) -> None:
        """Keep what came of an image, however long the database is away; raises :class:`LeaseLost`."""
        item = NewEvent(EventKind.ITEM, result.told, held.lease.number)
        reply = None if result.reply is None else result.reply.model_dump_json()
        problem = None if result.problem is None else json.dumps(result.problem)
        while True:
            async with held.telling:
                stages = [one for one in held.progress.news() if one[0] == EventKind.STAGE]
                news = [*held.events(stages), item]
                finish = partial(
                    self._store().finish, held.lease, news, reply=reply, problem=problem, record=result.record
                )
                with suppress(RecordsUnavailableError):
                    await self._call(finish)
                    break
            if self._stopping.is_set():
                return  # whoever takes it over finds the same
            await asyncio.sleep(POLL_SECONDS)
        self._metrics.job_items.labels(result.status).inc()
        if result.reply is not None:
            self._metrics.records.labels("stored").inc()
            key = None if self._accounts is None else self._accounts.keyring.entries.get(held.lease.owner)
            if self._accounts is not None and key is not None:
                self._accounts.charge(key, result.reply.counts.votes)

    async def _call(self, work: Callable[[], T]) -> T:
        """Use the database, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
