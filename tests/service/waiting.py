"""Waiting for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable

COMPILING = 600.0
"""Seconds to wait where kernels may have to be compiled first, on a slow machine that does more than that."""


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the server did not get there in time")
        time.sleep(0.02)
