"""What a run has shown so far: written between its batches by its own thread, read by others."""

from __future__ import annotations

import threading
import time
from typing import Any

from certification.protocols import SoFar, Watch
from models.votes import BaseClassifierVotes

from .clock import StageClock

INTERVAL = 0.5
"""Seconds between two looks: computing a bound costs as much as some votes do."""
News = tuple[str, dict[str, Any]]
"""``stage`` or ``progress``, and what is told."""


class Progress:
    """Watches one run; a look that was not told in time is replaced by the next one.

    Parameters
    ----------
    interval : float
        Least seconds between two looks.
    """

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval, self._next = interval, 0.0
        self._lock = threading.Lock()
        self._stages: dict[str, bool] = {}
        self._newest: dict[str, Any] | None = None
        self._so_far: SoFar | None = None

    def attach(self, clock: StageClock, votes: BaseClassifierVotes) -> Watch:
        """Watch a run's stages and batches; returns what tells it the run's bounds."""
        check = votes.check

        def between_batches() -> None:
            check()
            self._look(clock.current, votes.votes)

        clock.entered, votes.check = self._enter, between_batches
        return self._watch

    def news(self) -> list[News]:
        """What was not told yet: each stage, as it first begins, and the newest look."""
        with self._lock:
            news: list[News] = [("stage", {"stage": name}) for name, told in self._stages.items() if not told]
            return news if self._newest is None else [*news, ("progress", self._newest)]

    def told(self, news: list[News]) -> None:
        """Take note that these need not be told again."""
        with self._lock:
            for _, data in news:
                if data is self._newest:
                    self._newest = None
                elif data["stage"] in self._stages:
                    self._stages[data["stage"]] = True

    def _enter(self, stage: str) -> None:
        with self._lock:
            self._stages.setdefault(stage, False)

    def _watch(self, so_far: SoFar) -> None:
        self._so_far = so_far

    def _look(self, stage: str | None, votes: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._interval
        p_lower, radius = self._so_far() if self._so_far is not None else (None, None)
        with self._lock:
            self._newest = {"stage": stage, "votes": votes, "p_lower": p_lower, "radius": radius}
