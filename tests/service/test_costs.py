"""Estimates of seconds: learned from runs, and for the lanes free of what else was running meanwhile."""

from __future__ import annotations

import pytest

from certification.outcome import Counts, Prediction
from certification.procedures import too_late_to_certify
from certification.vocabulary import PlanError, StoppedBy
from service.clock import STAGES
from service.costs import Costs
from service.schemas import CertifyFields, PredictFields

from .conftest import Running
from .pictures import encode, grey

VOTE = 1e-4


def test_load_changes_what_a_request_is_expected_to_take_but_not_its_lane(server: Running) -> None:
    task = server.services.lifecycle.certifier.prepare_predict(
        PredictFields(guarantee="heuristic"), encode(grey(), "PNG")
    )
    costs = Costs({task.model.card.id: VOTE})
    before = costs.expected(task.model, task.plan)
    assert costs.expected(task.model, task.plan, alone=True) == before
    votes = task.plan.least_votes(0.0)
    assert before == pytest.approx(1.5 * votes * VOTE)
    counts = Counts(100, votes - 100, votes - 100, 1, votes)
    found = Prediction(0, counts, stopped_by=StoppedBy.CERTIFIED)
    crowded = {**dict.fromkeys(STAGES, 0.0), "select": 5 * votes * VOTE, "estimate": 5 * votes * VOTE}
    for _ in range(100):
        costs.learn(task.model, task.plan, found, crowded)
    # every vote took ten times as long, and none more than the plan's was needed
    assert costs.expected(task.model, task.plan) == pytest.approx(10 * votes * VOTE, rel=0.01)
    assert costs.expected(task.model, task.plan, alone=True) == pytest.approx(votes * VOTE, rel=0.01)


def test_a_run_that_was_cut_short_makes_none_of_its_kind_cheaper(server: Running) -> None:
    """It would have needed more than it had."""
    certifier = server.services.lifecycle.certifier
    task = certifier.prepare_certify(CertifyFields(guarantee="individual"), encode(grey(), "PNG"))
    costs, whole = Costs({task.model.card.id: VOTE}), {**dict.fromkeys(STAGES, 0.0), "bound": 2.0}
    costs.learn(task.model, task.plan, too_late_to_certify(task.plan, 500), whole)
    before = costs.expected(task.model, task.plan)
    assert before > 0.1
    for _ in range(50):
        costs.learn(task.model, task.plan, too_late_to_certify(task.plan), dict.fromkeys(STAGES, 0.0))
    assert costs.expected(task.model, task.plan) == before


def test_one_request_unlike_all_others_does_not_make_these_long(server: Running) -> None:
    certifier = server.services.lifecycle.certifier
    task = certifier.prepare_certify(CertifyFields(guarantee="heuristic"), encode(grey(), "PNG"))
    costs = Costs({task.model.card.id: VOTE})
    before = costs.expected(task.model, task.plan)
    costs.learn(task.model, task.plan, too_late_to_certify(task.plan, 2_000_000), dict.fromkeys(STAGES, 0.0))
    assert costs.expected(task.model, task.plan) < 2 * before


@pytest.mark.parametrize("fields", [{"guarantee": "heuristic"}, {"transformation": "l2"}])
def test_a_prediction_with_one_kind_of_noise_costs_its_fixed_number(server: Running, fields: dict[str, str]) -> None:
    certifier = server.services.lifecycle.certifier
    asked = PredictFields(**fields, n=50_000)
    assert certifier.prepare_predict(asked, encode(grey(), "PNG")).plan.least_votes(0.0) == 50_000
    with pytest.raises(PlanError, match="exceed the limit"):
        certifier.prepare_predict(PredictFields(**fields, n=10_000_000), encode(grey(), "PNG"))
