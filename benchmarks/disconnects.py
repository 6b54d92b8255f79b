"""Clients that disconnect at random moments: what they leave behind in the service, and what health does meanwhile.

Usage: ``python -m benchmarks.disconnects [--clients 1000] [--idle 20]``. Starts the service itself. Each client leaves
at one of four stages, with an orderly end (FIN) or a reset (RST): within the head, within the body, while its request
waits or is computed, and within the reply. Health is asked for by a process of its own, first for some seconds of an
idle service, then all the while. In the end nothing may be queued, computed or unanswered, and no vote be cast.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

from benchmarks.probe import probing
from models.records import record_of
from service.demo import SAMPLES, running_service

OUT = Path(__file__).resolve().parent / "results" / "disconnects.json"
STAGES, WAYS = ("head", "body", "waiting", "reply"), ("fin", "rst")
RESET = struct.pack("ii", 1, 0)
"""Linger on close, for no time at all."""
SMALL_BUFFER = 2048
TOGETHER = 20
"""Clients at once."""
LONGEST_PAUSE = {"head": 0.1, "body": 0.1, "waiting": 1.0, "reply": 0.05}
"""Seconds that a client stays in a stage, at most."""
IDLE_SECONDS, QUIET_SECONDS = 300.0, 2.0
LARGE = "/openapi.json"
"""A reply that does not fit into the buffers of a client that reads slowly."""
GAUGES = ("surety_running", "surety_queue_depth", "surety_requests_in_flight")


@dataclass(frozen=True)
class Asked:
    """What clients send: paths and fields, the quickest first, with an image each; one is chosen at random."""

    kinds: Sequence[tuple[str, dict[str, str]]]
    images: Sequence[bytes]

    def choose(self, chance: random.Random, url: str, *, quick: bool) -> tuple[bytes, bytes]:
        """Head and body of a request that is like no other, so that no answer is shared."""
        path, fields = self.kinds[0] if quick else chance.choice(self.kinds)
        fields = {"alpha": str(0.01 * chance.uniform(0.9, 1.0)), **fields}
        files = {"image": ("image", chance.choice(self.images))}
        return raw(httpx.Request("POST", url + path, data=fields, files=files))


DIGITS = Asked(
    [
        ("/v1/predict", {"transformation": "rotation", "guarantee": "heuristic"}),
        ("/v1/certify", {"transformation": "rotation", "guarantee": "individual", "attack_range": "10"}),
        ("/v1/certify", {"transformation": "translation", "guarantee": "individual", "attack_range": "1"}),
    ],
    [path.read_bytes() for path in sorted(SAMPLES.glob("*.png"))],
)


def raw(request: httpx.Request) -> tuple[bytes, bytes]:
    """Head and body as they are sent."""
    body = request.read()
    lines = [b"%s %s HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%s: %s" % pair for pair in request.headers.raw]
    return b"\r\n".join([*lines, b"", b""]), body


def leave(url: str, number: int, asked: Asked) -> tuple[str, str]:
    """One client's life; returns the stage it left at, and the way."""
    chance = random.Random(number)
    stage, way, parsed = chance.choice(STAGES), chance.choice(WAYS), httpx.URL(url)
    head, body = asked.choose(chance, url, quick=stage == "reply")
    with socket.socket() as connection:
        connection.settimeout(IDLE_SECONDS)
        if stage == "reply":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        connection.connect((parsed.host, parsed.port))
        if way == "rst":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if stage == "head":
            connection.sendall(head[: chance.randrange(len(head))])
        elif stage == "body":
            connection.sendall(head + body[: chance.randrange(len(body))])
        elif stage == "waiting":
            connection.sendall(head + body)
        else:
            large = chance.random() < 0.5
            connection.sendall(raw(httpx.Request("GET", url + LARGE))[0] if large else head + body)
            connection.recv(chance.randint(1, SMALL_BUFFER))
        time.sleep(chance.uniform(0.0, LONGEST_PAUSE[stage]))
    return stage, way


class Scrape:
    """The service's metrics at a moment."""

    def __init__(self, client: httpx.Client) -> None:
        self._lines = client.get("/metrics").text.splitlines()

    def total(self, name: str) -> float:
        """The sum of a metric's samples."""
        return sum(float(line.rsplit(" ", 1)[1]) for line in self._lines if line.startswith((f"{name} ", f"{name}{{")))

    @property
    def idle(self) -> bool:
        """Whether there is nothing but the scrape itself."""
        return [self.total(name) for name in GAUGES] == [0.0, 0.0, 1.0]


def attack(url: str, clients: int, asked: Asked) -> dict[str, Any]:
    """Send all clients, and wait until nothing is left of them.

    Raises
    ------
    RuntimeError
        If work, a slot or a request was left behind.
    """
    left: Counter[tuple[str, str]] = Counter()
    largest = dict.fromkeys(GAUGES, 0.0)
    with httpx.Client(base_url=url, timeout=IDLE_SECONDS) as client, ThreadPoolExecutor(TOGETHER) as pool:
        futures: list[Future[tuple[str, str]]] = [pool.submit(leave, url, number, asked) for number in range(clients)]
        for future in tqdm(futures, desc="clients", mininterval=2.0):
            left[future.result()] += 1
            if left.total() % TOGETHER == 1:
                scrape = Scrape(client)
                largest = {name: max(value, scrape.total(name)) for name, value in largest.items()}
        begun = time.monotonic()
        while not Scrape(client).idle:
            if time.monotonic() - begun > IDLE_SECONDS:
                raise RuntimeError("work was left behind")
            time.sleep(0.05)
        idle_after, votes = time.monotonic() - begun, Scrape(client).total("surety_votes_total")
        time.sleep(QUIET_SECONDS)
        if Scrape(client).total("surety_votes_total") != votes:
            raise RuntimeError("votes are cast though nobody waits")
        return {
            "clients": clients, "left_at": {f"{stage} {way}": left[stage, way] for stage in STAGES for way in WAYS},
            "largest_while_attacked": {name: int(value) for name, value in largest.items()},
            "left_behind": {name: int(Scrape(client).total(name)) - (name == GAUGES[2]) for name in GAUGES},
            "idle_after_seconds": round(idle_after, 2),
            "answers_500": int(sum_of_500(client)),
        }  # fmt: skip


def sum_of_500(client: httpx.Client) -> float:
    """Answers that were the service's fault."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if 'status="500"' in line)


def measure(clients: int, idle: float) -> dict[str, Any]:
    """All of it, against a service of our own."""
    with running_service() as url, httpx.Client(base_url=url, timeout=IDLE_SECONDS) as client:
        parsed = httpx.URL(url)
        attack(url, TOGETHER, DIGITS)  # whatever is done once is done
        before = Scrape(client).total("surety_device_memory_bytes")
        with probing(parsed.host, parsed.port or 80) as unloaded:
            time.sleep(idle)
        with probing(parsed.host, parsed.port or 80) as attacked:
            found = attack(url, clients, DIGITS)
        after = Scrape(client).total("surety_device_memory_bytes")
        load = os.getloadavg()
    return {
        **found, "health_idle": unloaded.figures(), "health_attacked": attacked.figures(),
        "resident_mib_before_and_after": [round(value / 2**20, 1) for value in (before, after)],
        "load_average_of_the_machine": [round(value, 1) for value in load],
    }  # fmt: skip


def main(words: list[str]) -> int:
    """Run and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--idle", type=float, default=20.0, help="seconds of an idle service")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args(words)
    found = measure(chosen.clients, chosen.idle)
    command = f"python -m benchmarks.disconnects --clients {chosen.clients} --idle {chosen.idle:g}"
    chosen.out.write_text(json.dumps({"command": command, **record_of("cpu"), "summary": found}, indent=1) + "\n")
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
