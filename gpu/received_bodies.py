"""Scalar bodies of ``received``; the statements and proofs are there."""

from __future__ import annotations

import math

from .cover_bodies import slope_range, transform_into
from .geometry import ROTATION, source_box, source_point
from .interpolation import pixel, range_over_box
from .residual_bodies import filter_into, sum_of_squares
from .residual_maps import sampled_into, spread_deviations, unsample_into, untransform_into
from .targets import scalar


@scalar
def turning_sway(source, radius, moved, absolute, along, across, half, out, other):
    """``sup |S'_g m x - S'_c m x|`` over angles within ``radius`` of c, for ``|m x|`` [1, C, H, W] below ``source``.

    Bands of S': ``moved`` of the density, ``absolute`` of its product with the absolute distance over the variance.
    """
    height, width = source.shape[2], source.shape[3]
    for c in range(source.shape[1]):
        for i in range(height):
            for j in range(width):
                along[0, c, i, j] = abs(i - 0.5 * (height - 1)) * source[0, c, i, j]
                across[0, c, i, j] = abs(j - 0.5 * (width - 1)) * source[0, c, i, j]
    filter_into(along, moved[0], moved[1], absolute[2], absolute[3], half, out)
    filter_into(across, absolute[0], absolute[1], moved[2], moved[3], half, other)
    total = 0.0
    for c in range(out.shape[1]):
        for i in range(out.shape[2]):
            for j in range(out.shape[3]):
                value = out[0, c, i, j] + other[0, c, i, j]
                total += value * value
    return radius * math.sqrt(total)


@scalar
def known_part(kind, frames, k, mask, tolerance, lower, upper, received, middles, widths):
    """What rounding can have added to the received image: masked middles and half-widths [1, C, H, W].

    A received pixel is within ``tolerance`` of the transform of an original in the box, whose range over the cell
    is known: where the image is black, for example, rounding can only have taken away.
    """
    height, width = mask.shape
    for i in range(height):
        y = i - 0.5 * (height - 1)
        for j in range(width):
            x_lo, x_hi, y_lo, y_hi = source_box(kind, frames, k, j - 0.5 * (width - 1), y)
            for c in range(received.shape[2]):
                middles[0, c, i, j], widths[0, c, i, j] = 0.0, 0.0
                if mask[i, j] > 0.0:
                    low, high = range_over_box(lower, upper, k, x_lo, x_hi, y_lo, y_hi, c)
                    least = max(-tolerance, received[i, j, c] - high)
                    most = min(tolerance, received[i, j, c] - low)
                    middles[0, c, i, j] = mask[i, j] * 0.5 * (least + most)
                    # Of opposite sign only if the cell is empty, which nobody has noticed.
                    widths[0, c, i, j] = mask[i, j] * 0.5 * abs(most - least)


@scalar
def strayed_deviation(deviation, c, rows, columns, move_y, move_x):
    """At most how much ``T_g x - T_c x`` of an image within ``deviation`` of 0 is at one pixel.

    ``rows`` and ``columns`` (first, last) are those that a source point reads on its way of at most ``move_x`` across
    and ``move_y`` down; on the way across, the slope is a mean of differences of two neighbours in a row.
    """
    across, down = 0.0, 0.0
    for p in range(rows[0], rows[1] + 1):
        for q in range(columns[0], columns[1] + 1):
            here = pixel(deviation, 0, p, q, c)
            if q < columns[1]:
                across = max(across, here + pixel(deviation, 0, p, q + 1, c))
            if p < rows[1]:
                down = max(down, here + pixel(deviation, 0, p + 1, q, c))
    return move_x * across + move_y * down


@scalar
def cell_sway(kind, frames, k, point, radius, mask, middle, deviation, values):
    """Masked bound of how far ``T_g x`` strays in cell ``k`` of angles, for x in the box, into ``values`` [1, C, H, W].

    For the middle, from its chord; for the rest, from its value at the centre.
    """
    height, width = mask.shape
    for i in range(height):
        y = i - 0.5 * (height - 1)
        for j in range(width):
            x = j - 0.5 * (width - 1)
            for c in range(values.shape[1]):
                values[0, c, i, j] = 0.0
            if not mask[i, j] > 0.0:
                continue
            x_lo, x_hi, y_lo, y_hi = source_box(kind, frames, k, x, y)
            x_at, y_at = source_point(kind, point[0], point[1], x, y)
            move_x = max(x_hi - x_at, x_at - x_lo) + 1e-12
            move_y = max(y_hi - y_at, y_at - y_lo) + 1e-12
            # On CUDA floor is a float.
            first_i = int(math.floor(y_at - move_y + 0.5 * (height - 1)))  # noqa: RUF046
            last_i = int(math.floor(y_at + move_y + 0.5 * (height - 1))) + 1  # noqa: RUF046
            first_j = int(math.floor(x_at - move_x + 0.5 * (width - 1)))  # noqa: RUF046
            last_j = int(math.floor(x_at + move_x + 0.5 * (width - 1))) + 1  # noqa: RUF046
            for c in range(values.shape[1]):
                strayed = strayed_deviation(deviation, c, (first_i, last_i), (first_j, last_j), move_y, move_x)
                reach = radius * math.sqrt(x * x + y * y) * (1.0 + 1e-9) + 1e-9
                low, high = slope_range(middle, middle, x_at, y_at, reach, c)
                strayed += 0.5 * radius * (high - low)
                values[0, c, i, j] = mask[i, j] * strayed


@scalar
def spread_of_corners(
    kind, corners, mask, sigma, reach, pad, plain, middle, known, moved, values, half, weights, padded
):  # fmt: skip
    """Residuals of the middle at the cell's corners: their mean into ``padded[0]``, and how far they are from it."""
    count = len(corners) // 2
    mean = padded[0:1]
    for n in range(count):
        first, second, here = corners[2 * n], corners[2 * n + 1], padded[3 + n : 4 + n]
        transform_into(kind, middle, first, second, moved)
        for c in range(values.shape[1]):
            for i in range(values.shape[2]):
                for j in range(values.shape[3]):
                    values[0, c, i, j] = mask[i, j] * moved[0, i, j, c]
        filter_into(values, plain[0], plain[1], plain[2], plain[3], half, here)
        sampled_into(known, kind, first, second, sigma, reach, pad, weights, half, padded[2:3])
        for c in range(here.shape[1]):
            for i in range(here.shape[2]):
                for j in range(here.shape[3]):
                    here[0, c, i, j] -= padded[2, c, i, j]
    for c in range(mean.shape[1]):
        for i in range(mean.shape[2]):
            for j in range(mean.shape[3]):
                total = 0.0
                for n in range(count):
                    total += padded[3 + n, c, i, j]
                mean[0, c, i, j] = total / count
    furthest = 0.0
    for n in range(count):
        total = 0.0
        for c in range(mean.shape[1]):
            for i in range(mean.shape[2]):
                for j in range(mean.shape[3]):
                    difference = padded[3 + n, c, i, j] - mean[0, c, i, j]
                    total += difference * difference
        furthest = max(furthest, math.sqrt(total))
    return furthest


@scalar
def pull_of(kind, points, mask, sigma, reach, pad, back_filter, residual, deviation, noise, half, weights, planes):
    """``2 (w |m S_0^T b| + deviation |K^T b|)``: what noise and unknown pixels add to ``|b|^2`` in first order.

    ``residual`` b [1, C, Hp, Wp], ``noise`` w times the mask [1, C, H, W], ``K = S_0 m T_c - S'_c m`` at that of the
    ``points`` where it is largest, pixel by pixel; ``planes`` has four work arrays [1, C, H, W] along its first axis.
    """
    pulled, turned, sampled, most = planes[0:1], planes[1:2], planes[2:3], planes[3:4]
    filter_into(residual, back_filter[0], back_filter[1], back_filter[2], back_filter[3], half, pulled)
    total = 0.0
    for c in range(pulled.shape[1]):
        for i in range(pulled.shape[2]):
            for j in range(pulled.shape[3]):
                total += noise[0, c, i, j] * abs(pulled[0, c, i, j])
                pulled[0, c, i, j] *= mask[i, j]
                most[0, c, i, j] = 0.0
    for place in range(len(points) // 2):
        first, second = points[2 * place], points[2 * place + 1]
        untransform_into(kind, pulled, first, second, turned)
        unsample_into(residual, kind, first, second, sigma, reach, pad, weights, half, sampled)
        for c in range(pulled.shape[1]):
            for i in range(pulled.shape[2]):
                for j in range(pulled.shape[3]):
                    difference = abs(turned[0, c, i, j] - mask[i, j] * sampled[0, c, i, j])
                    most[0, c, i, j] = max(most[0, c, i, j], difference)
    for c in range(pulled.shape[1]):
        for i in range(pulled.shape[2]):
            for j in range(pulled.shape[3]):
                total += deviation[0, i, j, c] * most[0, c, i, j]
    return 2.0 * total


@scalar
def received_cell_bound(
    kind, frames, k, points, backs, radii, corners, mask, before, sigma, reach, pad, tolerance, lower, upper, received,
    plain, back_filter, moved_filter, absolute, images, planes, half, padded, weights, patch,
):  # fmt: skip
    """Bound of the residual of every original in the box of cell ``k``; see ``received``.

    ``received`` [H, W, C]; ``corners`` are point frames in a row, ``points`` those of the places where K is taken and
    ``backs`` the same of their negatives: the centre for angles, the corners for shifts. ``before`` is width and reach
    of S, ``sigma`` and ``reach`` are those of S'; ``plain`` and ``back_filter`` are bands of S. The last six are work
    arrays, the first four of them with places along their first axis: ``images`` [3, H, W, C], ``planes``
    [7, C, H, W], ``half`` [1, C, Hp, Wp], ``padded`` [3 + corners, C, Hp, Wp], ``weights`` [1, 3, taps] and
    ``patch`` of a side of ``taps + 6``.
    """
    height, width, channels = lower.shape[1], lower.shape[2], lower.shape[3]
    middle, deviation, moved = images[0:1], images[1:2], images[2:3]
    known, unknown, noise, values = planes[0:1], planes[1:2], planes[2:3], planes[3:4]
    mean, spread, out = padded[0:1], padded[1:2], padded[2:3]
    for i in range(height):
        for j in range(width):
            for c in range(channels):
                low, high = lower[k, i, j, c], upper[k, i, j, c]
                middle[0, i, j, c] = 0.5 * (low + high)
                deviation[0, i, j, c] = 0.5 * (high - low)
                known[0, c, i, j] = mask[i, j] * middle[0, i, j, c]
                unknown[0, c, i, j] = mask[i, j] * deviation[0, i, j, c]
    extra = spread_of_corners(
        kind, corners, mask, sigma, reach, pad, plain, middle, known, moved, values, half, weights, padded
    )
    if kind == ROTATION:
        cell_sway(kind, frames, k, points, radii[0], mask, middle, deviation, values)
        filter_into(values, plain[0], plain[1], plain[2], plain[3], half, out)
        extra += math.sqrt(sum_of_squares(out))
        extra += turning_sway(unknown, radii[0], moved_filter, absolute, planes[3:4], planes[4:5], half, out, spread)
    for c in range(channels):
        for i in range(out.shape[2]):
            for j in range(out.shape[3]):
                spread[0, c, i, j] = 0.0
    for place in range(len(points) // 2):
        ends = slice(2 * place, 2 * place + 2)
        for c in range(channels):
            for i in range(out.shape[2]):
                for j in range(out.shape[3]):
                    out[0, c, i, j] = 0.0
        spread_deviations(
            kind, mask, before, sigma, reach, pad, points[ends], backs[ends], deviation, weights, patch, out
        )
        for c in range(channels):
            for i in range(out.shape[2]):
                for j in range(out.shape[3]):
                    spread[0, c, i, j] = max(spread[0, c, i, j], out[0, c, i, j])
    known_part(kind, frames, k, mask, tolerance, lower, upper, received, values, noise)
    filter_into(values, plain[0], plain[1], plain[2], plain[3], half, out)
    for c in range(channels):
        for i in range(out.shape[2]):
            for j in range(out.shape[3]):
                mean[0, c, i, j] += out[0, c, i, j]
    filter_into(noise, plain[0], plain[1], plain[2], plain[3], half, out)
    total = pull_of(
        kind, points, mask, sigma, reach, pad, back_filter, mean, deviation, noise, half, weights, planes[3:7]
    )
    for c in range(channels):
        for i in range(out.shape[2]):
            for j in range(out.shape[3]):
                unknown_part = spread[0, c, i, j] + out[0, c, i, j]
                total += mean[0, c, i, j] * mean[0, c, i, j] + unknown_part * unknown_part
    return math.sqrt(total) + extra
