"""TNN's ``MatUtils::WarpAffine``."""

from __future__ import annotations

from typing import Literal

import numpy as np

from tnn_serving.errors import RequestError
from tnn_serving.pictures.planes import checked_picture, join_yuv, split_yuv
from tnn_serving.pictures.resize import Interp

Border = Literal["constant", "replicate"]

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


def warp_affine(
    picture: np.ndarray,
    transform: np.ndarray,
    height: int,
    width: int,
    *,
    interp: Interp = "linear",
    border: Border = "constant",
    border_val: int = 0,
) -> np.ndarray:
    """A picture under an affine transform, bit-identical to TNN's.

    Positions have 10 fractional bits; the upper 5 select the weights.

    Args:
        picture: uint8 [..., H, W, C].
        transform: 2 x 3, maps source x, y, 1 to target x, y. A singular one has an inverse of all zeros.
        height, width: of the result.
        interp: "linear" or "nearest".
        border: pixels outside the picture: ``border_val`` ("constant"), or the nearest pixel ("replicate").

    Returns:
        uint8 [..., height, width, C].

    Raises:
        RequestError: not a picture or not a transform.
    """
    inverse = _inverse(transform)
    if height < 1 or width < 1:
        raise RequestError("a picture cannot be warped to nothing", found=f"{height} x {width}")
    if border not in ("constant", "replicate"):
        raise RequestError("border is not supported", expected="constant or replicate", found=border)
    if not 0 <= border_val <= 255:
        raise RequestError("a border value is a byte", expected="0..255", found=border_val)
    rows, columns, channels = checked_picture(picture).shape[-3:]
    x, y = (_positions(axis, height, width) for axis in inverse)
    pixels = picture.reshape(-1, rows, columns, channels)
    if border == "constant":
        # One pixel of border around the picture; taps farther out are clamped onto it.
        pixels = np.pad(pixels, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=border_val)
    margin = 1 if border == "constant" else 0
    flat = pixels.reshape(pixels.shape[0], -1, channels)

    def tap(dy: int | np.ndarray, dx: int | np.ndarray) -> np.ndarray:
        at_y = np.clip((y >> 10) + dy, -margin, rows - 1 + margin) + margin
        at_x = np.clip((x >> 10) + dx, -margin, columns - 1 + margin) + margin
        return flat[:, at_y * pixels.shape[2] + at_x]

    fx, fy = (x >> 5) & 31, (y >> 5) & 31
    if interp == "nearest":
        warped = tap(fy >= 16, fx >= 16)
    else:
        total = np.full((flat.shape[0], height, width, channels), 1 << 14, np.int32)
        for dy, wy in ((0, 32 - fy), (1, fy)):
            for dx, wx in ((0, 32 - fx), (1, fx)):
                # wx * wy has 10 fractional bits, TNN's table 15.
                total += tap(dy, dx) * ((wy * wx).astype(np.int32) << 5)[..., None]
        warped = np.clip(total >> 15, 0, 255).astype(np.uint8)
    return warped.reshape(*picture.shape[:-3], height, width, channels)


def warp_affine_yuv(
    yuv: np.ndarray, transform: np.ndarray, height: int, width: int, *, interp: Interp = "linear", border_val: int = 0
) -> np.ndarray:
    """Like :func:`warp_affine` for NV12 and NV21 [..., H*3/2, W], with a constant border.

    Like TNN, it applies the same transform to luma and chroma, although chroma has half the size.

    Raises:
        RequestError: an odd height or width, before or after.
    """
    if height % 2 or width % 2:
        raise RequestError("NV12 and NV21 need an even height and width", found=f"{height} x {width}")
    luma, chroma = split_yuv(yuv)
    moved = warp_affine(luma[..., None], transform, height, width, interp=interp, border_val=border_val)
    return join_yuv(
        moved[..., 0], warp_affine(chroma, transform, height // 2, width // 2, interp=interp, border_val=border_val)
    )


def _inverse(transform: np.ndarray) -> np.ndarray:
    """float64 [2, 3], target to source, in TNN's order of operations."""
    m = np.asarray(transform, np.float32).astype(np.float64)
    if m.shape != (2, 3) or not np.isfinite(m).all():
        raise RequestError("not an affine transform", expected="2 x 3 finite numbers", found=np.shape(transform))
    determinant = m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]
    d = 1.0 / determinant if determinant != 0 else 0.0
    i00, i01, i10, i11 = m[1, 1] * d, m[0, 1] * -d, m[1, 0] * -d, m[0, 0] * d
    return np.array(
        [[i00, i01, -i00 * m[0, 2] - i01 * m[1, 2]], [i10, i11, -i10 * m[0, 2] - i11 * m[1, 2]]], np.float64
    )


def _positions(axis: np.ndarray, height: int, width: int) -> np.ndarray:
    """int64 [height, width]: source positions of one axis in 1/1024 pixels, with half a 1/32 step added."""
    along = _round_int32(axis[0] * np.arange(width) * 1024)
    down = _round_int32((axis[1] * np.arange(height) + axis[2]) * 1024)
    positions: np.ndarray = along[None, :] + down[:, None] + 16
    return positions


def _round_int32(values: np.ndarray) -> np.ndarray:
    """Rounded half away from zero and saturated to 32 bits, as int64."""
    rounded = np.trunc(values + np.where(values >= 0, 0.5, -0.5))
    clipped: np.ndarray = np.clip(rounded, INT32_MIN, INT32_MAX).astype(np.int64)
    return clipped
