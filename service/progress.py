"""What a run has shown so far: told between its batches by its own thread, wherever that is; read by others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from certification.protocols import SoFar, Watch
from models.votes import BaseClassifierVotes

from .clock import StageClock

INTERVAL = 0.5
"""Seconds between two looks: computing a bound costs as much as some votes do."""
News = tuple[str, dict[str, Any]]
"""``stage`` or ``progress``, and what is told."""
Report = Callable[[News], None]
"""Told each stage that begins, and looks at how far a run has come; must not block."""


class Watcher:
    """Watches one run, on its thread.

    Parameters
    ----------
    report : Report
    interval : float
        Least seconds between two looks.
    """

    def __init__(self, report: Report, interval: float = INTERVAL) -> None:
        self._report, self._interval, self._next = report, interval, 0.0
        self._so_far: SoFar | None = None

    def attach(self, clock: StageClock, votes: BaseClassifierVotes) -> Watch:
        """Watch a run's stages and batches; returns what tells it the run's bounds."""
        check = votes.check

        def between_batches() -> None:
            check()
            self._look(clock.current, votes.votes)

        clock.entered, votes.check = self._enter, between_batches
        return self._watch

    def _enter(self, stage: str) -> None:
        self._report(("stage", {"stage": stage}))

    def _watch(self, so_far: SoFar) -> None:
        self._so_far = so_far

    def _look(self, stage: str | None, votes: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._interval
        p_lower, radius = self._so_far() if self._so_far is not None else (None, None)
        self._report(("progress", {"stage": stage, "votes": votes, "p_lower": p_lower, "radius": radius}))


class Progress:
    """A :data:`Report` that keeps what was not told on yet; a look that was not is replaced by the next one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages: dict[str, bool] = {}
        self._newest: dict[str, Any] | None = None

    def __call__(self, news: News) -> None:
        """Take news."""
        kind, data = news
        with self._lock:
            if kind == "stage":
                self._stages.setdefault(data["stage"], False)
            else:
                self._newest = data

    def news(self) -> list[News]:
        """What was not told yet: each stage, as it first begins, and the newest look."""
        with self._lock:
            news: list[News] = [("stage", {"stage": name}) for name, told in self._stages.items() if not told]
            return news if self._newest is None else [*news, ("progress", self._newest)]

    def told(self, news: list[News]) -> None:
        """Take note that these need not be told again."""
        with self._lock:
            for kind, data in news:
                if kind == "stage":
                    self._stages[data["stage"]] = True
                elif data is self._newest:
                    self._newest = None
