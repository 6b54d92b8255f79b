"""The Open Inference Protocol, version 2 (``/v2``), for clients of KServe and Triton."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Request, Response

from certification import __version__

from ..access import NEEDED, demand
from ..body import BINARY, COMPRESSED, JSON, check_head, decompress, encoding_of, read_body
from ..certifier import Task
from ..engine import Cancellation
from ..errors import ContentTypeError, MalformedBodyError, UnknownResourceError, of_row, quote
from ..images import DecodedImage
from ..inference import VERSION, describe, read_inference, write_reply
from ..inference_schemas import (
    InferenceReply,
    InferenceRequest,
    LiveReply,
    ModelMetadataReply,
    ModelReadyReply,
    ReadyReply,
    ServerMetadataReply,
)
from ..openapi import inference_problems, inference_submission
from ..schemas import AnswerReply, CertifyFields
from ..services import client_gone, services_of
from . import health
from .certify import certified
from .models import find_model

JSON_LENGTH = "Inference-Header-Content-Length"
A = TypeVar("A", bound=AnswerReply)
T = TypeVar("T", bound=Task[Any])
Image = bytes | DecodedImage

router = APIRouter(tags=["Open Inference Protocol"])


@router.get("/v2", summary="The server", responses=inference_problems(500))
async def server() -> ServerMetadataReply:
    """Answers also before the server is ready."""
    return ServerMetadataReply(name="surety", version=__version__, extensions=["binary_tensor_data"])


@router.get("/v2/health/live", summary="Whether the process answers", responses=inference_problems(500))
async def live() -> LiveReply:
    """As ``/health/live``."""
    return LiveReply(live=True)


@router.get("/v2/health/ready", summary="Whether requests are served", responses=inference_problems(500, 503))
async def ready(request: Request) -> ReadyReply:
    """As ``/health/ready``."""
    await health.ready(request)
    return ReadyReply(ready=True)


async def metadata(request: Request, model_id: str) -> ModelMetadataReply:
    """``image`` is given as UINT8; it may also be sent as BYTES [N], image files, or as FP32."""
    return describe(find_model(request, model_id).card)


async def model_ready(request: Request, model_id: str) -> ModelReadyReply:
    """All models become ready at once."""
    await health.ready(request)
    return ModelReadyReply(name=find_model(request, model_id).card.id, ready=True)


async def infer(request: Request, model_id: str) -> Response:
    """Parameters are the fields of ``/v1/certify``; without any, and without ``certify``, it predicts."""
    services = services_of(request)
    certifier, most = services.lifecycle.certifier, services.settings.max_infer_images
    card = find_model(request, model_id).card
    body, json_length = await _read(request)
    asked = await services.engine.check(lambda: read_inference(body, json_length, card, most))
    fields, images = asked.fields, asked.images
    if isinstance(fields, CertifyFields):
        demand(request.scope, NEEDED["/v1/certify"])
    answers: Sequence[AnswerReply]
    if isinstance(fields, CertifyFields):
        answers = await _answers(
            request, images, partial(certifier.prepare_certify, fields), partial(certified, services, certifier)
        )
    else:
        answers = await _answers(request, images, partial(certifier.prepare_predict, fields), certifier.predict)
    request.scope["surety"].votes = sum(answer.counts.votes for answer in answers)
    content, length = write_reply(asked, answers)
    if length is None:
        return Response(content, media_type=JSON)
    return Response(content, media_type=BINARY, headers={JSON_LENGTH: str(length)})


async def _read(request: Request) -> tuple[bytes, str | None]:
    """The body, and what the header says of its JSON's length."""
    content_type = check_head(request, COMPRESSED)
    # Triton's and KServe's own clients name no content type.
    if content_type not in ("", JSON, BINARY):
        raise ContentTypeError(
            f"content type {quote(content_type)} is not supported: send {JSON} or {BINARY}", supported=[JSON, BINARY]
        )
    lengths = request.headers.getlist(JSON_LENGTH)
    if len(lengths) > 1:
        raise MalformedBodyError(f"{JSON_LENGTH} is given more than once")
    body = await read_body(request)
    encoding, services = encoding_of(request), services_of(request)
    if encoding in COMPRESSED:
        most = services.settings.max_body_bytes
        body = await services.engine.check(lambda: decompress(body, encoding, most))
    return body, lengths[0] if lengths else None


async def _answers(
    request: Request, images: Sequence[Image], prepare: Callable[..., T], compute: Callable[[T, Cancellation], A]
) -> list[A]:
    """One image after another, under one permit and one deadline."""
    engine = services_of(request).engine
    # Each row is decoded in a turn of its own, so that a batch does not hold up the requests behind it.
    once = partial(prepare, since=time.monotonic())
    tasks = [await engine.check(partial(_prepare_row, once, row, image)) for row, image in enumerate(images)]
    request.scope["surety"].clock = tasks[0].clock
    short, seconds = len(tasks) == 1 and tasks[0].short, sum(task.seconds for task in tasks)
    return await engine.run(
        lambda cancellation: [compute(task, cancellation) for task in tasks], lambda: client_gone(request),
        seconds=seconds, short=short, deadline=tasks[0].deadline,
    )  # fmt: skip


def _prepare_row(prepare: Callable[[Image], T], row: int, image: Image) -> T:
    with of_row(row):
        return prepare(image)


async def _only_version(version: str) -> None:
    if version != VERSION:
        raise UnknownResourceError(f"no version {quote(version)}; there is version {VERSION} of every model")


# Every path is written out twice: routers inside one another would hide it from the metrics.
OF_MODEL = "/v2/models/{model_id}"
for path, checks in ((OF_MODEL, []), (f"{OF_MODEL}/versions/{{version}}", [Depends(_only_version)])):
    router.get(
        path,
        summary="What a model takes and gives",
        dependencies=checks,
        responses=inference_problems(404, 422, 500, 503),
    )(metadata)
    router.get(
        f"{path}/ready",
        summary="Whether a model is served",
        dependencies=checks,
        responses=inference_problems(404, 422, 500, 503),
    )(model_ready)
    router.post(
        f"{path}/infer",
        summary="Predict or certify images, one a row",
        dependencies=checks,
        response_class=Response,
        openapi_extra=inference_submission(InferenceRequest, InferenceReply),
        responses=inference_problems(400, 404, 408, 409, 413, 415, 422, 429, 500, 503),
    )(infer)
