"""An attacker on real certificates: it searches the attack range for an image whose smoothed label is another.

Reference image: over all ``round8(T_gamma x)``. Received image: the original is known here, and the attacker chooses
the gamma with which it was made from it. The search looks at the mean probability that the network gives the certified
class, over the same noise every time, on a grid, at random, and downhill from the worst places; what it finds is then
judged by fresh votes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from certification.vocabulary import ImageIs
from tests.statistical.settings import Claim, Effort, Image, Setting

LEAST_CONFIDENCE = 0.85
"""Of the network in a digit's label; where it is lower, there is hardly ever a certificate to attack."""
OVERWHELMING = 1e-6
"""A certificate is violated where its label's majority is this unlikely."""


@dataclass(frozen=True)
class Attack:
    """What an attack on one certificate found.

    ``doubts`` are p-values of "the claim is true" at the worst candidates; ``confidence`` is the lowest value of the
    objective.
    """

    setting: str
    digit: int
    claim: Claim
    candidates: int
    confidence: float
    doubts: tuple[float, ...]

    @property
    def violated(self) -> bool:
        """Whether a candidate has another label, with overwhelming evidence."""
        return any(doubt < OVERWHELMING for doubt in self.doubts)

    def row(self) -> dict[str, Any]:
        """The numbers, as they are stored."""
        claim = vars(self.claim) | {"estimator": str(self.claim.estimator)}
        rest = {name: value for name, value in vars(self).items() if name not in ("claim", "doubts")}
        return {**rest, **claim, "doubts": list(self.doubts), "violated": self.violated}


class Search:
    """The worst parameters of norm at most ``radius`` in the attack range, for one image and one label."""

    def __init__(self, setting: Setting, image: Image, label: int, radius: float, effort: Effort, seed: int) -> None:
        self.setting, self.image, self.label, self.radius, self.effort = setting, image, label, radius, effort
        self.generator = np.random.default_rng(seed)
        self.found: dict[tuple[float, ...], float] = {}

    def run(self) -> list[NDArray[np.float64]]:
        """Candidates, the worst first."""
        axis = np.linspace(-self.setting.half_width, self.setting.half_width, self.effort.grid)
        shape = (self.effort.random, self.setting.dimensions)
        random = self.generator.uniform(-self.setting.half_width, self.setting.half_width, shape)
        for gamma in [*itertools.product(axis, repeat=self.setting.dimensions), *random]:
            self.look(np.array(gamma))
        for start in self.worst()[: self.effort.starts]:
            self.descend(start, 0.5 * float(axis[1] - axis[0]))
        return self.worst()

    @property
    def lowest(self) -> float:
        """The worst value of the objective."""
        return min(self.found.values())

    def worst(self) -> list[NDArray[np.float64]]:
        """What was looked at, the lowest confidence first."""
        return [np.array(gamma) for gamma in sorted(self.found, key=self.found.__getitem__)]

    def look(self, gamma: NDArray[np.float64]) -> float:
        """The objective at a parameter; infinite where no statement was made."""
        inside = np.all(np.abs(gamma) <= self.setting.half_width) and np.linalg.norm(gamma) <= self.radius
        if not inside:
            return float("inf")
        key = tuple(gamma.tolist())
        if key not in self.found:
            attacked = self.setting.attacked(self.image, gamma)
            self.found[key] = self.setting.confidence(attacked, self.label, self.effort.samples)
        return self.found[key]

    def descend(self, gamma: NDArray[np.float64], step: float) -> None:
        """Coordinate descent."""
        for _ in range(self.effort.steps):
            moves = [gamma + sign * step * one for one in np.eye(self.setting.dimensions) for sign in (-1.0, 1.0)]
            best = min(moves, key=self.look)
            if self.look(best) < self.look(gamma):
                gamma = best
            else:
                step *= 0.5


def attack(setting: Setting, original: Image, digit: int, effort: Effort, seed: int) -> list[Attack]:
    """Certify, and look for what the certificates rule out; nothing where nothing is certified.

    Reference: ``original`` is certified, and its attacked versions are searched. Received: the attacked versions on
    which the network trusts the original's label least are certified, and the original must have their label.
    """
    key = f"{setting.name} {digit} {seed}"
    if setting.image_is is ImageIs.REFERENCE:
        claim = setting.certificate(original, key)
        return [] if claim is None else [refute(setting, original, digit, claim, effort, seed)]
    label = int(setting.votes(original, key + " original").class_counts(256, pixel_noise=True).argmax())
    search = Search(setting, original, label, setting.plan.full_radius, effort, seed)
    found = []
    for i, gamma in enumerate(search.run()[: effort.judged]):
        claim = setting.certificate(setting.attacked(original, gamma), f"{key} {i}")
        if claim is not None and np.linalg.norm(gamma) <= claim.radius:
            doubt = setting.doubt(original, claim, f"{key} judge {i}", effort)
            found.append(Attack(setting.name, digit, claim, len(search.found), search.lowest, (doubt,)))
    return found


def refute(setting: Setting, original: Image, digit: int, claim: Claim, effort: Effort, seed: int) -> Attack:
    """Look for an attacked version of the original for which a claim is not true."""
    search = Search(setting, original, claim.label, claim.radius, effort, seed)
    doubts = tuple(
        setting.doubt(setting.attacked(original, gamma), claim, f"{setting.name} {digit} {seed} judge {i}", effort)
        for i, gamma in enumerate(search.run()[: effort.judged])
    )
    return Attack(setting.name, digit, claim, len(search.found), search.lowest, doubts)


def hardest(
    setting: Setting,
    images: Image,
    labels: NDArray[np.int64],
    count: int,
    *,
    samples: int,
    least: float = LEAST_CONFIDENCE,
) -> list[int]:
    """Indices of the images on whose label the network is least sure under noise, yet as sure as ``least``."""
    sure = [setting.confidence(image, int(label), samples) for image, label in zip(images, labels, strict=True)]
    return [int(i) for i in np.argsort(sure) if sure[i] > least][:count]
