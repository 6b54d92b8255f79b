"""Images and files for uploads, made by Pillow or byte by byte."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 12


def grey(height: int = SIDE, width: int = SIDE, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth grey picture without symmetry [H, W]."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    return np.rint(255 * np.clip(0.1 + 0.7 * x * x + 0.2 * y + 0.05 * seed, 0, 1)).astype(np.uint8)


def colour(height: int = SIDE, width: int = SIDE) -> NDArray[np.uint8]:
    """A picture [H, W, 3] whose channels differ widely."""
    plane = grey(height, width)
    return np.stack([plane, 255 - plane, plane // 2], axis=2)


def encode(array: NDArray[Any] | Image.Image, kind: str, **options: Any) -> bytes:
    """A file of that format."""
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    rows: list[bytes],
    width: int,
    *,
    bits: int,
    colour_type: int,
    extra: bytes = b"",
    height: int | None = None,
) -> bytes:
    """A PNG written by hand: rows of sample bytes, unfiltered."""
    header = struct.pack(">IIBBBBB", width, height or len(rows), bits, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def png16(samples: NDArray[np.uint16], extra: bytes = b"") -> bytes:
    """A 16-bit PNG of samples [H, W, C], C = 1 grey, 2 grey and alpha, 3 colour, 4 colour and alpha."""
    types = {1: 0, 2: 4, 3: 2, 4: 6}
    rows = [row.astype(">u2").tobytes() for row in samples]
    return png(rows, samples.shape[1], bits=16, colour_type=types[samples.shape[2]], extra=extra)
