"""The outer test and the inner ones together, under the null; and an outer test that reads draws as they finish.

The null: a share ``goal - alpha_delta`` of the draws votes for the class always, the others with a probability just
below their threshold, so that an inner test passes them as often as it ever may. Then ``P(pass) <= goal``, and a
run that shows more than ``goal`` is wrong.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import convolve
from scipy.stats import norm

from certification.adaptive import run_nested
from certification.effort import Goal
from certification.schedule import FUTILITY, NestedTest, Round
from certification.sequential import accepts, rejects
from certification.vocabulary import StoppedBy
from tests.certification.sources import World
from tests.statistical.counts import Counts, by_counts, crossing_probability, every_vote, least_counts
from tests.statistical.rates import Check
from tests.statistical.remembered import QUICK, remembered

BELOW = 1.0 - 1e-9
"""Just below a threshold."""


@dataclass(frozen=True)
class Null:
    """Levels, thresholds, and how far a run may go.

    Attributes
    ----------
    goal : float
        What the outer test may not show: ``P(pass) > goal``.
    alpha, alpha_delta : float
    easy, hard : float
        Thresholds of the draws that vote for the class always, and of those that lie just below their threshold.
    draws, n_delta : int
        Draws, and votes at one of them.
    """

    goal: float = 0.7
    alpha: float = 0.05
    alpha_delta: float = 0.02
    easy: float = 0.7
    hard: float = 0.7
    draws: int = 60
    n_delta: int = 80

    @property
    def good(self) -> float:
        """Share of the draws at which ``H >= tau``: exactly what the certificate says it exceeds."""
        return self.goal - self.alpha_delta

    @property
    def name(self) -> str:
        """Its numbers."""
        return (
            f"P(pass) <= {self.goal}, alpha = {self.alpha}, alpha_delta = {self.alpha_delta}, "
            f"thresholds {self.easy} and {self.hard}, {self.draws} draws, {self.n_delta} votes at each"
        )

    def exits(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Probabilities [n_delta] that a draw just below its threshold passes, or is given up, at each vote."""
        looks, tau = every_vote(self.n_delta), self.hard
        enough = least_counts(lambda k, n: accepts(k, n, tau, self.alpha_delta), looks)
        too_few = looks - least_counts(lambda against, n: rejects(n - against, n, tau, FUTILITY), looks)
        alive, passed, given_up = np.ones(1), [], []
        for least, most in zip(enough.tolist(), too_few.tolist(), strict=True):
            alive = convolve(alive, [1.0 - tau * BELOW, tau * BELOW], method="direct")
            passed.append(float(alive[least:].sum()))
            given_up.append(float(alive[: most + 1].sum()))
            alive[least:] = 0.0
            alive[: most + 1] = 0.0
        return np.array(passed), np.array(given_up)


def all_decided(null: Null) -> Check:
    """Every draw is tested to its end, and prefixes are read after each draw: what no schedule can exceed."""
    wrong_pass = crossing_probability(
        null.hard * BELOW,
        every_vote(null.n_delta),
        least_counts(lambda k, n: accepts(k, n, null.hard, null.alpha_delta), every_vote(null.n_delta)),
    )
    p = null.good + (1.0 - null.good) * wrong_pass
    return by_counts(
        f"nested, every draw decided: {null.name}",
        null.alpha,
        p,
        every_vote(null.draws),
        lambda k, n: accepts(k, n, null.goal, null.alpha),
        at_least=0.2,
    )


def as_finished(null: Null) -> Check:
    """Draws advance together, and the outer test reads those that are decided, in the order in which they are."""

    @functools.cache
    def tables() -> tuple[NDArray[np.float64], Counts, int]:
        passed, given_up = null.exits()
        least = least_counts(lambda k, n: accepts(k, n, null.goal, null.alpha), every_vote(null.draws))
        easy = every_vote(null.n_delta)
        soonest = int(easy[np.argmax(accepts(easy, easy, null.easy, null.alpha_delta))])
        return np.cumsum(np.concatenate([passed, given_up])), least, soonest

    def simulate(runs: int, generator: np.random.Generator) -> int:
        exits, least, soonest = tables()
        shape = (runs, null.draws)
        good = generator.random(shape) < null.good
        # passed at some vote, given up at some vote, or open until the votes are used up
        which = np.searchsorted(exits, generator.random(shape), side="right")
        votes = every_vote(null.n_delta)
        finished = np.where(good, soonest, np.concatenate([votes, votes, votes[-1:]])[which])
        passes = good | (which < null.n_delta)
        order = np.argsort(finished, axis=1, kind="stable")
        read = np.cumsum(np.take_along_axis(passes, order, axis=1), axis=1)
        return int((read >= least).any(axis=1).sum())

    return Check(
        f"nested, read as they finish: {null.name}", null.alpha, simulate, valid=False, at_least=4.0, share=0.2
    )


class Watched(NestedTest):
    """The schedule as it is, watched by an outer test that counts draws in the order in which they are decided."""

    def __init__(self, null: Null, thresholds: Callable[[], NDArray[np.float64]], *, settles: bool) -> None:
        goal = Goal(null.goal, 0.8 * null.goal, settles)
        super().__init__(
            goal,
            alpha=null.alpha,
            alpha_delta=null.alpha_delta,
            draws=null.draws,
            n_delta=null.n_delta,
            budget=null.draws * null.n_delta,
        )
        self.null, self._known_thresholds = null, thresholds
        self.successes, self.trials = (np.zeros(null.draws, dtype=np.int64) for _ in range(2))
        self.decided: dict[int, bool] = {}
        self.deceived = False

    def record(self, asked: Round, successes: Counts) -> None:
        super().record(asked, successes)
        i = asked.draws
        self.successes[i] += successes
        self.trials[i] += asked.counts
        k, n, tau = self.successes[i], self.trials[i], self._known_thresholds()[i]
        passed = QUICK["accepts"](k, n, tau, self.null.alpha_delta)
        over = passed | QUICK["rejects"](k, n, tau, FUTILITY) | (n >= self.null.n_delta)
        self.decided.update(zip(i[over].tolist(), passed[over].tolist(), strict=True))
        read = np.cumsum(list(self.decided.values()))
        looks = np.arange(1, len(read) + 1)
        self.deceived |= bool(QUICK["accepts"](read, looks, self.null.goal, self.null.alpha).any())


def play(null: Null, seed: int, *, settles: bool) -> tuple[bool, bool]:
    """One run through ``run_nested``: whether it showed too much, and whether reading as they finish would have."""
    edge = float(norm.ppf(null.good))
    world = World(lambda beta: np.where(beta <= edge, 1.0, null.hard * BELOW), seed=seed)
    found = np.empty(0)

    def thresholds(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal found
        found = np.concatenate([found, np.where(parameters <= edge, null.easy, null.hard)])
        return found[-len(parameters) :]

    test = Watched(null, lambda: found, settles=settles)
    shown = run_nested(world, 1, thresholds, test)
    return shown.stopped_by is StoppedBy.CERTIFIED or shown.p_lower > null.goal, test.deceived


def nested_run(null: Null, *, settles: bool, at_least: float, share: float) -> Check:
    """``NestedTest`` itself, which reads prefixes."""

    def simulate(runs: int, generator: np.random.Generator) -> int:
        with remembered():
            return sum(play(null, seed, settles=settles)[0] for seed in generator.integers(2**60, size=runs).tolist())

    name = f"nested run{' that settles for less' if settles else ''}: {null.name}"
    return Check(name, null.alpha, simulate, at_least=at_least, share=share)


def watched_run(null: Null, share: float) -> Check:
    """The very same runs, read as their draws finish."""

    def simulate(runs: int, generator: np.random.Generator) -> int:
        with remembered():
            return sum(play(null, seed, settles=True)[1] for seed in generator.integers(2**60, size=runs).tolist())

    name = f"nested run, read as they finish: {null.name}"
    return Check(name, null.alpha, simulate, valid=False, at_least=4.0, share=share)


HARD = Null(hard=0.9, n_delta=300)
"""Easy draws pass after a few votes; hard ones are open for long, and fail."""
SMALL = Null(draws=40, n_delta=40)
CHECKS = (
    all_decided(SMALL),
    all_decided(Null(goal=0.9, alpha=0.01, alpha_delta=0.002, easy=0.84, hard=0.84, draws=200, n_delta=300)),
    all_decided(HARD),
    nested_run(SMALL, settles=False, at_least=0.2, share=0.008),
    nested_run(SMALL, settles=True, at_least=0.2, share=0.004),
    nested_run(HARD, settles=False, at_least=0.2, share=0.002),
    as_finished(HARD),
    watched_run(HARD, share=0.0005),
)
