"""Encoded pictures to uint8 arrays.

Pillow decodes: it supports CMYK JPEGs, palettes, 16-bit PNGs and EXIF, refuses truncated files, reports the size before
it decodes, and releases the interpreter lock. Its conversion to numpy copies twice while it holds the lock, which for a
large JPEG takes about as long as decoding. Its Arrow interface exposes the memory without a copy.
"""

from __future__ import annotations

import io
import re
import struct
import zlib

import nanoarrow
import numpy as np
from PIL import Image, UnidentifiedImageError, _imaging

from tnn_serving.errors import RequestError
from tnn_serving.pictures.color import with_channels
from tnn_serving.pictures.encoding import PICTURE_FORMATS, not_a_picture, what_is
from tnn_serving.pictures.limits import MAX_PIXELS

MAX_SCANS = 50
"""Limit of the scans of a JPEG: a progressive one has about 10. A scan of a few bytes costs a pass over all pixels."""

MAX_PARTS = 1000
"""Limit of the chunks of a PNG besides its pixels, and of the segments in front of a JPEG's pixels. Pictures have some
ten; Pillow reads each in Python, so that 100,000 empty ones cost seconds."""

SMALL_CHUNK = 256
"""A chunk of pixels with fewer bytes counts as a part: encoders write some thousands into each."""

SCAN = b"\xff\xda"
AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""The next marker after a scan's data, in which 0xff is followed by 0 or is part of a restart marker."""

# Arrow needs pictures in one block of memory; by default Pillow splits them into blocks of 16 MB.
# (Pillow's documentation calls this module Image.core.)
_imaging.set_use_block_allocator(1)

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
"""EXIF 2.32, tag Orientation: how to turn the stored picture upright."""

DECODE_ERRORS = (
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
"""Exceptions of Pillow's decoders for damaged files; the warnings only where warnings are errors."""


def decode(data: bytes | bytearray | memoryview, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The first picture of a JPEG, PNG, WebP or BMP file, upright, as uint8 [H, W, 3] in the order R, G, B.

    Grey becomes three equal channels; otherwise as :func:`decode_mat`.

    Args:
        data: the whole file.
        max_pixels: limit of width x height, checked before decoding.

    Raises:
        RequestError: another kind of file, too large, damaged or truncated.
    """
    return with_channels(decode_mat(data, max_pixels=max_pixels), 3)


def decode_mat(data: bytes | bytearray | memoryview, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Like :func:`decode`, in the forms that need no conversion: TNN's NGRAY or N8UC4.

    16 bits are cut to the upper 8, CMYK is converted without colour management, EXIF orientation is applied.

    Returns:
        uint8 [H, W, 1] for a grey picture, otherwise [H, W, 4]: R, G, B and alpha, which is 255 if the file has none.
        Read-only: the memory belongs to the decoder.

    Raises:
        RequestError: another kind of file, too large, damaged or truncated.
    """
    if (parts := _parts(data)) > MAX_PARTS:
        raise RequestError("picture has too many parts", expected=f"at most {MAX_PARTS}", found=f"{parts} or more")
    try:
        image = Image.open(io.BytesIO(data), formats=PICTURE_FORMATS)
    except UnidentifiedImageError:
        raise not_a_picture(what_is(bytes(data))) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(max_pixels, str(error)) from None
    except DECODE_ERRORS as error:
        raise RequestError("picture cannot be read", found=_reason(error)) from None
    with image:
        width, height = image.size
        if width * height > max_pixels:
            raise _too_large(max_pixels, f"{width} x {height}")
        if (scans := _scans(bytes(data))) > MAX_SCANS:
            raise RequestError("picture has too many scans", expected=f"at most {MAX_SCANS}", found=scans)
        try:
            image.load()
            turn = UPRIGHT.get(_orientation(image))
            return _mat(image if turn is None else image.transpose(turn))
        except DECODE_ERRORS as error:
            raise RequestError("picture is damaged or truncated", found=_reason(error)) from None


def _parts(data: bytes | bytearray | memoryview) -> int:
    """How many parts besides its pixels a PNG or a JPEG has, counted up to one more than :data:`MAX_PARTS`."""
    count = 0
    if bytes(data[:4]) == b"\x89PNG":
        at = 8
        while at + 8 <= len(data) and count <= MAX_PARTS:
            size, kind = int.from_bytes(data[at : at + 4], "big"), bytes(data[at + 4 : at + 8])
            if kind == b"IEND":
                break
            count += kind != b"IDAT" or size < SMALL_CHUNK
            at += 12 + size
    elif bytes(data[:2]) == b"\xff\xd8":
        at = 2
        while at + 4 <= len(data) and count <= MAX_PARTS and data[at] == 0xFF and bytes(data[at : at + 2]) != SCAN:
            # A marker may be padded with 0xff bytes in front.
            at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            count += 1
    return count


def _scans(data: bytes) -> int:
    """How many scans the first JPEG in the file has; 0 if they are certainly few."""
    if not data.startswith(b"\xff\xd8") or data.count(SCAN) <= MAX_SCANS:
        return 0
    count, at = 0, 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xD9:
        is_scan = data[at : at + 2] == SCAN
        # A marker may be padded with 0xff bytes in front.
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if is_scan:
            count += 1
            marker = AFTER_SCAN.search(data, at)
            at = marker.start() if marker else len(data)
    return count


def _too_large(max_pixels: int, found: str) -> RequestError:
    count = re.search(r"\d+ pixels", found)
    return RequestError(
        "picture is too large", expected=f"at most {max_pixels} pixels", found=count.group() if count else found
    )


def _orientation(image: Image.Image) -> int:
    """EXIF orientation; 1 if it is missing or unreadable: broken metadata does not make the picture invalid."""
    try:
        found = image.getexif().get(ORIENTATION_TAG, 1)
    except DECODE_ERRORS:
        return 1
    return found if isinstance(found, int) else 1


def _mat(image: Image.Image) -> np.ndarray:
    if image.mode == "I;16":
        # Arrow declares these numbers as signed.
        return (_memory(image).view(np.uint16) >> 8).astype(np.uint8)
    if image.mode in ("P", "PA") or (image.mode in ("L", "RGB") and "transparency" in image.info):
        return _memory(image.convert("RGBA"))
    # Pillow keeps LA as L, L, L, A.
    return _memory(image if image.mode in ("1", "L", "LA", "RGB", "RGBA") else image.convert("RGB"))


def _memory(image: Image.Image) -> np.ndarray:
    """The picture's memory without a copy, [H, W, 1] or [H, W, 4]; the array keeps it alive."""
    array = nanoarrow.c_array(image)
    # A view of the child, not the child of a view: only the former keeps the parent alive.
    storage = array.child(0) if array.n_children else array
    return np.asarray(storage.view().buffer(1)).reshape(image.height, image.width, -1)


def _reason(error: BaseException) -> str:
    return str(error) or "data that its decoder does not take"
