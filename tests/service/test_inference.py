"""The Open Inference Protocol, by Triton's own client: metadata, answers, metrics, documents."""

from __future__ import annotations

import base64
import gzip
import json
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from certification import __version__
from service.inference import OUTPUTS

from .conftest import Running, Start, constant_network, write_model
from .inference_tools import (
    INFER,
    INTENSITIES,
    LENGTH,
    LEVELS,
    MODEL,
    PNG,
    TEXT,
    check,
    client,
    files,
    request,
    tensor,
    what_recurs,
)
from .pictures import SIDE, colour, encode

__all__ = ["client"]

ROOT = Path(__file__).parents[2]


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata() == {
        "name": "surety",
        "version": __version__,
        "extensions": ["binary_tensor_data"],
    }
    metadata = client.get_model_metadata(MODEL)
    assert (metadata["name"], metadata["versions"], metadata["platform"]) == (MODEL, ["1"], "surety_pytorch")
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, SIDE, SIDE, 1]}]
    assert {one["name"]: one["datatype"] for one in metadata["outputs"]} == {
        "label": "INT64",
        "class_name": "BYTES",
        "abstained": "BOOL",
        "radius": "FP64",
        "certificate": "BYTES",
    }
    assert all(one["shape"] == [-1] for one in metadata["outputs"])
    assert client.get_model_metadata(MODEL, "1") == metadata
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")


def test_kserves_client_finds_the_answers_of_health_in_the_body(server: Running) -> None:
    assert server.client.get("/v2/health/live").json() == {"live": True}
    assert server.client.get("/v2/health/ready").json() == {"ready": True}
    assert server.client.get(f"/v2/models/{MODEL}/ready").json() == {"name": MODEL, "ready": True}


@pytest.mark.parametrize("path", ["/v2/models/none", f"/v2/models/{MODEL}/versions/2"])
def test_other_models_and_versions_are_not_there(server: Running, path: str) -> None:
    for response in (
        server.client.get(path),
        server.client.get(f"{path}/ready"),
        server.client.post(f"{path}/infer", json=request()),
    ):
        check(response, 404, "unknown_model")


def test_a_server_that_shuts_down_is_live_and_not_ready(start: Start) -> None:
    with start() as server, triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        server.services.engine.drain()
        assert client.is_server_live()
        assert not client.is_server_ready()
        assert not client.is_model_ready(MODEL)
        with pytest.raises(InferenceServerException, match="shutting down"):
            client.infer(MODEL, [files(PNG)])
        check(server.client.get("/v2/health/ready"), 503, "draining")


FORMS = {
    "files as binary data": files(PNG),
    "a file in base64": tensor(np.array([TEXT], dtype=np.object_), "BYTES", binary=False),
    "levels as binary data": tensor(LEVELS, "UINT8"),
    "levels in JSON": tensor(LEVELS, "UINT8", binary=False),
    "intensities as binary data": tensor(INTENSITIES, "FP32"),
    "intensities in JSON": tensor(INTENSITIES, "FP32", binary=False),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_image_gets_the_certificate_of_v1(
    server: Running, client: triton.InferenceServerClient, form: str
) -> None:
    fields = {"guarantee": "heuristic", "attack_range": 12, "alpha": 0.005, "n": 300}
    expected = what_recurs(server.certify(PNG, model=MODEL, **fields).text)
    reply = client.infer(MODEL, [FORMS[form]], parameters=fields)
    (certificate,) = reply.as_numpy("certificate")
    assert what_recurs(certificate) == expected
    assert reply.as_numpy("label").tolist() == [1]
    assert reply.as_numpy("class_name").tolist() == [b"one"]
    assert reply.as_numpy("abstained").tolist() == [False]
    assert reply.as_numpy("radius").tolist() == [expected["radius"]]
    assert reply.get_response()["parameters"] == {
        "model_digest": expected["model_digest"],
        "guarantee": "heuristic",
        "alpha": 0.005,
    }


@pytest.mark.parametrize("nested", [LEVELS.tolist(), LEVELS.ravel().tolist()], ids=["nested", "flat"])
@pytest.mark.parametrize("certify", [True, None])
def test_plain_json_as_kserves_client_sends_it(server: Running, nested: list[Any], certify: bool | None) -> None:
    """No content type, the model's name in the body, outputs as JSON."""
    image = {"datatype": "UINT8", "shape": list(LEVELS.shape), "data": nested}
    parameters = {} if certify is None else {"parameters": {"certify": certify}}
    sent = request(id="a", model_name=MODEL, model_version="1", image=image, **parameters)
    response = server.client.post(INFER, content=json.dumps(sent))
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert LENGTH not in response.headers
    reply = response.json()
    assert (reply["model_name"], reply["model_version"], reply["id"]) == (MODEL, "1", "a")
    outputs = {one["name"]: one for one in reply["outputs"]}
    assert set(outputs) == (set(OUTPUTS) if certify else {"label", "class_name", "abstained"})
    assert [outputs[name]["data"] for name in ("label", "class_name", "abstained")] == [[1], ["one"], [False]]
    assert all(one["shape"] == [1] for one in outputs.values())
    if certify:
        expected = what_recurs(server.certify(PNG, model=MODEL).text)
        assert what_recurs(outputs["certificate"]["data"][0]) == expected


def test_without_parameters_it_is_the_prediction_of_v1(server: Running, client: triton.InferenceServerClient) -> None:
    expected = server.predict(PNG, model=MODEL).json()
    reply = client.infer(MODEL, [files(PNG)], model_version="1", request_id="17")
    assert reply.get_response()["id"] == "17"
    assert [one["name"] for one in reply.get_response()["outputs"]] == ["label", "class_name", "abstained"]
    assert reply.as_numpy("label").tolist() == [expected["label"]]
    assert reply.get_response()["parameters"]["alpha"] == expected["alpha"]


def test_certify_says_whose_the_fields_are(client: triton.InferenceServerClient) -> None:
    def names(**parameters: Any) -> list[str]:
        reply = client.infer(MODEL, [files(PNG)], parameters=parameters).get_response()
        assert reply["parameters"]["alpha"] == parameters.get("alpha", 0.01)
        return [one["name"] for one in reply["outputs"]]

    assert "radius" not in names(certify=False, alpha=0.02)
    assert "radius" in names(alpha=0.02)
    with pytest.raises(InferenceServerException, match="attack_range: unknown field"):
        names(certify=False, attack_range=3)


def test_rows_are_answered_each_for_itself(server: Running, client: triton.InferenceServerClient) -> None:
    """At even odds the counts of different images differ, so that a row that got another's answer would show."""
    fields = {"transformation": "l2", "procedure": "paper", "n": 400, "attack_range": 0.01, "alpha": 1e-6}
    images = [encode(np.full((SIDE, SIDE), level, dtype=np.uint8), "PNG") for level in (0, 1, 2)]
    expected = [what_recurs(server.certify(image, model="undecided", **fields).text) for image in images]
    assert len({one["counts"]["passed"] for one in expected}) > 1
    reply = client.infer("undecided", [files(*images)], parameters=fields)
    assert [what_recurs(one) for one in reply.as_numpy("certificate")] == expected
    # An abstention at this alpha has probability 1 - 1e-6.
    assert reply.as_numpy("label").tolist() == [-1] * 3
    assert reply.as_numpy("class_name").tolist() == [b""] * 3
    assert reply.as_numpy("abstained").tolist() == [True] * 3
    assert reply.as_numpy("radius").tolist() == [0.0] * 3


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_bodies_may_be_compressed(client: triton.InferenceServerClient, algorithm: str, binary: bool) -> None:
    image = tensor(LEVELS, "UINT8", binary=binary)
    asked: dict[str, Any] = {"model_name": MODEL, "inputs": [image], "parameters": {"guarantee": "heuristic"}}
    compressed = client.infer(**asked, request_compression_algorithm=algorithm)
    assert compressed.as_numpy("radius") == client.infer(**asked).as_numpy("radius") > 0


@pytest.mark.parametrize(
    ("encoding", "body", "status", "label"),
    [
        ("gzip", gzip.compress(bytes(2**24), mtime=0), 413, "body_too_large"),
        ("deflate", zlib.compress(bytes(2**24)), 413, "body_too_large"),
        ("gzip", b"{}", 400, "malformed_body"),
        ("gzip", gzip.compress(b"{}", mtime=0)[:-1], 400, "malformed_body"),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"{}", 400, "malformed_body"),
        ("gzip", b"", 400, "malformed_body"),
        ("deflate", gzip.compress(b"{}", mtime=0), 400, "malformed_body"),
        ("GZIP", gzip.compress(b"{}", mtime=0), 422, "invalid_field"),
        ("br", b"{}", 415, "content_type"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"{}", mtime=0), mtime=0), 415, "content_type"),
    ],
)
def test_compressed_bodies_expand_within_the_limit(
    server: Running, encoding: str, body: bytes, status: int, label: str
) -> None:
    sent = {"content-type": "application/json", "content-encoding": encoding}
    check(server.client.post(INFER, content=body, headers=sent), status, label)


def test_outputs_are_selected_and_each_may_be_binary(client: triton.InferenceServerClient) -> None:
    wanted = [
        triton.InferRequestedOutput("radius", binary_data=False),
        triton.InferRequestedOutput("label", binary_data=True),
    ]
    reply = client.infer(MODEL, [files(PNG, PNG)], outputs=wanted)
    radius, label = reply.get_response()["outputs"]
    assert radius == {"name": "radius", "datatype": "FP64", "shape": [2], "data": [30.0, 30.0]}
    assert label == {"name": "label", "datatype": "INT64", "shape": [2], "parameters": {"binary_data_size": 16}}
    assert reply.as_numpy("label").tolist() == [1, 1]
    assert reply.as_numpy("certificate") is None


def test_outputs_default_to_json_and_binary_data_says_else(server: Running) -> None:
    outputs = [{"name": "label"}, {"name": "class_name", "parameters": {"binary_data": False}}]
    response = server.client.post(INFER, json=request(outputs=outputs, parameters={"binary_data_output": True}))
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers[LENGTH])
    label, class_name = json.loads(response.content[:length])["outputs"]
    assert (label["parameters"], class_name["data"]) == ({"binary_data_size": 8}, ["one"])
    assert response.content[length:] == struct.pack("<q", 1)


def test_files_of_other_sizes_are_resized_where_the_card_allows_it_and_pixels_never(server: Running) -> None:
    image = base64.b64encode(encode(colour(30, 20), "PNG")).decode()
    path = "/v2/models/rgb/infer"
    sent = request(image={"data": [image]}, parameters={"guarantee": "heuristic"}, outputs=[{"name": "certificate"}])
    (certificate,) = server.client.post(path, json=sent).json()["outputs"][0]["data"]
    assert "resizing from 30 x 20" in json.loads(certificate)["statement"]
    pixels = {"datatype": "UINT8", "shape": [1, 30, 20, 3], "data": colour(30, 20).ravel().tolist()}
    assert check(server.client.post(path, json=request(image=pixels)), 422, "image_shape")["expected"] == [
        -1,
        12,
        12,
        3,
    ]


def test_metrics_name_routes_and_outcomes(server: Running, client: triton.InferenceServerClient) -> None:
    client.infer(MODEL, [files(PNG)], parameters={"guarantee": "heuristic"}, model_version="1")
    text = server.client.get("/metrics").text
    assert (
        'surety_requests_total{method="POST",route="/v2/models/{model_id}/versions/{version}/infer",status="200"}'
        in text
    )
    outcome = 'surety_outcomes_total{guarantee="heuristic",outcome="certified",request="certify",transformation='
    assert outcome in text


def test_openapi_documents_errors_and_an_example_that_works(start: Start, mnist_zoo: Path) -> None:
    with start(zoo=mnist_zoo) as server:
        paths = server.client.get("/openapi.json").json()["paths"]
        operation = paths["/v2/models/{model_id}/infer"]["post"]
        assert set(operation["requestBody"]["content"]) == {"application/json", "application/octet-stream"}
        assert {"400", "404", "413", "415", "422", "429", "503"} <= set(operation["responses"])
        for status, response in operation["responses"].items():
            assert "application/json" in response["content"]
            if status != "200":
                assert response["content"]["application/json"]["schema"]["allOf"][1]["required"] == ["error"]
        (example,) = operation["requestBody"]["content"]["application/json"]["examples"].values()
        reply = server.client.post(INFER, json=example["value"])
        assert {one["name"] for one in reply.json()["outputs"]} == set(OUTPUTS)


@pytest.mark.parametrize("language", ["sh", "python"])
def test_examples_of_the_page_work(start: Start, tmp_path: Path, language: str) -> None:
    """Any classifier of 28 x 28 pixels stands for the shipped one."""
    (example,) = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "inference.md").read_text(), re.S)
    write_model(tmp_path, "mnist-rotation", "rotation", constant_network(1, 28), side=28)
    with start(zoo=tmp_path) as server:
        code = example.replace("127.0.0.1:8000", server.url.removeprefix("http://"))
        assert code != example
        command = ["bash", "-ec", code] if language == "sh" else [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    if language == "sh":
        outputs = {one["name"]: one["data"] for one in json.loads(done.stdout)["outputs"]}
        assert (outputs["class_name"], outputs["radius"]) == (["one"], [10.0])
    else:
        assert done.stdout.count("one 10.0 With probability at least 0.99") == 2
