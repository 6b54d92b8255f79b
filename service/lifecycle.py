"""Loading in the background: the process is alive at once, ready once models and kernels are."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from gpu.targets import DeviceError, select_device, warm_up
from models.card import CardError
from models.registry import Registry, load_registry

from .certifier import Certifier
from .computing import Computer, LocalComputer
from .errors import NotReadyError
from .metrics import Metrics
from .records import Records
from .settings import Settings
from .store import RecordsError

logger = logging.getLogger("surety")

Load = Callable[[Settings], tuple[Registry, Computer]]
"""Loads the models, and finds what computes with them."""


def load_here(settings: Settings) -> tuple[Registry, LocalComputer]:
    """The models on a device of this process, its kernels compiled; raises ``CardError``, ``DeviceError``."""
    device = select_device(settings.device)
    registry = load_registry([settings.zoo], device)
    warm_up(device, {model.card.preprocessing.interpolation for model in registry.models.values()})
    return registry, LocalComputer(registry, device, settings.batch_size)


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
            registry, computer = self._load_models(self._settings)
        except (CardError, DeviceError, RecordsError) as error:
            self._fail(str(error))
        except Exception as error:
            logger.exception("loading failed")
            self._fail(f"loading failed: {type(error).__name__}: {error}")
        else:
            for model in registry.models.values():
                self._metrics.observe_model(model)
            self._certifier = Certifier(registry, computer, self._settings, self._metrics)
            self._metrics.ready.set(1)
            logger.info("ready on %s: %s", computer.machine.device, ", ".join(sorted(registry.models)))

    def _fail(self, message: str) -> None:
        self.failure = message
        logger.error("%s", message)
        self._on_failure()
