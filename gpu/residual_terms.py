"""What the error bounds of Gaussian interpolation share: padding, filters, derivatives and slack; see ``residual``."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .preprocess import Bands, GaussianOperator, filter_matrix

LEFT_OUT = 5e-6
"""At least the weights of the pixels that lie beyond ``REACH`` standard deviations of a point on an axis."""


def padding(operator: GaussianOperator, transformation: str, half_width: float) -> int:
    """Pixels around the frame that hold everything a transform moves out of it, and its Gaussian."""
    height, width = operator.input_shape
    moved = half_width if transformation == "translation" else 0.5 * (math.hypot(height, width) - min(height, width))
    return math.ceil(operator.reach) + math.ceil(moved) + 1


def filter_bands(operator: GaussianOperator, pad: int, power: int, *, absolute: bool = False) -> tuple[Bands, Bands]:
    """Bands of ``(d / sigma)^power phi(d)`` along rows and columns, or of its absolute value."""
    bands = []
    for size in operator.input_shape:
        distance = (np.arange(-pad, size + pad)[:, None] - np.arange(size)[None, :]) / operator.sigma
        weights = filter_matrix(size, operator.sigma, pad) * distance**power
        bands.append(Bands.from_dense(np.abs(weights) if absolute else weights))
    return bands[0], bands[1]


def norm_of(terms: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]) -> NDArray[np.float64]:
    """``|sum of R v C'|_2`` [N] over terms of filters R, C and images v [N, C, H, W]."""
    total = sum(np.einsum("ij,ncjk,lk->ncil", rows, values, columns, optimize=True) for rows, values, columns in terms)
    return np.asarray(np.sqrt(np.square(total).sum(axis=(1, 2, 3))))


def curvature(
    sources: NDArray[np.float64], operator: GaussianOperator, transformation: str, pad: int
) -> NDArray[np.float64]:
    """Norm [N] of the second derivative of ``S_g x`` by g, summed over the axes; 1/radian^2 or 1/pixel^2.

    With ``c`` the place of a pixel, ``v`` and ``a`` its velocity and acceleration and ``d = q - c``:
    ``(<d, v>^2 / s^4 - |v|^2 / s^2 + <d, a> / s^2) phi(d)``.
    """
    s = operator.sigma
    zeroth, first, second = (
        [band.dense() for band in filter_bands(operator, pad, power)] for power in (0, 1, 2)
    )
    if transformation == "translation":
        along = norm_of([(zeroth[0], sources / s**2, second[1]), (zeroth[0], -sources / s**2, zeroth[1])])
        across = norm_of([(second[0], sources / s**2, zeroth[1]), (zeroth[0], -sources / s**2, zeroth[1])])
        return np.asarray(along + across)
    height, width = operator.input_shape
    y = (np.arange(height) - 0.5 * (height - 1))[:, None]
    x = (np.arange(width) - 0.5 * (width - 1))[None, :]
    vx, vy = -y, x
    return norm_of([
        (zeroth[0], sources * vx**2 / s**2, second[1]),
        (first[0], sources * 2.0 * vx * vy / s**2, first[1]),
        (second[0], sources * vy**2 / s**2, zeroth[1]),
        (zeroth[0], -sources * (x**2 + y**2) / s**2, zeroth[1]),
        (zeroth[0], -sources * x / s, first[1]),
        (first[0], -sources * y / s, zeroth[1]),
    ])  # fmt: skip


def alias(operator: GaussianOperator) -> float:
    """By how much, per unit of energy, a sum of squares over a moved grid may differ from the integral."""
    return 8.2 * math.exp(-((math.pi * operator.sigma) ** 2))


def most_energy(sources: NDArray[np.float64], operator: GaussianOperator) -> NDArray[np.float64]:
    """At least the sums of squares of ``m x'`` and ``m x`` together [N], whatever x' or x is."""
    most = sources.shape[1] * float(np.square(operator.weights).sum())
    return np.asarray(np.square(sources).sum(axis=(1, 2, 3)) + most)
