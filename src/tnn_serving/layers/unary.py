"""Element-wise functions of one input without parameters, and bit operations on integers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from typing_extensions import Self

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.errors import UnsupportedLayer
from tnn_serving.layers.base import Layer
from tnn_serving.layers.operands import ANY, FLOAT, INT8, INT32, LIKE_X, Operand, Types
from tnn_serving.layers.parameters import token
from tnn_serving.layers.pattern import Match, OnnxValue
from tnn_serving.layers.registry import contract, derive, layer

ELEMENTS: Types = (*FLOAT, *INT32, *INT8)
UNCHANGED = Operand("x", types=ELEMENTS, doc="integers pass unchanged, as in TNN")


class Unary(Layer):
    """One input, one output of the same shape and type.

    TNN computes the function of float32 alone and passes integers on unchanged, whatever the function. Types whose
    function is defined for integers compute it with ``on_integers``; the others follow TNN.

    Attributes:
        operators: ONNX operators that are applied one after another.
        of_integers: they are applied to integers too.
    """

    operands = (UNCHANGED,)
    results = (LIKE_X,)
    operators: ClassVar[tuple[str, ...]]
    of_integers: ClassVar[bool] = False

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Of integers only what TNN computes of them."""
        check_computed(cls, m["x"])
        return super().from_onnx(m)

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        if x.dtype == np.float32:
            return self.on_floats(g, x)
        if x.dtype == np.int32:
            return self.on_integers(g, x)
        return g.cast(self.on_integers(g, g.cast(x, np.int32)), np.int8)

    def on_floats(self, g: Builder, x: Value) -> Value:
        """The function of float32 elements."""
        for operator in self.operators:
            x = g.op(operator, x)
        return x

    def on_integers(self, g: Builder, x: Value) -> Value:
        """The function of int32 elements."""
        return self.on_floats(g, x) if self.of_integers else x


def check_computed(cls: type[Unary], x: OnnxValue) -> None:
    """Raises UnsupportedLayer for integers that the type would pass on unchanged."""
    if not x.is_float and not cls.of_integers:
        raise UnsupportedLayer(f"TNN computes {cls.types[0]} of floats only", expected="float32", found=x.dtype)


@dataclass(frozen=True, slots=True)
class Function:
    """An element-wise function that is a chain of ONNX operators.

    Attributes:
        number, name: TNN's number and name of the type.
        doc: what it computes.
        operators, of_integers: see :class:`Unary`.
        differs: where TNN differs.
        entry: see :func:`~tnn_serving.layers.registry.layer`.
    """

    number: int
    name: str
    doc: str
    operators: tuple[str, ...]
    differs: str = ""
    of_integers: bool = False
    entry: bool = True


def functions(rows: Iterable[Function], module: str) -> None:
    """Declares a layer class per function."""
    for row in rows:
        pattern = "x"
        for operator in row.operators:
            pattern = f"{operator}({pattern})"
        attributes = {"operators": row.operators, "of_integers": row.of_integers, "made_from": (pattern,)}
        if row.of_integers:
            attributes["operands"] = (Operand("x", types=ELEMENTS),)
        doc = contract(row.doc, onnx=f"{', '.join(row.operators)}.", differs=row.differs)
        derive(Unary, row.number, row.name, doc=doc, module=module, entry=row.entry, **attributes)


PASSES_INTEGERS = "passes integers on unchanged."

functions(
    (
        Function(41, "Abs", "Absolute value.", ("Abs",), PASSES_INTEGERS, of_integers=True, entry=False),
        Function(179, "Acos", "Arc cosine; NaN outside [-1, 1].", ("Acos",)),
        Function(181, "Asin", "Arc sine; NaN outside [-1, 1].", ("Asin",)),
        Function(183, "Atan", "Arc tangent.", ("Atan",)),
        Function(195, "Ceil", "Smallest whole number that is not less.", ("Ceil",)),
        Function(178, "Cos", "Cosine of radians.", ("Cos",)),
        Function(307, "Erf", "Gauss error function.", ("Erf",)),
        Function(141, "Exp", "e to the power of x.", ("Exp",), entry=False),
        Function(186, "Floor", "Largest whole number that is not greater.", ("Floor",)),
        Function(184, "Log", "Natural logarithm; -inf at 0, NaN below.", ("Log",)),
        Function(
            70, "Neg", "Negative value; the smallest int8 and int32 stay as they are.", ("Neg",), of_integers=True
        ),
        Function(
            185, "Reciprocal", "1 / x.", ("Reciprocal",), "0 stays 0 there; here it gives an infinity of its sign."
        ),
        Function(138, "Rsqrt", "1 / sqrt(x).", ("Sqrt", "Reciprocal")),
        Function(176, "Sign", "-1, 0 or 1.", ("Sign",), PASSES_INTEGERS, of_integers=True, entry=False),
        Function(180, "Sin", "Sine of radians.", ("Sin",)),
        Function(130, "Sqrt", "Square root; NaN below 0.", ("Sqrt",), entry=False),
        Function(182, "Tan", "Tangent of radians.", ("Tan",)),
    ),
    __name__,
)


@layer(329, "Not")
class Not(Layer):
    """Logical negation: 1 where x is 0, else 0.

    ONNX: Cast to bool, Not, Cast back.
    TNN differs: passes float32 and int32 on unchanged.
    """

    operands = (Operand("x", types=ANY),)
    results = (LIKE_X,)
    made_from = ("Not(x)",)

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return g.cast(g.op("Not", g.cast(x, np.bool_)), x.dtype)


@layer(313, "BitShift")
class BitShift(Layer):
    """Shifts the bits of whole numbers; zeros follow, also behind a negative int32.

    ONNX: BitShift for uint32. For int32 shifts to the left multiply; shifts to the right divide the upper and the
        lower 16 bits (BitwiseAnd) separately, which float32 division does without loss.
    """

    operands = (Operand("x", types=(*INT32, np.dtype(np.uint32))),)
    results = (LIKE_X,)

    made_from = ("BitShift(x, bits)",)

    direction: int = token("0 right, anything else left", default=0)
    bits: int = token("how far, 0 to 31", default=0, ge=0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """By one number of bits."""
        return cls.made(m, m["x"], direction=int(m.attribute("direction") == "LEFT"), bits=int(m["bits"].scalar()))

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        if not 0 <= self.bits < 32:
            raise UnsupportedLayer("cannot shift that far", expected="0 to 31 bits", found=self.bits)
        if x.dtype == np.uint32:
            direction = "LEFT" if self.direction else "RIGHT"
            return g.op("BitShift", x, g.const(np.array(self.bits, np.uint32)), direction=direction)
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
