"""The schedule of nested votes: cheap draws first, prefixes in the order of drawing, no vote too many."""

from __future__ import annotations

import numpy as np
import pytest

from certification.effort import Goal
from certification.radius import inner_threshold
from certification.schedule import ROUND_VOTES, NestedTest, Round
from certification.sequential import accepts, smallest_accepting_counts, smallest_accepting_n
from certification.vocabulary import StatisticsError, StoppedBy

ALPHA, ALPHA_DELTA = 0.01, 0.002


def nested(wanted=0.65, floor=0.51, draws=400, budget=100_000, n_delta=None, settles=False):
    goal = Goal(wanted, floor, settles)
    return NestedTest(goal, alpha=ALPHA, alpha_delta=ALPHA_DELTA, draws=draws, n_delta=n_delta, budget=budget)


def play(test, tau, share, seed=0):
    """Run to the end: draw i has threshold tau(i), and votes for the class with probability share(i)."""
    generator, rounds = np.random.default_rng(seed), []
    while test.stopped_by is None:
        asked = test.next_round()
        if asked is not None:
            rounds.append(asked)
            test.record(asked, generator.binomial(asked.counts, share(asked.draws)))
        elif test.stopped_by is None:
            test.add(tau(np.arange(test.drawn, test.drawn + test.draws_to_add)))
    return rounds


def always(value):
    return lambda draws: np.full(len(draws), value)


def test_agreement_costs_one_round_of_the_least_that_can_pass():
    test = nested()
    rounds = play(test, always(0.9), always(1.0))
    outer, inner = smallest_accepting_n(0.65, ALPHA), smallest_accepting_n(0.9, ALPHA_DELTA)
    assert test.stopped_by is StoppedBy.CERTIFIED
    assert len(rounds) == 1
    assert outer * inner <= test.votes.sum() <= -(-outer * inner // ROUND_VOTES) * ROUND_VOTES
    n, passed, p_lower = test.result()
    assert n == passed >= outer
    assert p_lower >= 0.65


def test_rounds_are_whole_batches_while_there_are_open_draws():
    rounds = play(nested(), always(0.8), lambda draws: np.where(draws % 5 == 0, 0.7, 0.97))
    assert [int(r.counts.sum()) % ROUND_VOTES for r in rounds[:-1]] == [0] * (len(rounds) - 1)
    for asked in rounds:
        assert len(set(asked.draws.tolist())) == len(asked.draws)


def test_expensive_draws_are_left_out_where_others_do():
    """Every fourth draw needs 6,000 votes: none is cast there, and they count as failures."""
    costly = inner_threshold(3.08, 1.0)
    test = nested(wanted=0.55)
    play(test, lambda i: np.where(i % 4 == 1, costly, 0.8), always(1.0))
    assert test.stopped_by is StoppedBy.CERTIFIED
    n, passed, _ = test.result()
    assert test.votes[1::4].sum() == 0
    assert passed <= n - (n + 2) // 4


def test_expensive_draws_are_tested_where_the_prefix_needs_them():
    costly = inner_threshold(2.0, 1.0)
    test = nested(wanted=0.9)
    play(test, lambda i: np.where(i % 4 == 1, costly, 0.8), always(1.0))
    assert test.stopped_by is StoppedBy.CERTIFIED
    assert (test.votes[1 : test.result()[0] : 4] > 0).any()


def test_a_draw_that_no_votes_can_pass_is_never_asked():
    test = nested(wanted=0.6)
    rounds = play(test, lambda i: np.where(i % 5 == 0, 1.0, 0.8), always(1.0))
    assert test.stopped_by is StoppedBy.CERTIFIED
    assert not any((asked.draws % 5 == 0).any() for asked in rounds)


def test_what_is_read_is_a_prefix():
    """Oracle: the passes recomputed from the votes; the reported n and passed are those of the first n draws."""
    for seed in range(5):
        test = nested(wanted=0.6)
        asked = play(test, always(0.85), lambda i: np.where(i % 6 == 0, 0.5, 0.98), seed)
        hits, votes = np.zeros(400, dtype=int), np.zeros(400, dtype=int)
        passed = np.zeros(400, dtype=bool)
        generator = np.random.default_rng(seed)
        for one in asked:
            found = generator.binomial(one.counts, np.where(one.draws % 6 == 0, 0.5, 0.98))
            hits[one.draws] += found
            votes[one.draws] += one.counts
            passed |= accepts(hits, votes, 0.85, ALPHA_DELTA)
        n, k, p_lower = test.result()
        assert k == passed[:n].sum()
        assert accepts(k, n, p_lower * (1 - 1e-9), ALPHA)


def test_hopeless_runs_stop_early_and_say_so():
    test = nested()
    play(test, always(0.85), always(0.5))
    assert test.stopped_by is StoppedBy.HOPELESS
    assert test.result()[1] == 0
    assert test.votes.sum() < 6000


def test_where_the_goal_is_out_of_reach_the_run_settles_for_less_if_it_may():
    """Two thirds of the draws pass: .9 is hopeless, .5 is not."""

    def share(draws):
        return np.where(draws % 3 == 0, 0.3, 1.0)

    strict, modest = nested(wanted=0.9), nested(wanted=0.9, settles=True)
    play(strict, always(0.85), share)
    play(modest, always(0.85), share)
    assert strict.stopped_by is StoppedBy.HOPELESS
    assert modest.stopped_by is StoppedBy.DRAWS
    assert strict.votes.sum() < 0.3 * modest.votes.sum()
    assert 0.51 < modest.result()[2] < 2 / 3


def test_remaining_draws_that_cannot_change_the_answer_end_the_run():
    """Of 20 draws the first 10 can never pass: no number of passes among the others shows .65."""
    assert smallest_accepting_counts(np.array([20]), 0.65, ALPHA)[0] > 10
    test = nested(draws=20)
    assert play(test, lambda i: np.where(i < 10, 1.0, 0.8), always(1.0)) == []
    assert test.stopped_by is StoppedBy.HOPELESS


def test_the_budget_is_never_exceeded():
    least = smallest_accepting_n(0.65, ALPHA) * smallest_accepting_n(0.9, ALPHA_DELTA)
    for budget in (least - 1, least, 3 * least, 5000):
        for settles in (False, True):
            test = nested(budget=budget, settles=settles)
            play(test, always(0.9), always(0.93))
            assert test.votes.sum() <= budget
            if budget < least and not settles:
                assert (test.stopped_by, test.votes.sum()) == (StoppedBy.VOTES, 0)


def test_no_draw_gets_more_than_n_delta_votes():
    test = nested(n_delta=80, settles=True)
    play(test, always(0.9), always(0.95))
    assert 0 < test.votes.max() <= 80


@pytest.mark.parametrize("votes", [[-1, 0], [11, 0], [1.0, 2.0], [1], [float("nan"), 1.0]])
def test_impossible_votes_are_errors(votes):
    test = nested()
    test.add(np.full(20, 0.8))
    with pytest.raises(StatisticsError):
        test.record(Round(np.array([0, 1]), np.array([10, 10])), np.array(votes))


@pytest.mark.parametrize("bad", [0.4, 1.1, float("nan")])
def test_impossible_thresholds_are_errors(bad):
    with pytest.raises(StatisticsError):
        nested().add(np.array([0.8, bad]))
