"""The service on Ray Serve: HTTP edges without a device, and vote engines that compute. Needs the extra ``ray``.

``serve run service.ray_app:app edges=2 most_engines=4 num_gpus=1``, or a configuration for ``serve deploy`` and
KubeRay: docs/scale-out.md. Every process reads its settings from its own environment.
"""

# Annotations are not put off here: Ray reads that of app's argument.
import asyncio
import logging
import os
import secrets
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.handle import DeploymentHandle
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.registry import Registry, load_registry

from . import logs
from .access import check_exposure
from .app import create_app
from .autoscaling import QueueSeconds
from .computing import Computed, Order, load_here
from .engine import Cancellation
from .errors import NotReadyError
from .metrics import Metrics
from .progress import Report
from .ray_computer import RayComputer
from .services import Services
from .settings import Settings
from .vote_engine import VoteEngine
from .worker import DEVICE_FAILED, is_device_failure

logger = logging.getLogger("surety")

UNLIMITED = 100_000
"""Requests in one replica: limits are those of the settings, which know seconds; no deadline passes unseen."""
SHUTDOWN_SECONDS = 10.0
ANYWHERE = "0.0.0.0"
LOOK_SECONDS = 0.1


class Scale(BaseModel):
    """How many processes there are, and what each needs; the arguments of :func:`app`.

    Fields
    ------
    edges
        HTTP edges.
    engines, most_engines
        Vote engines, at least and at most.
    queue_seconds
        Estimated seconds of work, waiting and running, for each engine; more or fewer are started to get there.
    num_cpus, num_gpus
        Of an engine; parts of a GPU let several share one.
    """

    model_config = ConfigDict(extra="forbid")

    edges: int = Field(default=1, ge=1)
    engines: int = Field(default=1, ge=1)
    most_engines: int = Field(default=1, ge=1)
    queue_seconds: float = Field(default=5.0, gt=0)
    num_cpus: float = Field(default=1.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)


class Engines(VoteEngine):
    """A vote engine as its environment says; its process ends when the device has failed, and Serve starts another."""

    def __init__(self) -> None:
        settings = Settings()
        logs.configure(settings)
        computer = load_here(settings)
        super().__init__(computer.registry, computer, settings)

    def _make(self, order: Order, cancellation: Cancellation, report: Report | None) -> Computed:
        try:
            return super()._make(order, cancellation, report)
        except Exception as error:
            if is_device_failure(error):
                logger.exception("the device failed")
                os._exit(DEVICE_FAILED)
            raise


class OneRequestId:
    """Leaves the answer's X-Request-ID to Serve's proxy, which adds what it has given to the request."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on but that header."""

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["x-request-id"]
            await send(message)

        await self._inner(scope, receive, send_on)


@serve.ingress()
class Edge:
    """The app of ``surety serve``, whose runs are made by the vote engines.

    Parameters
    ----------
    engines : DeploymentHandle
    secret : SecretStr
        What noise follows from, the same at every edge: the same request gets the same noise whichever of them it
        reaches. With secrets of their own a client would have as many tries at a certificate as there are edges.
    """

    def __init__(self, engines: DeploymentHandle[VoteEngine], secret: SecretStr) -> None:
        self._engines, self._secret = engines, secret

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve in every replica; raises SettingsError as :func:`app` does."""
        settings = _settings()
        logs.configure(settings)
        changes = {"noise_secret": self._secret, "max_running": settings.ray_orders}
        made = create_app(settings.model_copy(update=changes), load=self._load)
        made.add_middleware(OneRequestId)
        self._services: Services = made.state.services
        return made

    async def check_health(self) -> None:
        """Wait until the models are loaded and an engine is there, before which Serve sends no requests here."""
        lifecycle = self._services.lifecycle
        while lifecycle.failure is None:
            try:
                lifecycle.certifier  # noqa: B018
            except NotReadyError:
                await asyncio.sleep(LOOK_SECONDS)
            else:
                return
        raise RuntimeError(lifecycle.failure)

    def _load(self, settings: Settings, metrics: Metrics) -> tuple[Registry, RayComputer]:
        return load_registry([settings.zoo]), RayComputer(self._engines)


def app(scale: Scale) -> serve.Application:
    """What ``serve run`` and ``import_path`` name.

    The secret of the noise is ``SURETY_NOISE_SECRET``, or drawn here, once for all edges of this deployment.

    Raises
    ------
    SettingsError
        If anybody could reach the edges and there are no keys: Serve's proxies listen where it is told, often on
        all addresses.
    """
    settings = _settings()
    shutdown = settings.default_deadline_ms / 1000.0 + SHUTDOWN_SECONDS
    policy = AutoscalingPolicy(  # type: ignore[no-untyped-call]
        policy_function=QueueSeconds, policy_kwargs={"target_seconds": scale.queue_seconds}
    )
    common: dict[str, Any] = {"max_ongoing_requests": UNLIMITED, "graceful_shutdown_timeout_s": shutdown}
    engines = serve.deployment(
        ray_actor_options={"num_cpus": scale.num_cpus, "num_gpus": scale.num_gpus},
        autoscaling_config=AutoscalingConfig(
            min_replicas=scale.engines, max_replicas=max(scale.engines, scale.most_engines), policy=policy
        ),
        **common,
    )(Engines)
    edges = serve.deployment(num_replicas=scale.edges, **common)(Edge)
    return edges.bind(engines.bind(), settings.noise_secret or SecretStr(secrets.token_hex(32)))


def _settings() -> Settings:
    """Those of this process; raises SettingsError where they let strangers in."""
    settings = Settings()
    check_exposure(settings.model_copy(update={"host": ANYWHERE}))
    return settings
