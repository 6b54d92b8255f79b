"""Loads cards, weights and calibrations at start-up, and refuses what does not fit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from certification.calibration import Calibration
from certification.plan import CertificationPlan
from certification.vocabulary import CalibrationError, Guarantee, ImageIs, Transformation
from gpu.lattice import LatticeNoise, lattice_loss
from gpu.preprocess import ATTACK_BLUR, RECEIVED_BLUR, AnyOperator, GaussianOperator
from gpu.warp import PIXEL_SLACK

from .architectures import ArchitectureError, Normalised, build
from .card import CardError, ModelCard, file_digest, find_cards, read_card


class UnknownModelError(LookupError):
    """No model of that name, or none for that transformation."""


@dataclass(frozen=True)
class LoadedModel:
    """A base classifier ready to vote.

    ``network`` takes float32 [N, C, h, w] (P of an image plus pixel noise) and returns logits [N, classes];
    ``digest`` names weights and card: two equal digests certify the same smoothed classifier.
    """

    card: ModelCard
    network: nn.Module
    operator: AnyOperator
    digest: str
    calibrations: tuple[Calibration, ...]

    @property
    def bound_for_all(self) -> bool:
        """Whether one error bound of an image holds for every drawn parameter: with Gaussian interpolation."""
        return isinstance(self.operator, GaussianOperator)

    def measured_through(self, plan: CertificationPlan) -> AnyOperator:
        """The P behind which a certificate's votes are cast.

        It is the P of the smoothed classifier that the certificate is about, unless its interpolation is Gaussian: then
        an attacked image, which the attack has blurred, is compared with its original through filters of two widths
        (docs/guarantees.md, D.5).
        """
        if not isinstance(self.operator, GaussianOperator) or not plan.has_both_noises:
            return self.operator
        if plan.image_is is ImageIs.REFERENCE:
            return self.operator.for_original()
        calibrated = plan.guarantee is Guarantee.DISTRIBUTIONAL
        return self.operator.for_attacked(ATTACK_BLUR if calibrated else RECEIVED_BLUR)

    @cached_property
    def lattice_noise(self) -> LatticeNoise:
        """The pixel noise of l2 certificates."""
        return LatticeNoise.of(self.card.noise.sigma_delta)

    @property
    def lattice_losses(self) -> tuple[float, float]:
        """What the lattice takes from an l2 certificate: ``lattice_loss`` and ``total_variation`` (D.6)."""
        rows, columns = self.operator.output_shape
        numbers = self.card.input.channels * rows * columns
        return lattice_loss(numbers, PIXEL_SLACK), numbers * self.lattice_noise.total_variation

    def calibration_for(self, transformation: str, half_width: float, image_is: ImageIs) -> Calibration | None:
        """The stored bound with the smallest range that covers ``half_width``; else the widest one, or None."""
        fitting = [c for c in self.calibrations if c.transformation == transformation and c.is_for(image_is)]
        stored = sorted(fitting, key=lambda c: c.attack_range)
        return next((c for c in stored if c.attack_range >= half_width), stored[-1] if stored else None)


@dataclass(frozen=True)
class Registry:
    """All loaded models, by id."""

    models: Mapping[str, LoadedModel]

    def get(self, identifier: str) -> LoadedModel:
        """A model by id; raises :class:`UnknownModelError`."""
        try:
            return self.models[identifier]
        except KeyError:
            known = ", ".join(sorted(self.models))
            raise UnknownModelError(f"no model {identifier!r}; there are: {known}") from None

    def default_for(self, transformation: Transformation) -> LoadedModel:
        """The first model, by id, that certifies a transformation; raises :class:`UnknownModelError`."""
        for identifier in sorted(self.models):
            if transformation in self.models[identifier].card.transformations:
                return self.models[identifier]
        raise UnknownModelError(f"no model certifies {transformation}")


def load_registry(zoo: Sequence[Path], device: str = "cpu") -> Registry:
    """Load every model of some zoo folders.

    Parameters
    ----------
    zoo : sequence of Path
        Folders that hold a folder a model.
    device : {"cpu", "cuda"}

    Returns
    -------
    Registry

    Raises
    ------
    CardError
        Naming card and field: a malformed card, missing or changed weights, a wrong shape or class count, a
        calibration that does not belong to the card.
    """
    models: dict[str, LoadedModel] = {}
    for path in find_cards(zoo):
        model = load_model(read_card(path), device)
        if model.card.id in models:
            raise CardError(path, "id", f"{model.card.id!r} is in the zoo twice")
        models[model.card.id] = model
    if not models:
        raise CardError(Path(str(zoo[0]) if zoo else "."), "card.toml", "no card found in the zoo")
    return Registry(models)


def load_model(card: ModelCard, device: str = "cpu") -> LoadedModel:
    """Load one model; see :func:`load_registry`."""
    operator = card.preprocessing.operator(card.input.height, card.input.width)
    network = _load_network(card, operator)
    _check_forward(card, network, operator)
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    digest = hashlib.sha256(card.weights_sha256.encode() + file_digest(card.path).encode()).hexdigest()
    return LoadedModel(card, network, operator, digest, _load_calibrations(card))


def _load_network(card: ModelCard, operator: AnyOperator) -> nn.Module:
    if not card.weights_file.is_file():
        raise CardError(card.path, "weights.file", f"{card.weights_file} does not exist")
    if (found := file_digest(card.weights_file)) != card.weights_sha256:
        raise CardError(card.path, "weights.sha256", f"the file's digest is {found}: it was changed or replaced")
    try:
        weights = load_file(card.weights_file)
    except (SafetensorError, OSError) as error:
        raise CardError(card.path, "weights.file", f"not a safetensors file: {error}") from error
    a = card.architecture
    try:
        network = build(a.name, len(card.class_names), card.input.channels, operator.output_shape, a.options)
    except ArchitectureError as error:
        raise CardError(card.path, "architecture.name", str(error)) from error
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if difference := sorted(set(expected) ^ set(weights)):
        raise CardError(card.path, "weights.file", f"tensors missing or not expected: {', '.join(difference[:5])}")
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise CardError(
                card.path, _blame(card, weights[name].shape, shape),
                f"{name} has shape {tuple(weights[name].shape)} in the weights, {tuple(shape)} by the card",
            )  # fmt: skip
    if bad := [name for name, tensor in weights.items() if not torch.isfinite(tensor.float()).all()]:
        raise CardError(card.path, "weights.file", f"{bad[0]} holds NaN or infinity")
    network.load_state_dict(weights)
    if a.mean is not None and a.std is not None:
        network = Normalised(network, a.mean, a.std)
    return network.eval()


def _blame(card: ModelCard, found: torch.Size, expected: torch.Size) -> str:
    """The field most likely at fault for a tensor's shape: [outputs, inputs] or [outputs, inputs, kernel]."""
    if found[1:] == expected[1:] and expected[0] == len(card.class_names):
        return "classes.names"
    if len(expected) == 4 and found[:1] == expected[:1] and expected[1] == card.input.channels:
        return "input.channels"
    # a linear layer behind the convolutions is the only one whose inputs follow from the image size
    return "input.height" if len(expected) == 2 and found[:1] == expected[:1] else "architecture.options"


@torch.inference_mode()
def _check_forward(card: ModelCard, network: nn.Module, operator: AnyOperator) -> None:
    try:
        logits = network(torch.zeros(1, card.input.channels, *operator.output_shape))
    except Exception as error:  # networks that are not ours raise anything on a wrong size
        raise CardError(card.path, "input", f"the network refuses an image of this size: {error}") from error
    if not isinstance(logits, torch.Tensor):
        raise CardError(card.path, "architecture.name", f"the network answers {type(logits).__name__}, not logits")
    if logits.shape != (1, len(card.class_names)):
        raise CardError(
            card.path, "classes.names", f"{len(card.class_names)} names, but the network answers {tuple(logits.shape)}"
        )


def _load_calibrations(card: ModelCard) -> tuple[Calibration, ...]:
    loaded = []
    for path in sorted((card.path.parent / "bounds").glob("*.json")):
        name = f"bounds/{path.name}"
        try:
            calibration = Calibration.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, CalibrationError) as error:
            raise CardError(card.path, name, str(error)) from error
        facts = {
            "model": (calibration.model, card.id),
            "transformation": (str(calibration.transformation), card.noise.transformation),
            "sigma_gamma": (calibration.sigma_gamma, card.noise.sigma_gamma),
            "preprocessing_digest": (calibration.preprocessing_digest, card.preprocessing.digest()),
        }
        for fact, (found, wanted) in facts.items():
            if found != wanted:
                raise CardError(card.path, f"{name}: {fact}", f"is {found!r}, the card says {wanted!r}")
        loaded.append(calibration)
    return tuple(loaded)
