"""The paper's settings on MNIST: certified accuracy of DistSPT and IndivSPT beside the authors' corrected figures.

Usage: ``python -m benchmarks.paper_settings --data DATA [--images 100]``; goes on where it was stopped.

The corrected figures are those of the slides of 2021 (docs/guarantees.md, A.3): DistSPT, rotation +-30
degrees: .89 at 0 degrees and .85 at 30; IndivSPT, rotation +-10, worst-of-100 attacked: .82 right, .81 of these
certified over the whole range.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from models import evaluate

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
RUNS = {
    "distributional-rotation-30": ["--guarantee", "distributional", "--image-is", "reference", "--attack-range", "30"],
    "individual-rotation-10": ["--guarantee", "individual", "--attack-range", "10", "--attack", "100"],
}


def main(words: list[str]) -> int:
    """Run both evaluations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="root of MNIST in torchvision's layout")
    parser.add_argument("--images", default="100")
    parser.add_argument("--only", choices=list(RUNS), help="one of the two")
    chosen = parser.parse_args(words)
    card = str(ROOT / "models" / "zoo" / "mnist-rotation" / "card.toml")
    for name, options in RUNS.items():
        if chosen.only not in (None, name):
            continue
        evaluation = argparse.ArgumentParser()
        evaluate.add_arguments(evaluation)
        out = str(RESULTS / f"{name}.json")
        common = [card, "--data", chosen.data, "--images", chosen.images, "--out", out]
        status = evaluate.run(evaluation.parse_args(common + options))
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
