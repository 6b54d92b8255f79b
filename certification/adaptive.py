"""Runs that stop once the answer is known: one vote, or an inner test, a draw (docs/guarantees.md, B.3 to B.5)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .binomial import binomial_lower_bound
from .effort import Goal
from .protocols import VoteSource
from .schedule import FUTILITY, ROUND_VOTES, NestedTest, Round
from .sequential import lower_bound, rejects, votes_to_accept
from .vocabulary import OutOfTime, StatisticsError, StoppedBy

PILOT_LEVEL = 0.1
"""How doubtful a look at the selection votes is before the joint estimator is chosen."""
SETTLING_ROUND = 4096
Thresholds = Callable[[NDArray[np.float64]], NDArray[np.float64]]
Watch = Callable[[Callable[[], float]], None]
"""Given, as a run begins, what computes the lower bound that it has shown so far."""


@dataclass(frozen=True)
class Shown:
    """What a run showed: ``passed`` of the first ``n`` draws, and so a lower bound on their probability.

    ``n_delta`` is the largest number of votes at one draw, ``votes`` the number in all.
    """

    n: int
    passed: int
    p_lower: float
    n_delta: int
    votes: int
    stopped_by: StoppedBy | None


def unwatched(so_far: Callable[[], float]) -> None:
    """Nobody watches the run."""


def run_single(
    cast: Callable[[int], tuple[int, int]], goal: Goal, alpha: float, draws: int, watch: Watch = unwatched
) -> Shown:
    """One vote a draw.

    Parameters
    ----------
    cast : callable
        ``cast(m)``: how many of ``m`` fresh draws vote for the class, and how many were made: fewer if the time is up.
    goal : Goal
    alpha : float
        In (0, 1).
    draws : int
        The most there may be.
    watch : callable
    """
    n = k = 0
    best = (0, 0, 0.0)
    watch(lambda: best[2])
    wanted, stopped_by = goal.wanted, None
    while stopped_by is None:
        missing = int(votes_to_accept(k, n, wanted, alpha, draws - n))
        if missing == 0 and wanted == goal.wanted:
            stopped_by = StoppedBy.CERTIFIED
        elif n == draws:
            stopped_by = StoppedBy.DRAWS
        elif missing < 0 or bool(rejects(k, n, wanted, FUTILITY)):
            if wanted == goal.floor or not goal.settles_for_less:
                stopped_by = StoppedBy.HOPELESS
            wanted = goal.floor
        else:
            settles = wanted != goal.wanted
            more = min(SETTLING_ROUND if settles else max(missing, ROUND_VOTES), draws - n)
            found, made = cast(more)
            if not 0 <= found <= made <= more:
                raise StatisticsError(f"{found} votes of {made} of {more}")
            late = made < more
            n, k = n + made, k + found
            if n > 0:
                best = max(best, (n, k, lower_bound(k, n, alpha)), key=lambda seen: seen[2])
            if late:
                shown = votes_to_accept(k, n, goal.wanted, alpha, draws - n) == 0
                stopped_by = StoppedBy.CERTIFIED if shown else StoppedBy.DEADLINE
    if best[1] == 0:
        best = (n, k, 0.0)
    p_lower = max(best[2], goal.wanted) if stopped_by is StoppedBy.CERTIFIED else best[2]
    return Shown(best[0], best[1], p_lower, 1, n, stopped_by)


def run_nested(
    votes: VoteSource, label: int, thresholds: Thresholds, test: NestedTest, watch: Watch = unwatched
) -> Shown:
    """An inner test of ``H_c >= tau`` a draw, all of them advancing together in rounds.

    ``thresholds`` gives tau at drawn parameters.
    """
    first = votes.drawn
    asked = None
    watch(lambda: test.result()[2])
    try:
        while True:
            asked = test.next_round()
            if asked is not None:
                test.record(asked, np.asarray(votes.votes_at(first + asked.draws, asked.counts, label=label)))
            elif test.stopped_by is None:
                test.add(thresholds(votes.draw_parameters(test.draws_to_add)))
            else:
                break
    except OutOfTime as late:
        if asked is not None and late.cast is not None and late.found is not None:
            some = np.flatnonzero(late.cast)
            test.record(Round(asked.draws[some], late.cast[some]), late.found[some])
        test.end(StoppedBy.DEADLINE)
    n, passed, p_lower = test.result()
    cast = test.votes
    return Shown(n, passed, p_lower, int(cast.max(initial=0)), int(cast.sum()), test.stopped_by)


def joint_is_safe(leading: int, n0: int, p0: float, alpha: float, nested_votes: int) -> bool:
    """Whether ``leading`` of ``n0`` selection votes promise that one-level smoothing shows ``p0`` at less cost.

    The selection draws are used for nothing else, so the choice does not bias what follows. A doubtful look at
    them (a lower bound at level .1) must still be above p0, and the votes it would need at most twice the least
    that nested tests need.
    """
    p = binomial_lower_bound(leading, n0, PILOT_LEVEL)
    if not p > p0:
        return False
    divergence = p * math.log(p / p0) + (1.0 - p) * math.log((1.0 - p) / (1.0 - p0))
    return math.log(1.0 / alpha) <= 2.0 * nested_votes * divergence
