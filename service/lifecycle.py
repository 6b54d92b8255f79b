"""Loading in the background: the process is alive at once, ready once models and kernels are."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from gpu.targets import DeviceError
from models.card import CardError
from models.registry import Registry, load_registry

from .certifier import Certifier
from .computing import Computer
from .errors import NotReadyError
from .metrics import Metrics
from .records import Records
from .settings import Settings
from .store import RecordsError
from .supervisor import Supervisor, WorkerError
from .worker import load

logger = logging.getLogger("surety")


class Lifecycle:
    """Holds the certifier once it is loaded, or why it could not be.

    Parameters
    ----------
    settings, metrics
    records : Records
        Opened before the models are loaded.
    on_failure : callable
        Called on the loading thread when loading failed; ``failure`` then holds the message.
    """

    def __init__(self, settings: Settings, metrics: Metrics, records: Records, on_failure: Callable[[], None]) -> None:
        self._settings, self._metrics, self._records = settings, metrics, records
        self._on_failure = on_failure
        self._certifier: Certifier | None = None
        self._computer: Computer | None = None
        self.failure: str | None = None

    def start(self) -> None:
        """Begin to load."""
        threading.Thread(target=self._load, name="load", daemon=True).start()

    @property
    def certifier(self) -> Certifier:
        """The certifier; raises :class:`NotReadyError` before there is one, and while its worker is started again."""
        if self._certifier is not None:
            self._certifier.check_ready()
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
            registry, self._computer = self._start()
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

    def _start(self) -> tuple[Registry, Computer]:
        """The models, for what is asked of them, and what computes; in a process of its own it has them twice."""
        settings, metrics = self._settings, self._metrics
        if settings.worker == "thread":
            local = load(settings.zoo, settings.device, settings.batch_size)
            return local.registry, local
        registry = load_registry([settings.zoo], "cpu")
        computer = Supervisor(
            settings, on_ready=metrics.ready.set, on_death=lambda cause: metrics.worker_deaths.labels(cause).inc()
        )
        metrics.device_memory.worker = computer
        self._computer = computer
        computer.start()
        return registry, computer

    def _fail(self, message: str) -> None:
        self.failure = message
        logger.error("%s", message)
        self._on_failure()
