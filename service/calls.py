"""The calls of the clients, sync and async: names and types of their arguments, and the requests they make."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from .exchange import Call
from .schemas import (
    BoundsReply,
    CertifyReply,
    HealthReply,
    JobReply,
    ModelReply,
    ModelsReply,
    PredictReply,
    Reply,
    SignedCertificateReply,
    SigningKeyReply,
    VerifyReply,
)
from .upload import file_bytes

if TYPE_CHECKING:
    from .upload import ImageLike

R = TypeVar("R", bound=Reply)
IDEMPOTENCY_KEY = re.compile(r"[ !#-\[\]-~]{1,255}")
KEY_BYTES = 24


class Calls:
    """What a server can be asked; each client has these as methods, which ask it and give the reply.

    A field that is None is left to the server's default. Fields that are not named here (``more``) are sent as they
    are: a server that knows them takes them, another refuses them by name.
    """

    def certify(
        self,
        /,
        image: ImageLike,
        *,
        model: str | None = None,
        transformation: str | None = None,
        guarantee: str | None = None,
        attack_range: float | None = None,
        image_is: str | None = None,
        alpha: float | None = None,
        wanted_radius: float | None = None,
        procedure: str | None = None,
        estimator: str | None = None,
        n0: int | None = None,
        n: int | None = None,
        n_delta: int | None = None,
        n_error: int | None = None,
        deadline_ms: int | None = None,
        **more: Any,
    ) -> Call[CertifyReply]:
        """``POST /v1/certify``: a certificate, or an abstention, which is an answer too.

        Parameters
        ----------
        image : path, bytes of a file, PIL image, or array of uint8 [H, W] or [H, W, C]
        model, ..., deadline_ms
            The request's fields, with their units and ranges in docs/api.md.

        Raises
        ------
        Refused, Unreachable, BadReply
            All are ClientError.
        OSError, ValueError, TypeError
            If there is no such file, or the image or a field is none that can be sent.
        """
        fields = {
            "model": model, "transformation": transformation, "guarantee": guarantee, "attack_range": attack_range,
            "image_is": image_is, "alpha": alpha, "wanted_radius": wanted_radius, "procedure": procedure,
            "estimator": estimator, "n0": n0, "n": n, "n_delta": n_delta, "n_error": n_error,
            "deadline_ms": deadline_ms,
        }  # fmt: skip
        return _submission(CertifyReply, "/v1/certify", image, fields | more)

    def predict(
        self,
        /,
        image: ImageLike,
        *,
        model: str | None = None,
        transformation: str | None = None,
        guarantee: str | None = None,
        alpha: float | None = None,
        procedure: str | None = None,
        estimator: str | None = None,
        n0: int | None = None,
        n: int | None = None,
        n_delta: int | None = None,
        deadline_ms: int | None = None,
        **more: Any,
    ) -> Call[PredictReply]:
        """``POST /v1/predict``: the smoothed classifier's label, or an abstention; as ``certify`` otherwise."""
        fields = {
            "model": model, "transformation": transformation, "guarantee": guarantee, "alpha": alpha,
            "procedure": procedure, "estimator": estimator, "n0": n0, "n": n, "n_delta": n_delta,
            "deadline_ms": deadline_ms,
        }  # fmt: skip
        return _submission(PredictReply, "/v1/predict", image, fields | more)

    def models(self) -> Call[ModelsReply]:
        """``GET /v1/models``: all models."""
        return Call(ModelsReply, "GET", "/v1/models")

    def model(self, model_id: str) -> Call[ModelReply]:
        """``GET /v1/models/{model_id}``: one model; Refused (404) if there is none of this id."""
        return Call(ModelReply, "GET", f"/v1/models/{quote(model_id, safe='')}")

    def bounds(
        self, /, *, model: str | None = None, transformation: str | None = None, **more: Any
    ) -> Call[BoundsReply]:
        """``GET /v1/bounds``: the calibrated distributional bounds, all or those of a model or transformation."""
        asked = {"model": model, "transformation": transformation, **more}
        return Call(BoundsReply, "GET", "/v1/bounds", {"params": _given(asked)})

    def submit_job(
        self, /, images: Iterable[ImageLike], *, idempotency_key: str | None = None, **fields: Any
    ) -> Call[JobReply]:
        """``POST /v1/jobs``: certificates of all these images, computed while nobody waits (docs/jobs.md).

        Parameters
        ----------
        images : list of images
            Each as ``certify`` takes it.
        idempotency_key : str
            1 to 255 printable ASCII characters but ``"`` and ``\\``: the same key with the same images and fields is
            the same job, however often it is sent. None: one that is new, so that this call's own retries send one job.
        fields
            Those of ``certify``, the same for all images.

        Raises
        ------
        Refused, Unreachable, BadReply, OSError, ValueError, TypeError
            As ``certify``; ``members["item"]`` of a refusal says which image is at fault, counted from 0.
        """
        if isinstance(images, str | bytes | PathLike):
            raise TypeError("a job is sent with a list of images, not with one")
        key = secrets.token_urlsafe(KEY_BYTES) if idempotency_key is None else idempotency_key
        if not IDEMPOTENCY_KEY.fullmatch(key):
            raise ValueError('idempotency_key must be 1 to 255 printable ASCII characters other than " and \\')
        content = {
            "files": [("image", ("image", file_bytes(image))) for image in images],
            "data": _given(fields),
            "headers": {"Idempotency-Key": f'"{key}"'},
        }
        return Call(JobReply, "POST", "/v1/jobs", content, status=202, repeatable=True)

    def job(self, job_id: str) -> Call[JobReply]:
        """``GET /v1/jobs/{job_id}``: a job and what came of it so far; Refused (404) if there is none of this id."""
        return Call(JobReply, "GET", _job_path(job_id), repeatable=True)

    def cancel_job(self, job_id: str) -> Call[JobReply]:
        """``DELETE /v1/jobs/{job_id}``: end a job; one that is over stays as it is. As ``job`` otherwise."""
        return Call(JobReply, "DELETE", _job_path(job_id), repeatable=True)

    def certificate(self, certificate_id: str) -> Call[SignedCertificateReply]:
        """``GET /v1/certificates/{id}``: a stored certificate with its signature; Refused (404) if there is none."""
        return Call(SignedCertificateReply, "GET", _certificate(certificate_id))

    def verify(
        self, /, certificate_id: str, image: ImageLike | None = None, *, deadline_ms: int | None = None, **more: Any
    ) -> Call[VerifyReply]:
        """``POST /v1/certificates/{id}/verify``: whether it holds; without an image, for the one that was stored."""
        path, fields = f"{_certificate(certificate_id)}/verify", {"deadline_ms": deadline_ms, **more}
        if image is None:
            return Call(VerifyReply, "POST", path, {"json": _given(fields)}, deadline=_deadline(fields))
        return _submission(VerifyReply, path, image, fields)

    def signing_key(self) -> Call[SigningKeyReply]:
        """``GET /v1/keys/signing``: the public key that signs certificates."""
        return Call(SigningKeyReply, "GET", "/v1/keys/signing")

    def ready(self) -> Call[HealthReply]:
        """``GET /health/ready``: whether requests are served; Refused (503) if not yet, after the retries."""
        return Call(HealthReply, "GET", "/health/ready")


def _submission(reply: type[R], path: str, image: ImageLike, fields: dict[str, Any]) -> Call[R]:
    files = {"image": ("image", file_bytes(image))}
    return Call(reply, "POST", path, {"files": files, "data": _given(fields)}, deadline=_deadline(fields))


def _deadline(fields: dict[str, Any]) -> float:
    """In seconds; 0 if none is named."""
    return (fields["deadline_ms"] or 0) / 1000.0


def _job_path(job_id: str) -> str:
    return f"/v1/jobs/{quote(job_id, safe='')}"


def _certificate(certificate_id: str) -> str:
    return f"/v1/certificates/{quote(certificate_id, safe='')}"


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
