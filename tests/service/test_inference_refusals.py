"""The Open Inference Protocol, byte by byte: what is refused, and that anything is understood or refused."""

from __future__ import annotations

import base64
import json
import socket
import struct
import time
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from models.card import ModelCard
from service.certifier import Certifier
from service.errors import FieldError, MalformedBodyError, RequestError
from service.images import ImageSpec, decode
from service.inference import read_inference
from service.tensors import intensities, pack, strings_from_bytes

from .conftest import Running, Start, until
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
    with_binary,
)
from .pictures import SIDE, encode, grey

__all__ = ["client"]

REFUSED: dict[str, tuple[Any, int, str]] = {
    # the request
    "no object": ([], 400, "malformed_body"),
    "nothing": ({}, 422, "invalid_field"),
    "unknown member": (request(colour="red"), 422, "invalid_field"),
    "id that is no text": (request(id=7), 422, "invalid_field"),
    "model of another path": (request(model_name="rgb"), 422, "invalid_field"),
    "version of another path": (request(model_version="2"), 422, "invalid_field"),
    # parameters
    "unknown parameter": (request(parameters={"radius": 3}), 422, "invalid_field"),
    "timeout": (request(parameters={"timeout": 1000}), 422, "invalid_field"),
    "alpha out of range": (request(parameters={"alpha": 1}), 422, "invalid_field"),
    "alpha as text": (request(parameters={"alpha": "0.1"}), 422, "invalid_field"),
    "model as a parameter": (request(parameters={"model": MODEL}), 422, "invalid_field"),
    "certify as text": (request(parameters={"certify": "yes"}), 422, "invalid_field"),
    "another transformation": (request(parameters={"transformation": "translation"}), 422, "model_transformation"),
    "too few draws": (request(parameters={"guarantee": "heuristic", "n": 5}), 422, "cannot_certify"),
    "attack range beyond the model": (
        request(parameters={"guarantee": "heuristic", "attack_range": 46}),
        422,
        "attack_range",
    ),
    # outputs
    "unknown output": (request(outputs=[{"name": "logits"}]), 422, "invalid_field"),
    "output twice": (request(outputs=[{"name": "label"}] * 2), 422, "invalid_field"),
    "radius of a prediction": (
        request(outputs=[{"name": "radius"}], parameters={"certify": False}),
        422,
        "invalid_field",
    ),
    "classification": (
        request(outputs=[{"name": "label", "parameters": {"classification": 2}}]),
        422,
        "invalid_field",
    ),
    "shared memory": (
        request(outputs=[{"name": "label", "parameters": {"shared_memory_region": "x"}}]),
        422,
        "invalid_field",
    ),
    # the input
    "no input": ({"inputs": []}, 422, "invalid_field"),
    "two inputs": ({"inputs": request()["inputs"] * 2}, 422, "invalid_field"),
    "input of another name": (request(image={"name": "x"}), 422, "invalid_field"),
    "unknown datatype": (request(image={"datatype": "FP16"}), 422, "invalid_field"),
    "no data": (request(image={"data": None}), 422, "invalid_field"),
    "no rows": (request(image={"shape": [0], "data": []}), 422, "invalid_field"),
    "negative rows": (request(image={"shape": [-1]}), 422, "invalid_field"),
    "rows as a fraction": (request(image={"shape": [1.0]}), 422, "invalid_field"),
    "no shape": (request(image={"shape": []}), 422, "image_shape"),
    "a shape of Triton's batches": (request(image={"shape": [1, 1]}), 422, "image_shape"),
    "too many rows": (request(image={"shape": [17], "data": [TEXT] * 17}), 422, "invalid_field"),
    "endless rows": (request(image={"shape": [10**30]}), 422, "invalid_field"),
    "fewer rows than the shape": (request(image={"shape": [2]}), 422, "invalid_field"),
    "data that is no list": (request(image={"data": TEXT}), 422, "invalid_field"),
    "not base64": (request(image={"data": ["!"]}), 422, "invalid_field"),
    "no text": (request(image={"data": [7]}), 422, "invalid_field"),
    "an empty file": (request(image={"data": [""]}), 422, "image_empty"),
    "not an image": (request(image={"data": ["aGVsbG8="]}), 415, "image_format"),
    "one image without a row": (
        request(image={"datatype": "UINT8", "shape": [SIDE, SIDE, 1], "data": LEVELS.ravel().tolist()}),
        422,
        "image_shape",
    ),
    "channels first": (
        request(image={"datatype": "UINT8", "shape": [1, 1, SIDE, SIDE], "data": LEVELS.ravel().tolist()}),
        422,
        "image_shape",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(server: Running, name: str) -> None:
    sent, status, label = REFUSED[name]
    check(server.client.post(INFER, json=sent), status, label)


NO_PIXELS = [256, -1, 10**400, 0.5, True, None, "1", [1], {}]


@pytest.mark.parametrize("value", NO_PIXELS, ids=lambda value: repr(value)[:9])
@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
def test_pixels_of_json_are_refused(server: Running, datatype: str, value: Any) -> None:
    data = [value, *[0] * (SIDE * SIDE - 1)]
    response = server.client.post(
        INFER, json=request(image={"datatype": datatype, "shape": [1, SIDE, SIDE, 1], "data": data})
    )
    assert "data" in check(response, 422, "invalid_field")["error"]


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e400", "1e-6", "0.5"])
def test_numbers_that_are_no_intensities_are_refused(server: Running, text: str) -> None:
    image = {"datatype": "FP32", "shape": [1, SIDE, SIDE, 1], "data": ["X", *[0] * (SIDE * SIDE - 1)]}
    body = json.dumps(request(image=image)).replace('"X"', text)
    check(server.client.post(INFER, content=body), 422, "invalid_field")


LIES: dict[str, tuple[bytes, dict[str, str]]] = {}
"""Lengths that do not add up: body and headers; the image in it is good."""


def lie(name: str, size: Any, binary: bytes, **image: Any) -> None:
    header = request(image={"data": None, "parameters": {"binary_data_size": size}, **image})
    LIES[name] = with_binary(header, binary)


FILE = struct.pack("<I", len(PNG)) + PNG
RAW = {"datatype": "UINT8", "shape": list(LEVELS.shape)}
lie("bytes after the data", len(FILE), FILE + b"x")
lie("less data than announced", len(FILE), FILE[:-1])
lie("more than the body has", 2**63, FILE)
lie("no binary data at all", len(FILE), b"")
lie("an element longer than the data", len(FILE), struct.pack("<I", len(PNG) + 1) + PNG)
lie("an element of 4 GiB", len(FILE), b"\xff" * 4 + PNG)
lie("an element that overlaps the next", len(FILE) + 4, struct.pack("<I", len(PNG) + 4) + PNG + bytes(4), shape=[2])
lie("a second element without a length", len(FILE) + 3, FILE + bytes(3), shape=[2])
lie("an element too many", len(FILE) + 4, FILE + bytes(4))
lie("a pixel too few", 143, bytes(143), **RAW)
lie("a pixel too many", 145, bytes(145), **RAW)
lie("levels as intensities", 144, bytes(144), **{**RAW, "datatype": "FP32"})
GOOD, _ = with_binary(request(), b"")
for value in ("-1", "1e2", "0x10", "", "99999999999999999999", "9" * 5000, str(len(GOOD) + 1), "0", "10", "²"):
    LIES[f"header {value[:30]!r}"] = (GOOD, {LENGTH: value})
LIES["binary data without a header"] = (LIES["bytes after the data"][0], {})


@pytest.mark.parametrize("name", LIES)
def test_lengths_that_lie(server: Running, name: str) -> None:
    body, headers = LIES[name]
    raw = {field: value.encode("latin-1") for field, value in headers.items()}
    check(server.client.post(INFER, content=body, headers=raw), 400, "malformed_body")


@pytest.mark.parametrize("size", [-1, 1.5, "7", True, {}])
def test_a_size_must_be_a_number_of_bytes(server: Running, size: Any) -> None:
    body, headers = with_binary(request(image={"data": None, "parameters": {"binary_data_size": size}}), FILE)
    check(server.client.post(INFER, content=body, headers=headers), 422, "invalid_field")


def test_data_is_given_once(server: Running) -> None:
    body, headers = with_binary(request(image={"parameters": {"binary_data_size": len(FILE)}}), FILE)
    check(server.client.post(INFER, content=body, headers=headers), 422, "invalid_field")
    twice = [(LENGTH, "10"), (LENGTH, "20")]
    check(server.client.post(INFER, content=GOOD, headers=twice), 400, "malformed_body")


def test_a_refusal_says_which_row(server: Running) -> None:
    wrong = base64.b64encode(encode(grey(13, 12), "PNG")).decode()
    problem = check(
        server.client.post(INFER, json=request(image={"shape": [3], "data": [TEXT, TEXT, wrong]})), 422, "image_shape"
    )
    assert problem["row"] == 2
    assert problem["error"].startswith("row 2: ")


@pytest.mark.parametrize("wrong", ["!", 7])
def test_a_refusal_says_which_row_is_no_file(server: Running, wrong: Any) -> None:
    sent = request(image={"shape": [3], "data": [TEXT, wrong, TEXT]})
    problem = check(server.client.post(INFER, json=sent), 422, "invalid_field")
    assert problem["row"] == 1
    assert problem["error"].startswith("row 1: ")


@pytest.mark.parametrize("value", [256, 0.5, 10**400, None, "1"], ids=lambda value: repr(value)[:9])
@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
@pytest.mark.parametrize("nested", [True, False])
def test_a_refusal_says_in_which_row_a_pixel_is(server: Running, datatype: str, value: Any, nested: bool) -> None:
    rows: list[Any] = np.zeros((3, SIDE, SIDE, 1), dtype=int).tolist()
    rows[1][3][4] = [value]
    data = rows if nested else [pixel for row in rows for line in row for (pixel,) in line]
    sent = request(image={"datatype": datatype, "shape": [3, SIDE, SIDE, 1], "data": data})
    problem = check(server.client.post(INFER, json=sent), 422, "invalid_field")
    assert problem["row"] == 1
    assert problem["error"].startswith("row 1: data: ")


def test_clients_get_our_message(client: triton.InferenceServerClient) -> None:
    for asked, status, message in (
        ({"inputs": [files(b"GIF")]}, "415", "row 0: image is not a PNG"),
        ({"inputs": [files(PNG)], "parameters": {"alpha": 2}}, "422", "alpha: "),
        ({"inputs": [tensor(INTENSITIES - np.float32(0.5), "FP32")]}, "422", "multiple of 1/255"),
        ({"inputs": [files(PNG)], "model_version": "3"}, "404", "no version '3'"),
        ({"inputs": [files(PNG)], "query_params": {"n": 3}}, "422", "no query parameters"),
    ):
        with pytest.raises(InferenceServerException, match=message) as raised:
            client.infer(MODEL, **asked)
        assert raised.value.status() == status


def test_the_protocols_errors_for_what_no_route_answers(start: Start) -> None:
    with start(max_body_bytes=2048) as server:
        check(server.client.get("/v2/"), 404, "not_found")
        check(server.client.get("/v2/models"), 404, "not_found")
        check(server.client.delete("/v2"), 405, "method_not_allowed")
        check(server.client.get(INFER), 405, "method_not_allowed")
        check(server.client.post(INFER, content=bytes(3000)), 413, "body_too_large")
        check(server.client.post(INFER, data={"image": "x"}), 415, "content_type")
        other = server.client.get("/v22")
        assert (other.headers["content-type"], "error" in other.json()) == ("application/problem+json", False)


def test_a_list_longer_than_any_batch_is_not_parsed(server: Running) -> None:
    rows = 16 * 4 * SIDE * SIDE + 1000
    body = json.dumps(request(image={"data": [0] * (rows + 1)}))
    assert "elements" in check(server.client.post(INFER, content=body), 400, "malformed_body")["error"]
    members = json.dumps(request(parameters={f"p{k}": 0 for k in range(1001)}))
    assert "elements" in check(server.client.post(INFER, content=members), 400, "malformed_body")["error"]


def test_a_batch_is_one_admitted_request_that_ends_with_its_client(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []

    def endless(self: Certifier, task: Any, cancellation: Any) -> None:
        computed.append(task)
        while True:
            cancellation.check()
            time.sleep(0.01)

    monkeypatch.setattr(Certifier, "predict", endless)
    with start(max_running=1, max_queue_seconds=0) as server:
        body = json.dumps(request(image={"shape": [4], "data": [TEXT] * 4})).encode()
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection((server.client.base_url.host, server.client.base_url.port)) as leaving:
            leaving.sendall(head + body)
            until(lambda: len(computed) == 1)
            refused = server.client.post(INFER, json=request())
            assert check(refused, 429, "overloaded")["retry_after_seconds"] == int(refused.headers["retry-after"])
        until(lambda: server.services.engine.idle)
        assert len(computed) == 1


def any_json() -> st.SearchStrategy[Any]:
    """JSON of any shape, often with the names that the protocol has."""
    names = st.sampled_from(
        ["id", "parameters", "inputs", "outputs", "name", "datatype", "shape", "data", "binary_data_size", "certify"]
    )
    leaves = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=8)
        | st.sampled_from(["image", "BYTES", "UINT8", "FP32", "label", TEXT])
    )
    return st.recursive(
        leaves,
        lambda some: st.lists(some, max_size=4) | st.dictionaries(names | st.text(max_size=5), some, max_size=5),
        max_leaves=20,
    )


@st.composite
def nearly_right(draw: st.DrawFn) -> dict[str, Any]:
    """A good request with a few members replaced by anything."""
    sent = request(parameters={"alpha": 0.02}, outputs=[{"name": "label", "parameters": {"binary_data": True}}])
    for place in draw(st.lists(st.sampled_from(["request", "input", "output"]), min_size=1, max_size=3)):
        target = {"request": sent, "input": sent.get("inputs"), "output": sent.get("outputs")}[place]
        while isinstance(target, list) and target:
            target = target[0]
        if isinstance(target, dict) and target:
            target[draw(st.sampled_from(sorted(target)))] = draw(any_json())
    return sent


BODIES = (
    st.binary(max_size=200)
    | any_json().map(lambda value: json.dumps(value).encode())
    | nearly_right().map(lambda value: json.dumps(value).encode())
)
LENGTHS = st.none() | st.integers(-5, 400).map(str) | st.text(st.characters(min_codepoint=32, max_codepoint=255))


@pytest.fixture(scope="module")
def card(server: Running) -> ModelCard:
    return server.services.lifecycle.certifier.registry.get(MODEL).card


@settings(max_examples=150)
@given(body=BODIES, tail=st.binary(max_size=40), length=LENGTHS)
def test_any_body_is_understood_or_refused(card: ModelCard, body: bytes, tail: bytes, length: str | None) -> None:
    try:
        understood = read_inference(body + tail, length, card, 4)
    except RequestError:
        return
    assert 1 <= len(understood.images) <= 4


@settings(max_examples=60)
@given(body=BODIES, tail=st.binary(max_size=20), exact=st.booleans())
def test_no_body_breaks_the_server(server: Running, body: bytes, tail: bytes, exact: bool) -> None:
    headers = {LENGTH: str(len(body))} if exact else {}
    response = server.client.post(INFER, content=body + tail, headers=headers)
    assert response.status_code in (200, 400, 409, 413, 415, 422), response.text
    assert response.status_code == 200 or "error" in response.json()


@given(values=st.lists(st.text(max_size=10), max_size=5))
def test_strings_are_packed_as_they_are_read(values: list[str]) -> None:
    assert [one.decode() for one in strings_from_bytes(pack(values, "BYTES"), len(values))] == values


@given(chunk=st.binary(max_size=30), count=st.integers(0, 5))
def test_strings_are_all_of_the_bytes_or_refused(chunk: bytes, count: int) -> None:
    try:
        found = strings_from_bytes(chunk, count)
    except MalformedBodyError:
        return
    assert b"".join(struct.pack("<I", len(one)) + one for one in found) == chunk


def test_intensities_take_every_usual_way_to_divide_by_255() -> None:
    levels = np.arange(256)
    exact = levels.astype(np.float32) / np.float32(255)
    ways = (exact, levels.astype(np.float32) * np.float32(1 / 255), (levels / 255).astype(np.float32), levels / 255)
    for values in ways:
        np.testing.assert_array_equal(intensities(values, "FP32"), exact, strict=True)
    np.testing.assert_array_equal(intensities(levels.astype(np.uint8), "UINT8"), exact, strict=True)


def test_black_is_black_whatever_its_sign() -> None:
    """As in a file, to the last bit: the noise follows from the pixels' bytes. Oracle: the decoder of files."""
    spec = ImageSpec(SIDE, SIDE, 1, resize=False)
    black = decode(encode(np.zeros((SIDE, SIDE), dtype=np.uint8), "PNG"), spec, max_pixels=10**6).pixels
    for value in (-0.0, -1e-9):
        for values in (np.full(black.shape, value, dtype=np.float32), np.full(black.shape, value)):
            assert intensities(values, "FP32").tobytes() == black.tobytes()


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FC00000, 0xFFC00000, 0x7F800000, 0xFF800000, 0x7F7FFFFF])
def test_floats_that_are_no_numbers_or_no_levels_are_refused(bits: int) -> None:
    """NaN (signalling, quiet, negative), infinities, the largest float."""
    with pytest.raises(FieldError):
        intensities(np.frombuffer(struct.pack("<I", bits), dtype="<f4"), "FP32")


@given(level=st.integers(0, 254), part=st.floats(1e-4, 1 - 1e-4))
def test_values_between_two_levels_are_refused(level: int, part: float) -> None:
    with pytest.raises(FieldError, match="multiple of 1/255"):
        intensities(np.array([0.0, (level + part) / 255], dtype=np.float32), "FP32")
