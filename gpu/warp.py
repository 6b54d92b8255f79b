"""Transformed and preprocessed images, P T_t x, into the base classifier's own input buffer.

This is the one definition of the pixels that are classified: training, voting, attacks and tests call it,
and ``error_bound`` encloses exactly these maps. :func:`transform_image` is the attack, always bilinear;
:func:`warp_batch` is what the service does to an image, bilinear or Gaussian as the model's operator says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .geometry import GeometryError, as_parameters, kind_of, point_frames
from .kernels import sampling
from .kernels import warp as kernels
from .preprocess import AnyOperator, GaussianOperator

PIXEL_SLACK = 2.0**-24 + 2.0**-36
"""Float32 rounding of a pixel in [0, 1], and far more than the error of computing it in float64."""
BATCH_BYTES = 64 * 2**20
"""Scratch for one launch; larger batches run in several."""


def check_images(images: object) -> NDArray[np.float32]:
    """Images as contiguous float32 [M, H, W, C], finite and within [0, 1]."""
    array = np.ascontiguousarray(images, dtype=np.float32)
    if array.ndim != 4 or 0 in array.shape:
        raise GeometryError(f"images must be [N, H, W, C] and not empty, not {array.shape}")
    if not (array.min() >= 0.0 and array.max() <= 1.0):
        raise GeometryError("pixels must be finite and within [0, 1]")
    return array


def warp_batch(
    images: NDArray[np.float32],
    parameters: object,
    transformation: str,
    operator: AnyOperator,
    *,
    device: str = "cpu",
    out: Any = None,
) -> Any:
    """P T_t x for each parameter t.

    Parameters
    ----------
    images : ndarray [M, H, W, C] float32
        Within [0, 1]; M is 1 (one image, every parameter) or N.
    parameters : array_like [N] degrees, or [N, 2] pixels
    transformation : {"rotation", "translation"}
    operator : Operator or GaussianOperator
        P for H x W.
    device : {"cpu", "cuda"}
    out : array [N, C, h, w] float32, optional
        Anything numpy (cpu) or ``__cuda_array_interface__`` (cuda) can write into.

    Returns
    -------
    array [N, C, h, w] float32
        ``out``, or a new numpy array. Computed in float64, rounded once.

    Raises
    ------
    GeometryError
        If a shape, a pixel or a parameter is out of range.
    """
    images = check_images(images)
    frames = point_frames(as_parameters(parameters, transformation), transformation)
    count, channels = len(frames), images.shape[3]
    if len(images) not in (1, count):
        raise GeometryError(f"{len(images)} images do not fit {count} parameters")
    if operator.input_shape != images.shape[1:3]:
        raise GeometryError(f"the operator is for {operator.input_shape}, the images are {images.shape[1:3]}")
    shape = (count, channels, *operator.output_shape)
    if out is None:
        if device == "cuda":
            raise GeometryError("device cuda needs an output buffer on the device")
        out = np.empty(shape, dtype=np.float32)
    if tuple(out.shape) != shape:
        raise GeometryError(f"the output buffer must be {shape}, not {tuple(out.shape)}")
    step = max(1, BATCH_BYTES // (16 * channels * images.shape[1] * images.shape[2]))
    for first in range(0, count, step):
        part = slice(first, min(first + step, count))
        source = images if len(images) == 1 else images[part]
        if isinstance(operator, GaussianOperator):
            sampling.launch(
                operator.masked(source), frames[part], kind_of(transformation), operator, out[part], device
            )
            continue
        kernels.launch(source, frames[part], kind_of(transformation), operator, out[part], device)
    return out


def transform_image(image: NDArray[np.float32], parameter: object, transformation: str) -> NDArray[np.float64]:
    """T_t x of one image [H, W, C], float64, without P and without rounding to 8 bits."""
    images = check_images(np.asarray(image)[None])
    one = np.atleast_1d(np.asarray(parameter, dtype=np.float64))[None]
    frames = point_frames(as_parameters(one, transformation), transformation)
    out = np.empty(images.shape)
    kernels.transform_cpu(images, frames, kind_of(transformation), out)
    return np.asarray(out[0])


def round8(image: NDArray[np.floating]) -> NDArray[np.float32]:
    """The nearest 8-bit image, as float32 multiples of 1/255: at most 1/510 away."""
    return (np.rint(np.clip(np.asarray(image, dtype=np.float64), 0.0, 1.0) * 255.0) / 255.0).astype(np.float32)
