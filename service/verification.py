"""Checking a certificate: its signature, its model and image, and the whole run, made again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import ValidationError

from certification.plan import CertificationPlan
from certification.vocabulary import CertificationError, StoppedBy, Transformation
from models.registry import LoadedModel, UnknownModelError

from .certificate import NOT_REPLAYED, Certificate, image_facts, reply_document, runtime_of
from .certifier import Certifier, Task
from .computing import Replay
from .engine import Cancellation
from .planning import Chosen
from .schemas import DifferenceReply, VerifyReply
from .signing import Signed, canonical


class NotVerified(Exception):
    """A certificate that does not hold; ``reply`` says why."""

    def __init__(self, reply: VerifyReply) -> None:
        super().__init__(reply.reason)
        self.reply = reply


class Verification:
    """One signed certificate that is checked against an image and the models at hand.

    Parameters
    ----------
    signed : Signed
    certifier : Certifier
        Makes the run again.
    public_key : bytes or None
        The key that must have signed, 32 bytes; None: the one that comes with the certificate, which shows that
        nothing was altered since it was signed, but not by whom.

    Attributes
    ----------
    votes : int
        Cast by :meth:`replay`.

    Raises
    ------
    NotVerified
        If the signature, the form of the document, the model or its facts are wrong.
    """

    def __init__(self, signed: Signed, certifier: Certifier, public_key: bytes | None) -> None:
        self._signed, self._certifier, self._public_key = signed, certifier, public_key
        self._runtime: list[DifferenceReply] = []
        self.votes = 0
        if public_key not in (None, signed.public_key):
            raise self.refusal("it was signed with another key than the one that is trusted")
        if not signed.is_valid:
            raise self.refusal("the signature is not one of this document: it was altered")
        try:
            self.certificate = Certificate.model_validate(signed.document)
        except ValidationError as error:
            where, message = error.errors()[0]["loc"], error.errors()[0]["msg"]
            raise self.refusal(f"the document is malformed: {'.'.join(map(str, where))}: {message}") from error
        # a value that had to be converted, or a member that is not read, was never written by a server
        if differences := list(_differences("certificate", signed.document, self.certificate.to_json())):
            raise self.refusal("the document is malformed", differences)
        self._runtime = self._runtime_differences(self.certificate.replay)
        self._model = self._find_model()
        self._check_plan()

    def prepare(
        self, image: bytes, deadline_ms: int | None = None, since: float | None = None
    ) -> Task[CertificationPlan]:
        """Decode the image and compare it; ``deadline_ms`` as in a request, which was there at ``since``.

        Raises
        ------
        RequestError
            If it is no image that the model takes.
        NotVerified
            If it is another one.
        """
        chosen = Chosen(self._model, self.certificate.plan)
        task = self._certifier.prepare_replay(chosen, image, self.certificate.replay, deadline_ms, since)
        # another file may hold the same pixels, and they are what was certified
        recorded, found = (
            facts.model_dump(exclude={"sha256"}) for facts in (self.certificate.image, image_facts(task))
        )
        if differences := list(_differences("image", recorded, found)):
            raise self.refusal("it is about another image", differences)
        return task

    def replay(self, task: Task[CertificationPlan], cancellation: Cancellation) -> VerifyReply:
        """Make the run again and compare every number of the answer; on a worker thread."""
        try:
            task, outcome = self._certifier.run(task, cancellation)
        except CertificationError as error:
            return self._reply(f"the run cannot be made: {error}", [])
        self.votes = outcome.counts.votes
        self._runtime = self._runtime_differences(task.replay)
        made = reply_document(self._certifier.reply(task, outcome))
        claimed = {name: value for name, value in self.certificate.reply.items() if name not in NOT_REPLAYED}
        differences = list(_differences("reply", claimed, made))
        if not differences:
            return self._reply(None, [])
        if outcome.stopped_by == StoppedBy.DEADLINE and time.monotonic() >= cancellation.deadline:
            return self._reply("the time was up before the run was made again", [], stopped_by=StoppedBy.DEADLINE)
        reason = "the run, made again, gives another answer"
        if self._runtime:
            reason += "; it was made by other software or on another device, whose last bits may differ by a few votes"
        return self._reply(reason, differences)

    def _runtime_differences(self, replay: Replay) -> list[DifferenceReply]:
        """Of what the last bits may depend on; the sizes of batches too, where memory was short."""
        here = runtime_of(replay, self._certifier.machine).model_dump()
        return list(_differences("runtime", self._signed.document["runtime"], here))

    def _find_model(self) -> LoadedModel:
        recorded = self.certificate.model
        try:
            model = self._certifier.registry.get(recorded.id)
        except UnknownModelError as error:
            raise self.refusal(f"there is no model {recorded.id} here") from error
        if model.digest != recorded.digest:
            difference = DifferenceReply(field="model.digest", recorded=recorded.digest, found=model.digest)
            raise self.refusal("it is about another model of that id: its card or weights differ", [difference])
        return model

    def _check_plan(self) -> None:
        """What the plan says of the model must be so."""
        plan, model = self.certificate.plan, self._model
        loss, variation = model.lattice_losses if plan.transformation is Transformation.L2 else (0.0, 0.0)
        facts: dict[str, Any] = {
            "sigma_gamma": model.card.noise.sigma_gamma,
            "sigma_delta": model.card.noise.sigma_delta,
            "operator_norm": model.operator.norm_bound,
            "bound_for_all": model.bound_for_all,
            "lattice_loss": loss,
            "total_variation": variation,
        }
        differences = list(_differences("plan", {name: getattr(plan, name) for name in facts}, facts))
        stored = plan.calibration
        if stored is not None and stored not in model.calibrations:
            differences.append(DifferenceReply(field="plan.calibration", recorded=stored.to_json(), found=None))
        served = list(model.card.transformations)
        if plan.transformation not in served:
            differences.append(DifferenceReply(field="plan.transformation", recorded=plan.transformation, found=served))
        if differences:
            raise self.refusal("the plan is not one of this model", differences)

    def refusal(self, reason: str, differences: list[DifferenceReply] | None = None) -> NotVerified:
        """What to raise where the certificate does not hold."""
        return NotVerified(self._reply(reason, differences or []))

    def _reply(
        self,
        reason: str | None,
        differences: list[DifferenceReply],
        *,
        stopped_by: Literal[StoppedBy.DEADLINE] | None = None,
    ) -> VerifyReply:
        identifier = self._signed.document.get("id")
        return VerifyReply(
            verified=reason is None,
            reason=reason,
            stopped_by=stopped_by,
            differences=differences,
            runtime_differences=self._runtime,
            certificate_id=identifier if isinstance(identifier, str) else None,
            key_fingerprint=self._signed.fingerprint,
            key_is_trusted=self._public_key == self._signed.public_key,
        )


def _differences(name: str, recorded: Any, found: Any) -> Iterator[DifferenceReply]:
    """Where a recorded JSON value is not the one found; what was not recorded was not claimed."""
    if isinstance(recorded, dict) and isinstance(found, dict):
        for key, value in recorded.items():
            if key in found:
                yield from _differences(f"{name}.{key}", value, found[key])
            else:
                yield DifferenceReply(field=f"{name}.{key}", recorded=value, found=None)
    elif canonical(recorded) != canonical(found):
        yield DifferenceReply(field=name, recorded=recorded, found=found)
