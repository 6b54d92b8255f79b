"""Tests on counted votes under their nulls: simulated for 100,000 runs at once, and exact by recursion."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.signal import convolve
from scipy.stats import binom

from certification.adaptive import run_single
from certification.binomial import binomial_lower_bound, predict_p_value, smallest_passing_count
from certification.effort import Goal
from certification.schedule import FUTILITY, ROUND_VOTES
from certification.sequential import accepts, lower_bound, rejects, votes_to_accept
from certification.vocabulary import StoppedBy
from tests.statistical.rates import Check
from tests.statistical.remembered import remembered

Counts = NDArray[np.int64]
Rule = Callable[[Counts, Counts], NDArray[np.bool_]]
"""Whether so many successes in so many votes are enough; with more successes they still are."""


def every_vote(n: int) -> Counts:
    """A look after each of the first ``n`` votes."""
    return np.arange(1, n + 1)


def every_batch(size: int, most: int) -> Counts:
    """A look after each ``size`` votes."""
    return np.arange(size, most + 1, size)


def least_counts(rule: Rule, looks: Counts) -> Counts:
    """The fewest successes that are enough at each look, by bisection; one more than there are where none are."""
    low, high = np.full(len(looks), -1), looks + 1
    while np.any(high - low > 1):
        middle = np.clip((low + high) // 2, 0, looks)
        enough = rule(middle, looks)
        open_ = high - low > 1
        low, high = np.where(open_ & ~enough, middle, low), np.where(open_ & enough, middle, high)
    return high


def crossings(runs: int, generator: np.random.Generator, p: float, looks: Counts, least: Counts) -> int:
    """Runs of votes with probability ``p`` that have enough successes at one look or more."""
    k, crossed = np.zeros(runs, dtype=np.int32), np.zeros(runs, dtype=bool)
    for size, enough in zip(np.diff(looks, prepend=0).tolist(), least.tolist(), strict=True):
        k += generator.random(runs) < p if size == 1 else generator.binomial(size, p, runs).astype(np.int32)
        crossed |= k >= enough
    return int(crossed.sum())


def crossing_probability(p: float, looks: Counts, least: Counts) -> float:
    """The same, exactly: the distribution of the successes of runs that did not cross, from look to look."""
    alive, crossed = np.ones(1), 0.0
    for size, enough in zip(np.diff(looks, prepend=0).tolist(), least.tolist(), strict=True):
        alive = convolve(alive, binom.pmf(np.arange(size + 1), size, p))
        crossed += float(alive[enough:].sum())
        alive[enough:] = 0.0
    return crossed


def by_counts(name: str, level: float, p: float, looks: Counts, rule: Rule, **more: object) -> Check:
    """A check of a rule that is wrong whenever it says yes, with votes of probability ``p``."""

    @functools.cache
    def least() -> Counts:
        return least_counts(rule, looks)

    @functools.cache
    def exact() -> float:
        return crossing_probability(p, looks, least())

    def simulate(runs: int, generator: np.random.Generator) -> int:
        return crossings(runs, generator, p, looks, least())

    return Check(name, level, simulate, exact, **more)  # type: ignore[arg-type]


def one_by_one(rule: Callable[[int, int], bool]) -> Rule:
    """A rule for arrays from one for numbers."""

    def every(k: Counts, n: Counts) -> NDArray[np.bool_]:
        return np.array([rule(*pair) for pair in zip(k.tolist(), n.tolist(), strict=True)])

    return every


def martingale(p0: float, alpha: float, looks: Counts) -> Check:
    """The test martingale of ``p <= p0`` where ``p`` is ``p0``."""
    name = f"martingale, p0 = {p0}, {len(looks)} looks up to {looks[-1]} votes, alpha = {alpha}"
    return by_counts(name, alpha, p0, looks, lambda k, n: accepts(k, n, p0, alpha), at_least=0.3)


def mirrored(p0: float, alpha: float, looks: Counts) -> Check:
    """The test that gives up, ``p >= p0`` where ``p`` is ``p0``; successes of the check are votes against."""
    name = f"mirrored martingale, p0 = {p0}, {len(looks)} looks up to {looks[-1]} votes, alpha = {alpha}"
    return by_counts(name, alpha, 1.0 - p0, looks, lambda k, n: rejects(n - k, n, p0, alpha), at_least=0.2)


def confidence_sequence(p: float, alpha: float, looks: Counts) -> Check:
    """The running maximum of the lower bounds passes ``p``."""
    name = f"confidence sequence, p = {p}, {len(looks)} looks up to {looks[-1]} votes, alpha = {alpha}"
    return by_counts(name, alpha, p, looks, one_by_one(lambda k, n: lower_bound(k, n, alpha) > p), at_least=0.3)


def fixed_bound(p: float, alpha: float, n: int) -> Check:
    """A Clopper-Pearson bound, looked at once."""
    name = f"Clopper-Pearson bound, p = {p}, {n} votes, alpha = {alpha}"
    rule = one_by_one(lambda k, n: binomial_lower_bound(k, n, alpha) > p)
    return by_counts(name, alpha, p, np.array([n]), rule, at_least=0.3)


def passing_count(tau: float, alpha: float, n: int) -> Check:
    """The papers' inner test of a draw that lies at the threshold."""
    least = smallest_passing_count(n, tau, alpha) or n + 1
    name = f"passing count, tau = {tau}, {n} votes, alpha = {alpha}"
    return by_counts(name, alpha, tau, np.array([n]), lambda k, n: k >= least, at_least=0.3)


def two_classes(alpha: float, n: int) -> Check:
    """Cohen et al.'s PREDICT where neither class is the answer; one of the two leads by chance."""
    name = f"PREDICT of two equal classes, {n} votes, alpha = {alpha}"
    decided = one_by_one(lambda k, n: k > n - k and predict_p_value(k, n - k) <= alpha)
    one = by_counts(name, alpha, 0.5, np.array([n]), decided)
    exact = one.exact
    assert exact is not None

    def simulate(runs: int, generator: np.random.Generator) -> int:
        k = generator.binomial(n, 0.5, runs)
        least = int(least_counts(decided, np.array([n]))[0])
        return int(((k >= least) | (n - k >= least)).sum())

    return Check(name, alpha, simulate, lambda: 2.0 * exact(), at_least=0.3)


def single_run(p: float, alpha: float, draws: int, at_least: float) -> Check:
    """``run_single``'s rounds, all runs at once, where the vote's probability is the goal: it may not certify."""

    def simulate(runs: int, generator: np.random.Generator) -> int:
        n, k = np.zeros(runs, dtype=np.int64), np.zeros(runs, dtype=np.int64)
        going, wrong = np.arange(runs), 0
        while len(going):
            states, owner = np.unique(n[going] * (draws + 1) + k[going], return_inverse=True)
            trials, successes = np.divmod(states, draws + 1)
            missing = votes_to_accept(successes, trials, p, alpha, draws)
            over = (
                (missing < 0) | (trials + missing > draws) | (trials == draws) | rejects(successes, trials, p, FUTILITY)
            )
            wrong += int((missing == 0)[owner].sum())
            more = np.minimum(np.maximum(missing, ROUND_VOTES), draws - trials)[owner]
            goes_on = ~(over | (missing == 0))[owner]
            going, more = going[goes_on], more[goes_on]
            n[going] += more
            k[going] += generator.binomial(more, p)
        return wrong

    name = f"joint run, all at once, p = {p}, at most {draws} votes, alpha = {alpha}"
    return Check(name, alpha, simulate, at_least=at_least)


def single_run_itself(p: float, alpha: float, draws: int, at_least: float, share: float) -> Check:
    """The same through ``run_single`` itself; nor may the bound of any look, where it settles for less, pass ``p``."""

    def simulate(runs: int, generator: np.random.Generator) -> int:
        wrong = 0
        with remembered():
            for _ in range(runs):
                shown = run_single(lambda m: (int(generator.binomial(m, p)), m), Goal(p, 0.9 * p, False), alpha, draws)
                wrong += shown.stopped_by is StoppedBy.CERTIFIED or shown.p_lower > p
        return wrong

    name = f"joint run, p = {p}, at most {draws} votes, alpha = {alpha}"
    return Check(name, alpha, simulate, at_least=at_least, share=share)


def peeking(p0: float, alpha: float, size: int, most: int, at_least: float) -> Check:
    """TSS's schedule: a fixed-n bound is looked at after every batch, until it passes.

    Li et al. 2021, ``SemanticSmooth.certify`` of the released code: batches of ``size`` up to ``most`` votes, the
    Clopper-Pearson bound of all votes so far at the full alpha each time. It is above ``p0`` exactly where so many
    successes would have a probability below alpha at ``p0``.
    """
    name = f"Clopper-Pearson bound after every {size} of {most} votes, p = {p0}, alpha = {alpha}"

    def passes(k: Counts, n: Counts) -> NDArray[np.bool_]:
        return np.asarray(binom.sf(k - 1, n, p0) < alpha)

    return by_counts(name, alpha, p0, every_batch(size, most), passes, valid=False, at_least=at_least, share=0.3)


def reused_selection(alpha: float, n: int, classes: int, at_least: float) -> Check:
    """The votes that chose the class also bound its probability; all classes are equally likely."""
    p = 1.0 / classes
    least = int(least_counts(one_by_one(lambda k, n: binomial_lower_bound(k, n, alpha) > p), np.array([n]))[0])

    def simulate(runs: int, generator: np.random.Generator) -> int:
        leading = generator.multinomial(n, np.full(classes, p), runs).max(axis=1)
        return int((leading >= least).sum())

    name = f"selection votes reused, {classes} equal classes, {n} votes, alpha = {alpha}"
    return Check(name, alpha, simulate, valid=False, at_least=at_least)


CHECKS = (
    martingale(0.5, 0.05, every_vote(400)),
    martingale(0.84, 0.05, every_vote(400)),
    martingale(0.84, 0.01, every_vote(400)),
    martingale(0.977, 0.05, every_vote(600)),
    martingale(0.977, 0.01, every_batch(16, 3200)),
    martingale(0.999, 0.05, every_batch(64, 16_000)),
    confidence_sequence(0.5, 0.05, np.unique(np.geomspace(8, 400, 25).astype(np.int64))),
    confidence_sequence(0.84, 0.05, np.unique(np.geomspace(12, 600, 25).astype(np.int64))),
    confidence_sequence(0.977, 0.05, np.unique(np.geomspace(100, 2000, 25).astype(np.int64))),
    mirrored(0.5, 0.05, every_vote(400)),
    mirrored(0.84, 0.05, every_vote(400)),
    mirrored(0.977, FUTILITY, every_vote(400)),
    fixed_bound(0.5, 0.05, 100),
    fixed_bound(0.977, 0.01, 1000),
    passing_count(0.84, 0.002, 300),
    passing_count(0.977, 0.05, 400),
    two_classes(0.05, 200),
    single_run(0.75, 0.05, 3000, at_least=0.01),
    single_run(0.977, 0.01, 3000, at_least=0.2),
    single_run(0.999, 0.05, 10_000, at_least=0.2),
    single_run_itself(0.977, 0.05, 2000, at_least=0.1, share=0.006),
    single_run_itself(0.999, 0.05, 10_000, at_least=0.2, share=0.05),
    peeking(0.5, 0.001, 1000, 100_000, at_least=6.0),
    peeking(0.99, 0.001, 1000, 100_000, at_least=6.0),
    peeking(0.9, 0.001, 400, 100_000, at_least=8.0),
    reused_selection(0.05, 400, 2, at_least=1.7),
    reused_selection(0.05, 400, 10, at_least=4.0),
)
