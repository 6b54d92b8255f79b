"""What an image of a job is run with, kept from when the job is accepted: so that every start gives the same answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Self

from pydantic import Field

from certification.plan import CertificationPlan
from models.registry import UnknownModelError

from .certificate import ModelFacts, Part
from .certifier import Certifier, Task
from .computing import Replay
from .errors import ModelChangedError
from .planning import Chosen
from .schemas import CertifyFields


class Recipe(Part):
    """The plan, and what else an answer follows from beside the image and its noise key."""

    model: ModelFacts
    plan: CertificationPlan
    batch_size: Annotated[int, Field(ge=1)]
    bound_chunk_bytes: Annotated[int, Field(ge=2**20)]
    deadline_ms: int | None

    @classmethod
    def of(cls, task: Task[CertificationPlan], deadline_ms: int | None) -> Self:
        """What was planned for a request."""
        return cls(
            model=ModelFacts(id=task.model.card.id, digest=task.model.digest),
            plan=task.plan,
            batch_size=task.replay.batch_size,
            bound_chunk_bytes=task.replay.bound_chunk_bytes,
            deadline_ms=deadline_ms,
        )

    def task(self, certifier: Certifier, image: bytes, noise_key: bytes) -> Task[CertificationPlan]:
        """One image's run; raises :class:`ModelChangedError`."""
        try:
            model = certifier.registry.get(self.model.id)
        except UnknownModelError as error:
            raise ModelChangedError(f"there is no model {self.model.id} any more", field="model") from error
        if model.digest != self.model.digest:
            raise ModelChangedError(f"{self.model.id} has another card or other weights by now", field="model")
        replay = Replay(noise_key, self.batch_size, self.bound_chunk_bytes)
        # Never short enough to go before the votes of requests.
        return replace(certifier.prepare_replay(Chosen(model, self.plan), image, replay), short=False)


def digest_of(fields: CertifyFields, images: Sequence[bytes]) -> str:
    """SHA-256 (hex) of a request, however its body was encoded."""
    asked = {
        "fields": fields.model_dump(mode="json", exclude_defaults=True),
        "images": [hashlib.sha256(image).hexdigest() for image in images],
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
