"""Codes and their scales, in float32: sums of products of codes are exact up to 2^24."""

from __future__ import annotations

import numpy as np

from tnn_serving.conversion.lowering.arithmetic import type_code
from tnn_serving.conversion.lowering.rules import lowers
from tnn_serving.conversion.origin import Origin
from tnn_serving.errors import UnsupportedLayer
from tnn_serving.layers.pattern import OnnxNode, OnnxValue

CODE_RANGES = {
    np.dtype(kind): (np.iinfo(kind).min, np.iinfo(kind).max) for kind in ("int8", "uint8", "int16", "uint16")
}
CODE_NUMBERS = {np.dtype(np.int8): 3, np.dtype(np.uint8): 2, np.dtype(np.int16): 5, np.dtype(np.uint16): 4}


def _along(s: Origin, value: OnnxValue, x: OnnxValue, axis: int) -> OnnxValue:
    """Numbers per element of an axis, so that they broadcast."""
    if value.rank != 1 or value.dims == (1,) or x.rank < 2:
        return value
    return s.op("Reshape", value, s.ints(*(-1 if k == x.axis(axis) else 1 for k in range(x.rank))))


def _wide(s: Origin, x: OnnxValue) -> OnnxValue:
    """In float32."""
    return x if x.dtype == np.float32 else s.op("Cast", x, to=1)


def _real(s: Origin, x: OnnxValue, scale: OnnxValue | None, zero: OnnxValue | None, axis: int = 1) -> OnnxValue:
    y = _wide(s, x)
    if zero is not None:
        y = s.op("Sub", y, _along(s, s.op("Cast", zero, to=1), x, axis))
    return y if scale is None else s.op("Mul", y, _along(s, _wide(s, scale), x, axis))


def _code(
    s: Origin, y: OnnxValue, scale: OnnxValue, zero: OnnxValue | None, kind: np.dtype, axis: int = 1
) -> OnnxValue:
    if kind not in CODE_RANGES:
        raise UnsupportedLayer("TNN has no such codes", expected=", ".join(map(str, CODE_RANGES)), found=kind)
    rounded = s.op("Round", s.op("Div", _wide(s, y), _along(s, _wide(s, scale), y, axis)))
    if zero is not None:
        rounded = s.op("Add", rounded, _along(s, s.op("Cast", zero, to=1), y, axis))
    low, high = CODE_RANGES[kind]
    limited = s.op("Clip", rounded, s.const(np.float32(low)), s.const(np.float32(high)))
    return s.op("Cast", limited, to=CODE_NUMBERS[kind])


def _blocks(n: OnnxNode) -> bool:
    return bool(n.attributes.get("block_size", 0))


@lowers("DequantizeLinear")
def _dequantize(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """(code - zero) * scale."""
    x, scale = n.need(0), n.need(1)
    if _blocks(n) or not scale.is_float:
        return None
    y = _real(s, x, scale, n.input(2), n.attributes.get("axis", 1))
    return y if scale.dtype == np.float32 else s.op("Cast", y, to=type_code(scale))


@lowers("QuantizeLinear")
def _quantize(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """x / scale, rounded half to even, plus zero, limited to the codes."""
    if _blocks(n):
        return None
    return _code(s, n.need(0), n.need(1), n.input(2), n.outputs[0].dtype, n.attributes.get("axis", 1))


@lowers("MatMulInteger")
def _matmul_integer(s: Origin, n: OnnxNode) -> OnnxValue:
    """A product without zeros."""
    a, b = _real(s, n.need(0), None, n.input(2)), _real(s, n.need(1), None, n.input(3))
    return s.op("Cast", s.op("MatMul", a, b), to=6)


@lowers("ConvInteger")
def _conv_integer(s: Origin, n: OnnxNode) -> OnnxValue:
    """A convolution without zeros."""
    x, w = _real(s, n.need(0), None, n.input(2)), _real(s, n.need(1), None, n.input(3), 0)
    return s.op("Cast", s.op("Conv", x, w, **n.attributes), to=6)


@lowers("QLinearMatMul")
def _qlinear_matmul(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """A product of real values, rounded once."""
    if any(not n.need(k).is_float or n.need(k).rank > 1 for k in (1, 4, 6)):
        return None
    a, b = _real(s, n.need(0), n.need(1), n.need(2)), _real(s, n.need(3), n.need(4), n.need(5))
    return _code(s, s.op("MatMul", a, b), n.need(6), n.need(7), n.outputs[0].dtype)


@lowers("QLinearConv")
def _qlinear_conv(s: Origin, n: OnnxNode) -> OnnxValue:
    """A convolution of real values, rounded once."""
    x, w = _real(s, n.need(0), n.need(1), n.need(2)), _real(s, n.need(3), n.need(4), n.need(5), 0)
    bias = n.input(8)
    if bias is not None:
        bias = s.op("Mul", s.op("Cast", bias, to=1), s.op("Mul", n.need(1), n.need(4)))
    return _code(s, s.op("Conv", x, w, bias, **n.attributes), n.need(6), n.need(7), n.outputs[0].dtype)
