"""Damaged files into the image decoder, and damaged bodies into the parsers of requests.

Usage: ``python -m benchmarks.decoder_fuzz [--images 100000] [--bodies 10000]``, bodies of each of three kinds. An input
may be accepted or refused with a documented error; anything else (another exception, a warning, an input that takes
more than a second of the CPU, memory that grows) ends the run with an error, and Hypothesis prints the smallest input
that it finds. A number of inputs gives the same inputs each time.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import json
import logging
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from resource import getpagesize
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import Message
from tqdm import tqdm

from benchmarks.hostile import DAMAGES, FILES, damaged_files
from benchmarks.hostile_bodies import forms, inferences, objects
from models.card import read_card
from models.records import record_of
from service.body import read_submission
from service.errors import ERROR_TABLE, RequestError
from service.images import ImageSpec, decode, forbid_pillow_warnings
from service.inference import read_inference
from service.schemas import CertifyFields
from service.settings import SHIPPED_ZOO

OUT = Path(__file__).resolve().parent / "results" / "decoder-fuzz.json"
BATCH = 1000
"""Inputs that Hypothesis remembers at once, so that its memory is not taken for a leak."""
MAX_PIXELS = 2**20
LONGEST_SECONDS = 1.0
"""CPU time of one input, at most."""
RETRIES = 3
"""An input that took longer is thrown so often again, and the shortest time counts."""
GROWTH_MIB = 32.0
"""What the resident memory may have grown by at the end, compared with that after the first tenth of the batches."""
SPECS = (ImageSpec(28, 28, 1, resize=False), ImageSpec(12, 12, 3, resize=False), ImageSpec(28, 28, 3, resize=True))


@dataclass
class Target:
    """Something that inputs are thrown at: what takes one, and what came of them so far."""

    name: str
    inputs: st.SearchStrategy[Any]
    take: Callable[[Any], None]
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0

    def throw(self, given: Any) -> None:
        """One input; raises what is not documented, or RuntimeError if it took too long."""
        outcome, seconds = self._timed(given)
        if seconds > LONGEST_SECONDS:
            # garbage of others may have been collected meanwhile, or the machine have stood still
            seconds = min(self._timed(given)[1] for _ in range(RETRIES))
        self.outcomes[outcome] += 1
        self.slowest_seconds = max(self.slowest_seconds, seconds)
        if seconds > LONGEST_SECONDS:
            raise RuntimeError(f"an input took {seconds:.1f} s")

    def _timed(self, given: Any) -> tuple[str, float]:
        """What came of an input, and the thread's CPU time that it took."""
        begun, outcome = time.thread_time(), "accepted"
        try:
            self.take(given)
        except RequestError as error:
            outcome = ERROR_TABLE[type(error)].label
        return outcome, time.thread_time() - begun


def decoded(given: tuple[bytes, ImageSpec]) -> None:
    """Decode a file; what comes out must be what a model takes."""
    data, spec = given
    pixels = decode(data, spec, max_pixels=MAX_PIXELS).pixels
    if pixels.shape != (spec.height, spec.width, spec.channels) or pixels.dtype != np.float32:
        raise RuntimeError(f"an image of shape {pixels.shape} and type {pixels.dtype}")
    if not (pixels.min() >= 0.0 and pixels.max() <= 1.0):
        raise RuntimeError("pixels outside [0, 1]")


def submitted(runner: asyncio.Runner, given: tuple[bytes, str]) -> None:
    """Read the body of a certificate's request."""
    body, content_type = given

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    head = [(b"content-type", content_type.encode("utf-8", "surrogatepass"))]
    request = Request({"type": "http", "method": "POST", "headers": head, "query_string": b""}, receive)
    runner.run(read_submission(request, CertifyFields))


def targets(runner: asyncio.Runner) -> list[Target]:
    """The decoder, and the parsers of the three kinds of bodies."""
    card = read_card(SHIPPED_ZOO / "mnist-rotation" / "card.toml")
    return [
        Target("images", st.tuples(damaged_files(), st.sampled_from(SPECS)), decoded),
        Target("multipart bodies", forms(), partial(submitted, runner)),
        Target("JSON bodies", objects(), partial(submitted, runner)),
        Target("inference bodies", inferences(), lambda given: (read_inference(*given, card, 16), None)[1]),
    ]


def run_batch(target: Target, number: int, size: int) -> None:
    """``size`` inputs that follow from the batch's number."""

    @seed(number)
    @settings(max_examples=size, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(target.inputs)
    def throw(given: Any) -> None:
        target.throw(given)

    throw()


def resident_mib() -> float:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize() / 2**20


def fuzz(images: int, bodies: int) -> dict[str, Any]:
    """Throw so many images, and so many bodies of each kind; returns a summary.

    Raises
    ------
    Exception
        Whatever an input brought about that is not documented.
    RuntimeError
        If an input took too long, or memory grew.
    """
    resident = []
    with asyncio.Runner() as runner, warnings.catch_warnings():
        warnings.simplefilter("error")
        forbid_pillow_warnings()
        thrown = targets(runner)
        counts = [images, bodies, bodies, bodies]
        with tqdm(total=sum(counts), desc="inputs", mininterval=2.0) as progress:
            for number in range(-(-max(counts) // BATCH)):
                for target, count in zip(thrown, counts, strict=True):
                    size = min(count - BATCH * number, BATCH)
                    if size > 0:
                        run_batch(target, number, size)
                        progress.update(size)
                resident.append(resident_mib())
    growth = resident[-1] - resident[len(resident) // 10]
    if growth > GROWTH_MIB:
        raise RuntimeError(f"memory grew by {growth:.0f} MiB")
    return {
        "files": len(FILES), "damages": [damage.__name__.strip("_") for damage in DAMAGES],
        "longest_seconds": LONGEST_SECONDS, "growth_limit_mib": GROWTH_MIB, "growth_mib": round(growth, 1),
        "resident_mib": [round(value, 1) for value in resident[:: max(len(resident) // 10, 1)]],
        "targets": {
            target.name: {
                "inputs": target.outcomes.total(), "slowest_seconds": round(target.slowest_seconds, 3),
                "outcomes": dict(target.outcomes.most_common()),
            }
            for target in thrown
        },
    }  # fmt: skip


def main(words: list[str]) -> int:
    """Run and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--bodies", type=int, default=10_000, help="of each of three kinds")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args(words)
    faulthandler.enable()
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    found = fuzz(chosen.images, chosen.bodies)
    command = f"python -m benchmarks.decoder_fuzz --images {chosen.images} --bodies {chosen.bodies}"
    chosen.out.write_text(json.dumps({"command": command, **record_of("cpu"), "summary": found}, indent=1) + "\n")
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
