"""Request -> plan -> votes and bounds -> procedures -> reply."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from certification import __version__
from certification.outcome import Certified, Counts, ErrorBoundSummary
from certification.plan import CertificationPlan
from certification.procedures import certify, predict
from certification.protocols import ErrorBoundSource, VoteSource
from certification.vocabulary import AttackRange, Guarantee, ImageIs, Transformation
from gpu.error_bound import BoundSettings
from models.error_bounds import ReceivedErrorBounds, ReferenceErrorBounds
from models.registry import LoadedModel, Registry, UnknownModelError
from models.votes import BaseClassifierVotes

from .clock import StageClock
from .engine import Cancellation
from .errors import AttackRangeError, CalibrationMissingError, FieldError, ModelTransformationError, quote
from .images import DecodedImage, ImageSpec, decode
from .metrics import Metrics
from .schemas import (
    CertifyFields,
    CertifyReply,
    CountsReply,
    ErrorBoundReply,
    Fields,
    PredictFields,
    PredictReply,
    SecondsReply,
)
from .settings import Settings

NESTED_DRAWS, SINGLE_DRAWS = 200, 1000
"""Default n: the paper's 200 where a draw costs n_delta votes, more where it costs one."""
PREDICT_N_DELTA = 100
PREDICT_RANGE = 1e-6
"""A prediction has no attack range; a plan wants one, and this is below every resolution."""
VOTES_BETWEEN_CHECKS = 16_384
SEED_BITS = 128


class InterruptibleVotes:
    """A vote source that looks at the cancellation between parts; the draws of a part are independent."""

    def __init__(self, votes: BaseClassifierVotes, check: Callable[[], None]) -> None:
        self._votes, self._check = votes, check

    def class_counts(self, n: int, *, pixel_noise: bool) -> NDArray[np.int64]:
        """See ``certification.protocols.VoteSource``."""
        counts = np.zeros(self._votes.classes, dtype=np.int64)
        for first in range(0, n, VOTES_BETWEEN_CHECKS):
            self._check()
            counts += self._votes.class_counts(min(VOTES_BETWEEN_CHECKS, n - first), pixel_noise=pixel_noise)
        return counts

    def draw_parameters(self, n: int) -> NDArray[np.float64]:
        """See ``certification.protocols.VoteSource``."""
        return self._votes.draw_parameters(n)

    def votes_at(self, parameters: NDArray[np.float64], *, label: int, n_delta: int) -> NDArray[np.int64]:
        """See ``certification.protocols.VoteSource``."""
        step = max(1, VOTES_BETWEEN_CHECKS // n_delta)
        parts = []
        for first in range(0, len(parameters), step):
            self._check()
            parts.append(self._votes.votes_at(parameters[first : first + step], label=label, n_delta=n_delta))
        return np.concatenate(parts)


@dataclass(frozen=True)
class Task:
    """A request that was checked against the model and its limits, with its image decoded."""

    model: LoadedModel
    plan: CertificationPlan
    guarantee: Guarantee
    image: DecodedImage
    clock: StageClock


class Certifier:
    """Answers requests with the loaded models; ``prepare_*`` is cheap and refuses, the others compute."""

    def __init__(self, registry: Registry, device: str, settings: Settings, metrics: Metrics) -> None:
        self.registry, self.device, self.settings, self.metrics = registry, device, settings, metrics

    def prepare_certify(self, fields: CertifyFields, data: bytes) -> Task:
        """Check everything that can be checked without computing."""
        model, transformation, guarantee = self._choices(fields)
        attack_range = self._attack_range(fields, model, transformation)
        calibration = None
        if guarantee is Guarantee.DISTRIBUTIONAL:
            calibration = model.calibration_for(transformation, attack_range)
            if calibration is None:
                raise CalibrationMissingError(
                    f"no error bound was calibrated for {model.card.id} and {transformation}: "
                    "ask for another guarantee",
                    field="guarantee",
                )
            if attack_range > calibration.attack_range:
                raise AttackRangeError(
                    f"attack_range {attack_range:g} is beyond the calibrated {calibration.attack_range:g} "
                    f"{transformation.unit}",
                    field="attack_range",
                    required={"attack_range": calibration.attack_range},
                )
        plan = self._plan(
            fields,
            model,
            transformation,
            guarantee,
            half_width=attack_range,
            n_delta=fields.n_delta,
            calibration=calibration,
            image_is=fields.image_is,
        )
        return self._task(model, plan, guarantee, data)

    def prepare_predict(self, fields: PredictFields, data: bytes) -> Task:
        """Check everything that can be checked without computing."""
        model, transformation, guarantee = self._choices(fields)
        # Both smooth in the same way, and a prediction needs no error bound: the plan takes the other one.
        planned = Guarantee.INDIVIDUAL if guarantee is Guarantee.DISTRIBUTIONAL else guarantee
        nested = guarantee is not Guarantee.HEURISTIC and transformation is not Transformation.L2
        n_delta = fields.n_delta or (PREDICT_N_DELTA if nested else None)
        plan = self._plan(fields, model, transformation, planned, half_width=PREDICT_RANGE, n_delta=n_delta)
        return self._task(model, plan, guarantee, data)

    def certify(self, task: Task, cancellation: Cancellation) -> CertifyReply:
        """Compute a certificate; on a worker thread."""
        plan, clock = task.plan, task.clock
        clock.check = cancellation.check
        bounds = (
            self._error_bounds(task) if plan.is_nested and plan.guarantee is Guarantee.INDIVIDUAL else None
        )
        outcome = self._compute(lambda: certify(plan, self._votes(task), bounds, clock.stage))
        self.metrics.observe_certificate(outcome)
        certified = outcome if isinstance(outcome, Certified) else None
        statement = outcome.statement
        if task.image.resized_from is not None:
            height, width = task.image.resized_from
            statement += f" It is about the image after resizing from {height} x {width} pixels."
        return CertifyReply(
            **self._answer(task, outcome.counts, certified.label if certified else None),
            reason=None if isinstance(outcome, Certified) else outcome.reason,
            radius=certified.radius if certified else None,
            radius_unit=plan.transformation.unit,
            attack_range=plan.attack_range.half_width,
            covers_attack_range=certified.covers_attack_range if certified else False,
            image_is=plan.image_is,
            statement=statement,
            alpha_shares=plan.alpha_shares,
            p_lower=outcome.p_lower,
            error_bound=_error_bound(outcome.error_bound),
        )

    def predict(self, task: Task, cancellation: Cancellation) -> PredictReply:
        """Compute a prediction; on a worker thread."""
        plan, clock = task.plan, task.clock
        clock.check = cancellation.check
        prediction = self._compute(lambda: predict(plan, self._votes(task), clock.stage))
        self.metrics.observe_prediction(plan.transformation, task.guarantee, prediction)
        return PredictReply(
            **self._answer(task, prediction.counts, prediction.label),
            reason=prediction.reason,
        )

    def _choices(self, fields: Fields) -> tuple[LoadedModel, Transformation, Guarantee]:
        """Model, transformation and guarantee, with the defaults that depend on one another."""
        try:
            if fields.model is None:
                model = self.registry.default_for(fields.transformation or Transformation.ROTATION)
            else:
                model = self.registry.get(fields.model)
        except UnknownModelError as error:
            known = sorted(self.registry.models)
            given = (
                "no model serves this transformation"
                if fields.model is None
                else f"unknown model {quote(fields.model)}"
            )
            raise FieldError(f"model: {given}", field="model", known=known) from error
        served = model.card.transformations
        if not served:
            raise ModelTransformationError(
                f"{model.card.id} has no noise: it certifies nothing", field="model"
            )
        transformation = fields.transformation or Transformation(served[0])
        if transformation not in served:
            raise ModelTransformationError(
                f"{model.card.id} does not serve {transformation}, but {' and '.join(served)}",
                field="transformation",
                known=list(served),
            )
        if transformation is Transformation.L2:
            if fields.guarantee not in (None, Guarantee.INDIVIDUAL):
                raise FieldError(
                    "guarantee: an l2 certificate holds for this very image: individual is the only one",
                    field="guarantee",
                )
            return model, transformation, Guarantee.INDIVIDUAL
        return model, transformation, fields.guarantee or Guarantee.DISTRIBUTIONAL

    def _attack_range(
        self, fields: CertifyFields, model: LoadedModel, transformation: Transformation
    ) -> float:
        card = model.card
        if transformation is Transformation.L2:
            return fields.attack_range or card.noise.sigma_delta / 2
        attack_range = fields.attack_range or card.attack_range_default
        if attack_range > card.attack_range_limit:
            raise AttackRangeError(
                f"attack_range {attack_range:g} is beyond the model's limit of {card.attack_range_limit:g} "
                f"{transformation.unit}",
                field="attack_range",
                required={"attack_range": card.attack_range_limit},
            )
        return attack_range

    def _plan(
        self,
        fields: Fields,
        model: LoadedModel,
        transformation: Transformation,
        guarantee: Guarantee,
        *,
        half_width: float,
        n_delta: int | None,
        **more: Any,
    ) -> CertificationPlan:
        if fields.n0 > self.settings.max_votes:
            raise FieldError(
                f"n0: {fields.n0} votes exceed the limit of {self.settings.max_votes}",
                field="n0",
                required={"n0": self.settings.max_votes},
            )
        nested = guarantee is not Guarantee.HEURISTIC and transformation is not Transformation.L2
        return CertificationPlan(
            transformation=transformation,
            guarantee=guarantee,
            attack_range=AttackRange(transformation, half_width),
            sigma_gamma=model.card.noise.sigma_gamma,
            sigma_delta=model.card.noise.sigma_delta,
            alpha=fields.alpha,
            n0=fields.n0,
            n=fields.n or (NESTED_DRAWS if nested else SINGLE_DRAWS),
            n_delta=n_delta,
            max_votes=self.settings.max_votes,
            operator_norm=model.operator.norm_bound,
            **more,
        )

    def _task(self, model: LoadedModel, plan: CertificationPlan, guarantee: Guarantee, data: bytes) -> Task:
        clock = StageClock()
        spec = ImageSpec(
            model.card.input.height,
            model.card.input.width,
            model.card.input.channels,
            model.card.input.resize_uploads,
        )
        with clock.stage("decode"):
            image = decode(data, spec, max_pixels=self.settings.max_image_pixels)
        return Task(model, plan, guarantee, image, clock)

    def _votes(self, task: Task) -> VoteSource:
        votes = BaseClassifierVotes(
            task.model,
            task.image.pixels,
            task.plan.transformation,
            # Noise that the client could foresee would let an image be fitted to it.
            seed=secrets.randbits(SEED_BITS),
            device=self.device,
            batch_size=self.settings.batch_size,
        )
        return InterruptibleVotes(votes, task.clock.check)

    def _error_bounds(self, task: Task) -> ErrorBoundSource:
        source = ReceivedErrorBounds if task.plan.image_is is ImageIs.RECEIVED else ReferenceErrorBounds
        settings = BoundSettings(cell_width=None, chunk_bytes=self.settings.bound_chunk_bytes)
        return source(
            task.model, task.image.pixels, task.plan.attack_range, settings, self.device, task.clock.stage
        )

    def _compute(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except torch.OutOfMemoryError as error:
            raise MemoryError from error

    def _answer(self, task: Task, counts: Counts, label: int | None) -> dict[str, Any]:
        """The part that both replies share."""
        card, plan, clock = task.model.card, task.plan, task.clock
        noisy = plan.is_nested or plan.transformation is Transformation.L2
        self.metrics.votes.labels(card.id).inc(counts.votes)
        for stage, seconds in clock.seconds.items():
            if seconds > 0.0:
                self.metrics.stage_seconds.labels(stage).observe(seconds)
        return {
            "label": label,
            "class_name": None if label is None else card.class_names[label],
            "abstained": label is None,
            "transformation": plan.transformation,
            "guarantee": task.guarantee,
            "alpha": plan.alpha,
            "counts": CountsReply(**asdict(counts)),
            "sigma_gamma": 0.0 if plan.transformation is Transformation.L2 else plan.sigma_gamma,
            "sigma_delta": plan.sigma_delta if noisy else 0.0,
            "model": card.id,
            "model_digest": task.model.digest,
            "version": __version__,
            "seconds": SecondsReply(**clock.seconds, total=clock.total),
        }


def _error_bound(summary: ErrorBoundSummary | None) -> ErrorBoundReply | None:
    """JSON has no infinity: a bound that was not found is null."""
    if summary is None:
        return None
    values = asdict(summary)
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            values[name] = None
    return ErrorBoundReply(**values)
