"""Events of a job as a client sees them (docs/jobs.md): one class for each kind, told apart by ``kind``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from .schemas import JobStatus, Problem, Reply


class Event(Reply):
    """Base of all events."""

    id: int | None = Field(default=None, description="Number, to go on after it; null where it has none.")


class QueuedEvent(Event):
    """The job was accepted (``images``), or one image begins again (``item``)."""

    kind: Literal["queued"] = "queued"
    images: int | None = None
    item: int | None = None


class StageEvent(Event):
    """A stage of an image began for the first time."""

    kind: Literal["stage"] = "stage"
    item: int
    stage: str


class ProgressEvent(Event):
    """How far an image has come; what is shown holds already."""

    kind: Literal["progress"] = "progress"
    item: int
    stage: str | None
    votes: int
    p_lower: float | None
    radius: float | None


class ItemEvent(Event):
    """An image is over: what matters most of its answer, or why there is none."""

    kind: Literal["item"] = "item"
    item: int
    status: JobStatus
    certificate_id: str | None = None
    label: int | None = None
    class_name: str | None = None
    abstained: bool | None = None
    radius: float | None = None
    radius_unit: str | None = None
    p_lower: float | None = None
    problem: Problem | None = None


class EndEvent(Event):
    """The job is over; nothing comes after it. ``problem`` where there is no such job any more."""

    kind: Literal["done", "failed", "cancelled"]
    counts: dict[str, int] | None = None
    problem: Problem | None = None


JobEvent = QueuedEvent | StageEvent | ProgressEvent | ItemEvent | EndEvent
KINDS = frozenset({"queued", "stage", "progress", "item", "done", "failed", "cancelled"})
_ADAPTER: TypeAdapter[JobEvent] = TypeAdapter(Annotated[JobEvent, Field(discriminator="kind")])


def event_of(kind: str, number: int | None, data: Any) -> JobEvent:
    """An event of one of :data:`KINDS`; raises ValueError where ``data`` is not what belongs to it."""
    if not isinstance(data, dict):
        raise ValueError("its data is no JSON object")
    return _ADAPTER.validate_python({**data, "kind": kind, "id": number})
