"""Tensors of the Open Inference Protocol: a request's values from JSON or from bytes, and a reply's as bytes.

As bytes a tensor is little-endian and row-major, without padding; an element of datatype BYTES is its length
(4 bytes, unsigned) and then itself: the binary tensor data extension, which Triton and KServe share.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import FieldError, MalformedBodyError, quote

NUMBERS: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
LENGTH = struct.Struct("<I")
ROUNDING = 2.0**-23
"""How far a float32 that was computed from k / 255, in [0, 1], may be off: its spacing just above 1."""


def elements(data: object, shape: Sequence[int]) -> list[Any]:
    """The elements, in row-major order, of JSON data that is one flat list or nested as ``shape`` says.

    Raises
    ------
    FieldError
        If it is neither.
    """
    count = math.prod(shape)
    if isinstance(data, list) and len(data) == count and not any(isinstance(value, list) for value in data):
        return data
    lists: list[Any] = [data]
    for size in shape:
        if not all(isinstance(one, list) and len(one) == size for one in lists):
            raise FieldError(f"data: must be {count} elements, in one list or nested as the shape says", field="data")
        lists = [value for one in lists for value in one]
    return lists


def numbers_from_json(data: object, shape: Sequence[int], datatype: str) -> NDArray[np.float64]:
    """Numbers of shape ``shape`` from JSON; UINT8 must be integers, FP32 may be. Raises FieldError."""
    kinds = (int,) if datatype == "UINT8" else (int, float)
    values, row_size = elements(data, shape), math.prod(shape[1:])
    strange = next((at for at, value in enumerate(values) if type(value) not in kinds), None)
    if strange is not None:
        kind = "integers" if datatype == "UINT8" else "numbers"
        raise _wrong_row(strange // row_size, f"{datatype} elements are {kind}, not {quote(values[strange])}")
    try:
        return np.array(values, dtype=np.float64).reshape(shape)
    except OverflowError as error:
        large = next(at for at, value in enumerate(values) if abs(value) > sys.float_info.max)
        raise _wrong_row(large // row_size, "a number is too large") from error


def numbers_from_bytes(chunk: bytes, shape: Sequence[int], datatype: str) -> NDArray[Any]:
    """Numbers of shape ``shape``; raises MalformedBodyError if these are not so many bytes."""
    kind = NUMBERS[datatype]
    if len(chunk) != math.prod(shape) * kind.itemsize:
        expected = math.prod(shape) * kind.itemsize
        raise MalformedBodyError(f"{datatype} of shape {list(shape)} is {expected} bytes, not {len(chunk)}")
    return np.frombuffer(chunk, dtype=kind).reshape(shape)


def strings_from_bytes(chunk: bytes, count: int) -> list[bytes]:
    """The elements of a BYTES tensor; raises MalformedBodyError if there are not just ``count``."""
    found: list[bytes] = []
    at = 0
    for _ in range(count):
        if len(chunk) - at < LENGTH.size:
            raise MalformedBodyError(f"BYTES data ends after {len(found)} of {count} elements")
        (length,) = LENGTH.unpack_from(chunk, at)
        at += LENGTH.size
        if len(chunk) - at < length:
            raise MalformedBodyError(f"an element of {length} bytes is announced, and {len(chunk) - at} are left")
        found.append(chunk[at : at + length])
        at += length
    if at != len(chunk):
        raise MalformedBodyError(f"{len(chunk) - at} bytes follow the last of {count} elements")
    return found


def intensities(values: NDArray[Any], datatype: str) -> NDArray[np.float32]:
    """Pixels in [0, 1] as the decoder of image files gives them, from 8-bit levels (UINT8) or from FP32.

    Certificates are about 8-bit images, so FP32 must be multiples of 1/255 up to the rounding of float32.

    Raises
    ------
    FieldError
        If a value is none of the 256 levels.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        exact = values.astype(np.float64) * (1 if datatype == "UINT8" else 255)
        levels = np.rint(exact)
        allowed = (levels >= 0) & (levels <= 255) & (np.abs(exact - levels) <= 255 * ROUNDING)
    if not allowed.all():
        where = np.unravel_index(np.argmin(allowed), allowed.shape)
        wanted = "an integer from 0 to 255" if datatype == "UINT8" else "a multiple of 1/255 from 0 to 1 (8-bit images)"
        raise _wrong_row(int(where[0]), f"{datatype} pixels must be {wanted}, not {float(values[where])!r}")
    # through uint8, which knows no negative zero
    return levels.astype(np.uint8).astype(np.float32) / np.float32(255)


def _wrong_row(row: int, reason: str) -> FieldError:
    return FieldError(f"row {row}: data: {reason}", field="data", row=row)


def pack(values: Sequence[Any], datatype: str) -> bytes:
    """A one-dimensional tensor as bytes; BYTES elements are text, sent as UTF-8."""
    if datatype == "BYTES":
        return b"".join(LENGTH.pack(len(text)) + text for text in (value.encode() for value in values))
    return np.array(values, dtype=NUMBERS[datatype]).tobytes()
