"""The papers' tasks on MNIST: certified accuracy of DistSPT and IndivSPT beside the authors' corrected figures.

Usage: ``python -m benchmarks.paper_settings --data DATA [--images N] [--only NAME]``; goes on where it was stopped.

The corrected figures are those of the slides of 2021 (docs/guarantees.md, A.3): DistSPT, rotation +-30
degrees: .89 at 0 degrees and .85 at 30; IndivSPT, rotation +-10, worst-of-100 attacked: .82 right, .81 of these
certified over the whole range; not corrected: IndivSPT, translation +-1 pixel, .71 right, .88 of these certified.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from models import evaluate

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
ROTATION, TRANSLATION = "mnist-rotation", "mnist-translation"
CLEAN = ["--image-is", "reference", "--attack-range", "30", "--radii", "0", "10", "20", "30"]
INDIVIDUAL = ["--guarantee", "individual", "--attack", "100"]
RUNS = {
    "distributional-rotation-30": (ROTATION, "500", ["--guarantee", "distributional", *CLEAN]),
    "individual-rotation-10": (ROTATION, "100", [*INDIVIDUAL, "--attack-range", "10", "--radii", "0", "5", "10"]),
    "individual-translation-1": (TRANSLATION, "100", [*INDIVIDUAL, "--attack-range", "1", "--radii", "0", "1", "1.41"]),
}
"""Result -> model, test images, and the arguments of ``surety evaluate``."""


def main(words: list[str]) -> int:
    """Run the evaluations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="root of MNIST in torchvision's layout")
    parser.add_argument("--images", help="instead of the number of each run")
    parser.add_argument("--only", choices=list(RUNS), help="one of them")
    chosen = parser.parse_args(words)
    for name, (model, images, options) in RUNS.items():
        if chosen.only not in (None, name):
            continue
        evaluation = argparse.ArgumentParser()
        evaluate.add_arguments(evaluation)
        card, out = str(ROOT / "models" / "zoo" / model / "card.toml"), str(RESULTS / f"{name}.json")
        common = [card, "--data", chosen.data, "--images", chosen.images or images, "--out", out]
        status = evaluate.run(evaluation.parse_args(common + options))
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
