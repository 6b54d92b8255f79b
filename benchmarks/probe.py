"""Asks a service for its health, 50 times a second, in a process of its own, until its standard input ends.

Usage: ``python -m benchmarks.probe HOST PORT``. Prints the seconds of each answer, and by how many each pause was
longer than it should have been: where those are large the machine was busy, whatever the service did.
"""

from __future__ import annotations

import http.client
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

PAUSE = 0.02
PATH = "/health/live"


@dataclass
class Probed:
    """Of one period: seconds of the answers, and of the pauses beyond :data:`PAUSE`."""

    seconds: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Milliseconds."""
        return {
            "requests": len(self.seconds),
            **{f"{name}_ms": round(1000 * float(np.percentile(self.seconds, q)), 1) for name, q in QUANTILES.items()},
            **{f"late_{name}_ms": round(1000 * float(np.percentile(self.late, q)), 1) for name, q in QUANTILES.items()},
        }


QUANTILES = {"median": 50, "p99": 99, "largest": 100}


@contextmanager
def probing(host: str, port: int) -> Iterator[Probed]:
    """Health is asked for within; what was found is there afterwards.

    Raises
    ------
    RuntimeError
        If a request for health failed.
    """
    command = [sys.executable, "-m", "benchmarks.probe", host, str(port)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    probed = Probed()
    try:
        assert process.stdout is not None
        process.stdout.readline()  # it has begun
        yield probed
    finally:
        output, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError("a request for health failed")
    probed.seconds, probed.late = json.loads(output)


def main(host: str, port: str) -> int:
    """Ask until there is something to read, which is the end."""
    connection = http.client.HTTPConnection(host, int(port), timeout=60.0)
    seconds, late = [], []
    print("begun", flush=True)
    while True:
        begun = time.perf_counter()
        connection.request("GET", PATH)
        response = connection.getresponse()
        response.read()
        answered = time.perf_counter()
        if response.status != 200:
            return 1
        seconds.append(answered - begun)
        if select.select([sys.stdin], [], [], PAUSE)[0]:
            break
        late.append(time.perf_counter() - answered - PAUSE)
    print(json.dumps([seconds, late]))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
