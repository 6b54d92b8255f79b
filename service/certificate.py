"""The signed document: what was asked, of which model and image, what the answer was, and all it followed from."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from certification import __version__
from certification.plan import CertificationPlan
from certification.vocabulary import StoppedBy

from .certifier import Task
from .computing import Machine, Replay
from .schemas import CertifyReply

SCHEMA: Literal[1] = 1
NOT_REPLAYED = frozenset({"seconds", "version", "certificate_id"})
"""Of a reply: what a run that is made again need not repeat."""
CLAIMS = frozenset(
    {"label", "radius", "p_lower", "counts", "estimator", "stopped_by", "error_bound", "statement", "alpha"}
)
"""Of a reply: what a certificate cannot lack."""
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Part(BaseModel):
    """A part of the document; knows all its members."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ImageFacts(Part):
    """The image, by digests: of the uploaded file, and of the decoded pixels, float32 [H, W, C], little-endian."""

    sha256: Digest
    pixels_sha256: Digest
    height: int
    width: int
    channels: int


class ModelFacts(Part):
    """The model, by the digest of card and weights."""

    id: str
    digest: Digest


class Runtime(Part):
    """What the last bits of an answer may depend on: software, device, and the sizes that work is cut into."""

    version: str
    torch: str
    numpy: str
    numba: str
    device: str
    processor: str
    threads: int
    batch_size: Annotated[int, Field(ge=1)]
    bound_chunk_bytes: Annotated[int, Field(ge=2**20)]


class Certificate(Part):
    """One run and its answer; ``reply`` is what the client got, without the id."""

    schema_number: Literal[1] = Field(alias="schema")
    id: str
    created: str
    image: ImageFacts
    model: ModelFacts
    plan: CertificationPlan
    noise_key: Digest
    reply: dict[str, JsonValue]
    runtime: Runtime

    @field_validator("reply")
    @classmethod
    def _claims(cls, reply: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if missing := CLAIMS - reply.keys():
            raise ValueError(f"lacks {', '.join(sorted(missing))}")
        return reply

    def to_json(self) -> dict[str, Any]:
        """The document."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def replay(self) -> Replay:
        """What fixes the run.

        A run may have ended with its time and been certified all the same, so each one ends after the votes it had.
        """
        runtime, late = self.runtime, self.reply["stopped_by"] == StoppedBy.DEADLINE
        return Replay(
            bytes.fromhex(self.noise_key),
            runtime.batch_size,
            runtime.bound_chunk_bytes,
            votes=self.votes if late or self.votes > 0 else None,
            bounded=self._number("error_bound", "draws"),
        )

    @property
    def votes(self) -> int:
        """Base-classifier evaluations, as the reply counts them."""
        return self._number("counts", "votes")

    def _number(self, member: str, name: str) -> int:
        """A whole number of the reply; 0 where there is none."""
        found = self.reply[member]
        number = found.get(name) if isinstance(found, dict) else None
        return number if isinstance(number, int) else 0


def certificate_of(
    task: Task[CertificationPlan], reply: CertifyReply, *, machine: Machine, identifier: str, created: float
) -> Certificate:
    """The document of an answer; ``created`` is in seconds since 1970."""
    return Certificate(
        schema=SCHEMA,
        id=identifier,
        created=datetime.fromtimestamp(created, UTC).isoformat(),
        image=image_facts(task),
        model=ModelFacts(id=task.model.card.id, digest=task.model.digest),
        plan=task.plan,
        noise_key=task.replay.key.hex(),
        reply=reply_document(reply),
        runtime=runtime_of(task.replay, machine),
    )


def reply_document(reply: CertifyReply) -> dict[str, Any]:
    """The part of a reply that is signed."""
    return reply.model_dump(mode="json", exclude={"certificate_id"})


def runtime_of(replay: Replay, machine: Machine) -> Runtime:
    """What computed, and in which sizes."""
    return Runtime(
        version=__version__,
        **asdict(machine),
        batch_size=replay.batch_size,
        bound_chunk_bytes=replay.bound_chunk_bytes,
    )


def image_facts(task: Task[Any]) -> ImageFacts:
    """Digests and shape of an image."""
    height, width, channels = task.image.pixels.shape
    return ImageFacts(
        sha256=hashlib.sha256(task.upload).hexdigest(),
        pixels_sha256=hashlib.sha256(task.image.pixels.astype("<f4").tobytes()).hexdigest(),
        height=height,
        width=width,
        channels=channels,
    )
