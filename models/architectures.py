"""Networks by name: two small ones of our own, and every classifier of torchvision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

TORCHVISION_PREFIX = "torchvision:"


class ArchitectureError(ValueError):
    """An architecture that does not exist, or that refuses its options."""


class SmallConv(nn.Module):
    """A convolutional network for small images, made for many votes a second on a CPU.

    Three convolutions (the first two with stride 2), batch normalisation, one hidden linear layer.
    Input [N, C, H, W] with H, W >= 8, values around [0, 1]; output [N, classes] logits.
    """

    def __init__(self, classes: int, channels: int, shape: tuple[int, int], width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(inplace=True),
        )
        rows, columns = ((side + 1) // 2 for side in shape)
        flat = 2 * width * ((rows + 1) // 2) * ((columns + 1) // 2)
        self.head = nn.Sequential(nn.Linear(flat, 4 * width), nn.ReLU(inplace=True), nn.Linear(4 * width, classes))

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.features(images)
        logits: Tensor = self.head(features.flatten(1))
        return logits


def _normalised_conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside the identity (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            *_normalised_conv(width, width, 3), nn.ReLU(inplace=True), *_normalised_conv(width, width, 3)
        )

    def forward(self, images: Tensor) -> Tensor:
        return functional.relu(images + self.change(images))


class SmallResNet(nn.Module):
    """A residual network for small smooth images: one large kernel with stride 4, then two residual blocks.

    Input [N, C, H, W] with H, W >= 8, values around [0, 1]; output [N, classes] logits. What a Gaussian filter has
    smoothed needs no fine grid, so most of the work is done on a quarter of it.
    """

    def __init__(self, classes: int, channels: int, shape: tuple[int, int], width: int = 64) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_normalised_conv(channels, width, 9, stride=4),
            nn.ReLU(inplace=True),
            ResidualBlock(width),
            ResidualBlock(width),
        )
        rows, columns = ((side + 3) // 4 for side in shape)
        self.head = nn.Sequential(
            nn.Linear(width * rows * columns, 2 * width), nn.ReLU(inplace=True), nn.Linear(2 * width, classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.features(images)
        logits: Tensor = self.head(features.flatten(1))
        return logits


OWN: dict[str, Callable[..., nn.Module]] = {"small_conv": SmallConv, "small_resnet": SmallResNet}


class Normalised(nn.Module):
    """A network behind a fixed per-channel normalisation ``(u - mean) / std``, applied after the pixel noise."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


def build(name: str, classes: int, channels: int, shape: tuple[int, int], options: Mapping[str, Any]) -> nn.Module:
    """A network with fresh weights, in evaluation mode.

    Parameters
    ----------
    name : str
        ``small_conv``, ``small_resnet``, or ``torchvision:`` and the name of one of torchvision's classifiers.
    classes, channels : int
    shape : (height, width)
        What the network sees, after preprocessing.
    options : mapping
        Further keyword arguments of the architecture.

    Raises
    ------
    ArchitectureError
        If the name is unknown or the architecture refuses an option.
    """
    try:
        if name in OWN:
            return OWN[name](classes, channels, shape, **options).eval()
        if name.startswith(TORCHVISION_PREFIX):
            # Two seconds and 80 MB, which only its own networks are worth.
            from .torchvision_compat import models as torchvision_models

            known = name.removeprefix(TORCHVISION_PREFIX)
            if known not in torchvision_models.list_models(module=torchvision_models):
                raise ArchitectureError(f"torchvision has no classifier named {known!r}")
            network: nn.Module = torchvision_models.get_model(known, weights=None, num_classes=classes, **options)
            return network.eval()
    except ArchitectureError:
        raise
    except Exception as error:  # constructors that are not ours raise anything on a wrong option
        raise ArchitectureError(f"{name} does not take these options: {error}") from error
    raise ArchitectureError(f"architecture must be {' or '.join(OWN)} or {TORCHVISION_PREFIX}<name>, not {name!r}")
