"""The preprocessing P: vignette, Gaussian blur, resize and centre crop, once, for pixels and for bounds.

After the vignette (a mask of zeros and ones) every step is linear, separable and has non-negative weights,
so P is ``mask`` followed by one banded matrix along the rows and one along the columns. The same float64
weights act on the pixels that are classified and on the ends of intervals; they *are* the definition of P.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

VIGNETTES = ("none", "circle", "rectangle")
INTERPOLATIONS = ("bilinear", "gaussian")
LEAST_SIGMA = 1.5
"""Pixels; below it, sums over the pixel grid would no longer be integrals over the plane (``residual``)."""
REACH = 5.0
"""Standard deviations beyond which a Gaussian weight is left out."""
ATTACK_BLUR = 0.12
"""Pixels^2: about what the attack's bilinear interpolation adds to a filter's variance on an axis.

That is ``a (1 - a)`` between pixels, ``a`` the fractional part: nothing for no attack, 1/6 in the mean.
"""
RECEIVED_BLUR = 0.09
"""Pixels^2: the same for the error of all originals of a received image, one of which was hardly attacked."""


class PreprocessingError(ValueError):
    """A preprocessing setting is out of range or does not fit the image size."""


@dataclass(frozen=True)
class Bands:
    """A banded matrix [rows, columns]: row ``r`` has ``weights[r]`` from column ``start[r]`` on."""

    start: NDArray[np.int64]
    weights: NDArray[np.float64]
    columns: int

    @classmethod
    def from_dense(cls, matrix: NDArray[np.float64]) -> Bands:
        nonzero = [np.flatnonzero(row) for row in matrix]
        width = max((int(index[-1] - index[0]) + 1 for index in nonzero if index.size), default=1)
        start = np.array(
            [min(int(index[0]), matrix.shape[1] - width) if index.size else 0 for index in nonzero], dtype=np.int64
        )
        weights = np.stack([row[first : first + width] for row, first in zip(matrix, start, strict=True)])
        return cls(start, np.ascontiguousarray(weights), matrix.shape[1])

    def dense(self) -> NDArray[np.float64]:
        matrix = np.zeros((len(self.start), self.columns))
        for row, first, weights in zip(matrix, self.start, self.weights, strict=True):
            row[first : first + len(weights)] = weights
        return matrix

    def norm_bound(self) -> float:
        """An upper bound of the spectral norm: sqrt(largest row sum * largest column sum)."""
        matrix = self.dense()
        bound = math.sqrt(float(matrix.sum(axis=0).max()) * float(matrix.sum(axis=1).max()))
        return bound * (1.0 + 2.0**-40)


@dataclass(frozen=True)
class Operator:
    """P for one image size; see :meth:`Preprocessing.operator`."""

    mask: NDArray[np.bool_]
    rows: Bands
    columns: Bands

    @property
    def input_shape(self) -> tuple[int, int]:
        """Height and width of the images it takes."""
        return self.mask.shape[0], self.mask.shape[1]

    @property
    def output_shape(self) -> tuple[int, int]:
        """Height and width that the base classifier sees."""
        return len(self.rows.start), len(self.columns.start)

    @property
    def norm_bound(self) -> float:
        """At least the spectral norm of P, so that ``|P u|_2 <= norm_bound * |u|_2``."""
        return self.rows.norm_bound() * self.columns.norm_bound()

    def apply(self, images: NDArray[np.floating]) -> NDArray[np.float32]:
        """P of images [N, H, W, C], as float32 [N, C, h, w]."""
        masked = np.where(self.mask[None, :, :, None], np.asarray(images, dtype=np.float64), 0.0)
        out = np.einsum("ij,njkc,lk->ncil", self.rows.dense(), masked, self.columns.dense(), optimize=True)
        return np.asarray(out, dtype=np.float32)


@dataclass(frozen=True)
class GaussianOperator:
    """P and the smoothing transformation in one, by Gaussian interpolation: vignette, filter, read at moved points.

    Output pixel ``i`` of parameter ``t`` is ``sum_j phi(T_t^-1 p_i - p_j) m_j x_j`` over the image's pixels, with
    ``phi`` the two-dimensional normal density of standard deviation ``sigma`` pixels (cut at ``REACH`` of them on
    each axis) and the vignette ``m`` in [0, 1] as ``weights`` [H, W]. Why: ``residual``.
    """

    weights: NDArray[np.float64]
    sigma: float

    @property
    def input_shape(self) -> tuple[int, int]:
        """Height and width of the images it takes."""
        return self.weights.shape[0], self.weights.shape[1]

    @property
    def output_shape(self) -> tuple[int, int]:
        """Height and width that the base classifier sees."""
        return self.input_shape

    @property
    def reach(self) -> float:
        """Pixels along an axis beyond which a weight is left out."""
        return REACH * self.sigma

    @property
    def norm_bound(self) -> float:
        """At least the spectral norm: a filter's is at most the sum of its weights, and no vignette exceeds 1."""
        steps = np.arange(-math.ceil(self.reach), math.ceil(self.reach) + 1)
        total = float(normal_density(steps, self.sigma).sum())
        return total * total * (1.0 + 2.0**-40)

    def for_original(self) -> GaussianOperator:
        """What reads a known image where this reads its attacks, which are blurred already (``residual``)."""
        return GaussianOperator(self.weights, math.sqrt(self.sigma**2 + ATTACK_BLUR))

    def for_attacked(self, blur: float = ATTACK_BLUR) -> GaussianOperator:
        """What reads an attacked image where this reads its original; the vignette and another width."""
        return GaussianOperator(self.weights, math.sqrt(self.sigma**2 - blur))

    def masked(self, images: NDArray[np.floating]) -> NDArray[np.float64]:
        """``m x`` of images [N, H, W, C], as [N, C, H, W]."""
        values = np.asarray(images, dtype=np.float64) * self.weights[None, :, :, None]
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))

    def apply(self, images: NDArray[np.floating]) -> NDArray[np.float32]:
        """P of images [N, H, W, C], as float32 [N, C, H, W]."""
        rows, columns = (filter_matrix(size, self.sigma) for size in self.input_shape)
        out = np.einsum("ij,ncjk,lk->ncil", rows, self.masked(images), columns, optimize=True)
        return np.asarray(out, dtype=np.float32)


def normal_density(
    distance: NDArray[np.floating] | NDArray[np.int64], sigma: float, reach: float = REACH
) -> NDArray[np.float64]:
    """The normal density of standard deviation ``sigma``, zero beyond ``reach * sigma``."""
    d = np.asarray(distance, dtype=np.float64)
    density = np.exp(-0.5 * (d / sigma) ** 2) / (sigma * math.sqrt(2.0 * math.pi))
    return np.where(np.abs(d) <= reach * sigma, density, 0.0)


def filter_matrix(size: int, sigma: float, pad: int = 0) -> NDArray[np.float64]:
    """The Gaussian filter along one axis [size + 2 pad, size]; output ``i`` is centred on input ``i - pad``."""
    return normal_density(np.arange(-pad, size + pad)[:, None] - np.arange(size)[None, :], sigma)


@dataclass(frozen=True)
class Preprocessing:
    """Settings of P, in the order in which they act.

    Parameters
    ----------
    vignette : {"none", "circle", "rectangle"}
        Which pixels are kept. A circle keeps those whose centre is within ``min(H, W) / 2 - margin`` of
        the image centre; a rectangle those further than ``margin`` from each edge of the pixel grid.
    margin : float
        Pixels, ``>= 0``.
    blur_size, blur_sigma : int, float
        Taps (odd; 1 = no blur) and standard deviation in pixels of a Gaussian whose weights sum to 1;
        zero outside the image.
    resize : (height, width) or None
        Triangle filter with antialiasing.
    crop : (height, width) or None
        Centre crop after the resize.
    interpolation : {"bilinear", "gaussian"}
        How the smoothing transformation reads between pixels. Bilinear: like the attack, then P as above.
        Gaussian: filter and transformation are one (:class:`GaussianOperator`), the vignette comes first, the
        standard deviation is ``blur_sigma >= 1.5``, and there is neither ``blur_size`` nor resize nor crop.
    taper : float
        Gaussian only: pixels over which the vignette rises from 0 at its edge to 1, as a squared sine.

    Raises
    ------
    PreprocessingError
        If a value is out of range.
    """

    vignette: str = "none"
    margin: float = 0.0
    blur_size: int = 1
    blur_sigma: float = 1.0
    resize: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    taper: float = 0.0

    def __post_init__(self) -> None:
        if self.vignette not in VIGNETTES:
            raise PreprocessingError(f"vignette must be one of {VIGNETTES}, not {self.vignette!r}")
        if not (math.isfinite(self.margin) and self.margin >= 0.0):
            raise PreprocessingError(f"margin must be finite and >= 0 pixels, not {self.margin}")
        if self.blur_size < 1 or self.blur_size % 2 == 0:
            raise PreprocessingError(f"blur_size must be odd and >= 1, not {self.blur_size}")
        if not (math.isfinite(self.blur_sigma) and self.blur_sigma > 0.0):
            raise PreprocessingError(f"blur_sigma must be finite and > 0 pixels, not {self.blur_sigma}")
        for name, shape in (("resize", self.resize), ("crop", self.crop)):
            if shape is not None and (len(shape) != 2 or min(shape) < 1):
                raise PreprocessingError(f"{name} must be a height and a width >= 1, not {shape}")

        if self.interpolation not in INTERPOLATIONS:
            raise PreprocessingError(f"interpolation must be one of {INTERPOLATIONS}, not {self.interpolation!r}")
        if not (math.isfinite(self.taper) and self.taper >= 0.0):
            raise PreprocessingError(f"taper must be finite and >= 0 pixels, not {self.taper}")
        if self.interpolation == "bilinear" and self.taper > 0.0:
            raise PreprocessingError("taper belongs to gaussian interpolation")
        if self.interpolation == "gaussian":
            if self.blur_sigma < LEAST_SIGMA:
                raise PreprocessingError(
                    f"gaussian interpolation needs blur_sigma >= {LEAST_SIGMA}, not {self.blur_sigma}"
                )
            if self.blur_size != 1 or self.resize is not None or self.crop is not None:
                raise PreprocessingError("gaussian interpolation has no blur_size, resize or crop")

    def digest(self) -> str:
        """SHA-256 of the settings: two equal digests mean the same operators on the same image size."""
        blur = {"attack_blur": ATTACK_BLUR} if self.interpolation == "gaussian" else {}
        return hashlib.sha256(json.dumps(asdict(self) | blur, sort_keys=True).encode()).hexdigest()

    def operator(self, height: int, width: int) -> AnyOperator:
        """P for images of ``height`` x ``width`` pixels."""
        if self.interpolation == "gaussian":
            return GaussianOperator(self._tapered(height, width), self.blur_sigma)
        resize = self.resize or (height, width)
        crop = self.crop or resize
        if crop[0] > resize[0] or crop[1] > resize[1]:
            raise PreprocessingError(f"crop {crop} is larger than the image {resize}")
        sides = [
            Bands.from_dense(_centre(_resize_matrix(size, new) @ _blur_matrix(size, self), kept))
            for size, new, kept in zip((height, width), resize, crop, strict=True)
        ]
        return Operator(self._mask(height, width), sides[0], sides[1])

    def _mask(self, height: int, width: int) -> NDArray[np.bool_]:
        y = np.arange(height)[:, None] - (height - 1) / 2
        x = np.arange(width)[None, :] - (width - 1) / 2
        if self.vignette == "circle":
            radius = min(height, width) / 2 - self.margin
            mask = (x * x + y * y <= radius * radius) & (radius >= 0.0)
        elif self.vignette == "rectangle":
            mask = (abs(y) <= height / 2 - self.margin) & (abs(x) <= width / 2 - self.margin)
        else:
            mask = np.ones((height, width), dtype=np.bool_)
        if not mask.any():
            raise PreprocessingError(f"margin {self.margin} leaves no pixel of a {height} x {width} image")
        return mask

    def _tapered(self, height: int, width: int) -> NDArray[np.float64]:
        """The vignette with a soft edge [H, W], in [0, 1]; with a taper of 0 it is :meth:`_mask`."""
        mask = self._mask(height, width)
        if self.taper == 0.0 or self.vignette == "none":
            return mask.astype(np.float64)
        y = np.abs(np.arange(height)[:, None] - (height - 1) / 2)
        x = np.abs(np.arange(width)[None, :] - (width - 1) / 2)
        if self.vignette == "circle":
            return _rise(min(height, width) / 2 - self.margin - np.sqrt(x * x + y * y), self.taper)
        return _rise(height / 2 - self.margin - y, self.taper) * _rise(width / 2 - self.margin - x, self.taper)


AnyOperator = Operator | GaussianOperator


def _rise(inside: NDArray[np.float64], taper: float) -> NDArray[np.float64]:
    """From 0 at the edge to 1 at ``taper`` pixels inside it."""
    return np.asarray(np.sin(0.5 * math.pi * np.clip(inside / taper, 0.0, 1.0)) ** 2)


def _blur_matrix(size: int, settings: Preprocessing) -> NDArray[np.float64]:
    reach = settings.blur_size // 2
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / settings.blur_sigma) ** 2)
    taps /= taps.sum()
    matrix = np.zeros((size, size))
    for shift, tap in zip(range(-reach, reach + 1), taps, strict=True):
        matrix += tap * np.eye(size, k=shift)
    return matrix


def _resize_matrix(size: int, new: int) -> NDArray[np.float64]:
    if new == size:
        return np.eye(size)
    scale = size / new
    centres = (np.arange(new)[:, None] + 0.5) * scale
    distance = np.abs(np.arange(size)[None, :] + 0.5 - centres) / max(scale, 1.0)
    weights = np.maximum(1.0 - distance, 0.0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def _centre(matrix: NDArray[np.float64], kept: int) -> NDArray[np.float64]:
    first = (len(matrix) - kept) // 2
    return matrix[first : first + kept]
