"""Coordinate maps of the transformations, at a point and over a cell of parameters.

Convention
----------
- An image is ``[H, W, C]``. Pixel ``[i, j]`` has its centre at ``x = j - (W - 1) / 2`` to the right and
  ``y = i - (H - 1) / 2`` downward, in pixels, so the image centre is the origin for odd and even sizes.
- ``T_t x`` reads, for the output pixel at ``(x, y)``, the input at the source point ``T_t^-1 (x, y)``:
    rotation by ``t`` degrees:       ``(x cos t - y sin t, x sin t + y cos t)``
    translation by ``(dx, dy)`` px:  ``(x - dx, y - dy)``
  so a positive angle turns the content counter-clockwise as displayed (torchvision's ``rotate``; its
  ``affine`` has the opposite sign), and positive ``dx, dy`` move it right and down (``affine``).
- Between pixel centres the input is interpolated bilinearly; it is zero outside its pixel centres' grid
  (one pixel of linear decay to zero around the border). A model's card may choose Gaussian interpolation for
  what the service itself does to an image (``sampling``); the attack stays bilinear.
- Parameters: ``[N]`` degrees, or ``[N, 2]`` pixels in the order ``dx, dy``.

Transformations are additive in their parameter, ``T_s^-1 T_t^-1 = T_(s+t)^-1``, on the plane; on pixels only
up to the interpolation error that ``error_bound`` bounds.

A *frame* is the row of numbers that the kernels need of a cell of parameters ``[lo, hi]``; see
:func:`cell_frames`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .interval import cos_sin_degrees, cos_sin_interval, interval_add, interval_mul, interval_sub
from .targets import scalar

ROTATION, TRANSLATION = 0, 1
KINDS = {"rotation": ROTATION, "translation": TRANSLATION}
DIMENSIONS = {"rotation": 1, "translation": 2}
FRAME_SIZE = 9


class GeometryError(ValueError):
    """A parameter, a shape or a transformation that has no meaning here."""


def kind_of(transformation: str) -> int:
    """The kernels' number of a transformation; raises :class:`GeometryError` for an unknown one."""
    try:
        return KINDS[transformation]
    except KeyError:
        raise GeometryError(f"transformation must be one of {sorted(KINDS)}, not {transformation!r}") from None


def as_parameters(parameters: object, transformation: str) -> NDArray[np.float64]:
    """Parameters as a finite float64 array ``[N, d]`` (d = 1 degrees, 2 pixels)."""
    dimensions = DIMENSIONS[transformation] if transformation in DIMENSIONS else kind_of(transformation)
    array = np.asarray(parameters, dtype=np.float64)
    if dimensions == 1 and array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] != dimensions:
        raise GeometryError(f"{transformation} parameters must be [N, {dimensions}], not {array.shape}")
    if not np.isfinite(array).all():
        raise GeometryError(f"{transformation} parameters must be finite")
    return array


def point_frames(parameters: NDArray[np.float64], transformation: str) -> NDArray[np.float64]:
    """``[N, 2]``: cos and sin, or dx and dy, of parameters ``[N, d]``."""
    if transformation == "rotation":
        cos, sin = cos_sin_degrees(parameters[:, 0])
        return np.stack([cos, sin], axis=1)
    return np.ascontiguousarray(parameters)


def cell_frames(
    lo: NDArray[np.float64], hi: NDArray[np.float64], transformation: str
) -> NDArray[np.float64]:
    """Frames of cells of parameters.

    Parameters
    ----------
    lo, hi : ndarray [K, d]
        Ends of the cells, degrees or pixels, ``lo <= hi``.

    Returns
    -------
    ndarray [K, 9]
        Rotation: enclosures of cos and sin over the cell, the same at its middle, and a bound on the
        distance from the middle to an end in radians. Translation: ends of dx and dy, then zeros.
    """
    frames = np.zeros((len(lo), FRAME_SIZE))
    if transformation == "translation":
        frames[:, 0], frames[:, 1], frames[:, 2], frames[:, 3] = lo[:, 0], hi[:, 0], lo[:, 1], hi[:, 1]
        return frames
    a, b = lo[:, 0], hi[:, 0]
    middle = a + 0.5 * (b - a)
    frames[:, 0:4] = np.stack(cos_sin_interval(a, b), axis=1)
    frames[:, 4:8] = np.stack(cos_sin_interval(middle, middle), axis=1)
    reach = np.maximum(b - middle, middle - a)
    frames[:, 8] = np.deg2rad(reach) * (1.0 + 2.0**-48) + 2.0**-1000
    return frames


@scalar
def source_point(kind, first, second, x, y):
    """``T_t^-1 (x, y)`` for a point frame (cos, sin) or (dx, dy); pixels from the centre."""
    if kind == ROTATION:
        return x * first - y * second, x * second + y * first
    return x - first, y - second


@scalar
def rotate_box(cos_lo, cos_hi, sin_lo, sin_hi, x, y):
    """Enclose the rotated point over a cell of angles by interval products (paper, section 6, step 1)."""
    xc_lo, xc_hi = interval_mul(cos_lo, cos_hi, x, x)
    ys_lo, ys_hi = interval_mul(sin_lo, sin_hi, y, y)
    xs_lo, xs_hi = interval_mul(sin_lo, sin_hi, x, x)
    yc_lo, yc_hi = interval_mul(cos_lo, cos_hi, y, y)
    u_lo, u_hi = interval_sub(xc_lo, xc_hi, ys_lo, ys_hi)
    v_lo, v_hi = interval_add(xs_lo, xs_hi, yc_lo, yc_hi)
    return u_lo, u_hi, v_lo, v_hi


@scalar
def source_box(kind, frames, k, x, y):
    """Enclose ``{T_t^-1 (x, y) : t in cell k}``.

    For rotations the interval products are intersected with the mean-value form: the derivative of one
    coordinate by the angle is, up to sign, the other, so the excess over the exact box is quadratic in
    the cell width.

    Returns
    -------
    x_lo, x_hi, y_lo, y_hi : float
        Pixels from the image centre.
    """
    if kind == TRANSLATION:
        x_lo, x_hi = interval_sub(x, x, frames[k, 0], frames[k, 1])
        y_lo, y_hi = interval_sub(y, y, frames[k, 2], frames[k, 3])
        return x_lo, x_hi, y_lo, y_hi
    u_lo, u_hi, v_lo, v_hi = rotate_box(frames[k, 0], frames[k, 1], frames[k, 2], frames[k, 3], x, y)
    mu_lo, mu_hi, mv_lo, mv_hi = rotate_box(frames[k, 4], frames[k, 5], frames[k, 6], frames[k, 7], x, y)
    h = frames[k, 8]
    _, du = interval_mul(0.0, h, 0.0, max(abs(v_lo), abs(v_hi)))
    _, dv = interval_mul(0.0, h, 0.0, max(abs(u_lo), abs(u_hi)))
    mu_lo, mu_hi = interval_add(mu_lo, mu_hi, -du, du)
    mv_lo, mv_hi = interval_add(mv_lo, mv_hi, -dv, dv)
    return max(u_lo, mu_lo), min(u_hi, mu_hi), max(v_lo, mv_lo), min(v_hi, mv_hi)


@scalar
def target_box(kind, frames, k, x, y):
    """Enclose ``{T_t (x, y) : t in cell k}``, the forward map: where the content at ``(x, y)`` goes."""
    if kind == TRANSLATION:
        x_lo, x_hi = interval_add(x, x, frames[k, 0], frames[k, 1])
        y_lo, y_hi = interval_add(y, y, frames[k, 2], frames[k, 3])
        return x_lo, x_hi, y_lo, y_hi
    return rotate_box(frames[k, 0], frames[k, 1], -frames[k, 3], -frames[k, 2], x, y)


def attack_cells(half_width: float, cell_width: float, transformation: str) -> tuple[
    NDArray[np.float64], NDArray[np.float64]
]:
    """Split the attack range ``[-G, G]^d`` into equal cells no wider than ``cell_width``.

    Returns
    -------
    lo, hi : ndarray [K, d]
        Neighbours share their ends exactly, so the cells cover the range without gaps.
    """
    if not (math.isfinite(half_width) and half_width >= 0.0 and cell_width > 0.0):
        raise GeometryError(f"attack range {half_width} and cell width {cell_width} must be finite, positive")
    count = max(1, math.ceil(2.0 * half_width / cell_width))
    edges = np.linspace(-half_width, half_width, count + 1)
    lo, hi = edges[:-1], edges[1:]
    if DIMENSIONS[transformation] == 1:
        return lo[:, None].copy(), hi[:, None].copy()
    grid_lo = np.stack(np.meshgrid(lo, lo, indexing="ij"), axis=-1).reshape(-1, 2)
    grid_hi = np.stack(np.meshgrid(hi, hi, indexing="ij"), axis=-1).reshape(-1, 2)
    return grid_lo, grid_hi
