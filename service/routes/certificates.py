"""Certificates that were stored: read, verified, deleted; and the public key that signs them."""

import time

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from certification.plan import CertificationPlan

from ..access import ADMIN, demand
from ..body import read_submissions
from ..certifier import Task
from ..errors import FieldError
from ..openapi import problems, submission
from ..schemas import SignedCertificateReply, SigningKeyReply, VerifyFields, VerifyReply
from ..services import Services, client_gone, services_of
from ..signing import ALGORITHM, Signed, SigningError, fingerprint
from ..store import Record
from ..verification import NotVerified, Verification

router = APIRouter(tags=["certificates"])


@router.get(
    "/v1/certificates/{certificate_id}",
    summary="A stored certificate with its signature",
    response_class=Response,
    responses={200: {"model": SignedCertificateReply}, **problems(404, 422, 500, 503)},
)
def get_certificate(request: Request, certificate_id: str) -> Response:
    """The signed document: what was asked, the answer, and everything the answer followed from."""
    return Response(_ready(request).records.get(certificate_id).signed, media_type="application/json")


@router.post(
    "/v1/certificates/{certificate_id}/verify",
    summary="Check a stored certificate by making its run again",
    openapi_extra=submission(VerifyFields, needs_image=False),
    responses=problems(400, 404, 408, 413, 415, 422, 429, 500, 503),
)
async def verify_certificate(request: Request, certificate_id: str) -> VerifyReply:
    """Send the image again, unless the server stored it; costs as much as the certificate did.

    Where the time is up before, nothing is known: ``verified`` is false and ``stopped_by`` says ``deadline``.
    """
    services = _ready(request)
    certifier, records = services.lifecycle.certifier, services.records
    record = await run_in_threadpool(records.get, certificate_id)
    fields, image = await _submission(request, record)
    since = time.monotonic()

    def prepare() -> tuple[Verification, Task[CertificationPlan]]:
        trusted = records.signing_key.public_key
        verification = Verification(Signed.from_text(record.signed), certifier, trusted)
        if verification.certificate.id != record.id:
            raise verification.refusal("it is stored under another id")
        return verification, verification.prepare(image, fields.deadline_ms, since)

    try:
        verification, task = await services.engine.check(prepare)
        request.scope["surety"].clock = task.clock
        reply = await services.engine.run(
            lambda cancellation: verification.replay(task, cancellation), lambda: client_gone(request),
            seconds=task.seconds, short=task.short, deadline=task.deadline,
        )  # fmt: skip
        request.scope["surety"].votes = verification.votes
        return reply
    except NotVerified as refusal:
        return refusal.reply
    except SigningError as error:
        return VerifyReply(
            verified=False,
            reason=f"the record is damaged: {error}",
            stopped_by=None,
            differences=[],
            runtime_differences=[],
            certificate_id=record.id,
            key_fingerprint=None,
            key_is_trusted=False,
        )


@router.delete(
    "/v1/certificates/{certificate_id}",
    summary="Delete a stored certificate",
    status_code=204,
    responses=problems(403, 404, 422, 500, 503),
)
def delete_certificate(request: Request, certificate_id: str) -> None:
    """Only where the operator allows it; where keys are demanded, with one of scope admin."""
    demand(request.scope, ADMIN)
    _ready(request).records.delete(certificate_id)


@router.get("/v1/keys/signing", summary="The public key that signs certificates", responses=problems(404, 500, 503))
async def signing_key(request: Request) -> SigningKeyReply:
    """In PEM, with its fingerprint: keep it, to verify certificates without this server."""
    key = _ready(request).records.signing_key
    return SigningKeyReply(algorithm=ALGORITHM, public_key=key.public_pem, fingerprint=fingerprint(key.public_key))


def _ready(request: Request) -> Services:
    """The parts of the app, once records are open."""
    services = services_of(request)
    _ = services.lifecycle.loaded
    return services


async def _submission(request: Request, record: Record) -> tuple[VerifyFields, bytes]:
    """The fields, and the image that was sent along, else the stored one."""
    fields, images = VerifyFields(), [] if record.image is None else [record.image]
    if "content-type" in request.headers:
        fields, sent = await read_submissions(request, VerifyFields, None, least=0)
        images = sent or images
    if not images:
        raise FieldError("image: the server did not store it: send it again", field="image")
    return fields, images[0]
