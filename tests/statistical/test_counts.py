"""100,000 runs under the null: tests are wrong no more often than their level, and invalid ones are noticed."""

from __future__ import annotations

import pytest

from tests.statistical.counts import CHECKS
from tests.statistical.rates import Check, measure

RUNS = 100_000


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_error_rates_are_what_they_should_be(check: Check) -> None:
    """Oracles: the level, with four binomial errors of the simulation; and, where there is one, the exact rate."""
    assert measure(check, check.runs(RUNS), seed=1).objections() == []
