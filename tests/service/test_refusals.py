"""Bad uploads: each gets its status and a problem of a stable type, and the server goes on."""

from __future__ import annotations

import base64
import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.errors import TYPE_PREFIX

from .conftest import Running, Start, until
from .pictures import SIDE, colour, encode, grey, png
from .test_images import BOMBS, FILES

GOOD = encode(grey(), "PNG")
TEXT = base64.b64encode(GOOD).decode()
BOUNDARY = "multipart/form-data; boundary=b"

Send = Callable[[httpx.Client, str], httpx.Response]


def upload(data: bytes, **fields: str) -> Send:
    return lambda client, path: client.post(path, data=fields, files={"image": ("x.png", data)})


def as_json(**fields: Any) -> Send:
    return lambda client, path: client.post(path, json={"image": TEXT, **fields})


def raw(body: bytes, content_type: str | None = "application/json", **headers: str) -> Send:
    sent = {**headers, **({"content-type": content_type} if content_type else {})}
    return lambda client, path: client.post(path, content=body, headers=sent)


def part(name: str, value: bytes, filename: str | None = None) -> bytes:
    file = f'; filename="{filename}"' if filename else ""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + value + b"\r\n"


def body(text: str) -> bytes:
    return text.replace("IMAGE", json.dumps(TEXT)).encode()


UPLOADS: dict[str, tuple[Send, int, str]] = {
    # the image
    "empty file": (upload(b""), 422, "image_empty"),
    "empty base64": (as_json(image=""), 422, "image_empty"),
    "text": (upload(b"hello, this is not an image at all"), 415, "image_format"),
    "html": (upload(b"<html><body>no</body></html>"), 415, "image_format"),
    "svg": (upload(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), 415, "image_format"),
    "pdf": (upload(b"%PDF-1.7\n%%EOF"), 415, "image_format"),
    "postscript": (upload(b"%!PS-Adobe-3.0 EPSF-3.0\n"), 415, "image_format"),
    "zip": (upload(b"PK\3\4" + bytes(100)), 415, "image_format"),
    "pickle": (upload(b"\x80\x04\x95" + bytes(40)), 415, "image_format"),
    "zeros": (upload(bytes(1000)), 415, "image_format"),
    "tiff": (upload(encode(grey(), "TIFF")), 415, "image_format"),
    "netpbm": (upload(encode(grey(), "PPM")), 415, "image_format"),
    "signature of a png alone": (upload(GOOD[:8]), 422, "image_unreadable"),
    "truncated png": (upload(GOOD[: len(GOOD) // 2]), 422, "image_unreadable"),
    "truncated jpeg": (upload(FILES["jpeg"][:-40]), 422, "image_unreadable"),
    "truncated webp": (upload(FILES["webp"][:-10]), 422, "image_unreadable"),
    "truncated gif": (upload(FILES["gif"][:-20]), 422, "image_unreadable"),
    "truncated bmp": (upload(FILES["bmp"][:-20]), 422, "image_unreadable"),
    "png with a wrong checksum": (upload(GOOD[:-20] + b"\0" + GOOD[-19:]), 422, "image_unreadable"),
    "png without pixels": (
        upload(png([], SIDE, height=SIDE, bits=8, colour_type=0)),
        422,
        "image_unreadable",
    ),
    "png of zero width": (upload(png([], 0, height=SIDE, bits=8, colour_type=0)), 422, "image_unreadable"),
    "png bomb": (upload(BOMBS["png"]), 413, "image_pixels"),
    "gif bomb": (upload(BOMBS["gif"]), 413, "image_pixels"),
    "webp bomb": (upload(BOMBS["extended webp"]), 413, "image_pixels"),
    "too many pixels": (upload(encode(np.zeros((101, 100), np.uint8), "PNG")), 413, "image_pixels"),
    "wrong size": (upload(encode(grey(13, 12), "PNG")), 422, "image_shape"),
    "one pixel": (upload(encode(grey(1, 1), "PNG")), 422, "image_shape"),
    "colour for a grey model": (upload(encode(colour(), "PNG")), 422, "image_channels"),
    # the base64
    "not base64": (as_json(image="!!!"), 422, "invalid_field"),
    "wrong padding": (as_json(image=TEXT.rstrip("=")[:-1]), 422, "invalid_field"),
    "letters beyond ASCII": (as_json(image="é" * 40), 422, "invalid_field"),
    "image as numbers": (as_json(image=[0, 1, 2]), 422, "invalid_field"),
    "image as null": (as_json(image=None), 422, "invalid_field"),
    "data URL without base64": (as_json(image="data:image/png,abc"), 422, "invalid_field"),
    "URL of an image": (as_json(image="http://127.0.0.1/secret.png"), 422, "invalid_field"),
    "path of an image": (as_json(image="file:///etc/passwd"), 422, "invalid_field"),
    # fields
    "no image in JSON": (raw(b"{}"), 422, "invalid_field"),
    "no image in a form": (raw(part("n", b"200") + b"--b--\r\n", BOUNDARY), 422, "invalid_field"),
    "unknown model": (upload(GOOD, model="resnet9000"), 422, "invalid_field"),
    "model that is a path": (upload(GOOD, model="../../etc/passwd"), 422, "invalid_field"),
    "model without end": (upload(GOOD, model="m" * 5000), 422, "invalid_field"),
    "model that is no text": (as_json(model=7), 422, "invalid_field"),
    "lone surrogate": (raw(body(r'{"image": IMAGE, "model": "\ud800"}')), 422, "invalid_field"),
    "unknown transformation": (upload(GOOD, transformation="shear"), 422, "invalid_field"),
    "transformation in capitals": (upload(GOOD, transformation="ROTATION"), 422, "invalid_field"),
    "empty transformation": (upload(GOOD, transformation=""), 422, "invalid_field"),
    "model of another transformation": (
        upload(GOOD, model="constant-rotation", transformation="translation"),
        422,
        "model_transformation",
    ),
    "unknown guarantee": (upload(GOOD, guarantee="absolute"), 422, "invalid_field"),
    "heuristic l2": (upload(GOOD, transformation="l2", guarantee="heuristic"), 422, "cannot_certify"),
    "unknown field": (upload(GOOD, radius="3"), 422, "invalid_field"),
    "unknown field in JSON": (as_json(radius=3), 422, "invalid_field"),
    "field in the query": (
        lambda client, path: client.post(path + "?n=3", json={"image": TEXT}),
        422,
        "invalid_field",
    ),
    "field twice": (
        raw(part("n", b"200") * 2 + part("image", GOOD, "x") + b"--b--\r\n", BOUNDARY),
        422,
        "invalid_field",
    ),
    "image twice": (raw(part("image", GOOD, "x") * 2 + b"--b--\r\n", BOUNDARY), 422, "invalid_field"),
    "field twice in JSON": (raw(body('{"image": IMAGE, "n": 200, "n": 300}')), 422, "invalid_field"),
    "image as a text part": (
        raw(part("image", TEXT.encode()) + b"--b--\r\n", BOUNDARY),
        422,
        "invalid_field",
    ),
    "number as a file part": (
        raw(part("n", b"200", "n.txt") + part("image", GOOD, "x") + b"--b--\r\n", BOUNDARY),
        422,
        "invalid_field",
    ),
    "form field with a NUL": (upload(GOOD, n="200\0"), 422, "invalid_field"),
    "truth value for n": (as_json(n=True), 422, "invalid_field"),
    "list for n": (as_json(n=[200]), 422, "invalid_field"),
    "text for n in JSON": (as_json(n="200"), 422, "invalid_field"),
    "fraction for n in JSON": (as_json(n=200.5), 422, "invalid_field"),
    "more votes than allowed": (upload(GOOD, n="200", n_delta="1000000", procedure="paper"), 422, "cannot_certify"),
    "more selection draws than allowed": (upload(GOOD, n0="9000000"), 422, "cannot_certify"),
    # the body
    "not JSON": (raw(b"{"), 400, "malformed_body"),
    "empty body": (raw(b""), 400, "malformed_body"),
    "JSON list": (raw(b"[]"), 400, "malformed_body"),
    "JSON text": (raw(b'"image"'), 400, "malformed_body"),
    "JSON nested without end": (raw(b"[" * 100_000), 400, "malformed_body"),
    "JSON of many elements": (raw(b"[" + b"0," * 100_000 + b"0]"), 400, "malformed_body"),
    "JSON in Latin-1": (raw('{"image": "é"}'.encode("latin-1")), 400, "malformed_body"),
    "JSON in UTF-16": (raw('{"image": "a"}'.encode("utf-16")), 400, "malformed_body"),
    "number of 5000 digits": (raw(body('{"image": IMAGE, "n": ' + "9" * 5000 + "}")), 400, "malformed_body"),
    "multipart without a boundary": (raw(part("n", b"2"), "multipart/form-data"), 400, "malformed_body"),
    "multipart of another boundary": (raw(part("n", b"2"), BOUNDARY + "x"), 400, "malformed_body"),
    "multipart that ends in a field": (
        raw(part("image", GOOD, "x.png") + part("alpha", b"0.001"), BOUNDARY),
        400,
        "malformed_body",
    ),
    "multipart that ends in the image": (raw(part("image", GOOD, "x.png"), BOUNDARY), 400, "malformed_body"),
    "multipart part without a name": (raw(b"--b\r\n\r\nx\r\n--b--\r\n", BOUNDARY), 400, "malformed_body"),
    "multipart of many parts": (
        raw(b"".join(part(f"f{i}", b"1") for i in range(100)) + b"--b--\r\n", BOUNDARY),
        400,
        "malformed_body",
    ),
    "multipart with a field of 2 MB": (
        raw(part("n", b"1" * 2_000_000) + b"--b--\r\n", BOUNDARY),
        400,
        "malformed_body",
    ),
    "url-encoded form": (raw(b"image=x", "application/x-www-form-urlencoded"), 415, "content_type"),
    "bare image": (raw(GOOD, "image/png"), 415, "content_type"),
    "text body": (raw(b"image", "text/plain"), 415, "content_type"),
    "no content type": (raw(b"{}", None), 415, "content_type"),
    "compressed body": (raw(b"{}", **{"content-encoding": "gzip"}), 415, "content_type"),
    "too many bytes": (upload(bytes(3_000_000)), 413, "body_too_large"),
    "too many bytes in JSON": (as_json(image="A" * 3_000_000), 413, "body_too_large"),
}
NUMBERS = {
    "alpha": ["0", "1", "-0.1", "1.5", "nan", "NaN", "inf", "-inf", "Infinity", "1e400", "-1e400", "", " 0.1",
              "0,1", "0x1", "1_0", "half", "1e-400", "5e-324", "9.9e-301", "\uff10.1"],
    "n": ["0", "-1", "-200", "1.5", "2e2", "nan", "inf", "1e400", "99999999999", "9" * 40, "", "many",
          "1_000", " 5", "\u0663"],
    "n_error": ["0", "-1", "10001", "1.5", "nan"],
    "n0": ["0", "-1", "100.0", "nan", "99999999999"],
    "n_delta": ["0", "-3", "0.5", "nan", "99999999999"],
    "attack_range": ["0", "-0", "-30", "nan", "inf", "-inf", "1e400", "", "wide", "1e-400"],
}  # fmt: skip
JSON_NUMBERS = ["NaN", "Infinity", "-Infinity", "1e400", "-1", "0", "true", "{}", '"0.1"', "[0.1]"]


@pytest.fixture(scope="module")
def small(start: Start) -> Iterator[Running]:
    with start(max_body_bytes=2_500_000, max_image_pixels=10_000, max_votes=4_000_000) as running:
        yield running


def check(server: Running, response: httpx.Response, status: int, label: str) -> dict[str, Any]:
    """A problem as RFC 9457 has it, of that type; nothing of the server's inside; the server lives."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"]
    problem: dict[str, Any] = response.json()
    assert problem["type"] == TYPE_PREFIX + label, problem
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem["instance"] == response.request.url.path
    assert "Traceback" not in response.text
    assert 'File "' not in response.text
    assert len(response.content) < 5000
    assert server.client.get("/health/live").status_code == 200
    return problem


@pytest.mark.parametrize("name", UPLOADS)
def test_certify_refuses(small: Running, name: str) -> None:
    send, status, label = UPLOADS[name]
    check(small, send(small.client, "/v1/certify"), status, label)


@pytest.mark.parametrize("name", UPLOADS)
def test_predict_refuses(small: Running, name: str) -> None:
    send, status, label = UPLOADS[name]
    check(small, send(small.client, "/v1/predict"), status, label)


@pytest.mark.parametrize(("field", "value"), [(field, value) for field in NUMBERS for value in NUMBERS[field]])
def test_numbers_of_forms_are_refused(small: Running, field: str, value: str) -> None:
    problem = check(small, small.certify(**{field: value}), 422, "invalid_field")
    assert problem["field"] == field
    assert field in problem["detail"]


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("value", JSON_NUMBERS)
def test_numbers_of_json_are_refused(small: Running, field: str, value: str) -> None:
    response = raw(body(f'{{"image": IMAGE, "{field}": {value}}}'))(small.client, "/v1/certify")
    check(small, response, 422, "invalid_field")


def test_attack_range_beyond_the_model(small: Running) -> None:
    problem = check(small, small.certify(attack_range=46, guarantee="heuristic"), 422, "attack_range")
    assert problem["required"] == {"attack_range": 45.0}


def test_attack_range_beyond_the_calibration(small: Running) -> None:
    problem = check(small, small.certify(attack_range=31, guarantee="distributional"), 422, "attack_range")
    assert problem["required"] == {"attack_range": 30.0}
    assert small.certify(attack_range=30, guarantee="distributional").status_code == 200


def test_no_calibration(small: Running) -> None:
    check(small, small.certify(model="rgb", guarantee="distributional"), 409, "calibration_missing")


def test_too_few_draws_name_the_number_that_would_do(small: Running) -> None:
    problem = check(small, small.certify(n=5, guarantee="heuristic"), 422, "cannot_certify")
    enough = int(problem["required"]["n"])
    assert problem["field"] == "n"
    check(small, small.certify(n=enough - 1, guarantee="heuristic"), 422, "cannot_certify")
    assert small.certify(n=enough, guarantee="heuristic").json()["covers_attack_range"]


def test_too_few_inner_draws_name_the_number_that_would_do(small: Running) -> None:
    for more in ({"procedure": "paper"}, {"estimator": "nested"}):
        asked = {"guarantee": "distributional", **more}
        problem = check(small, small.certify(n_delta=2, **asked), 422, "cannot_certify")
        enough = int(problem["required"]["n_delta"])
        check(small, small.certify(n_delta=enough - 1, **asked), 422, "cannot_certify")
        assert small.certify(n_delta=enough, **asked).status_code == 200


def test_the_papers_procedure_has_no_joint_estimator(small: Running) -> None:
    problem = check(small, small.certify(procedure="paper", estimator="joint"), 422, "cannot_certify")
    assert problem["field"] == "estimator"


@pytest.mark.parametrize("alpha", ["1e-300", "1e-12", "0.9999999999999999"])
@pytest.mark.parametrize("procedure", ["sequential", "paper"])
def test_extreme_alphas_never_break_the_server(small: Running, alpha: str, procedure: str) -> None:
    for guarantee in ("heuristic", "distributional"):
        for ask in (small.certify, small.predict):
            response = ask(alpha=alpha, guarantee=guarantee, procedure=procedure)
            assert response.status_code == 200 or check(small, response, 422, "cannot_certify")


@pytest.mark.parametrize("attack_range", ["5e-324", "1e-300", "1e-9"])
def test_tiny_attack_ranges_never_break_the_server(small: Running, attack_range: str) -> None:
    for more in ({"guarantee": "individual"}, {"guarantee": "heuristic"}, {"transformation": "l2"}):
        response = small.certify(attack_range=attack_range, **more)
        assert response.status_code == 200 or check(small, response, 422, "cannot_certify")


@pytest.mark.parametrize("attack_range", ["1e6", "1e308"])
def test_huge_l2_radii_are_refused(small: Running, attack_range: str) -> None:
    check(small, small.certify(transformation="l2", attack_range=attack_range), 422, "cannot_certify")


def test_a_body_may_not_stream_past_the_limit(small: Running) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield bytes(100_000)

    response = small.client.post("/v1/certify", content=endless(), headers={"content-type": "application/json"})
    check(small, response, 413, "body_too_large")


def test_an_announced_length_is_refused_before_the_body_comes(small: Running) -> None:
    host, port = small.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = "POST /v1/certify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 99999999999\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_a_body_that_does_not_come_is_given_up(start: Start) -> None:
    with start(body_seconds=0.3) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            head = "POST /v1/certify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            begun = time.monotonic()
            assert connection.recv(100).startswith(b"HTTP/1.1 408")
            assert time.monotonic() - begun < 5


def test_no_upload_is_written_to_a_disk(server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither is it refused where there is no room for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    large = encode(colour(900, 900), "BMP")
    assert len(large) > 2**21
    assert server.predict(large, model="rgb", guarantee="heuristic").status_code == 200


@pytest.mark.parametrize("announced", ["Content-Length: 2000", "Transfer-Encoding: chunked"])
def test_the_bytes_of_uploads_are_limited(start: Start, announced: str) -> None:
    """Of those that are on their way too, by what was announced; their number is not."""
    with start(max_body_bytes=2048, max_held_bytes=2900) as server:
        host, port = server.url.removeprefix("http://").split(":")
        head = "POST /v1/certify HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        with socket.create_connection((host, int(port)), timeout=10) as large:
            large.sendall(f"{head}{announced}\r\n\r\n".encode())
            with ExitStack() as small:
                for _ in range(7):
                    connection = small.enter_context(socket.create_connection((host, int(port)), timeout=10))
                    connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
                until(lambda: "surety_requests_in_flight 9.0" in server.client.get("/metrics").text)
                check(server, server.certify(), 429, "overloaded")
            until(lambda: server.certify().status_code == 200)
            compressed = server.client.post("/v2/models/m/infer", content=b"x", headers={"Content-Encoding": "gzip"})
            assert compressed.status_code == 429
        until(lambda: server.certify().status_code == 200)


@pytest.mark.parametrize(
    ("method", "path", "status", "label"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/certify/", 404, "not_found"),
        ("GET", "/v1/models/none", 404, "unknown_model"),
        ("GET", "/v1/models/..%2f..%2fetc", 404, "not_found"),
        ("GET", "/v1/bounds?model=none", 404, "unknown_model"),
        ("GET", "/v1/bounds?transformation=shear", 422, "invalid_field"),
        ("GET", "/v1/bounds?colour=red", 422, "invalid_field"),
        ("GET", "/v1/certify", 405, "method_not_allowed"),
        ("PUT", "/v1/predict", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/metrics", 405, "method_not_allowed"),
        ("BREW", "/v1/certify", 405, "method_not_allowed"),
    ],
)
def test_paths_and_methods(small: Running, method: str, path: str, status: int, label: str) -> None:
    response = small.client.request(method, path)
    check(small, response, status, label)
    assert ("allow" in response.headers) == (status == 405)


def test_allow_names_the_methods_of_every_route_that_has_the_path(small: Running) -> None:
    for method, status in (("OPTIONS", 204), ("PUT", 405)):
        response = small.client.request(method, f"/v1/certificates/{'A' * 32}")
        assert (response.status_code, response.headers["allow"]) == (status, "DELETE, GET, HEAD, OPTIONS")


def test_certificates_are_still_given_after_all_this(small: Running) -> None:
    assert small.certify(guarantee="heuristic").json()["label"] == 1
    text = small.client.get("/metrics").text
    assert 'surety_problems_total{type="image_unreadable"}' in text
    assert 'status="500"' not in text
