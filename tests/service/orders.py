"""Orders as a server makes them, of small pictures, and what one process answers to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from service.certifier import Certifier
from service.computing import Order, load_here
from service.engine import Engine
from service.metrics import Metrics
from service.schemas import CertifyFields
from service.settings import Settings

from .pictures import encode, grey

SECRET = "what-no-client-can-foresee-in-any-way"


class OneProcess:
    """A certifier that computes in this process."""

    def __init__(self, zoo: Path) -> None:
        self.settings = Settings(zoo=zoo, device="cpu", batch_size=64, noise_secret=SECRET)
        self.computer = load_here(self.settings)
        self.registry = self.computer.registry
        self.certifier = Certifier(self.registry, self.computer, self.settings, Metrics(Engine(1, 0.0)))

    def order(self, seed: int = 0, **fields: Any) -> Order:
        """A certificate of a grey picture."""
        task = self.certifier.prepare_certify(CertifyFields(**fields), encode(grey(seed=seed), "PNG"))
        return Order(task.model.card.id, task.model.digest, task.plan, task.image.pixels, task.replay)
