"""``GET /v1/models``, ``GET /v1/models/{id}`` and the stored bounds, ``GET /v1/bounds``."""

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request

from certification.calibration import Calibration
from certification.vocabulary import Transformation
from models.registry import LoadedModel, UnknownModelError

from ..errors import UnknownResourceError, quote
from ..openapi import problems
from ..schemas import BoundReply, BoundsQuery, BoundsReply, InputReply, ModelReply, ModelsReply
from ..services import services_of

router = APIRouter(tags=["models"])


@router.get("/v1/models", summary="All models", responses=problems(500, 503))
async def list_models(request: Request) -> ModelsReply:
    """Every model of the zoo, by id."""
    registry = services_of(request).lifecycle.loaded.registry
    return ModelsReply(models=[_describe(model) for _, model in sorted(registry.models.items())])


@router.get("/v1/models/{model_id}", summary="One model", responses=problems(404, 422, 500, 503))
async def get_model(request: Request, model_id: str) -> ModelReply:
    """What a model takes, its noise, and its measured accuracy."""
    return _describe(find_model(request, model_id))


@router.get("/v1/bounds", summary="Distributional bounds", responses=problems(404, 422, 500, 503))
async def list_bounds(request: Request, query: Annotated[BoundsQuery, Query()]) -> BoundsReply:
    """The calibrated bounds that distributional certificates use; empty where nothing was calibrated."""
    registry = services_of(request).lifecycle.loaded.registry
    models = [registry.models[name] for name in sorted(registry.models)]
    if query.model is not None:
        models = [find_model(request, query.model)]
    found = [
        calibration
        for one in models
        for calibration in sorted(one.calibrations, key=lambda c: c.attack_range)
        if query.transformation in (None, calibration.transformation)
    ]
    return BoundsReply(bounds=[_bound(calibration) for calibration in found])


def find_model(request: Request, model_id: str) -> LoadedModel:
    """A model by id; raises :class:`UnknownResourceError`."""
    registry = services_of(request).lifecycle.loaded.registry
    try:
        return registry.get(model_id)
    except UnknownModelError as error:
        raise UnknownResourceError(f"no model {quote(model_id)}", known=sorted(registry.models)) from error


def _bound(calibration: Calibration) -> BoundReply:
    values = {name: value for name, value in asdict(calibration).items() if name in BoundReply.model_fields}
    return BoundReply(**values, unit=calibration.transformation.unit)


def _describe(model: LoadedModel) -> ModelReply:
    card = model.card
    moved = card.noise.transformation != "none"
    transformation = Transformation(card.noise.transformation) if moved else None
    return ModelReply(
        id=card.id,
        description=card.description,
        digest=model.digest,
        transformation=transformation,
        unit=transformation.unit if transformation else None,
        serves=list(card.transformations),
        input=InputReply(**asdict(card.input)),
        classes=list(card.class_names),
        architecture=card.architecture.name,
        preprocessing=asdict(card.preprocessing),
        sigma_gamma=card.noise.sigma_gamma if moved else None,
        sigma_delta=card.noise.sigma_delta or None,
        largest_attack_range=card.attack_range_limit if moved else None,
        default_attack_range=card.attack_range_default if moved else None,
        accuracy=dict(card.accuracy) or None,
        calibrated_attack_ranges=sorted({c.attack_range for c in model.calibrations}),
    )
