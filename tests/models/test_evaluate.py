"""Evaluation: the strongest of k attacks, shares that add up, runs that go on where they were stopped."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from certification.plan import CertificationPlan
from certification.vocabulary import AttackRange, Guarantee, ImageIs, Procedure, Transformation
from gpu.cells import BoundSettings
from gpu.warp import round8, transform_image, warp_batch
from models import compare, evaluate
from models.card import read_card
from models.registry import load_model
from tests.models.conftest import write_model
from tests.models.made_digits import write_made_digits
from tests.pictures import picture

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "models" / "zoo" / "mnist-rotation" / "card.toml"
SAMPLE = ROOT / "service" / "samples" / "mnist-test-00000.png"


@pytest.mark.parametrize(("transformation", "shape"), [("rotation", (9,)), ("translation", (9, 2))])
def test_the_attack_keeps_the_image_with_the_highest_loss(tmp_path, transformation, shape):
    """Oracle: every attack by itself, its loss as -log softmax."""
    model = load_model(read_card(write_model(tmp_path / "tiny", transformation=transformation)))
    image = picture("noise", (12, 12, 1), 1)
    attack_range = AttackRange(Transformation(transformation), 3.0)
    chosen = evaluate.worst_of_k(model, image, 2, attack_range, 9, np.random.default_rng(4))
    losses, attacked = [], []
    for gamma in np.random.default_rng(4).uniform(-3.0, 3.0, shape):
        attacked.append(round8(transform_image(image, gamma, transformation)))
        with torch.inference_mode():
            logits = model.network(torch.from_numpy(model.operator.apply(attacked[-1][None])))[0].double().numpy()
        losses.append(np.log(np.exp(logits).sum()) - logits[2])
    np.testing.assert_array_equal(chosen, attacked[int(np.argmax(losses))])


def test_a_summary_counts_wrong_answers_and_abstentions_as_failures():
    row = {"truth": 1, "votes": 10, "seconds": 1.0, "error_bound": None}
    rows = [
        {**row, "label": 1, "predicted": 1, "radius": 12.0, "covers": True},
        {**row, "label": 1, "predicted": 1, "radius": 4.0, "covers": False},
        {**row, "label": 3, "predicted": 3, "radius": 12.0, "covers": True},
        {**row, "label": None, "predicted": None, "radius": None, "covers": False},
        {**row, "label": None, "predicted": 1, "radius": None, "covers": False},
    ]
    found = evaluate.summarise(rows, [0.0, 4.0, 10.0, 20.0])
    assert found["certified_accuracy"] == {"0": 0.4, "4": 0.4, "10": 0.2, "20": 0.0}
    assert found["right"] == 0.6
    assert found["right_and_covering"] == 0.2
    assert found["covering_of_right"] == pytest.approx(1.0 / 3.0)


def test_a_clean_digit_is_certified_with_a_distributional_bound_of_its_own(tmp_path):
    """The shipped sample: ``factor`` times its sampled errors, which is less than what holds for any image."""
    model, attack_range = load_model(read_card(SHIPPED)), AttackRange(Transformation.ROTATION, 30.0)
    stored = model.calibration_for("rotation", 30.0, ImageIs.REFERENCE)
    plan = CertificationPlan(
        transformation=Transformation.ROTATION, guarantee=Guarantee.DISTRIBUTIONAL, attack_range=attack_range,
        sigma_gamma=30.0, sigma_delta=0.08, image_is=ImageIs.REFERENCE, bound_for_all=True, calibration=stored,
    )  # fmt: skip
    image = round8(np.asarray(Image.open(SAMPLE), dtype=np.float64)[:, :, None] / 255.0)
    row = evaluate.evaluate_image(model, image, plan, BoundSettings(), 0, "cpu")
    angles = np.linspace(-30.0, 30.0, stored.sampled_attacks)
    attacked = np.stack([round8(transform_image(image, angle, "rotation")) for angle in angles])
    errors = warp_batch(attacked, np.zeros(len(angles)), "rotation", model.operator).astype(float)
    errors -= warp_batch(image[None], angles, "rotation", model.operator.for_original())
    largest = np.sqrt(np.square(errors).sum(axis=(1, 2, 3))).max()
    assert row["error_bound"] == pytest.approx(stored.factor * largest, rel=1e-9)
    assert row["error_bound"] < 0.9 * stored.error_bound
    assert row["covers"]


def arguments(tmp_path, root, *words):
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    shown = [SHIPPED, "--data", root, "--guarantee", "heuristic", "--attack-range", 10, "--images", 3]
    shown += ["--procedure", "paper", "--n", 200, *words]
    return parser.parse_args([*map(str, shown), "--out", str(tmp_path / "result.json")])


@pytest.fixture
def seen(monkeypatch):
    """Seeds of the images evaluated; the second evaluation is interrupted."""
    true_evaluation, seeds = evaluate.evaluate_image, []

    def stopping(*words):
        seeds.append(words[4])
        if len(seeds) == 2:
            raise KeyboardInterrupt
        return true_evaluation(*words)

    monkeypatch.setattr(evaluate, "evaluate_image", stopping)
    return seeds


def test_a_stopped_evaluation_goes_on_and_ends_as_an_unbroken_one(tmp_path, seen, capsys):
    root = write_made_digits(tmp_path / "data", train=1, test=3)
    with pytest.raises(KeyboardInterrupt):
        evaluate.run(arguments(tmp_path, root, "--attack", 2))
    assert evaluate.run(arguments(tmp_path, root, "--attack", 2)) == 0
    again = json.loads((tmp_path / "result.json").read_text())
    assert seen == [0, 1, 1, 2]
    assert evaluate.run(arguments(tmp_path, root, "--attack", 2)) == 0
    whole = json.loads((tmp_path / "result.json").read_text())
    for result in (whole, again):
        for one in result["rows"]:
            assert one.pop("seconds") >= 0.0
    assert again["rows"] == whole["rows"]
    assert [one["votes"] for one in whole["rows"]] == [300, 300, 300]
    assert str(tmp_path) not in whole["command"]
    table = (tmp_path / "result.md").read_text()
    assert str(tmp_path) not in table
    assert "| certified right, radius >= 10 degrees |" in table
    assert "certified right" in capsys.readouterr().out
    with Image.open(tmp_path / "result.png") as plots:
        assert plots.size[0] > 1000
    assert not (tmp_path / "result.rows").exists()


def test_rows_of_other_settings_are_not_reused(tmp_path, seen):
    root = write_made_digits(tmp_path / "data", train=1, test=3)
    with pytest.raises(KeyboardInterrupt):
        evaluate.run(arguments(tmp_path, root))
    assert evaluate.run(arguments(tmp_path, root, "--n", 150)) == 0
    assert seen == [0, 1, 0, 1, 2]


def test_an_abstention_is_right_where_predict_is(tmp_path):
    """The papers count a prediction as right whether or not it could be certified."""
    model = load_model(read_card(SHIPPED))
    image = np.asarray(Image.open(SAMPLE), dtype=np.float32)[:, :, None] / 255.0
    plan = CertificationPlan(
        transformation=Transformation.ROTATION, guarantee=Guarantee.INDIVIDUAL, n_pilot=2, n_error=60,
        attack_range=AttackRange(Transformation.ROTATION, 10.0), sigma_gamma=30.0, sigma_delta=0.18,
        procedure=Procedure.PAPER, n=200,
    )  # fmt: skip
    coarse = BoundSettings(cell_width=10.0, refinements=0)
    row = evaluate.evaluate_image(model, image, plan, coarse, 1, "cpu")
    assert row["label"] is None
    assert row["radius"] is None
    assert row["predicted"] == 7


def test_a_comparison_runs_both_procedures_on_the_same_images(tmp_path, capsys):
    root = write_made_digits(tmp_path / "data", train=1, test=3)
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    words = [SHIPPED, "--data", root, "--guarantee", "heuristic", "--attack-range", 10, "--images", 3]
    words += ["--n", 3000, "--out", tmp_path / "both.json"]
    assert compare.run(parser.parse_args([*map(str, words)])) == 0
    result = json.loads((tmp_path / "both.json").read_text())
    assert [row["paper"]["votes"] for row in result["rows"]] == [3100] * 3
    summary = result["summary"]
    ratios = [row["paper"]["votes"] / row["sequential"]["votes"] for row in result["rows"]]
    assert summary["votes_ratio"] == pytest.approx(np.median(ratios), abs=0.1)
    assert 0.0 <= summary["radius_at_least_as_large"] <= 1.0
    assert "| votes |" in capsys.readouterr().out
    assert "| votes |" in (tmp_path / "both.md").read_text()


def test_a_comparison_divides_image_by_image():
    """By hand: votes 100/10 and 100/50, seconds 4/1 and 4/4; the second image of ours has a smaller radius."""
    paper = {"votes": 100, "seconds": 4.0, "radius": 2.0}
    rows = [
        {"paper": paper, "sequential": {"votes": 10, "seconds": 1.0, "radius": 2.0}},
        {"paper": paper, "sequential": {"votes": 50, "seconds": 4.0, "radius": None}},
    ]
    found = compare.summarise(rows)
    assert (found["votes_ratio"], found["seconds_ratio"]) == (6.0, 2.5)
    assert (found["paper_votes"], found["sequential_votes"]) == (100.0, 30.0)
    assert found["radius_at_least_as_large"] == 0.5
