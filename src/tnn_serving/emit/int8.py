"""The arithmetic of int8 layers: codes, their scales, and TNN's rounding, in the forms that engines run.

*Exact* is float arithmetic on the codes with every intermediate integer below 2^24, so that each code comes out as
TNN's on any engine. *Fast* is the same with Quantize and Dequantize in code units (all scales 1 inside, the whole
factor in the weights), which engines turn into int8 kernels: within one step a layer. Codes travel as int8; in the
``U8`` form, which ONNX Runtime needs for its kernels, as uint8 = code + 128.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import numpy as np

from tnn_serving.errors import ShapeError, WeightsError
from tnn_serving.tensor import BlobScale, DataType, Tensor

if TYPE_CHECKING:
    from tnn_serving.emit.builder import Builder, Value

FLOAT_MIN = np.float32(1.17549435e-38)
"""An output scale below this gives the factor 0."""


class Form(str, Enum):
    """How int8 layers are written in ONNX."""

    EXACT = "exact"
    FAST_S8 = "fast_s8"
    FAST_U8 = "fast_u8"

    @property
    def fast(self) -> bool:
        """One of the two forms for int8 kernels."""
        return self is not Form.EXACT


@dataclass(frozen=True, slots=True)
class Scale:
    """``real = scale * (code - zero)``: float32 [n] each, n = 1 or one per channel (axis 1)."""

    scale: np.ndarray
    zero: np.ndarray

    @classmethod
    def of(cls, stored: BlobScale) -> Scale:
        """From a model file's entry. Raises WeightsError for no scale, or another number of zero points."""
        scale, zero = stored.scales().astype(np.float32), stored.zero_points().astype(np.float32)
        if not scale.size or zero.size != scale.size:
            raise WeightsError(
                "scale of an int8 blob is broken", found=f"{scale.size} scales and {zero.size} zero points"
            )
        return cls(scale, zero)

    @property
    def per_tensor(self) -> bool:
        """One scale for the whole blob."""
        return self.scale.size == 1


@dataclass(frozen=True, slots=True)
class Codes:
    """An int8 blob: its codes and their scale."""

    value: Value
    scale: Scale


@dataclass(frozen=True, slots=True)
class Absorbed:
    """A second operand that TNN adds within a convolution, before or after its activation."""

    codes: Codes
    after_activation: bool


@dataclass(frozen=True, slots=True)
class Operands:
    """Inputs of an int8 layer: blobs as codes, constants such as sizes as values, and what TNN adds within the layer.

    ``others`` holds the inputs behind the blobs in their order, ``None`` for one that is not read.
    """

    codes: tuple[Codes, ...]
    others: tuple[Value | None, ...] = ()
    absorbed: Absorbed | None = None


@dataclass(frozen=True, slots=True)
class Weights:
    """Stored int8 weights: codes [rows, ...], zero points and scale [1 or rows] float32, bias [rows] int32."""

    codes: np.ndarray
    zero: np.ndarray
    scale: np.ndarray
    bias: np.ndarray | None

    @classmethod
    def of(
        cls,
        codes: Tensor,
        shape: tuple[int, ...],
        *,
        scale: Tensor | None,
        zero: Tensor | None,
        bias: Tensor | None,
    ) -> Weights:
        """From a layer's buffers. Raises WeightsError if they are not int8, of another size, or empty."""
        if codes.dtype is not DataType.INT8:
            raise WeightsError("an int8 layer needs int8 weights", found=codes.dtype.name.lower())
        if codes.size != math.prod(shape) or not codes.size:
            raise WeightsError(
                "weights do not fit the layer", expected=f"{math.prod(shape)} values {shape}", found=codes.size
            )
        if scale is None:
            raise WeightsError("an int8 layer needs the scale of its weights", expected=f"1 or {shape[0]} values")
        if bias is not None and bias.size != shape[0]:
            raise WeightsError("bias does not fit the layer", expected=f"{shape[0]} values", found=bias.size)
        points = np.zeros(1, np.float32) if zero is None else zero.array().astype(np.float32)
        return cls(
            codes.array().reshape(shape), points, scale.array(), None if bias is None else bias.array().astype(np.int64)
        )


class Apply(Protocol):
    """Makes the operator of a linear layer from float operands."""

    def __call__(self, x: Value, weights: Value, bias: Value | None, /) -> Value: ...


class Int8:
    """Int8 arithmetic on a builder, in one of the forms."""

    def __init__(self, g: Builder, form: Form) -> None:
        self.g = g
        self.form = form

    # ---- vectors along the channel axis ----

    def channels(self, values: np.ndarray, x: Value) -> Value:
        """One value, or one per channel, broadcast along axis 1 of ``x``.

        A list longer than the axis comes from a larger picture at calibration: its first entries count.

        Raises WeightsError if there are fewer values than channels.
        """
        g = self.g
        if values.size == 1 or np.all(values == values[0]):
            return g.const(np.float32(values[0]))
        if x.rank < 2:
            raise ShapeError("a scale for each channel needs a blob with channels", found=list(x.dims))
        tail = (1,) * (x.rank - 2)
        known = x.known[1]
        if x.dim(1) > values.size:
            raise WeightsError("fewer scales than channels", expected=f"1 or at least {x.dim(1)}", found=values.size)
        if known is not None:
            return g.const(values[:known], dims=(known, *tail))
        column = g.const(values, dims=(values.size, *tail))
        return g.op("Slice", column, g.ints(0), g.size(x, 1), g.ints(0))

    # ---- codes to numbers ----

    def plain(self, codes: Codes) -> Value:
        """The codes as float32, without the zero point."""
        x = self.g.cast(codes.value, np.float32)
        return self.g.op("Sub", x, self.g.const(np.float32(128))) if codes.value.dtype == np.uint8 else x

    def centred(self, codes: Codes) -> Value:
        """``code - zero`` as float32."""
        x = self.plain(codes)
        zero = codes.scale.zero
        return self.g.op("Sub", x, self.channels(zero, x)) if zero.any() else x

    def real(self, codes: Codes) -> Value:
        """``scale * (code - zero)``: the real numbers of the blob."""
        x = self.centred(codes)
        return self.g.op("Mul", x, self.channels(codes.scale.scale, x))

    # ---- numbers to codes ----

    def rounded(self, v: Value, *, least: int = -128) -> Value:
        """TNN's rounding: halves away from zero, saturated to [least, 127]; float32."""
        g = self.g
        if least >= 0:
            half: Value = g.const(np.float32(0.5))
        else:
            half = g.op(
                "Where", g.op("Less", v, g.const(np.float32(0))), g.const(np.float32(-0.5)), g.const(np.float32(0.5))
            )
        return g.op("Clip", g.op("Add", v, half), g.const(np.float32(least)), g.const(np.float32(127)))

    def pack(self, v: Value) -> Value:
        """Numbers from :meth:`rounded` as codes; the cast truncates."""
        codes = self.g.cast(v, np.int8)
        return self.in_form(codes)

    def in_form(self, codes: Value) -> Value:
        """int8 codes in the type of the form."""
        if self.form is not Form.FAST_U8:
            return codes
        shifted = self.g.op("Add", self.g.cast(codes, np.int32), self.g.const(np.int32(128)))
        return self.g.cast(shifted, np.uint8)

    def quantised(self, x: Value, scale: Scale) -> Codes:
        """``R(x / scale + zero)``, and 0 where the scale is 0: float data entering an int8 layer."""
        g = self.g
        safe = np.where(scale.scale == 0, np.float32(1), scale.scale)
        v = g.op("Div", x, self.channels(safe, x))
        if (scale.scale == 0).any():
            v = g.op("Mul", v, self.channels((scale.scale != 0).astype(np.float32), x))
        if scale.zero.any():
            v = g.op("Add", v, self.channels(np.where(scale.scale == 0, np.float32(0), scale.zero), x))
        return Codes(self.pack(self.rounded(v)), scale)

    def requantised(self, v: Value, scale: Scale, *, least: int = -128) -> Codes:
        """``R(v + zero)`` of a number that is already in steps of the output."""
        if scale.zero.any():
            v = self.g.op("Add", v, self.channels(scale.zero, v))
            least = -128
        return Codes(self.pack(self.rounded(v, least=least)), scale)

    def rescaled(self, codes: Codes, out: Scale) -> Codes:
        """Codes of one scale converted to another: ``R((q - z) * s / so + zo)``."""
        same = codes.scale.scale[0] == out.scale[0] and codes.scale.zero[0] == out.zero[0]
        if same:
            return Codes(codes.value, out)
        if self.form.fast and out.scale[0] >= FLOAT_MIN:
            real = self.dequantised(codes.value, codes.scale.scale[0], codes.scale.zero[0])
            return Codes(self.coded(real, out.scale[0], out.zero[0]), out)
        return self.quantised(self.real(codes), out)

    # ---- what several layers share ----

    def linear(
        self,
        x: Codes,
        weights: Weights,
        out: Scale,
        *,
        apply: Apply,
        move: Callable[[Value], Value] | None = None,
        activation: int = 0,
        absorbed: Absorbed | None = None,
    ) -> Codes:
        """A convolution or matrix product: ``R(sum * m + zero)`` with TNN's fused activation and addition.

        Args:
            weights: int8 rows, zero points, scale and bias.
            apply: makes the operator from float input, weights and bias.
            move: rearranges the codes first (a flattening, a subsampling).
            activation: 0 none, 1 ReLU, 2 ReLU6.
            absorbed: a second operand that is added before the only rounding.
        """
        factor = multiplier(weights.scale, out, weights.codes.shape[0])
        uniform = np.all(x.scale.zero == x.scale.zero[0]) and np.all(out.zero == out.zero[0])
        fast = self.form.fast and uniform and not weights.zero.any()
        v = (self._fast_sum if fast else self._exact_sum)(x, weights, factor, apply, move)
        if absorbed is not None and absorbed.codes.value.dims != v.dims:
            raise ShapeError(
                "an addition of int8 operands needs equal dims", expected=v.dims, found=absorbed.codes.value.dims
            )
        return (self._finished_fast if fast else self._finished)(v, out, activation, absorbed)

    def _exact_sum(
        self, x: Codes, weights: Weights, factor: np.ndarray, apply: Apply, move: Callable[[Value], Value] | None
    ) -> Value:
        g = self.g
        floats = self.centred(x)
        if move is not None:
            floats = move(floats)
        codes = weights.codes.astype(np.float32)
        centred = codes - weights.zero.reshape(-1, *(1,) * (codes.ndim - 1))
        bias = None if weights.bias is None else g.const(weights.bias.astype(np.float32))
        total = apply(floats, g.const(centred), bias)
        # Rounding changes no integer, but keeps engines from folding the factor into the weights.
        return g.op("Mul", g.op("Round", total), self.channels(factor, total))

    def _fast_sum(
        self, x: Codes, weights: Weights, factor: np.ndarray, apply: Apply, move: Callable[[Value], Value] | None
    ) -> Value:
        g = self.g
        value = x.value if move is None else move(x.value)
        rows = g.op(
            "DequantizeLinear", g.const(weights.codes), g.const(factor), g.const(np.zeros(factor.size, np.int8)), axis=0
        )
        bias = None if weights.bias is None else g.const((weights.bias.astype(np.float32) * factor).astype(np.float32))
        return apply(self.dequantised(value, np.float32(1), x.scale.zero[0]), rows, bias)

    def _finished(self, v: Value, out: Scale, activation: int, absorbed: Absorbed | None) -> Codes:
        g = self.g
        if absorbed is not None and not absorbed.after_activation:
            v = g.op("Add", v, self._term(absorbed.codes, out, v))
        if activation == 2:
            return Codes(self.pack(self._capped(self.rounded(v), out)), out)
        if activation == 1:
            v = g.op("Relu", v)
        if absorbed is not None and absorbed.after_activation:
            v = g.op("Add", v, self._term(absorbed.codes, out, v))
            activation = 0
        return self.requantised(v, out, least=0 if activation == 1 else -128)

    def _capped(self, v: Value, out: Scale) -> Value:
        """ReLU6 in steps of the output; TNN adds no zero point here."""
        six = np.minimum(np.floor(np.float32(6) / np.maximum(out.scale, FLOAT_MIN) + np.float32(0.5)), 127)
        capped = self.g.op("Min", v, self.channels(six.astype(np.float32), v))
        return self.g.op("Max", capped, self.g.const(np.float32(0)))

    def _term(self, codes: Codes, out: Scale, v: Value) -> Value:
        """The absorbed operand in steps of the output: ``q * k - zero * k`` with k = its scale over the output's."""
        g = self.g
        safe = np.where(out.scale < FLOAT_MIN, np.float32(1), out.scale)
        k = np.where(out.scale < FLOAT_MIN, np.float32(0), codes.scale.scale / safe).astype(np.float32)
        term = g.op("Mul", self.plain(codes), self.channels(k, v))
        shift = (codes.scale.zero * k).astype(np.float32)
        return g.op("Sub", term, self.channels(shift, v)) if shift.any() else term

    def _finished_fast(self, v: Value, out: Scale, activation: int, absorbed: Absorbed | None) -> Codes:
        g = self.g
        zero = out.zero[0]
        if absorbed is not None and not absorbed.after_activation:
            v = g.op("Add", v, self._term(absorbed.codes, out, v))
        if activation == 2:
            return Codes(self.coded(self._capped(v, out), np.float32(1), np.float32(0)), out)
        inside = activation == 1 and (self.form is Form.FAST_S8 or absorbed is not None)
        if inside:
            v = g.op("Relu", v)
        if absorbed is not None and absorbed.after_activation:
            v = g.op("Add", v, self._term(absorbed.codes, out, v))
        codes = self.coded(v, np.float32(1), zero)
        if activation == 1 and not inside:
            codes = self.at_least(codes, int(zero))
        return Codes(codes, out)

    # ---- Quantize and Dequantize, for int8 kernels ----

    def dequantised(self, value: Value, scale: np.float32, zero: np.float32) -> Value:
        """``scale * (code - zero)`` as DequantizeLinear."""
        return self.g.op("DequantizeLinear", value, self.g.const(scale), self._zero(zero))

    def coded(self, v: Value, scale: np.float32, zero: np.float32) -> Value:
        """QuantizeLinear in the type of the form; halves go to even."""
        return self.g.op("QuantizeLinear", v, self.g.const(scale), self._zero(zero))

    def _zero(self, zero: np.float32) -> Value:
        if self.form is Form.FAST_U8:
            return self.g.const(np.array(int(zero) + 128, np.uint8))
        return self.g.const(np.array(int(zero), np.int8))

    def at_least(self, value: Value, code: int) -> Value:
        """Codes below ``code`` raised to it."""
        least = np.array(code + 128, np.uint8) if value.dtype == np.uint8 else np.array(code, np.int8)
        return self.g.op("Clip", value, self.g.const(least))


def multiplier(weight_scale: np.ndarray, out: Scale, channels: int) -> np.ndarray:
    """float32 [channels]: stored weight scale (the input's is in it) over output scale; 0 for a vanishing one.

    Raises WeightsError unless there is one scale, or one per channel.
    """
    for what, values in (("weight scales", weight_scale), ("output scales", out.scale)):
        if values.size not in (1, channels):
            raise WeightsError(f"wrong number of {what}", expected=f"1 or {channels}", found=values.size)
    so = np.broadcast_to(out.scale, (channels,))
    safe = np.where(so < FLOAT_MIN, np.float32(1), so)
    ratio = np.broadcast_to(weight_scale, (channels,)).astype(np.float32) / safe
    return np.where(so < FLOAT_MIN, np.float32(0), ratio).astype(np.float32)
