"""TNN's Mat: conversion of pictures and arrays to blobs and back.

``blob[c] = scale[c] * value + bias[c]`` in float32. ``reverse_channel`` swaps bytes 0 and 2 of a pixel before scale
and bias, so ``scale[0]`` always belongs to the first channel of the blob. Where TNN reads or writes out of bounds, or
returns bits of another type, these functions raise an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from tnn_serving.errors import RequestError
from tnn_serving.pictures.color import yuv_to_bgr
from tnn_serving.pictures.planes import checked_picture


class MatType(IntEnum):
    """TNN's numbers of mat types."""

    N8UC3 = 0x00
    N8UC4 = 0x01
    NGRAY = 0x10
    NNV21 = 0x11
    NNV12 = 0x12
    NCHW_FLOAT = 0x20
    NC_INT32 = 0x21


PIXEL_CHANNELS = {MatType.N8UC3: 3, MatType.N8UC4: 4, MatType.NGRAY: 1}
"""Bytes per pixel of the interleaved types."""


@dataclass(frozen=True, slots=True)
class MatConvertParam:
    """TNN's conversion parameters with TNN's defaults: one scale and bias per channel."""

    scale: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    bias: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    reverse_channel: bool = False

    @property
    def identity(self) -> bool:
        """Whether all scales are 1 and all biases 0."""
        return all(s == 1 for s in self.scale) and all(b == 0 for b in self.bias)

    def channels(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """float32 scale and bias of ``count`` channels; the identity is extended to any number of channels.

        Raises:
            RequestError: fewer values than channels.
        """
        scale, bias = np.asarray(self.scale, np.float32), np.asarray(self.bias, np.float32)
        if self.identity:
            return np.ones(count, np.float32), np.zeros(count, np.float32)
        if min(scale.size, bias.size) < count:
            raise RequestError(
                "scale and bias need one value per channel",
                expected=f"{count} values",
                found=f"{scale.size} scales, {bias.size} biases",
            )
        return scale[:count], bias[:count]


DEFAULT_PARAM = MatConvertParam()


def mat_to_blob(
    mat: np.ndarray,
    kind: MatType,
    param: MatConvertParam = DEFAULT_PARAM,
    *,
    channels: int | None = None,
    blob_scale: np.ndarray | None = None,
    zero_point: np.ndarray | None = None,
) -> np.ndarray:
    """The blob that TNN makes from a mat.

    Args:
        mat: uint8 [N, H, W, C] of N8UC3 (C = 3), N8UC4 (4) and NGRAY (1); uint8 [N, H*3/2, W] of NNV12 and NNV21, which
            become B, G, R; float32 [N, C, ...] of NCHW_FLOAT; int32 of NC_INT32.
        kind: type of the mat.
        param: scale, bias and channel order.
        channels: of the blob; only for an N8UC4 mat there is a choice: 4 (default), or 3, which drops the fourth byte.
        blob_scale, zero_point: float32 and int8 [1] or [C] of an int8 blob.

    Returns:
        float32 [N, C, H, W] (any rank for NCHW_FLOAT); int8 if ``blob_scale`` is given; int32 for NC_INT32.

    Raises:
        RequestError: shape, dtype or parameters do not fit the mat type.
    """
    if param.reverse_channel and kind not in (MatType.N8UC3, MatType.N8UC4):
        raise RequestError("reverse_channel needs pixels of 3 or 4 bytes", expected="N8UC3 or N8UC4", found=kind.name)
    if kind is MatType.NC_INT32:
        return np.array(_typed(mat, np.int32, kind))
    if kind is MatType.NCHW_FLOAT:
        blob = _scaled(_typed(mat, np.float32, kind), param)
    elif kind in (MatType.NNV12, MatType.NNV21):
        blob = _planar(yuv_to_bgr(mat, nv12=kind is MatType.NNV12), param, 3)
    else:
        expected = PIXEL_CHANNELS[kind]
        if checked_picture(mat).ndim != 4 or mat.shape[-1] != expected:
            raise RequestError(
                "mat does not fit its type", expected=f"{kind.name}: [N, H, W, {expected}]", found=mat.shape
            )
        wanted = channels or expected
        if wanted != expected and (kind, wanted) != (MatType.N8UC4, 3):
            raise RequestError("mat and blob differ in channels", expected=f"{wanted} channels", found=kind.name)
        blob = _planar(mat, param, wanted)
    return blob if blob_scale is None else quantize_blob(blob, blob_scale, zero_point)


def blob_to_mat(
    blob: np.ndarray,
    kind: MatType,
    param: MatConvertParam = DEFAULT_PARAM,
    *,
    blob_scale: np.ndarray | None = None,
    zero_point: np.ndarray | None = None,
) -> np.ndarray:
    """The mat that TNN makes from a blob.

    Pixels are ``trunc(clamp(scale * x + bias + 0.5, 0, 255))``; channels are swapped after that. The fourth byte of an
    N8UC4 mat made from three channels is 0.

    Args:
        blob: float32 [N, C, H, W] (any rank for NCHW_FLOAT), int32 for NC_INT32, int8 with its ``blob_scale``.
        kind: type of the mat: N8UC3, N8UC4, NGRAY, NCHW_FLOAT or NC_INT32.
        param: scale, bias and channel order.
        blob_scale, zero_point: of an int8 blob.

    Raises:
        RequestError: shape, dtype or parameters do not fit the mat type.
    """
    if kind is MatType.NC_INT32:
        return np.array(_typed(blob, np.int32, kind))
    if blob_scale is not None:
        blob = dequantize_blob(_typed(blob, np.int8, kind), blob_scale, zero_point)
    values = _typed(blob, np.float32, kind)
    if kind is MatType.NCHW_FLOAT:
        return _scaled(values, param)
    pixel_bytes = PIXEL_CHANNELS.get(kind)
    if pixel_bytes is None:
        raise RequestError(
            "blobs cannot be converted to this mat type", expected="N8UC3, N8UC4, NGRAY, NCHW_FLOAT", found=kind.name
        )
    fits = values.ndim == 4 and (values.shape[1] == pixel_bytes or (kind is MatType.N8UC4 and values.shape[1] == 3))
    if not fits:
        raise RequestError(
            "blob and mat differ in channels", expected=f"[N, C, H, W] for {kind.name}", found=values.shape
        )
    batch, count, height, width = values.shape
    scale, bias = param.channels(count)
    mat = np.zeros((batch, height, width, pixel_bytes), np.uint8)
    for c in range(count):
        value = values[:, c] * scale[c] + bias[c] + np.float32(0.5)
        target = 2 - c if param.reverse_channel and count >= 3 and c < 3 else c
        mat[..., target] = np.clip(value, 0, 255).astype(np.uint8)
    return mat


def quantize_blob(values: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None = None) -> np.ndarray:
    """int8 codes of float32 [N, C, ...]: ``x / scale + zero_point``, rounded half away from zero, saturated; 0 where
    the scale is 0."""
    s, z = _per_channel(values, scale, zero_point)
    with np.errstate(divide="ignore", invalid="ignore"):
        code = values / s + z
    code = np.where(s == 0, np.float32(0), code)
    code = code + np.where(code >= 0, np.float32(0.5), np.float32(-0.5))
    codes: np.ndarray = np.trunc(np.clip(code, -128, 127)).astype(np.int8)
    return codes


def dequantize_blob(codes: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None = None) -> np.ndarray:
    """float32 values of int8 [N, C, ...]: ``scale * (code - zero_point)``."""
    s, z = _per_channel(codes, scale, zero_point)
    values: np.ndarray = s * (codes.astype(np.float32) - z)
    return values


def _per_channel(blob: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    s = np.asarray(scale, np.float32).reshape(-1)
    z = np.zeros_like(s) if zero_point is None else np.asarray(zero_point).astype(np.float32).reshape(-1)
    channels = blob.shape[1] if blob.ndim > 1 else 1
    if s.size not in (1, channels) or z.size != s.size:
        raise RequestError("blob scale does not fit", expected=f"1 or {channels} values", found=f"{s.size}, {z.size}")
    shape = (1, s.size) + (1,) * (blob.ndim - 2) if blob.ndim > 1 else (1,)
    return s.reshape(shape), z.reshape(shape)


def _typed(array: np.ndarray, dtype: type[np.generic], kind: MatType) -> np.ndarray:
    if array.dtype != dtype:
        raise RequestError(f"{kind.name} needs another type", expected=np.dtype(dtype), found=array.dtype)
    return array


def _scaled(values: np.ndarray, param: MatConvertParam) -> np.ndarray:
    if param.identity:
        return np.array(values)
    if param.reverse_channel:
        raise RequestError("reverse_channel needs pixels of 3 or 4 bytes", found="NCHW_FLOAT")
    if values.ndim < 2:
        raise RequestError("scale and bias need a channel dimension", expected="[N, C, ...]", found=values.shape)
    shape = (-1,) + (1,) * (values.ndim - 2)
    scale, bias = param.channels(values.shape[1])
    result: np.ndarray = values * scale.reshape(shape) + bias.reshape(shape)
    return result


def _planar(pixels: np.ndarray, param: MatConvertParam, channels: int) -> np.ndarray:
    scale, bias = param.channels(channels)
    blob = np.empty((pixels.shape[0], channels, *pixels.shape[1:3]), np.float32)
    order: Sequence[int] = (2, 1, 0, 3) if param.reverse_channel else range(4)
    for c in range(channels):
        plane = blob[:, c]
        plane[...] = pixels[..., order[c]]
        if scale[c] != 1:
            plane *= scale[c]
        if bias[c] != 0:
            plane += bias[c]
    return blob
