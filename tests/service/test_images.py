"""Decoding: what is accepted gives exactly the pixels of the file, and everything else is refused."""

from __future__ import annotations

import contextlib
import io
import itertools
import resource
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.errors import (
    ImageChannelsError,
    ImageEmptyError,
    ImageFormatError,
    ImagePixelsError,
    ImageShapeError,
    ImageUnreadableError,
)
from service.images import DecodedImage, ImageSpec, decode

from .pictures import SIDE, chunk, colour, encode, grey, png, png16

GREY = ImageSpec(SIDE, SIDE, 1, resize=False)
RGB = ImageSpec(SIDE, SIDE, 3, resize=False)
PIXELS = 10_000


def pixels(data: bytes, spec: ImageSpec = GREY) -> NDArray[np.float32]:
    image = decode(data, spec, max_pixels=PIXELS)
    assert image.pixels.dtype == np.float32
    assert image.pixels.shape == (spec.height, spec.width, spec.channels)
    assert image.resized_from is None
    return image.pixels


def same(found: NDArray[np.float32], expected: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("PNG", {"optimize": True}), ("WEBP", {"lossless": True}), ("BMP", {}), ("GIF", {})],
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_lossless_formats_keep_every_level(kind: str, options: dict[str, bool], mode: str) -> None:
    data = encode(Image.fromarray(grey()).convert(mode), kind, **options)
    same(pixels(data)[:, :, 0], grey() / 255)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {})])
def test_colour_keeps_its_channels(kind: str, options: dict[str, bool]) -> None:
    same(pixels(encode(colour(), kind, **options), RGB), colour() / 255)


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGB")])
def test_lossy_grey_stays_grey(kind: str, mode: str) -> None:
    data = encode(Image.fromarray(grey()).convert(mode), kind, quality=95)
    np.testing.assert_allclose(pixels(data)[:, :, 0], grey() / 255, rtol=0, atol=0.05)


def test_grey_is_replicated_for_a_colour_model() -> None:
    found = pixels(encode(grey(), "PNG"), RGB)
    same(found, np.repeat(grey()[:, :, None], 3, axis=2) / 255)


def test_one_bit_pixels_are_black_and_white() -> None:
    bits = grey() > 100
    same(pixels(encode(Image.fromarray(bits), "PNG"))[:, :, 0], bits.astype(np.float64))


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_palettes_are_looked_up(kind: str) -> None:
    image = Image.fromarray(np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) % 4, mode="P")
    image.putpalette([10, 20, 30, 200, 100, 0, 0, 0, 255, 77, 77, 77])
    same(pixels(encode(image, kind), RGB), np.asarray(image.convert("RGB")) / 255)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_composited_on_black(kind: str) -> None:
    alpha = grey(seed=2)
    data = encode(np.dstack([colour(), alpha]), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    same(pixels(data, RGB), colour() / 255 * (alpha[:, :, None] / 255))


def test_grey_with_alpha_is_composited_on_black() -> None:
    alpha = grey(seed=2)
    data = encode(Image.merge("LA", [Image.fromarray(grey()), Image.fromarray(alpha)]), "PNG")
    same(pixels(data)[:, :, 0], grey() / 255 * (alpha / 255))


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_black(kind: str) -> None:
    index = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) % 2
    image = Image.fromarray(index, mode="P")
    image.putpalette([200, 200, 200, 100, 100, 100])
    same(pixels(encode(image, kind, transparency=0))[:, :, 0], np.where(index == 0, 0, 100) / 255)


def test_a_transparent_grey_level_is_black() -> None:
    data = encode(grey(), "PNG", transparency=int(grey()[3, 4]))
    same(pixels(data)[:, :, 0], np.where(grey() == grey()[3, 4], 0, grey()) / 255)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_samples_keep_both_bytes(channels: int) -> None:
    samples = np.random.default_rng(channels).integers(0, 65536, (SIDE, SIDE, channels), dtype=np.uint16)
    found = pixels(png16(samples), GREY if channels < 3 else RGB)
    expected = samples / 65535
    if channels in (2, 4):
        expected = expected[:, :, :-1] * expected[:, :, -1:]
    same(found, expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_transparent_colour_is_black(channels: int) -> None:
    samples = np.random.default_rng(9).integers(0, 65536, (SIDE, SIDE, channels), dtype=np.uint16)
    samples[2:5] = 256 * np.arange(1, channels + 1) + 7
    key = chunk(b"tRNS", samples[2, 0].astype(">u2").tobytes())
    expected = samples / 65535
    expected[2:5] = 0
    same(pixels(png16(samples, key), GREY if channels == 1 else RGB), expected)


def test_gif_and_webp_animations_give_their_first_frame() -> None:
    frames = [Image.fromarray(grey(seed=seed)) for seed in (0, 1, 2)]
    gif = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    same(pixels(gif)[:, :, 0], grey() / 255)
    webp = encode(frames[0].convert("RGB"), "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    same(pixels(webp)[:, :, 0], grey() / 255)


UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.T,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).T,
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    """Oracle: EXIF 2.3, table 6: 6 is shown turned clockwise by 90 degrees, 8 counter-clockwise."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(grey()).convert("RGB")
    data = encode(image, kind, exif=exif.tobytes(), **({"lossless": True} if kind == "WEBP" else {}))
    stored = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    same(pixels(data)[:, :, 0], UPRIGHT[orientation](stored) / 255)


@pytest.mark.parametrize("orientation", [0, 9, 99])
def test_unknown_exif_orientations_are_ignored(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    same(pixels(encode(grey(), "PNG", exif=exif.tobytes()))[:, :, 0], grey() / 255)


def test_exif_turns_before_the_size_is_checked() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(grey(8, SIDE), "PNG", exif=exif.tobytes())
    assert decode(data, ImageSpec(SIDE, 8, 1, resize=False), max_pixels=PIXELS).pixels.shape == (SIDE, 8, 1)
    with pytest.raises(ImageShapeError, match="12 x 8 pixels"):
        decode(data, ImageSpec(8, SIDE, 1, resize=False), max_pixels=PIXELS)


def test_other_sizes_are_resized_only_if_the_card_says_so() -> None:
    data = encode(np.full((30, 20), 51, dtype=np.uint8), "PNG")
    with pytest.raises(ImageShapeError, match="30 x 20") as caught:
        decode(data, GREY, max_pixels=PIXELS)
    assert caught.value.members["expected"] == [SIDE, SIDE]
    image: DecodedImage = decode(data, ImageSpec(SIDE, SIDE, 1, resize=True), max_pixels=PIXELS)
    assert image.resized_from == (30, 20)
    np.testing.assert_allclose(image.pixels, 0.2, atol=1e-6)


def test_colour_is_refused_by_a_grey_model() -> None:
    with pytest.raises(ImageChannelsError):
        decode(encode(colour(), "PNG"), GREY, max_pixels=PIXELS)


def test_no_bytes_are_no_image() -> None:
    with pytest.raises(ImageEmptyError):
        decode(b"", GREY, max_pixels=PIXELS)


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "ICO", "TGA", "PCX", "EPS", "PDF", "JPEG2000", "AVIF"])
def test_other_formats_are_refused(kind: str) -> None:
    try:
        data = encode(Image.fromarray(colour(64, 64)), kind)
    except OSError:
        pytest.skip(f"this Pillow does not write {kind}")
    with pytest.raises(ImageFormatError):
        decode(data, RGB, max_pixels=PIXELS)


FILES = {
    "png": encode(grey(), "PNG"),
    "png 16 bit": png16(colour().astype(np.uint16) * 257),
    "jpeg": encode(grey(), "JPEG"),
    "progressive jpeg": encode(colour(), "JPEG", progressive=True),
    "webp": encode(colour(), "WEBP"),
    "lossless webp": encode(colour(), "WEBP", lossless=True),
    "gif": encode(grey(), "GIF"),
    "bmp": encode(colour(), "BMP"),
}


@pytest.mark.parametrize("name", FILES)
def test_truncated_files_are_refused_wherever_they_end(name: str) -> None:
    """The last four bytes of a PNG (a checksum of nothing) and two of a GIF (a trailer) carry no pixels."""
    data = FILES[name]
    for size in range(1, len(data) - 4):
        with pytest.raises((ImageUnreadableError, ImageFormatError, ImageShapeError)):
            decode(data[:size], RGB, max_pixels=PIXELS)


@pytest.mark.parametrize("name", FILES)
def test_flipped_bytes_never_escape_as_other_errors(name: str) -> None:
    """Any damage is either harmless or refused with one of the module's own errors."""
    data, generator = FILES[name], np.random.default_rng(5)
    refused = (ImageUnreadableError, ImageFormatError, ImageShapeError, ImagePixelsError, ImageChannelsError)
    for _ in range(300):
        damaged = bytearray(data)
        for place in generator.integers(0, len(data), 3):
            damaged[place] ^= int(generator.integers(1, 256))
        try:
            image = decode(bytes(damaged), RGB, max_pixels=PIXELS)
        except refused:
            continue
        assert image.pixels.min() >= 0.0
        assert image.pixels.max() <= 1.0


def _vp8x(width: int, height: int) -> bytes:
    body = (
        b"VP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _vp8l(width: int, height: int) -> bytes:
    body = b"VP8L" + struct.pack("<I", 5) + b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


BOMBS = {
    "png": png([], 50_000, height=50_000, bits=8, colour_type=0),
    "one row": png([], 2**31 - 1, height=1, bits=8, colour_type=0),
    "gif": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + b"\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\0;",
    "bmp": b"BM" + bytes(8) + struct.pack("<IIiiHHIIiiII", 54, 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "jpeg": FILES["jpeg"].replace(struct.pack(">HH", SIDE, SIDE), struct.pack(">HH", 65_000, 65_000)),
    "extended webp": _vp8x(16_000, 16_000),
    "lossless webp": _vp8l(16_000, 16_000),
    "a bit too large": encode(np.zeros((101, 100), dtype=np.uint8), "PNG"),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("resize", [False, True])
def test_bombs_are_refused_by_their_header(name: str, resize: bool) -> None:
    with pytest.raises(ImagePixelsError):
        decode(BOMBS[name], ImageSpec(SIDE, SIDE, 1, resize), max_pixels=PIXELS)


def test_jpegs_with_many_scans_are_refused() -> None:
    data = encode(colour(), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageUnreadableError, match="scans"):
        decode(data[:-2] + scan * 200 + data[-2:], RGB, max_pixels=PIXELS)


def segment(mark: int, body: bytes) -> bytes:
    return bytes([0xFF, mark]) + struct.pack(">H", len(body) + 2) + body


PIECES = {
    "exif": lambda jpeg, gif: jpeg[:2] + segment(0xE1, b"Exif\0\0" + bytes(10)) * 65 + jpeg[2:],
    "empty parts": lambda jpeg, gif: jpeg[:2] + segment(0xE0, b"") * 50_000 + jpeg[2:],
    "fill": lambda jpeg, gif: jpeg[:2] + b"\xff" * 200_000 + jpeg[2:],
    "gif": lambda jpeg, gif: gif[: gif.index(b",")] + b"x" * 200_000 + gif[gif.index(b",") :],
    "profiles": lambda jpeg, gif: png(
        [bytes(SIDE)] * SIDE, SIDE, bits=8, colour_type=0,
        extra=chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(1000))) * 65,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PIECES)
def test_files_of_far_too_many_pieces_are_refused(name: str) -> None:
    """Pillow would look at each of them in Python, some of them for longer each time."""
    data = PIECES[name](encode(grey(), "JPEG"), encode(grey(), "GIF"))
    with pytest.raises(ImageUnreadableError, match=r"far too many parts|metadata"):
        decode(data, GREY, max_pixels=PIXELS)


def test_a_large_ordinary_file_is_not_refused_for_its_pieces() -> None:
    large = np.random.default_rng(1).integers(0, 256, (1500, 1500), dtype=np.uint8)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP"):
        decode(encode(large, kind), ImageSpec(SIDE, SIDE, 3, True), max_pixels=large.size)


def test_only_exif_says_how_a_picture_is_turned() -> None:
    """Not XMP, which no viewer follows."""
    packet = b'<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="3"/>'
    jpeg = encode(grey(), "JPEG")
    turned = jpeg[:2] + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet) + jpeg[2:]
    same(pixels(turned), pixels(jpeg).astype(np.float64))
    text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet)
    rows = [bytes(row) for row in grey()]
    plain, with_text = (png(rows, SIDE, bits=8, colour_type=0, extra=extra) for extra in (b"", text))
    same(pixels(with_text), pixels(plain).astype(np.float64))


def test_a_picture_that_viewers_do_not_show_is_refused() -> None:
    """One before the animation it is no part of, and a first frame that leaves the rest to the viewer."""
    frames = [Image.fromarray(grey(seed=seed)) for seed in (0, 1, 2)]
    animation = {"save_all": True, "append_images": frames[1:]}
    with pytest.raises(ImageUnreadableError, match="animation"):
        decode(encode(frames[0], "PNG", **animation, default_image=True), GREY, max_pixels=PIXELS)
    same(pixels(encode(frames[0], "PNG", **animation))[:, :, 0], grey() / 255)
    gif = bytearray(encode(frames[0], "GIF"))
    gif[6:10] = struct.pack("<HH", SIDE + 1, SIDE)
    with pytest.raises(ImageUnreadableError, match="first frame"):
        decode(bytes(gif), ImageSpec(SIDE, SIDE + 1, 1, False), max_pixels=PIXELS)


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
def test_compressed_metadata_does_not_expand_without_limit(name: bytes) -> None:
    packed = zlib.compress(bytes(100 * 2**20))
    head = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"k\0\0"}[name]
    data = png([bytes(SIDE)] * SIDE, SIDE, bits=8, colour_type=0, extra=chunk(name, head + packed))
    before = _peak_memory()
    with contextlib.suppress(ImageUnreadableError):
        decode(data, GREY, max_pixels=PIXELS)
    assert _peak_memory() - before < 80 * 2**10


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_all_orientations_differ_on_the_test_picture() -> None:
    """Otherwise the orientation tests would pass by symmetry."""
    for one, other in itertools.combinations(UPRIGHT, 2):
        assert not np.array_equal(UPRIGHT[one](grey()), UPRIGHT[other](grey()))
