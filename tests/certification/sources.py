"""Vote and error-bound sources whose smoothed classifier is known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from certification.calibration import Calibration
from certification.plan import CertificationPlan, PredictPlan
from certification.vocabulary import AttackRange, Guarantee, ImageIs, Procedure, Transformation

Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass
class World:
    """Two classes; at parameter beta the base classifier votes for class 1 with probability ``share(beta)``.

    Records every call as (what, how many), and every parameter it draws or is asked about.
    """

    share: Function
    sigma_gamma: float = 1.0
    dimensions: int = 1
    seed: int = 0
    bound: Function = np.zeros_like
    calls: list[tuple[str, int]] = field(default_factory=list)
    parts: list[NDArray[np.float64]] = field(default_factory=list)
    votes: int = 0

    def __post_init__(self) -> None:
        self.generator = np.random.default_rng(self.seed)

    @property
    def drawn(self) -> int:
        return sum(len(part) for part in self.parts)

    def draw_parameters(self, n: int) -> NDArray[np.float64]:
        shape = (n,) if self.dimensions == 1 else (n, self.dimensions)
        self.parts.append(self.generator.normal(0.0, self.sigma_gamma, shape))
        self.calls.append(("parameters", n))
        return self.parts[-1]

    def class_counts(self, n: int, *, pixel_noise: bool) -> NDArray[np.int64]:
        self.calls.append(("noisy classes" if pixel_noise else "classes", n))
        self.votes += n
        self.parts.append(self.generator.normal(0.0, self.sigma_gamma, (n,) if self.dimensions == 1 else (n, 2)))
        share = self.share(self.parts[-1] if self.dimensions == 1 else self.parts[-1][:, 0])
        ones = int((self.generator.random(n) < share).sum())
        return np.array([n - ones, ones])

    def votes_at(self, draws: NDArray[np.int64], counts: NDArray[np.int64], *, label: int) -> NDArray[np.int64]:
        self.calls.append(("votes", len(draws)))
        self.votes += int(counts.sum())
        parameters = np.concatenate(self.parts)[draws]
        first = parameters if parameters.ndim == 1 else parameters[:, 0]
        share = self.share(first) if label == 1 else 1.0 - self.share(first)
        return self.generator.binomial(counts, share)

    def error_bounds(self, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        self.calls.append(("bounds", len(parameters)))
        return self.bound(parameters if parameters.ndim == 1 else parameters[:, 0])

    def total_error_bounds(self, totals: NDArray[np.float64]) -> NDArray[np.float64]:
        self.calls.append(("total bounds", len(totals)))
        return self.bound(totals if totals.ndim == 1 else totals[:, 0])

    def sampled_error(self, half_width: float, attacks: int) -> float:
        self.calls.append((f"sampled within {half_width:g}", attacks))
        return float(self.bound(np.zeros(1))[0])

    def bound_for_all(self) -> float:
        self.calls.append(("bound for all", 1))
        return float(self.bound(np.zeros(1))[0])


def constant(value: float) -> Function:
    return lambda parameters: np.full(len(parameters), value)


CALIBRATION = Calibration(
    model="mnist-rotation",
    transformation=Transformation.ROTATION,
    attack_range=30.0,
    error_bound=0.3,
    sampled_attacks=0,
    factor=0.0,
    rho_E=0.01,
    q_E=0.99,
    confidence=0.999,
    images=1000,
    images_passed=1000,
    parameter_draws=8000,
    pilot_images=1000,
    pilot_draws=100,
    dataset="MNIST",
    split="train",
    seed=0,
    sigma_gamma=30.0,
    preprocessing_digest="0123",
    method="drawn parameters",
    largest_bound=0.29,
    image_is="either",
    version="0.1.0",
    created="2026-11-21",
    command="surety calibrate",
)


def rotation_plan(
    guarantee: Guarantee = Guarantee.INDIVIDUAL, half_width: float = 10.0, **more: object
) -> CertificationPlan:
    """The paper's MNIST rotation: sigma_gamma 30 degrees, sigma_delta .3."""
    numbers: dict[str, object] = {
        "sigma_gamma": 30.0,
        "sigma_delta": 0.3,
        "procedure": Procedure.PAPER,
        "n": 200,
        "attack_range": AttackRange(Transformation.ROTATION, half_width),
        "image_is": ImageIs.RECEIVED,
        "calibration": CALIBRATION if guarantee is Guarantee.DISTRIBUTIONAL else None,
    }
    return CertificationPlan(
        transformation=Transformation.ROTATION,
        guarantee=guarantee,
        **(numbers | more),  # type: ignore[arg-type]
    )


def translation_plan(half_width: float = 1.0, **more: object) -> CertificationPlan:
    """The paper's MNIST translation: sigma_gamma 1.5 pixels, sigma_delta .3."""
    numbers: dict[str, object] = {
        "guarantee": Guarantee.INDIVIDUAL,
        "procedure": Procedure.PAPER,
        "n": 200,
        "sigma_gamma": 1.5,
        "sigma_delta": 0.3,
        "attack_range": AttackRange(Transformation.TRANSLATION, half_width),
    }
    return CertificationPlan(
        transformation=Transformation.TRANSLATION,
        **(numbers | more),  # type: ignore[arg-type]
    )


def l2_plan(half_width: float = 0.1, **more: object) -> CertificationPlan:
    """Cohen et al.'s noise .25, no parameter noise."""
    numbers: dict[str, object] = {
        "sigma_gamma": 0.0,
        "sigma_delta": 0.25,
        "procedure": Procedure.PAPER,
        "n": 200,
        "attack_range": AttackRange(Transformation.L2, half_width),
    }
    return CertificationPlan(
        transformation=Transformation.L2,
        guarantee=Guarantee.INDIVIDUAL,
        **(numbers | more),  # type: ignore[arg-type]
    )


def predict_plan(guarantee: Guarantee = Guarantee.INDIVIDUAL, **more: object) -> PredictPlan:
    return PredictPlan(
        transformation=Transformation.ROTATION,
        guarantee=guarantee,
        **({"sigma_gamma": 30.0, "sigma_delta": 0.3, "procedure": Procedure.PAPER, "n": 200} | more),  # type: ignore[arg-type]
    )
