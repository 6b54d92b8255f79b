"""The box of all images that can have produced a received image (Fischer et al. 2020, section 6).

For a cell of parameters, pixel ``[i', j']`` of the received image was interpolated somewhere in the box
``c = T_cell^-1(i', j')``. Where ``c`` lies inside the four interpolation regions around pixel ``[i, j]`` of
the original, it bounds that pixel: the interpolation equation is solved for the pixel, with the other
three pixels replaced by what is known of them, and the bounds from all regions that ``c`` touches
are joined (steps 2 and 3). With ``s = da / (1 - da)`` and ``t = db / (1 - db)``, ``da, db`` the distances from
``[i, j]`` along rows and columns, the equation reads

    p = p' (1 + s)(1 + t) - q_v s - q_h t - q_d s t,

bilinear in ``(s, t)``, so its extremes over a region lie at the four corners of ``c`` in that region. When
the neighbours are only known to lie in [0, 1] the corner furthest from ``[i, j]`` attains both ends, which
is the paper's first pass; repeating with better neighbours is its refinement.

The received image is known to within ``TOLERANCE`` of ``T_gamma x``: rounding to 8 bits, and the float32
that holds it. A cell is *empty* only if no original can exist: a pixel's bounds contradict each
other, or no image inside the box can give a received pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .geometry import KINDS, ROTATION, source_box, target_box
from .interpolation import range_over_box
from .interval import round_down, round_up
from .targets import scalar

TOLERANCE = 1.0 / 510.0 + 2.0**-24
REACH = {"rotation": math.sqrt(2.0) + 1e-9, "translation": 1.0 + 1e-9}
"""How far, per axis, an output pixel can lie from the image of a pixel whose neighbourhood it reads."""


@dataclass(frozen=True)
class InverseBoxes:
    """Interval images for K cells: ``lower, upper`` [K, H, W, C], ``empty`` [K]."""

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    empty: NDArray[np.bool_]


@scalar
def ratio_down(distance):
    """Lower bound of ``d / (1 - d)``."""
    return max(round_down(distance / round_up(1.0 - distance)), 0.0)


@scalar
def ratio_up(distance):
    """Upper bound of ``d / (1 - d)`` for ``d < 1``."""
    return round_up(distance / round_down(1.0 - distance))


@scalar
def solved_up(p, s, t, vertical, horizontal, diagonal):
    """Upper bound of ``p (1 + s)(1 + t) - vertical s - horizontal t - diagonal s t``."""
    gain = round_up(p * round_up(round_up(1.0 + s) * round_up(1.0 + t)))
    loss = round_down(round_down(vertical * s) + round_down(horizontal * t))
    loss = round_down(loss + round_down(diagonal * round_down(s * t)))
    return round_up(gain - loss)


@scalar
def solved_down(p, s, t, vertical, horizontal, diagonal):
    """Lower bound of the same expression."""
    gain = round_down(p * round_down(round_down(1.0 + s) * round_down(1.0 + t)))
    loss = round_up(round_up(vertical * s) + round_up(horizontal * t))
    loss = round_up(loss + round_up(diagonal * round_up(s * t)))
    return round_down(gain - loss)


@scalar
def known_pixel(lower, upper, k, i, j, c):
    """What is known of a pixel: exactly zero outside the image."""
    if i < 0 or j < 0 or i >= lower.shape[1] or j >= lower.shape[2]:
        return 0.0, 0.0
    return lower[k, i, j, c], upper[k, i, j, c]


@scalar
def region_constraint(p_lo, p_hi, da_lo, da_hi, db_lo, db_hi, vertical, horizontal, diagonal):
    """Bounds of a pixel from one received pixel in one interpolation region (Eq. 12, all four corners).

    Parameters
    ----------
    p_lo, p_hi : float
        Received pixel, in [0, 1].
    da_lo, da_hi, db_lo, db_hi : float
        Distances of the source coordinate from the pixel along rows and columns, in [0, 1).
    vertical, horizontal, diagonal : (float, float)
        Bounds of the region's other three pixels.
    """
    s_lo, s_hi, t_lo, t_hi = ratio_down(da_lo), ratio_up(da_hi), ratio_down(db_lo), ratio_up(db_hi)
    v_lo, v_hi = vertical
    h_lo, h_hi = horizontal
    d_lo, d_hi = diagonal
    low = min(
        min(solved_down(p_lo, s_lo, t_lo, v_hi, h_hi, d_hi), solved_down(p_lo, s_lo, t_hi, v_hi, h_hi, d_hi)),
        min(solved_down(p_lo, s_hi, t_lo, v_hi, h_hi, d_hi), solved_down(p_lo, s_hi, t_hi, v_hi, h_hi, d_hi)),
    )
    high = max(
        max(solved_up(p_hi, s_lo, t_lo, v_lo, h_lo, d_lo), solved_up(p_hi, s_lo, t_hi, v_lo, h_lo, d_lo)),
        max(solved_up(p_hi, s_hi, t_lo, v_lo, h_lo, d_lo), solved_up(p_hi, s_hi, t_hi, v_lo, h_lo, d_lo)),
    )
    return low, high


@scalar
def joined_constraint(lower, upper, k, i, j, c, p_lo, p_hi, row_lo, row_hi, column_lo, column_hi):
    """Join of the region constraints that one received pixel puts on pixel ``[i, j, c]`` (Eq. 13).

    ``row_*, column_*`` are source coordinates relative to the pixel, within [-1, 1]. A region that the box
    touches only along a shared edge is left out: its neighbour holds those points too.
    """
    low, high = math.inf, -math.inf
    for side_i in (-1, 1):
        if side_i < 0:
            if row_lo >= 0.0 and row_hi > 0.0:
                continue
            da_lo, da_hi = max(-row_hi, 0.0), -row_lo
        else:
            if row_hi <= 0.0:
                continue
            da_lo, da_hi = max(row_lo, 0.0), row_hi
        for side_j in (-1, 1):
            if side_j < 0:
                if column_lo >= 0.0 and column_hi > 0.0:
                    continue
                db_lo, db_hi = max(-column_hi, 0.0), -column_lo
            else:
                if column_hi <= 0.0:
                    continue
                db_lo, db_hi = max(column_lo, 0.0), column_hi
            region_low, region_high = region_constraint(
                p_lo, p_hi, max(da_lo, 0.0), max(da_hi, 0.0), max(db_lo, 0.0), max(db_hi, 0.0),
                known_pixel(lower, upper, k, i + side_i, j, c),
                known_pixel(lower, upper, k, i, j + side_j, c),
                known_pixel(lower, upper, k, i + side_i, j + side_j, c),
            )  # fmt: skip
            low, high = min(low, region_low), max(high, region_high)
    return low, high


@scalar
def source_boxes_at(kind, frames, k, i, j, boxes):
    """Source rows and columns (index units, outward) of output pixel ``[i, j]``, into ``boxes[k, i, j]``."""
    middle_i, middle_j = 0.5 * (boxes.shape[1] - 1), 0.5 * (boxes.shape[2] - 1)
    x_lo, x_hi, y_lo, y_hi = source_box(kind, frames, k, j - middle_j, i - middle_i)
    boxes[k, i, j, 0], boxes[k, i, j, 1] = round_down(y_lo + middle_i), round_up(y_hi + middle_i)
    boxes[k, i, j, 2], boxes[k, i, j, 3] = round_down(x_lo + middle_j), round_up(x_hi + middle_j)


@scalar
def constrain_pixel(kind, reach, frames, boxes, received, tolerance, lower, upper, k, i, j, c, out_lower, out_upper):
    """One pass over pixel ``[i, j, c]`` of cell ``k``; visits only received pixels that can matter (App. B).

    Those are the ones near ``T_cell (i, j)``: a received pixel bounds this one only if its source box lies
    within one pixel of it.

    Returns
    -------
    bool
        Whether the pixel's bounds contradict each other.
    """
    height, width = lower.shape[1], lower.shape[2]
    middle_i, middle_j = 0.5 * (height - 1), 0.5 * (width - 1)
    low, high = lower[k, i, j, c], upper[k, i, j, c]
    x_lo, x_hi, y_lo, y_hi = target_box(kind, frames, k, j - middle_j, i - middle_i)
    first_i = int(max(math.ceil(y_lo + middle_i - reach), 0.0))
    last_i = int(min(math.floor(y_hi + middle_i + reach), height - 1.0))
    first_j = int(max(math.ceil(x_lo + middle_j - reach), 0.0))
    last_j = int(min(math.floor(x_hi + middle_j + reach), width - 1.0))
    for m in range(first_i, last_i + 1):
        for n in range(first_j, last_j + 1):
            row_lo, row_hi = round_down(boxes[k, m, n, 0] - i), round_up(boxes[k, m, n, 1] - i)
            column_lo, column_hi = round_down(boxes[k, m, n, 2] - j), round_up(boxes[k, m, n, 3] - j)
            # Inside the neighbourhood with room to divide by 1 - distance.
            if max(max(-row_lo, row_hi), max(-column_lo, column_hi)) > 1.0 - 2.0**-30:
                continue
            value = float(received[m, n, c])
            p_lo = max(round_down(value - tolerance), 0.0)
            p_hi = min(round_up(value + tolerance), 1.0)
            new_low, new_high = joined_constraint(
                lower, upper, k, i, j, c, p_lo, p_hi, row_lo, row_hi, column_lo, column_hi
            )
            low, high = max(low, new_low), min(high, new_high)
    out_lower[k, i, j, c], out_upper[k, i, j, c] = low, high
    return low > high


@scalar
def unreachable(received, tolerance, boxes, lower, upper, k, m, n, c):
    """Whether no image between ``lower`` and ``upper`` can give received pixel ``[m, n, c]`` in cell ``k``."""
    middle_i, middle_j = 0.5 * (boxes.shape[1] - 1), 0.5 * (boxes.shape[2] - 1)
    low, high = range_over_box(
        lower, upper, k,
        round_down(boxes[k, m, n, 2] - middle_j), round_up(boxes[k, m, n, 3] - middle_j),
        round_down(boxes[k, m, n, 0] - middle_i), round_up(boxes[k, m, n, 1] - middle_i), c,
    )  # fmt: skip
    value = float(received[m, n, c])
    return high < round_down(value - tolerance) or low > round_up(value + tolerance)


def inverse_boxes(
    received: NDArray[np.float32],
    frames: NDArray[np.float64],
    transformation: str,
    *,
    refinements: int,
    tolerance: float = TOLERANCE,
    start: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    device: str = "cpu",
) -> InverseBoxes:
    """Enclose every original from which ``received`` can have been made, cell by cell.

    Parameters
    ----------
    received : ndarray [H, W, C] float32
        In [0, 1].
    frames : ndarray [K, 9]
        Cells of the attack range, from ``geometry.cell_frames``.
    transformation : {"rotation", "translation"}
    refinements : int
        Passes over the image after the first, ``>= 0``. More passes only tighten.
    tolerance : float
        How far a received pixel may be from the exactly transformed one.
    start : (ndarray [K, H, W, C], ndarray [K, H, W, C]), optional
        Bounds of the originals that are known already, such as those of a cell that holds this one; default 0 and 1.
    device : {"cpu", "cuda"}

    Returns
    -------
    InverseBoxes
        For every cell, image ``x`` in [0, 1] and within ``start``, and parameter in the cell with
        ``|T x - received| <= tolerance`` everywhere: ``lower <= x <= upper`` and the cell is not empty.
    """
    from .kernels import inverse as kernels  # the kernels import this room's bodies

    shape = (len(frames), *received.shape)
    lower, upper = (np.zeros(shape), np.ones(shape)) if start is None else (start[0].copy(), start[1].copy())
    return kernels.launch(
        np.ascontiguousarray(received, dtype=np.float32), np.ascontiguousarray(frames), KINDS[transformation],
        REACH[transformation], tolerance, refinements, lower, upper, device,
    )  # fmt: skip


__all__ = ["ROTATION", "TOLERANCE", "InverseBoxes", "inverse_boxes", "region_constraint"]
