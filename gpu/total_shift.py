"""``T_(t-g) T_g`` for all shifts g of an attack range at once, as a few operators on each axis (``total_error``)."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray


def seen_controls(
    planes: NDArray[np.float64], mask: NDArray[np.bool_], draws: NDArray[np.float64], half_width: float, axis: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Different :func:`axis_controls` of each draw, on the pixels whose content P can see at it.

    Parameters
    ----------
    planes, mask : ndarray [C, H, W], [H, W]
        The image, and the pixels that P keeps.
    draws : ndarray [N, 2]
        Total shifts, pixels.
    axis : int
        0: x, along the columns; 1: y, along the rows.

    Returns
    -------
    operators : ndarray [K, size, 4]
        Of all draws, one after the other.
    first : ndarray [N + 1]
        Where the operators of each draw begin, and the end of the last.
    """
    content, kept = np.any(planes > 0.0, axis=(0, 1 + axis)), np.any(mask, axis=axis)
    found = []
    for total in draws[:, axis].tolist():
        seen = _seen(content, kept, math.floor(total))
        operators = np.where(seen[None, :, None], axis_controls(total, half_width, len(content)), 0.0)
        found.append(np.unique(operators.round(12), axis=0))
    return np.concatenate(found), np.cumsum([0, *map(len, found)])


def once(total: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """``T_t`` [N, size, 4] on one axis, in the form of :func:`axis_controls`."""
    fraction = total - np.floor(total)
    weights = np.stack([np.zeros_like(fraction), 1.0 - fraction, fraction, np.zeros_like(fraction)], axis=1)
    return np.tile(weights[:, None, :], (1, size, 1))


def _seen(content: NDArray[np.bool_], kept: NDArray[np.bool_], whole: int) -> NDArray[np.bool_]:
    """Columns [W] with content that a shift by ``whole`` and at most one more on each side brings to a kept column."""
    targets = np.arange(len(content))[:, None] + whole + np.arange(-1, 3)[None, :]
    inside = (targets >= 0) & (targets < len(kept))
    return np.asarray(content & (inside & kept[np.clip(targets, 0, len(kept) - 1)]).any(axis=1))


def axis_controls(total: float, half_width: float, size: int) -> NDArray[np.float64]:
    """Control points of ``T_(t-g) T_g`` on one axis, for all g in ``[-G, G]`` at once.

    Parameters
    ----------
    total, half_width : float
        t and G, pixels.
    size : int
        Pixels along the axis; what leaves them is lost.

    Returns
    -------
    ndarray [K, size, 4]
        For every such g, ``T_(t-g) T_g`` is a convex combination of the K operators; each gives pixel j the
        weights ``[k, j]`` at the positions ``j + floor(t) - 1 .. j + floor(t) + 2``.
    """
    fraction = total - math.floor(total)
    controls = []
    for whole in range(math.floor(-half_width), max(math.ceil(half_width), math.floor(-half_width) + 1)):
        least, most = max(-half_width - whole, 0.0), min(half_width - whole, 1.0)
        cuts = [0.0, 0.5 * fraction, fraction, 0.5 * (1.0 + fraction), 1.0]
        for side, (lo, hi) in enumerate(itertools.pairwise(cuts)):
            lo, hi = max(lo, least), min(hi, most)
            if lo > hi:
                continue
            first, middle, last = (
                _twice(whole, a, fraction, size, beyond=side >= 2) for a in (lo, 0.5 * (lo + hi), hi)
            )
            controls += [first, 2.0 * middle - 0.5 * (first + last), last]
    return np.stack(controls)


def _twice(whole: int, a: float, fraction: float, size: int, *, beyond: bool) -> NDArray[np.float64]:
    """``T_(t-g) T_g`` on one axis at ``g = whole + a``, as in :func:`axis_controls`; ``beyond``: ``a >= fraction``."""
    c = fraction - a + (1.0 if beyond else 0.0)
    here, there = (
        ((np.arange(size) + shift >= 0) & (np.arange(size) + shift < size)).astype(np.float64)
        for shift in (whole, whole + 1)
    )
    weights = np.zeros((size, 4))
    first = 0 if beyond else 1
    weights[:, first] = (1.0 - c) * (1.0 - a) * here
    weights[:, first + 1] = c * (1.0 - a) * here + (1.0 - c) * a * there
    weights[:, first + 2] = c * a * there
    return weights
