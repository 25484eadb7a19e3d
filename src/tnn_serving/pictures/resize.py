"""TNN's ``MatUtils::Resize``: fixed-point linear and nearest-neighbour scaling of 8-bit pictures."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from tnn_serving.errors import RequestError
from tnn_serving.pictures.planes import checked_picture, join_yuv, split_yuv

Interp = Literal["linear", "nearest"]

COEFFICIENT_SCALE = 2048
"""Weights have 11 fractional bits (TNN: ``INTER_RESIZE_COEF_BITS``)."""


def scaled_size(height: int, width: int, scale_h: float, scale_w: float) -> tuple[int, int]:
    """Target height and width for scales, halves rounded up; TNN then scales by source/target, not by the scales."""
    return math.floor(scale_h * height + 0.5), math.floor(scale_w * width + 0.5)


def resize(picture: np.ndarray, height: int, width: int, interp: Interp = "linear") -> np.ndarray:
    """A picture of another size, equal to the bit to TNN's.

    Args:
        picture: uint8 [..., H, W, C], C from 1 to 4. TNN reads out of bounds for a side of one pixel; here that pixel
            is repeated.
        height, width: of the result.
        interp: "linear" (2 x 2 taps, no anti-aliasing) or "nearest".

    Returns:
        uint8 [..., height, width, C]; the picture itself if nothing changes.

    Raises:
        RequestError: not a picture, or an empty target.
    """
    _check_target(height, width)
    rows, columns = checked_picture(picture).shape[-3:-1]
    if (rows, columns) == (height, width):
        return picture
    sample = _linear if interp == "linear" else _nearest
    channels = picture.shape[-1]
    lines = picture.reshape(-1, rows, columns * channels)
    resized = np.empty((lines.shape[0], height, width * channels), np.uint8)
    for source, target in zip(lines, resized, strict=True):
        target[...] = sample(source, columns, height, width, channels)
    return resized.reshape(*picture.shape[:-3], height, width, channels)


def resize_yuv(yuv: np.ndarray, height: int, width: int, interp: Interp = "linear") -> np.ndarray:
    """Like :func:`resize` for NV12 and NV21 [..., H*3/2, W]: luma and chroma are scaled separately.

    Raises:
        RequestError: an odd height or width, before or after.
    """
    _check_target(height, width)
    if height % 2 or width % 2:
        raise RequestError("NV12 and NV21 need an even height and width", found=f"{height} x {width}")
    luma, chroma = split_yuv(yuv)
    return join_yuv(
        resize(luma[..., None], height, width, interp)[..., 0], resize(chroma, height // 2, width // 2, interp)
    )


def _check_target(height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise RequestError("a picture cannot be resized to nothing", found=f"{height} x {width}")


def _taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and second tap (int64 [target]) and the float32 position between them."""
    centre = (np.arange(target) + 0.5) * (source / target) - 0.5
    position = centre.astype(np.float32)
    first = np.floor(position).astype(np.int64)
    ratio = position - first.astype(np.float32)
    ratio[first < 0] = 0
    first = np.maximum(first, 0)
    ratio[first >= source - 1] = 1
    first = np.minimum(first, source - 2)
    return np.maximum(first, 0), first + 1, ratio


def _weights(ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integer weights of both taps, halves rounded up, float32 arithmetic; int32 [n]."""
    half, unit = np.float32(0.5), np.float32(COEFFICIENT_SCALE)
    return ((1 - ratio) * unit + half).astype(np.int32), (ratio * unit + half).astype(np.int32)


def _columns(taps: np.ndarray, channels: int) -> np.ndarray:
    """Positions of the taps' bytes in an interleaved row."""
    return (taps[:, None] * channels + np.arange(channels)).reshape(-1)


def _linear(source: np.ndarray, columns: int, height: int, width: int, channels: int) -> np.ndarray:
    upper, lower, ratio_y = _taps(source.shape[0], height)
    left, right, ratio_x = _taps(columns, width)
    a0, a1 = (np.repeat(a, channels) for a in _weights(ratio_x))
    b0, b1 = (b[:, None] for b in _weights(ratio_y))
    # Only rows that are tapped are scaled horizontally, each of them once.
    rows, where = np.unique(np.concatenate([upper, lower]), return_inverse=True)
    tapped = source if rows.size == source.shape[0] else source[rows]
    scaled = tapped[:, _columns(left, channels)] * a0
    scaled += tapped[:, _columns(right, channels)] * a1
    scaled >>= 4
    top, bottom = scaled[where[:height]], scaled[where[height:]]
    top *= b0
    top >>= 16
    bottom *= b1
    bottom >>= 16
    top += bottom
    top += 2
    top >>= 2
    result: np.ndarray = top.astype(np.uint8)
    return result


def _nearest(source: np.ndarray, columns: int, height: int, width: int, channels: int) -> np.ndarray:
    upper, lower, ratio_y = _taps(source.shape[0], height)
    left, right, ratio_x = _taps(columns, width)
    rows = np.where(ratio_y <= 0.5, upper, lower)
    columns_of = _columns(np.where(ratio_x <= 0.5, left, right), channels)
    return source[rows][:, columns_of]
