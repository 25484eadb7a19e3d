"""The arithmetic of int8 layers: codes, their scales, and TNN's rounding, in the forms that engines run.

*Exact* is float arithmetic on the codes with every intermediate integer below 2^24, so that each code comes out as
TNN's on any engine. *Fast* says the same with Quantize and Dequantize in code units (all scales 1 inside, the whole
factor in the weights), which engines turn into int8 kernels: within one step a layer. Codes travel as int8; in the
``U8`` spelling, which ONNX Runtime needs for its kernels, as uint8 = code + 128.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from tnn_serving.errors import ShapeError, WeightsError
from tnn_serving.graph import BlobScale

if TYPE_CHECKING:
    from tnn_serving.translate.builder import Builder, Value

FLOAT_MIN = np.float32(1.17549435e-38)
"""An output scale below this gives the factor 0."""


class Form(str, Enum):
    """How int8 layers are written in ONNX."""

    EXACT = "exact"
    FAST_S8 = "fast_s8"
    FAST_U8 = "fast_u8"

    @property
    def fast(self) -> bool:
        """One of the two spellings for int8 kernels."""
        return self is not Form.EXACT


@dataclass(frozen=True, slots=True)
class Scale:
    """``real = scale * (code - zero)``: float32 [n] each, n = 1 or one a channel (axis 1)."""

    scale: np.ndarray
    zero: np.ndarray

    @classmethod
    def of(cls, stored: BlobScale) -> Scale:
        """From a model file's entry."""
        return cls(stored.scales().astype(np.float32), stored.zero_points().astype(np.float32))

    @property
    def per_tensor(self) -> bool:
        """One scale for the whole blob."""
        return self.scale.size == 1


@dataclass(frozen=True, slots=True)
class Codes:
    """An int8 blob: its codes and what they mean."""

    value: Value
    scale: Scale


@dataclass(frozen=True, slots=True)
class Absorbed:
    """A second operand that TNN adds inside a convolution, before or after its activation."""

    codes: Codes
    after_activation: bool


class Int8:
    """Int8 arithmetic on a builder, in one of the forms."""

    def __init__(self, g: Builder, form: Form) -> None:
        self.g = g
        self.form = form

    # ---- vectors along the channel axis ----

    def channels(self, values: np.ndarray, x: Value) -> Value:
        """One value, or one a channel, broadcast along axis 1 of ``x``.

        A list longer than the axis belongs to a larger picture at calibration: its first entries count.

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
            raise WeightsError(
                "fewer scales than channels", expected=f"1 or at least {x.dim(1)}", found=values.size
            )
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
        """``scale * (code - zero)``: what the blob means."""
        x = self.centred(codes)
        return self.g.op("Mul", x, self.channels(codes.scale.scale, x))

    # ---- numbers to codes ----

    def rounded(self, v: Value, *, least: int = -128) -> Value:
        """TNN's rounding: halves away from zero, saturated to [least, 127]; float32."""
        g = self.g
        if least >= 0:
            half: Value = g.const(np.float32(0.5))
        else:
            half = g.op("Where", g.op("Less", v, g.const(np.float32(0))), g.const(np.float32(-0.5)), g.const(np.float32(0.5)))
        return g.op("Clip", g.op("Add", v, half), g.const(np.float32(least)), g.const(np.float32(127)))

    def pack(self, v: Value) -> Value:
        """Numbers from :meth:`rounded` as codes; the cast truncates."""
        codes = self.g.cast(v, np.int8)
        return self.spelled(codes)

    def spelled(self, codes: Value) -> Value:
        """int8 codes in the spelling of the form."""
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

    def moved(self, codes: Codes, scale: Scale, move: Callable[[Value], Value]) -> Codes:
        """The codes after an operation that only moves them."""
        return Codes(move(codes.value), scale)


def multiplier(weight_scale: np.ndarray, out: Scale, channels: int) -> np.ndarray:
    """float32 [channels]: stored weight scale (the input's is in it) over output scale; 0 for a vanishing one.

    Raises WeightsError if the scales are neither one nor one a channel.
    """
    for what, values in (("weight scales", weight_scale), ("output scales", out.scale)):
        if values.size not in (1, channels):
            raise WeightsError(f"wrong number of {what}", expected=f"1 or {channels}", found=values.size)
    so = np.broadcast_to(out.scale, (channels,))
    safe = np.where(so < FLOAT_MIN, np.float32(1), so)
    ratio = np.broadcast_to(weight_scale, (channels,)).astype(np.float32) / safe
    return np.where(so < FLOAT_MIN, np.float32(0), ratio).astype(np.float32)
