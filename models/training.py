"""Noise-augmented training: the network sees P T_beta x + delta exactly as certification does.

Cohen et al. 2019, section 3.3 (train with the noise one certifies with), with the parameter noise of
Fischer et al. 2020, section 7.2, beside the pixel noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from gpu.preprocess import Operator
from gpu.warp import warp_batch


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
    """How long and with which step sizes; ``average_from`` is the share of training after which weights are averaged."""

    epochs: int = 20
    batch_size: int = 256
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    silent_share: float = 0.2
    average_from: float = 0.7


def noisy_batch(
    images: NDArray[np.float32],
    noise: Noise,
    operator: Operator,
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
    operator: Operator,
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
    network = network.to(memory_format=torch.channels_last)
    steps = len(images) // schedule.batch_size
    optimiser = torch.optim.AdamW(network.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=schedule.learning_rate, total_steps=steps * schedule.epochs, pct_start=0.15
    )
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999), use_buffers=True
    )
    averaged = False
    for epoch in range(schedule.epochs):
        network.train()
        order = generator.permutation(len(images))
        total = 0.0
        for step in tqdm(range(steps), desc=f"epoch {epoch + 1}/{schedule.epochs}", leave=False, mininterval=5.0):
            chosen = order[step * schedule.batch_size : (step + 1) * schedule.batch_size]
            batch = noisy_batch(images[chosen], noise, operator, generator, silent_share=schedule.silent_share)
            loss = functional.cross_entropy(network(batch), torch.from_numpy(labels[chosen]), label_smoothing=0.02)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
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
    operator: Operator,
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
