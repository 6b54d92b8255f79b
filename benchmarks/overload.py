"""The service beyond saturation: open-loop load with a mix of short and long requests, then clients that leave.

Usage: ``python -m benchmarks.overload [--seconds 60] [--leavers 1000]``. Starts the service itself. First the mix runs
in a closed loop, with four clients a thread: that many answers a second are saturation. Then requests arrive at
random (Poisson) at 0.5, 1 and 2 times that rate, whether or not earlier ones are answered. Good is an answer before its
deadline that was not cut short by it. At last clients send a request and leave at a random moment, and health is asked
for all the while.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from tqdm import tqdm

from models.records import record_of
from service.demo import SAMPLES, running_service
from service.settings import Settings

OUT = Path(__file__).resolve().parent / "results" / "overload.json"
RATES = (0.5, 1.0, 2.0)
DEADLINE_MS = 20_000
CERTIFY = {"guarantee": "individual", "n": "300", "n_delta": "100"}
ROTATED = {**CERTIFY, "transformation": "rotation", "attack_range": "10"}
SHIFTED = {**CERTIFY, "transformation": "translation", "attack_range": "1"}
MIX: tuple[tuple[float, str, dict[str, str]], ...] = (
    (0.70, "/v1/predict", {"transformation": "rotation", "guarantee": "heuristic", "n": "400"}),
    (0.25, "/v1/certify", ROTATED),
    (0.05, "/v1/certify", SHIFTED),
)
"""Share, path and fields; the last takes seconds. Each request has another alpha, so that none is like another."""
SHORT = MIX[0][1]
UNLOADED = 40
CLIENTS = 4 * Settings().max_running
"""In the closed loop: enough for both lanes to have work all the time."""


@dataclass(frozen=True)
class Answer:
    """What became of one request."""

    path: str
    status: int
    seconds: float
    good: bool


async def ask(client: httpx.AsyncClient, images: list[bytes], chance: random.Random, path: str | None = None) -> Answer:
    """Send one request of the mix, or one of ``path``, and wait for its answer."""
    kinds = [kind for kind in MIX if path in (None, kind[1])]
    _, chosen, fields = chance.choices(kinds, [kind[0] for kind in kinds])[0]
    asked = {**fields, "alpha": str(0.01 * chance.uniform(0.9, 1.0)), "deadline_ms": str(DEADLINE_MS)}
    begun = time.perf_counter()
    response = await client.post(chosen, data=asked, files={"image": ("digit.png", chance.choice(images))})
    seconds = time.perf_counter() - begun
    whole = response.status_code == 200 and response.json()["stopped_by"] != "deadline"
    return Answer(chosen, response.status_code, seconds, whole and 1000.0 * seconds <= DEADLINE_MS)


async def saturation(client: httpx.AsyncClient, images: list[bytes], seconds: float) -> float:
    """Answers a second when there is always work for every thread."""
    ends, done = time.monotonic() + seconds, 0

    async def repeat(number: int) -> None:
        nonlocal done
        chance = random.Random(number)
        while time.monotonic() < ends:
            await ask(client, images, chance)
            done += 1

    begun = time.monotonic()
    await asyncio.gather(*(repeat(number) for number in range(CLIENTS)))
    return done / (time.monotonic() - begun)


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


def figures(answers: list[Answer], seconds: float, unloaded: float) -> dict[str, Any]:
    """Of one rate."""
    admitted = [answer for answer in answers if answer.status == 200]
    short = [answer.seconds for answer in admitted if answer.path == SHORT]
    statuses = sorted({answer.status for answer in answers})
    return {
        "requests": len(answers),
        "by_status": {str(status): sum(answer.status == status for answer in answers) for status in statuses},
        "goodput_per_second": round(sum(answer.good for answer in answers) / seconds, 3),
        "admitted_p99_seconds": round(float(np.percentile([answer.seconds for answer in admitted], 99)), 3),
        "admitted_within_deadline": round(float(np.mean([1000 * a.seconds <= DEADLINE_MS for a in admitted])), 4),
        "short_p99_seconds": round(float(np.percentile(short, 99)), 3),
        "short_p99_over_unloaded": round(float(np.percentile(short, 99)) / unloaded, 2),
    }


async def leave(client: httpx.AsyncClient, images: list[bytes], leavers: int, longest: float) -> dict[str, Any]:
    """Clients that go away at random moments; health all the while, and what is left behind."""
    chance, health, over = random.Random(0), [], asyncio.Event()

    async def watch() -> None:
        while not over.is_set():
            begun = time.perf_counter()
            (await client.get("/health/live")).raise_for_status()
            health.append(time.perf_counter() - begun)
            await asyncio.sleep(0.02)

    async def one(patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                await ask(client, images, chance)
        except TimeoutError:
            pass

    watching = asyncio.create_task(watch())
    for _ in tqdm(range(0, leavers, 20), desc="leavers"):
        await asyncio.gather(*(one(chance.uniform(0.0, longest)) for _ in range(min(20, leavers))))
    over.set()
    await watching
    begun = time.monotonic()
    while True:
        text = (await client.get("/metrics")).text
        if "surety_running 0.0" in text and "surety_queue_depth 0.0" in text:
            break
        if time.monotonic() - begun > 60:
            raise RuntimeError("work was left behind")
        await asyncio.sleep(0.05)
    return {
        "clients": leavers,
        "health_requests": len(health),
        "health_largest_ms": round(1000 * max(health), 1),
        "health_p99_ms": round(1000 * float(np.percentile(health, 99)), 1),
        "idle_after_seconds": round(time.monotonic() - begun, 2),
    }


async def measure(url: str, seconds: float, leavers: int) -> dict[str, Any]:
    """All of it, against a running service."""
    images = [path.read_bytes() for path in sorted(SAMPLES.glob("*.png"))]
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
    async with httpx.AsyncClient(base_url=url, timeout=120.0, limits=limits) as client:
        chance = random.Random(0)
        for kind in MIX:  # compiled, and learned by the estimates, before the clock runs
            for _ in range(3):
                await ask(client, images, chance, kind[1])
        alone = [(await ask(client, images, chance, SHORT)).seconds for _ in range(UNLOADED)]
        unloaded = float(np.percentile(alone, 99))
        rate = await saturation(client, images, seconds)
        found: dict[str, Any] = {
            "unloaded_short_p99_seconds": round(unloaded, 4), "saturation_per_second": round(rate, 3), "rates": {},
        }  # fmt: skip
        memory = []
        with tqdm(total=round(len(RATES) * seconds), desc="seconds", mininterval=1.0) as progress:
            for factor in RATES:
                answers = await arrivals(client, images, factor * rate, seconds)
                memory.append(round(await resident_mib(client), 1))
                found["rates"][f"{factor:g}"] = figures(answers, seconds, unloaded)
                progress.update(round(seconds))
        found["resident_mib_after_each_rate"] = memory
        good = [found["rates"][f"{factor:g}"]["goodput_per_second"] for factor in RATES]
        found["goodput_at_2_over_1"] = round(good[2] / good[1], 3)
        found["leavers"] = await leave(client, images, leavers, 0.5)
    return found


def main(words: list[str]) -> int:
    """Run and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each rate")
    parser.add_argument("--leavers", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args(words)
    with running_service() as url:
        found = asyncio.run(measure(url, chosen.seconds, chosen.leavers))
    command = f"python -m benchmarks.overload --seconds {chosen.seconds:g} --leavers {chosen.leavers}"
    chosen.out.write_text(json.dumps({"command": command, **record_of("cpu"), "summary": found}, indent=1) + "\n")
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
