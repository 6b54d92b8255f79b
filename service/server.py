"""Running the service: a server that drains on SIGTERM before it closes its sockets."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from . import logs
from .access import check_exposure
from .app import create_app
from .protocol import timed_protocol
from .services import Services
from .settings import Settings, SettingsError
from .worker import SWITCH_SECONDS

logger = logging.getLogger("surety")
PARTIAL_SECONDS = 2.0
"""For works to answer with what they have, once ``drain_seconds`` are over."""
CLOSING_SECONDS = 3
"""For answers on their way, after the work has ended."""


class DrainingServer(uvicorn.Server):
    """After the first SIGTERM or SIGINT: no new work (503, not ready) until what runs is done.

    When ``drain_seconds`` are over, what still runs answers with what it has shown. Jobs are given back at once, for
    another server, or this one after its restart.

    Health and metrics answer meanwhile. A second signal stops at once.
    """

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services
        self._deadline: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self._services.settings.drain_seconds
            self._services.engine.drain()
        else:
            self.should_exit = True
            self.force_exit = sig == signal.SIGINT

    async def on_tick(self, counter: int) -> bool:
        """Called every tenth of a second."""
        engine, jobs = self._services.engine, self._services.jobs
        if self._deadline is not None:
            jobs.drain()
            late = time.monotonic() - self._deadline
            if late >= 0.0:
                engine.hurry()
            if (engine.idle and jobs.idle) or late >= PARTIAL_SECONDS:
                if not engine.idle:
                    logger.warning("work did not answer after drain_seconds and is given up")
                engine.abort()
                self.should_exit = True
        return await super().on_tick(counter)


def configuration(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves an app."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=timed_protocol(settings.head_seconds, settings.body_seconds),
        loop="asyncio",  # also where an extra has installed another one
        ws="none",
        lifespan="on",
        log_config=None,
        log_level=settings.log_level,
        access_log=False,  # middleware.py writes that line, without the query, which may hold anything
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )


def serve(settings: Settings) -> int:
    """Serve until a signal.

    Returns the exit status: 0, 1 if the models could not be loaded or the address is taken, 2 for wrong settings.
    """
    logs.configure(settings)

    def stop() -> None:
        server.should_exit = True

    try:
        check_exposure(settings)
        app = create_app(settings, on_failure=stop)
    except SettingsError as error:
        print(f"surety: {error}", file=sys.stderr)
        return 2
    services: Services = app.state.services
    server = DrainingServer(configuration(app, settings), services)
    sys.setswitchinterval(SWITCH_SECONDS)
    # What libraries have made stays; to look through it for garbage would stop every thread for a third of a second.
    gc.freeze()
    failure: str | None
    try:
        server.run()
        failure = services.lifecycle.failure
    except SystemExit:
        failure = f"cannot listen on {settings.host}, port {settings.port}: the log says why"
    if failure is not None:
        print(f"surety: {failure}", file=sys.stderr)
    status = 0 if failure is None else 1
    if services.lifecycle.is_loading or not (services.engine.idle and services.jobs.idle):
        # A thread that did not stop in time would keep the interpreter from ending, or abort it from within a library.
        sys.stderr.flush()
        os._exit(status)
    return status
