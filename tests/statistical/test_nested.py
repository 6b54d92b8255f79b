"""Nested tests under the null: prefixes are read in the order of drawing; as draws finish, it would be wrong."""

from __future__ import annotations

import pytest

from tests.statistical.nested import CHECKS
from tests.statistical.rates import Check, measure

RUNS = 100_000


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_error_rates_are_what_they_should_be(check: Check) -> None:
    """Oracles: the level, with four binomial errors of the simulation; and, where there is one, the exact rate."""
    assert measure(check, check.runs(RUNS), seed=2).objections() == []
