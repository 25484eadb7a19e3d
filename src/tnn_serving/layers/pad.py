"""Layers that add elements around a tensor."""

from __future__ import annotations

import numpy as np
from typing_extensions import Self

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.errors import ShapeError, UnsupportedLayer
from tnn_serving.layers.base import Layer
from tnn_serving.layers.operands import INTEGERS, Operand, X
from tnn_serving.layers.parameters import INT32_MIN, counted, token
from tnn_serving.layers.pattern import Match
from tnn_serving.layers.registry import layer
from tnn_serving.layers.shape import numbers, shape_operand

CONSTANT, REFLECT, EDGE = 0, 1, 2
PAD_MODES = {CONSTANT: "constant", REFLECT: "reflect", EDGE: "edge"}


ONNX_MODES = {name: mode for mode, name in PAD_MODES.items()}


def pad_value(m: Match) -> float:
    """The constant that an ONNX Pad adds. Raises UnsupportedLayer if it is computed."""
    value = m.get("value")
    if value is None:
        return 0.0
    found = value.scalar()
    if not value.is_float and found:
        raise UnsupportedLayer("TNN pads whole numbers with 0 only", found=found)
    return found


def padded(g: Builder, x: Value, pads: Value, mode: int, value: float) -> Value:
    """``x`` with elements around it.

    Args:
        pads: int64 [2 * rank], all begins, then all ends; negative ones crop.
        mode: one of :data:`MODES`.
        value: the new elements in mode constant.

    Raises:
        UnsupportedLayer: an unknown mode.
        ShapeError: another number of pads, or a reflection of more than there is.
    """
    if mode not in PAD_MODES:
        raise UnsupportedLayer("padding mode is unknown", expected=PAD_MODES, found=mode)
    if pads.dim(0) != 2 * x.rank:
        raise ShapeError("number of pads differs from the axes", expected=2 * x.rank, found=pads.dim(0))
    if pads.constant:
        _check(x, numbers(pads), mode)
        if not any(numbers(pads)):
            return x
    fill = None if mode != CONSTANT else g.const(_as_type(value, x.dtype))
    return g.op("Pad", x, pads, fill, mode=PAD_MODES[mode])


def _check(x: Value, pads: tuple[int, ...], mode: int) -> None:
    for axis, size in enumerate(x.dims):
        begin, end = pads[axis], pads[axis + x.rank]
        if size is None:
            continue
        if size + begin + end < 1:
            raise ShapeError(f"nothing is left of axis {axis}", found=f"{size} with pads {begin} and {end}")
        if mode == REFLECT and max(begin, end) >= size:
            raise ShapeError(
                f"axis {axis} is too short to be reflected", expected=f"pads below {size}", found=f"{begin} and {end}"
            )


def _as_type(value: float, dtype: np.dtype) -> np.ndarray:
    if dtype.kind != "i":
        return np.array(value, dtype)
    limits = np.iinfo(dtype)
    return np.array(min(max(value, limits.min), limits.max)).astype(dtype)


@layer(44, "Pad")
class Pad(Layer):
    """Pads height, width and channels of NCHW.

    ONNX: Pad. Reflection does not repeat the border; negative pads crop.
    TNN differs: cannot run the edge mode; stores the bits of the float value in int32 tensors.
    """

    operands = (Operand("x", "[N, C, H, W]"),)
    results = (Operand("y", "[N, channel_begin + C + channel_end, top + H + bottom, left + W + right]", like="x"),)
    made_from = ("Pad(x, pads, value?)",)

    unused: int = token("ignored by TNN", default=0, written="0")
    unused_too: int = token("ignored by TNN", default=0, written="0")
    top: int = token("rows before the first", default=INT32_MIN)
    bottom: int = token("rows behind the last", default=INT32_MIN)
    left: int = token("columns before the first", default=INT32_MIN)
    right: int = token("columns behind the last", default=INT32_MIN)
    channel_begin: int = token("channels before the first", default=INT32_MIN)
    channel_end: int = token("channels behind the last", default=INT32_MIN)
    mode: int = token("what the new elements are", default=CONSTANT, values=PAD_MODES)
    value: float = token("the constant", default=0.0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Of NCHW, with constant pads; edges are not repeated, since TNN cannot."""
        x, mode = m["x"], m.attribute("mode", "constant")
        pads = m["pads"].numbers()
        reflected = mode == "reflect" and not any((pads[1], pads[5])) if len(pads) == 8 else False
        if x.rank != 4 or pads[0] or pads[4] or not (mode == "constant" or reflected):
            return None
        return cls.made(
            m,
            x,
            top=pads[2],
            bottom=pads[6],
            left=pads[3],
            right=pads[7],
            channel_begin=pads[1],
            channel_end=pads[5],
            mode=ONNX_MODES[mode],
            value=pad_value(m),
        )

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class. Raises ShapeError unless all six pads are given."""
        begins, ends = (self.channel_begin, self.top, self.left), (self.channel_end, self.bottom, self.right)
        if INT32_MIN in (*begins, *ends):
            raise ShapeError("pads are missing", expected="top, bottom, left, right, channel begin, channel end")
        if self.mode != CONSTANT and (self.channel_begin or self.channel_end):
            raise UnsupportedLayer(
                "channels can be padded only with a constant", found=f"{self.channel_begin} and {self.channel_end}"
            )
        return padded(g, x, g.ints(0, *begins, 0, *ends), self.mode, self.value)


@layer(316, "PadV2")
class PadV2(Layer):
    """Pads any axis.

    ONNX: Pad. Reflection does not repeat the border; negative pads crop.
    TNN differs: cannot run the edge mode.
    """

    operands = (
        X,
        Operand("pads", types=INTEGERS, doc="2 * rank, overrides `pads`", optional=True, replaces=("pads",)),
        Operand("value", doc="the parameter decides", optional=True, ignored=True),
    )
    results = (Operand("y", like="x", doc="begin + dim + end on each axis"),)
    made_from = ("Pad(x, pads, value?)",)

    pads: tuple[int, ...] = counted("all begins, then all ends", default=(), per=2, negative_is_empty=True)
    mode: int = token("what the new elements are", default=CONSTANT, values=PAD_MODES)
    value: float = token("the constant", default=0.0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """With constant pads for all axes; edges are not repeated, since TNN cannot."""
        mode, pads = m.attribute("mode", "constant"), m["pads"].numbers()
        if mode not in ONNX_MODES or mode == "edge" or len(pads) != 2 * m["x"].rank:
            raise UnsupportedLayer("TNN pads with a constant or by reflection", found=f"mode {mode}")
        return cls.made(m, m["x"], pads=tuple(pads), mode=ONNX_MODES[mode], value=pad_value(m))

    def to_onnx(self, g: Builder, x: Value, pads: Value | None = None) -> Value:
        """See the class. Raises ShapeError unless there are two pads per axis."""
        operand = g.ints(*self.pads) if pads is None else shape_operand(g, pads)
        return padded(g, x, operand, self.mode, self.value)
