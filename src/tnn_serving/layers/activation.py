"""Activation functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from typing_extensions import Self

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.emit.int8 import Codes, Int8, Operands, Scale
from tnn_serving.errors import ShapeError, UnsupportedLayer, WeightsError
from tnn_serving.layers.base import Layer
from tnn_serving.layers.draw import Draw
from tnn_serving.layers.operands import FLOAT, INT32, LIKE_X, Operand
from tnn_serving.layers.parameters import FLOAT32_LOWEST, spell, token
from tnn_serving.layers.pattern import Match
from tnn_serving.layers.registry import layer
from tnn_serving.layers.unary import ELEMENTS, UNCHANGED, Function, Unary, functions
from tnn_serving.layers.weights import buffer, entry_label, kept
from tnn_serving.tensor import Tensor

FLOATS_X = Operand("x", types=FLOAT)


FLOAT32_ENDS = FLOAT32_LOWEST, -FLOAT32_LOWEST


def ramp(g: Builder, x: Value, alpha: float, beta: float) -> Value:
    """clip(alpha * x + beta, 0, 1); not ONNX HardSigmoid, where OpenVINO takes a beta of 0 for an absent one."""
    y = x if alpha == 1.0 else g.op("Mul", x, g.const(alpha))
    y = y if beta == 0.0 else g.op("Add", y, g.const(beta))
    return g.op("Clip", y, g.const(0.0), g.const(1.0))


@layer(5, "ReLU", "Relu", "QuantizedReLU", entry=False)
class ReLU(Unary):
    """max(x, 0).

    ONNX: Relu; Max with 0 for integers.
    TNN differs: NaN gives 0 there, int32 is refused.
    """

    operands = (Operand("x", types=ELEMENTS),)
    operators = ("Relu",)
    activation_code = 1
    made_from = ("Relu(x)",)

    def on_integers(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return g.op("Max", x, g.const(np.array(0, np.int32)))

    def to_onnx_int8(self, a: Int8, inputs: Operands, out: Scale) -> Codes:
        """max(code, 0): TNN ignores scale and zero point."""
        (x,) = inputs.codes
        if a.form.fast:
            return Codes(a.at_least(x.value, 0), out)
        return Codes(a.pack(a.g.op("Relu", a.plain(x))), out)


@layer(125, "ReLU6", "Relu6", entry=False)
class ReLU6(Unary):
    """x limited to 0 ... 6.

    ONNX: Clip(0, 6).
    TNN differs: reads everything but float32 as int8 codes.
    """

    operands = (Operand("x", types=ELEMENTS),)
    activation_code = 2
    made_from = ("Clip(x, 0, 6)", "Min(Relu(x), 6)")

    def on_floats(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return g.op("Clip", x, g.const(0.0), g.const(6.0))

    def on_integers(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return g.op("Clip", x, g.const(np.array(0, np.int32)), g.const(np.array(6, np.int32)))


@layer(23, "Sigmoid", "QuantizedSigmoid")
class Sigmoid(Unary):
    """1 / (1 + exp(-x)).

    ONNX: Sigmoid.
    """

    operators = ("Sigmoid",)
    made_from = ("Sigmoid(x)",)

    def to_onnx_int8(self, a: Int8, inputs: Operands, out: Scale) -> Codes:
        """Of the real value without zero point, rounded without zero point."""
        (x,) = inputs.codes
        bare = Scale(x.scale.scale, np.zeros_like(x.scale.zero))
        y = a.g.op("Sigmoid", a.real(Codes(x.value, bare)))
        return Codes(a.quantised(y, Scale(out.scale, np.zeros_like(out.zero))).value, out)


functions(
    (
        Function(39, "Tanh", "Hyperbolic tangent.", ("Tanh",), entry=False),
        Function(
            147,
            "LogSigmoid",
            "log(1 / (1 + exp(-x))), without overflow.",
            ("Neg", "Softplus", "Neg"),
            "-inf below about -88, where exp(-x) overflows.",
            entry=False,
        ),
        Function(
            174,
            "Softplus",
            "log(exp(x) + 1).",
            ("Softplus",),
            "inf above 88.7, where exp(x) overflows, and 0 below -17.",
        ),
        Function(320, "Softsign", "x / (1 + |x|).", ("Softsign",)),
    ),
    __name__,
)


@layer(132, "Elu")
class Elu(Unary):
    """x above 0, alpha * (exp(x) - 1) below.

    ONNX: Elu.
    """

    made_from = ("Elu(x)",)

    alpha: float = token("factor below 0", default=1.0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """See the base class."""
        return cls.made(m, m["x"], alpha=float(m.attribute("alpha", 1.0)))

    def on_floats(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return g.op("Elu", x, alpha=self.alpha)


@layer(187, "Selu")
class Selu(Unary):
    """gamma * x above 0, gamma * alpha * (exp(x) - 1) below.

    ONNX: Elu, Mul; not Selu, where OpenVINO takes a 0 for an absent parameter.
    TNN differs: missing parameters are undefined there, ONNX's defaults here.
    """

    made_from = ("Selu(x)",)

    alpha: float = token("factor below 0", default=1.6732632)
    gamma: float = token("factor of everything", default=1.0507010)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """See the base class."""
        alpha, gamma = m.attribute("alpha", 1.6732632), m.attribute("gamma", 1.0507010)
        return cls.made(m, m["x"], alpha=float(alpha), gamma=float(gamma))

    def on_floats(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return g.op("Mul", g.op("Elu", x, alpha=self.alpha), g.const(self.gamma))


@layer(401, "Swish")
class Swish(Unary):
    """x * sigmoid(x).

    ONNX: Sigmoid, Mul.
    """

    made_from = ("Mul(x, Sigmoid(x))", "Swish(x)")

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Without a factor in the sigmoid."""
        return cls.made(m, m["x"]) if m.attribute("alpha", 1.0) == 1.0 else None

    def on_floats(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return g.op("Mul", x, g.op("Sigmoid", x))


@layer(327, "GELU", entry=False)
class GELU(Layer):
    """0.5 * x * (1 + erf(x / sqrt(2))).

    ONNX: Gelu.
    """

    operands = (FLOATS_X,)
    results = (LIKE_X,)
    made_from = (
        "Gelu(x)",
        "Mul(0.5, Mul(x, Add(1, Erf(Div(x, 1.41421)))))",
        "Mul(x, Mul(0.5, Add(1, Erf(Div(x, 1.41421)))))",
        "Mul(Mul(0.5, x), Add(1, Erf(Div(x, 1.41421))))",
        "Mul(0.5, Mul(x, Add(1, Erf(Mul(x, 0.707107)))))",
        "Mul(x, Mul(0.5, Add(1, Erf(Mul(x, 0.707107)))))",
        "Mul(Mul(0.5, x), Add(1, Erf(Mul(x, 0.707107))))",
    )

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """The exact one, not its approximation by tanh."""
        return cls.made(m, m["x"]) if m.attribute("approximate", "none") == "none" else None

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return g.op("Gelu", x)


@layer(171, "Clip")
class Clip(Layer):
    """x limited to min ... max; min where min > max.

    ONNX: Clip; Max and Min where the limits are computed at run time or cross.
    TNN differs: passes int32 on unchanged; ignores limits that are not constants.
    """

    operands = (
        Operand("x", types=ELEMENTS),
        Operand("min", doc="one element, overrides `min`", optional=True, replaces=("min",)),
        Operand("max", doc="one element, overrides `max`", optional=True, replaces=("max",)),
    )
    results = (LIKE_X,)
    made_from = ("Clip(x, low?, high?)", "Max(low, Min(x, high))", "Min(high, Max(x, low))")

    min: float = token("lower limit; a missing one is 0, not none", default=0.0)
    max: float = token("upper limit; a missing one is 0, not none", default=0.0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Of float32 with one number for each limit; TNN has no other."""
        x = m["x"]
        limits = [m.get("low"), m.get("high")]
        if not x.is_float or any(limit is not None and (not limit.constant or limit.rank) for limit in limits):
            if m.root.op_type != "Clip":
                return None
            raise UnsupportedLayer("TNN limits floats, by constants", found=x.dtype)
        low, high = (end if limit is None else limit.scalar() for limit, end in zip(limits, FLOAT32_ENDS, strict=True))
        return cls.made(m, x, min=low, max=high)

    def to_onnx(self, g: Builder, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
        """See the class."""
        if x.dtype == np.int8:
            return g.cast(self._clipped(g, g.cast(x, np.int32), low, high), np.int8)
        return self._clipped(g, x, low, high)

    def _clipped(self, g: Builder, x: Value, low: Value | None, high: Value | None) -> Value:
        limits = []
        for value, given, outward in ((self.min, low, np.ceil), (self.max, high, np.floor)):
            if given is None or given.dims == (0,):
                limit = _limit(g, value, x.dtype, outward)
            elif given.constant:
                limit = _limit(g, _only(given.fixed()), x.dtype, outward)
            else:
                limit = g.reshape(g.cast(given, x.dtype), *(1,) * x.rank)
            limits.append(limit)
        lower, upper = limits
        if lower is None and upper is None:
            return x
        if all(v is None or v.constant for v in limits) and not _crossed(lower, upper):
            return g.op("Clip", x, lower, upper)
        y = x if upper is None else g.op("Min", x, upper)
        return y if lower is None else g.op("Max", y, lower)


def _only(values: np.ndarray) -> float:
    if values.size != 1:
        raise ShapeError("limit is not one number", expected="1 element", found=f"{values.size} elements")
    return float(values.reshape(-1)[0])


def _limit(g: Builder, value: float, dtype: np.dtype, outward: np.ufunc) -> Value | None:
    """A limit as a scalar of the type of the data; ``None`` if it limits nothing. Raises ShapeError for NaN."""
    if np.isnan(value):
        raise ShapeError("limit is not a number")
    if np.isinf(value):
        binds = (value > 0) == (outward is np.ceil)
        return g.const(np.array(value, np.float32)) if binds and dtype == np.float32 else None
    if dtype == np.float32:
        return g.const(np.array(value, np.float32))
    info = np.iinfo(np.int32)
    return g.const(np.array(min(max(outward(value), info.min), info.max), np.int32))


def _crossed(lower: Value | None, upper: Value | None) -> bool:
    return lower is not None and upper is not None and bool(lower.fixed() > upper.fixed())


def _slope(m: Match) -> dict[str, float]:
    """Slope and value at 0 of a hard sigmoid: those of its node, or those of a clipped sum."""
    if not m.has("HardSigmoid"):
        return {"alpha": 1 / 6, "beta": 0.5}
    attributes = m.node("HardSigmoid").attributes
    return {"alpha": float(attributes.get("alpha", 0.2)), "beta": float(attributes.get("beta", 0.5))}


@layer(172, "HardSigmoid")
class HardSigmoid(Unary):
    """alpha * x + beta limited to 0 ... 1.

    ONNX: Mul, Add, Clip(0, 1).
    """

    made_from = ("HardSigmoid(x)", "Div(Clip(Add(x, 3), 0, 6), 6)", "Mul(Clip(Add(x, 3), 0, 6), 0.166667)")

    alpha: float = token("slope", default=1.0)
    beta: float = token("value at 0", default=0.0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """See the base class."""
        return cls.made(m, m["x"], **_slope(m))

    def on_floats(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return ramp(g, x, self.alpha, self.beta)


@layer(173, "HardSwish")
class HardSwish(Layer):
    """a times (alpha * b + beta limited to 0 ... 1), where b = a if there is one input.

    ONNX: HardSwish for one input and the usual slope 1/6 and value 1/2; otherwise Mul, Add, Clip(0, 1), Mul.
    TNN differs: takes 1/6 as the six digits that files give; aligns inputs of unequal rank at the left.
    """

    operands = (Operand("a", types=FLOAT), Operand("b", types=FLOAT, doc="broadcast with `a`", optional=True))
    results = (Operand("y", types=FLOAT, doc="the broadcast shape"),)
    made_from = (
        "HardSwish(x)",
        "Mul(x, HardSigmoid(x))",
        "Div(Mul(x, Clip(Add(x, 3), 0, 6)), 6)",
        "Mul(x, Div(Clip(Add(x, 3), 0, 6), 6))",
        "Mul(0.166667, Mul(x, Clip(Add(x, 3), 0, 6)))",
    )

    alpha: float = token("slope", default=1.0)
    beta: float = token("value at 0", default=0.0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """See the base class."""
        return cls.made(m, m["x"], **_slope(m))

    def to_onnx(self, g: Builder, a: Value, b: Value | None = None) -> Value:
        """See the class."""
        if b is None and spell(self.alpha) == spell(1 / 6) and self.beta == 0.5:
            return g.op("HardSwish", a)
        return g.op("Mul", a, ramp(g, b or a, self.alpha, self.beta))


@layer(35, "PReLU", "PReLU_nhwc")
class PReLU(Layer):
    """x above 0, slope * x below, with a slope for each channel or one for all.

    ONNX: PRelu; LeakyRelu for one slope.
    TNN differs: reads past a single slope if ``channel_shared`` is not 1; here one slope is shared in any case.
    """

    operands = (Operand("x", types=FLOAT, doc="channels on axis 1"),)
    results = (LIKE_X,)
    made_from = ("PRelu(x, slope)", "LeakyRelu(x)")

    channel_shared: bool = token("1 if the first slope holds for all channels", default=False)
    has_filler: bool = token("ignored by TNN", default=False)

    label: str | None = entry_label("kept")
    slope: Tensor | None = buffer("[C], or [1] if shared")

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """With a slope for each channel, or one for all."""
        x = m["x"]
        if x.rank < 2:
            raise UnsupportedLayer("TNN has slopes for channels, which are axis 1", found=list(x.dims))
        if m.has("LeakyRelu"):
            slopes = np.array([m.attribute("alpha", 0.01)], np.float32)
        else:
            slopes = m["slope"].fixed()
            wide = (1,) * (x.rank - slopes.ndim) + slopes.shape
            if slopes.size != 1 and (len(wide) != x.rank or wide[1] != slopes.size):
                raise UnsupportedLayer("TNN has one slope for each channel", found=f"slopes {list(slopes.shape)}")
            slopes = slopes.reshape(-1)
        shared = slopes.size == 1
        return cls.made(m, x, channel_shared=shared, has_filler=True, slope=kept(slopes))

    def random_weights(self, draw: Draw, inputs: Sequence[Value]) -> dict[str, Tensor | int]:
        """One slope per channel."""
        return {"slope": draw.per_channel("slope", inputs[0], 0.0)}

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        slope = self.need("slope").array().astype(np.float32)
        if slope.size == 0:
            raise WeightsError("no `slope` in the model file", expected="[C] or [1]", found="an empty buffer")
        if self.channel_shared or slope.size == 1:
            return g.op("LeakyRelu", x, alpha=float(slope[0]))
        return g.op("PRelu", x, g.per_channel(slope, x))


@layer(402, "GLU")
class GLU(Layer):
    """First half times the sigmoid of the second half, along one axis.

    ONNX: Split, Sigmoid, Mul.
    TNN differs: refuses axis 0.
    """

    operands = (Operand("x", types=FLOAT, doc="the size of the axis is even"),)
    results = (Operand("y", like="x", doc="the axis is halved"),)

    axis: int = token("axis to halve", default=-1)

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        axis = x.axis(self.axis)
        if x.dim(axis) % 2:
            raise ShapeError("axis cannot be halved", expected="an even size", found=x.dim(axis))
        value, gate = g.op("Split", x, outputs=2, axis=axis, num_outputs=2)
        return g.op("Mul", value, g.op("Sigmoid", gate))


@layer(196, "SignedMul")
class SignedMul(Layer):
    """t * t[channel 0] with t = (sign(x - alpha) + beta) / gamma.

    ONNX: Sub, Sign, Add, Mul, Slice of channel 0, Mul.
    """

    operands = (Operand("x", "[N, C, ...]", FLOAT),)
    results = (LIKE_X,)

    alpha: float = token("subtracted before the sign is taken")
    beta: float = token("added to the sign")
    gamma: float = token("divisor")

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        sign = g.op("Sign", x if self.alpha == 0.0 else g.op("Sub", x, g.const(self.alpha)))
        with np.errstate(divide="ignore", over="ignore"):
            factor = np.float32(1.0) / np.float32(self.gamma)
        t = g.op("Mul", g.op("Add", sign, g.const(self.beta)), g.const(factor))
        return g.op("Mul", t, g.op("Slice", t, g.ints(0), g.ints(1), g.ints(1)))


@layer(69, "Power")
class Power(Layer):
    """(scale * x + shift) to the power of ``exponent``.

    ONNX: Mul, Add, then Pow, or for the exponents 2, 0.5 and -1 Mul, Sqrt and Reciprocal.
    TNN differs: refuses an exponent of more than one element; here it is broadcast.
    """

    operands = (
        UNCHANGED,
        Operand("exponent", types=(*FLOAT, *INT32), doc="overrides `exponent`", optional=True, replaces=("exponent",)),
    )
    results = (LIKE_X,)
    made_from = ("Pow(x, e)", "Mul(x, x)")

    exponent: float = token("exponent", default=1.0)
    scale: float = token("factor of x", default=1.0)
    shift: float = token("added to scale * x", default=0.0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """By one number."""
        x = m["x"]
        if not x.is_float:
            raise UnsupportedLayer("TNN raises floats only", found=x.dtype)
        if m.has("Mul"):
            return cls.made(m, x, exponent=2.0)
        exponent = m["e"]
        if not exponent.constant or exponent.fixed().size != 1 or exponent.rank > x.rank:
            raise UnsupportedLayer("the exponent must be one stored number", found=f"`{exponent.name}`")
        return cls.made(m, x, exponent=exponent.scalar())

    def to_onnx(self, g: Builder, x: Value, given: Value | None = None) -> Value:
        """See the class."""
        if x.dtype != np.float32:
            return x
        y = x if self.scale == 1.0 else g.op("Mul", x, g.const(self.scale))
        y = y if self.shift == 0.0 else g.op("Add", y, g.const(self.shift))
        exponent = self.exponent
        if given is not None:
            if not given.constant or given.fixed().size != 1:
                return g.op("Pow", y, given)
            exponent = float(given.fixed().reshape(-1)[0])
        if exponent == 1.0:
            return y
        if exponent == 2.0:
            return g.op("Mul", y, y)
        if exponent == 0.5:
            return g.op("Sqrt", y)
        if exponent == -1.0:
            return g.op("Reciprocal", y)
        return g.op("Pow", y, g.const(exponent))


def wrapped_axis(x: Value, axis: int) -> int:
    """An axis as TNN's softmax takes it: (axis + rank) modulo rank, so that 1 means 0 for a vector."""
    if axis < -x.rank or not x.rank:
        raise ShapeError("axis is out of range", expected=f"at least {-x.rank}", found=axis)
    return (axis + x.rank) % x.rank


@layer(21, "Softmax", "SoftmaxCaffe", "Softmax_nhwc")
class Softmax(Layer):
    """exp(x) divided by its sum along one axis.

    ONNX: Softmax.
    """

    operands = (FLOATS_X,)
    results = (LIKE_X,)
    made_from = ("Softmax(x)",)

    axis: int = token("axis, modulo the rank", default=1)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """See the base class."""
        return cls.made(m, m["x"], axis=m["x"].axis(m.attribute("axis", -1)))

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return g.op("Softmax", x, axis=wrapped_axis(x, self.axis))


@layer(330, "LogSoftmax")
class LogSoftmax(Layer):
    """Logarithm of the softmax along one axis.

    ONNX: LogSoftmax.
    TNN differs: -inf about 103 below the maximum, where the softmax underflows.
    """

    operands = (FLOATS_X,)
    results = (LIKE_X,)
    made_from = ("LogSoftmax(x)",)

    axis: int = token("axis, modulo the rank", default=1)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """See the base class."""
        return cls.made(m, m["x"], axis=m["x"].axis(m.attribute("axis", -1)))

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return g.op("LogSoftmax", x, axis=wrapped_axis(x, self.axis))
