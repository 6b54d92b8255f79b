"""Scalar bodies of ``residual`` for known images; the statements and proofs are there.

Norms are over the whole plane, so they are sums over pairs of pixels: with ``G`` and ``V_g`` the filters of variance
``2 s^2`` and ``s^2 + s'^2``, the latter moved by ``g``,

    |S_0 u - S'_g v|^2 = u'G u - 2 u'V_g v + |S'_0 v|^2 .
"""

from __future__ import annotations

import math

import numpy as np

from .chord_bodies import attacked_cell
from .cover_bodies import transform_into
from .geometry import ROTATION, TRANSLATION, source_point
from .residual_bodies import filter_into
from .residual_maps import add_gaussian
from .targets import scalar


@scalar
def moved_into(kind, source, first, second, sigma, reach, weights, out):
    """``V_g`` of ``source`` [C, H, W] at the pixels, for the point frame of ``-g``."""
    height, width = source.shape[1], source.shape[2]
    out[:] = 0.0
    for a in range(height):
        for b in range(width):
            x, y = source_point(kind, first, second, b - 0.5 * (width - 1), a - 0.5 * (height - 1))
            for c in range(source.shape[0]):
                if source[c, a, b] > 0.0:
                    add_gaussian(
                        y + 0.5 * (height - 1), x + 0.5 * (width - 1), source[c, a, b], sigma, reach, 0, height,
                        0, width, weights, out[c],
                    )  # fmt: skip


@scalar
def masked_into(mask, image, out):
    """``m y`` of an image [1, H, W, C], into ``out`` [1, C, H, W]."""
    for c in range(out.shape[1]):
        for i in range(out.shape[2]):
            for j in range(out.shape[3]):
                out[0, c, i, j] = mask[i, j] * image[0, i, j, c]


@scalar
def unframed_into(mask, chord, n, out):
    """``m y`` of image ``n`` of a chord [C, 3, H + 2, W + 2], into ``out`` [1, C, H, W]."""
    for c in range(out.shape[1]):
        for i in range(out.shape[2]):
            for j in range(out.shape[3]):
                out[0, c, i, j] = mask[i, j] * chord[c, n, i + 1, j + 1]


@scalar
def square_and_sway(values, stray, moved, gram, scratch):
    """``u'G u - 2 u'V`` for ``u = values``, and ``sum of stray |G u - V|``; images are [1, C, H, W], V [C, H, W]."""
    half, filtered = scratch
    filter_into(values, gram[0], gram[1], gram[2], gram[3], half, filtered)
    square, sway = 0.0, 0.0
    for c in range(values.shape[1]):
        for i in range(values.shape[2]):
            for j in range(values.shape[3]):
                square += values[0, c, i, j] * (filtered[0, c, i, j] - 2.0 * moved[c, i, j])
                sway += stray[0, c, i, j] * abs(filtered[0, c, i, j] - moved[c, i, j])
    return square, sway


@scalar
def gram_square(values, gram, scratch):
    """``u'G u``."""
    half, filtered = scratch
    filter_into(values, gram[0], gram[1], gram[2], gram[3], half, filtered)
    return np.sum(values * filtered)


@scalar
def attacked_norm(image, mask, moved, own, gram, first, second, work):
    """``|S_0 round8(T_g x) - S'_g x|`` at an angle, for its point frame and ``V_g``."""
    turned, values, stray, _, _, scratch, _ = work
    transform_into(ROTATION, image, first, second, turned)
    masked_into(mask, np.floor(turned * 255.0 + 0.5) / 255.0, values)
    stray[:] = 0.0
    square, _ = square_and_sway(values, stray, moved, gram, scratch)
    return math.sqrt(max(square + own, 0.0))


@scalar
def rotation_cell_bound(still, mask, low, high, moved, own, gram, work):
    """Bound of the residual over angles in ``[low, high]``, but for what ``S'_g x`` strays; ``moved`` at both ends."""
    _, values, stray, chord, _, scratch, _ = work
    attacked_cell(still, low, high, chord)
    unframed_into(mask, chord, 2, stray)
    largest = -math.inf
    for end in range(2):
        unframed_into(mask, chord, end, values)
        square, sway = square_and_sway(values, stray, moved[end], gram, scratch)
        if not square + 2.0 * sway <= largest:  # keeps what is not a number
            largest = square + 2.0 * sway
    return math.sqrt(max(largest + own + gram_square(stray, gram, scratch), 0.0))


@scalar
def work_for(image, taps):
    """Room for one image [1, H, W, C]: transformed, values, stray, chord, V, filters' scratch, weights of an axis."""
    height, width, channels = image.shape[1], image.shape[2], image.shape[3]
    planes = (1, channels, height, width)
    return (
        np.empty((1, height, width, channels)), np.empty(planes), np.empty(planes),
        np.empty((channels, 3, height + 2, width + 2)), np.empty(planes[1:]), (np.empty(planes), np.empty(planes)),
        np.empty((1, 3, taps)),
    )  # fmt: skip


@scalar
def largest_rotation_residual(
    image, still, mask, source, gram, sigma, reach, own, half_width, bending, coarse, tolerance, floor, budget
):
    """Largest residual over ``|g| <= half_width`` radians, from above; ``sigma`` and ``reach`` are those of V.

    ``bending`` bounds the second derivative of ``S'_g x``. Cells are halved until their bound is at most
    ``1 + tolerance`` times the largest residual found or at most ``floor``, or the budget is spent.
    """
    depth = 20
    work = work_for(image, image.shape[1] + image.shape[2])
    weights = work[6]
    count = max(1, math.ceil(2.0 * half_width / coarse))
    step = 2.0 * half_width / count
    moved = np.empty((depth, 2, *source.shape))
    ends = np.empty((depth, 2))
    largest = 0.0
    for k in range(count + 1):
        g = -half_width + k * step
        moved_into(ROTATION, source, math.cos(g), -math.sin(g), sigma, reach, weights, moved[0, 0])
        largest = max(largest, attacked_norm(image, mask, moved[0, 0], own, gram, math.cos(g), math.sin(g), work))
    worst, used = 0.0, 0
    for k in range(count):
        for end in range(2):
            g = ends[0, end] = -half_width + (k + end) * step
            moved_into(ROTATION, source, math.cos(g), -math.sin(g), sigma, reach, weights, moved[0, end])
        height = 1
        while height > 0:
            top = height - 1
            low, high = ends[top, 0], ends[top, 1]
            bound = rotation_cell_bound(still, mask, low, high, moved[top], own, gram, work)
            bound += 0.125 * (high - low) * (high - low) * bending
            used += 1
            if not bound < math.inf:  # nor anything that is not a number
                return math.inf
            if bound <= max((1.0 + tolerance) * largest, floor) or used >= budget or height + 1 > depth:
                worst = max(worst, bound)
                height -= 1
                continue
            middle = 0.5 * (low + high)
            cos, sin = math.cos(middle), math.sin(middle)
            ends[top + 1, 0], ends[top + 1, 1] = middle, high
            moved[top + 1, 1] = moved[top, 1]
            moved_into(ROTATION, source, cos, -sin, sigma, reach, weights, moved[top, 1])
            moved[top + 1, 0] = moved[top, 1]
            ends[top, 1] = middle
            largest = max(largest, attacked_norm(image, mask, moved[top, 1], own, gram, cos, sin, work))
            height += 1
    return worst


@scalar
def shifted_stray(image, mask, first, second, rounding, stray):
    """``m b`` [1, C, H, W] near a shift: ``b = rounding``, but 0 where no shift between its integers moves content.

    At an integer, those on both sides of it.
    """
    height, width = mask.shape
    for i in range(height):
        from_row = max(i - int(math.floor(second)) - 1, 0)  # noqa: RUF046 (on CUDA a float)
        to_row = min(i - int(math.ceil(second)) + 1, height - 1)  # noqa: RUF046
        for j in range(width):
            from_column = max(j - int(math.floor(first)) - 1, 0)  # noqa: RUF046
            to_column = min(j - int(math.ceil(first)) + 1, width - 1)  # noqa: RUF046
            for c in range(stray.shape[1]):
                stray[0, c, i, j] = 0.0
                for p in range(from_row, to_row + 1):
                    for q in range(from_column, to_column + 1):
                        if image[0, p, q, c] > 0.0:
                            stray[0, c, i, j] = mask[i, j] * rounding


@scalar
def shifted_bound(image, mask, source, gram, sigma, reach, own, first, second, rounding, work):
    """Bound of the residual at a shift, for any rounding that a shift between its integers may have."""
    shifted, values, stray, _, moved, scratch, weights = work
    moved_into(TRANSLATION, source, -first, -second, sigma, reach, weights, moved)
    transform_into(TRANSLATION, image, first, second, shifted)
    masked_into(mask, shifted, values)
    shifted_stray(image, mask, first, second, rounding, stray)
    square, sway = square_and_sway(values, stray, moved, gram, scratch)
    return math.sqrt(max(square + 2.0 * sway + own + gram_square(stray, gram, scratch), 0.0))


@scalar
def largest_translation_residual(
    image, mask, source, gram, sigma, reach, own, shifts, coarse, fine, floor, rounding
):
    """Largest residual over shifts within the sorted values ``shifts`` on both axes, from above.

    A square of the grid, within integers, is bounded by its corners plus ``coarse``; where that exceeds ``floor`` and
    is not near the largest corner, by the corners of its quarters plus ``fine``.
    """
    work = work_for(image, image.shape[1] + image.shape[2])
    count = len(shifts)
    norms = np.empty((count, count))
    largest = 0.0
    for p in range(count):
        for q in range(count):
            norms[p, q] = shifted_bound(
                image, mask, source, gram, sigma, reach, own, shifts[p], shifts[q], rounding, work
            )
            if not norms[p, q] <= largest:  # keeps what is not a number
                largest = norms[p, q]
    if count == 1 or not largest < math.inf:
        return largest
    worst = 0.0
    for p in range(count - 1):
        for q in range(count - 1):
            top = norms[p : p + 2, q : q + 2].max()
            if top + coarse <= max(floor, largest + fine):
                worst = max(worst, top + coarse)
                continue
            for a in range(3):
                for b in range(3):
                    if a == 1 or b == 1:
                        first = 0.5 * (2 - a) * shifts[p] + 0.5 * a * shifts[p + 1]
                        second = 0.5 * (2 - b) * shifts[q] + 0.5 * b * shifts[q + 1]
                        norm = shifted_bound(
                            image, mask, source, gram, sigma, reach, own, first, second, rounding, work
                        )
                        if not norm <= top:
                            top = norm
            if not top < math.inf:
                return math.inf
            largest = max(largest, top)
            worst = max(worst, top + fine)
    return worst
