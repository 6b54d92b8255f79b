"""Interval arithmetic by inclusion, with exact rational arithmetic and mpmath as oracles."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpu.interval import (
    cos_sin_degrees,
    cos_sin_interval,
    interval_add,
    interval_mul,
    interval_sub,
    round_down,
    round_up,
)

finite = st.floats(-1e100, 1e100, allow_nan=False)


@st.composite
def intervals(draw):
    return tuple(sorted((draw(finite), draw(finite))))


def points_of(interval):
    lo, hi = Fraction(interval[0]), Fraction(interval[1])
    return lo, hi, (lo + hi) / 2, lo + (hi - lo) / 7


@given(value=finite)
@example(value=0.0)
@example(value=2.0**-1074)
@example(value=1.0)
@example(value=-(2.0**-1022))
def test_rounding_steps_past_the_neighbours(value):
    """Oracle: math.nextafter."""
    assert round_down(value) <= math.nextafter(value, -math.inf)
    assert round_up(value) >= math.nextafter(value, math.inf)


@pytest.mark.parametrize(
    ("operation", "exact"),
    [
        (interval_add, lambda p, q: p + q),
        (interval_sub, lambda p, q: p - q),
        (interval_mul, lambda p, q: p * q),
    ],
)
@given(a=intervals(), b=intervals())
def test_operations_enclose_the_exact_results(operation, exact, a, b):
    """Oracle: exact rational arithmetic, so no tolerance is needed."""
    lo, hi = operation(*a, *b)
    for p in points_of(a):
        for q in points_of(b):
            assert Fraction(lo) <= exact(p, q) <= Fraction(hi)


@given(lo=st.floats(-2000, 2000), width=st.floats(0, 800), share=st.floats(0, 1))
@example(lo=-10.0, width=20.0, share=0.5)
@example(lo=170.0, width=20.0, share=0.5)
@example(lo=-190.0, width=20.0, share=0.5)
@example(lo=90.0, width=0.0, share=0.0)
@example(lo=269.999, width=0.002, share=0.5)
def test_cos_and_sin_of_an_interval_enclose_every_angle_inside(lo, width, share):
    """Oracle: mpmath with 60 digits, at an inner point and at every extremum inside."""
    hi = lo + width
    cos_lo, cos_hi, sin_lo, sin_hi = (float(end[0]) for end in cos_sin_interval(np.array([lo]), np.array([hi])))
    inside = [min(max(lo + share * width, lo), hi), lo, hi]
    inside += [90.0 * k for k in range(math.ceil(lo / 90.0), math.floor(hi / 90.0) + 1)]
    with mpmath.workdps(60):
        for angle in inside:
            radians = mpmath.mpf(angle) * mpmath.pi / 180
            assert cos_lo <= mpmath.cos(radians) <= cos_hi
            assert sin_lo <= mpmath.sin(radians) <= sin_hi
    assert -1.0 <= cos_lo <= cos_hi <= 1.0
    assert -1.0 <= sin_lo <= sin_hi <= 1.0


def test_enclosures_of_points_are_tight_and_quarter_turns_exact():
    angles = np.array([0.0, 90.0, 180.0, 270.0, -90.0, 3600.0])
    cos, sin = cos_sin_degrees(angles)
    assert cos.tolist() == [1, 0, -1, 0, 0, 1]
    assert sin.tolist() == [0, 1, 0, -1, -1, 0]
    cos_lo, cos_hi, sin_lo, sin_hi = cos_sin_interval(np.array([33.0]), np.array([33.0]))
    assert cos_hi - cos_lo < 1e-14
    assert sin_hi - sin_lo < 1e-14
