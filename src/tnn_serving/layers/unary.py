"""Element-wise functions of one input without parameters, and bit operations on integers."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.errors import UnsupportedLayer
from tnn_serving.layers.base import Layer, layer, token


class Unary(Layer):
    """One input, one output of the same shape and type.

    TNN computes the function of float32 alone and passes integers on unchanged, whatever the function. Types whose
    function is sensible for integers say so in ``on_integers``; the others do as TNN.
    """

    operator: ClassVar[str]

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class. Raises UnsupportedLayer for types other than float32, int32 and int8."""
        if x.dtype == np.float32:
            return self.on_floats(g, x)
        if x.dtype == np.int32:
            return self.on_integers(g, x)
        if x.dtype == np.int8:
            return g.cast(self.on_integers(g, g.cast(x, np.int32)), np.int8)
        raise UnsupportedLayer("element type is not supported", expected="float32, int32 or int8", found=x.dtype)

    def on_floats(self, g: Builder, x: Value) -> Value:
        """The function of float32 elements."""
        return g.op(self.operator, x)

    def on_integers(self, g: Builder, x: Value) -> Value:
        """The function of int32 elements."""
        return x


@layer(41, "Abs", entry=False)
class Abs(Unary):
    """Absolute value.

    Inputs: x [...] float32, int32 or int8.
    Outputs: y, shape and type of x.
    ONNX: Abs.
    TNN differs: passes integers on unchanged.
    """

    operator = "Abs"

    def on_integers(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return g.op("Abs", x)


@layer(179, "Acos")
class Acos(Unary):
    """Arc cosine; NaN outside [-1, 1].

    Inputs: x [...] float32; integers pass unchanged, as in TNN.
    Outputs: y, shape and type of x.
    ONNX: Acos.
    """

    operator = "Acos"


@layer(181, "Asin")
class Asin(Unary):
    """Arc sine; NaN outside [-1, 1].

    Inputs: x [...] float32; integers pass unchanged, as in TNN.
    Outputs: y, shape and type of x.
    ONNX: Asin.
    """

    operator = "Asin"


@layer(183, "Atan")
class Atan(Unary):
    """Arc tangent.

    Inputs: x [...] float32; integers pass unchanged, as in TNN.
    Outputs: y, shape and type of x.
    ONNX: Atan.
    """

    operator = "Atan"


@layer(195, "Ceil")
class Ceil(Unary):
    """Smallest whole number that is not less.

    Inputs: x [...] float32, int32 or int8.
    Outputs: y, shape and type of x.
    ONNX: Ceil; nothing for integers.
    """

    operator = "Ceil"


@layer(178, "Cos")
class Cos(Unary):
    """Cosine of radians.

    Inputs: x [...] float32; integers pass unchanged, as in TNN.
    Outputs: y, shape and type of x.
    ONNX: Cos.
    """

    operator = "Cos"


@layer(307, "Erf")
class Erf(Unary):
    """Gauss error function.

    Inputs: x [...] float32; integers pass unchanged, as in TNN.
    Outputs: y, shape and type of x.
    ONNX: Erf.
    """

    operator = "Erf"


@layer(141, "Exp", entry=False)
class Exp(Unary):
    """e to the power of x.

    Inputs: x [...] float32; integers pass unchanged, as in TNN.
    Outputs: y, shape and type of x.
    ONNX: Exp.
    """

    operator = "Exp"


@layer(186, "Floor")
class Floor(Unary):
    """Largest whole number that is not greater.

    Inputs: x [...] float32, int32 or int8.
    Outputs: y, shape and type of x.
    ONNX: Floor; nothing for integers.
    """

    operator = "Floor"


@layer(184, "Log")
class Log(Unary):
    """Natural logarithm; -inf at 0, NaN below.

    Inputs: x [...] float32; integers pass unchanged, as in TNN.
    Outputs: y, shape and type of x.
    ONNX: Log.
    """

    operator = "Log"


@layer(70, "Neg")
class Neg(Unary):
    """Negative value; the smallest int8 and int32 stay as they are.

    Inputs: x [...] float32, int32 or int8.
    Outputs: y, shape and type of x.
    ONNX: Neg.
    """

    operator = "Neg"

    def on_integers(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return g.op("Neg", x)


@layer(185, "Reciprocal")
class Reciprocal(Unary):
    """1 / x.

    Inputs: x [...] float32; integers pass unchanged, as in TNN.
    Outputs: y, shape and type of x.
    ONNX: Reciprocal.
    TNN differs: 0 stays 0 there; here it gives an infinity of its sign.
    """

    operator = "Reciprocal"


@layer(138, "Rsqrt")
class Rsqrt(Unary):
    """1 / sqrt(x).

    Inputs: x [...] float32; integers pass unchanged, as in TNN.
    Outputs: y, shape and type of x.
    ONNX: Sqrt, Reciprocal.
    """

    def on_floats(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return g.op("Reciprocal", g.op("Sqrt", x))


@layer(176, "Sign", entry=False)
class Sign(Unary):
    """-1, 0 or 1.

    Inputs: x [...] float32, int32 or int8.
    Outputs: y, shape and type of x.
    ONNX: Sign.
    TNN differs: passes integers on unchanged.
    """

    operator = "Sign"

    def on_integers(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return g.op("Sign", x)


@layer(180, "Sin")
class Sin(Unary):
    """Sine of radians.

    Inputs: x [...] float32; integers pass unchanged, as in TNN.
    Outputs: y, shape and type of x.
    ONNX: Sin.
    """

    operator = "Sin"


@layer(130, "Sqrt", entry=False)
class Sqrt(Unary):
    """Square root; NaN below 0.

    Inputs: x [...] float32; integers pass unchanged, as in TNN.
    Outputs: y, shape and type of x.
    ONNX: Sqrt.
    """

    operator = "Sqrt"


@layer(182, "Tan")
class Tan(Unary):
    """Tangent of radians.

    Inputs: x [...] float32; integers pass unchanged, as in TNN.
    Outputs: y, shape and type of x.
    ONNX: Tan.
    """

    operator = "Tan"


@layer(329, "Not")
class Not(Layer):
    """Logical negation: 1 where x is 0, else 0.

    Inputs: x [...] int8; other types are compared with 0.
    Outputs: y, shape and type of x.
    ONNX: Cast to bool, Not, Cast back.
    TNN differs: passes float32 and int32 on unchanged.
    """

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return g.cast(g.op("Not", g.cast(x, np.bool_)), x.dtype)


@layer(313, "BitShift")
class BitShift(Layer):
    """Shifts the bits of whole numbers; zeros follow, also behind a negative int32.

    Inputs: x [...] int32 or uint32.
    Outputs: y, shape and type of x.
    ONNX: BitShift for uint32. For int32 shifts to the left multiply; shifts to the right divide the upper and the
        lower 16 bits (BitwiseAnd) separately, which float32 division does without loss.
    """

    direction: int = token("0 right, anything else left", default=0)
    bits: int = token("how far, 0 to 31", default=0, ge=0)

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        if not 0 <= self.bits < 32:
            raise UnsupportedLayer("cannot shift that far", expected="0 to 31 bits", found=self.bits)
        if x.dtype == np.uint32:
            direction = "LEFT" if self.direction else "RIGHT"
            return g.op("BitShift", x, g.const(np.array(self.bits, np.uint32)), direction=direction)
        if x.dtype != np.int32:
            raise UnsupportedLayer("element type is not supported", expected="int32 or uint32", found=x.dtype)
        if self.bits == 0:
            return x
        if self.direction:
            return g.op("Mul", x, _int32(g, 1 << self.bits))
        low_bits = _int32(g, 0xFFFF)
        high = g.op("Div", g.op("BitwiseAnd", x, _int32(g, 0xFFFF0000)), _int32(g, 1 << 16))
        high = g.op("BitwiseAnd", high, low_bits)
        if self.bits >= 16:
            return g.op("Div", high, _int32(g, 1 << (self.bits - 16)))
        low = g.op("Div", g.op("BitwiseAnd", x, low_bits), _int32(g, 1 << self.bits))
        return g.op("Add", g.op("Mul", high, _int32(g, 1 << (16 - self.bits))), low)


def _int32(g: Builder, bits: int) -> Value:
    """An int32 scalar of these 32 bits."""
    return g.const(np.array(bits, np.uint32).view(np.int32))
