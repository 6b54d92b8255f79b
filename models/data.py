"""Data sets from a path the user gives, in torchvision's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .torchvision_compat import datasets


def load_mnist(root: Path, *, train: bool) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """MNIST's images [N, 28, 28, 1] in [0, 1] and labels [N].

    Raises
    ------
    RuntimeError
        From torchvision, if ``root/MNIST/raw`` does not hold the uncompressed IDX files.
    """
    data = datasets.MNIST(str(root), train=train)
    images = (data.data.numpy()[..., None] / np.float32(255)).astype(np.float32)
    return images, np.asarray(data.targets.numpy(), dtype=np.int64)
