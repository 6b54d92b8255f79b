"""E, rho_E and q_E of a card on a data set: the distributional bound (Fischer et al. 2020, section 5.1).

Pilot images choose E, and for rotated reference images with Gaussian interpolation also a factor of the image's own
sampled errors; *other* images are then tested one by one for ``P_beta(max_gamma eps <= E) >= 1 - rho_E``, and the
count of those that pass gives q_E by Clopper-Pearson. With Gaussian interpolation (``gpu.residual``), and for a
rotation (``gpu.cover``), the error is bounded over every parameter at once, so all draws of an image pass together;
other translations are bounded draw by draw, and the image's test has a level that q_E is corrected for.
The state is kept in a file beside the result, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from certification import __version__
from certification.calibration import Calibration, image_holds, q_lower
from certification.vocabulary import ImageIs, Transformation
from gpu.cover import largest_rotation_errors, translation_draw_errors
from gpu.preprocess import AnyOperator, GaussianOperator, Operator
from gpu.residual import known_image_errors, sampled_error
from gpu.warp import round8, transform_image, warp_batch

from .card import ModelCard, read_card
from .data import load_mnist
from .records import Map

CHUNK = 8
ANGLES = 61
"""Sampled attacks of a reference image."""


@dataclass(frozen=True)
class Task:
    """Everything that decides a calibration's numbers; a stored state of another task is not reused."""

    model: str
    preprocessing_digest: str
    transformation: str
    attack_range: float
    image_is: str
    sigma_gamma: float
    split: str
    images: int
    draws: int
    pilot_images: int
    pilot_draws: int
    margin: float
    quantile: float
    rho_E: float
    confidence: float
    seed: int
    version: str = __version__

    @property
    def sampled_attacks(self) -> int:
        """Of a reference image that is rotated; see :class:`Calibration`."""
        return ANGLES if (self.image_is, self.transformation) == (ImageIs.REFERENCE, "rotation") else 0


def pilot_errors(
    images: NDArray[np.float32], task: Task, operator: AnyOperator, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Largest sampled error of each pilot image [N]: random parameters of noise and of attack, no proof needed."""
    out = np.zeros(len(images))
    shape = (task.pilot_draws,) if task.transformation == "rotation" else (task.pilot_draws, 2)
    for index, image in enumerate(tqdm(images, desc="pilot", mininterval=2.0)):
        beta = generator.normal(0.0, task.sigma_gamma, shape)
        gamma = generator.uniform(-task.attack_range, task.attack_range, shape)
        attacked = np.stack([round8(transform_image(image, g, task.transformation)) for g in gamma])
        twice = warp_batch(attacked, beta, task.transformation, operator)
        once = warp_batch(image[None], beta + gamma, task.transformation, operator)
        out[index] = np.linalg.norm((twice - once).reshape(len(beta), -1), axis=1).max()
    return out


def both(operator: GaussianOperator, task: Task) -> tuple[GaussianOperator, GaussianOperator]:
    """What reads the attacked image, and what reads the original (docs/guarantees.md, D.5)."""
    if task.image_is == ImageIs.RECEIVED:
        return operator.for_attacked(), operator
    return operator, operator.for_original()


@dataclass(frozen=True)
class Limits:
    """What an image's errors are tested for: E, and the factor of its own sampled errors (0: of none)."""

    error_bound: float
    factor: float = 0.0

    def of(self, images: NDArray[np.float32], task: Task, operator: GaussianOperator) -> NDArray[np.float64]:
        """E of each image [N]."""
        if not self.factor:
            return np.full(len(images), self.error_bound)
        return np.minimum(self.error_bound, self.factor * sampled_errors(images, task, operator))


def sampled_errors(images: NDArray[np.float32], task: Task, operator: GaussianOperator) -> NDArray[np.float64]:
    """Largest error of each image [N] at the sampled attacks."""
    readers = both(operator, task)
    return np.array([
        sampled_error(image, task.transformation, task.attack_range, *readers, task.sampled_attacks) for image in images
    ])  # fmt: skip


def choose_limits(images: NDArray[np.float32], task: Task, operator: AnyOperator) -> Limits:
    """From pilot images: with Gaussian interpolation quantiles of their bounds, else above all sampled errors.

    Where two limits hold together, either gets half of what the quantile leaves.
    """
    if not isinstance(operator, GaussianOperator):
        sampled = pilot_errors(images, task, operator, np.random.default_rng([task.seed, 1]))
        return Limits(round(task.margin * float(sampled.max()), 3))
    bounds, sampled = np.zeros(len(images)), np.zeros(len(images))
    for first in tqdm(range(0, len(images), CHUNK), desc="pilot", mininterval=2.0):
        part = slice(first, first + CHUNK)
        bounds[part] = known_image_errors(images[part], task.transformation, task.attack_range, *both(operator, task))
        if task.sampled_attacks:
            sampled[part] = sampled_errors(images[part], task, operator)
    if not task.sampled_attacks:
        return Limits(_quantile_up(bounds, task.quantile))
    share = 0.5 * (1.0 + task.quantile)
    seen = sampled > 0.0
    return Limits(_quantile_up(bounds, share), _quantile_up(bounds[seen] / sampled[seen], share))


def _quantile_up(values: NDArray[np.float64], share: float) -> float:
    """A quantile, rounded up to thousandths."""
    return math.ceil(1000.0 * float(np.quantile(values, share, method="higher"))) / 1000.0


def image_bounds(
    images: NDArray[np.float32], numbers: NDArray[np.int64], limits: Limits, task: Task, operator: AnyOperator
) -> list[tuple[float, bool]]:
    """For each image: the largest bound of its errors, and whether it holds the property (Eq. 6, inside)."""
    if isinstance(operator, GaussianOperator) or task.transformation == "rotation":
        if isinstance(operator, GaussianOperator):
            allowed = limits.of(images, task, operator)
            found = known_image_errors(
                images, task.transformation, task.attack_range, *both(operator, task), floor=allowed
            )
        else:
            allowed = np.full(len(images), limits.error_bound)
            found = largest_rotation_errors(images, task.attack_range, operator, floor=limits.error_bound)
        return [(float(bound), bool(bound <= most)) for bound, most in zip(found, allowed, strict=True)]
    results = []
    for image, number in zip(images, numbers, strict=True):
        draws = np.random.default_rng([task.seed, 2, int(number)]).normal(0.0, task.sigma_gamma, (task.draws, 2))
        bounds = translation_draw_errors(image, draws, task.attack_range, operator)
        holds = image_holds(bounds, limits.error_bound, task.rho_E, alpha_image(task))
        results.append((float(bounds.max()), holds))
    return results


def alpha_image(task: Task) -> float:
    """Level of an image's test on draws: what ``draws`` successes of ``draws`` can just show, or 1e-4."""
    return min(max((1.0 - task.rho_E) ** task.draws * 1.01, 1e-4), 0.5)


def calibrate(
    card: ModelCard, task: Task, images: NDArray[np.float32], *, error_bound: float | None, state: Path, command: str,
    mapped: Map = map,
) -> Calibration:  # fmt: skip
    """Run a calibration to its end, or go on with a stopped one.

    Parameters
    ----------
    card : ModelCard
    task : Task
    images : ndarray [M, H, W, C] float32
        The data set; pilot and tested images are drawn from it without overlap.
    error_bound : float or None
        E to test, the same for all images; None: :func:`choose_limits` on pilot images.
    state : Path
        JSON lines: the task, then one line a tested image.
    command : str
        Recorded in the result.
    mapped : Map
        Calls what bounds some images: one after another by default.
    """
    operator = card.preprocessing.operator(card.input.height, card.input.width)
    order = np.random.default_rng([task.seed, 0]).permutation(len(images))
    if task.pilot_images + task.images > len(images):
        raise ValueError(f"{task.pilot_images} + {task.images} images are more than the {len(images)} of the data set")
    pilot, tested = order[: task.pilot_images], order[task.pilot_images : task.pilot_images + task.images]
    piloted = error_bound is None
    done = _read_state(state, task, error_bound)
    if done is None:
        limits = choose_limits(images[pilot], task, operator) if error_bound is None else Limits(error_bound)
        state.parent.mkdir(parents=True, exist_ok=True)
        state.write_text(json.dumps({**asdict(task), **asdict(limits)}) + "\n")
        results: list[tuple[float, bool]] = []
    else:
        limits, results = done

    def bounds_of(first: int) -> list[tuple[float, bool]]:
        part = tested[first : first + CHUNK]
        return image_bounds(images[part], part, limits, task, operator)

    with tqdm(total=len(tested), initial=len(results), desc=f"E = {limits.error_bound}", mininterval=2.0) as progress:
        for new in mapped(bounds_of, range(len(results), len(tested), CHUNK)):
            with state.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in new)
            results += new
            progress.update(len(new))
    passed = sum(holds for _, holds in results)
    drawn = task.transformation == "translation" and isinstance(operator, Operator)
    bounds = [bound for bound, _ in results if math.isfinite(bound)]
    return Calibration(
        model=card.id,
        transformation=Transformation(task.transformation),
        attack_range=task.attack_range,
        error_bound=limits.error_bound,
        sampled_attacks=task.sampled_attacks if limits.factor else 0,
        factor=limits.factor,
        rho_E=task.rho_E if drawn else 0.0,
        q_E=q_lower(passed, len(results), 1.0 - task.confidence, alpha_image(task) if drawn else 0.0),
        confidence=task.confidence,
        images=len(results),
        images_passed=passed,
        parameter_draws=task.draws,
        pilot_images=task.pilot_images if piloted else 0,
        pilot_draws=task.pilot_draws if piloted and isinstance(operator, Operator) else 0,
        dataset="MNIST",
        split=task.split,
        seed=task.seed,
        sigma_gamma=task.sigma_gamma,
        preprocessing_digest=task.preprocessing_digest,
        method="drawn parameters" if drawn else "every parameter at once",
        largest_bound=max(bounds),
        image_is=task.image_is,
        version=__version__,
        created=datetime.now(UTC).date().isoformat(),
        command=command,
    )


def _read_state(state: Path, task: Task, error_bound: float | None) -> tuple[Limits, list[tuple[float, bool]]] | None:
    """The stored limits and results of this very task, or None; a half-written last line is cut off."""
    if not state.is_file():
        return None
    lines = state.read_text().split("\n")[:-1]
    state.write_text("".join(line + "\n" for line in lines))
    head = json.loads(lines[0]) if lines else {}
    stored = {name: head.pop(name) for name in ("error_bound", "factor") if name in head}
    if head != asdict(task) or len(stored) < 2 or (error_bound is not None and stored["error_bound"] != error_bound):
        return None
    return Limits(**stored), [(float(bound), bool(holds)) for bound, holds in map(json.loads, lines[1:])]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``surety calibrate``."""
    parser.add_argument("card", type=Path, help="path of a card.toml")
    parser.add_argument("--data", type=Path, required=True, help="root of the data set in torchvision's layout")
    parser.add_argument("--attack-range", type=float, required=True, help="half-width, degrees or pixels")
    parser.add_argument(
        "--image-is",
        choices=[str(i) for i in ImageIs],
        help="which image is in hand (needed for Gaussian interpolation, where it matters)",
    )
    parser.add_argument("--images", type=int, default=1000, help="images that q_E is tested on")
    parser.add_argument("--draws", type=int, default=8000, help="parameters an image")
    parser.add_argument("--pilot-images", type=int, default=1000)
    parser.add_argument("--pilot-draws", type=int, default=100)
    parser.add_argument("--margin", type=float, default=1.3, help="E as a multiple of the largest pilot error")
    parser.add_argument(
        "--quantile", type=float, default=0.996, help="E as a quantile of the pilot images' bounds (Gaussian)"
    )
    parser.add_argument("--error-bound", type=float, help="E to test for all images, instead of the pilot's")
    parser.add_argument("--rho", type=float, default=1e-3)
    parser.add_argument("--confidence", type=float, default=0.999)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: bounds/<transformation>-<range>[-<image>].json")


def run(arguments: argparse.Namespace, mapped: Map = map) -> int:
    """``surety calibrate``: write the bound beside the card and print it."""
    card = read_card(arguments.card)
    if card.noise.transformation == "none" or not 0.0 < arguments.attack_range <= card.attack_range_limit:
        print(f"{card.id}: no transformation, or attack range outside (0, {card.attack_range_limit}]", file=sys.stderr)
        return 2
    matters = card.preprocessing.interpolation == "gaussian"
    if matters != (arguments.image_is is not None):
        needs = "needs" if matters else "takes no"
        print(f"{card.id}: {card.preprocessing.interpolation} interpolation {needs} --image-is", file=sys.stderr)
        return 2
    image_is = arguments.image_is or "either"
    task = Task(
        card.id, card.preprocessing.digest(), card.noise.transformation, arguments.attack_range, image_is,
        card.noise.sigma_gamma, "train", arguments.images, arguments.draws, arguments.pilot_images,
        arguments.pilot_draws, arguments.margin, arguments.quantile, arguments.rho, arguments.confidence,
        arguments.seed,
    )  # fmt: skip
    name = f"{task.transformation}-{task.attack_range:g}" + ("" if image_is == "either" else f"-{image_is}")
    out = arguments.out or card.path.parent / "bounds" / f"{name}.json"
    images, _ = load_mnist(arguments.data, train=True)
    command = f"surety calibrate {card.id}/card.toml " + shlex.join(_relevant(arguments))
    state = out.with_suffix(".state")
    try:
        result = calibrate(
            card, task, images, error_bound=arguments.error_bound, state=state, command=command, mapped=mapped
        )
    except ValueError as error:
        print(f"{card.id}: {error}", file=sys.stderr)
        return 1
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result.to_json(), indent=2) + "\n")
    state.unlink()
    own = f" or {result.factor} times the largest sampled error" if result.factor else ""
    print(f"{out}: E = {result.error_bound}{own}, rho_E = {result.rho_E}, q_E = {result.q_E:.4f}")
    return 0


def _relevant(arguments: argparse.Namespace) -> list[str]:
    named = {
        "attack-range": arguments.attack_range, "image-is": arguments.image_is, "images": arguments.images,
        "draws": arguments.draws,
        "pilot-images": arguments.pilot_images, "pilot-draws": arguments.pilot_draws, "margin": arguments.margin,
        "quantile": arguments.quantile,
        "error-bound": arguments.error_bound, "rho": arguments.rho, "confidence": arguments.confidence,
        "seed": arguments.seed,
    }  # fmt: skip
    return [text for key, value in named.items() if value is not None for text in (f"--{key}", str(value))]
