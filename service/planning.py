"""Request -> model and plan: the defaults that depend on one another, and the refusals that need no image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from certification.calibration import Calibration
from certification.effort import Effort
from certification.plan import CertificationPlan, PredictPlan
from certification.vocabulary import AttackRange, Guarantee, ImageIs, PlanError, Transformation
from models.registry import LoadedModel, Registry, UnknownModelError

from .errors import AttackRangeError, CalibrationMissingError, FieldError, ModelTransformationError, quote
from .schemas import CertifyFields, Fields, PredictFields

P = TypeVar("P", bound=Effort)


@dataclass(frozen=True)
class Chosen(Generic[P]):
    """The model that answers, and what it is asked for."""

    model: LoadedModel
    plan: P


class Planner:
    """Plans requests for the loaded models.

    Parameters
    ----------
    registry : Registry
    max_votes : int
        Base-classifier evaluations one request may ask for.
    """

    def __init__(self, registry: Registry, max_votes: int) -> None:
        self._registry, self._max_votes = registry, max_votes

    def certify(self, fields: CertifyFields) -> Chosen[CertificationPlan]:
        """Plan a certificate.

        Raises
        ------
        RequestError, CertificationError
            If the request cannot be answered with a certificate, whatever the image.
        """
        model, transformation = self._choose(fields)
        half_width = self._half_width(fields, model, transformation)
        guarantee = fields.guarantee or _default_guarantee(model, transformation, half_width, fields.image_is)
        effort = self._effort(fields, model, transformation, guarantee)
        if fields.n_error is not None:
            effort["n_error"] = fields.n_error

        is_l2 = transformation is Transformation.L2
        loss, variation = model.lattice_losses if is_l2 else (0.0, 0.0)

        def planned(half_width: float) -> CertificationPlan:
            distributional = guarantee is Guarantee.DISTRIBUTIONAL
            stored = _calibration(model, transformation, half_width, fields.image_is) if distributional else None
            return CertificationPlan(
                **effort,
                attack_range=AttackRange(transformation, half_width),
                image_is=fields.image_is,
                wanted=fields.wanted_radius,
                bound_for_all=model.bound_for_all,
                calibration=stored,
                operator_norm=model.operator.norm_bound,
                lattice_loss=loss,
                total_variation=variation,
            )

        try:
            return Chosen(model, planned(half_width))
        except PlanError as refusal:
            if guarantee is not Guarantee.DISTRIBUTIONAL or refusal.required:
                raise
            smaller = _largest_plannable(model, half_width, fields.image_is, planned)
            if smaller is None:
                raise
            raise PlanError(
                f"{refusal}; an attack_range of at most {smaller:g} would do",
                field="attack_range",
                required={"attack_range": smaller},
            ) from refusal

    def predict(self, fields: PredictFields) -> Chosen[PredictPlan]:
        """Plan a prediction; raises as :meth:`certify`."""
        model, transformation = self._choose(fields)
        guarantee = fields.guarantee or Guarantee.INDIVIDUAL
        return Chosen(model, PredictPlan(**self._effort(fields, model, transformation, guarantee)))

    def _choose(self, fields: Fields) -> tuple[LoadedModel, Transformation]:
        try:
            if fields.model is None:
                model = self._registry.default_for(fields.transformation or Transformation.ROTATION)
            else:
                model = self._registry.get(fields.model)
        except UnknownModelError as error:
            which = "no model serves this" if fields.model is None else f"unknown model {quote(fields.model)}"
            known = sorted(self._registry.models)
            raise FieldError(f"model: {which}; there are {', '.join(known)}", field="model", known=known) from error
        served = model.card.transformations
        if not served:
            raise ModelTransformationError(f"{model.card.id} has no noise: it certifies nothing", field="model")
        transformation = fields.transformation or Transformation(served[0])
        if transformation not in served:
            raise ModelTransformationError(
                f"{model.card.id} does not serve {transformation}, but {' and '.join(served)}",
                field="transformation",
                known=list(served),
            )
        return model, transformation

    def _half_width(self, fields: CertifyFields, model: LoadedModel, transformation: Transformation) -> float:
        card = model.card
        if transformation is Transformation.L2:
            return fields.attack_range or card.noise.sigma_delta / 2
        half_width = fields.attack_range or card.attack_range_default
        if half_width > card.attack_range_limit:
            raise _too_wide(half_width, "the model's limit of", card.attack_range_limit, transformation)
        return half_width

    def _effort(
        self, fields: Fields, model: LoadedModel, transformation: Transformation, guarantee: Guarantee
    ) -> dict[str, Any]:
        """What both kinds of plan are given."""
        return {
            "transformation": transformation,
            "guarantee": guarantee,
            "sigma_gamma": model.card.noise.sigma_gamma,
            "sigma_delta": model.card.noise.sigma_delta,
            "alpha": fields.alpha,
            "n0": fields.n0,
            "n_delta": fields.n_delta,
            "max_votes": self._max_votes,
            "n": fields.n,
            "procedure": fields.procedure,
            "estimator": fields.estimator,
        }


def _largest_plannable(
    model: LoadedModel, half_width: float, image_is: ImageIs, planned: Callable[[float], CertificationPlan]
) -> float | None:
    """The largest calibrated range below ``half_width`` that can be planned: its stored bound is smaller."""
    ranges = {c.attack_range for c in model.calibrations if c.is_for(image_is) and c.attack_range < half_width}
    for smaller in sorted(ranges, reverse=True):
        try:
            planned(smaller)
        except PlanError:
            continue
        return smaller
    return None


def _default_guarantee(
    model: LoadedModel, transformation: Transformation, half_width: float, image_is: ImageIs
) -> Guarantee:
    """Distributional where a stored bound covers the attack range, since it is far cheaper; else individual."""
    stored = model.calibration_for(transformation, half_width, image_is)
    covers = stored is not None and stored.attack_range >= half_width
    return Guarantee.DISTRIBUTIONAL if covers else Guarantee.INDIVIDUAL


def _calibration(
    model: LoadedModel, transformation: Transformation, half_width: float, image_is: ImageIs
) -> Calibration:
    calibration = model.calibration_for(transformation, half_width, image_is)
    if calibration is None:
        raise CalibrationMissingError(
            f"no error bound was calibrated for {model.card.id}, {transformation} and a {image_is} image: "
            "ask for another guarantee",
            field="guarantee",
        )
    if half_width > calibration.attack_range:
        raise _too_wide(half_width, "the calibrated", calibration.attack_range, transformation)
    return calibration


def _too_wide(half_width: float, what: str, limit: float, transformation: Transformation) -> AttackRangeError:
    return AttackRangeError(
        f"attack_range {half_width:g} is beyond {what} {limit:g} {transformation.unit}",
        field="attack_range",
        required={"attack_range": limit},
    )
