"""Scalar bodies of ``residual``; the statements and proofs are there."""

from __future__ import annotations

from .filtering import filter_row
from .sampling import sample_row_into
from .targets import scalar


@scalar
def sample_into(source, kind, first, second, sigma, reach, pad, weights, out):
    """``S_t`` of one masked image [1, C, H, W] on the padded grid, into ``out`` [1, C, Hp, Wp]."""
    for i in range(out.shape[2]):
        sample_row_into(source, kind, first, second, sigma, reach, pad, 0, 0, i, weights, 0, out)


@scalar
def filter_into(values, row_start, row_weights, column_start, column_weights, half, out):
    """Two banded matrices on one image: ``values`` [1, C, H, W] into ``out`` [1, C, Hp, Wp]."""
    for c in range(out.shape[1]):
        for i in range(out.shape[2]):
            filter_row(values, row_start, row_weights, column_start, column_weights, 0, c, i, half, out)


@scalar
def sum_of_squares(values):
    """Of one image [1, C, H, W]."""
    total = 0.0
    for c in range(values.shape[1]):
        for i in range(values.shape[2]):
            for j in range(values.shape[3]):
                total += values[0, c, i, j] * values[0, c, i, j]
    return total
