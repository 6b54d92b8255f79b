"""P's two banded matrices on a row of pixels."""

from __future__ import annotations

from .targets import scalar


@scalar
def filter_row(values, row_start, row_weights, column_start, column_weights, n, c, i, scratch, out):
    """Output row ``i`` of the two banded matrices; ``scratch`` holds the half-filtered row."""
    width = values.shape[3]
    for j in range(width):
        scratch[n, c, i, j] = 0.0
    for k in range(row_weights.shape[1]):
        weight = row_weights[i, k]
        for j in range(width):
            scratch[n, c, i, j] += weight * values[n, c, row_start[i] + k, j]
    for j in range(column_weights.shape[0]):
        total = 0.0
        for k in range(column_weights.shape[1]):
            total += column_weights[j, k] * scratch[n, c, i, column_start[j] + k]
        out[n, c, i, j] = total
