"""How near the error bounds of Gaussian interpolation are to the errors they bound, and what they cost.

Usage: ``python -m benchmarks.error_bounds --data DATA [--digits 20] [--draws 100]``. MNIST's first test digits.

Received image: each digit is attacked by worst-of-100 (rotation +-10 degrees, translation +-1 pixel); the bound for
every original and every parameter in the range is compared with the error of this very digit and this very attack,
``|S_beta x' - S_(beta+gamma) x|``, at drawn beta. No bound for every original can be as small as that: other originals,
which the same 8 bits and other parameters allow, err more. Measured as served, the received image read through a
narrower filter than its originals, and with one filter for both: then errors and bounds are larger, and rounding,
which no filter changes, is less of them.

Reference image (rotation +-30 degrees): the bound for every attack is compared with the largest error of 1,000 sampled
attacks. The same is done for a plain enclosure on cells of .05 degrees: the residual at their centres, plus their
half-width times derivatives of ``T_gamma x`` and ``S_gamma x``, instead of a chord and what second derivatives allow.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from certification import __version__
from certification.vocabulary import AttackRange, ImageIs, Transformation
from gpu.cells import BoundSettings, no_stage
from gpu.inverse import TOLERANCE
from gpu.preprocess import RECEIVED_BLUR, GaussianOperator
from gpu.received import received_image_error
from gpu.residual import known_image_errors
from gpu.residual_terms import filter_bands, norm_of, padding
from gpu.warp import round8, transform_image, warp_batch
from models.card import read_card
from models.data import load_mnist
from models.error_bounds import ImageErrorBounds
from models.evaluate import worst_of_k
from models.records import commit
from models.registry import LoadedModel, load_model

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "results" / "error-bounds.json"
ATTACKS = 100
RECEIVED = {Transformation.ROTATION: 10.0, Transformation.TRANSLATION: 1.0}
REFERENCE, SAMPLED = 30.0, 1000
TIMED = 100
"""Digits of which the slowest is looked for, among attacks by rotation."""
PLAIN_STEP = 0.05
"""Width of the cells of the plain enclosure, degrees: 1,200 of them."""


def attacked(
    model: LoadedModel, image: NDArray[np.float32], label: int, attack_range: AttackRange, index: int
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Worst-of-100 of a digit, and the parameter [d] that made it: the first of the same draws that does."""
    found = worst_of_k(model, image, label, attack_range, ATTACKS, np.random.default_rng([0, index]))
    g, kind = attack_range.half_width, attack_range.transformation
    shape = (ATTACKS,) if kind is Transformation.ROTATION else (ATTACKS, 2)
    for parameter in np.random.default_rng([0, index]).uniform(-g, g, shape):
        if np.array_equal(round8(transform_image(image, parameter, str(kind))), found):
            return found, np.atleast_1d(parameter)
    raise RuntimeError(f"no parameter of digit {index} gives its attack back")


def errors_at(
    image: NDArray[np.float32], received: NDArray[np.float32], gamma: NDArray[np.float64],
    draws: NDArray[np.float64], kind: Transformation, attacked_by: GaussianOperator, read_by: GaussianOperator,
) -> NDArray[np.float64]:  # fmt: skip
    """``|S_beta x' - S'_(beta+gamma) x|`` of the pixels that are classified, for every drawn beta [n, d]."""
    twice = warp_batch(received[None], draws, str(kind), attacked_by).astype(np.float64)
    once = warp_batch(image[None], draws + gamma, str(kind), read_by)
    return np.asarray(np.sqrt(np.square(twice - once).sum(axis=(1, 2, 3))))


def received_rows(
    model: LoadedModel, digits: list[tuple[NDArray[np.float32], int]], draws: int, blur: float
) -> Iterator[dict[str, Any]]:
    """One row a digit: its bound, its error at drawn parameters (median), their ratios and the seconds.

    It is read through a filter whose variance is by ``blur`` pixels^2 less than that of its originals'.
    """
    kind = Transformation(model.card.noise.transformation)
    attack_range = AttackRange(kind, RECEIVED[kind])
    operator = model.operator
    assert isinstance(operator, GaussianOperator)
    narrower = operator.for_attacked(blur)
    for index, (image, label) in enumerate(digits):
        received, gamma = attacked(model, image, label, attack_range, index)
        beta = np.random.default_rng([1, index]).normal(0.0, model.card.noise.sigma_gamma, (draws, len(gamma)))
        errors = errors_at(image, received, gamma, beta, kind, narrower, operator)
        start, worked = time.perf_counter(), time.process_time()
        bound = received_image_error(
            received, str(kind), attack_range.half_width, narrower, BoundSettings(), original=operator, stage=no_stage
        )
        seconds, worked = time.perf_counter() - start, time.process_time() - worked
        yield {
            "index": index, "gamma": gamma.tolist(), "bound": bound, "error": float(np.median(errors)),
            "ratios": (bound / errors).tolist(), "seconds": seconds, "processor_seconds": worked,
        }  # fmt: skip


def plain_enclosure(image: NDArray[np.float32], operator: GaussianOperator) -> float:
    """First-order bound: over cells of ``PLAIN_STEP``, the residual at the centre plus half-width times derivatives."""
    exact, original = image[None].astype(np.float64), operator.for_original()
    pad = padding(original, "rotation", REFERENCE)
    frame = (pad, pad), (pad, pad), (0, 0)
    attacked_by, read_by = (GaussianOperator(np.pad(one.weights, pad), one.sigma) for one in (operator, original))
    bands = filter_bands(operator, pad, 0), filter_bands(original, pad, 0), filter_bands(original, pad, 1)
    (rows, columns), (rows_0, columns_0), (rows_d, columns_d) = ([band.dense() for band in pair] for pair in bands)
    height, width = operator.input_shape
    y, x = np.arange(height)[:, None] - 0.5 * (height - 1), np.arange(width)[None, :] - 0.5 * (width - 1)
    sources, half = operator.masked(exact), np.deg2rad(0.5 * PLAIN_STEP)
    scaled = sources / original.sigma
    turned = float(norm_of([(rows_0, -scaled * y, columns_d), (rows_d, scaled * x, columns_0)])[0])
    worst = 0.0
    for angle in np.arange(-REFERENCE + 0.5 * PLAIN_STEP, REFERENCE, PLAIN_STEP):
        turned_image = transform_image(image, angle, "rotation")
        moved = warp_batch(np.pad(turned_image, frame)[None], np.zeros(1), "rotation", attacked_by)
        residual = float(np.linalg.norm(moved - warp_batch(np.pad(image, frame)[None], [angle], "rotation", read_by)))
        steep = _steepest(image, angle, half)
        rounded = np.where((steep > 0.0) | (turned_image > 0.0), TOLERANCE, 0.0)
        change, noise = (float(norm_of([(rows, operator.masked(v[None]), columns)])[0]) for v in (steep, rounded))
        worst = max(worst, residual + half * (change + turned) + noise)
    return worst


def _steepest(image: NDArray[np.float32], angle: float, half: float) -> NDArray[np.float64]:
    """At least the derivative by the angle of each pixel of the turned image, within ``half`` radians [H, W, C]."""
    height, width = image.shape[:2]
    y, x = np.arange(height)[:, None] - 0.5 * (height - 1), np.arange(width)[None, :] - 0.5 * (width - 1)
    t = np.deg2rad(angle)
    sx, sy = x * np.cos(t) - y * np.sin(t), x * np.sin(t) + y * np.cos(t)
    frame = np.pad(image[..., 0].astype(np.float64), 12)
    down, right = np.abs(np.diff(frame, axis=0)), np.abs(np.diff(frame, axis=1))
    reach = half * np.hypot(x, y)
    slope = np.zeros((height, width))
    for row_end in (-reach, reach):
        for column_end in (-reach, reach):
            i = np.floor(sy + row_end + 0.5 * (height - 1)).astype(int) + 12
            j = np.floor(sx + column_end + 0.5 * (width - 1)).astype(int) + 12
            steps = np.maximum(down[i, j], down[i, j + 1]) * (np.abs(sx) + reach)
            slope = np.maximum(slope, steps + np.maximum(right[i, j], right[i + 1, j]) * (np.abs(sy) + reach))
    return slope[..., None]


def reference_rows(
    model: LoadedModel, digits: list[tuple[NDArray[np.float32], int]], draws: int
) -> Iterator[dict[str, Any]]:
    """One row a digit: the bound and the plain one over the largest error of sampled attacks, at drawn beta."""
    operator = model.operator
    assert isinstance(operator, GaussianOperator)
    for index, (image, _) in enumerate(digits):
        generator = np.random.default_rng([2, index])
        attacks = generator.uniform(-REFERENCE, REFERENCE, SAMPLED)
        beta = generator.normal(0.0, model.card.noise.sigma_gamma, draws)
        received = np.stack([round8(transform_image(image, g, "rotation")) for g in attacks])
        largest = np.zeros(draws)
        for n, b in enumerate(beta):
            twice = warp_batch(received, np.full(SAMPLED, b), "rotation", operator).astype(np.float64)
            once = warp_batch(image[None], b + attacks, "rotation", operator.for_original())
            largest[n] = np.sqrt(np.square(twice - once).sum(axis=(1, 2, 3))).max()
        start = time.perf_counter()
        bound = float(known_image_errors(image[None], "rotation", REFERENCE, operator, operator.for_original())[0])
        middle = time.perf_counter()
        plain = plain_enclosure(image, operator)
        yield {
            "index": index, "bound": bound, "plain_bound": plain, "largest_error": float(np.median(largest)),
            "ratios": (bound / largest).tolist(), "plain_ratios": (plain / largest).tolist(),
            "seconds": middle - start, "plain_seconds": time.perf_counter() - middle,
        }  # fmt: skip


def figures(rows: list[dict[str, Any]], prefix: str = "") -> dict[str, float]:
    """Mean bound; quartiles of all ratios; median and largest of seconds, by the clock and of all cores together."""
    low, median, high = np.percentile(np.concatenate([row[f"{prefix}ratios"] for row in rows]), [25, 50, 75])
    spent = [row[f"{prefix}seconds"] for row in rows]
    return {
        "bound_mean": round(float(np.mean([row[f"{prefix}bound"] for row in rows])), 4),
        "ratio_quartile_1": round(float(low), 4), "ratio_median": round(float(median), 4),
        "ratio_quartile_3": round(float(high), 4), "seconds_median": round(float(np.median(spent)), 3),
        "seconds_max": round(max(spent), 3),
    } | {
        f"processor_seconds_{name}": round(float(of([row["processor_seconds"] for row in rows])), 3)
        for name, of in (("median", np.median), ("max", np.max)) if "processor_seconds" in rows[0]
    }  # fmt: skip


def main(words: list[str]) -> int:
    """Measure all three and write ``results/error-bounds.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="root of MNIST in torchvision's layout")
    parser.add_argument("--digits", type=int, default=20)
    parser.add_argument("--draws", type=int, default=100, help="drawn parameters a digit")
    chosen = parser.parse_args(words)
    images, labels = load_mnist(chosen.data, train=False)
    timed = [(images[n], int(labels[n])) for n in range(max(chosen.digits, TIMED))]
    digits = timed[: chosen.digits]
    models = {
        kind: load_model(read_card(ROOT / "models" / "zoo" / f"mnist-{kind}" / "card.toml"), "cpu") for kind in RECEIVED
    }
    rotating = models[Transformation.ROTATION]
    for kind, model in models.items():  # compiled, or read from the cache, before the clock runs
        limits = AttackRange(kind, RECEIVED[kind])
        ImageErrorBounds(model, images[0], limits, ImageIs.RECEIVED, BoundSettings(cell_width=1.0)).bound_for_all()
    known_image_errors(images[:1], "rotation", 0.1, rotating.operator)  # type: ignore[arg-type]
    tasks = {}
    for kind, model in models.items():
        tasks[f"received-{kind}"] = received_rows(model, digits, chosen.draws, RECEIVED_BLUR)
        tasks[f"received-{kind}-one-filter"] = received_rows(model, digits, chosen.draws, 0.0)
    tasks[f"received-rotation-{len(timed)}-digits"] = received_rows(rotating, timed, 1, RECEIVED_BLUR)
    tasks["reference-rotation"] = reference_rows(rotating, digits, max(1, chosen.draws // 50))
    rows: dict[str, list[dict[str, Any]]] = {}
    with tqdm(total=(len(tasks) - 1) * len(digits) + len(timed), desc="error-bounds", mininterval=1.0) as progress:
        for name, task in tasks.items():
            rows[name] = []
            for row in task:
                rows[name].append(row)
                progress.update()
    found = {name: figures(part) for name, part in rows.items()}
    found["reference-rotation-plain"] = figures(rows["reference-rotation"], "plain_")
    result = {
        "command": f"python -m benchmarks.error_bounds --data DATA --digits {chosen.digits} --draws {chosen.draws}",
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "version": __version__,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
        "figures": found,
        "rows": {name: [_short(row) for row in part] for name, part in rows.items()},
    }
    OUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(found, indent=2))
    return 0


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the median of its ratios instead of all."""
    return {
        name: round(float(np.median(value)), 5) if name.endswith("ratios") else value for name, value in row.items()
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
