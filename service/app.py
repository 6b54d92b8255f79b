"""``create_app(settings)``: routes, middleware, exception handlers. No app at module level."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from certification import __version__
from certification.vocabulary import CertificationError

from .access import Access, Accounts
from .body import refusal
from .engine import Engine
from .errors import HTTP_KINDS, INTERNAL, Kind, ProblemResponse, RequestError, kind_of, problem_of
from .headers import SecurityHeaders, docs_policy
from .images import forbid_pillow_warnings
from .jobs import Jobs
from .keys import Keyring
from .lifecycle import Lifecycle, Load, load_models
from .metrics import Metrics
from .middleware import BodyLimit, RequestContext
from .openapi import DESCRIPTION, document
from .records import Records
from .routes import certificates, certify, health, inference, jobs, models, predict
from .services import Services
from .settings import Settings, SettingsError

if TYPE_CHECKING:
    from .tracing import Tracing

LEAST_SECRET = 32


def create_app(
    settings: Settings | None = None, *, load: Load = load_models, on_failure: Callable[[], None] = lambda: None
) -> FastAPI:
    """Make a service.

    Parameters
    ----------
    settings : Settings, optional
        From the environment by default.
    load : callable
        Loads the models and finds what computes; in this process by default.
    on_failure : callable
        Called on another thread when models could not be loaded; ``services.lifecycle.failure`` says why.

    Returns
    -------
    FastAPI
        Loads its models in the background once its lifespan begins.

    Raises
    ------
    SettingsError
        If the file of API keys cannot be read, the packages that traces need are not installed, or the secret of the
        noise is short.
    """
    settings = settings or Settings()
    secret = settings.noise_secret
    if secret is not None and len(secret.get_secret_value()) < LEAST_SECRET:
        raise SettingsError(f"SURETY_NOISE_SECRET has less than {LEAST_SECRET} characters: openssl rand -hex 32")
    engine = Engine(
        settings.max_running, settings.max_queue_seconds, short_seconds=settings.short_seconds,
        patience=settings.patience_seconds,
    )  # fmt: skip
    metrics = Metrics(engine)
    records = Records(settings, metrics)
    lifecycle = Lifecycle(settings, metrics, records, load, on_failure)
    accounts = None if settings.keys_file is None else Accounts(Keyring(settings.keys_file), metrics)
    services = Services(
        settings, metrics, engine, lifecycle, records, Jobs(settings, metrics, engine, lifecycle, records, accounts)
    )
    tracing = _tracing(settings.otel_endpoint)
    forbid_pillow_warnings()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        services.lifecycle.start()
        services.jobs.start()
        yield
        await services.jobs.close()
        engine.abort()
        engine.close()
        services.lifecycle.close()
        records.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)

    app = FastAPI(
        title="Surety",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
    )
    app.state.services = services
    app.openapi = document(app)  # type: ignore[method-assign]
    for module in (predict, certify, jobs, certificates, models, inference, health):
        app.include_router(module.router)
    app.add_exception_handler(RequestError, _answer)
    app.add_exception_handler(CertificationError, _answer)
    app.add_exception_handler(MemoryError, _answer)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_middleware(BodyLimit, settings=settings)
    if accounts is not None:
        app.add_middleware(Access, accounts=accounts, metrics_open=settings.metrics_open)
    app.add_middleware(RequestContext, metrics=metrics, tracing=tracing, engine=engine)
    app.add_middleware(SecurityHeaders, docs=app.docs_url, policy=docs_policy(app))
    return app


def _tracing(endpoint: str | None) -> Tracing | None:
    if endpoint is None:
        return None
    try:
        from .tracing import Tracing
    except ImportError as error:
        raise SettingsError(f"SURETY_OTEL_ENDPOINT needs the extra 'otel' (surety[otel]): {error}") from error
    return Tracing(endpoint)


async def _answer(request: Request, error: Exception) -> Response:
    if kind_of(error) is INTERNAL:
        raise error  # logged and answered by RequestContext, like everything unforeseen
    return problem_of(error, request.scope["path"])


async def _answer_validation(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    listed = [{**one, "loc": one["loc"][1:] or one["loc"]} for one in error.errors()]
    return problem_of(refusal(listed), request.scope["path"])


async def _answer_http(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: unknown paths and methods, and OPTIONS, which is answered."""
    if not isinstance(error, HTTPException):
        raise error
    headers = dict(error.headers or {})
    if error.status_code == 405:
        allowed = {method.strip() for method in headers.get("Allow", "").split(",")} | {"OPTIONS"}
        # Starlette names the methods of the first route that has this path; there may be others.
        path = getattr(request.scope.get("route"), "path", None)
        for route in iter_route_contexts(request.app.routes):
            allowed |= set(route.methods or ()) if route.path == path else set()
        headers["Allow"] = ", ".join(sorted(allowed | ({"HEAD"} if "GET" in allowed else set())))
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={"Allow": headers["Allow"]})
    kind = HTTP_KINDS.get(error.status_code) or Kind(error.status_code, "http", str(error.detail))
    return ProblemResponse(kind, str(error.detail), instance=request.scope["path"], headers=headers)
