"""Draws ``docs/result.png``: a received digit and what a running service certifies about it.

Usage: ``python docs/make_picture.py [URL [SAMPLE]]``; by default http://127.0.0.1:8000 and the first digit of
MNIST's test set.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import httpx
import matplotlib as mpl
import numpy as np
from PIL import Image

from gpu.warp import transform_image
from service.demo import GUARANTEES, SAMPLES, png

ANGLE, ATTACK_RANGE = 8.0, 10.0


def certificates(url: str, data: bytes) -> list[dict[str, Any]]:
    """The replies for every guarantee."""
    replies = []
    for guarantee in GUARANTEES:
        fields = {"transformation": "rotation", "guarantee": guarantee, "attack_range": str(ATTACK_RANGE)}
        response = httpx.post(f"{url}/v1/certify", files={"image": data}, data=fields, timeout=170.0)
        response.raise_for_status()
        replies.append(response.json())
    return replies


def main(url: str = "http://127.0.0.1:8000", sample: str = "mnist-test-00000.png") -> None:
    """Draw the received digit beside a bar a guarantee."""
    mpl.use("Agg")
    from matplotlib import pyplot

    with Image.open(SAMPLES / sample) as picture:
        digit = np.asarray(picture, dtype=np.float32)[:, :, None] / np.float32(255)
    data = png(transform_image(digit, ANGLE, "rotation"))
    replies = certificates(url, data)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.0, 2.8), width_ratios=[1, 3])
    left.imshow(Image.open(io.BytesIO(data)), cmap="gray")
    left.set_axis_off()
    left.set_title("received", fontsize=10)
    for row, reply in enumerate(reversed(replies)):
        radius = reply["radius"] or 0.0
        right.barh(row, 2 * radius, left=-radius, color="#4878a8" if radius else "#bbbbbb")
        answer = "abstained" if reply["abstained"] else f"label {reply['class_name']}, +-{radius:.3g} degrees"
        votes, seconds = reply["counts"]["votes"], reply["seconds"]["total"]
        text = f"{answer}, {votes:,} votes, {seconds:.1f} s"
        right.text(0.0, row, text, ha="center", va="center", color="white" if radius else "black", fontsize=9)
    right.set_yticks(range(len(replies)), [reply["guarantee"] for reply in reversed(replies)])
    right.set_xlim(-ATTACK_RANGE * 1.05, ATTACK_RANGE * 1.05)
    right.set_xlabel(f"certified rotation, degrees (attack range +-{ATTACK_RANGE:g})")
    right.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(Path(__file__).with_name("result.png"), dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:3])
