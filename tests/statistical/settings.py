"""What is attacked: models of the zoo, their certificates, and the network's confidence in a label."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binom

from certification.outcome import Certified
from certification.plan import CertificationPlan
from certification.procedures import certify
from certification.vocabulary import AttackRange, Estimator, Guarantee, ImageIs, Transformation
from gpu.cells import BoundSettings
from gpu.preprocess import AnyOperator
from gpu.warp import round8, transform_image, warp_batch
from models.card import read_card
from models.error_bounds import ImageErrorBounds
from models.registry import LoadedModel, load_model
from models.votes import BaseClassifierVotes

ZOO = Path(__file__).resolve().parents[2] / "models" / "zoo"
MAX_VOTES = 60_000
"""Of one certificate; more only make abstentions slow."""
INNER_LEVEL = 1e-3
"""Of the test that a draw has no majority for the label, where the smoothed classifier is nested."""
Image = NDArray[np.float32]


@dataclass(frozen=True)
class Effort:
    """How hard the attacker tries.

    Attributes
    ----------
    grid, random : int
        Candidates on a grid, on each axis, and at random places.
    starts, steps : int
        Places to go downhill from, and steps of each; every step without success halves the next.
    samples : int
        Noisy copies behind one value of the objective.
    judged : int
        Worst candidates that are judged by fresh votes.
    votes : int
        Of a judgement about the joint classifier.
    draws, inner_votes : int
        Of one about the nested classifier: parameters, and votes at each.
    """

    grid: int = 7
    random: int = 4
    starts: int = 1
    steps: int = 6
    samples: int = 24
    judged: int = 2
    votes: int = 256
    draws: int = 40
    inner_votes: int = 48


@dataclass(frozen=True)
class Claim:
    """What a certificate says: the label that every image within the radius has."""

    label: int
    radius: float
    estimator: Estimator | None


@dataclass(frozen=True)
class Setting:
    """A model of the zoo and what its certificates are about."""

    model_id: str
    half_width: float
    image_is: ImageIs
    device: str = "cpu"

    @cached_property
    def model(self) -> LoadedModel:
        """Loaded once."""
        return load_model(read_card(ZOO / self.model_id / "card.toml"), self.device)

    @property
    def transformation(self) -> Transformation:
        """The one that the model has noise for."""
        return Transformation(self.model.card.noise.transformation)

    @property
    def dimensions(self) -> int:
        """Numbers in a parameter."""
        return self.transformation.dimensions

    @property
    def name(self) -> str:
        """For messages and results."""
        return f"{self.model_id}, +-{self.half_width:g} {self.transformation.unit}, {self.image_is}"

    @property
    def plan(self) -> CertificationPlan:
        """What the service would do."""
        return CertificationPlan(
            transformation=self.transformation,
            guarantee=Guarantee.INDIVIDUAL,
            attack_range=AttackRange(self.transformation, self.half_width),
            sigma_gamma=self.model.card.noise.sigma_gamma,
            sigma_delta=self.model.card.noise.sigma_delta,
            image_is=self.image_is,
            bound_for_all=self.model.bound_for_all,
            max_votes=MAX_VOTES,
        )

    def votes(self, image: Image, key: str, operator: AnyOperator | None = None) -> BaseClassifierVotes:
        """A source of votes whose noise follows from a word, behind the served P or another."""
        return BaseClassifierVotes(
            self.model, image, self.transformation, key=key.encode(), device=self.device, operator=operator
        )

    def certificate(self, image: Image, key: str) -> Claim | None:
        """None where it abstains."""
        plan = self.plan
        bounds = ImageErrorBounds(self.model, image, plan.attack_range, self.image_is, BoundSettings(), self.device)
        outcome = certify(plan, self.votes(image, key, self.model.measured_through(plan)), bounds)
        return Claim(outcome.label, outcome.radius, outcome.estimator) if isinstance(outcome, Certified) else None

    def attacked(self, image: Image, gamma: NDArray[np.float64]) -> Image:
        """``round8(T_gamma x)``."""
        parameter = gamma[0] if self.dimensions == 1 else gamma
        return round8(transform_image(image, parameter, str(self.transformation)))

    def confidence(self, image: Image, label: int, samples: int) -> float:
        """Mean probability that the network gives the label, over the same noise whenever it is asked."""
        generator = np.random.default_rng(0)
        shape = (samples,) if self.dimensions == 1 else (samples, 2)
        parameters = generator.normal(0.0, self.model.card.noise.sigma_gamma, shape)
        warped = warp_batch(image[None], parameters, str(self.transformation), self.model.operator)
        noise = self.model.card.noise.sigma_delta * generator.standard_normal(warped.shape)
        batch = torch.from_numpy((warped + noise).astype(np.float32)).to(self.device)
        with torch.inference_mode():
            return float(torch.softmax(self.model.network(batch), dim=1)[:, label].mean())

    def doubt(self, image: Image, claim: Claim, key: str, effort: Effort) -> float:
        """p-value, from fresh votes, of "the smoothed classifier's label for this image is the claimed one"."""
        votes = self.votes(image, key)
        if claim.estimator is Estimator.JOINT:
            k = int(votes.class_counts(effort.votes, pixel_noise=True)[claim.label])
            return float(binom.cdf(k, effort.votes, 0.5))
        votes.draw_parameters(effort.draws)
        asked = np.full(effort.draws, effort.inner_votes)
        counts = votes.votes_at(np.arange(effort.draws), asked, label=claim.label)
        refuted = int((binom.cdf(counts, effort.inner_votes, 0.5) <= INNER_LEVEL).sum())
        # where the label wins at most parameters, a draw is refuted with a probability of at most 1/2 and that level
        return float(binom.sf(refuted - 1, effort.draws, 0.5 + INNER_LEVEL))


SETTINGS = (
    Setting("mnist-rotation", 10.0, ImageIs.RECEIVED),
    Setting("mnist-rotation", 10.0, ImageIs.REFERENCE),
    Setting("mnist-translation", 1.0, ImageIs.RECEIVED),
    Setting("mnist-translation", 1.0, ImageIs.REFERENCE),
)
