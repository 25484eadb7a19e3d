"""Encoding of pictures."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from tnn_serving.errors import RequestError
from tnn_serving.pictures.planes import checked_picture

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
"""Formats by file name suffix."""


def encode_png(picture: np.ndarray) -> bytes:
    """A PNG file of uint8 [H, W, 3] (R, G, B), compressed for speed.

    Raises:
        RequestError: not such a picture.
    """
    file = io.BytesIO()
    _image(picture).save(file, "PNG", compress_level=1)
    return file.getvalue()


def write_picture(path: str | os.PathLike[str], picture: np.ndarray) -> None:
    """Writes uint8 [H, W, 3] (R, G, B) to ``path`` in the format of its suffix.

    Raises:
        RequestError: a suffix that is not in :data:`SUFFIXES`, or a file that cannot be written.
    """
    target = Path(path)
    form = SUFFIXES.get(target.suffix.lower())
    if form is None:
        raise RequestError("unknown picture format", expected=", ".join(SUFFIXES), found=target.suffix or target.name)
    image = _image(picture)
    try:
        image.save(target, form)
    except OSError as error:
        raise RequestError(f"picture cannot be written to {target}", found=error.strerror or str(error)) from error


def _image(picture: np.ndarray) -> Image.Image:
    if checked_picture(picture).ndim != 3 or picture.shape[-1] != 3:
        raise RequestError("only R, G, B pictures are written", expected="[H, W, 3]", found=picture.shape)
    return Image.fromarray(np.ascontiguousarray(picture))
