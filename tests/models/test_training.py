"""Training: the noise of certification, weights that load behind the same card, figures that are true."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gpu.preprocess import Preprocessing
from gpu.warp import warp_batch
from models.architectures import build
from models.card import read_card
from models.data import load_mnist
from models.registry import load_model
from models.training import (
    Noise,
    Schedule,
    accuracy,
    add_arguments,
    noisy_batch,
    run,
    train_network,
    updated_card,
)
from tests.models.conftest import write_model
from tests.models.made_digits import pictures, write_made_digits
from tests.pictures import picture

SHIPPED = Path(__file__).parents[2] / "models" / "zoo"
OPERATOR = Preprocessing("circle", 1.5, 3, 1.0).operator(28, 28)


@pytest.mark.parametrize(("transformation", "sigma_gamma"), [("rotation", 25.0), ("translation", 1.5)])
def test_a_noisy_batch_is_the_warp_plus_pixel_noise_but_for_the_silent_share(transformation, sigma_gamma):
    """Oracle: warp_batch at the parameters of a twin of the generator."""
    images = np.repeat(picture("noise", (28, 28, 1), 3)[None], 100, axis=0)
    noise = Noise(transformation, sigma_gamma, 0.25)
    batch = noisy_batch(images, noise, OPERATOR, np.random.default_rng(7), silent_share=0.2).numpy()
    parameters = noise.parameters(100, np.random.default_rng(7))
    residual = batch - warp_batch(images, parameters, transformation, OPERATOR)
    assert np.abs(residual[:20]).max() == 0.0
    assert residual[20:].std() == pytest.approx(0.25, rel=0.02)
    assert abs(residual[20:].mean()) < 5 * 0.25 / np.sqrt(residual[20:].size)


@pytest.mark.parametrize(("transformation", "shape"), [("rotation", (20_000,)), ("translation", (20_000, 2))])
def test_training_parameters_are_normal_with_the_cards_deviation(transformation, shape):
    drawn = Noise(transformation, 3.0, 0.1).parameters(20_000, np.random.default_rng(0))
    assert drawn.shape == shape
    # five standard errors of a mean, of a standard deviation, and of the share beyond two deviations
    assert abs(drawn.mean()) < 5 * 3.0 / np.sqrt(drawn.size)
    assert abs(drawn.std() - 3.0) < 5 * 3.0 / np.sqrt(2 * drawn.size)
    assert abs(np.mean(np.abs(drawn) > 6.0) - 0.0455) < 5 * np.sqrt(0.0455 / drawn.size)


def small_training(seed):
    images, labels = pictures(900, 0)
    torch.manual_seed(0)
    network = build("small_conv", 10, 1, (28, 28), {"width": 8})
    noise = Noise("translation", 1.0, 0.2)
    shown = (images[..., None] / np.float32(255)).astype(np.float32)
    schedule = Schedule(epochs=3, batch_size=50)
    trained = train_network(
        network, shown, labels.astype(np.int64), noise, OPERATOR, schedule, seed=seed, report=lambda _: None
    )
    return trained, noise


def test_training_learns_and_a_seed_repeats_it():
    (first, noise), (second, _) = small_training(1), small_training(1)
    images, labels = pictures(300, 5)
    shown = (images[..., None] / np.float32(255)).astype(np.float32)
    assert accuracy(first, shown, labels.astype(np.int64), OPERATOR, noise) > 0.9
    assert not first.training
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(tensor, second.state_dict()[name], rtol=1e-3, atol=1e-3)


def test_too_few_images_for_a_batch_are_refused():
    with pytest.raises(ValueError, match="4 images do not fill a batch of 8"):
        train_network(
            torch.nn.Linear(1, 1), np.zeros((4, 28, 28, 1), np.float32), np.zeros(4, np.int64),
            Noise("rotation", 1.0, 0.1), OPERATOR, Schedule(batch_size=8), seed=0,
        )  # fmt: skip


def test_accuracy_counts_right_answers_over_all_draws():
    class One(torch.nn.Module):
        def forward(self, images):
            return torch.nn.functional.one_hot(torch.ones(len(images), dtype=torch.int64), 3).float()

    images = np.zeros((8, 28, 28, 1), dtype=np.float32)
    labels = np.array([1, 1, 1, 0, 2, 0, 2, 0])
    assert accuracy(One(), images, labels, OPERATOR, None) == 3 / 8
    assert accuracy(One(), images, labels, OPERATOR, Noise("rotation", 5.0, 0.1), draws=4) == 3 / 8


def train_arguments(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(list(map(str, words)))


@pytest.mark.parametrize("options", ["", "mean = [0.1]\nstd = [0.3]"])
def test_the_command_writes_weights_and_figures_that_the_loaded_model_has(tmp_path, capsys, options):
    """The card's accuracy is measured again on the model as it is loaded for service."""
    root = write_made_digits(tmp_path / "data", train=1200, test=200)
    network = build("small_conv", 10, 1, (28, 28), {"width": 8})
    path = write_model(
        tmp_path / "squares",
        names=tuple("0123456789"),
        network=network,
        options=f"options = {{ width = 8 }}\n{options}",
    )
    path.write_text(path.read_text().replace("height = 12\nwidth = 12", "height = 28\nwidth = 28"))
    before = read_card(path)
    assert run(train_arguments(path, "--data", root, "--epochs", 4, "--batch-size", 50)) == 0
    model = load_model(read_card(path))
    assert model.card.weights_sha256 != before.weights_sha256
    images, labels = load_mnist(root, train=False)
    clean = accuracy(model.network, images, labels, model.operator, None)
    assert clean > 0.8
    assert model.card.accuracy["clean"] == pytest.approx(clean, abs=1e-3)
    assert model.card.accuracy["images"] == 200
    assert model.card.training["images"] == 1200
    assert "--batch-size 50" in model.card.training["command"]
    assert str(tmp_path) not in path.read_text()
    assert "squares: clean" in capsys.readouterr().out


def test_training_goes_on_from_given_weights(tmp_path, capsys):
    """With a step size of nearly nothing the weights stay what they were, but for the averages of normalisation."""
    root = write_made_digits(tmp_path / "data", train=60, test=10)
    path = write_model(tmp_path / "other", names=tuple("0123456789"), network=build("small_conv", 10, 1, (28, 28), {}))
    path.write_text(path.read_text().replace("height = 12\nwidth = 12", "height = 28\nwidth = 28"))
    torch.manual_seed(9)
    given = build("small_conv", 10, 1, (28, 28), {})
    start = tmp_path / "start.safetensors"
    save_file(given.state_dict(), start)
    words = ["--data", root, "--epochs", 1, "--batch-size", 20, "--learning-rate", 1e-12, "--label-smoothing", 0]
    assert run(train_arguments(path, *words, "--start", start)) == 0
    model = load_model(read_card(path))
    torch.testing.assert_close(model.network.head[0].weight, given.head[0].weight)
    assert model.card.training["command"].endswith("--silent-share 0.2 --label-smoothing 0.0 --start WEIGHTS")
    for bad in (tmp_path / "none.safetensors", path):
        assert run(train_arguments(path, *words, "--start", bad)) == 2
        assert "not weights of small_conv" in capsys.readouterr().err


def test_a_card_without_a_transformation_has_nothing_to_train_for(tmp_path, capsys):
    path = write_model(tmp_path / "still", transformation="none")
    path.write_text(path.read_text().replace("sigma_gamma = 20.0", "sigma_gamma = 0.0"))
    assert run(train_arguments(path, "--data", tmp_path)) == 2
    assert "noise.transformation" in capsys.readouterr().err


def test_figures_replace_what_is_there_and_add_what_is_not():
    text = '# mine\nid = "x"\nclean = "untouched"\n\n[accuracy]\nclean = 0.5 # old\n\n[noise] # why\nsigma = 1.0\n'
    new = updated_card(text, {"accuracy": {"clean": 0.75, "noisy": 0.5}, "training": {"command": 'a "b" \\1'}})
    assert tomllib.loads(new) == {
        "id": "x",
        "clean": "untouched",
        "accuracy": {"clean": 0.75, "noisy": 0.5},
        "noise": {"sigma": 1.0},
        "training": {"command": 'a "b" \\1'},
    }
    assert "# mine" in new
    assert "# why" in new
    assert updated_card(new, {"accuracy": {"clean": 0.75}}) == new


@pytest.mark.parametrize("name", ["mnist-rotation", "mnist-translation"])
def test_a_shipped_card_tells_the_accuracy_that_is_measured(mnist_root, name):
    """Oracle: the 10,000 test images; five standard errors for the noisy figure, rounding for the clean one."""
    model = load_model(read_card(SHIPPED / name / "card.toml"))
    images, labels = load_mnist(mnist_root, train=False)
    noise = Noise(model.card.noise.transformation, model.card.noise.sigma_gamma, model.card.noise.sigma_delta)
    figures = model.card.accuracy
    assert len(images) == figures["images"]
    assert accuracy(model.network, images, labels, model.operator, None) == pytest.approx(figures["clean"], abs=2e-4)
    noisy = accuracy(model.network, images, labels, model.operator, noise, seed=1)
    assert noisy == pytest.approx(figures["noisy"], abs=5 * np.sqrt(2 * 0.05 * 0.95 / len(images)))
