"""``POST /v1/certify``."""

from fastapi import APIRouter, Request

from ..body import read_submission
from ..engine import Cancellation
from ..openapi import problems, submission
from ..schemas import CertifyFields, CertifyReply
from ..services import client_gone, services_of

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
    task = await services.engine.check(lambda: certifier.prepare_certify(fields, image))

    def work(cancellation: Cancellation) -> CertifyReply:
        services.records.check()
        reply = certifier.certify(task, cancellation)
        cancellation.check()
        return services.records.keep(task, reply, certifier.device)

    return await services.engine.run(work, lambda: client_gone(request))
