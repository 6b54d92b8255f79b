"""A made-up data set in MNIST's file format: ten classes of 28 x 28 pictures, easy to tell apart."""

from __future__ import annotations

import struct

import numpy as np


def pictures(count, seed):
    """Pictures [N, 28, 28] uint8 with a bright square whose distance from the centre is the class, and labels [N]."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 10, count).astype(np.uint8)
    images = generator.integers(0, 30, (count, 28, 28)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = 5 + 9 * (label // 4), 4 + 6 * (label % 4)
        image[row - 3 : row + 3, column - 3 : column + 3] = 255
    return images, labels


def write_made_digits(root, *, train, test):
    """Write ``root/MNIST/raw`` as torchvision.datasets.MNIST reads it."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count, seed in (("train", train, 0), ("t10k", test, 1)):
        images, labels = pictures(count, seed)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + images.tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels.tobytes())
    return root
