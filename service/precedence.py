"""Who pauses for whom: runs that are not urgent, before their next batch, while urgent ones are under way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PAUSE_SECONDS, GO_ON_SECONDS = 0.5, 0.1
"""The longest pause, and how long a run goes on without another one after it: a sixth of the time at least, though
urgent runs never end to come."""
LOOK_SECONDS = 0.05


class Precedence:
    """Shared by all runs of a device; from any number of threads.

    An urgent run comes back with another batch as soon as it has the classes of the one before. To fill the moment in
    between with a batch of a long run would gain little and cost the urgent one as long as that batch takes, each time.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._urgent: dict[object, float] = {}

    @contextmanager
    def turn(self, urgent_seconds: float, check: Callable[[], None]) -> Iterator[Callable[[], None]]:
        """While a run is made: gives what it shall call before each batch, which pauses where it has to.

        Parameters
        ----------
        urgent_seconds : float
            For so long from now the run is urgent.
        check : callable
            Called by what is given, also while it pauses; may raise to stop the work.
        """
        run, ends = object(), time.monotonic() + urgent_seconds
        goes_on = 0.0
        if urgent_seconds > 0.0:
            with self._changed:
                self._urgent[run] = ends

        def give_way() -> None:
            nonlocal goes_on
            check()
            if time.monotonic() >= max(ends, goes_on):
                self._end(run)
                if self._pause(check):
                    goes_on = time.monotonic() + GO_ON_SECONDS

        try:
            yield give_way
        finally:
            self._end(run)

    def _end(self, run: object) -> None:
        with self._changed:
            if self._urgent.pop(run, None) is not None:
                self._changed.notify_all()

    def _pause(self, check: Callable[[], None]) -> bool:
        """Whether it lasted as long as a pause may."""
        latest = time.monotonic() + PAUSE_SECONDS
        with self._changed:
            while (urgent := max(self._urgent.values(), default=0.0)) > (now := time.monotonic()):
                if now >= latest:
                    return True
                self._changed.wait(min(urgent - now, latest - now, LOOK_SECONDS))
                check()
        return False
