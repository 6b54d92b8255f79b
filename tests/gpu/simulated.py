"""Runs every CUDA path on small images and saves the results; a script, run under numba's CUDA simulator.

Usage: ``NUMBA_ENABLE_CUDASIM=1 python -m tests.gpu.simulated OUT.npz`` (or with a real device, without it).
"""

from __future__ import annotations

import sys

import numpy as np
from numba import cuda

from gpu.cells import BoundSettings
from gpu.error_bound import forward_error_bounds, individual_error_bounds
from gpu.geometry import cell_frames
from gpu.inverse import inverse_boxes
from gpu.kernels import lattice, noise
from gpu.lattice import LatticeNoise
from gpu.preprocess import Preprocessing
from gpu.warp import round8, transform_image, warp_batch
from tests.pictures import picture

CASES = {
    "rotation": (np.array([7.0, -95.0]), np.array([1.25]), 2.0),
    "translation": (np.array([[0.3, -1.2], [1.0, 2.0]]), np.array([0.2, -0.3]), 0.5),
}
SETTINGS = BoundSettings(cell_width=1.0, refinements=1, cell_budget=4)


def results(device):
    """All results by name, computed on a device."""
    operator = Preprocessing("circle", 0.5, 3, 1.0).operator(5, 4)
    gaussian = Preprocessing("circle", 0.5, blur_sigma=1.5, interpolation="gaussian", taper=1.0).operator(5, 4)
    out = {}
    for transformation, (betas, gamma, half_width) in CASES.items():
        image = picture("bits", (5, 4, 1), 4)
        received = round8(transform_image(image, gamma, transformation))
        shape = (2, 1, 5, 4)
        buffer = cuda.device_array(shape, np.float32) if device == "cuda" else np.empty(shape, dtype=np.float32)
        warp_batch(image[None], betas, transformation, operator, device=device, out=buffer)
        out[f"{transformation}-warp"] = buffer.copy_to_host() if device == "cuda" else buffer
        buffer = cuda.device_array(shape, np.float32) if device == "cuda" else np.empty(shape, dtype=np.float32)
        warp_batch(image[None], betas, transformation, gaussian, device=device, out=buffer)
        out[f"{transformation}-gaussian"] = buffer.copy_to_host() if device == "cuda" else buffer
        bound = individual_error_bounds(received, betas, transformation, half_width, gaussian, SETTINGS, device=device)
        out[f"{transformation}-gaussian-bound"] = bound
        centres = np.stack([gamma, gamma + 2.0])
        frames = cell_frames(centres - 0.1, centres + 0.1, transformation)
        boxes = inverse_boxes(received, frames, transformation, refinements=1, device=device)
        out[f"{transformation}-empty"] = boxes.empty
        out[f"{transformation}-lower"] = boxes.lower[~boxes.empty]
        out[f"{transformation}-upper"] = boxes.upper[~boxes.empty]
        for bound in (individual_error_bounds, forward_error_bounds):
            source = received if bound is individual_error_bounds else image
            out[f"{transformation}-{bound.__name__}"] = bound(
                source, betas, transformation, half_width, operator, SETTINGS, device=device
            )
    return out | noise_results(device)


def noise_results(device):
    """Both kinds of noise on images of more than one tile, the last one cut."""
    out = {}
    draws, votes, shape = np.array([0, 2**32 - 1, 7]), np.array([5, 0, 2**32 - 1]), (3, 2, 9, 10)
    image = np.arange(180, dtype=np.int32).reshape(shape[1:]) * 300
    for name in ("pixel", "lattice"):
        batch = np.full(shape, 0.5, dtype=np.float32)
        buffer = cuda.to_device(batch) if device == "cuda" else batch
        if name == "pixel":
            noise.launch(2**63 + 5, draws, votes, 0.25, buffer, device)
        else:
            lattice.launch(image, LatticeNoise.of(0.25), 2**63 + 5, draws, votes, buffer, device)
        out[f"{name}-noise"] = buffer.copy_to_host() if device == "cuda" else buffer
    return out


if __name__ == "__main__":
    np.savez(sys.argv[1], **results("cuda"))
