"""``POST /v1/predict``."""

import time

from fastapi import APIRouter, Request

from ..body import read_submission
from ..openapi import problems, submission
from ..schemas import PredictFields, PredictReply
from ..services import client_gone, services_of

router = APIRouter(tags=["answers"])


@router.post(
    "/v1/predict",
    summary="The smoothed classifier's label for an image, without a radius",
    openapi_extra=submission(PredictFields),
    responses=problems(400, 408, 413, 415, 422, 429, 500, 503),
)
async def predict(request: Request) -> PredictReply:
    """The label is the smoothed classifier's with probability at least 1 - alpha; else it abstains (200)."""
    services = services_of(request)
    certifier = services.lifecycle.certifier
    fields, image = await read_submission(request, PredictFields)
    since = time.monotonic()
    task = await services.engine.check(lambda: certifier.prepare_predict(fields, image, since))
    request.scope["surety"].clock = task.clock
    reply = await services.engine.run(
        lambda cancellation: certifier.predict(task, cancellation), lambda: client_gone(request),
        seconds=task.seconds, short=task.short, deadline=task.deadline,
    )  # fmt: skip
    request.scope["surety"].votes = reply.counts.votes
    return reply
