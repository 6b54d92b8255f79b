"""What the tests of the inference protocol share: requests, and errors as the protocol has them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray

from service.errors import TYPE_PREFIX

from .conftest import Running
from .pictures import encode, grey

MODEL = "constant-rotation"
INFER = f"/v2/models/{MODEL}/infer"
PNG = encode(grey(), "PNG")
TEXT = base64.b64encode(PNG).decode()
LEVELS = grey()[None, :, :, None]
INTENSITIES = LEVELS.astype(np.float32) / np.float32(255)
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        yield client


def tensor(values: NDArray[Any], datatype: str, *, binary: bool = True) -> triton.InferInput:
    return triton.InferInput("image", list(values.shape), datatype).set_data_from_numpy(values, binary_data=binary)


def files(*images: bytes) -> triton.InferInput:
    return tensor(np.array(images, dtype=np.object_), "BYTES")


def what_recurs(certificate: str | bytes) -> dict[str, Any]:
    reply: dict[str, Any] = json.loads(certificate)
    del reply["seconds"], reply["certificate_id"]
    return reply


def request(**changes: Any) -> dict[str, Any]:
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [TEXT]}
    return {"inputs": [{**image, **changes.pop("image", {})}], **changes}


def with_binary(header: dict[str, Any], binary: bytes) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(header).encode()
    return text + binary, {LENGTH: str(len(text))}


def check(response: httpx.Response, status: int, label: str) -> dict[str, Any]:
    """An error as the protocol has it, with the problem's members."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    problem: dict[str, Any] = response.json()
    assert problem["type"] == TYPE_PREFIX + label, problem
    assert problem["error"] == problem["detail"] != ""
    assert problem["status"] == status
    assert len(response.content) < 5000
    return problem
