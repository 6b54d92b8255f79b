"""Jobs in the database: their tables, and the rows as the rest of the service sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, Float, ForeignKey, Integer, LargeBinary, String, Table, Text, UniqueConstraint

from .schemas import JobStatus
from .store import METADATA

JOBS = Table(
    "jobs",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("created", Float(53), nullable=False),
    Column("finished", Float(53)),
    Column("owner", String(64), nullable=False),
    Column("idempotency_key", String(255)),
    Column("digest", String(64), nullable=False),
    Column("recipe", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("last_event", Integer, nullable=False),
    UniqueConstraint("owner", "idempotency_key", name="jobs_idempotency"),
)
"""``last_event`` is the number of the newest event; whoever changes anything of a job updates this row first, which
locks it until the end of the transaction, so that events are seen in the order of their numbers."""
ITEMS = Table(
    "job_items",
    METADATA,
    Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("status", String(16), nullable=False),
    Column("image", LargeBinary),
    Column("noise_key", String(64)),
    Column("lease", String(64)),
    Column("lease_ends", Float(53)),
    Column("begun", Integer, nullable=False),
    Column("reply", Text),
    Column("problem", Text),
)
"""``image`` and ``noise_key`` are there until the item is finished; ``begun`` is how often it was begun and not given
back, so more than once only where servers ended in the middle of it."""
EVENTS = Table(
    "job_events",
    METADATA,
    Column("job_id", String(64), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("item", Integer),
    Column("kind", String(16), nullable=False),
    Column("data", Text, nullable=False),
)
UNFINISHED = (JobStatus.QUEUED, JobStatus.RUNNING)


class EventKind(StrEnum):
    """What is told of a job; the last three end it."""

    QUEUED = "queued"
    STAGE = "stage"
    PROGRESS = "progress"
    ITEM = "item"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({EventKind.DONE, EventKind.FAILED, EventKind.CANCELLED})


@dataclass(frozen=True)
class NewJob:
    """A job that was accepted, with the file and the noise key (hex) of each image; ``recipe`` is JSON."""

    id: str
    created: float
    owner: str
    idempotency_key: str | None
    digest: str
    recipe: str
    images: Sequence[tuple[bytes, str]]


@dataclass(frozen=True)
class StoredItem:
    """What is known of one image of a job; ``reply`` and ``problem`` are JSON."""

    number: int
    status: JobStatus
    reply: str | None
    problem: str | None


@dataclass(frozen=True)
class StoredJob:
    """What is known of a job; times in seconds since 1970."""

    id: str
    created: float
    finished: float | None
    status: JobStatus
    last_event: int
    items: Sequence[StoredItem]


@dataclass(frozen=True)
class Lease:
    """An item that was taken, with the secret word that proves it; ``begun``: the how manieth time."""

    job_id: str
    number: int
    word: str
    owner: str
    recipe: str
    image: bytes
    noise_key: str
    begun: int


@dataclass(frozen=True)
class Event:
    """One event of a job; ``data`` is JSON, or what becomes it."""

    number: int
    kind: EventKind
    data: str


@dataclass(frozen=True)
class NewEvent:
    """One that has no number yet."""

    kind: EventKind
    data: dict[str, Any]
    item: int | None = None
