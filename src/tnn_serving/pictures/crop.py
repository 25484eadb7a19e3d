"""TNN's ``MatUtils::Crop`` and ``MatUtils::CopyMakeBorder``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tnn_serving.errors import RequestError
from tnn_serving.pictures.planes import checked_picture, join_yuv, split_yuv


def crop(picture: np.ndarray, *, top_left_x: int, top_left_y: int, width: int, height: int) -> np.ndarray:
    """A copy of ``height`` rows and ``width`` columns of uint8 [..., H, W, C].

    Raises:
        RequestError: the rectangle is empty or extends beyond the picture (TNN reads out of bounds).
    """
    _check(checked_picture(picture).shape[-3:-1], top_left_x, top_left_y, width, height)
    return np.array(picture[..., top_left_y : top_left_y + height, top_left_x : top_left_x + width, :])


def crop_yuv(yuv: np.ndarray, *, top_left_x: int, top_left_y: int, width: int, height: int) -> np.ndarray:
    """Like :func:`crop` for NV12 and NV21 [..., H*3/2, W]; all four numbers must be even."""
    luma, chroma = split_yuv(yuv)
    if any(number % 2 for number in (top_left_x, top_left_y, width, height)):
        raise RequestError(
            "NV12 and NV21 are cropped at even positions and sizes",
            found=f"x {top_left_x}, y {top_left_y}, {width} x {height}",
        )
    _check(luma.shape[-2:], top_left_x, top_left_y, width, height)
    x, y, w, h = top_left_x // 2, top_left_y // 2, width // 2, height // 2
    return join_yuv(
        luma[..., top_left_y : top_left_y + height, top_left_x : top_left_x + width],
        chroma[..., y : y + h, x : x + w, :],
    )


def _check(size: tuple[int, ...], x: int, y: int, width: int, height: int) -> None:
    rows, columns = size
    if x < 0 or y < 0 or width < 1 or height < 1 or x + width > columns or y + height > rows:
        raise RequestError(
            "crop extends beyond the picture",
            expected=f"within {columns} x {rows}",
            found=f"{width} x {height} at x {x}, y {y}",
        )


def copy_make_border(
    picture: np.ndarray, *, top: int, bottom: int, left: int, right: int, border_val: int | Sequence[int] = 0
) -> np.ndarray:
    """uint8 [..., H, W, C] with a border of one colour, the only border that TNN supports here.

    Args:
        picture: uint8 [..., H, W, C].
        top, bottom, left, right: pixels to add.
        border_val: one byte for all channels (TNN's form), or one per channel.

    Raises:
        RequestError: a negative border, or a value that is not a byte.
    """
    if min(top, bottom, left, right) < 0:
        raise RequestError("a border cannot be negative", found=f"{top}, {bottom}, {left}, {right}")
    *batch, rows, columns, channels = checked_picture(picture).shape
    colour = [border_val] if isinstance(border_val, int) else list(border_val)
    if len(colour) not in (1, channels) or not all(0 <= value <= 255 for value in colour):
        raise RequestError("a border value is a byte", expected=f"1 or {channels} of 0..255", found=border_val)
    bordered = np.empty((*batch, top + rows + bottom, left + columns + right, channels), np.uint8)
    bordered[...] = np.array(colour, np.uint8)
    bordered[..., top : top + rows, left : left + columns, :] = picture
    return bordered
