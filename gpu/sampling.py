"""Gaussian interpolation: one pixel as a normal-weighted mean of the image around a source point."""

from __future__ import annotations

import math

from .geometry import source_point
from .targets import scalar


@scalar
def axis_weights(centre, size, sigma, reach, weights, slot, axis):
    """Normal weights of the pixels of one axis that lie within ``reach`` of ``centre`` (index units).

    They follow from one another by multiplication: ``exp(-(d - 1)^2 / 2 s^2) = exp(-d^2 / 2 s^2)
    exp((2 d - 1) / 2 s^2)``. They are written to ``weights[slot, axis]``.

    Returns
    -------
    (int, int)
        The first pixel and how many there are, 0 if none.
    """
    if not (centre + reach >= 0.0 and centre - reach <= size - 1.0):
        return 0, 0
    first = int(max(math.ceil(centre - reach), 0.0))
    last = int(min(math.floor(centre + reach), size - 1.0))
    precision = 1.0 / (sigma * sigma)
    distance = centre - first
    weight = math.exp(-0.5 * distance * distance * precision) / (sigma * math.sqrt(2.0 * math.pi))
    growth, decay = math.exp((distance - 0.5) * precision), math.exp(-precision)
    row = weights[slot, axis]
    for k in range(last - first + 1):
        row[k] = weight
        weight *= growth
        growth *= decay
    return first, last - first + 1


@scalar
def weighted_mean(source, s, c, row, rows, column, columns, weights, slot):
    """``sum_kl wy[k] wx[l] source[s, c, row + k, column + l]`` with the weights of :func:`axis_weights`."""
    on_rows, on_columns, line = weights[slot, 0], weights[slot, 1], weights[slot, 2]
    for n in range(columns):
        line[n] = 0.0
    for k in range(rows):
        weight = on_rows[k]
        values = source[s, c, row + k, column : column + columns]  # a view: its loop vectorises
        for n in range(columns):
            line[n] += weight * values[n]
    total = 0.0
    for n in range(columns):
        total += on_columns[n] * line[n]
    return total


@scalar
def sample_row_into(source, kind, first, second, sigma, reach, pad, s, n, i, weights, slot, out):
    """Row ``i`` of parameter ``n`` in all channels, into ``out[n, :, i]``; ``first, second`` is its point frame."""
    height, width = source.shape[2], source.shape[3]
    y = i - pad - 0.5 * (height - 1)
    for j in range(out.shape[3]):
        x_source, y_source = source_point(kind, first, second, j - pad - 0.5 * (width - 1), y)
        row, rows = axis_weights(y_source + 0.5 * (height - 1), height, sigma, reach, weights, slot, 0)
        column, columns = axis_weights(x_source + 0.5 * (width - 1), width, sigma, reach, weights, slot, 1)
        for c in range(out.shape[1]):
            out[n, c, i, j] = weighted_mean(source, s, c, row, rows, column, columns, weights, slot)
