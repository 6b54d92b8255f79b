"""A tiny zoo: one small network on 12 x 12 images, written to disk as a user would."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from safetensors.torch import save_file

from models.architectures import build

CARD = """\
id = "{id}"
description = "A test model."

[input]
height = 12
width = 12
channels = {channels}

[classes]
names = {names}

[architecture]
name = "{architecture}"
{options}

[weights]
file = "weights.safetensors"
sha256 = "{sha256}"

[preprocessing]
{preprocessing}

[noise]
transformation = "{transformation}"
sigma_gamma = 20.0
sigma_delta = 0.3

[limits]
attack_range = 45.0

[defaults]
attack_range = 5.0
"""


BILINEAR = 'vignette = "circle"\nmargin = 0.5\nblur_size = 3\nblur_sigma = 1.0'
GAUSSIAN = 'vignette = "circle"\nmargin = 0.5\ntaper = 1.5\nblur_sigma = 1.5\ninterpolation = "gaussian"'


def write_model(folder, *, names=("a", "b", "c"), architecture="small_conv", channels=1, network=None, **fields):
    """Write weights and a card that fits them; ``fields`` override what the card says."""
    folder.mkdir(parents=True, exist_ok=True)
    if network is None:
        torch.manual_seed(0)
        network = build(architecture, len(names), channels, (12, 12), {})
    weights = folder / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, weights)
    values = {
        "id": folder.name, "names": list(names), "architecture": architecture, "channels": channels, "options": "",
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(), "transformation": "rotation",
        "preprocessing": BILINEAR, **fields,
    }  # fmt: skip
    values["names"] = json.dumps(values["names"])
    path = folder / "card.toml"
    path.write_text(CARD.format(**values))
    return path


@pytest.fixture
def card_path(tmp_path):
    return write_model(tmp_path / "zoo" / "tiny")
