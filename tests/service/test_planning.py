"""Plans of the shipped models."""

from __future__ import annotations

from pathlib import Path

import pytest

from certification.vocabulary import Guarantee, PlanError, Transformation
from models.registry import load_registry
from service.planning import Planner
from service.schemas import CertifyFields

ZOO = Path(__file__).parents[2] / "models" / "zoo"


@pytest.fixture(scope="module")
def planner() -> Planner:
    return Planner(load_registry([ZOO]), max_votes=2_000_000)


def fields(transformation: Transformation, **more: object) -> CertifyFields:
    return CertifyFields.model_validate({"transformation": transformation, **more})


def test_a_range_whose_stored_bound_is_too_large_is_refused_with_one_that_would_do(planner: Planner) -> None:
    asked = fields(Transformation.TRANSLATION, guarantee="distributional", attack_range=2.0)
    with pytest.raises(PlanError, match="no inner test can pass") as refusal:
        planner.certify(asked)
    assert refusal.value.required == {"attack_range": 1.0}
    plan = planner.certify(asked.model_copy(update=refusal.value.required)).plan
    assert plan.calibration is not None
    assert plan.calibration.attack_range == 1.0


@pytest.mark.parametrize("transformation", [Transformation.ROTATION, Transformation.TRANSLATION])
@pytest.mark.parametrize("guarantee", list(Guarantee))
def test_every_guarantee_is_planned_by_default(
    planner: Planner, transformation: Transformation, guarantee: Guarantee
) -> None:
    chosen = planner.certify(fields(transformation, guarantee=guarantee))
    assert chosen.plan.guarantee is guarantee
    assert chosen.plan.bound_for_all
    assert chosen.plan.attack_range.half_width == chosen.model.card.attack_range_default
