"""TNN's ``MatUtils::Resize``: fixed-point linear and nearest-neighbour scaling of 8-bit pictures.

Only the pixels that are needed are read. The work is done in blocks that fit into the processor's cache, by calls that
release the interpreter lock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tnn_serving.errors import RequestError
from tnn_serving.pictures.planes import checked_picture, join_yuv, split_yuv

Interp = Literal["linear", "nearest"]

COEFFICIENT_SCALE = 2048
"""Weights have 11 fractional bits (TNN: ``INTER_RESIZE_COEF_BITS``)."""

BLOCK_BYTES = 1 << 17
"""Intermediate values per block. Measured: half is as fast; a quarter, or no blocks, is slower."""

PIXEL_TYPE: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.uint8),
    2: np.dtype(np.uint16),
    3: np.dtype("V3"),
    4: np.dtype(np.uint32),
}
"""A type of one element per pixel, by bytes per pixel."""


@dataclass(frozen=True, slots=True)
class Rectangle:
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


def scaled_size(height: int, width: int, scale_h: float, scale_w: float) -> tuple[int, int]:
    """Target height and width for scales, halves rounded up. TNN then scales by source/target, not by the scales."""
    return math.floor(scale_h * height + 0.5), math.floor(scale_w * width + 0.5)


def resize(
    picture: np.ndarray, height: int, width: int, interp: Interp = "linear", *, window: Rectangle | None = None
) -> np.ndarray:
    """A resized picture, bit-identical to TNN's.

    Args:
        picture: uint8 [..., H, W, C], C from 1 to 4. TNN reads out of bounds for a side of one pixel; here that pixel
            is repeated.
        height, width: of the result.
        interp: "linear" (2 x 2 taps, no anti-aliasing) or "nearest".
        window: the part of the result to compute; equal to a crop afterwards.

    Returns:
        uint8 [..., height, width, C], or the window's part of it; the picture itself if nothing changes.

    Raises:
        RequestError: not a picture, an empty target, or a window that extends beyond the target.
    """
    _check_target(height, width)
    rows, columns, channels = checked_picture(picture).shape[-3:]
    seen = window or Rectangle(0, 0, height, width)
    if min(seen.top, seen.left, seen.height - 1, seen.width - 1, height - seen.top - seen.height) < 0 or (
        seen.left + seen.width > width
    ):
        raise RequestError("window extends beyond the picture", expected=f"within {height} x {width}", found=seen)
    if (rows, columns) == (height, width):
        return picture[..., seen.top : seen.top + seen.height, seen.left : seen.left + seen.width, :]
    vertical = _Taps.of(rows, height, seen.top, seen.height)
    horizontal = _Taps.of(columns, width, seen.left, seen.width)
    sample = _linear if interp == "linear" else _nearest
    # One element per pixel, so that a pixel is moved at once.
    pixels = np.ascontiguousarray(picture).reshape(-1, rows, columns * channels).view(PIXEL_TYPE[channels])
    resized = np.empty((pixels.shape[0], seen.height, seen.width * channels), np.uint8)
    for source, target in zip(pixels, resized, strict=True):
        sample(source, target, vertical, horizontal, channels)
    return resized.reshape(*picture.shape[:-3], seen.height, seen.width, channels)


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


@dataclass(frozen=True, slots=True)
class _Taps:
    """The two source pixels of each target pixel along one axis, ascending (int64 [n]), and the target's position
    between the first and the second, 0 to 1 (float32 [n])."""

    first: np.ndarray
    second: np.ndarray
    ratio: np.ndarray

    @classmethod
    def of(cls, source: int, target: int, start: int, count: int) -> _Taps:
        """The taps of ``count`` target pixels from ``start``, scaling ``source`` pixels to ``target``."""
        centre = (np.arange(start, start + count) + 0.5) * (source / target) - 0.5
        position = centre.astype(np.float32)
        first = np.floor(position).astype(np.int64)
        ratio = position - first.astype(np.float32)
        ratio[first < 0] = 0
        first = np.maximum(first, 0)
        ratio[first >= source - 1] = 1
        first = np.maximum(np.minimum(first, source - 2), 0)
        return cls(first, np.minimum(first + 1, source - 1), ratio)

    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Integer weights of both taps (int32 [n]), halves rounded up, computed in float32."""
        half, unit = np.float32(0.5), np.float32(COEFFICIENT_SCALE)
        return ((1 - self.ratio) * unit + half).astype(np.int32), (self.ratio * unit + half).astype(np.int32)

    def nearest(self) -> np.ndarray:
        """The nearer tap; the first if both are equally near."""
        return np.where(self.ratio <= 0.5, self.first, self.second)


def _linear(source: np.ndarray, target: np.ndarray, vertical: _Taps, horizontal: _Taps, channels: int) -> None:
    a0, a1 = (np.repeat(a, channels) for a in horizontal.weights())
    b0, b1 = (b[:, None] for b in vertical.weights())
    step = max(1, BLOCK_BYTES // (target.shape[1] * a0.itemsize))
    for start in range(0, target.shape[0], step):
        block = slice(start, start + step)
        upper, lower = vertical.first[block], vertical.second[block]
        first, last = int(upper[0]), int(lower[-1])
        if last - first < 2 * upper.size:
            # Neighbouring target rows share taps: each source row is scaled horizontally once.
            rows = _scaled(source[first : last + 1], horizontal, a0, a1)
            top, bottom = rows.take(upper - first, axis=0), rows.take(lower - first, axis=0)
        else:
            rows = _scaled(source.take(np.concatenate([upper, lower]), axis=0), horizontal, a0, a1)
            top, bottom = rows[: upper.size], rows[upper.size :]
        top *= b0[block]
        top >>= 16
        bottom *= b1[block]
        bottom >>= 16
        top += bottom
        top += 2
        top >>= 2
        target[block] = top


def _scaled(rows: np.ndarray, horizontal: _Taps, a0: np.ndarray, a1: np.ndarray) -> np.ndarray:
    """int32 [rows, columns * channels]: the rows scaled horizontally, in 1/128."""
    scaled = rows.take(horizontal.first, axis=1).view(np.uint8).astype(np.int32)
    right = rows.take(horizontal.second, axis=1).view(np.uint8).astype(np.int32)
    scaled *= a0
    right *= a1
    scaled += right
    scaled >>= 4
    return scaled


def _nearest(source: np.ndarray, target: np.ndarray, vertical: _Taps, horizontal: _Taps, channels: int) -> None:
    rows = source.take(vertical.nearest(), axis=0)
    target[...] = rows.take(horizontal.nearest(), axis=1).view(np.uint8)
