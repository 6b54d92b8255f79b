"""The service beyond saturation: open-loop load with a mix of short and long requests.

Usage: ``python -m benchmarks.overload [--seconds 300]``. Starts the service itself. First the mix runs in a closed
loop, with four clients a thread: that many good answers a second are saturation. Then requests arrive at random
(Poisson) at 0.5, 1 and 2 times that rate, whether or not earlier ones are answered. Good is an answer before its
deadline that was not cut short by it. Health is asked for all the while by a process of its own. What the machine's
host gave to other machines meanwhile is noted as a share of the time: where it is large, latencies are the host's. What
clients leave behind that do not wait for their answers is measured by ``benchmarks.disconnects``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from tqdm import tqdm

from benchmarks.probe import probing
from models.records import record_of
from service.demo import SAMPLES, running_service
from service.settings import Settings

OUT = Path(__file__).resolve().parent / "results" / "overload.json"
RATES = (0.5, 1.0, 2.0)
DEADLINE_MS = 20_000
UNLOADED = 100
"""Short requests alone, one after another, before the first rate and after each: the machine is not the same all along.
"""
CLIENTS = 4 * Settings().max_running
"""In the closed loop: enough for both lanes to have work all the time."""
MINUTE = 60.0


@dataclass(frozen=True)
class Kind:
    """One kind of request: its share of the mix, and whether it is short."""

    share: float
    short: bool
    path: str
    fields: dict[str, str]


ROTATED = {"transformation": "rotation", "attack_range": "10"}
INDIVIDUAL = {"guarantee": "individual"}
MIX = (
    Kind(0.3, True, "/v1/predict", {"transformation": "rotation", "guarantee": "heuristic", "n": "400"}),
    Kind(0.1, True, "/v1/certify", {**ROTATED, "guarantee": "heuristic", "n": "300"}),
    Kind(0.35, False, "/v1/certify", {**ROTATED, **INDIVIDUAL}),
    Kind(0.25, False, "/v1/certify", {"transformation": "translation", "attack_range": "1", **INDIVIDUAL}),
)
"""Each request has another alpha, so that none is like another."""
SHORT = [kind for kind in MIX if kind.short]
LANES = ("short", "long")


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    kind: Kind
    status: int
    seconds: float
    good: bool
    retry_after: float
    """Seconds that a refused client shall wait."""


async def ask(
    client: httpx.AsyncClient, images: list[bytes], chance: random.Random, kinds: Collection[Kind] = MIX
) -> Answer:
    """Send one request of some kinds, by their shares, and wait for its answer."""
    (kind,) = chance.choices(list(kinds), [kind.share for kind in kinds])
    asked = {**kind.fields, "alpha": str(0.01 * chance.uniform(0.9, 1.0)), "deadline_ms": str(DEADLINE_MS)}
    begun = time.perf_counter()
    response = await client.post(kind.path, data=asked, files={"image": ("digit.png", chance.choice(images))})
    seconds = time.perf_counter() - begun
    whole = response.status_code == 200 and response.json()["stopped_by"] != "deadline"
    good = whole and 1000.0 * seconds <= DEADLINE_MS
    return Answer(kind, response.status_code, seconds, good, float(response.headers.get("Retry-After", 0)))


async def saturation(client: httpx.AsyncClient, images: list[bytes], seconds: float) -> float:
    """Good answers a second when there is always work for every thread."""
    ends, good = time.monotonic() + seconds, 0

    async def repeat(number: int) -> None:
        nonlocal good
        chance = random.Random(number)
        while time.monotonic() < ends:
            answer = await ask(client, images, chance)
            good += answer.good
            await asyncio.sleep(answer.retry_after)

    begun = time.monotonic()
    await asyncio.gather(*(repeat(number) for number in range(CLIENTS)))
    return good / (time.monotonic() - begun)


async def arrivals(client: httpx.AsyncClient, images: list[bytes], rate: float, seconds: float) -> list[Answer]:
    """Requests at random times, ``rate`` a second on average; their answers."""
    chance, tasks, ends = random.Random(rate), [], time.monotonic() + seconds
    due = time.monotonic()
    while due < ends:
        await asyncio.sleep(max(due - time.monotonic(), 0.0))
        tasks.append(asyncio.create_task(ask(client, images, chance)))
        due += chance.expovariate(rate)
    return list(await asyncio.gather(*tasks))


async def resident_mib(client: httpx.AsyncClient) -> float:
    """Of the server's and the worker's process."""
    lines = (await client.get("/metrics")).text.splitlines()
    name = 'surety_device_memory_bytes{device="cpu"'
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name)) / 2**20


async def watch(client: httpx.AsyncClient, memory: list[float], seconds: float, name: str) -> None:
    """Note the service's memory, now and every minute, until cancelled."""
    with tqdm(total=round(seconds), desc=name, mininterval=1.0) as progress:
        while True:
            memory.append(round(await resident_mib(client), 1))
            for _ in range(round(MINUTE)):
                await asyncio.sleep(1.0)
                progress.update()


def stolen_seconds() -> float:
    """Of each core since the machine started: what its host gave to other machines, as far as Linux tells."""
    try:
        stolen = int(Path("/proc/stat").read_text().split(maxsplit=9)[8])
        return stolen / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)
    except (OSError, IndexError, ValueError):
        return 0.0


def figures(answers: list[Answer], seconds: float, unloaded: float) -> dict[str, Any]:
    """Of one rate."""
    admitted = [answer for answer in answers if answer.status == 200]
    short = [answer.seconds for answer in admitted if answer.kind.short]
    statuses = sorted({answer.status for answer in answers})
    good = {lane: sum(answer.good for answer in answers if answer.kind.short == (lane == "short")) for lane in LANES}
    return {
        "requests": len(answers),
        "by_status": {str(status): sum(answer.status == status for answer in answers) for status in statuses},
        "goodput_per_second": round(sum(good.values()) / seconds, 3),
        "goodput_per_second_by_lane": {lane: round(count / seconds, 3) for lane, count in good.items()},
        "admitted_p99_seconds": round(float(np.percentile([answer.seconds for answer in admitted], 99)), 3),
        "admitted_within_deadline": round(float(np.mean([1000 * a.seconds <= DEADLINE_MS for a in admitted])), 4),
        "short_p50_seconds": round(float(np.median(short)), 3),
        "short_p99_seconds": round(float(np.percentile(short, 99)), 3),
        "short_p99_over_unloaded": round(float(np.percentile(short, 99)) / unloaded, 2),
    }


async def alone(client: httpx.AsyncClient, images: list[bytes], seconds: list[float]) -> None:
    """Note what short requests take when there is nothing else."""
    chance = random.Random(len(seconds))
    seconds += [(await ask(client, images, chance, SHORT)).seconds for _ in range(UNLOADED)]


async def measure(url: str, seconds: float) -> dict[str, Any]:
    """All of it, against a running service."""
    images = [path.read_bytes() for path in sorted(SAMPLES.glob("*.png"))]
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
    parsed = httpx.URL(url)
    async with httpx.AsyncClient(base_url=url, timeout=120.0, limits=limits) as client:
        chance = random.Random(0)
        for kind in MIX:  # compiled, and learned by the estimates, before the clock runs
            for _ in range(3):
                await ask(client, images, chance, [kind])
        unloaded: list[float] = []
        await alone(client, images, unloaded)
        rate = await saturation(client, images, min(seconds, MINUTE))
        answers: dict[float, list[Answer]] = {}
        beside: dict[float, dict[str, Any]] = {}
        for factor in RATES:
            memory: list[float] = []
            stolen = stolen_seconds()
            watching = asyncio.create_task(watch(client, memory, seconds, f"{factor:g} times saturation"))
            with probing(parsed.host, parsed.port or 80) as health:
                answers[factor] = await arrivals(client, images, factor * rate, seconds)
            watching.cancel()
            share = round((stolen_seconds() - stolen) / seconds, 3)
            beside[factor] = {
                "health": health.figures(), "resident_mib_by_minute": memory, "stolen_share": share,
            }  # fmt: skip
            await alone(client, images, unloaded)
    p99 = float(np.percentile(unloaded, 99))
    rates = {f"{factor:g}": {**figures(answers[factor], seconds, p99), **beside[factor]} for factor in RATES}
    return {
        "unloaded_short_p50_seconds": round(float(np.median(unloaded)), 4),
        "unloaded_short_p99_seconds": round(p99, 4),
        "saturation_per_second": round(rate, 3),
        "rates": rates,
        "goodput_at_2_over_1": round(rates["2"]["goodput_per_second"] / rates["1"]["goodput_per_second"], 3),
    }


def main(words: list[str]) -> int:
    """Run and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0, help="of each rate")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args(words)
    with running_service() as url:
        found = asyncio.run(measure(url, chosen.seconds))
    command = f"python -m benchmarks.overload --seconds {chosen.seconds:g}"
    chosen.out.write_text(json.dumps({"command": command, **record_of("cpu"), "summary": found}, indent=1) + "\n")
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
