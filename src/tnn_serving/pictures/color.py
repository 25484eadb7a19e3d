"""TNN's colour conversions: NV12 and NV21 to BGR(A), BGR(A) and RGB(A) to grey."""

from __future__ import annotations

import numpy as np

from tnn_serving.errors import RequestError
from tnn_serving.pictures.planes import checked_picture, split_yuv

CONVERSIONS = (
    "NV12TOBGR",
    "NV21TOBGR",
    "NV12TOBGRA",
    "NV21TOBGRA",
    "BGRTOGRAY",
    "BGRATOGRAY",
    "RGBTOGRAY",
    "RGBATOGRAY",
)
"""TNN's names."""


def cvt_color(picture: np.ndarray, conversion: str) -> np.ndarray:
    """A picture in another colour format, as from TNN's ``MatUtils::CvtColor`` (plain CPU device).

    Args:
        picture: uint8 [N, H, W, 3 or 4] for the grey conversions, [N, H*3/2, W] for NV12 and NV21. Like TNN, this
            function reads a batch of NV12 or NV21 as one picture of N*H rows: all luma rows, then all chroma rows.
        conversion: one of :data:`CONVERSIONS`.

    Returns:
        uint8 [N, H, W, 1], [N, H, W, 3], or [N, H, W, 4] with an alpha of 255.

    Raises:
        RequestError: an unknown conversion, or a picture that does not fit it.
    """
    if conversion not in CONVERSIONS:
        raise RequestError("unknown colour conversion", expected=", ".join(CONVERSIONS), found=conversion)
    source, target = conversion.split("TO")
    if target == "GRAY":
        if checked_picture(picture).shape[-1] != len(source):
            raise RequestError("picture does not fit the conversion", expected=source, found=picture.shape)
        return gray(picture, blue=source.index("B"))
    if picture.ndim != 3:
        raise RequestError("picture does not fit the conversion", expected="[N, H*3/2, W]", found=picture.shape)
    batch, rows, width = picture.shape
    bgr = yuv_to_bgr(picture.reshape(1, batch * rows, width), nv12=source == "NV12")
    bgr = bgr.reshape(batch, rows // 3 * 2, width, 3)
    if target == "BGR":
        return bgr
    return np.concatenate([bgr, np.full((*bgr.shape[:-1], 1), 255, np.uint8)], axis=-1)


def gray(picture: np.ndarray, *, blue: int) -> np.ndarray:
    """Luma uint8 [..., H, W, 1] of a picture. ``blue`` is the index of the blue byte, 0 or 2; red is the other one.

    ``trunc(0.114 B + 0.587 G + 0.299 R)`` with the precision of the C++ expression: the blue product and the sum are
    float32, the other products double.
    """
    b, g, r = picture[..., blue], picture[..., 1], picture[..., 2 - blue]
    sum_ = (b * np.float32(0.114)).astype(np.float64) + 0.587 * g + 0.299 * r
    luma: np.ndarray = sum_.astype(np.float32).astype(np.uint8)[..., None]
    return luma


def with_channels(mat: np.ndarray, channels: int) -> np.ndarray:
    """A grey or R, G, B, alpha mat with the number of channels that a network takes.

    Args:
        mat: uint8 [..., H, W, 1 or 4].
        channels: 1 converts colours to grey as TNN does (RGBATOGRAY), 3 drops alpha as TNN does for N8UC4 mats, 4 keeps
            alpha; a grey picture gets an alpha of 255.

    Returns:
        uint8 [..., H, W, channels]; ``mat`` itself if it has this many channels.
    """
    if mat.shape[-1] == channels:
        return mat
    if channels == 1:
        return gray(mat, blue=2)
    made = np.empty((*mat.shape[:-1], channels), np.uint8)
    # Channel by channel: copying three of four bytes at once takes numpy three times as long.
    for c in range(channels):
        made[..., c] = mat[..., c if mat.shape[-1] == 4 else 0] if c < 3 else 255
    return made


def yuv_to_bgr(yuv: np.ndarray, *, nv12: bool) -> np.ndarray:
    """uint8 [..., H, W, 3] (B, G, R) of an NV12 or NV21 picture [..., H*3/2, W], in TNN's 6-bit fixed point.

    Raises:
        RequestError: height or width is odd.
    """
    luma, chroma = split_yuv(yuv)
    capped = np.minimum(chroma, 240).astype(np.int32) - 128
    u, v = (capped[..., 0], capped[..., 1]) if nv12 else (capped[..., 1], capped[..., 0])
    y = luma.astype(np.int32) * 74 - 1135
    bgr = np.empty((*luma.shape, 3), np.uint8)
    for c, shift in enumerate((129 * u, -52 * v - 25 * u, 102 * v)):
        full = np.repeat(np.repeat(shift, 2, axis=-2), 2, axis=-1)
        bgr[..., c] = np.clip((y + full) >> 6, 0, 255)
    return bgr
