"""Certify a data set: certified accuracy against radius, for images that are clean or attacked (worst-of-k).

Fischer et al. 2020, sections 7.3 to 7.5: the attack draws k parameters in the attack range, transforms and
rounds the image, and keeps the one with the highest cross-entropy loss of the base classifier.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from tqdm import tqdm

from certification import __version__
from certification.outcome import Certified
from certification.plan import CertificationPlan
from certification.procedures import certify, predict
from certification.vocabulary import AttackRange, Guarantee, ImageIs, Transformation
from gpu.error_bound import BoundSettings
from gpu.targets import select_device
from gpu.warp import round8, transform_image

from .card import read_card
from .data import load_mnist
from .error_bounds import ImageErrorBounds
from .registry import LoadedModel, load_model
from .votes import BaseClassifierVotes


@torch.inference_mode()
def worst_of_k(
    model: LoadedModel,
    image: NDArray[np.float32],
    label: int,
    attack_range: AttackRange,
    k: int,
    generator: np.random.Generator,
) -> NDArray[np.float32]:
    """The attacked image [H, W, C] with the highest loss of k random parameters (Engstrom et al. 2019)."""
    g = attack_range.half_width
    shape = (k,) if attack_range.transformation is Transformation.ROTATION else (k, 2)
    parameters = generator.uniform(-g, g, shape)
    attacked = np.stack([round8(transform_image(image, p, str(attack_range.transformation))) for p in parameters])
    device = next(model.network.parameters()).device
    logits = model.network(torch.from_numpy(model.operator.apply(attacked)).to(device))
    losses = functional.cross_entropy(logits, torch.full((k,), label, device=device), reduction="none")
    return np.asarray(attacked[int(losses.argmax())])


def evaluate_image(
    model: LoadedModel, image: NDArray[np.float32], plan: CertificationPlan, settings: BoundSettings, seed: int,
    device: str,
) -> dict[str, Any]:  # fmt: skip
    """One certificate as a row: label, radius, votes, seconds, reason; where it abstains, also PREDICT's label."""
    votes = BaseClassifierVotes(model, image, plan.transformation, key=seed.to_bytes(16, "little"), device=device)
    bounds = ImageErrorBounds(model, image, plan.attack_range, plan.image_is, settings, device)
    start = time.perf_counter()
    outcome = certify(plan, votes, bounds)
    row: dict[str, Any] = {
        "label": None, "predicted": None, "radius": None, "covers": False,
        "votes": outcome.counts.votes, "p_lower": outcome.p_lower,
        "error_bound": outcome.error_bound and outcome.error_bound.error_bound,
        "seconds": round(time.perf_counter() - start, 3), "reason": getattr(outcome, "reason", None),
    }  # fmt: skip
    if isinstance(outcome, Certified):
        return row | {
            "label": outcome.label, "predicted": outcome.label, "radius": outcome.radius,
            "covers": outcome.covers_attack_range,
        }  # fmt: skip
    return row | {"predicted": predict(plan, votes).label}


def summarise(rows: list[dict[str, Any]], radii: list[float]) -> dict[str, Any]:
    """Shares of all images: predicted right, and certified right at each radius; of the right, fully covered."""
    right = [row for row in rows if row["predicted"] == row["truth"]]
    certified = [row for row in right if row["label"] is not None]
    return {
        "images": len(rows),
        "right": len(right) / len(rows),
        "certified_accuracy": {f"{r:g}": sum(row["radius"] >= r for row in certified) / len(rows) for r in radii},
        "right_and_covering": sum(row["covers"] for row in right) / len(rows),
        "covering_of_right": sum(row["covers"] for row in right) / max(len(right), 1),
        "median_votes": float(np.median([row["votes"] for row in rows])),
        "median_seconds": float(np.median([row["seconds"] for row in rows])),
        "median_error_bound": float(np.median([row["error_bound"] or 0.0 for row in rows])),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``surety evaluate``."""
    parser.add_argument("card", type=Path, help="path of a card.toml")
    parser.add_argument("--data", type=Path, required=True, help="root of MNIST in torchvision's layout")
    parser.add_argument("--guarantee", choices=[str(g) for g in Guarantee], required=True)
    parser.add_argument("--image-is", choices=[str(i) for i in ImageIs], default="received")
    parser.add_argument("--attack-range", type=float, required=True, help="half-width, degrees or pixels")
    parser.add_argument("--attack", type=int, default=0, help="worst-of-k attack with this k; 0: clean images")
    parser.add_argument("--images", type=int, default=100, help="first images of the test set")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--n-delta", type=int)
    parser.add_argument("--max-votes", type=int, default=2_000_000)
    parser.add_argument("--radii", type=float, nargs="*", default=[0.0, 10.0, 20.0, 30.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results; a stopped run goes on")


def run(arguments: argparse.Namespace) -> int:
    """``surety evaluate``: certify images one by one, keep every row, write the summary at the end."""
    device = select_device(arguments.device)
    model = load_model(read_card(arguments.card), device)
    transformation = Transformation(model.card.noise.transformation)
    guarantee = Guarantee(arguments.guarantee)
    stored = model.calibration_for(transformation, arguments.attack_range)
    plan = CertificationPlan(
        transformation=transformation,
        guarantee=guarantee,
        attack_range=AttackRange(transformation, arguments.attack_range),
        sigma_gamma=model.card.noise.sigma_gamma,
        sigma_delta=model.card.noise.sigma_delta,
        image_is=ImageIs(arguments.image_is),
        bound_for_all=model.bound_for_all,
        n=arguments.n,
        n_delta=arguments.n_delta,
        max_votes=arguments.max_votes,
        calibration=stored if guarantee is Guarantee.DISTRIBUTIONAL else None,
    )
    images, labels = load_mnist(arguments.data, train=False)
    out: Path = arguments.out
    rows_file = out.with_suffix(".rows")
    task = json.dumps([model.digest, arguments.guarantee, arguments.image_is, arguments.attack_range,
                       arguments.attack, arguments.n, arguments.n_delta, arguments.max_votes, arguments.seed,
                       __version__])  # fmt: skip
    rows = _stored_rows(rows_file, task)
    if not rows:
        rows_file.parent.mkdir(parents=True, exist_ok=True)
        rows_file.write_text(task + "\n")
    with tqdm(total=arguments.images, initial=len(rows), desc=str(out.stem), mininterval=2.0) as progress:
        for index in range(len(rows), arguments.images):
            image, truth = images[index], int(labels[index])
            if arguments.attack:
                generator = np.random.default_rng([arguments.seed, index])
                image = worst_of_k(model, image, truth, plan.attack_range, arguments.attack, generator)
            row = evaluate_image(model, image, plan, BoundSettings(), arguments.seed * 1_000_003 + index, device)
            rows.append({"index": index, "truth": truth, **row})
            with rows_file.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            progress.update()
    result = {
        "command": _command(arguments),
        "date": datetime.now(UTC).date().isoformat(),
        "version": __version__,
        "commit": commit(),
        "machine": {"processor": platform.machine(), "cores": torch.get_num_threads(), "device": device},
        "model": model.card.id,
        "model_digest": model.digest,
        "calibration": None if plan.calibration is None else asdict(plan.calibration),
        "summary": summarise(rows, arguments.radii),
        "rows": rows,
    }
    out.write_text(json.dumps(result, indent=1, default=str) + "\n")
    rows_file.unlink()
    print(json.dumps(result["summary"], indent=2))
    return 0


def _stored_rows(rows_file: Path, task: str) -> list[dict[str, Any]]:
    """Rows of this very task; a half-written last line is cut off."""
    lines = rows_file.read_text().split("\n")[:-1] if rows_file.is_file() else []
    if lines[:1] != [task]:
        return []
    rows_file.write_text("".join(line + "\n" for line in lines))
    return [json.loads(line) for line in lines[1:]]


def commit() -> str | None:
    """The commit that runs, with "+" if files were changed since; None outside a repository."""
    words = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _command(arguments: argparse.Namespace) -> str:
    """The command that makes this result; the user's paths are left out of the record."""
    words = ["surety evaluate", f"models/zoo/{arguments.card.parent.name}/card.toml", "--data DATA"]
    for name, value in vars(arguments).items():
        if name not in ("card", "data", "out", "command", "run") and value is not None:
            shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
            words.append(f"--{name.replace('_', '-')} {shown}")
    return " ".join([*words, f"--out {arguments.out.name}"])
