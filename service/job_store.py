"""Every change of a job, each in one transaction, with the events that tell of it; never on the event loop.

An item is taken with a lease that must be renewed; what was taken by a server that ended can be taken again once the
lease is over, and whoever lost a lease can no longer write. The clock is the database's, so servers need not agree.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from sqlalchemy import ColumnElement, Connection, and_, case, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from .errors import JobLimitError, UnknownJobError
from .job_tables import (
    EVENTS,
    ITEMS,
    JOBS,
    UNFINISHED,
    Event,
    EventKind,
    Lease,
    NewEvent,
    NewJob,
    StoredItem,
    StoredJob,
)
from .schemas import JobStatus
from .store import CERTIFICATES, Record, Store

WORD_BYTES = 16
FULL_SECONDS = 10
"""After which a client may try again where too many jobs are unfinished."""


class LeaseLost(Exception):
    """Somebody else has the item now, or nobody shall: it was cancelled."""


class JobStore:
    """Jobs beside the certificates."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, job: NewJob, most: int) -> bool:
        """Store a job; False if its owner has one with this idempotency key already.

        Raises
        ------
        JobLimitError
            If ``most`` jobs of its owner are unfinished already.
        """
        try:
            with self._store.transaction() as connection:
                connection.execute(
                    insert(JOBS).values(
                        id=job.id, created=job.created, owner=job.owner, idempotency_key=job.idempotency_key,
                        digest=job.digest, recipe=job.recipe, status=JobStatus.QUEUED, last_event=0,
                    )
                )  # fmt: skip
                if _unfinished(connection, job.owner) > most:
                    raise too_many(most)
                rows = [
                    {
                        "job_id": job.id,
                        "number": i,
                        "status": JobStatus.QUEUED,
                        "image": image,
                        "noise_key": key,
                        "begun": 0,
                    }
                    for i, (image, key) in enumerate(job.images)
                ]
                connection.execute(insert(ITEMS), rows)
                _tell(connection, job.id, [NewEvent(EventKind.QUEUED, {"images": len(rows)})])
        except IntegrityError:
            return False
        return True

    def find(self, owner: str, idempotency_key: str) -> tuple[str, str] | None:
        """Id and request digest of the owner's job with this key."""
        with self._store.transaction() as connection:
            row = connection.execute(
                select(JOBS.c.id, JOBS.c.digest).where(JOBS.c.owner == owner, JOBS.c.idempotency_key == idempotency_key)
            ).one_or_none()
        return None if row is None else (row.id, row.digest)

    def get(self, job_id: str, owner: str) -> StoredJob:
        """A job of this owner; raises :class:`UnknownJobError`."""
        with self._store.transaction() as connection:
            row = connection.execute(select(JOBS).where(JOBS.c.id == job_id, JOBS.c.owner == owner)).one_or_none()
            if row is None:
                raise unknown()
            columns = (ITEMS.c.number, ITEMS.c.status, ITEMS.c.reply, ITEMS.c.problem)
            items = connection.execute(select(*columns).where(ITEMS.c.job_id == job_id).order_by(ITEMS.c.number)).all()
        found = [StoredItem(one.number, JobStatus(one.status), one.reply, one.problem) for one in items]
        return StoredJob(row.id, row.created, row.finished, JobStatus(row.status), row.last_event, found)

    def head(self, job_id: str, owner: str) -> tuple[JobStatus, int]:
        """Status, and the newest event's number; raises :class:`UnknownJobError`."""
        with self._store.transaction() as connection:
            columns = select(JOBS.c.status, JOBS.c.last_event)
            row = connection.execute(columns.where(JOBS.c.id == job_id, JOBS.c.owner == owner)).one_or_none()
        if row is None:
            raise unknown()
        return JobStatus(row.status), row.last_event

    def events(self, job_id: str, after: int, most: int) -> list[Event]:
        """The next events; raises :class:`UnknownJobError` where there are none and no such job."""
        asked = select(EVENTS).where(EVENTS.c.job_id == job_id, EVENTS.c.number > after)
        with self._store.transaction() as connection:
            rows = connection.execute(asked.order_by(EVENTS.c.number).limit(most)).all()
            if not rows and connection.execute(select(JOBS.c.id).where(JOBS.c.id == job_id)).one_or_none() is None:
                raise unknown()
        return [Event(row.number, EventKind(row.kind), row.data) for row in rows]

    def take(self, seconds: float, owners: Collection[str] | None = None, after: str = "") -> Lease | None:
        """The next item that waits, or whose lease is over, of one of these owners; it is ours for so long.

        Owners (None: all) have their turns in the order of their names, beginning with the first one ``after`` that of
        the last turn; of one owner, the oldest job is first.
        """
        now = self._store.now
        free = or_(
            ITEMS.c.status == JobStatus.QUEUED, and_(ITEMS.c.status == JobStatus.RUNNING, ITEMS.c.lease_ends < now)
        )
        first = select(ITEMS.c.job_id, ITEMS.c.number).join(JOBS).where(free)
        if owners is not None:
            first = first.where(JOBS.c.owner.in_(owners))
        turn = case((JOBS.c.owner > after, 0), else_=1)
        first = first.order_by(turn, JOBS.c.owner, JOBS.c.created, JOBS.c.id, ITEMS.c.number).limit(1)
        word = secrets.token_hex(WORD_BYTES)
        while True:
            with self._store.transaction() as connection:
                row = connection.execute(first).one_or_none()
            if row is None:
                return None
            with self._store.transaction() as connection:
                _lock(connection, row.job_id)
                this = and_(ITEMS.c.job_id == row.job_id, ITEMS.c.number == row.number)
                taken = connection.execute(
                    update(ITEMS).where(this, free).values(
                        status=JobStatus.RUNNING, lease=word, lease_ends=now + seconds, begun=ITEMS.c.begun + 1
                    )
                ).rowcount  # fmt: skip
                if not taken:
                    continue  # another server was faster
                connection.execute(update(JOBS).where(JOBS.c.id == row.job_id).values(status=JobStatus.RUNNING))
                item = connection.execute(select(ITEMS, JOBS.c.owner, JOBS.c.recipe).join(JOBS).where(this)).one()
                if item.begun > 1:
                    _tell(connection, row.job_id, [_queued(row.number)])
                return Lease(
                    row.job_id, row.number, word, item.owner, item.recipe, item.image, item.noise_key, item.begun
                )

    def renew(self, lease: Lease, seconds: float, news: Sequence[NewEvent] = ()) -> None:
        """Keep an item for so long from now on, and tell what is new of it; raises :class:`LeaseLost`."""
        with self._held(lease) as connection:
            connection.execute(update(ITEMS).where(_item(lease)).values(lease_ends=self._store.now + seconds))
            _tell(connection, lease.job_id, news)

    def give_back(self, lease: Lease) -> None:
        """Let anybody take an item from its beginning; raises :class:`LeaseLost`."""
        with self._held(lease) as connection:
            given = {"status": JobStatus.QUEUED, "lease": None, "lease_ends": None, "begun": ITEMS.c.begun - 1}
            connection.execute(update(ITEMS).where(_item(lease)).values(given))
            _forget_progress(connection, lease)
            _tell(connection, lease.job_id, [_queued(lease.number)])

    def finish(
        self,
        lease: Lease,
        news: Sequence[NewEvent],
        *,
        reply: str | None = None,
        problem: str | None = None,
        record: Record | None = None,
    ) -> JobStatus | None:
        """Keep what came of an item, with its certificate; the job's status if that was its last one.

        Raises
        ------
        LeaseLost
            And then nothing was written.
        """
        status = JobStatus.FAILED if reply is None else JobStatus.DONE
        with self._held(lease) as connection:
            if record is not None:
                connection.execute(insert(CERTIFICATES).values(asdict(record)))
            connection.execute(
                update(ITEMS).where(_item(lease)).values({**_over(status), "reply": reply, "problem": problem})
            )
            _forget_progress(connection, lease)
            _tell(connection, lease.job_id, news)
            counts = _counts(connection, lease.job_id)
            if any(counts[one] for one in UNFINISHED):
                return None
            return _end(connection, lease.job_id, JobStatus.DONE if counts[JobStatus.DONE] else JobStatus.FAILED)

    def cancel(self, job_id: str, owner: str) -> bool:
        """End an unfinished job; whether it was. Raises :class:`UnknownJobError`."""
        mine = and_(JOBS.c.id == job_id, JOBS.c.owner == owner)
        with self._store.transaction() as connection:
            _lock(connection, job_id)
            status = connection.execute(select(JOBS.c.status).where(mine)).scalar_one_or_none()
            if status is None:
                raise unknown()
            if status not in UNFINISHED:
                return False
            unfinished = and_(ITEMS.c.job_id == job_id, ITEMS.c.status.in_(UNFINISHED))
            connection.execute(update(ITEMS).where(unfinished).values(_over(JobStatus.CANCELLED)))
            _end(connection, job_id, JobStatus.CANCELLED)
        return True

    def abandoned(self, before: float, owners: Collection[str]) -> list[tuple[str, str]]:
        """Ids and owners of the unfinished jobs that were accepted before a time for none of these owners."""
        asked = select(JOBS.c.id, JOBS.c.owner).where(JOBS.c.status.in_(UNFINISHED), JOBS.c.created < before)
        with self._store.transaction() as connection:
            return [(row.id, row.owner) for row in connection.execute(asked.where(JOBS.c.owner.not_in(owners)))]

    def trim(self, before: float, most: int) -> int:
        """Delete at most so many of the jobs that had finished before a time; returns how many."""
        old = select(JOBS.c.id).where(JOBS.c.finished < before).order_by(JOBS.c.finished).limit(most)
        with self._store.transaction() as connection:
            return connection.execute(delete(JOBS).where(JOBS.c.id.in_(old))).rowcount

    def counts(self) -> tuple[dict[JobStatus, int], int]:
        """Jobs by status, and the number of items that wait."""
        with self._store.transaction() as connection:
            rows = connection.execute(select(JOBS.c.status, func.count()).group_by(JOBS.c.status)).all()
            waiting = select(func.count()).select_from(ITEMS).where(ITEMS.c.status == JobStatus.QUEUED)
            return _by_status(rows), connection.execute(waiting).scalar_one()

    def unfinished(self, owner: str) -> int:
        """How many jobs of an owner are."""
        with self._store.transaction() as connection:
            return _unfinished(connection, owner)

    @contextmanager
    def _held(self, lease: Lease) -> Iterator[Connection]:
        """A transaction that holds the lease's job; raises :class:`LeaseLost`."""
        with self._store.transaction() as connection:
            _lock(connection, lease.job_id)
            mine = select(ITEMS.c.number).where(_item(lease), ITEMS.c.lease == lease.word)
            if connection.execute(mine).one_or_none() is None:
                raise LeaseLost
            yield connection


def unknown() -> UnknownJobError:
    """What to raise for a job that is not there, or another key's: the two are not told apart."""
    return UnknownJobError("no such job: it never was here, is another key's, or was deleted")


def too_many(most: int) -> JobLimitError:
    """What to raise where no further job is taken."""
    return JobLimitError(
        f"{most} jobs are unfinished; try again in {FULL_SECONDS} s", maximum=most, retry_after_seconds=FULL_SECONDS
    )


def _lock(connection: Connection, job_id: str) -> None:
    """Let nobody else change this job until the transaction's end (PostgreSQL: the row; SQLite: the file)."""
    connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(last_event=JOBS.c.last_event))


def _item(lease: Lease) -> ColumnElement[bool]:
    return and_(ITEMS.c.job_id == lease.job_id, ITEMS.c.number == lease.number)


def _over(status: JobStatus) -> dict[str, object]:
    """What a finished item no longer needs is deleted."""
    return {"status": status, "image": None, "noise_key": None, "lease": None, "lease_ends": None}


def _queued(number: int) -> NewEvent:
    return NewEvent(EventKind.QUEUED, {}, number)


def _tell(connection: Connection, job_id: str, news: Sequence[NewEvent]) -> None:
    """Number events and store them; the job is locked."""
    if not news:
        return
    raised = update(JOBS).where(JOBS.c.id == job_id).values(last_event=JOBS.c.last_event + len(news))
    first = connection.execute(raised.returning(JOBS.c.last_event)).scalar_one() - len(news) + 1
    for number, one in enumerate(news, first):
        data = one.data if one.item is None else {"item": one.item, **one.data}
        row = {"job_id": job_id, "number": number, "item": one.item, "kind": one.kind, "data": json.dumps(data)}
        connection.execute(insert(EVENTS).values(row))


def _forget_progress(connection: Connection, lease: Lease) -> None:
    """What an item has shown on its way is of no use once it is over, or begins anew."""
    of_item = and_(EVENTS.c.job_id == lease.job_id, EVENTS.c.item == lease.number)
    connection.execute(delete(EVENTS).where(of_item, EVENTS.c.kind == EventKind.PROGRESS))


def _end(connection: Connection, job_id: str, status: JobStatus) -> JobStatus:
    """Give a job its last status and its last event."""
    connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(status=status, finished=time.time()))
    counts = {str(name): count for name, count in _counts(connection, job_id).items()}
    _tell(connection, job_id, [NewEvent(EventKind(status), {"counts": counts})])
    return status


def _counts(connection: Connection, job_id: str) -> dict[JobStatus, int]:
    asked = select(ITEMS.c.status, func.count()).where(ITEMS.c.job_id == job_id).group_by(ITEMS.c.status)
    return _by_status(connection.execute(asked).all())


def _by_status(rows: Iterable[Sequence[object]]) -> dict[JobStatus, int]:
    found = {str(status): count for status, count in rows}
    return {status: int(str(found.get(status, 0))) for status in JobStatus}


def _unfinished(connection: Connection, owner: str) -> int:
    of_owner = and_(JOBS.c.owner == owner, JOBS.c.status.in_(UNFINISHED))
    return connection.execute(select(func.count()).select_from(JOBS).where(of_owner)).scalar_one()
