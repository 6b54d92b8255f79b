"""Seconds by stage: while a stage runs inside another one, the outer one's clock stands still."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

STAGES = ("decode", "inverse", "bound", "select", "estimate")
VOTING = ("select", "estimate")


class StageClock:
    """Measures one request; used by one thread at a time.

    ``seconds`` is the time in each stage, ``spans`` when each that happened first began and last ended (monotonic).

    Parameters
    ----------
    check : callable
        Called whenever a stage begins, but for those of votes, which look before each batch; may raise to stop the
        work there.
    begun : float, optional
        Since when ``total`` counts, a time of ``time.monotonic()``; now, by default.

    Attributes
    ----------
    entered : callable
        Told the name of each stage that begins.
    """

    def __init__(self, check: Callable[[], None] = lambda: None, begun: float | None = None) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.spans: dict[str, tuple[float, float]] = {}
        self.check = check
        self.entered: Callable[[str], None] = lambda name: None
        self._open: list[str] = []
        self._since = self._begun = time.monotonic() if begun is None else begun

    @property
    def total(self) -> float:
        """Seconds since the clock began."""
        return time.monotonic() - self._begun

    def add(self, seconds: Mapping[str, float], spans: Mapping[str, tuple[float, float]]) -> None:
        """Take stages that another clock has measured."""
        for name, spent in seconds.items():
            self.seconds[name] += spent
        self.spans |= spans

    @property
    def current(self) -> str | None:
        """The innermost stage that is open."""
        return self._open[-1] if self._open else None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what happens inside as ``name``."""
        if name not in VOTING:
            self.check()
        self.entered(name)
        begun = self._switch()
        self._open.append(name)
        try:
            yield
        finally:
            first, _ = self.spans.get(name, (begun, begun))
            self.spans[name] = (first, self._switch())
            self._open.pop()

    def _switch(self) -> float:
        now = time.monotonic()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now
        return now
