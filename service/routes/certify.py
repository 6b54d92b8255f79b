"""``POST /v1/certify``."""

import time

from fastapi import APIRouter, Request

from certification.plan import CertificationPlan

from ..body import read_submission
from ..certifier import Certifier, Task
from ..engine import Cancellation
from ..openapi import problems, submission
from ..schemas import CertifyFields, CertifyReply
from ..services import Services, client_gone, services_of

router = APIRouter(tags=["answers"])


@router.post(
    "/v1/certify",
    summary="Certify the smoothed classifier's answer for an image",
    openapi_extra=submission(CertifyFields),
    responses=problems(400, 408, 409, 413, 415, 422, 429, 500, 503),
)
async def certify(request: Request) -> CertifyReply:
    """An abstention is an answer too (200), with ``abstained`` true and a ``reason``."""
    services = services_of(request)
    certifier = services.lifecycle.certifier
    fields, image = await read_submission(request, CertifyFields)
    since = time.monotonic()
    task = await services.engine.check(lambda: certifier.prepare_certify(fields, image, since))
    request.scope["surety"].clock = task.clock
    reply = await services.engine.run(
        lambda cancellation: certified(services, certifier, task, cancellation), lambda: client_gone(request),
        seconds=task.seconds, short=task.short, deadline=task.deadline,
    )  # fmt: skip
    request.scope["surety"].votes = reply.counts.votes
    return reply


def certified(
    services: Services, certifier: Certifier, task: Task[CertificationPlan], cancellation: Cancellation
) -> CertifyReply:
    """Compute a certificate and store it; on a worker thread."""
    records = services.records
    records.check()
    task, reply = certifier.certify(task, cancellation)
    cancellation.check_wanted()
    return records.keep(task, reply, certifier.machine)
