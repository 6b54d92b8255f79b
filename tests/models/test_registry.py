"""Cards and weights at start-up: what fits loads, what does not is named with card and field."""

from __future__ import annotations

import csv
import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from certification.calibration import Calibration
from certification.vocabulary import ImageIs, Transformation
from models.architectures import ArchitectureError, build
from models.card import CardError, read_card
from models.registry import UnknownModelError, _check_forward, load_model, load_registry
from models.torchvision_compat import models as torchvision_models
from tests.models.conftest import write_model

SHIPPED = Path(__file__).parents[2] / "models" / "zoo"


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_written_model_loads_and_answers(card_path):
    registry = load_registry([card_path.parent.parent])
    model = registry.get("tiny")
    assert model.network(torch.zeros(2, 1, 12, 12)).shape == (2, 3)
    assert not model.network.training
    assert registry.default_for(Transformation.ROTATION) is model
    assert model.card.transformations == ("rotation", "l2")
    with pytest.raises(UnknownModelError, match="tiny"):
        registry.get("other")
    with pytest.raises(UnknownModelError, match="translation"):
        registry.default_for(Transformation.TRANSLATION)


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("height = 12", "height = 20", "input.height"),
        ("height = 12", "height = 0", "input.height"),
        ("height = 12", 'height = "12"', "input.height"),
        ("height = 12", "height = true", "input.height"),
        ("channels = 1", "channels = 3", "input.channels"),
        ("channels = 1", "channels = 2", "input.channels"),
        ('names = ["a", "b", "c"]', 'names = ["a", "b"]', "classes.names"),
        ('names = ["a", "b", "c"]', 'names = ["a", "b", "c", "d"]', "classes.names"),
        ('names = ["a", "b", "c"]', 'names = ["a"]', "classes.names"),
        ('"small_conv"', '"large_conv"', "architecture.name"),
        ('"small_conv"', '"torchvision:no_such_net"', "architecture.name"),
        ('"weights.safetensors"', '"other.safetensors"', "weights.file"),
        ("sha256 = ", "sha = ", "weights.sha256"),
        ("blur_size = 3", "blur_size = 4", "preprocessing"),
        ("blur_size = 3", 'interpolation = "gaussian"', "preprocessing"),
        ("blur_size = 3", 'interpolation = "cubic"', "preprocessing"),
        ("blur_size = 3", "interpolation = 3", "preprocessing.interpolation"),
        ("blur_size = 3", "taper = -1.0", "preprocessing.taper"),
        ("blur_size = 3", "taper = 2.0", "preprocessing"),
        ("margin = 0.5", "margin = 50.0", "preprocessing"),
        ("margin = 0.5", "margin = nan", "preprocessing.margin"),
        ("blur_size = 3", "blur_width = 3", "preprocessing.blur_width"),
        ("sigma_delta = 0.3", "sigma_delta = -0.3", "noise.sigma_delta"),
        ("sigma_delta = 0.3", "sigma_delta = inf", "noise.sigma_delta"),
        ("sigma_gamma = 20.0", "sigma_gamma = 0.0", "noise.sigma_gamma"),
        ('transformation = "rotation"', 'transformation = "none"', "noise.sigma_gamma"),
        (
            'transformation = "rotation"\nsigma_gamma = 20.0\nsigma_delta = 0.3',
            'transformation = "none"\nsigma_gamma = 0.0\nsigma_delta = 0.0',
            "noise.sigma_delta",
        ),
        ('"small_conv"', '"small_conv"\noptions = { width = 16 }', "architecture.options"),
        ('"small_conv"', '"small_conv"\noptions = { width = -1 }', "architecture.name"),
        ('"small_conv"', '"small_conv"\nmean = [0.5]', "architecture.std"),
        ('"small_conv"', '"small_conv"\nmean = [0.5]\nstd = [0.0]', "architecture.std"),
        ('"small_conv"', '"small_conv"\nmean = [0.5]\nstd = [true]', "architecture.std"),
        ('"small_conv"', '"torchvision:squeezenet1_1"', "weights.file"),
        ('transformation = "rotation"', 'transformation = "scaling"', "noise.transformation"),
        ("[defaults]\nattack_range = 5.0", "[defaults]\nattack_range = 90.0", "defaults.attack_range"),
        ("[limits]\nattack_range = 45.0", "[limits]", "limits.attack_range"),
        ('id = "tiny"', 'id = "huge"', "id"),
        ('description = "A test model."', 'description = "A"\ncolour = "red"', "colour"),
        ("[noise]", "[noise", "card.toml"),
    ],
)
def test_a_wrong_card_is_named_with_its_field(card_path, old, new, field):
    edit(card_path, old, new)
    with pytest.raises(CardError) as caught:
        load_model(read_card(card_path))
    assert caught.value.field == field
    assert str(card_path) in str(caught.value)
    assert field in str(caught.value)


def test_a_changed_file_and_a_pickle_are_refused(card_path):
    weights = card_path.parent / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(CardError, match=r"weights\.sha256.*changed"):
        load_model(read_card(card_path))
    write_model(card_path.parent)
    weights.write_bytes(pickle.dumps({"a": 1}))
    text = card_path.read_text()
    old = text.split('sha256 = "')[1][:64]
    card_path.write_text(text.replace(old, hashlib.sha256(weights.read_bytes()).hexdigest()))
    with pytest.raises(CardError, match=r"weights\.file.*safetensors"):
        load_model(read_card(card_path))


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    network = build("small_conv", 3, 1, (12, 12), {})
    with torch.no_grad():
        network.head[2].bias[0] = float("nan")
    with pytest.raises(CardError, match="NaN"):
        load_model(read_card(write_model(tmp_path / "tiny", network=network)))


def test_an_empty_zoo_and_a_doubled_id_are_refused(card_path, tmp_path):
    with pytest.raises(CardError, match="no card"):
        load_registry([tmp_path / "nothing"])
    write_model(tmp_path / "second" / "tiny")
    with pytest.raises(CardError, match="twice"):
        load_registry([card_path.parent.parent, tmp_path / "second"])


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1"])
def test_any_torchvision_architecture_loads_from_a_local_file(tmp_path, name):
    torch.manual_seed(1)
    network = build(f"torchvision:{name}", 5, 3, (40, 40), {})
    path = write_model(
        tmp_path / "net", names=tuple("abcde"), architecture=f"torchvision:{name}", channels=3, network=network,
        options="mean = [0.5, 0.5, 0.5]\nstd = [0.2, 0.2, 0.2]",
    )  # fmt: skip
    edit(path, "height = 12\nwidth = 12", "height = 40\nwidth = 40")
    model = load_model(read_card(path))
    images = torch.rand(2, 3, 40, 40)
    torch.testing.assert_close(model.network(images), network((images - 0.5) / 0.2))


def test_a_size_that_a_torchvision_network_refuses_is_named(tmp_path):
    """A vision transformer takes one image size only, and says so by an assertion."""
    torch.manual_seed(1)
    small = {"image_size": 32, "patch_size": 16, "num_layers": 1, "num_heads": 1, "hidden_dim": 8, "mlp_dim": 8}
    network = torchvision_models.VisionTransformer(**small, num_classes=3)
    path = write_model(tmp_path / "net", network=network)
    card = read_card(path)
    with pytest.raises(CardError, match=r"refuses an image of this size: Wrong image height") as caught:
        _check_forward(card, network.eval(), card.preprocessing.operator(12, 12))
    assert caught.value.field == "input"


def test_a_real_imagenet_classifier_loads_and_recognises(imagenet_root, tmp_path):
    """Oracle: the published classifier gets most of the samples that come with it right."""
    folder = tmp_path / "squeezenet"
    folder.mkdir()
    shutil.copy(imagenet_root / "squeezenet1_0.safetensors", folder / "weights.safetensors")
    with (imagenet_root / "classes.csv").open() as file:
        names = [row[-1] for row in csv.reader(file)][-1000:]
    write_card = write_model(
        tmp_path / "scratch" / "squeezenet", names=names, architecture="torchvision:squeezenet1_0", channels=3,
        network=build("torchvision:squeezenet1_0", 1000, 3, (224, 224), {}),
        options="mean = [0.485, 0.456, 0.406]\nstd = [0.229, 0.224, 0.225]",
    )  # fmt: skip
    text = write_card.read_text().replace("height = 12\nwidth = 12", "height = 224\nwidth = 224")
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    old = text.split('sha256 = "')[1][:64]
    text = text.replace(old, digest).replace('vignette = "circle"\nmargin = 0.5\nblur_size = 3\nblur_sigma = 1.0', "")
    (folder / "card.toml").write_text(text)
    model = load_model(read_card(folder / "card.toml"))
    right = 0
    with (imagenet_root / "samples" / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))[:20]
    for row in rows:
        with Image.open(imagenet_root / "samples" / row["file"]) as picture:
            small = picture.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
        image = (np.asarray(small, dtype=np.float32) / 255)[None]
        with torch.inference_mode():
            right += int(model.network(torch.from_numpy(model.operator.apply(image))).argmax()) == int(row["index"])
    assert right >= 8


def calibration(card, **changes):
    values = {
        "model": card.id, "transformation": Transformation.ROTATION, "attack_range": 10.0, "error_bound": 0.3,
        "sampled_attacks": 0, "factor": 0.0, "rho_E": 0.001, "q_E": 0.99, "confidence": 0.999,
        "images": 1000, "images_passed": 1000,
        "parameter_draws": 8000, "pilot_images": 100, "pilot_draws": 10, "dataset": "D", "split": "train", "seed": 0,
        "sigma_gamma": 20.0, "preprocessing_digest": card.preprocessing.digest(), "method": "m",
        "largest_bound": 0.2, "image_is": "either", "version": "0", "created": "2026-01-01", "command": "c",
    }  # fmt: skip
    return Calibration(**{**values, **changes})


def test_bounds_are_loaded_and_the_smallest_covering_one_is_chosen(card_path):
    card = read_card(card_path)
    bounds = card_path.parent / "bounds"
    bounds.mkdir()
    for g, image_is in ((10.0, "either"), (30.0, "either"), (20.0, "reference")):
        (bounds / f"{g}.json").write_text(json.dumps(calibration(card, attack_range=g, image_is=image_is).to_json()))
    model = load_model(card)
    assert model.calibration_for("rotation", 5.0, ImageIs.RECEIVED).attack_range == 10.0
    assert model.calibration_for("rotation", 11.0, ImageIs.RECEIVED).attack_range == 30.0
    assert model.calibration_for("rotation", 11.0, ImageIs.REFERENCE).attack_range == 20.0
    assert model.calibration_for("rotation", 31.0, ImageIs.REFERENCE).attack_range == 30.0
    assert model.calibration_for("translation", 1.0, ImageIs.RECEIVED) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("model", "other"), ("sigma_gamma", 25.0), ("preprocessing_digest", "0"), ("transformation", "translation")],
)
def test_bounds_of_another_model_noise_or_preprocessing_are_refused(card_path, field, value):
    card = read_card(card_path)
    (card_path.parent / "bounds").mkdir()
    changed = {**calibration(card).to_json(), field: value}
    (card_path.parent / "bounds" / "r.json").write_text(json.dumps(changed))
    with pytest.raises(CardError, match=field):
        load_model(card)


def test_architectures_refuse_what_they_do_not_know():
    with pytest.raises(ArchitectureError, match="does not take"):
        build("small_conv", 3, 1, (12, 12), {"depth": 9})
    with pytest.raises(ArchitectureError, match="must be small_conv or small_resnet or torchvision:"):
        build("resnet", 3, 1, (12, 12), {})


@pytest.mark.parametrize("name", ["small_conv", "small_resnet"])
@pytest.mark.parametrize(("channels", "shape"), [(1, (28, 28)), (3, (9, 14)), (1, (8, 8))])
def test_our_own_networks_take_images_of_any_size(name, channels, shape):
    torch.manual_seed(1)
    network = build(name, 7, channels, shape, {"width": 6})
    images = torch.rand(3, channels, *shape)
    logits = network(images)
    assert logits.shape == (3, 7)
    torch.testing.assert_close(network(images[1:2])[0], logits[1])


def test_the_shipped_zoo_meets_what_its_cards_must_say():
    registry = load_registry([SHIPPED])
    assert set(registry.models) == {"mnist-rotation", "mnist-translation"}
    for model in registry.models.values():
        assert model.card.accuracy["clean"] >= 0.98
        assert model.card.accuracy["noisy"] >= 0.95
        for stored in model.calibrations:
            assert stored.q_E >= 0.99
            assert stored.confidence == 0.999
            assert stored.images >= 1000
            assert stored.rho_E == 0.0
            assert stored.method == "every parameter at once"
        ranges = {"rotation": [30.0], "translation": [1.0, 2.0]}[model.card.noise.transformation]
        stored = sorted((one.attack_range, one.image_is) for one in model.calibrations)
        assert stored == [(g, str(image_is)) for g in ranges for image_is in ImageIs]
