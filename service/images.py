"""Bytes -> float32 [H, W, C] in [0, 1]: every limit on format, size and channels of an upload.

What is done to the pixels, in order: the first frame is taken; the EXIF orientation is applied; alpha that is
not fully opaque is composited on black; one of another size than the model's is resized where the model's
card allows it, refused otherwise; an image whose channels agree is grey. 16 bits a channel are kept.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from .errors import (
    ImageChannelsError,
    ImageEmptyError,
    ImageFormatError,
    ImagePixelsError,
    ImageShapeError,
    ImageUnreadableError,
)

GREY_TOLERANCE = 3 / 255
"""Largest difference of channels that counts as grey: lossy codecs colour a grey image by a level or two."""
MAX_JPEG_SCANS = 100
"""Each scan of a progressive JPEG passes over all pixels, so a small file can cost hours."""
MAX_METADATA = 64
"""Pillow copies all EXIF data again for each further part, and unpacks every compressed text and profile."""
MAX_READS = 100_000
"""Pillow reads headers and some formats' pixels piece by piece, in Python; an ordinary file takes some thousands."""
METADATA = {"JPEG": (b"Exif\0\0", b"ICC_PROFILE\0"), "PNG": (b"iCCP", b"zTXt", b"iTXt")}
ORIENTATION_TAG = 0x0112
BYTE = np.uint16(256)

Samples = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class ImageSpec:
    """What a model takes: pixels, channels (1 or 3), and whether other sizes are resized."""

    height: int
    width: int
    channels: int
    resize: bool


@dataclass(frozen=True)
class DecodedImage:
    """Pixels [H, W, C] float32 in [0, 1], and the (height, width) of the upload if it was resized."""

    pixels: NDArray[np.float32]
    resized_from: tuple[int, int] | None


def forbid_pillow_warnings() -> None:
    """Make Pillow's warnings (damaged metadata, bombs) exceptions, for the whole process."""
    warnings.filterwarnings("error", module=r"PIL\.")


def as_png(image: DecodedImage) -> bytes:
    """An image that came as pixels, as a file of the same pixels."""
    pixels = np.rint(image.pixels * 255.0).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


def decode(data: bytes, spec: ImageSpec, *, max_pixels: int) -> DecodedImage:
    """Decode an upload for a model.

    Parameters
    ----------
    data : bytes
        A PNG, JPEG, WebP, BMP or GIF file.
    spec : ImageSpec
    max_pixels : int
        Largest height * width, checked from the header before anything is decoded.

    Raises
    ------
    ImageEmptyError, ImageFormatError, ImageUnreadableError, ImagePixelsError
        The file is not acceptable; each has a message for the client.
    ImageShapeError, ImageChannelsError
        The image does not fit the model.
    """
    if not data:
        raise ImageEmptyError("image has no bytes", field="image")
    kind = _format(data)
    try:
        width, height = _header_size(data, kind)
        if width * height > max_pixels:
            raise ImagePixelsError(
                f"image is {height} x {width} pixels; at most {max_pixels} pixels are decoded",
                field="image",
                maximum=max_pixels,
            )
        if {height, width} != {spec.height, spec.width} and not spec.resize:
            raise _wrong_shape((height, width), spec)
        samples, orientation = _samples(data, kind)
    except (ImagePixelsError, ImageShapeError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImagePixelsError("image claims far too many pixels", field="image", maximum=max_pixels) from error
    except Exception as error:
        # Pillow's decoders raise about any class on damaged files; whatever it is, the file is the cause.
        reason = str(error) if isinstance(error, OSError | SyntaxError | ValueError) else type(error).__name__
        raise ImageUnreadableError(
            f"image is a damaged or truncated {kind} file: {reason[:200]}", field="image"
        ) from error
    samples = _oriented(samples, orientation)
    size = samples.shape[0], samples.shape[1]
    resized = size != (spec.height, spec.width)
    if resized and not spec.resize:
        raise _wrong_shape(size, spec)
    pixels = _channels(_composited(samples, (spec.height, spec.width)), spec.channels)
    return DecodedImage(pixels, size if resized else None)


def _wrong_shape(size: tuple[int, int], spec: ImageSpec) -> ImageShapeError:
    return ImageShapeError(
        f"image is {size[0]} x {size[1]} pixels (height x width); the model takes {spec.height} x "
        f"{spec.width} and does not resize, since no certificate covers resizing",
        field="image",
        expected=[spec.height, spec.width],
        actual=list(size),
    )


def _format(data: bytes) -> str:
    signatures = (
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"\xff\xd8\xff", "JPEG"),
        (b"GIF87a", "GIF"),
        (b"GIF89a", "GIF"),
    )
    for signature, kind in (*signatures, (b"BM", "BMP")):
        if data.startswith(signature):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    raise ImageFormatError(
        "image is not a PNG, JPEG, WebP, BMP or GIF file",
        field="image",
        supported=["PNG", "JPEG", "WebP", "BMP", "GIF"],
    )


class _File(io.BytesIO):
    """A file that is not read in too many pieces."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        """See io.BytesIO."""
        self.reads += 1
        if self.reads > MAX_READS:
            raise ValueError("it consists of far too many parts")
        return super().read(size)


def _open(data: bytes, kind: str) -> ImageFile.ImageFile:
    return Image.open(_File(data), formats=(kind,))


def _header_size(data: bytes, kind: str) -> tuple[int, int]:
    """Width and height, before any buffer of that size exists."""
    if kind == "WEBP":
        return _webp_size(data)
    if kind == "JPEG" and data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise ValueError(f"more than {MAX_JPEG_SCANS} scans")
    if any(data.count(mark) > MAX_METADATA for mark in METADATA.get(kind, ())):
        raise ValueError(f"more than {MAX_METADATA} parts of metadata of one kind")
    with _open(data, kind) as image:
        if kind == "PNG":
            size = image.size
            image.verify()
            return size
        return image.size


def _webp_size(data: bytes) -> tuple[int, int]:
    """Pillow's WebP decoder allocates the canvas on opening, so its size is read here first (RFC 9649)."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise ValueError("unknown first chunk")


def _samples(data: bytes, kind: str) -> tuple[Samples, int]:
    """Samples [H, W, 4] (red, green, blue, alpha) of the first frame, and the EXIF orientation."""
    with _open(data, kind) as image:
        raw_mode = str(image.tile[0].args) if kind == "PNG" and image.tile else ""
        if kind == "GIF" and image.tile and image.tile[0].extents != (0, 0, *image.size):
            raise ValueError("its first frame is a part of the picture only")
        image.load()
        if image.info.get("default_image"):
            raise ValueError("its picture is no part of the animation that viewers show")
        orientation = _orientation(image)
        if not raw_mode.endswith(";16B"):
            opaque = image.convert("RGB") if image.mode == "CMYK" else image
            return np.asarray(opaque.convert("RGBA")), orientation
        return _sixteen_bit(image, raw_mode, lambda mode: _reread(data, mode)), orientation


def _orientation(image: ImageFile.ImageFile) -> Any:
    """Of the EXIF data alone: viewers do not turn by what XMP says, which Pillow takes where EXIF says nothing."""
    for name in ("xmp", "XML:com.adobe.xmp"):
        image.info.pop(name, None)
    return image.getexif().get(ORIENTATION_TAG, 1)


def _reread(data: bytes, raw_mode: str) -> NDArray[Any]:
    with _open(data, "PNG") as image:
        image.tile = [image.tile[0]._replace(args=raw_mode)]
        image.load()
        return np.asarray(image)


def _sixteen_bit(image: Image.Image, raw_mode: str, reread: Callable[[str], NDArray[Any]]) -> NDArray[np.uint16]:
    """Both bytes of every sample [H, W, 4] of a 16-bit PNG; Pillow alone keeps them for opaque grey only."""
    key = image.info.get("transparency")
    if raw_mode == "I;16B":
        colour = np.asarray(image)[:, :, None].astype(np.uint16)
    elif raw_mode == "LA;16B":
        # A pixel is 4 bytes, as in 8-bit RGBA, so that reading it as such gives the four bytes.
        parts = reread("RGBA").astype(np.uint16)
        return (parts[:, :, [0, 0, 0, 2]] * BYTE) + parts[:, :, [1, 1, 1, 3]]
    else:
        # The little-endian reader takes the second byte of each sample as the high one.
        high, low = np.asarray(image), reread(raw_mode.replace("16B", "16L"))
        colour = high.astype(np.uint16) * BYTE + low
    if colour.shape[2] == 4:
        return colour
    alpha = np.full((*colour.shape[:2], 1), 65535, dtype=np.uint16)
    if key is not None:
        alpha[(colour == np.asarray(key)).all(axis=2)] = 0
    return np.concatenate([np.broadcast_to(colour, (*colour.shape[:2], 3)), alpha], axis=2)


def _oriented(samples: Samples, orientation: object) -> Samples:
    """Turn and mirror so that row 0 is the top; the eight values of EXIF 2.3, table 6, others ignored."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples


def _composited(samples: Samples, size: tuple[int, int]) -> NDArray[np.float32]:
    """Colour times alpha (on black), resized to ``size``: [H, W, 3] in [0, 1]; one channel at a time."""
    one = np.float32(np.iinfo(samples.dtype).max)
    alpha = samples[:, :, 3]
    opaque = bool((alpha == alpha.dtype.type(one)).all())
    planes = []
    for channel in range(3):
        plane = samples[:, :, channel].astype(np.float32) / one
        if not opaque:
            plane *= alpha.astype(np.float32) / one
        if plane.shape != size:
            resized = Image.fromarray(plane).resize((size[1], size[0]), Image.Resampling.BILINEAR)
            plane = np.clip(np.asarray(resized), 0.0, 1.0)
        planes.append(plane)
    return np.stack(planes, axis=2)


def _channels(colour: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    if channels == 3:
        return colour
    spread = float((colour.max(axis=2) - colour.min(axis=2)).max())
    if spread > GREY_TOLERANCE:
        raise ImageChannelsError(
            "image is coloured; the model takes 1 channel (grey)", field="image", expected=1, actual=3
        )
    if spread == 0.0:
        return np.ascontiguousarray(colour[:, :, :1])
    # The luma weights of ITU-R BT.601, for what a lossy codec has left of grey.
    luma = colour @ np.array([[0.299], [0.587], [0.114]], dtype=np.float32)
    return np.clip(luma, 0.0, 1.0)
