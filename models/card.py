"""A model's card: what it takes, how it was trained, which noise it stands, and where its weights are.

``zoo/<model id>/card.toml`` holds it; every field is checked at start-up, and an error names card and field.
"""

from __future__ import annotations

import hashlib
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu.lattice import LARGEST_SIGMA, LEAST_SIGMA
from gpu.preprocess import Preprocessing, PreprocessingError

HEX_DIGITS = frozenset("0123456789abcdef")


class CardError(ValueError):
    """A card, or what it names, is wrong; the message says which card and which field."""

    def __init__(self, card: Path, field_name: str, problem: str) -> None:
        super().__init__(f"{card}: {field_name}: {problem}")
        self.card, self.field = card, field_name


@dataclass(frozen=True)
class InputSpec:
    """Images the model takes: pixels and channels (1 or 3); other sizes are refused unless ``resize_uploads``."""

    height: int
    width: int
    channels: int
    resize_uploads: bool = False


@dataclass(frozen=True)
class Architecture:
    """Name and options of the network; ``mean, std`` normalise its input after the pixel noise."""

    name: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NoiseSpec:
    """The noise the model was trained for and is certified with.

    ``transformation`` is "rotation", "translation" or "none"; ``sigma_gamma`` in degrees or pixels,
    ``sigma_delta`` in intensity; 0 means that there is none.
    """

    transformation: str
    sigma_gamma: float
    sigma_delta: float


@dataclass(frozen=True)
class ModelCard:
    """A validated card."""

    path: Path
    id: str
    description: str
    input: InputSpec
    class_names: tuple[str, ...]
    architecture: Architecture
    weights_file: Path
    weights_sha256: str
    preprocessing: Preprocessing
    noise: NoiseSpec
    attack_range_limit: float
    attack_range_default: float
    accuracy: Mapping[str, Any]
    training: Mapping[str, Any]

    @property
    def transformations(self) -> tuple[str, ...]:
        """What can be certified with this model's noise; l2 needs one that the lattice has (``gpu.lattice``)."""
        named = () if self.noise.transformation == "none" else (self.noise.transformation,)
        return (*named, "l2") if LEAST_SIGMA <= self.noise.sigma_delta <= LARGEST_SIGMA else named


class _Table:
    """Reads one table of a card; remembers what was read, so that unknown fields are refused."""

    def __init__(self, card: Path, name: str, values: object) -> None:
        if not isinstance(values, dict):
            raise CardError(card, name, "must be a table")
        self.card, self.name, self.values, self.read = card, name, values, set[str]()

    def fail(self, key: str, problem: str) -> CardError:
        return CardError(self.card, f"{self.name}.{key}" if self.name else key, problem)

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = None, *, required: bool = True) -> Any:
        self.read.add(key)
        if key not in self.values:
            if required:
                raise self.fail(key, "is missing")
            return default
        value = self.values[key]
        wrong_bool = isinstance(value, bool) and kind is not bool
        if wrong_bool or not isinstance(value, kind):
            raise self.fail(key, f"has the wrong type: {value!r}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        value = float(self.get(key, (int, float), default, required=default is None))
        if not (math.isfinite(value) and low <= value <= high):
            raise self.fail(key, f"must be between {low} and {high}, not {value}")
        return value

    def integer(self, key: str, low: int, high: int) -> int:
        value = int(self.get(key, int))
        if not low <= value <= high:
            raise self.fail(key, f"must be between {low} and {high}, not {value}")
        return value

    def pair(self, key: str) -> tuple[int, int] | None:
        value = self.get(key, list, required=False)
        if value is None:
            return None
        if len(value) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) for side in value):
            raise self.fail(key, f"must be [height, width], not {value!r}")
        return value[0], value[1]

    def floats(self, key: str, length: int) -> tuple[float, ...] | None:
        value = self.get(key, list, required=False)
        if value is None:
            return None
        if len(value) != length or not all(type(v) in (int, float) and math.isfinite(v) for v in value):
            raise self.fail(key, f"must be {length} finite numbers, one a channel, not {value!r}")
        return tuple(float(v) for v in value)

    def close(self) -> None:
        if unknown := sorted(set(self.values) - self.read):
            raise self.fail(unknown[0], "is not a known field")


def read_card(path: Path) -> ModelCard:
    """Read and check ``card.toml``; raises :class:`CardError` naming the card and the field at fault."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CardError(path, "card.toml", str(error)) from error
    top = _Table(path, "", data)

    def table(name: str) -> _Table:
        return _Table(path, name, top.get(name, dict))

    identifier = top.get("id", str)
    if identifier != path.parent.name:
        raise CardError(path, "id", f"must be the name of its folder, {path.parent.name!r}, not {identifier!r}")
    inputs = table("input")
    spec = InputSpec(
        inputs.integer("height", 2, 4096),
        inputs.integer("width", 2, 4096),
        inputs.integer("channels", 1, 3),
        inputs.get("resize_uploads", bool, False, required=False),
    )
    if spec.channels == 2:
        raise inputs.fail("channels", "must be 1 or 3, not 2")
    classes = table("classes")
    names = classes.get("names", list)
    if len(names) < 2 or not all(isinstance(name, str) for name in names):
        raise classes.fail("names", "must be at least two strings")
    network = table("architecture")
    architecture = Architecture(
        network.get("name", str),
        network.floats("mean", spec.channels),
        network.floats("std", spec.channels),
        network.get("options", dict, {}, required=False),
    )
    if (architecture.mean is None) != (architecture.std is None) or min(architecture.std or (1.0,)) <= 0.0:
        raise network.fail("std", "mean and std go together, and std must be > 0")
    weights = table("weights")
    digest = weights.get("sha256", str)
    if len(digest) != 64 or not set(digest) <= HEX_DIGITS:
        raise weights.fail("sha256", "must be 64 lower-case hexadecimal digits")
    noise = table("noise")
    transformation = noise.get("transformation", str)
    if transformation not in ("rotation", "translation", "none"):
        raise noise.fail("transformation", f"must be rotation, translation or none, not {transformation!r}")
    sigma_gamma, sigma_delta = noise.number("sigma_gamma", 0.0, 360.0), noise.number("sigma_delta", 0.0, 10.0)
    if (sigma_gamma == 0.0) != (transformation == "none"):
        raise noise.fail("sigma_gamma", f"must be > 0 with a transformation and 0 with none, not {sigma_gamma}")
    if transformation == "none" and sigma_delta == 0.0:
        raise noise.fail("sigma_delta", "must be > 0 where there is no transformation: nothing could be certified")
    limits, defaults = table("limits"), table("defaults")
    limit = limits.number("attack_range", 1e-6, 180.0)
    card = ModelCard(
        path=path,
        id=identifier,
        description=top.get("description", str),
        input=spec,
        class_names=tuple(names),
        architecture=architecture,
        weights_file=path.parent / weights.get("file", str),
        weights_sha256=digest,
        preprocessing=_preprocessing(table("preprocessing"), spec),
        noise=NoiseSpec(transformation, sigma_gamma, sigma_delta),
        attack_range_limit=limit,
        attack_range_default=defaults.number("attack_range", 1e-6, limit),
        accuracy=top.get("accuracy", dict, {}, required=False),
        training=top.get("training", dict, {}, required=False),
    )
    for part in (top, inputs, classes, network, weights, noise, limits, defaults):
        part.close()
    return card


def _preprocessing(table: _Table, spec: InputSpec) -> Preprocessing:
    try:
        settings = Preprocessing(
            vignette=table.get("vignette", str, "none", required=False),
            margin=table.number("margin", 0.0, 4096.0, 0.0),
            blur_size=table.get("blur_size", int, 1, required=False),
            blur_sigma=table.number("blur_sigma", 1e-6, 4096.0, 1.0),
            resize=table.pair("resize"),
            crop=table.pair("crop"),
            interpolation=table.get("interpolation", str, "bilinear", required=False),
            taper=table.number("taper", 0.0, 4096.0, 0.0),
        )
        settings.operator(spec.height, spec.width)
    except PreprocessingError as error:
        raise CardError(table.card, table.name, str(error)) from error
    table.close()
    return settings


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_cards(zoo: Sequence[Path]) -> list[Path]:
    """All cards of some zoo folders, by name."""
    return sorted(card for folder in zoo for card in folder.glob("*/card.toml"))
