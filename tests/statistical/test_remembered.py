"""Runs with a memory are the runs without it."""

from __future__ import annotations

import numpy as np
import pytest

from certification import sequential
from tests.statistical.joint_worlds import joint_cases, single_vote_cases
from tests.statistical.nested_worlds import nested_own_bound_cases, nested_stored_cases
from tests.statistical.remembered import QUICK, remembered
from tests.statistical.worlds import Case

CASES = [single_vote_cases()[0], nested_stored_cases()[0], nested_own_bound_cases()[1], joint_cases()[0]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_outcomes_are_the_same(case: Case) -> None:
    """Oracle: the same seeds without a memory."""
    expected = [case.outcome(seed) for seed in range(3)]
    for _ in range(2):
        with remembered():
            assert [case.outcome(seed) for seed in range(3)] == expected
    assert case.outcome(0) == expected[0]


def test_every_element_is_what_the_function_returns() -> None:
    generator = np.random.default_rng(0)
    n = generator.integers(0, 50, (3, 40))
    k = generator.integers(0, n + 1)
    p0 = generator.choice([0.3, 0.5, 0.9], n.shape)
    for name in ("accepts", "rejects", "votes_to_accept"):
        for _ in range(2):
            found = QUICK[name](k, n, p0, 0.05)
            expected = getattr(sequential, name)(k, n, p0, 0.05)
            np.testing.assert_array_equal(found, expected)
            assert found.dtype == expected.dtype
    np.testing.assert_array_equal(QUICK["lower_bounds"](k, n, 0.05), sequential.lower_bounds(k, n, 0.05))
