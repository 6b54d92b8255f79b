"""Certificates of real digits, the hard ones first, against an attacker who searches for an exception."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from certification.vocabulary import Estimator, ImageIs
from models.data import load_mnist
from tests.statistical.attacker import Attack, attack, hardest, refute
from tests.statistical.settings import SETTINGS, Claim, Effort, Setting

DIGITS, POOL = 2, 40
SURE = 0.92
"""So that certificates are found at once."""
EFFORT = Effort(grid=5, steps=5)
Mnist = tuple[NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture(scope="module")
def digits(mnist_root: Path) -> Mnist:
    images, labels = load_mnist(mnist_root, train=False)
    return images[:POOL], labels[:POOL]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_no_certificate_is_broken(digits: Mnist, setting: Setting) -> None:
    """At alpha = .01, one broken certificate among so few has a probability below .05, and most have a margin."""
    images, labels = digits
    found: list[Attack] = []
    for index in hardest(setting, images, labels, DIGITS, samples=8, least=SURE):
        found += attack(setting, images[index], index, EFFORT, seed=0)
    assert len(found) >= DIGITS
    assert [one for one in found if one.violated] == []


@pytest.mark.parametrize("estimator", [Estimator.JOINT, Estimator.NESTED])
def test_a_false_claim_is_broken(digits: Mnist, estimator: Estimator) -> None:
    """A digit keeps its label when it is turned by 10 degrees, but not when it stands on its head."""
    images, labels = digits
    setting = Setting("mnist-rotation", 180.0, ImageIs.REFERENCE)
    (four,) = np.flatnonzero(labels == 4)[:1].tolist()
    claim = Claim(4, 180.0, estimator)
    assert refute(setting, images[four], four, claim, EFFORT, seed=0).violated
    assert not refute(Setting("mnist-rotation", 10.0, ImageIs.REFERENCE), images[four], four, claim, EFFORT, 0).violated
