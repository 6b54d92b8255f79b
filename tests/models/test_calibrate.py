"""Calibration: a stored bound that holds, counts that add up, runs that go on where they were stopped."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pytest

from certification.calibration import Calibration
from gpu.warp import round8, transform_image, warp_batch
from models import calibrate
from models.card import read_card
from models.data import load_mnist
from tests.models.made_digits import write_made_digits

ZOO = Path(__file__).parents[2] / "models" / "zoo"
EFFORT = {
    "rotation": ["--attack-range", 3, "--error-bound", 2.5],
    "translation": ["--attack-range", 1, "--rho", 0.2, "--draws", 60, "--pilot-draws", 20, "--margin", 4],
}


@pytest.fixture
def root(tmp_path):
    return write_made_digits(tmp_path / "data", train=7, test=1)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(calibrate, "CHUNK", 2)


def card_of(root, transformation, interpolation="bilinear"):
    """The shipped card, or the same with bilinear interpolation."""
    text = (ZOO / f"mnist-{transformation}" / "card.toml").read_text()
    if interpolation == "bilinear":
        plain = '[preprocessing]\nvignette = "circle"\nmargin = 1.5\nblur_size = 9\nblur_sigma = 2.0\n\n'
        text = re.sub(r"(?s)\[preprocessing\]\n.*?\n\n", plain, text)
    path = root / interpolation / f"mnist-{transformation}" / "card.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def run(root, transformation, *words, status=0, interpolation="bilinear"):
    """Run the command on five of the seven images; the stored bound, if there is one."""
    parser = argparse.ArgumentParser()
    calibrate.add_arguments(parser)
    out = root / f"{transformation}.json"
    shown = [card_of(root, transformation, interpolation), "--data", root, "--images", 5, "--pilot-images", 2]
    arguments = parser.parse_args([*map(str, [*shown, *EFFORT[transformation], *words]), "--out", str(out)])
    answer = calibrate.run(arguments)
    if status is None:  # with so few images q_E may be 0: only E is asked for
        state = out.with_suffix(".state")
        stored = json.loads(out.read_text() if out.exists() else state.read_text().splitlines()[0])
        state.unlink(missing_ok=True)
        out.unlink(missing_ok=True)
        return stored["error_bound"]
    assert answer == status
    if status:
        assert not out.exists()
        return None
    assert not out.with_suffix(".state").exists()
    return Calibration.from_json(json.loads(out.read_text()))


@pytest.mark.parametrize(
    ("interpolation", "image_is"), [("bilinear", None), ("gaussian", "received"), ("gaussian", "reference")]
)
@pytest.mark.parametrize("transformation", ["rotation", "translation"])
def test_a_stored_bound_holds_and_says_how_it_was_made(root, transformation, interpolation, image_is):
    """Sampled errors of every image stay below the largest bound; q_E by hand: five passed of five."""
    words = ["--error-bound", 9.0, "--image-is", image_is] if interpolation == "gaussian" else []
    stored = run(root, transformation, *words, interpolation=interpolation)
    card = read_card(card_of(root, transformation, interpolation))
    before = after = card.preprocessing.operator(28, 28)
    if interpolation == "gaussian":
        before, after = (before.for_attacked(), before) if image_is == "received" else (before, before.for_original())
    assert stored.image_is == (image_is or "either")
    generator = np.random.default_rng(0)
    shape = (40,) if transformation == "rotation" else (40, 2)
    for image in load_mnist(root, train=True)[0]:
        beta = generator.normal(0.0, card.noise.sigma_gamma, shape)
        gamma = generator.uniform(-stored.attack_range, stored.attack_range, shape)
        attacked = np.stack([round8(transform_image(image, g, transformation)) for g in gamma])
        twice = warp_batch(attacked, beta, transformation, before).astype(float)
        once = warp_batch(image[None], beta + gamma, transformation, after).astype(float)
        errors = np.linalg.norm((twice - once).reshape(40, -1), axis=1)
        assert errors.max() <= max(stored.largest_bound, stored.error_bound)
        assert errors.max() > 0.0
    drawn = (transformation, interpolation) == ("translation", "bilinear")
    assert (stored.images, stored.images_passed) == (5, 5)
    assert stored.rho_E == (0.2 if drawn else 0.0)
    assert stored.q_E == pytest.approx(0.001**0.2 - (1e-4 if drawn else 0.0), abs=1e-9)
    # a given E was not chosen by pilot draws
    assert (stored.pilot_images, stored.pilot_draws) == ((2, 20) if drawn else (0, 0))
    assert (stored.dataset, stored.split, stored.confidence) == ("MNIST", "train", 0.999)
    assert stored.preprocessing_digest == card.preprocessing.digest()
    assert str(root) not in stored.command


def test_the_pilot_of_a_smooth_interpolation_takes_a_quantile_of_its_bounds(root):
    """E is the bound of one of the two pilot images, rounded up, whichever share is asked for."""
    seen = []
    for quantile in (0.0, 1.0):
        words = ["--quantile", quantile, "--attack-range", 2, "--image-is", "reference"]
        seen.append(run(root, "translation", *words, interpolation="gaussian", status=None))
    assert 0.0 < seen[0] <= seen[1]


def test_a_rotated_reference_image_has_a_bound_of_its_own(root):
    """The factor is that of one of the pilot images; where the others keep it, no error of theirs is larger."""
    task = calibrate.Task(
        "made", "", "rotation", 1.0, "reference", 30.0, "train", 5, 1, 2, 1, 1.0, 1.0, 0.0, 0.999, 0
    )  # fmt: skip
    images, _ = load_mnist(root, train=True)
    operator = read_card(card_of(root, "rotation", "gaussian")).preprocessing.operator(28, 28)
    limits = calibrate.choose_limits(images[:3], task, operator)
    allowed = limits.of(images[:3], task, operator)
    assert (allowed <= limits.error_bound).all()
    assert (allowed < limits.error_bound).any()
    assert all(holds for _, holds in calibrate.image_bounds(images[:3], np.arange(3), limits, task, operator))
    tighter = calibrate.Limits(limits.error_bound, 0.99)
    assert not any(holds for _, holds in calibrate.image_bounds(images, np.arange(7), tighter, task, operator))
    gammas = np.random.default_rng(0).uniform(-1, 1, 30)
    for image, most in zip(images[:3], allowed, strict=True):
        attacked = np.stack([round8(transform_image(image, g, "rotation")) for g in gammas])
        before = warp_batch(attacked, np.zeros(30), "rotation", operator)
        after = warp_batch(image[None], gammas, "rotation", operator.for_original())
        assert np.linalg.norm((before - after).reshape(30, -1), axis=1).max() <= most


def test_a_bound_that_no_image_keeps_is_not_stored(root, capsys):
    """E far below the errors: none passes, nothing can be stored, and the images tested are not lost."""
    assert run(root, "translation", "--error-bound", 0.01, status=1) is None
    assert "q_E must be in (0, 0]" in capsys.readouterr().err
    assert len((root / "translation.state").read_text().splitlines()) == 6


def test_a_run_that_is_stopped_twice_ends_as_an_unbroken_one(root, monkeypatch):
    """The first stop leaves a half-written line behind, as a full disk or a kill does."""
    whole = run(root, "translation")
    true_bounds, seen = calibrate.image_bounds, []

    def stopping(images, numbers, *rest):
        seen.append(list(numbers))
        if len(seen) in (2, 4):
            raise KeyboardInterrupt
        return true_bounds(images, numbers, *rest)

    monkeypatch.setattr(calibrate, "image_bounds", stopping)
    for torn in ("[0.2", ""):
        with pytest.raises(KeyboardInterrupt):
            run(root, "translation")
        with (root / "translation.state").open("a") as state:
            state.write(torn)
    assert run(root, "translation") == whole
    assert [len(numbers) for numbers in seen] == [2, 2, 2, 1, 1]
    assert seen[2] == seen[1]
    assert seen[4] == seen[3]
    assert not set(seen[0]) & set(seen[2] + seen[4])


def test_the_state_of_another_task_is_not_reused(root, monkeypatch):
    def stopping(*words):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(calibrate, "image_bounds", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(root, "translation", "--seed", 5)
    other = run(root, "translation", "--seed", 6)
    assert other.seed == 6
    assert other == run(root, "translation", "--seed", 6)


@pytest.mark.parametrize(("interpolation", "words"), [("bilinear", ["--image-is", "received"]), ("gaussian", [])])
def test_which_image_is_in_hand_is_said_where_it_matters(root, interpolation, words, capsys):
    run(root, "rotation", *words, status=2, interpolation=interpolation)
    assert "--image-is" in capsys.readouterr().err


def test_more_images_than_there_are_is_refused(root, capsys):
    run(root, "translation", "--images", 6, status=1)
    assert "more than the 7" in capsys.readouterr().err


@pytest.mark.parametrize("attack_range", ["0", "-1", "nan", "1000"])
def test_an_attack_range_beyond_the_card_is_refused(root, attack_range, capsys):
    parser = argparse.ArgumentParser()
    calibrate.add_arguments(parser)
    card = str(ZOO / "mnist-rotation" / "card.toml")
    assert calibrate.run(parser.parse_args([card, "--data", str(root), f"--attack-range={attack_range}"])) == 2
    assert "attack range" in capsys.readouterr().err
