"""Exception class -> status, label, title; the label is the problem's ``type`` and its label in the metrics.

Every refusal leaves the server as ``application/problem+json`` (RFC 9457) with the members ``type``,
``title``, ``status``, ``detail``, ``instance`` and what the exception adds (``field``, ``required``, ...).
"""

from __future__ import annotations

import json
import reprlib
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from certification.vocabulary import CalibrationError, PlanError

TYPE_PREFIX = "urn:surety:problem:"
QUOTED_CHARACTERS = 60
INFERENCE_PATH = "/v2"
"""Below it the Open Inference Protocol is spoken, which has its own form of errors."""


class RequestError(Exception):
    """A request that is answered with a problem; ``members`` are added to its body."""

    def __init__(self, detail: str, **members: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members


class BodyTooLargeError(RequestError):
    """More bytes than the server takes."""


class BodyTimeoutError(RequestError):
    """The body did not arrive in time."""


class MalformedBodyError(RequestError):
    """The body is not what its content type says."""


class ContentTypeError(RequestError):
    """A content type or content encoding that is not supported."""


class FieldError(RequestError):
    """A field is unknown, missing, given twice, of the wrong type or out of range."""


class ImageEmptyError(RequestError):
    """The image has no bytes."""


class ImageFormatError(RequestError):
    """Not an image in a supported format."""


class ImageUnreadableError(RequestError):
    """An image that is truncated or damaged."""


class ImagePixelsError(RequestError):
    """More pixels than the server decodes."""


class ImageShapeError(RequestError):
    """Height and width are not the model's."""


class ImageChannelsError(RequestError):
    """A colour image for a model of grey images."""


class UnknownResourceError(RequestError):
    """No model has this id."""


class UnknownCertificateError(RequestError):
    """No certificate has this id, or none is kept."""


class DeletionDisabledError(RequestError):
    """Clients may not delete certificates here."""


class RecordsUnavailableError(RequestError):
    """The database of certificates cannot be used now."""


class UnknownJobError(RequestError):
    """No job has this id, or it is another key's."""


class JobsDisabledError(RequestError):
    """Without records there is no database that jobs could be kept in."""


class JobLimitError(RequestError):
    """Too many jobs are unfinished."""


class IdempotencyError(RequestError):
    """The idempotency key belongs to another request."""


class ModelChangedError(RequestError):
    """The model that a job was planned for is another one by now, or gone."""


class GivenUpError(RequestError):
    """Servers ended again and again while they computed this."""


class AttackRangeError(RequestError):
    """The attack range is wider than the model or its calibration allows."""


class ModelTransformationError(RequestError):
    """The model was not trained for this transformation."""


class CalibrationMissingError(RequestError):
    """No distributional bound was calibrated for this model and transformation."""


class OverloadedError(RequestError):
    """Too many seconds of work wait already."""


class NotReadyError(RequestError):
    """Models are being loaded, or loading failed."""


class DeviceFailedError(RequestError):
    """The device failed while it computed this."""


class PoisonedError(RequestError):
    """The worker process died twice under this very request."""


class DrainingError(RequestError):
    """The server is shutting down."""


class VoteEnginesError(RequestError):
    """No vote engine of the cluster could make the run."""


class EnginesDiedError(VoteEnginesError):
    """Vote engines died under this very request."""


class ClientGoneError(RequestError):
    """Nobody waits for the answer any more."""


class UnauthenticatedError(RequestError):
    """No API key, or none that is valid."""


class ScopeError(RequestError):
    """The key's scopes do not allow this."""


class RateError(RequestError):
    """More requests a minute than the key may send."""


class BudgetError(RequestError):
    """The key's votes of today are used up."""


@contextmanager
def of_item(number: int) -> Iterator[None]:
    """A refusal of an image of a job says which one it is."""
    with _numbered("image", number, item=number):
        yield


@contextmanager
def of_row(row: int) -> Iterator[None]:
    """A refusal of an image in a tensor says which row it is."""
    with _numbered("row", row, row=row):
        yield


@contextmanager
def _numbered(word: str, number: int, **member: int) -> Iterator[None]:
    try:
        yield
    except RequestError as error:
        if error.members.get("field") != "image":
            raise
        raise type(error)(f"{word} {number}: {error.detail}", **error.members, **member) from error


@dataclass(frozen=True)
class Kind:
    """What a class of problems has in common."""

    status: int
    label: str
    title: str


ERROR_TABLE: Mapping[type[Exception], Kind] = {
    BodyTooLargeError: Kind(413, "body_too_large", "The request body is too large"),
    BodyTimeoutError: Kind(408, "body_timeout", "The request body took too long"),
    MalformedBodyError: Kind(400, "malformed_body", "The request body cannot be parsed"),
    ContentTypeError: Kind(415, "content_type", "Unsupported content type"),
    FieldError: Kind(422, "invalid_field", "A field is invalid"),
    ImageEmptyError: Kind(422, "image_empty", "The image is empty"),
    ImageFormatError: Kind(415, "image_format", "Not a supported image"),
    ImageUnreadableError: Kind(422, "image_unreadable", "The image is truncated or damaged"),
    ImagePixelsError: Kind(413, "image_pixels", "The image has too many pixels"),
    ImageShapeError: Kind(422, "image_shape", "The image has the wrong size for the model"),
    ImageChannelsError: Kind(422, "image_channels", "The image has the wrong channels for the model"),
    UnknownResourceError: Kind(404, "unknown_model", "No such model"),
    UnknownCertificateError: Kind(404, "unknown_certificate", "No such certificate"),
    DeletionDisabledError: Kind(403, "deletion_disabled", "Certificates cannot be deleted here"),
    RecordsUnavailableError: Kind(503, "records_unavailable", "The certificate cannot be stored or read now"),
    UnknownJobError: Kind(404, "unknown_job", "No such job"),
    JobsDisabledError: Kind(409, "jobs_disabled", "This server keeps no jobs"),
    JobLimitError: Kind(429, "job_limit", "Too many jobs are unfinished"),
    IdempotencyError: Kind(422, "idempotency_key", "The idempotency key belongs to another request"),
    ModelChangedError: Kind(409, "model_changed", "The model has changed since the job was sent"),
    GivenUpError: Kind(500, "given_up", "The server ended too often while it computed this"),
    AttackRangeError: Kind(422, "attack_range", "The attack range is too wide"),
    ModelTransformationError: Kind(422, "model_transformation", "The model does not serve this transformation"),
    CalibrationMissingError: Kind(409, "calibration_missing", "There is no calibrated error bound"),
    CalibrationError: Kind(422, "calibration", "The calibrated error bound does not cover this request"),
    PlanError: Kind(422, "cannot_certify", "This request can never yield a certificate"),
    OverloadedError: Kind(429, "overloaded", "The server is busy"),
    NotReadyError: Kind(503, "not_ready", "The server is not ready"),
    DeviceFailedError: Kind(503, "device_failed", "The device failed"),
    PoisonedError: Kind(422, "poisoned", "This request brings the worker down"),
    DrainingError: Kind(503, "draining", "The server is shutting down"),
    VoteEnginesError: Kind(503, "vote_engines", "No vote engine could make the run"),
    ClientGoneError: Kind(499, "client_gone", "The client closed the connection"),
    UnauthenticatedError: Kind(401, "unauthenticated", "A valid API key is needed"),
    ScopeError: Kind(403, "scope", "The API key does not allow this"),
    RateError: Kind(429, "rate", "Too many requests with this API key"),
    BudgetError: Kind(429, "budget", "The votes of this API key are used up for today"),
    MemoryError: Kind(503, "out_of_memory", "The server is short of memory"),
}
HTTP_KINDS: Mapping[int, Kind] = {
    400: Kind(400, "malformed_request", "This is not an HTTP request"),
    404: Kind(404, "not_found", "Nothing is here"),
    405: Kind(405, "method_not_allowed", "The method is not allowed here"),
}
INTERNAL = Kind(500, "internal", "The server failed")


def kind_of(error: Exception) -> Kind:
    """The entry of the nearest class in :data:`ERROR_TABLE`; anything else is the server's fault."""
    for cls in type(error).__mro__:
        if cls in ERROR_TABLE:
            return ERROR_TABLE[cls]
    return INTERNAL


def members_of(error: Exception) -> dict[str, Any]:
    """Extra members of the body that ``error`` carries."""
    members = dict(error.members) if isinstance(error, RequestError) else {}
    if isinstance(error, PlanError):
        members["field"] = error.field
        if error.required:
            members["required"] = dict(error.required)
    return members


def quote(value: object) -> str:
    """A client's value for a message: one line of ASCII, never long, and cheap whatever the value."""
    brief = reprlib.Repr()
    brief.maxstring = 4 * QUOTED_CHARACTERS
    text = brief.repr(value).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= QUOTED_CHARACTERS else text[: QUOTED_CHARACTERS - 3] + "..."


class ProblemResponse(Response):
    """A problem as ``application/problem+json``; ASCII only, so that no client's text can break it.

    Under :data:`INFERENCE_PATH` it is ``application/json`` and has the protocol's ``error`` beside its members.
    """

    media_type = "application/problem+json"

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        instance: str,
        members: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.kind = kind
        body = {
            "type": TYPE_PREFIX + kind.label,
            "title": kind.title,
            "status": kind.status,
            "detail": detail,
            "instance": urllib.parse.quote(instance),
            **(members or {}),
        }
        inference = instance == INFERENCE_PATH or instance.startswith(f"{INFERENCE_PATH}/")
        if inference:
            body = {"error": detail, **body}
        super().__init__(
            json.dumps(body),
            status_code=kind.status,
            headers=dict(headers or {}),
            media_type="application/json" if inference else None,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and leave the label for the request's metrics."""
        if "surety" in scope:
            scope["surety"].problem = self.kind.label
        await super().__call__(scope, receive, send)


def problem_of(error: Exception, instance: str) -> ProblemResponse:
    """The answer to an exception; an unforeseen one says nothing about its cause."""
    kind = kind_of(error)
    members = members_of(error)
    headers = {}
    if kind is INTERNAL:
        detail = "An unforeseen error was logged under this request's id."
    elif isinstance(error, MemoryError):
        detail = "The request needs more memory than is free now; try again later or ask for less."
    else:
        detail = str(error)
    if "retry_after_seconds" in members:
        headers["Retry-After"] = str(members["retry_after_seconds"])
    if kind.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="surety"'
    if kind.status in (408, 413):
        # The rest of the body may be unread: the connection cannot be used again.
        headers["Connection"] = "close"
    return ProblemResponse(kind, detail, instance=instance, members=members, headers=headers)


def problem_document(error: Exception, instance: str) -> dict[str, Any]:
    """The members of a problem, for what is told later than in an answer."""
    document: dict[str, Any] = json.loads(bytes(problem_of(error, instance).body))
    return document
