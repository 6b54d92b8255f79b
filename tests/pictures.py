"""Test pictures: the cases that break bounds."""

from __future__ import annotations

import numpy as np

PICTURES = ("constant", "checkerboard", "noise", "bits", "border", "black")


def picture(kind, shape, seed=0):
    """A float32 image [H, W, C] in [0, 1]."""
    generator = np.random.default_rng(seed)
    rows, columns = np.indices(shape[:2])
    if kind == "constant":
        image = np.full(shape, generator.integers(0, 256) / 255)
    elif kind == "checkerboard":
        image = np.repeat(((rows + columns) % 2)[:, :, None], shape[2], axis=2)
    elif kind == "noise":
        image = generator.random(shape)
    elif kind == "bits":
        image = generator.integers(0, 256, shape) / 255
    elif kind == "border":
        edge = (rows == 0) | (columns == 0) | (rows == shape[0] - 1) | (columns == shape[1] - 1)
        image = np.repeat(edge[:, :, None], shape[2], axis=2) * generator.random(shape)
    else:
        image = np.zeros(shape)
    return np.asarray(image, dtype=np.float32)
