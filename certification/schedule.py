"""Which draw gets how many votes next: the nested sequential test (docs/guarantees.md, B.5).

Every draw has an inner test, of ``H_c >= tau`` at level alpha_delta, and the outer test counts the draws that
passed. It reads them as prefixes of the order in which they were drawn; a draw that is still open, given up or
never looked at counts as a failure. So the schedule may prefer cheap draws as it likes: what it reads is never
more than what it would read if every draw were decided, whose passes are independent of the schedule.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .effort import Goal
from .sequential import LARGEST_N, accepts, lower_bounds, rejects, smallest_accepting_counts, votes_to_accept
from .vocabulary import StatisticsError, StoppedBy

ROUND_VOTES = 256
"""Rounds are filled up to a multiple of it with votes of the next draws in line."""
FUTILITY = 1e-3
"""Level of the tests that give up. It affects how often a run ends without a certificate, never its validity."""
EVERY_LOOK, LOOKS = 64, 64
"""The outer test looks after each of the first draws, then at so many lengths, spaced geometrically."""
ROOM, LEAST_N_DELTA = 8, 1000
NEVER = 2**40
"""The price of a draw that cannot pass: more than any number of votes, and sums of it fit."""
PLANS, FORESIGHT = 24, 16
"""The cheapest way to acceptance is sought among so many lengths of prefix, up to so many times the known draws."""
SETTLING_DRAWS, SETTLING_VOTES = 500, 200_000
"""The most for as large a radius as can be shown, once the wanted one is out of reach."""


@dataclass(frozen=True)
class Round:
    """Votes to cast: ``counts`` [m] at ``draws`` [m], numbered from the first estimation draw."""

    draws: NDArray[np.int64]
    counts: NDArray[np.int64]


class NestedTest:
    """The outer test of ``P(pass) > goal`` and the inner tests it rests on.

    Parameters
    ----------
    goal : Goal
    alpha, alpha_delta : float
        Levels of the outer test and of every inner test.
    draws : int
        The most there may be.
    n_delta : int or None
        The votes at which a draw that is still open is given up; None: ``ROOM`` times as many as could pass, and at
        least ``LEAST_N_DELTA``.
    budget : int
        Votes in all.
    """

    def __init__(
        self, goal: Goal, *, alpha: float, alpha_delta: float, draws: int, n_delta: int | None, budget: int
    ) -> None:
        self._goal, self._floor, self._settles_for_less = goal.wanted, goal.floor, goal.settles_for_less
        self._alpha, self._alpha_delta = alpha, alpha_delta
        self._draws, self._n_delta, self._budget = draws, n_delta, budget
        dense, sparse = np.arange(1, EVERY_LOOK + 1), np.geomspace(EVERY_LOOK, max(draws, EVERY_LOOK), LOOKS)
        looks = np.unique(np.concatenate([dense, sparse.astype(np.int64), [draws]]))
        self._looks = looks[looks <= draws]
        self._needed = smallest_accepting_counts(self._looks, goal.wanted, alpha)
        self._tau = np.empty(0)
        none = np.empty(0, dtype=np.int64)
        self._successes = self._votes = self._missing = self._least = self._most = none
        self._wants_goal = True
        self.stopped_by: StoppedBy | None = None

    @property
    def drawn(self) -> int:
        """Draws whose threshold is known."""
        return len(self._tau)

    @property
    def votes(self) -> NDArray[np.int64]:
        """Votes cast at each draw."""
        return self._votes

    @property
    def draws_to_add(self) -> int:
        """How many draws :meth:`next_round` would like to know more: twice the least that can pass, then doubling."""
        least = int(votes_to_accept(0, 0, self._goal, self._alpha, self._draws))
        wanted = max(2 * least, 2 * self.drawn, 16) if least >= 0 else self._draws
        return min(wanted, self._draws) - self.drawn

    def add(self, thresholds: NDArray[np.float64]) -> None:
        """Make the next draws known by their thresholds tau in (1/2, 1]; at 1 no test can pass."""
        if not (np.all(thresholds >= 0.5) and np.all(thresholds <= 1.0)):
            raise StatisticsError("thresholds must be in [1/2, 1]")
        missing = np.full(len(thresholds), -1, dtype=np.int64)
        possible = thresholds < 1.0
        zeros = np.zeros(int(possible.sum()), dtype=np.int64)
        most = self._n_delta or LARGEST_N
        missing[possible] = votes_to_accept(zeros, zeros, thresholds[possible], self._alpha_delta, most)
        self._most = np.concatenate([self._most, np.minimum(np.maximum(ROOM * missing, LEAST_N_DELTA), most)])
        self._tau = np.concatenate([self._tau, thresholds])
        self._missing = np.concatenate([self._missing, missing])
        self._least = np.concatenate([self._least, missing])
        fresh = np.zeros(len(thresholds), dtype=np.int64)
        self._successes = np.concatenate([self._successes, fresh])
        self._votes = np.concatenate([self._votes, fresh])

    def next_round(self) -> Round | None:
        """What to ask next; None if more draws are wanted (``stopped_by`` is None) or the run is over."""
        if self._is_shown():
            self.stopped_by = StoppedBy.CERTIFIED
            return None
        if self._wants_goal and self._is_hopeless(self._goal):
            return self._give_up_goal(StoppedBy.HOPELESS)
        if not self._wants_goal and self._is_hopeless(self._floor):
            self.stopped_by = StoppedBy.HOPELESS
            return None
        order, certain = self._cheapest_way() if self._wants_goal else self._everything()
        if certain == 0:
            self.stopped_by = StoppedBy.DRAWS if self.drawn == self._draws else None
            return None
        if self._wants_goal and int(self._missing[order[:certain]].sum()) > self._budget:
            return self._give_up_goal(StoppedBy.VOTES)
        return self._filled(order, certain)

    def record(self, asked: Round, successes: NDArray[np.int64]) -> None:
        """Take the votes for the class that a round brought."""
        whole = successes.shape == asked.draws.shape and successes.dtype.kind in "iu"
        if not (whole and np.all(successes >= 0) and np.all(successes <= asked.counts)):
            raise StatisticsError(f"votes at {len(asked.draws)} draws cannot be {successes}")
        i = asked.draws
        self._successes[i] += successes
        self._votes[i] += asked.counts
        self._budget -= int(asked.counts.sum())
        k, n, tau = self._successes[i], self._votes[i], self._tau[i]
        missing = votes_to_accept(k, n, tau, self._alpha_delta)
        too_many = n + missing > self._most[i]
        given_up = (missing != 0) & ((missing < 0) | too_many | rejects(k, n, tau, FUTILITY))
        self._missing[i] = np.where(given_up, -1, missing)

    def end(self, why: StoppedBy) -> None:
        """Stop here, whatever is still open; what was recorded may have shown the goal all the same."""
        self.stopped_by = StoppedBy.CERTIFIED if self._is_shown() else why

    def result(self) -> tuple[int, int, float]:
        """Draws read, how many of them passed, and the lower bound on P(pass): the best of all prefixes."""
        known = self._known
        passed = self._at_looks(self._passed)[:known]
        if not np.any(passed):
            return self.drawn, int(self._passed.sum()), 0.0
        bounds = lower_bounds(passed, self._looks[:known], self._alpha)
        best = int(np.argmax(bounds))
        n, k, p_lower = int(self._looks[best]), int(passed[best]), float(bounds[best])
        return n, k, max(p_lower, self._goal) if self.stopped_by is StoppedBy.CERTIFIED else p_lower

    @property
    def _passed(self) -> NDArray[np.bool_]:
        return np.asarray(self._missing == 0)

    @property
    def _open(self) -> NDArray[np.bool_]:
        return np.asarray(self._missing > 0)

    @property
    def _known(self) -> int:
        """How many looks have all their draws known."""
        return int(np.searchsorted(self._looks, self.drawn, side="right"))

    def _at_looks(self, flags: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many flags are set among the first draws, at every look; draws to come count nothing."""
        sums = np.concatenate([[0], np.cumsum(flags)])
        return np.asarray(sums[np.minimum(self._looks, self.drawn)])

    def _is_shown(self) -> bool:
        known = self._known
        return bool(np.any(self._at_looks(self._passed)[:known] >= self._needed[:known]))

    def _is_hopeless(self, p0: float) -> bool:
        """Whether not even all open and future draws passing would show ``p0``, or they evidently will not."""
        best = self._at_looks(self._passed | self._open)
        # with all further draws passing M only grows: the last prefix decides
        if not accepts(best[-1] + self._draws - self.drawn, self._draws, p0, self._alpha):
            return True
        known = self._known
        return bool(np.any(rejects(best[:known], self._looks[:known], p0, FUTILITY)))

    def _give_up_goal(self, why: StoppedBy) -> Round | None:
        """Go on for less, or end."""
        if not self._settles_for_less:
            self.stopped_by = why
            return None
        self._wants_goal = False
        self._draws = min(self._draws, max(SETTLING_DRAWS, self.drawn))
        self._budget = min(self._budget, max(SETTLING_VOTES - int(self._votes.sum()), 0))
        return self.next_round()

    def _everything(self) -> tuple[NDArray[np.int64], int]:
        """All open draws, in the order of drawing, and how many they are."""
        order = np.flatnonzero(self._open)
        return order, len(order)

    def _cheapest_way(self) -> tuple[NDArray[np.int64], int]:
        """Open draws, and how many of them, if they pass, complete the prefix that needs the fewest votes for it.

        None of them where that prefix has draws to come, which are taken to cost what the known ones do.
        """
        ahead = min(FORESIGHT * self.drawn, self._draws)
        looks = int(np.searchsorted(self._looks, ahead, side="right"))
        price = np.full(ahead, NEVER)
        price[: self.drawn] = np.where(self._open, self._missing, NEVER)
        price[self.drawn :] = np.resize(np.where(self._least > 0, self._least, NEVER), ahead - self.drawn)
        payable = np.concatenate([[0], np.cumsum(price < NEVER)])[self._looks[:looks]]
        missing = (self._needed - self._at_looks(self._passed))[:looks]
        feasible = np.flatnonzero(missing <= payable)
        if len(feasible) == 0:
            return (feasible, 0) if self.drawn < self._draws else self._everything()
        some = feasible[np.unique(np.linspace(0, len(feasible) - 1, PLANS).astype(np.int64))]
        costs = [int(np.sort(price[: self._looks[look]])[: missing[look]].sum()) for look in some]
        best = some[int(np.argmin(costs))]
        if self._looks[best] > self.drawn:
            return feasible, 0
        chosen = np.argsort(price[: self._looks[best]], kind="stable")[: missing[best]]
        others = np.setdiff1d(np.flatnonzero(self._open), chosen)
        return np.concatenate([chosen, others[np.argsort(price[others], kind="stable")]]), len(chosen)

    def _filled(self, order: NDArray[np.int64], certain: int) -> Round | None:
        """The first ``certain`` draws of the order, and further ones to fill the round; within the budget."""
        ends = np.cumsum(self._missing[order])
        full = -(-int(ends[certain - 1]) // ROUND_VOTES) * ROUND_VOTES
        total = min(full, int(ends[-1]), self._budget)
        if total <= 0:
            self.stopped_by = StoppedBy.VOTES
            return None
        counts = np.clip(total - (ends - self._missing[order]), 0, self._missing[order])
        return Round(order[counts > 0], counts[counts > 0])
