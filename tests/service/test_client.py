"""The clients against a real server: answers, names, types, images."""

from __future__ import annotations

import inspect
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import service.client
import service.schemas
from certification.effort import MAX_DRAWS
from service.client import AsyncClient, Client, Refused
from service.schemas import BoundsQuery, CertifyFields, PredictFields, VerifyFields
from service.upload import file_bytes

from .client_tools import DIGIT, READY, Ask, Script, ask, pauses
from .conftest import Running, Start
from .pictures import SIDE, colour, encode, grey

__all__ = ["ask", "pauses"]
ROOT = Path(__file__).parents[2]

def test_answers_are_the_servers(server: Running, ask: Ask) -> None:
    fields = {"guarantee": "individual", "attack_range": 12.0, "alpha": 0.005}
    for name in ("certify", "predict"):
        given = fields if name == "certify" else {"alpha": 0.005, "n0": 50}
        raw = server.post(f"/v1/{name}", **given).json()
        reply = ask(server.url, name, DIGIT, **given).model_dump(mode="json")
        assert reply.pop("seconds").keys() == raw.pop("seconds").keys()
        assert reply.pop("certificate_id", None) != raw.pop("certificate_id", "")
        assert reply == raw
    for name, path in (("models", "/v1/models"), ("bounds", "/v1/bounds"), ("ready", "/health/ready")):
        assert ask(server.url, name).model_dump(mode="json") == server.client.get(path).json()
    raw = server.client.get("/v1/models/rgb").json()
    assert ask(server.url, "model", "rgb").model_dump(mode="json") == raw
    (bound,) = ask(server.url, "bounds", transformation="translation").bounds
    assert bound.model == "constant-translation"


def test_certificates_are_fetched_and_verified(start: Start, ask: Ask, tmp_path: Path) -> None:
    with start(data_dir=tmp_path, store_images=True) as server:
        found = ask(server.url, "certify", DIGIT, guarantee="heuristic")
        stored = ask(server.url, "certificate", found.certificate_id)
        assert stored.certificate["reply"]["radius"] == found.radius
        assert stored.key_fingerprint == ask(server.url, "signing_key").fingerprint
        for image in (DIGIT, None):
            reply = ask(server.url, "verify", found.certificate_id, image, deadline_ms=100_000)
            assert (reply.verified, reply.certificate_id) == (True, found.certificate_id)
        assert not ask(server.url, "verify", found.certificate_id, encode(grey(seed=1), "PNG")).verified
        with pytest.raises(Refused, match="unknown_certificate"):
            ask(server.url, "certificate", "none")


def test_every_kind_of_image_gets_the_same_answer(server: Running, ask: Ask, tmp_path: Path) -> None:
    """The counts depend on the noise, and the noise on every pixel."""
    path = tmp_path / "digit.png"
    path.write_bytes(DIGIT)
    array = grey()
    images = [DIGIT, path, str(path), array, array[:, :, None], Image.fromarray(array), np.stack([array] * 3, axis=2)]
    fields = {"model": "undecided", "transformation": "l2", "n": 300, "procedure": "paper"}
    answers = [ask(server.url, "predict", image, **fields).counts for image in images]
    assert answers == [answers[0]] * len(images)
    other = ask(server.url, "predict", grey(seed=1), **fields).counts
    assert other != answers[0]


def test_refusals_are_typed(server: Running, ask: Ask) -> None:
    with pytest.raises(Refused) as caught:
        ask(server.url, "certify", grey(7, 5))
    refusal = caught.value
    assert (refusal.status, refusal.type, refusal.label) == (422, "urn:surety:problem:image_shape", "image_shape")
    assert refusal.title == "The image has the wrong size for the model"
    assert "7 x 5" in refusal.detail
    assert refusal.members == {"field": "image", "expected": [SIDE, SIDE], "actual": [7, 5]}
    assert refusal.retry_after is None
    assert re.fullmatch("[0-9a-f]{32}", refusal.request_id or "")
    assert refusal.request_id in str(refusal)
    with pytest.raises(Refused) as caught:
        ask(server.url, "model", "no such/model?")
    assert (caught.value.status, caught.value.label) == (404, "not_found")


def test_fields_unknown_to_the_client_reach_the_server(server: Running, ask: Ask) -> None:
    with pytest.raises(Refused) as caught:
        ask(server.url, "certify", DIGIT, no_such_field=3)
    assert (caught.value.label, caught.value.members["field"]) == ("invalid_field", "no_such_field")
    with pytest.raises(Refused, match="attack_range"):
        ask(server.url, "predict", DIGIT, attack_range=3)


def test_a_server_that_drains_is_asked_again(start: Start, ask: Ask, pauses: list[float]) -> None:
    with start() as server:
        server.services.engine.drain()
        with pytest.raises(Refused) as caught:
            ask(server.url, "certify", DIGIT, settings={"retries": 2})
    assert (caught.value.status, caught.value.label) == (503, "draining")
    assert pauses == [caught.value.retry_after] * 2


def test_the_clients_name_every_field_the_server_has() -> None:
    methods = {"certify": CertifyFields, "predict": PredictFields, "bounds": BoundsQuery, "verify": VerifyFields}
    for method, fields in methods.items():
        for client in (Client, AsyncClient):
            names = set(inspect.signature(getattr(client, method)).parameters)
            assert names - {"self", "image", "more", "certificate_id"} == set(fields.model_fields), method


def test_the_limit_of_draws_is_the_plans() -> None:
    assert service.schemas.MAX_DRAWS == MAX_DRAWS


def test_the_client_and_the_commands_import_no_heavy_package() -> None:
    script = "import sys, service.client, service.commands; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    loaded = set(found.split())
    assert "service.client" in loaded
    assert not loaded & {"torch", "numba", "scipy", "numpy", "PIL", "fastapi", "starlette", "uvicorn", "service.app"}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_images_are_sent_without_loss(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray((np.arange(60, dtype=np.uint16) * 1000).reshape(6, 10))
    else:
        image = Image.fromarray(colour(6, 10)).convert(mode)
    with Image.open(io.BytesIO(file_bytes(image))) as sent:
        assert sent.format == "PNG"
        assert (
            sent.convert("RGBA" if mode != "I;16" else mode).tobytes()
            == image.convert("RGBA" if mode != "I;16" else mode).tobytes()
        )


def test_an_opened_photograph_is_sent_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row is the right side
    photograph = Image.open(io.BytesIO(encode(grey(4, 6), "PNG", exif=exif)))
    with Image.open(io.BytesIO(file_bytes(photograph))) as sent:
        assert np.array_equal(np.asarray(sent), np.rot90(grey(4, 6), -1))
        assert not sent.getexif()


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (grey().astype(np.float32), ValueError),
        (np.zeros((2, 2, 5), np.uint8), ValueError),
        (np.zeros((0, 4), np.uint8), ValueError),
        (np.zeros(4, np.uint8), ValueError),
        (Image.new("F", (3, 3)), ValueError),
        (Image.new("CMYK", (3, 3)), ValueError),
        (Path("no/such/file.png"), FileNotFoundError),
        (3, TypeError),
        (None, TypeError),
    ],
)
def test_what_is_no_image_is_refused_before_it_is_sent(image: Any, error: type[Exception], ask: Ask) -> None:
    script = Script(httpx.Response(200, json=READY))
    with pytest.raises(error):
        ask("http://there", "certify", image, settings=script.settings())
    assert not script.requests
