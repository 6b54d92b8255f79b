"""The calls of the clients, sync and async: names and types of their arguments, and the requests they make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from .exchange import Call
from .schemas import BoundsReply, CertifyReply, HealthReply, ModelReply, ModelsReply, PredictReply, Reply
from .upload import file_bytes

if TYPE_CHECKING:
    from .upload import ImageLike

R = TypeVar("R", bound=Reply)


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

    def ready(self) -> Call[HealthReply]:
        """``GET /health/ready``: whether requests are served; Refused (503) if not yet, after the retries."""
        return Call(HealthReply, "GET", "/health/ready")


def _submission(reply: type[R], path: str, image: ImageLike, fields: dict[str, Any]) -> Call[R]:
    files = {"image": ("image", file_bytes(image))}
    return Call(reply, "POST", path, {"files": files, "data": _given(fields)})


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
