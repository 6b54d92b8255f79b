"""Loading in the background: the process is alive at once, ready once models and kernels are."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from gpu.targets import DeviceError
from models.card import CardError
from models.registry import Registry, load_registry

from .certifier import Certifier
from .computing import Computer, load_here
from .errors import NotReadyError
from .metrics import Metrics
from .records import Records
from .settings import Settings
from .store import RecordsError
from .supervisor import Supervisor, WorkerError

logger = logging.getLogger("surety")

Load = Callable[[Settings, Metrics], tuple[Registry, Computer]]
"""Loads the models, and finds what computes with them."""


def load_models(settings: Settings, metrics: Metrics) -> tuple[Registry, Computer]:
    """The models, and a process of its own, which has them too, or a thread of this one.

    Raises
    ------
    CardError, DeviceError, WorkerError
    """
    if settings.worker == "thread":
        local = load_here(settings)
        return local.registry, local
    registry = load_registry([settings.zoo])
    supervisor = Supervisor(
        settings, on_ready=metrics.ready.set, on_death=lambda cause: metrics.worker_deaths.labels(cause).inc()
    )
    metrics.device_memory.worker = supervisor
    supervisor.start()
    return registry, supervisor


class Lifecycle:
    """Holds the certifier once it is loaded, or why it could not be.

    Parameters
    ----------
    settings, metrics
    records : Records
        Opened before the models are loaded.
    load : callable
        See :data:`Load`; called on the loading thread.
    on_failure : callable
        Called on the loading thread when loading failed; ``failure`` then holds the message.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics, records: Records, load: Load, on_failure: Callable[[], None]
    ) -> None:
        self._settings, self._metrics, self._records, self._load_models = settings, metrics, records, load
        self._on_failure = on_failure
        self._certifier: Certifier | None = None
        self._computer: Computer | None = None
        self._loading = threading.Thread(target=self._load, name="load", daemon=True)
        self.failure: str | None = None

    def start(self) -> None:
        """Begin to load."""
        self._loading.start()

    @property
    def is_loading(self) -> bool:
        """Whether the loading thread is at work."""
        return self._loading.is_alive()

    @property
    def certifier(self) -> Certifier:
        """The certifier; raises :class:`NotReadyError` before there is one, and while its worker is started again."""
        certifier = self.loaded
        certifier.check_ready()
        return certifier

    @property
    def loaded(self) -> Certifier:
        """The same for what needs no worker; raises :class:`NotReadyError` before models and records are there."""
        if self._certifier is not None:
            return self._certifier
        if self.failure is not None:
            raise NotReadyError("the server could not load its models and is stopping")
        raise NotReadyError("models are being loaded and kernels compiled", retry_after_seconds=5)

    def close(self) -> None:
        """End what computes."""
        if self._computer is not None:
            self._computer.close()

    def _load(self) -> None:
        try:
            self._records.open()
            registry, self._computer = self._load_models(self._settings, self._metrics)
            self._certifier = Certifier(registry, self._computer, self._settings, self._metrics)
        except (CardError, DeviceError, RecordsError, WorkerError) as error:
            self._fail(str(error))
        except Exception as error:
            logger.exception("loading failed")
            self._fail(f"loading failed: {type(error).__name__}: {error}")
        else:
            for model in registry.models.values():
                self._metrics.observe_model(model)
            self._metrics.ready.set(1)
            logger.info("ready on %s: %s", self._computer.machine.device, ", ".join(sorted(registry.models)))

    def _fail(self, message: str) -> None:
        self.failure = message
        logger.error("%s", message)
        self._on_failure()
