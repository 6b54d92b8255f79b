"""Hypothesis strategies: image files of every format, whole and damaged on purpose.

What makes damage reach a decoder is that the rest is right: parts of PNG, WebP and JPEG are dropped, doubled, swapped
and invented with right lengths and checksums, and headers lie about sizes only.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

SIDES = (12, 28)
"""Heights and widths of the whole files: those of the tests' models and of the shipped ones."""
PNG, WEBP, JPEG = b"\x89PNG\r\n\x1a\n", b"RIFF", b"\xff\xd8"
PNG_NAMES = tuple(b"IHDR PLTE IDAT IEND tRNS gAMA cHRM iCCP sRGB eXIf zTXt tEXt iTXt acTL fcTL fdAT pHYs".split())
WEBP_NAMES = (b"VP8X", b"VP8L", b"VP8 ", b"ANIM", b"ANMF", b"ALPH", b"ICCP", b"EXIF", b"XMP ")
JPEG_NAMES = tuple(bytes([0xFF, marker]) for marker in (*range(0xC0, 0xCF), *range(0xDB, 0xF0), 0xFE))
BOMB = zlib.compress(bytes(2**22))
EXIF = b"Exif\0\0II*\0\x08\0\0\0\xff\xff"
"""One that announces more entries than it has."""
SIGNATURE = 12
"""Bytes that the longest one has (RIFF, a length, WEBP)."""
Part = tuple[bytes, bytes]
"""Name and payload of a chunk or segment; one that cannot be read any further has no name."""


def whole_files(side: int) -> dict[str, bytes]:
    """Files of every format that is accepted, and of some that are not, ``side`` pixels high and wide."""
    y, x = np.mgrid[0:side, 0:side] / side
    grey = np.rint(255 * np.clip(0.1 + 0.7 * x * x + 0.2 * y, 0, 1)).astype(np.uint8)
    picture = Image.fromarray(grey)
    colour = Image.fromarray(np.dstack([grey, 255 - grey, grey // 2]))
    alpha = Image.fromarray(np.dstack([grey, grey, grey, 255 - grey]))
    sixteen = Image.fromarray(grey.astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    told: dict[str, Any] = {"exif": exif.tobytes(), "icc_profile": bytes(128)}
    frames = {"save_all": True, "append_images": [picture.rotate(90)]}
    return {
        "png grey": _file(picture, "PNG"), "png colour": _file(colour, "PNG", **told), "png alpha": _file(alpha, "PNG"),
        "png grey and alpha": _file(alpha.convert("LA"), "PNG"), "png bits": _file(picture.convert("1"), "PNG"),
        "png palette": _file(colour.quantize(9), "PNG", transparency=3), "png 16 bit": _file(sixteen, "PNG"),
        "png 16 bit colour": _sixteen_bit_colour(side), "apng": _file(picture, "PNG", **frames),
        "jpeg grey": _file(picture, "JPEG"), "jpeg colour": _file(colour, "JPEG", **told),
        "jpeg progressive": _file(colour, "JPEG", progressive=True), "jpeg cmyk": _file(colour.convert("CMYK"), "JPEG"),
        "webp": _file(colour, "WEBP", **told), "webp lossless": _file(alpha, "WEBP", lossless=True),
        "webp animated": _file(alpha, "WEBP", **frames), "gif": _file(picture, "GIF"),
        "gif animated": _file(picture, "GIF", **frames),
        "gif transparent": _file(colour.quantize(9), "GIF", transparency=3),
        "bmp": _file(colour, "BMP"), "bmp palette": _file(colour.quantize(9), "BMP"), "bmp alpha": _file(alpha, "BMP"),
        "tiff": _file(colour, "TIFF"), "ppm": _file(picture, "PPM"), "ico": _file(alpha, "ICO"),
    }  # fmt: skip


def _file(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _sixteen_bit_colour(side: int) -> bytes:
    rows = b"".join(b"\0" + bytes(range(6)) * side for _ in range(side))
    head = struct.pack(">IIBBBBB", side, side, 16, 2, 0, 0, 0)
    return join([(PNG, b""), (b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


def split(data: bytes) -> list[Part]:
    """The parts of a PNG, a WebP or a JPEG; of anything else, one part without a name."""
    if data.startswith(PNG):
        head, length, gap, end = 8, ">I4s", 8, 4
    elif data.startswith(WEBP):
        head, length, gap, end = 12, "<4sI", 8, 0
    elif data.startswith(JPEG):
        head, length, gap, end = 2, ">2sH", 2, 0
    else:
        return [(b"", data)]
    parts, at = [(data[:head], b"")], head
    while len(data) - at >= struct.calcsize(length) and data[at : at + 2] != b"\xff\xda":
        first, second = struct.unpack_from(length, data, at)
        name, size = (second, first) if isinstance(first, int) else (first, second)
        # The length of a JPEG's segment counts itself; a WebP's chunk is padded to an even length.
        past = at + gap + size + end + (size % 2 if data.startswith(WEBP) else 0)
        begin = at + gap + (2 if data.startswith(JPEG) else 0)
        if not begin <= at + gap + size <= len(data):
            break
        parts.append((name, data[begin : at + gap + size]))
        at = past
    return [*parts, (b"", data[at:])]


def join(parts: list[Part]) -> bytes:
    """The file of these parts, with right lengths and checksums; the first part says of which format."""
    head, written = parts[0][0], []
    for name, payload in parts[1:]:
        if not name:
            written.append(payload)
        elif head == PNG:
            checksum = struct.pack(">I", zlib.crc32(name + payload))
            written.append(struct.pack(">I", len(payload)) + name + payload + checksum)
        elif head.startswith(WEBP):
            written.append(name + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) % 2))
        else:
            written.append(name + struct.pack(">H", min(len(payload) + 2, 65535)) + payload[:65533])
    body = b"".join(written)
    if head.startswith(WEBP):
        head = head[:4] + struct.pack("<I", len(body) + 4) + head[8:]
    return head + body


FILES = [file for side in SIDES for file in whole_files(side).values()]
Draw = Callable[[st.SearchStrategy[Any]], Any]


def truncated(draw: Draw, data: bytes) -> bytes:
    """Cut off somewhere."""
    return data[: draw(st.integers(0, len(data)))]


def flipped(draw: Draw, data: bytes) -> bytes:
    """Up to eight bytes are others."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 8)) if data else 0):
        # Headers are short, and where most decisions are made.
        place = draw(st.integers(0, min(len(data), 64) - 1) | st.integers(0, len(data) - 1))
        changed[place] ^= draw(st.integers(1, 255))
    return bytes(changed)


def inserted(draw: Draw, data: bytes) -> bytes:
    """Some bytes more, or others instead of some."""
    place = draw(st.integers(0, len(data)))
    return data[:place] + draw(st.binary(max_size=40)) + data[place + draw(st.integers(0, 8)) :]


def _spliced(draw: Draw, data: bytes) -> bytes:
    """Its beginning and the end of another file."""
    other = draw(st.sampled_from(FILES))
    return data[: draw(st.integers(0, len(data)))] + other[draw(st.integers(0, len(other))) :]


def _lying(draw: Draw, data: bytes) -> bytes:
    """Other sizes where a header has them (or nearly so), checksums right."""
    parts = split(data)
    sizes = st.sampled_from((0, 1, 2, 12, 13, 28, 255, 256, 4096, 16383, 65535, 2**16, 2**24, 2**31 - 1, 2**32 - 1))
    which = draw(st.integers(0, len(parts) - 1))
    name, payload = parts[which]
    size, form = draw(sizes), draw(st.sampled_from(("<H", ">H", "<I", ">I")))
    number = struct.pack(form, size % 2 ** (8 * struct.calcsize(form)))
    place = draw(st.integers(0, max(min(len(payload), 32) - len(number), 0)))
    parts[which] = name, payload[:place] + number + payload[place + len(number) :]
    return join(parts) if parts[0][0] else parts[0][1]


def _rearranged(draw: Draw, data: bytes) -> bytes:
    """Parts dropped, doubled, swapped, invented, and filled with noise or with what expands without end."""
    parts = split(data)
    if len(parts) < 3:
        return flipped(draw, data)
    names = PNG_NAMES if data.startswith(PNG) else WEBP_NAMES if data.startswith(WEBP) else JPEG_NAMES
    payloads = st.binary(max_size=64) | st.sampled_from((b"", BOMB, b"k\0\0" + BOMB, EXIF))
    for _ in range(draw(st.integers(1, 3))):
        one, other = (draw(st.integers(1, len(parts) - 1)) for _ in range(2))
        match draw(st.integers(0, 4)):
            case 0 if len(parts) > 2:
                del parts[one]
            case 1:
                parts.insert(other, parts[one])
            case 2:
                parts[one], parts[other] = parts[other], parts[one]
            case 3:
                parts[one] = parts[one][0], draw(payloads)
            case _:
                parts.insert(one, (draw(st.sampled_from(names)), draw(payloads)))
    return join(parts)


DAMAGES = (truncated, flipped, inserted, _spliced, _lying, _rearranged)


@st.composite
def damaged_files(draw: Draw) -> bytes:
    """A file of some format with one to three damages; one in ten is whole."""
    whole: bytes = draw(st.sampled_from(FILES))
    data = whole
    for _ in range(draw(st.sampled_from((0, 1, 1, 1, 1, 1, 2, 2, 2, 3)))):
        data = draw(st.sampled_from(DAMAGES))(draw, data)
    # A signature that is gone ends the matter early, so it is mostly put back.
    return data if draw(st.sampled_from((True, False, False))) else whole[:SIGNATURE] + data[SIGNATURE:]
