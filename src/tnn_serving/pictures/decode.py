"""Encoded pictures to uint8 R, G, B arrays.

Pillow does the decoding: it is the library that knows CMYK JPEGs, palettes, 16-bit PNGs and EXIF, refuses truncated
files, tells the size before anything is decoded, and releases the interpreter lock while it works.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from tnn_serving.errors import RequestError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
"""What is taken, by Pillow's names; other decoders of Pillow are not reachable from a request."""

MAX_PIXELS = 50_000_000
"""Default cap on width x height: 150 MB once decoded."""

ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF 2.32, tag Orientation: what turns the stored picture upright."""

BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    NotImplementedError,
    struct.error,
    zlib.error,
    MemoryError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
    UserWarning,
)
"""What Pillow's decoders raise for files that are not what they claim; the warnings only where they are errors."""


def decode(data: bytes | bytearray | memoryview, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The first picture of a JPEG, PNG, WebP or BMP file, upright, as uint8 [H, W, 3] in the order R, G, B.

    Grey becomes three equal channels, of 16 bits the upper 8 are kept, CMYK is converted without colour management, an
    alpha channel is dropped (as TNN drops the fourth byte of an N8UC4 mat), EXIF orientation is applied.

    Args:
        data: the whole file.
        max_pixels: cap on width x height, checked before decoding.

    Raises:
        RequestError: no such file, too large, damaged or cut short.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise RequestError(
            "not a picture", expected=", ".join(FORMATS), found=f"{len(data)} bytes starting {bytes(data[:8])!r}"
        ) from None
    except BROKEN as error:
        raise RequestError("picture cannot be read", found=_reason(error)) from None
    with image:
        width, height = image.size
        if width * height > max_pixels:
            raise RequestError(
                "picture is too large", expected=f"at most {max_pixels} pixels", found=f"{width} x {height}"
            )
        try:
            image.load()
        except BROKEN as error:
            raise RequestError("picture is damaged or cut short", found=_reason(error)) from None
        turn = UPRIGHT.get(_orientation(image))
        return _rgb(image if turn is None else image.transpose(turn))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 if there is none or the block cannot be read: a picture is not refused for its metadata."""
    try:
        found = image.getexif().get(ORIENTATION_TAG, 1)
    except BROKEN:
        return 1
    return found if isinstance(found, int) else 1


def _rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64) >> 8
        return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
