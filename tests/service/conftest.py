"""A tiny zoo, and real servers on it: uvicorn in a thread, a synchronous client."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import save_file

from gpu.preprocess import Preprocessing
from models.architectures import SmallConv
from service.app import create_app
from service.server import DrainingServer, configuration
from service.services import Services
from service.settings import Settings

from .databases import Postgres, postgres_cluster
from .forks import Forks, forking_parent
from .orders import SECRET
from .pictures import SIDE, encode, grey
from .waiting import COMPILING, until

CLASSES = ("zero", "one", "two")
SIGMA_DELTA = 0.3
SIGMA_GAMMA = {"rotation": 30.0, "translation": 2.0}
CALIBRATED = {"rotation": 30.0, "translation": 2.0}


def constant_network(channels: int, side: int = SIDE) -> SmallConv:
    """Answers class 1 whatever it sees, so that every draw agrees and radii are known exactly."""
    network = SmallConv(len(CLASSES), channels, (side, side), width=2)
    last = network.head[2]
    torch.nn.init.zeros_(last.weight)
    last.bias.data = torch.tensor([0.0, 1.0, 0.0])
    return network


def undecided_network() -> SmallConv:
    """Classes 0 and 1 by the sign of a random feature of pure noise, shifted to its median: even odds."""
    torch.manual_seed(1)
    network = SmallConv(len(CLASSES), 1, (SIDE, SIDE), width=2).eval()
    hidden, last = network.head[0], network.head[2]
    hidden.weight.data[1] = -hidden.weight.data[0]
    with torch.inference_mode():
        features = network.features(SIGMA_DELTA * torch.randn(20_000, 1, SIDE, SIDE)).flatten(1)
        middle = (features @ hidden.weight[0]).median()
    hidden.bias.data[0], hidden.bias.data[1] = -middle, middle
    torch.nn.init.zeros_(last.weight)
    last.weight.data[0, 0] = last.weight.data[1, 1] = 1.0
    last.bias.data = torch.tensor([0.0, 0.0, -1.0])
    return network


def write_model(
    zoo: Path,
    name: str,
    transformation: str,
    network: SmallConv,
    *,
    channels: int = 1,
    resize: bool = False,
    calibrated: bool = True,
    side: int = SIDE,
) -> Path:
    """Put a model into a zoo; returns its card."""
    folder = zoo / name
    (folder / "bounds").mkdir(parents=True)
    save_file(network.state_dict(), folder / "weights.safetensors")
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    limit = {"rotation": 45.0, "translation": 3.0}[transformation]
    card = folder / "card.toml"
    card.write_text(
        f"""
id = "{name}"
description = "made by the tests"
[input]
height = {side}
width = {side}
channels = {channels}
resize_uploads = {str(resize).lower()}
[classes]
names = {json.dumps(CLASSES)}
[architecture]
name = "small_conv"
options = {{ width = 2 }}
[weights]
file = "weights.safetensors"
sha256 = "{digest}"
[preprocessing]
vignette = "circle"
margin = 1.0
[noise]
transformation = "{transformation}"
sigma_gamma = {SIGMA_GAMMA[transformation]}
sigma_delta = {SIGMA_DELTA}
[limits]
attack_range = {limit}
[defaults]
attack_range = {CALIBRATED[transformation]}
"""
    )
    if calibrated:
        bound = calibration(name, transformation)
        (folder / "bounds" / "one.json").write_text(json.dumps(bound))
    return card


def calibration(name: str, transformation: str) -> dict[str, Any]:
    """A stored bound that fits :func:`write_model`."""
    return {
        "schema": 3,
        "model": name,
        "transformation": transformation,
        "attack_range": CALIBRATED[transformation],
        "error_bound": 0.2,
        "sampled_attacks": 0,
        "factor": 0.0,
        "rho_E": 0.001,
        "q_E": 0.99,
        "confidence": 0.999,
        "images": 1000,
        "images_passed": 1000,
        "parameter_draws": 8000,
        "pilot_images": 100,
        "pilot_draws": 100,
        "dataset": "made up",
        "split": "train",
        "seed": 0,
        "sigma_gamma": SIGMA_GAMMA[transformation],
        "preprocessing_digest": Preprocessing(vignette="circle", margin=1.0).digest(),
        "method": "made up",
        "largest_bound": 0.19,
        "image_is": "either",
        "version": "0",
        "created": "2026-01-01T00:00:00Z",
        "command": "none",
    }


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of 12 x 12 images; ``constant-rotation`` is the first for rotation."""
    root = tmp_path_factory.mktemp("zoo")
    write_model(root, "constant-rotation", "rotation", constant_network(1))
    write_model(root, "constant-translation", "translation", constant_network(1))
    write_model(root, "rgb", "rotation", constant_network(3), channels=3, resize=True, calibrated=False)
    write_model(root, "undecided", "rotation", undecided_network())
    return root


@pytest.fixture(scope="session")
def mnist_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same networks for images of 28 x 28 pixels."""
    root = tmp_path_factory.mktemp("mnist-zoo")
    for transformation in SIGMA_GAMMA:
        write_model(root, f"constant-{transformation}", transformation, constant_network(1, 28), side=28)
    return root


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A cluster of PostgreSQL; whoever stops it starts it again."""
    with postgres_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Begins servers in processes of their own."""
    with forking_parent(tmp_path_factory.mktemp("forks")) as begun:
        yield begun


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of the kind that the test is parametrized with."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'certificates.sqlite'}"
    cluster: Postgres = request.getfixturevalue("postgres")
    return cluster.create_database()


@dataclass
class Running:
    """A server in a thread and a client of it."""

    url: str
    client: httpx.Client
    services: Services

    def certify(self, image: bytes | None = None, **fields: Any) -> httpx.Response:
        """POST /v1/certify as multipart."""
        return self.post("/v1/certify", image, **fields)

    def predict(self, image: bytes | None = None, **fields: Any) -> httpx.Response:
        """POST /v1/predict as multipart."""
        return self.post("/v1/predict", image, **fields)

    def post(self, path: str, image: bytes | None = None, **fields: Any) -> httpx.Response:
        """A multipart upload; a grey PNG of the right size by default."""
        data = encode(grey(), "PNG") if image is None else image
        return self.client.post(
            path, data={name: str(value) for name, value in fields.items()}, files={"image": ("image", data)}
        )


Start = Callable[..., AbstractContextManager[Running]]


@pytest.fixture(scope="session")
def start(zoo: Path) -> Start:
    """``with start(max_running=1) as server``: a server of its own, by default on the tiny zoo and ready.

    The noise is the same in every run of the tests, so that none of them fails by chance.
    """
    usual: dict[str, Any] = {
        "zoo": zoo, "device": "cpu", "port": 0, "batch_size": 64, "worker": "thread", "noise_secret": SECRET,
    }  # fmt: skip

    @contextmanager
    def _start(*, wait: bool = True, **changes: Any) -> Iterator[Running]:
        settings = Settings(**{**usual, **changes})
        app = create_app(settings)
        services: Services = app.state.services
        server = DrainingServer(configuration(app, settings), services)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            until(lambda: server.started)
            port = server.servers[0].sockets[0].getsockname()[1]
            url = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=url, timeout=COMPILING) as client:
                if wait:
                    until(lambda: client.get("/health/ready").status_code == 200, COMPILING)
                yield Running(url, client, services)
        finally:
            server.should_exit = True
            thread.join(timeout=20.0)
            if thread.is_alive():
                raise RuntimeError("the server did not stop")

    return _start


@pytest.fixture(scope="session")
def server(start: Start) -> Iterator[Running]:
    """One server for all tests that leave nothing behind."""
    with start() as running:
        yield running
