"""What a route needs of its app."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from .engine import Engine
from .jobs import Jobs
from .lifecycle import Lifecycle
from .metrics import Metrics
from .records import Records
from .settings import Settings


@dataclass(frozen=True)
class Services:
    """The parts of one app; made by ``create_app``, kept in ``app.state.services``."""

    settings: Settings
    metrics: Metrics
    engine: Engine
    lifecycle: Lifecycle
    records: Records
    jobs: Jobs


def services_of(request: Request) -> Services:
    """The parts of the app that got this request."""
    return cast(Services, request.app.state.services)


async def client_gone(request: Request) -> None:
    """Return once the client has closed the connection; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
