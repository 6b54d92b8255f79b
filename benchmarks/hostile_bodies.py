"""Hypothesis strategies: request bodies that are almost right, with images that are damaged."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import numpy as np
from hypothesis import strategies as st

from benchmarks.hostile import Draw, damaged_files, flipped, inserted, truncated
from service.body import JSON, MULTIPART
from service.schemas import CertifyFields

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
RIGHT = {"transformation": "rotation", "guarantee": "heuristic", "alpha": 0.02, "n": 50, "attack_range": 10.0}
FIELDS = st.fixed_dictionaries({}, optional={name: st.just(value) for name, value in RIGHT.items()})
NAMES = st.sampled_from(("image", *CertifyFields.model_fields)) | st.text(max_size=10)
BASE64 = damaged_files().map(lambda file: base64.b64encode(file).decode())
LINES = ("", "", "", "Content-Type: image/png\r\n", "Content-Transfer-Encoding: base64\r\n", "a" * 300, "X: y\r\n" * 40)
BOUNDARIES = ("; boundary={}", "; boundary={}", '; boundary="{}"', "")


def encoded(text: str) -> bytes:
    """UTF-8; lone surrogates as what no decoder of UTF-8 takes."""
    return text.encode("utf-8", "surrogatepass")


def content(value: Any) -> bytes:
    """Of a part of a form."""
    if isinstance(value, bytes):
        return value
    return encoded(value) if isinstance(value, str) else json.dumps(value).encode()


def damaged(draw: Draw, body: bytes) -> bytes:
    """The body as it is (half of the time), truncated, flipped or grown."""
    damage = draw(st.sampled_from((None, None, None, truncated, flipped, inserted)))
    return body if damage is None else damage(draw, body)


@st.composite
def members(draw: Draw) -> dict[str, Any]:
    """Fields as they should be, and perhaps some that are not."""
    right: dict[str, Any] = draw(FIELDS)
    return right | draw(st.just({}) | st.dictionaries(NAMES, VALUES, max_size=3))


@st.composite
def forms(draw: Draw) -> tuple[bytes, str]:
    """A multipart body and its content type."""
    boundary = draw(st.sampled_from(("b", "b", "b", "-" * 40, "b b", "é", "")))
    body = b""
    for name, value in [*draw(members()).items(), ("image", draw(damaged_files()))]:
        file = '; filename="x"' if isinstance(value, bytes) else ""
        file = draw(st.sampled_from((file, file, file, '; filename="', "; filename*=utf-8''x")))
        body += encoded(f"--{boundary}\r\nContent-Disposition: form-data; name={json.dumps(name)}{file}\r\n")
        body += encoded(draw(st.sampled_from(LINES)) + "\r\n")
        body += content(value) + b"\r\n"
    body += encoded(f"--{boundary}--\r\n")
    return damaged(draw, body), MULTIPART + draw(st.sampled_from(BOUNDARIES)).format(boundary)


@st.composite
def objects(draw: Draw) -> tuple[bytes, str]:
    """A JSON body of certify and its content type."""
    fields = draw(members()) | draw(st.fixed_dictionaries({}, optional={"image": BASE64}))
    return damaged(draw, json.dumps(fields).encode()), JSON


@st.composite
def inferences(draw: Draw) -> tuple[bytes, str | None]:
    """A body of the Open Inference Protocol, and what its header says of the length of the JSON."""
    rows, side = draw(st.integers(0, 3)), draw(st.sampled_from((12, 28, 13)))
    kind = draw(st.sampled_from(("BYTES", "UINT8", "FP32", "INT64")))
    shapes = st.sampled_from(([rows], [rows, side, side, 1], [], [rows, 2**40], [2**62, 2**62]))
    files = [draw(damaged_files()) for _ in range(rows)] if kind == "BYTES" else []
    packed = b"".join(struct.pack("<I", len(file)) + file for file in files)
    levels = [0] * rows * side * side
    packed = packed or (np.zeros(len(levels), "<f4").tobytes() if kind == "FP32" else bytes(levels))
    listed = [base64.b64encode(file).decode() for file in files]
    announced = {"parameters": {"binary_data_size": len(packed)}}
    data: dict[str, Any] = draw(st.sampled_from(({"data": listed or levels}, announced, {"data": [[1.5], []]})))
    binary = packed if data is announced else draw(st.sampled_from((b"", b"", b"0")))
    tensor = {"name": "image", "datatype": kind, "shape": draw(shapes | st.lists(st.integers(), max_size=5)), **data}
    optional = {"parameters": members(), "outputs": VALUES, "id": VALUES, "x": VALUES}
    more = draw(st.sampled_from(({}, {"id": "1"})) | st.fixed_dictionaries({}, optional=optional))
    header = json.dumps({"inputs": [tensor], **more}).encode()
    right = str(len(header)) if "parameters" in data else None
    return damaged(draw, header + binary), draw(st.sampled_from((right, right, right, "0", "-1", "9" * 30, "²")))
