"""Scalar bodies of ``cover``; the statements and proofs are there."""

from __future__ import annotations

import math

import numpy as np

from .filtering import filter_row
from .geometry import ROTATION, TRANSLATION, source_point
from .interpolation import bilinear, pixel
from .inverse import TOLERANCE
from .targets import scalar


@scalar
def slope_range(lower, upper, sx, sy, reach, c):
    """Range of the derivative by the angle, in 1/radian, of an interval image read along a short arc.

    The arc stays within ``reach`` pixels of ``(sx, sy)``; the source point moves with velocity ``(-sy, sx)``.
    """
    height, width = lower.shape[1], lower.shape[2]
    row, column = sy + 0.5 * (height - 1), sx + 0.5 * (width - 1)
    low, high = math.inf, -math.inf
    if row - reach < -1.0 or column - reach < -1.0 or row + reach > height or column + reach > width:
        low, high = 0.0, 0.0
    for i in range(int(max(math.floor(row - reach), -1.0)), int(min(math.floor(row + reach), height - 1.0)) + 1):
        a0, a1 = max(row - reach - i, 0.0), min(row + reach - i, 1.0)
        for j in range(
            int(max(math.floor(column - reach), -1.0)), int(min(math.floor(column + reach), width - 1.0)) + 1
        ):
            u00, u01 = pixel(upper, 0, i, j, c), pixel(upper, 0, i, j + 1, c)
            u10, u11 = pixel(upper, 0, i + 1, j, c), pixel(upper, 0, i + 1, j + 1, c)
            if u00 == 0.0 and u01 == 0.0 and u10 == 0.0 and u11 == 0.0:
                low, high = min(low, 0.0), max(high, 0.0)
                continue
            l00, l01 = pixel(lower, 0, i, j, c), pixel(lower, 0, i, j + 1, c)
            l10, l11 = pixel(lower, 0, i + 1, j, c), pixel(lower, 0, i + 1, j + 1, c)
            b0, b1 = max(column - reach - j, 0.0), min(column + reach - j, 1.0)
            # Partial derivatives: linear in the other coordinate, so extreme at its ends.
            left, right = l10 - u00, l11 - u01
            down_lo = min(left + b0 * (right - left), left + b1 * (right - left))
            left, right = u10 - l00, u11 - l01
            down_hi = max(left + b0 * (right - left), left + b1 * (right - left))
            top, bottom = l01 - u00, l11 - u10
            right_lo = min(top + a0 * (bottom - top), top + a1 * (bottom - top))
            top, bottom = u01 - l00, u11 - l10
            right_hi = max(top + a0 * (bottom - top), top + a1 * (bottom - top))
            for v_row in (sx - reach, sx + reach):
                for v_column in (-sy - reach, -sy + reach):
                    least = min(down_lo * v_row, down_hi * v_row) + min(right_lo * v_column, right_hi * v_column)
                    most = max(down_lo * v_row, down_hi * v_row) + max(right_lo * v_column, right_hi * v_column)
                    low, high = min(low, least), max(high, most)
    return low, high


@scalar
def filtered_square(operands, values, half, out):
    """``|P v|_2^2`` of masked values [1, C, H, W]."""
    row_start, row_weights, column_start, column_weights = operands
    total = 0.0
    for c in range(out.shape[1]):
        for i in range(out.shape[2]):
            filter_row(values, row_start, row_weights, column_start, column_weights, 0, c, i, half, out)
            for j in range(out.shape[3]):
                total += out[0, c, i, j] * out[0, c, i, j]
    return total


@scalar
def filtered_shapes(image, operands):
    """Shapes of the half-filtered and the filtered image."""
    rows, columns = operands[0].shape[0], operands[2].shape[0]
    return (1, image.shape[3], rows, image.shape[2]), (1, image.shape[3], rows, columns)


@scalar
def transform_into(kind, image, first, second, out):
    """``T_g x`` [1, H, W, C] for a point frame (cos, sin) or (dx, dy), exact up to float64."""
    for i in range(image.shape[1]):
        y = i - 0.5 * (image.shape[1] - 1)
        for j in range(image.shape[2]):
            x, y_source = source_point(kind, first, second, j - 0.5 * (image.shape[2] - 1), y)
            for c in range(image.shape[3]):
                out[0, i, j, c] = bilinear(image, 0, x, y_source, c)


@scalar
def corner_error(kind, mask, operands, image, attacked, draw, both, values, half, out):
    """``|F(b, g)|_2`` with ``attacked = T_g x``, for the point frames of b and of b + g."""
    for i in range(mask.shape[0]):
        y = i - 0.5 * (mask.shape[0] - 1)
        for j in range(mask.shape[1]):
            x = j - 0.5 * (mask.shape[1] - 1)
            x_draw, y_draw = source_point(kind, draw[0], draw[1], x, y)
            x_both, y_both = source_point(kind, both[0], both[1], x, y)
            for c in range(image.shape[3]):
                values[0, c, i, j] = 0.0
                if mask[i, j]:
                    values[0, c, i, j] = bilinear(attacked, 0, x_draw, y_draw, c) - bilinear(
                        image, 0, x_both, y_both, c
                    )
    return math.sqrt(filtered_square(operands, values, half, out))


@scalar
def rotation_corner(mask, operands, image, attacked, beta, gamma, values, half, out):
    """:func:`corner_error` at two angles in radians."""
    draw = math.cos(beta), math.sin(beta)
    both = math.cos(beta + gamma), math.sin(beta + gamma)
    return corner_error(ROTATION, mask, operands, image, attacked, draw, both, values, half, out)


@scalar
def attacked_range(image, gamma, width, lower, upper, deviation):
    """Range of ``T_gamma x`` over angles ``gamma +- width / 2``, and how far it strays from its chord."""
    cos, sin = math.cos(gamma), math.sin(gamma)
    for i in range(image.shape[1]):
        y = i - 0.5 * (image.shape[1] - 1)
        for j in range(image.shape[2]):
            x = j - 0.5 * (image.shape[2] - 1)
            sx, sy = x * cos - y * sin, x * sin + y * cos
            reach = 0.5 * width * math.sqrt(x * x + y * y) * (1.0 + 1e-9) + 1e-9
            for c in range(image.shape[3]):
                low, high = slope_range(image, image, sx, sy, reach, c)
                middle, sway = bilinear(image, 0, sx, sy, c), 0.5 * width * max(abs(low), abs(high))
                lower[0, i, j, c] = max(middle - sway - 1e-12, 0.0) if sway > 0.0 else middle
                upper[0, i, j, c] = middle + sway + 1e-12 if sway > 0.0 else middle
                deviation[0, i, j, c] = 0.25 * width * (high - low)


@scalar
def stray(lower, upper, deviation, sx, sy, reach, c):
    """Largest chord deviation plus rounding among the pixels that an arc near ``(sx, sy)`` reads."""
    height, width = lower.shape[1], lower.shape[2]
    row, column = sy + 0.5 * (height - 1), sx + 0.5 * (width - 1)
    largest = 0.0
    for i in range(int(max(math.floor(row - reach), 0.0)), int(min(math.floor(row + reach) + 1, height - 1.0)) + 1):
        for j in range(
            int(max(math.floor(column - reach), 0.0)), int(min(math.floor(column + reach) + 1, width - 1.0)) + 1
        ):
            if upper[0, i, j, c] > 0.0:
                largest = max(largest, deviation[0, i, j, c] + TOLERANCE)
    return largest


@scalar
def rotation_deviation(mask, operands, image, lower, upper, deviation, beta, w_beta, gamma, w_gamma, values, half, out):
    """``|P dev|_2`` of a rectangle centred at (beta, gamma) with sides ``w_beta, w_gamma`` radians."""
    cos_b, sin_b = math.cos(beta), math.sin(beta)
    cos_s, sin_s = math.cos(beta + gamma), math.sin(beta + gamma)
    for i in range(mask.shape[0]):
        y = i - 0.5 * (mask.shape[0] - 1)
        for j in range(mask.shape[1]):
            x = j - 0.5 * (mask.shape[1] - 1)
            radius = math.sqrt(x * x + y * y) * (1.0 + 1e-9)
            for c in range(image.shape[3]):
                values[0, c, i, j] = 0.0
                if mask[i, j]:
                    sx, sy, reach = x * cos_b - y * sin_b, x * sin_b + y * cos_b, 0.5 * w_beta * radius + 1e-9
                    low, high = slope_range(lower, upper, sx, sy, reach, c)
                    total = 0.25 * w_beta * (high - low) + stray(lower, upper, deviation, sx, sy, reach, c)
                    sx, sy = x * cos_s - y * sin_s, x * sin_s + y * cos_s
                    low, high = slope_range(image, image, sx, sy, 0.5 * (w_beta + w_gamma) * radius + 1e-9, c)
                    values[0, c, i, j] = total + 0.25 * (w_beta + w_gamma) * (high - low)
    return math.sqrt(filtered_square(operands, values, half, out))


@scalar
def largest_rotation_error(
    image, mask, operands, quarter_turns, half_width, tolerance, rounding, floor, coarse, budget
):
    """Bound of the error of one image [1, H, W, C] over all beta and all gamma in ``[-G, G]`` (radians).

    Returns the bound; infinite if ``budget`` rectangles do not bring it within ``1 + tolerance`` of the largest
    error found, nor below ``floor``.
    """
    half_shape, out_shape = filtered_shapes(image, operands)
    start, end, lower, upper = np.empty_like(image), np.empty_like(image), np.empty_like(image), np.empty_like(image)
    deviation = np.empty_like(image)
    values = np.empty((1, image.shape[3], image.shape[1], image.shape[2]))
    half, out = np.empty(half_shape), np.empty(out_shape)
    span = 0.5 * math.pi * quarter_turns
    columns, rows = math.ceil(2.0 * half_width / coarse), math.ceil(span / coarse)
    stack = np.empty((rows * columns + 64, 4))
    size = 0
    for n in range(columns):
        for m in range(rows):
            stack[size, 0], stack[size, 1] = -0.5 * span + span * m / rows, -0.5 * span + span * (m + 1) / rows
            stack[size, 2] = -half_width + 2.0 * half_width * n / columns
            stack[size, 3] = -half_width + 2.0 * half_width * (n + 1) / columns
            size += 1
    best, result, evaluated = 0.0, 0.0, 0
    known_g0, known_g1 = math.nan, math.nan
    while size > 0:
        size -= 1
        b0, b1, g0, g1 = stack[size, 0], stack[size, 1], stack[size, 2], stack[size, 3]
        evaluated += 1
        if g0 != known_g0 or g1 != known_g1:
            # Neighbours on the stack mostly share their gammas.
            transform_into(ROTATION, image, math.cos(g0), math.sin(g0), start)
            transform_into(ROTATION, image, math.cos(g1), math.sin(g1), end)
            attacked_range(image, 0.5 * (g0 + g1), g1 - g0, lower, upper, deviation)
            known_g0, known_g1 = g0, g1
        corner = 0.0
        for beta in (b0, b1):
            corner = max(corner, rotation_corner(mask, operands, image, start, beta, g0, values, half, out))
            corner = max(corner, rotation_corner(mask, operands, image, end, beta, g1, values, half, out))
        best = max(best, corner)
        bound = corner + rotation_deviation(
            mask, operands, image, lower, upper, deviation, 0.5 * (b0 + b1), b1 - b0, 0.5 * (g0 + g1), g1 - g0,
            values, half, out,
        )  # fmt: skip
        if bound <= max(best * (1.0 + tolerance) + rounding, floor):
            result = max(result, bound)
        elif evaluated >= budget or size + 2 > len(stack) or not bound < math.inf:
            return math.inf
        else:
            stack[size], stack[size + 1] = stack[size], stack[size]
            for axis in (0, 2):
                if (axis == 0) == (b1 - b0 >= g1 - g0):
                    middle = 0.5 * (stack[size, axis] + stack[size, axis + 1])
                    stack[size, axis + 1] = middle
                    stack[size + 1, axis] = middle
            size += 2
    return result


@scalar
def translation_draw_error(image, mask, operands, bx, by, half_width):
    """Largest ``|F(b, g)|_2`` over ``g`` in ``[-G, G]^2`` for one b, at the breakpoints of its pieces."""
    half_shape, out_shape = filtered_shapes(image, operands)
    attacked, values = np.empty_like(image), np.empty((1, image.shape[3], image.shape[1], image.shape[2]))
    half, out = np.empty(half_shape), np.empty(out_shape)
    limit = math.ceil(half_width)
    points = np.empty((2, 4 * limit + 3))
    counts = np.zeros(2, dtype=np.int64)
    for axis in range(2):
        shift = bx if axis == 0 else by
        for whole in range(-limit - 1, limit + 2):
            # Ends beyond the range are kept: a piece that sticks out is bounded by both its ends.
            for point in (float(whole), whole + math.ceil(shift) - shift):
                if abs(point) <= limit and counts[axis] < points.shape[1]:
                    points[axis, counts[axis]] = point
                    counts[axis] += 1
    largest = 0.0
    for m in range(counts[0]):
        gx = points[0, m]
        for n in range(counts[1]):
            gy = points[1, n]
            transform_into(TRANSLATION, image, gx, gy, attacked)
            draw, both = (bx, by), (bx + gx, by + gy)
            found = corner_error(TRANSLATION, mask, operands, image, attacked, draw, both, values, half, out)
            largest = max(largest, found)
    return largest


@scalar
def translation_grams(image, mask, operands, dy, dx, gram):
    """Inner products of P S A, P S B, P S C for the shift S = (dy, dx): ``gram`` = AA, BB, CC, AB, AC, BC.

    A and B are the second differences of the image along rows and columns, C both.
    """
    half_shape, out_shape = filtered_shapes(image, operands)
    values, half = np.empty((1, image.shape[3], image.shape[1], image.shape[2])), np.empty(half_shape)
    a, b, c = np.empty(out_shape), np.empty(out_shape), np.empty(out_shape)
    for term in range(3):
        for i in range(mask.shape[0]):
            for j in range(mask.shape[1]):
                for k in range(image.shape[3]):
                    values[0, k, i, j] = 0.0
                    if mask[i, j]:
                        values[0, k, i, j] = second_difference(image, term, i - dy, j - dx, k)
        filtered_square(operands, values, half, a if term == 0 else b if term == 1 else c)
    for index in range(6):
        gram[index] = 0.0
    for k in range(out_shape[1]):
        for i in range(out_shape[2]):
            for j in range(out_shape[3]):
                u, v, w = a[0, k, i, j], b[0, k, i, j], c[0, k, i, j]
                gram[0] += u * u
                gram[1] += v * v
                gram[2] += w * w
                gram[3] += u * v
                gram[4] += u * w
                gram[5] += v * w


@scalar
def second_difference(image, term, i, j, c):
    """``D_y x`` (term 0), ``D_x x`` (1) or ``D_y D_x x`` (2) at a pixel; zero outside the image."""
    centre = pixel(image, 0, i, j, c)
    if term == 0:
        return pixel(image, 0, i - 1, j, c) - 2.0 * centre + pixel(image, 0, i + 1, j, c)
    if term == 1:
        return pixel(image, 0, i, j - 1, c) - 2.0 * centre + pixel(image, 0, i, j + 1, c)
    total = 4.0 * centre
    for u in (-1, 1):
        total -= 2.0 * (pixel(image, 0, i + u, j, c) + pixel(image, 0, i, j + u, c))
        total += pixel(image, 0, i + u, j - 1, c) + pixel(image, 0, i + u, j + 1, c)
    return total


@scalar
def unlost_translation_error(grams, reach, bx, by, half_width):
    """Largest ``|F(b, g)|_2`` over ``g`` in ``[-G, G]^2`` for one b at which nothing lost is read back."""
    ay, ax = by - math.floor(by), bx - math.floor(bx)
    my, mx = ay * (1.0 - ay), ax * (1.0 - ax)
    largest = 0.0
    for dy in range(math.floor(by - half_width), math.ceil(by + half_width) + 1):
        for dx in range(math.floor(bx - half_width), math.ceil(bx + half_width) + 1):
            if abs(dy) > reach or abs(dx) > reach:
                return math.inf
            g = grams[dy + reach, dx + reach]
            both = my * my * g[0] + mx * mx * g[1] + my * mx * (my * mx * g[2] + 2.0 * g[3])
            both += 2.0 * my * mx * (my * g[4] + mx * g[5])
            largest = max(largest, max(both, max(my * my * g[0], mx * mx * g[1])))
    return math.sqrt(largest)
