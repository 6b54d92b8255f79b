"""How often simulated runs were wrong, and how often they may be; for the tests and ``benchmarks.validity``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

DEVIATIONS = 4.0
"""Binomial standard deviations of a simulation between its rate and a bound on it: one in 30,000 is further off."""


def binomial_error(probability: float, runs: int) -> float:
    """Standard deviation of the share of ``runs`` in which an event of this probability happens."""
    return math.sqrt(probability * (1.0 - probability) / runs)


@dataclass(frozen=True)
class Check:
    """One procedure under its null, or in a world where its certificates may be wrong, run many times.

    Attributes
    ----------
    name : str
    level : float
        The error rate that it promises.
    simulate : callable
        ``simulate(runs, generator)``: in how many of so many runs it was wrong.
    exact : callable or None
        The probability of a wrong run, computed rather than simulated, where that is possible.
    at_least : float
        A valid procedure: the share of its level that it uses up at least, so that a looser one would be noticed.
        An invalid one: how many times its level it is wrong.
    valid : bool
        Whether the rate stays below the level; an invalid procedure is here to show that this is noticed.
    share : float
        Runs of it for each run of the cheapest checks.
    """

    name: str
    level: float
    simulate: Callable[[int, np.random.Generator], int]
    exact: Callable[[], float] | None = None
    at_least: float = 0.0
    valid: bool = True
    share: float = 1.0

    def runs(self, most: int) -> int:
        """How many runs it gets where the cheapest checks get ``most``."""
        return max(int(self.share * most), 1)


@dataclass(frozen=True)
class Rate:
    """What a check found."""

    check: Check
    wrong: int
    runs: int

    @property
    def rate(self) -> float:
        """Share of wrong runs."""
        return self.wrong / self.runs

    @property
    def limit(self) -> float:
        """The level, and four standard deviations of the simulation."""
        return self.check.level + DEVIATIONS * binomial_error(self.check.level, self.runs)

    def objections(self) -> list[str]:
        """What is not as it should be; nothing if all is."""
        check, found = self.check, []
        promised = check.at_least * check.level
        error = binomial_error(min(promised, 1.0), self.runs)
        if check.valid and self.rate > self.limit:
            found.append(f"{check.name}: wrong in {self.rate:.5f} of {self.runs} runs, more than {self.limit:.5f}")
        if self.rate < promised - DEVIATIONS * error:
            found.append(f"{check.name}: wrong in {self.rate:.5f} of {self.runs} runs, less than {promised:.5f}")
        if check.exact is not None:
            exact = check.exact()
            if abs(self.rate - exact) > DEVIATIONS * binomial_error(exact, self.runs):
                found.append(f"{check.name}: wrong in {self.rate:.5f} of {self.runs} runs, not in {exact:.5f}")
            if check.valid and exact > check.level:
                found.append(f"{check.name}: wrong with probability {exact:.6f}, more than {check.level}")
        return found

    def row(self) -> dict[str, object]:
        """The numbers, as they are stored."""
        return {
            "name": self.check.name,
            "valid": self.check.valid,
            "level": self.check.level,
            "runs": self.runs,
            "wrong": self.wrong,
            "rate": self.rate,
            "binomial_error": binomial_error(self.check.level, self.runs),
            "limit": self.limit,
            "exact": None if self.check.exact is None else self.check.exact(),
            "at_least": self.check.at_least * self.check.level,
            "objections": self.objections(),
        }


def measure(check: Check, runs: int, seed: int) -> Rate:
    """Simulate; the same seed gives the same rate."""
    return Rate(check, check.simulate(runs, np.random.default_rng(seed)), runs)
