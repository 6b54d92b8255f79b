"""``make demo``: two handwritten digits, one rotated and one shifted, certified over HTTP.

Starts the service, transforms a real MNIST test digit by an amount that is not sent along, asks for every
guarantee, and prints what came back. Ends with an error if anything does not work.
"""

from __future__ import annotations

import csv
import io
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gpu.warp import round8, transform_image

SAMPLES = Path(__file__).resolve().parent / "samples"
START_SECONDS = 600.0
DEMOS = (("rotation", 10.0, "degrees"), ("translation", 1.0, "pixels"))
"""Transformation, attack range and its unit."""
GUARANTEES = ("heuristic", "distributional", "individual")


def main() -> int:
    """Run the demonstration; the exit status is 0 only if every reply was a certificate or an abstention."""
    print("Starting the service (the first start compiles its kernels) ...", flush=True)
    try:
        with running_service() as url:
            for demo in DEMOS:
                show(url, *demo)
    except (RuntimeError, httpx.HTTPError) as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def running_service(**settings: str) -> Iterator[str]:
    """A service of our own on a free port, stopped at the end; without records unless ``settings`` say else."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "SURETY_HOST": "127.0.0.1", "SURETY_PORT": str(port)}
    environment |= {"SURETY_LOG_LEVEL": "warning", "SURETY_RECORDS": "off"}
    environment |= {f"SURETY_{name.upper()}": value for name, value in settings.items()}
    process = subprocess.Popen([sys.executable, "-m", "service.cli", "serve"], env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, process)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.returncode != 0:
        raise RuntimeError(f"the service did not end cleanly: status {process.returncode}")


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Poll ``/health/ready``; raises RuntimeError if the service ends or does not get ready."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with status {process.returncode}")
        try:
            if httpx.get(f"{url}/health/ready", timeout=2.0).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the service was not ready after {START_SECONDS:.0f} seconds")


def received_digit(transformation: str, attack_range: float) -> tuple[bytes, str, str]:
    """A digit that somebody transformed: PNG bytes, its true class, and the amount (which is not sent)."""
    with (SAMPLES / "labels.csv").open(newline="") as file:
        row = secrets.choice(list(csv.DictReader(file)))
    with Image.open(SAMPLES / row["file"]) as picture:
        digit = np.asarray(picture, dtype=np.float32)[:, :, None] / np.float32(255)
    generator = np.random.default_rng()
    if transformation == "rotation":
        angle = float(generator.uniform(-attack_range, attack_range))
        return png(transform_image(digit, angle, transformation)), row["label"], f"turned by {angle:+.2f} degrees"
    shift = generator.uniform(-attack_range, attack_range, 2)
    moved = transform_image(digit, shift, transformation)
    return png(moved), row["label"], f"shifted by ({shift[0]:+.2f}, {shift[1]:+.2f}) pixels"


def png(image: NDArray[np.float64]) -> bytes:
    """An image [H, W, 1] rounded to 8 bits, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.rint(round8(image)[:, :, 0] * 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def show(url: str, transformation: str, attack_range: float, unit: str) -> None:
    """Send one digit for every guarantee and print the replies."""
    data, truth, amount = received_digit(transformation, attack_range)
    per_axis = " on each axis" if transformation == "translation" else ""
    print(f"\n== A digit under {transformation}, attack range +-{attack_range:g} {unit}{per_axis} ==")
    for guarantee in GUARANTEES:
        fields = {"transformation": transformation, "guarantee": guarantee, "attack_range": str(attack_range)}
        start = time.perf_counter()
        response = httpx.post(f"{url}/v1/certify", files={"image": ("digit.png", data)}, data=fields, timeout=170.0)
        if response.status_code != 200:
            raise RuntimeError(f"{guarantee}: {response.status_code} {response.text}")
        print_reply(guarantee, response.json(), time.perf_counter() - start)
    print(f"\n  (not told to the service: it was a {truth}, {amount})", flush=True)


def print_reply(guarantee: str, reply: dict[str, Any], seconds: float) -> None:
    """One certificate or abstention."""
    label = "abstained" if reply["abstained"] else f"label {reply['class_name']}"
    radius = "no radius" if reply["radius"] is None else f"radius {reply['radius']:.3g} {reply['radius_unit']}"
    votes = f"{reply['counts']['votes']:,} votes"
    print(f"\n  {guarantee:<15} {label}, {radius}, {seconds:.1f} s, {votes}\n  {reply['statement']}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
