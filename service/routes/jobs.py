"""``/v1/jobs``: certificates of one or many images, computed while nobody waits."""

import re
from functools import partial

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from certification.plan import CertificationPlan

from ..body import read_submissions
from ..certifier import Certifier, Task
from ..errors import FieldError, of_item
from ..job_events import last_seen
from ..job_recipe import digest_of
from ..job_tables import UNFINISHED
from ..openapi import problems, submission
from ..schemas import CertifyFields, JobReply
from ..services import services_of

router = APIRouter(tags=["jobs"])

HEADER = "Idempotency-Key"
KEY = re.compile(r'"([ !#-\[\]-~]{1,255})"|([!#-\[\]-~]{1,255})')
"""A string of RFC 9651 without escapes, or the same bare, as many clients send it."""
KEY_PARAMETER = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 257},
    "description": "The same key with the same request makes one job, however often it is sent.",
}
EVENT_ID_PARAMETER = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "Number of the last event that was received; what is none of this job's begins anew.",
}


@router.post(
    "/v1/jobs",
    status_code=202,
    summary="Certify one or many images while nobody waits",
    openapi_extra={**submission(CertifyFields, many=True), "parameters": [KEY_PARAMETER]},
    responses=problems(400, 408, 409, 413, 415, 422, 429, 500, 503),
)
async def submit(request: Request, response: Response) -> JobReply:
    """Everything that can be refused is refused now, with ``item`` where one image is at fault."""
    services = services_of(request)
    certifier, jobs, owner = services.lifecycle.loaded, services.jobs, _owner(request)
    _ = jobs.store
    key = _idempotency_key(request)
    fields, images = await read_submissions(request, CertifyFields, services.settings.max_job_images)
    digest = await services.engine.check(partial(digest_of, fields, images))
    job = await jobs.known(owner, key, digest)
    if job is None:
        # Each image is decoded in a turn of its own, so that a job does not hold up the requests behind it.
        tasks = [
            await services.engine.check(partial(_prepare, certifier, fields, number, image))
            for number, image in enumerate(images)
        ]
        job = await jobs.submit(owner, key, digest, tasks, fields.deadline_ms)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return job


@router.get("/v1/jobs/{job_id}", summary="A job and what came of it", responses=problems(404, 409, 422, 500, 503))
async def get_job(request: Request, job_id: str) -> JobReply:
    """Each image's reply, as soon as it is done."""
    services = services_of(request)
    _ = services.lifecycle.loaded
    return await services.jobs.get(job_id, _owner(request))


@router.delete("/v1/jobs/{job_id}", summary="Cancel a job", responses=problems(404, 409, 422, 500, 503))
async def cancel_job(request: Request, job_id: str) -> JobReply:
    """What runs stops at its next batch, what is done stays; a job that is over stays as it is."""
    services = services_of(request)
    _ = services.lifecycle.loaded
    return await services.jobs.cancel(job_id, _owner(request))


@router.get(
    "/v1/jobs/{job_id}/events",
    summary="What happens to a job, as server-sent events",
    response_class=Response,
    openapi_extra={"parameters": [EVENT_ID_PARAMETER]},
    responses={
        200: {"description": "The events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
        204: {"description": "The job is over and its last event was received."},
        **problems(404, 409, 422, 429, 500, 503),
    },
)
async def events(request: Request, job_id: str) -> Response:
    """From the beginning, or after ``Last-Event-ID``, until the job is over."""
    services = services_of(request)
    _ = services.lifecycle.loaded
    status, newest = await services.jobs.head(job_id, _owner(request))
    after = last_seen(request.headers.get("last-event-id"), newest)
    if status not in UNFINISHED and after == newest:
        return Response(status_code=204)  # what makes a browser's EventSource stop
    headers = {"X-Accel-Buffering": "no"}
    stream = services.jobs.follow(job_id, after, _owner(request))
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


def _owner(request: Request) -> str:
    """The name of the request's key; empty where there are no keys."""
    return request.scope["surety"].key or ""


def _idempotency_key(request: Request) -> str | None:
    given = request.headers.getlist(HEADER)
    if not given:
        return None
    matched = KEY.fullmatch(given[0].strip())
    if len(given) > 1 or matched is None:
        raise FieldError(f"{HEADER} must be one key of 1 to 255 printable ASCII characters", field=HEADER)
    return matched[1] or matched[2]


def _prepare(certifier: Certifier, fields: CertifyFields, number: int, image: bytes) -> Task[CertificationPlan]:
    with of_item(number):
        return certifier.prepare_certify(fields, image)
