"""Certify a data set: certified accuracy against radius, for images that are clean or attacked (worst-of-k).

Fischer et al. 2020, sections 7.3 to 7.5: the attack draws k parameters in the attack range, transforms and
rounds the image, and keeps the one with the highest cross-entropy loss of the base classifier.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from certification import __version__
from certification.outcome import Certified
from certification.plan import CertificationPlan
from certification.procedures import certify, predict
from certification.vocabulary import AttackRange, Estimator, Guarantee, ImageIs, Procedure, Transformation
from gpu.cells import BoundSettings
from gpu.targets import select_device
from gpu.warp import round8, transform_image

from .card import read_card
from .data import load_mnist
from .error_bounds import ImageErrorBounds
from .records import Map, collect_rows, record_of
from .registry import LoadedModel, load_model
from .report import evaluation_table, plot_evaluation
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
    key, through = seed.to_bytes(16, "little"), model.measured_through(plan)
    votes = BaseClassifierVotes(model, image, plan.transformation, key=key, device=device, operator=through)
    bounds = ImageErrorBounds(model, image, plan.attack_range, plan.image_is, settings, device)
    start = time.perf_counter()
    outcome = certify(plan, votes, bounds)
    row: dict[str, Any] = {
        "label": None, "predicted": None, "radius": None, "covers": False,
        "votes": outcome.counts.votes, "n": outcome.counts.n, "passed": outcome.counts.passed,
        "estimator": outcome.estimator, "stopped_by": outcome.stopped_by, "p_lower": outcome.p_lower,
        "error_bound": outcome.error_bound and outcome.error_bound.error_bound,
        "seconds": round(time.perf_counter() - start, 3), "reason": getattr(outcome, "reason", None),
    }  # fmt: skip
    if isinstance(outcome, Certified):
        return row | {
            "label": outcome.label, "predicted": outcome.label, "radius": outcome.radius,
            "covers": outcome.covers_attack_range,
        }  # fmt: skip
    served = BaseClassifierVotes(model, image, plan.transformation, key=key + b"predict", device=device)
    return row | {"predicted": predict(plan, served).label}


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


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """What both commands take."""
    parser.add_argument("card", type=Path, help="path of a card.toml")
    parser.add_argument("--data", type=Path, required=True, help="root of MNIST in torchvision's layout")
    parser.add_argument("--guarantee", choices=[str(g) for g in Guarantee], required=True)
    parser.add_argument("--image-is", choices=[str(i) for i in ImageIs], default="received")
    parser.add_argument("--attack-range", type=float, required=True, help="half-width, degrees or pixels")
    parser.add_argument("--attack", type=int, default=0, help="worst-of-k attack with this k; 0: clean images")
    parser.add_argument("--images", type=int, default=100, help="first images of the test set")
    parser.add_argument("--max-votes", type=int, default=2_000_000, help="base-classifier evaluations an image")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results; a stopped run goes on")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``surety evaluate``."""
    add_common_arguments(parser)
    parser.add_argument("--procedure", choices=[str(p) for p in Procedure], default="sequential")
    parser.add_argument("--estimator", choices=[str(e) for e in Estimator], default="auto")
    parser.add_argument("--n", type=int, help="estimation draws (sequential: at most)")
    parser.add_argument("--n-delta", type=int, help="votes at each draw (sequential: at most)")
    parser.add_argument("--radii", type=float, nargs="*", default=[0.0, 10.0, 20.0, 30.0])


class Evaluation:
    """The images of a run, attacked or clean, and what is done with each."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.device = select_device(arguments.device)
        self.model = model = load_model(read_card(arguments.card), self.device)
        transformation, guarantee = Transformation(model.card.noise.transformation), Guarantee(arguments.guarantee)
        image_is = ImageIs(arguments.image_is)
        stored = model.calibration_for(transformation, arguments.attack_range, image_is)
        self.plan = CertificationPlan(
            transformation=transformation,
            guarantee=guarantee,
            attack_range=AttackRange(transformation, arguments.attack_range),
            sigma_gamma=model.card.noise.sigma_gamma,
            sigma_delta=model.card.noise.sigma_delta,
            image_is=image_is,
            bound_for_all=model.bound_for_all,
            max_votes=arguments.max_votes,
            calibration=stored if guarantee is Guarantee.DISTRIBUTIONAL else None,
        )
        self._images, self._labels = load_mnist(arguments.data, train=False)

    def truth(self, index: int) -> int:
        """The label in the data set."""
        return int(self._labels[index])

    def image(self, index: int) -> NDArray[np.float32]:
        """[H, W, C] in [0, 1]."""
        # A copy: kernels are compiled for arrays that can be written to, which those of a cluster's store cannot.
        image, arguments = self._images[index].copy(), self.arguments
        if not arguments.attack:
            return np.asarray(image)
        generator = np.random.default_rng([arguments.seed, index])
        return worst_of_k(self.model, image, self.truth(index), self.plan.attack_range, arguments.attack, generator)

    def row(self, index: int, image: NDArray[np.float32], plan: CertificationPlan) -> dict[str, Any]:
        """One image's result."""
        seed = self.arguments.seed * 1_000_003 + index
        return evaluate_image(self.model, image, plan, BoundSettings(), seed, self.device)

    def collect(
        self, row_of: Callable[[int], dict[str, Any]], *settings: object, mapped: Map = map
    ) -> list[dict[str, Any]]:
        """All rows; those of an interrupted run of the same settings are taken over."""
        a = self.arguments
        common = (a.guarantee, a.image_is, a.attack_range, a.attack, a.max_votes, a.seed)
        task = json.dumps([self.model.digest, *common, *settings, __version__])
        return collect_rows(a.out.with_suffix(".rows"), task, a.images, row_of, mapped)

    def write(self, name: str, rows: list[dict[str, Any]], summary: dict[str, Any], table: str) -> None:
        """JSON with every row, and a table in Markdown beside it."""
        a = self.arguments
        result = {
            "command": _command(name, a),
            **record_of(self.device),
            "model": self.model.card.id,
            "model_digest": self.model.digest,
            "calibration": None if self.plan.calibration is None else asdict(self.plan.calibration),
            "summary": summary,
            "rows": rows,
        }
        a.out.write_text(json.dumps(result, indent=1, default=str) + "\n")
        a.out.with_suffix(".md").write_text(f"# {a.out.stem}\n\n`{result['command']}`\n\n{table}")
        a.out.with_suffix(".rows").unlink()
        print(table)


def run(arguments: argparse.Namespace, mapped: Map = map) -> int:
    """``surety evaluate``: certify images one by one, keep every row, write the summary at the end."""
    work = Evaluation(arguments)
    plan = replace(
        work.plan,
        n=arguments.n,
        n_delta=arguments.n_delta,
        procedure=Procedure(arguments.procedure),
        estimator=Estimator(arguments.estimator),
    )

    def row_of(index: int) -> dict[str, Any]:
        return {"index": index, "truth": work.truth(index), **work.row(index, work.image(index), plan)}

    rows = work.collect(row_of, plan.n, plan.n_delta, plan.procedure, plan.estimator, mapped=mapped)
    summary = summarise(rows, arguments.radii)
    table = evaluation_table(plan, summary, arguments.attack)
    work.write("evaluate", rows, summary, table)
    plot_evaluation(rows, plan, arguments.attack, arguments.out)
    return 0


def _command(name: str, arguments: argparse.Namespace) -> str:
    """The command that makes this result; the user's paths are left out of the record."""
    words = [f"surety {name}", f"models/zoo/{arguments.card.parent.name}/card.toml", "--data DATA"]
    for option, value in vars(arguments).items():
        if option not in ("card", "data", "out", "command", "run") and value is not None:
            shown = " ".join(map(str, value)) if isinstance(value, list) else str(value)
            words.append(f"--{option.replace('_', '-')} {shown}")
    return " ".join([*words, f"--out {arguments.out.name}"])
