"""Loading in the background: the process is alive at once, ready once models and kernels are."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from gpu.targets import DeviceError, select_device, warm_up
from models.card import CardError
from models.registry import load_registry

from .certifier import Certifier
from .computing import LocalComputer
from .errors import NotReadyError
from .metrics import Metrics
from .records import Records
from .settings import Settings
from .store import RecordsError

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
        self.failure: str | None = None

    def start(self) -> None:
        """Begin to load."""
        threading.Thread(target=self._load, name="load", daemon=True).start()

    @property
    def certifier(self) -> Certifier:
        """The certifier; raises :class:`NotReadyError` before there is one."""
        if self._certifier is not None:
            return self._certifier
        if self.failure is not None:
            raise NotReadyError("the server could not load its models and is stopping")
        raise NotReadyError("models are being loaded and kernels compiled", retry_after_seconds=5)

    def _load(self) -> None:
        try:
            self._records.open()
            device = select_device(self._settings.device)
            registry = load_registry([self._settings.zoo], device)
            warm_up(device, {model.card.preprocessing.interpolation for model in registry.models.values()})
        except (CardError, DeviceError, RecordsError) as error:
            self._fail(str(error))
        except Exception as error:
            logger.exception("loading failed")
            self._fail(f"loading failed: {type(error).__name__}: {error}")
        else:
            for model in registry.models.values():
                self._metrics.observe_model(model)
            computer = LocalComputer(registry, device, self._settings.batch_size)
            self._certifier = Certifier(registry, computer, self._settings, self._metrics)
            self._metrics.ready.set(1)
            logger.info("ready on %s: %s", device, ", ".join(sorted(registry.models)))

    def _fail(self, message: str) -> None:
        self.failure = message
        logger.error("%s", message)
        self._on_failure()
