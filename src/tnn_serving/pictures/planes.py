"""Checks on pictures, and the two planes of NV12 and NV21 pictures."""

from __future__ import annotations

import numpy as np

from tnn_serving.errors import RequestError


def checked_picture(picture: np.ndarray) -> np.ndarray:
    """``picture`` if it is uint8 [..., H, W, C] with 1 to 4 channels and at least one pixel.

    Raises:
        RequestError: it is not.
    """
    if picture.dtype != np.uint8:
        raise RequestError("a picture must consist of bytes", expected="uint8", found=picture.dtype)
    if picture.ndim < 3 or not 1 <= picture.shape[-1] <= 4:
        raise RequestError(
            "a picture has height, width and channels", expected="[..., H, W, 1..4]", found=picture.shape
        )
    if 0 in picture.shape[-3:]:
        raise RequestError("a picture without pixels", found=picture.shape)
    return picture


def split_yuv(yuv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luma [..., H, W] and chroma [..., H/2, W/2, 2] views of an NV12 or NV21 picture [..., H*3/2, W].

    Raises:
        RequestError: the array is not a picture of even height and width.
    """
    if yuv.dtype != np.uint8 or yuv.ndim < 2:
        raise RequestError(
            "not an NV12 or NV21 picture", expected="uint8 [..., H*3/2, W]", found=f"{yuv.dtype} {yuv.shape}"
        )
    rows, width = yuv.shape[-2:]
    if rows % 3 or width % 2 or rows == 0 or width == 0:
        raise RequestError(
            "NV12 and NV21 need an even height and width", expected="[..., H*3/2, W]", found=f"[..., {rows}, {width}]"
        )
    height = rows // 3 * 2
    chroma = yuv[..., height:, :]
    return yuv[..., :height, :], chroma.reshape(*chroma.shape[:-1], width // 2, 2)


def join_yuv(luma: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """The inverse of :func:`split_yuv`."""
    return np.concatenate([luma, chroma.reshape(*chroma.shape[:-2], luma.shape[-1])], axis=-2)
