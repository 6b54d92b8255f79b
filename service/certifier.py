"""Request -> plan -> votes and bounds -> procedures -> reply."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import secrets
import time
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, TypeVar

from certification import __version__
from certification.effort import Effort
from certification.outcome import Certified, ErrorBoundSummary, Outcome, Prediction
from certification.plan import CertificationPlan, PredictPlan
from certification.vocabulary import Transformation
from models.registry import LoadedModel, Registry
from models.votes import default_batch_size

from .clock import StageClock
from .computing import Computed, Computer, Machine, Order, Replay
from .costs import Costs
from .engine import Cancellation
from .errors import FieldError
from .images import DecodedImage, ImageSpec, as_png, decode
from .metrics import Metrics
from .planning import Chosen, Planner
from .progress import Report
from .schemas import (
    CertifyFields,
    CertifyReply,
    CountsReply,
    ErrorBoundReply,
    PredictFields,
    PredictReply,
    SecondsReply,
)
from .settings import Settings

SECRET_BYTES = 32
URGENT = 4.0
"""A short run goes before others for so many times the seconds of the longest short one."""
ANSWERING_SECONDS, ANSWERING_SHARE = 1.0, 0.1
"""How long before its deadline a run's time is up, at most, and as a share of it: for the last batch and the reply."""

P = TypeVar("P", bound=Effort)


@dataclass(frozen=True)
class Task(Generic[P]):
    """A request that passed every check, with its image as it was uploaded and decoded."""

    model: LoadedModel
    plan: P
    upload: bytes
    image: DecodedImage
    clock: StageClock
    deadline: float
    """Time of ``time.monotonic()`` at which the run ends with what it has: a little before the request's deadline."""
    seconds: float
    """What it is expected to take."""
    short: bool
    """Whether it belongs into the short lane: by what it takes alone, so that load does not make it a long one."""
    replay: Replay


class Certifier:
    """Answers requests with the loaded models; ``prepare_*`` is cheap and refuses, the others compute."""

    def __init__(self, registry: Registry, computer: Computer, settings: Settings, metrics: Metrics) -> None:
        self.registry, self._computer = registry, computer
        self._settings, self._metrics = settings, metrics
        self._planner = Planner(registry, settings.max_votes)
        self._costs = Costs(computer.vote_seconds())
        shared = settings.noise_secret
        self._secret = secrets.token_bytes(SECRET_BYTES) if shared is None else shared.get_secret_value().encode()

    def check_ready(self) -> None:
        """Raise :class:`NotReadyError` while runs have to wait."""
        self._computer.check_ready()

    @property
    def machine(self) -> Machine:
        """What computes."""
        return self._computer.machine

    def prepare_certify(
        self, fields: CertifyFields, data: bytes | DecodedImage, since: float | None = None
    ) -> Task[CertificationPlan]:
        """Plan and decode; the time counts since the request was there, a time of ``time.monotonic()``."""
        return self._prepare(self._planner.certify(fields), fields.deadline_ms, data, since)

    def prepare_predict(
        self, fields: PredictFields, data: bytes | DecodedImage, since: float | None = None
    ) -> Task[PredictPlan]:
        """Plan and decode."""
        return self._prepare(self._planner.predict(fields), fields.deadline_ms, data, since)

    def prepare_replay(
        self,
        chosen: Chosen[CertificationPlan],
        data: bytes,
        replay: Replay,
        deadline_ms: int | None = None,
        since: float | None = None,
    ) -> Task[CertificationPlan]:
        """Decode, for a run that was made before."""
        return replace(self._prepare(chosen, deadline_ms, data, since), replay=replay)

    def certify(
        self, task: Task[CertificationPlan], cancellation: Cancellation, report: Report | None = None
    ) -> tuple[Task[CertificationPlan], CertifyReply]:
        """Compute a certificate; on a worker thread. The task comes back as it was computed, see :meth:`run`."""
        task, outcome = self.run(task, cancellation, report)
        self._metrics.observe_certificate(outcome)
        return task, self.reply(task, outcome)

    def run(
        self, task: Task[CertificationPlan], cancellation: Cancellation, report: Report | None = None
    ) -> tuple[Task[CertificationPlan], Outcome]:
        """Make the votes of a certificate; on a worker thread.

        The task comes back with the sizes that its work was cut into, which a shortage of memory may have changed.
        """
        computed = self._compute(task, cancellation, report)
        if isinstance(computed.found, Prediction):
            raise TypeError("a certificate was ordered, a prediction came")
        return replace(task, replay=computed.replay), computed.found

    def reply(self, task: Task[CertificationPlan], outcome: Outcome) -> CertifyReply:
        """What is said of an outcome."""
        plan = task.plan
        certified = isinstance(outcome, Certified)
        return CertifyReply(
            **self._answer(task, outcome),
            reason=None if isinstance(outcome, Certified) else outcome.reason,
            required=None if isinstance(outcome, Certified) else dict(outcome.required) or None,
            radius=outcome.radius if certified else None,
            radius_unit=plan.transformation.unit,
            attack_range=plan.attack_range.half_width,
            wanted_radius=plan.wanted_radius,
            covers_attack_range=outcome.covers_attack_range,
            image_is=plan.image_is,
            statement=outcome.statement + _about_resizing(task.image),
            alpha_shares=outcome.alpha_shares,
            p_lower=outcome.p_lower,
            error_bound=_error_bound(outcome.error_bound),
        )

    def predict(self, task: Task[PredictPlan], cancellation: Cancellation) -> PredictReply:
        """Compute a prediction; on a worker thread."""
        prediction = self._compute(task, cancellation).found
        if not isinstance(prediction, Prediction):
            raise TypeError("a prediction was ordered, a certificate came")
        self._metrics.observe_prediction(task.plan, prediction)
        return PredictReply(**self._answer(task, prediction), reason=prediction.reason)

    def _compute(self, task: Task[P], cancellation: Cancellation, report: Report | None = None) -> Computed:
        order = Order(
            task.model.card.id, task.model.digest, task.plan, task.image.pixels, task.replay,
            urgent_seconds=URGENT * self._settings.short_seconds if task.short else 0.0, seconds=task.seconds,
        )  # fmt: skip
        computed = self._computer.compute(order, cancellation, report)
        task.clock.add(computed.seconds, computed.spans)
        return computed

    def _prepare(
        self, chosen: Chosen[P], deadline_ms: int | None, data: bytes | DecodedImage, since: float | None
    ) -> Task[P]:
        clock, takes, most = StageClock(begun=since), chosen.model.card.input, self._settings.max_deadline_ms
        milliseconds = deadline_ms or min(self._settings.default_deadline_ms, most)
        if milliseconds > most:
            message = f"deadline_ms must be at most {most}, not {milliseconds}"
            raise FieldError(message, field="deadline_ms", maximum=most)
        seconds = milliseconds / 1000.0
        spec = ImageSpec(takes.height, takes.width, takes.channels, takes.resize_uploads)
        with clock.stage("decode"):
            most_pixels = self._settings.max_image_pixels
            image = data if isinstance(data, DecodedImage) else decode(data, spec, max_pixels=most_pixels)
        return Task(
            chosen.model,
            chosen.plan,
            data if isinstance(data, bytes) else as_png(data),
            image,
            clock,
            time.monotonic() + seconds - min(ANSWERING_SECONDS, ANSWERING_SHARE * seconds) - clock.total,
            self._costs.expected(chosen.model, chosen.plan),
            self._costs.expected(chosen.model, chosen.plan, alone=True) <= self._settings.short_seconds,
            Replay(self._noise_key(chosen, image), self._batch_size(chosen.model), self._settings.bound_chunk_bytes),
        )

    def _batch_size(self, model: LoadedModel) -> int:
        numbers = model.card.input.channels * math.prod(model.operator.output_shape)
        return self._settings.batch_size or default_batch_size(self.machine.device, numbers)

    def _noise_key(self, chosen: Chosen[P], image: DecodedImage) -> bytes:
        """The same request gets the same noise, which nobody outside can foresee (docs/guarantees.md, B.7).

        Fresh noise would let a client send an image again until it passes; so would servers behind one address with
        secrets of their own, once for each, which is why they share ``noise_secret``. Other settings are another
        request, with noise of its own: certificates publish their keys, and one must not foretell the next.
        """
        asked = {
            "image": hashlib.sha256(image.pixels.tobytes()).hexdigest(),
            "model": chosen.model.digest,
            "plan": type(chosen.plan).__name__,
            "settings": asdict(chosen.plan),
        }
        message = json.dumps(asked, sort_keys=True, default=str).encode()
        return hmac.digest(self._secret, message, "sha256")

    def _answer(self, task: Task[P], found: Outcome | Prediction) -> dict[str, Any]:
        """The part that both replies share."""
        card, plan, clock = task.model.card, task.plan, task.clock
        label, counts = found.label, found.counts
        self._metrics.observe_work(card.id, counts.votes, clock.seconds)
        self._costs.learn(task.model, plan, found, clock.seconds)
        self._metrics.runs.labels(found.stopped_by or "done").inc()
        return {
            "label": label,
            "class_name": None if label is None else card.class_names[label],
            "abstained": label is None,
            "transformation": plan.transformation,
            "guarantee": plan.guarantee,
            "procedure": plan.procedure,
            "estimator": found.estimator,
            "stopped_by": found.stopped_by,
            "alpha": plan.alpha,
            "counts": CountsReply(**asdict(counts)),
            "sigma_gamma": 0.0 if plan.transformation is Transformation.L2 else plan.sigma_gamma,
            "sigma_delta": plan.sigma_delta if plan.pixel_noise else 0.0,
            "model": card.id,
            "model_digest": task.model.digest,
            "version": __version__,
            "seconds": SecondsReply(**clock.seconds, total=clock.total),
        }


def _about_resizing(image: DecodedImage) -> str:
    if image.resized_from is None:
        return ""
    height, width = image.resized_from
    return f" It is about the image after resizing from {height} x {width} pixels."


def _error_bound(summary: ErrorBoundSummary | None) -> ErrorBoundReply | None:
    """JSON has no infinity: a bound that was not found is null."""
    if summary is None:
        return None
    values = asdict(summary)
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            values[name] = None
    return ErrorBoundReply(**values)
