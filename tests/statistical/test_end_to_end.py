"""Certificates in worlds whose truth is known: wrong no more often than alpha; without their losses, far more often."""

from __future__ import annotations

import pytest

from tests.statistical.end_to_end import checks
from tests.statistical.rates import Check, measure

RUNS = 200


@pytest.mark.parametrize("check", checks(1.0), ids=lambda check: check.name)
def test_certificates_are_wrong_as_often_as_they_may_be(check: Check) -> None:
    """Oracle: the true radius of each world, in closed form."""
    assert measure(check, check.runs(RUNS), seed=3).objections() == []
