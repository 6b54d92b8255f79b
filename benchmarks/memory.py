"""Peak memory of certificates, beyond the loaded model, against the number of votes and the size of images.

Usage: ``python -m benchmarks.memory [--out FILE]``. Every case runs in a process of its own; the model of 224 x 224
images is torchvision's SqueezeNet with random weights, which cost what trained ones do.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
CASES = {
    "28x28x1, 1,000 votes": ("digits", 1_000),
    "28x28x1, 100,000 votes": ("digits", 100_000),
    "224x224x3, 64 votes": ("photographs", 64),
    "224x224x3, 1,024 votes": ("photographs", 1_024),
}
CARD = """id = "squeezenet"
description = "SqueezeNet with random weights."
[input]
height = 224
width = 224
channels = 3
[classes]
names = {names}
[architecture]
name = "torchvision:squeezenet1_1"
[weights]
file = "weights.safetensors"
sha256 = "{digest}"
[preprocessing]
vignette = "circle"
blur_size = 5
blur_sigma = 1.0
[noise]
transformation = "rotation"
sigma_gamma = 10.0
sigma_delta = 0.25
[limits]
attack_range = 30.0
[defaults]
attack_range = 5.0
"""


def card_of(kind: str, folder: Path) -> Path:
    """The shipped model of digits, or a SqueezeNet with random weights in a folder."""
    if kind == "digits":
        return ROOT / "models" / "zoo" / "mnist-rotation" / "card.toml"
    from safetensors.torch import save_file

    from models.architectures import build
    from models.card import file_digest

    names = [str(k) for k in range(10)]
    card = folder / "squeezenet" / "card.toml"
    card.parent.mkdir()
    weights = card.parent / "weights.safetensors"
    save_file(build("torchvision:squeezenet1_1", len(names), 3, (224, 224), {}).state_dict(), weights)
    card.write_text(CARD.format(names=json.dumps(names), digest=file_digest(weights)))
    return card


def peak_mib() -> float:
    """The largest resident size so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def measure(kind: str, votes: int) -> None:
    """Print what ``votes`` votes add to the peak after one batch's worth of the model alone is loaded."""
    from certification.vocabulary import Transformation
    from models.card import read_card
    from models.registry import load_model
    from models.votes import BaseClassifierVotes

    with tempfile.TemporaryDirectory() as folder:
        model = load_model(read_card(card_of(kind, Path(folder))))
    takes = model.card.input
    image = np.random.default_rng(0).random((takes.height, takes.width, takes.channels)).astype(np.float32)
    source = BaseClassifierVotes(model, image, Transformation.ROTATION, key=b"memory")
    before = peak_mib()
    source.class_counts(votes // 2, pixel_noise=True)
    first = source.drawn
    source.draw_parameters(8)
    source.votes_at(first + np.arange(8), np.full(8, votes // 16), label=0)
    print(json.dumps({"before_mib": before, "beyond_model_mib": peak_mib() - before, "votes": source.votes}))


def main(words: list[str]) -> int:
    """Measure every case and write the record."""
    from models.records import record_of

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "memory.json")
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    chosen = parser.parse_args(words)
    if chosen.case:
        measure(*CASES[chosen.case])
        return 0
    found: dict[str, Any] = {}
    for case in tqdm(CASES):
        command = [sys.executable, "-m", "benchmarks.memory", "--case", case]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        found[case] = json.loads(done.stdout)
    result = {"command": "python -m benchmarks.memory", **record_of("cpu"), "summary": found}
    chosen.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
