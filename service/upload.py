"""What a caller has of an image -> the bytes of a file, without loss; Pillow and numpy only where they are needed."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    ImageLike = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]

LOSSLESS_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
"""Modes of Pillow that a PNG keeps as they are and that the server reads."""


def file_bytes(image: ImageLike) -> bytes:
    """The file to send.

    Parameters
    ----------
    image : path, bytes, PIL.Image.Image or numpy.ndarray
        A path is read and bytes are a file's: both are sent as they are. An image is sent as PNG, turned as its EXIF
        orientation says; so is an array of uint8, [H, W] or [H, W, C], C = 1 (grey), 2 (grey and alpha),
        3 (red, green, blue) or 4 (and alpha).

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If the image is of a mode, or the array of a type or shape, that a PNG would not keep.
    TypeError
        If it is none of these.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        return Path(image).read_bytes()
    import numpy as np
    from PIL import Image, ImageOps

    if isinstance(image, np.ndarray):
        image = Image.fromarray(_checked(image))
    if not isinstance(image, Image.Image):
        raise TypeError(f"an image is a path, bytes, a PIL image or an array of uint8, not {type(image).__name__}")
    if image.mode not in LOSSLESS_MODES:
        raise ValueError(f"a PIL image of mode {image.mode} has no lossless PNG: convert it to L or RGB first")
    buffer = io.BytesIO()
    ImageOps.exif_transpose(image).save(buffer, "PNG")
    return buffer.getvalue()


def _checked(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Uint8 [H, W] or [H, W, C], C = 2 to 4, H and W at least 1."""
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 2, 3, 4))
    if array.dtype.name != "uint8" or not fits or array.size == 0:
        raise ValueError(
            f"an array must be uint8 [H, W] or [H, W, C] with C from 1 to 4, not {array.dtype} {list(array.shape)}"
        )
    return array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
