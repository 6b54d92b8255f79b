"""Ten MNIST test digits, rotated by Pillow, certified over HTTP with curl; health and metrics scraped meanwhile.

Usage: ``python -m benchmarks.ten_digits``. Starts the service itself and writes
``benchmarks/results/ten-digits-curl.json``. Pillow's rotation is not ours (other arithmetic, other border), so a
certificate is about what our rotation could have made of some original; the table shows what the difference does.
"""

from __future__ import annotations

import csv
import json
import platform
import subprocess
import sys
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from certification import __version__
from models.records import commit
from service.demo import GUARANTEES, SAMPLES, running_service

OUT = Path(__file__).resolve().parent / "results" / "ten-digits-curl.json"
ATTACK_RANGE = 10.0
SEED = 0
SCRAPED = ("/health/live", "/health/ready", "/metrics")


def curl(*words: str) -> str:
    """Run curl and return what it prints; raises on a transport error."""
    return subprocess.run(["curl", "-sS", *words], check=True, capture_output=True, text=True).stdout


class Scraper(threading.Thread):
    """Asks for health and metrics again and again, and keeps the milliseconds of each request by curl's clock."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url, self._over = url, threading.Event()
        self.milliseconds: dict[str, list[float]] = {path: [] for path in SCRAPED}
        self.failure: str | None = None

    def run(self) -> None:
        while not self._over.wait(0.25):
            for path, found in self.milliseconds.items():
                status, seconds = curl("-o", "/dev/null", "-w", "%{http_code} %{time_total}", self._url + path).split()
                if status != "200":
                    self.failure = f"{path}: status {status}"
                    return
                found.append(1000.0 * float(seconds))

    def stop(self) -> dict[str, dict[str, float]]:
        """Number, median and largest of the times, path by path; raises RuntimeError if a request failed."""
        self._over.set()
        self.join()
        if self.failure:
            raise RuntimeError(self.failure)
        return {
            path: {
                "requests": len(found),
                "median_ms": round(float(np.median(found)), 1),
                "largest_ms": round(max(found), 1),
            }
            for path, found in self.milliseconds.items()
        }


def main() -> int:
    """Certify the ten digits for each guarantee and write what came back."""
    generator = np.random.default_rng(SEED)
    rows: list[dict[str, Any]] = []
    with running_service() as url, tempfile.TemporaryDirectory() as folder:
        bounds = json.loads(curl(f"{url}/v1/bounds?transformation=rotation"))
        scraper = Scraper(url)
        scraper.start()
        with (SAMPLES / "labels.csv").open(newline="") as file:
            digits = list(csv.DictReader(file))
        for digit in tqdm(digits):
            angle = float(generator.uniform(-ATTACK_RANGE, ATTACK_RANGE))
            path = Path(folder) / "digit.png"
            with Image.open(SAMPLES / digit["file"]) as picture:
                picture.rotate(angle, resample=Image.Resampling.BILINEAR).save(path)
            for guarantee in GUARANTEES:
                reply = json.loads(
                    curl("-F", f"image=@{path}", "-F", f"guarantee={guarantee}", "-F", f"attack_range={ATTACK_RANGE:g}",
                         "-F", "transformation=rotation", f"{url}/v1/certify")
                )  # fmt: skip
                kept = ("class_name", "abstained", "radius", "covers_attack_range", "p_lower", "counts", "error_bound")
                row = {key: reply[key] for key in kept} | {"seconds": round(reply["seconds"]["total"], 2)}
                rows.append({"truth": digit["label"], "angle": round(angle, 3), "guarantee": guarantee, **row})
        latency = scraper.stop()
    summary = {guarantee: summarise([row for row in rows if row["guarantee"] == guarantee]) for guarantee in GUARANTEES}
    result = {
        "command": "python -m benchmarks.ten_digits",
        "date": datetime.now(UTC).date().isoformat(),
        "version": __version__,
        "commit": commit(),
        "machine": {"processor": platform.machine(), "cores": torch.get_num_threads()},
        "bounds": bounds,
        "scraped_during_certificates": latency,
        "summary": summary,
        "rows": rows,
    }
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({"summary": summary, "scraped_during_certificates": latency}, indent=2))
    return 0


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of the replies for one guarantee."""
    return {
        "digits": len(rows),
        "right": sum(row["class_name"] == row["truth"] for row in rows),
        "abstained": sum(row["abstained"] for row in rows),
        "covering": sum(row["covers_attack_range"] and row["class_name"] == row["truth"] for row in rows),
        "median_votes": float(np.median([row["counts"]["votes"] for row in rows])),
        "median_seconds": float(np.median([row["seconds"] for row in rows])),
    }


if __name__ == "__main__":
    sys.exit(main())
