"""Noise-augmented training: the network sees P T_beta x + delta exactly as certification does.

Cohen et al. 2019, section 3.3 (train with the noise one certifies with), with the parameter noise of
Fischer et al. 2020, section 7.2, beside the pixel noise.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from certification import __version__
from gpu.preprocess import AnyOperator
from gpu.warp import warp_batch

from .architectures import Normalised, build
from .card import file_digest, read_card
from .data import load_mnist

NOISY_DRAWS = 3
"""Noisy versions of each test image that the card's accuracy is measured on."""


@dataclass(frozen=True)
class Noise:
    """What training draws: parameters ``N(0, sigma_gamma^2)``, pixel noise ``N(0, sigma_delta^2)``.

    ``transformation`` is "rotation" or "translation"; ``sigma_gamma`` in degrees or pixels, ``sigma_delta``
    in intensity (images in [0, 1]).
    """

    transformation: str
    sigma_gamma: float
    sigma_delta: float

    def parameters(self, count: int, generator: np.random.Generator) -> NDArray[np.float64]:
        """Draw ``[N]`` degrees or ``[N, 2]`` pixels."""
        shape = (count,) if self.transformation == "rotation" else (count, 2)
        return generator.normal(0.0, self.sigma_gamma, shape)


@dataclass(frozen=True)
class Schedule:
    """How long and with which step sizes; weights are averaged after the share ``average_from`` of the epochs.

    ``silent_share`` of the images get no pixel noise, and labels are smoothed by ``label_smoothing``.
    """

    epochs: int = 20
    batch_size: int = 256
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    silent_share: float = 0.2
    label_smoothing: float = 0.02
    average_from: float = 0.7


def noisy_batch(
    images: NDArray[np.float32],
    noise: Noise,
    operator: AnyOperator,
    generator: np.random.Generator,
    *,
    silent_share: float = 0.0,
) -> Tensor:
    """P T_beta x + delta for images [N, H, W, C], one draw each, as a tensor [N, C, h, w].

    A share of the images gets no pixel noise, so that the network also serves where none is added.
    """
    warped = warp_batch(images, noise.parameters(len(images), generator), noise.transformation, operator)
    batch = torch.from_numpy(warped)
    pixel_noise = torch.from_numpy(generator.standard_normal(warped.shape, dtype=np.float32)) * noise.sigma_delta
    pixel_noise[: round(silent_share * len(images))] = 0.0
    return (batch + pixel_noise).contiguous(memory_format=torch.channels_last)


def train_network(
    network: nn.Module,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    noise: Noise,
    operator: AnyOperator,
    schedule: Schedule,
    *,
    seed: int,
    report: Callable[[str], None] = tqdm.write,
) -> nn.Module:
    """Train in place and return the average of the late weights, in evaluation mode.

    Parameters
    ----------
    network : Module
        Takes [N, C, h, w], returns logits.
    images, labels : ndarray [N, H, W, C] float32 in [0, 1], [N] int64
    noise, operator, schedule
    seed : int
        Of the draws and of the order of images; the initial weights are the caller's.
    """
    generator = np.random.default_rng(seed)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = len(images) // schedule.batch_size
    if steps == 0:
        raise ValueError(f"{len(images)} images do not fill a batch of {schedule.batch_size}")
    optimiser = torch.optim.AdamW(network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=schedule.learning_rate, total_steps=steps * schedule.epochs, pct_start=0.15
    )
    average = torch.optim.swa_utils.AveragedModel(
        network,
        multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999),  # type: ignore[no-untyped-call]
        use_buffers=True,
    )
    averaged = False
    for epoch in range(schedule.epochs):
        network.train()
        order = generator.permutation(len(images))
        total = 0.0
        for step in tqdm(range(steps), desc=f"epoch {epoch + 1}/{schedule.epochs}", leave=False, mininterval=5.0):
            chosen = order[step * schedule.batch_size : (step + 1) * schedule.batch_size]
            batch = noisy_batch(images[chosen], noise, operator, generator, silent_share=schedule.silent_share)
            logits, truth = network(batch), torch.from_numpy(labels[chosen])
            loss = functional.cross_entropy(logits, truth, label_smoothing=schedule.label_smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            rate.step()
            total += float(loss.detach())
            if epoch >= schedule.average_from * schedule.epochs:
                average.update_parameters(network)
                averaged = True
        report(f"epoch {epoch + 1}: loss {total / steps:.4f}")
    return (average.module if averaged else network).eval()


@torch.inference_mode()
def accuracy(
    network: nn.Module,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    operator: AnyOperator,
    noise: Noise | None,
    *,
    seed: int = 0,
    draws: int = 1,
) -> float:
    """Share of right answers on P x (``noise`` None), or on ``draws`` noisy versions of each image."""
    generator = np.random.default_rng(seed)
    right = 0
    for _ in range(draws):
        for first in range(0, len(images), 1000):
            part = slice(first, first + 1000)
            if noise is None:
                batch = torch.from_numpy(operator.apply(images[part]))
            else:
                batch = noisy_batch(images[part], noise, operator, generator)
            right += int((network(batch).argmax(dim=1).numpy() == labels[part]).sum())
    return right / (draws * len(images))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``surety train``."""
    parser.add_argument("card", type=Path, help="card.toml of the model: architecture, preprocessing and noise")
    parser.add_argument("--data", type=Path, required=True, help="root of MNIST in torchvision's layout")
    parser.add_argument("--epochs", type=int, default=Schedule.epochs)
    parser.add_argument("--batch-size", type=int, default=Schedule.batch_size)
    parser.add_argument("--learning-rate", type=float, default=Schedule.learning_rate)
    parser.add_argument("--silent-share", type=float, default=Schedule.silent_share, help="images without pixel noise")
    parser.add_argument("--label-smoothing", type=float, default=Schedule.label_smoothing)
    parser.add_argument("--start", type=Path, help="weights to start from (safetensors), instead of random ones")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--images", type=int, help="train on the first so many images only")


def run(arguments: argparse.Namespace) -> int:
    """``surety train``: train, measure on the full test set, write the weights and the card's figures."""
    card = read_card(arguments.card)
    operator = card.preprocessing.operator(card.input.height, card.input.width)
    noise = Noise(card.noise.transformation, card.noise.sigma_gamma, card.noise.sigma_delta)
    if noise.transformation == "none":
        print(f"{card.path}: noise.transformation: there is nothing to train for with none", file=sys.stderr)
        return 2
    images, labels = load_mnist(arguments.data, train=True)
    images, labels = images[: arguments.images], labels[: arguments.images]
    torch.manual_seed(arguments.seed)
    design = card.architecture
    network = build(design.name, len(card.class_names), card.input.channels, operator.output_shape, design.options)
    if arguments.start is not None:
        try:
            network.load_state_dict(load_file(arguments.start))
        except (OSError, SafetensorError, RuntimeError) as error:
            print(f"{arguments.start}: not weights of {design.name}: {error}", file=sys.stderr)
            return 2
    if design.mean is not None and design.std is not None:
        network = Normalised(network, design.mean, design.std)
    schedule = Schedule(
        arguments.epochs,
        arguments.batch_size,
        arguments.learning_rate,
        silent_share=arguments.silent_share,
        label_smoothing=arguments.label_smoothing,
    )
    network = train_network(network, images, labels, noise, operator, schedule, seed=arguments.seed)
    test_images, test_labels = load_mnist(arguments.data, train=False)
    clean = accuracy(network, test_images, test_labels, operator, None)
    noisy = accuracy(network, test_images, test_labels, operator, noise, draws=NOISY_DRAWS)
    plain = network.network if isinstance(network, Normalised) else network
    save_file({name: tensor.contiguous() for name, tensor in plain.state_dict().items()}, card.weights_file)
    command = (
        f"surety train {card.id}/card.toml --data DATA --epochs {arguments.epochs} --seed {arguments.seed} "
        f"--batch-size {arguments.batch_size} --learning-rate {arguments.learning_rate} --images {len(images)} "
        f"--silent-share {arguments.silent_share} --label-smoothing {arguments.label_smoothing}"
        + (" --start WEIGHTS" if arguments.start else "")
    )
    figures: dict[str, dict[str, str | int | float]] = {
        "weights": {"sha256": file_digest(card.weights_file)},
        "accuracy": {
            "dataset": "MNIST test",
            "images": len(test_images),
            "clean": round(clean, 4),
            "noisy": round(noisy, 4),
            "noisy_draws": NOISY_DRAWS,
        },
        "training": {
            "command": command,
            "dataset": "MNIST train",
            "images": len(images),
            "epochs": arguments.epochs,
            "seed": arguments.seed,
            "date": datetime.now(UTC).date().isoformat(),
            "version": __version__,
        },
    }
    card.path.write_text(updated_card(card.path.read_text(encoding="utf-8"), figures), encoding="utf-8")
    print(f"{card.id}: clean {clean:.4f}, noisy {noisy:.4f} on {len(test_images)} test images")
    return 0


def updated_card(text: str, figures: Mapping[str, Mapping[str, str | int | float]]) -> str:
    """A card's text with the fields of some tables replaced in place or added; comments and order stay."""
    missing = dict(figures)
    blocks = []
    for block in re.split(r"(?m)^(?=\[)", text):
        header = re.match(r"\[\s*(.+?)\s*\]", block)
        for key, value in missing.pop(header[1] if header else "", {}).items():
            line = f"{key} = {json.dumps(value)}"
            block, found = re.subn(rf"(?m)^{key}\s*=.*$", lambda _, line=line: line, block, count=1)
            if not found:
                block = f"{block.rstrip()}\n{line}\n\n"
        blocks.append(block)
    for table, fields in missing.items():
        lines = (f"{key} = {json.dumps(value)}\n" for key, value in fields.items())
        blocks.append(f"\n[{table}]\n" + "".join(lines))
    return "".join(blocks).rstrip() + "\n"
