"""Jobs of one server: accepted, looked at, cancelled and followed; ``job_runner`` computes them."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from certification.plan import CertificationPlan

from .access import Accounts
from .certifier import Task
from .engine import Engine
from .errors import DrainingError, IdempotencyError, JobsDisabledError, OverloadedError, RecordsUnavailableError
from .job_events import Bells, follow
from .job_recipe import Recipe
from .job_runner import JobRunner
from .job_store import JobStore, too_many, unknown
from .job_tables import Event, NewJob, StoredJob
from .lifecycle import Lifecycle
from .metrics import Metrics
from .records import RETENTION_BATCH, RETENTION_SECONDS, SECONDS_A_DAY, Records
from .schemas import CertifyReply, JobItemReply, JobReply, JobStatus, Problem
from .settings import Settings

logger = logging.getLogger("surety")

T = TypeVar("T")
ID_BYTES = 16
ID = re.compile(r"[0-9a-f]{32}")
THREADS = 4
"""For what requests ask of the database, and as many for the followers of events, who wait for their turn."""
COUNTING_SECONDS = 5.0
MOST_FOLLOWERS, FOLLOWERS_RETRY_SECONDS = 100, 30
"""Streams of events that are open for one owner at once; each asks the database every second."""


class Jobs:
    """What routes ask of jobs, on the event loop.

    Parameters
    ----------
    settings, metrics
    requests : Engine
        Of interactive requests, which jobs give way to.
    lifecycle, records
    accounts : Accounts or None
        Whom the votes are charged to, where there are API keys.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics, requests: Engine, lifecycle: Lifecycle, records: Records,
        accounts: Accounts | None,
    ) -> None:  # fmt: skip
        self._settings, self._metrics, self._records, self._accounts = settings, metrics, records, accounts
        self._bells = Bells()
        self._runner = JobRunner(
            settings, metrics, requests, lifecycle, records, accounts, lambda: self.store, self._bells
        )
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="jobs")
        self._reading = ThreadPoolExecutor(THREADS, thread_name_prefix="job-events")
        self._keeping: asyncio.Task[None] | None = None
        self._draining = False
        self._followers: Counter[str] = Counter()

    @property
    def store(self) -> JobStore:
        """The database; raises :class:`JobsDisabledError`."""
        if self._records.store is None:
            raise JobsDisabledError("this server keeps no records, and so no jobs: ask /v1/certify")
        return JobStore(self._records.store)

    @property
    def idle(self) -> bool:
        """Whether nothing is computed."""
        return self._runner.idle

    def start(self) -> None:
        """Begin to work."""
        if self._settings.records != "off":
            self._runner.start()
            self._keeping = asyncio.create_task(self._keep_house())

    def drain(self) -> None:
        """Give back what is computed, and end all streams; again and again, if need be."""
        self._draining = True
        self._runner.drain()
        self._bells.ring_all()

    async def close(self) -> None:
        """Drain, and let go of threads."""
        self.drain()
        await self._runner.close()
        if self._keeping is not None:
            self._keeping.cancel()
        for threads in (self._threads, self._reading):
            threads.shutdown(wait=False, cancel_futures=True)

    async def known(self, owner: str, key: str | None, digest: str) -> JobReply | None:
        """The job that an idempotency key has made already.

        Raises
        ------
        IdempotencyError
            If the key came with another request.
        JobLimitError
            If there is none, and no room for a further one.
        """
        found = None if key is None else await self._call(partial(self.store.find, owner, key))
        if found is not None:
            job_id, before = found
            if before != digest:
                raise IdempotencyError("this Idempotency-Key was sent with other fields or images before")
            return await self.get(job_id, owner)
        if await self._call(partial(self.store.unfinished, owner)) >= self._settings.max_unfinished_jobs:
            raise too_many(self._settings.max_unfinished_jobs)
        return None

    async def submit(
        self, owner: str, key: str | None, digest: str, tasks: Sequence[Task[CertificationPlan]],
        deadline_ms: int | None,
    ) -> JobReply:  # fmt: skip
        """Accept a job: it survives whatever happens once this returns; raises as :meth:`known`."""
        if self._draining:
            raise DrainingError("the server is shutting down and takes no new work", retry_after_seconds=5)
        job = NewJob(
            id=secrets.token_hex(ID_BYTES),
            created=time.time(),
            owner=owner,
            idempotency_key=key,
            digest=digest,
            recipe=Recipe.of(tasks[0], deadline_ms).model_dump_json(),
            images=[(task.upload, task.replay.key.hex()) for task in tasks],
        )
        while not await self._call(partial(self.store.add, job, self._settings.max_unfinished_jobs)):
            # another request with the same key was faster
            made = await self.known(owner, key, digest)
            if made is not None:
                return made
        self._runner.wake()
        return await self.get(job.id, owner)

    async def get(self, job_id: str, owner: str) -> JobReply:
        """A job and what came of it; raises :class:`UnknownJobError`."""
        store = self._store_with(job_id)
        return await self._call(lambda: _reply(store.get(job_id, owner)))

    async def cancel(self, job_id: str, owner: str) -> JobReply:
        """End a job, if it is not over, and stop its work; raises :class:`UnknownJobError`."""
        await self._call(partial(self._store_with(job_id).cancel, job_id, owner))
        self._runner.forget(job_id)
        self._bells.ring(job_id)
        return await self.get(job_id, owner)

    async def head(self, job_id: str, owner: str) -> tuple[JobStatus, int]:
        """Status and newest event; raises :class:`UnknownJobError`."""
        return await self._call(partial(self._store_with(job_id).head, job_id, owner))

    def follow(self, job_id: str, after: int, owner: str) -> AsyncIterator[bytes]:
        """The events of a job; raises :class:`OverloadedError` if its owner follows too many already."""
        if self._followers[owner] >= MOST_FOLLOWERS:
            raise OverloadedError(
                f"{MOST_FOLLOWERS} streams of events are open already", retry_after_seconds=FOLLOWERS_RETRY_SECONDS
            )

        async def read(after: int, most: int) -> list[Event]:
            asked = partial(self.store.events, job_id, after, most)
            return await asyncio.get_running_loop().run_in_executor(self._reading, asked)

        async def counted() -> AsyncIterator[bytes]:
            self._followers[owner] += 1
            try:
                async for message in follow(job_id, after, read, self._bells, lambda: self._draining):
                    yield message
            finally:
                self._followers[owner] -= 1

        return counted()

    def _store_with(self, job_id: str) -> JobStore:
        """The database, if this can be an id in it; raises :class:`UnknownJobError`."""
        store = self.store
        if not ID.fullmatch(job_id):
            raise unknown()
        return store

    async def _keep_house(self) -> None:
        """Count jobs, and end or delete old ones."""
        trimmed = -RETENTION_SECONDS
        while True:
            with suppress(RecordsUnavailableError, JobsDisabledError):  # tried again
                jobs, waiting = await self._call(lambda: self.store.counts())
                for status, count in jobs.items():
                    self._metrics.jobs.labels(status).set(count)
                self._metrics.job_items_waiting.set(waiting)
                days = self._settings.jobs_max_days
                if days is not None and time.monotonic() - trimmed >= RETENTION_SECONDS:
                    before = time.time() - SECONDS_A_DAY * days
                    await self._cancel_abandoned(before)
                    while await self._call(partial(self.store.trim, before, RETENTION_BATCH)):
                        pass
                    trimmed = time.monotonic()
            await asyncio.sleep(COUNTING_SECONDS)

    async def _cancel_abandoned(self, before: float) -> None:
        """Cancel what is as old as a finished job may get, and whose key is not valid: nobody will compute it."""
        if self._accounts is None:
            return
        abandoned = partial(self.store.abandoned, before, list(self._accounts.keyring.entries))
        for job_id, owner in await self._call(abandoned):
            logger.warning("the key %r is not valid: its old job %s is cancelled", owner, job_id)
            await self.cancel(job_id, owner)

    async def _call(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _reply(job: StoredJob) -> JobReply:
    return JobReply(
        id=job.id,
        status=job.status,
        created=_utc(job.created),
        finished=None if job.finished is None else _utc(job.finished),
        last_event_id=job.last_event,
        items=[
            JobItemReply(
                item=one.number,
                status=one.status,
                reply=None if one.reply is None else CertifyReply.model_validate_json(one.reply),
                problem=None if one.problem is None else Problem.model_validate_json(one.problem),
            )
            for one in job.items
        ],
    )


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
