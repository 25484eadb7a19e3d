"""Element-wise arithmetic, comparison and logic of two or more operands, one of which may be stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from typing_extensions import Self

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.emit.int8 import FLOAT_MIN, Codes, Form, Int8, Operands, Scale
from tnn_serving.errors import ShapeError, UnsupportedLayer, WeightsError
from tnn_serving.layers.base import Layer
from tnn_serving.layers.draw import Draw
from tnn_serving.layers.operands import INT8, NUMBERS, Operand
from tnn_serving.layers.parameters import token
from tnn_serving.layers.pattern import Match, OnnxValue
from tnn_serving.layers.registry import contract, derive, family, layer
from tnn_serving.layers.weights import buffer, kept
from tnn_serving.tensor import Tensor

BROADCAST = "broadcast with `a`; stored where `a` is the only input"
OPERAND_PLACES = {-1: "nothing is stored", 0: "the stored operand is the first", 1: "the stored operand is the second"}


def operand_dims(count: int, dims: Sequence[int | None]) -> tuple[int, ...]:
    """The shape of a stored operand that has no dims of its own, from its size and the dims of the input.

    The first rule that fits: one value; one per channel; everything but the batch; the last of four axes or more;
    everything but batch and channel. Raises WeightsError if none fits.
    """
    rank = len(dims)
    sizes = [size or 0 for size in dims]
    if count == 1:
        return (1,) * rank
    kept = [(1, 2), (1, rank), (3, 4), (2, rank)] if rank > 3 else [(1, 2), (1, rank), (2, rank)] if rank > 1 else []
    for begin, end in kept:
        if 0 < count == math.prod(sizes[begin:end]):
            return (*(1,) * begin, *sizes[begin:end], *(1,) * (rank - end))
    raise WeightsError("stored operand fits no axes of the input", expected=f"part of {list(dims)}", found=count)


@family
class Binary(Layer):
    """Operands broadcast as in NumPy; three or more are combined from left to right.

    With a single input the model file holds the other operand.

    Attributes:
        operator: the ONNX operator.
        neutral: the second operand that changes nothing.
        others: pattern of the operands behind the first.
    """

    def __init_subclass__(cls, **_: Any) -> None:
        """Each is made from its operator."""
        if "operator" in vars(cls) and "made_from" not in vars(cls):
            cls.made_from = (f"{cls.operator}(a, {cls.others})",)

    operands = (
        Operand("a", types=NUMBERS),
        Operand("b", types=NUMBERS, doc=BROADCAST, like="a", repeated=True),
    )
    results = (Operand("y", like="a", doc="the broadcast shape"),)
    operator: ClassVar[str]
    neutral: ClassVar[float] = 0.0
    others: ClassVar[str] = "b"

    weight_input_index: int = token("place of the stored operand, if there is one", default=1, values=OPERAND_PLACES)

    element: Tensor | None = buffer("the stored operand: with dims, or without where it fits axes of the input")

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """One of two operands may be a constant, which is stored in the layer."""
        operands = [m["a"], *([m["b"]] if "b" in m.values else m.rest)]
        stored = [place for place, value in enumerate(operands) if value.constant]
        if len(operands) == 2 and len(stored) == 1 and cls.keeps(operands[stored[0]], operands[1 - stored[0]]):
            (place,) = stored
            element = kept(operands[place].fixed())
            return cls.made(m, operands[1 - place], weight_input_index=place, element=element)
        return cls.made(m, *operands, weight_input_index=-1)

    @classmethod
    def keeps(cls, constant: OnnxValue, other: OnnxValue) -> bool:
        """Whether a constant operand can be stored in the layer."""
        return True

    def random_weights(self, draw: Draw, inputs: Sequence[Value]) -> dict[str, Tensor | int]:
        """With one input, an operand per channel near the neutral one, in the type of the input."""
        x = inputs[0]
        if len(inputs) > 1:
            return {}
        if x.dtype == np.float32:
            return {"element": draw.per_channel("element", x, self.neutral)}
        return {"element": draw.integers_per_channel("element", x, int(self.neutral))}

    def to_onnx(self, g: Builder, *inputs: Value) -> Value:
        """See the class."""
        first, *others = inputs if len(inputs) > 1 else self.placed(inputs[0], self.stored_operand(g, inputs[0]))
        for other in others:
            first = self.combine(g, first, other)
        return first

    def combine(self, g: Builder, a: Value, b: Value) -> Value:
        """The operation on two operands."""
        return g.op(self.operator, a, b)

    def stored_operand(self, g: Builder, x: Value) -> Value:
        """The stored operand as a constant that broadcasts against ``x``.

        Raises WeightsError if it is of another type than ``x``, or fits no axes of it.
        """
        element = self.need("element")
        dims = element.shape or operand_dims(element.size, x.dims)
        made = g.const(element, dims=dims)
        if made.dtype != x.dtype:
            raise WeightsError("stored operand is of another type than the input", expected=x.dtype, found=made.dtype)
        return made

    def placed(self, x: Value, element: Value) -> list[Value]:
        """Input and stored operand in their order. Raises ShapeError for a place that is neither 0 nor 1."""
        if self.weight_input_index not in (0, 1):
            raise ShapeError(
                "the stored operand has no place", expected="weight_input_index 0 or 1", found=self.weight_input_index
            )
        return [x, element] if self.weight_input_index == 1 else [element, x]


@layer(38, "Add", "QuantizedAdd")
class Add(Binary):
    """Sum of all operands.

    ONNX: Add.
    """

    operator = "Add"
    adds = True

    def to_onnx_int8(self, a: Int8, inputs: Operands, out: Scale) -> Codes:
        """Real values added in input order, then rounded once; TNN does not broadcast here."""
        codes = inputs.codes
        g = a.g
        if len(codes) < 2:
            raise UnsupportedLayer("an int8 addition needs two blobs or more", found=len(codes))
        first = codes[0].value
        if any(c.value.dims != first.dims for c in codes):
            raise ShapeError("int8 operands must have equal dims", found=[list(c.value.dims) for c in codes])
        per_tensor = all(scale.per_tensor for scale in (*(c.scale for c in codes), out))
        if a.form is Form.FAST_U8 and per_tensor and out.scale[0] >= FLOAT_MIN:
            total = a.dequantised(codes[0].value, codes[0].scale.scale[0], codes[0].scale.zero[0])
            for c in codes[1:]:
                total = g.op("Add", total, a.dequantised(c.value, c.scale.scale[0], c.scale.zero[0]))
            return Codes(a.coded(total, out.scale[0], out.zero[0]), out)
        total = a.real(codes[0])
        for c in codes[1:]:
            total = g.op("Add", total, a.real(c))
        return a.quantised(total, out)


NO_INTEGERS = "refuses int32; drops a NaN of a later operand."

for _number, _name, _operator, _neutral, _doc, _differs in (
    (108, "Sub", "Sub", 0.0, "First operand minus all others.", ""),
    (42, "Mul", "Mul", 1.0, "Product of all operands.", ""),
    (175, "Div", "Div", 1.0, "First operand divided by all others; whole numbers round toward zero.", ""),
    (137, "Maximum", "Max", 0.0, "Largest of all operands.", NO_INTEGERS),
    (140, "Minimum", "Min", 0.0, "Smallest of all operands.", NO_INTEGERS),
):
    derive(
        Binary,
        _number,
        _name,
        doc=contract(_doc, onnx=f"{_operator}.", differs=_differs),
        module=__name__,
        operator=_operator,
        neutral=_neutral,
        others="*b" if _operator in ("Max", "Min") else "b",
    )


@layer(198, "SquaredDifference")
class SquaredDifference(Binary):
    """Square of the difference of two operands; a third one is combined with that.

    ONNX: Sub, Mul.
    TNN differs: refuses int32.
    """

    operator = "Sub"
    made_from = ("Pow(Sub(a, b), 2)",)

    def combine(self, g: Builder, a: Value, b: Value) -> Value:
        """See the class."""
        difference = super().combine(g, a, b)
        return g.op("Mul", difference, difference)


@layer(332, "And")
class And(Binary):
    """1 where no operand is 0.

    ONNX: Cast to bool, And, Cast to int8.
    """

    operands = (Operand("a"), Operand("b", doc=BROADCAST, repeated=True))
    results = (Operand("y", types=INT8, doc="the broadcast shape"),)
    operator = "And"

    def combine(self, g: Builder, a: Value, b: Value) -> Value:
        """See the class."""
        return g.cast(g.op("And", g.cast(a, np.bool_), g.cast(b, np.bool_)), np.int8)


class Comparison(Binary):
    """Two operands of one type, int8 0 or 1 out; of a stored operand only the first element counts, as in TNN."""

    operands = (Operand("a"), Operand("b", doc=BROADCAST, like="a", optional=True))
    results = (Operand("y", types=INT8, doc="the broadcast shape"),)
    counts_inputs = True

    @classmethod
    def keeps(cls, constant: OnnxValue, other: OnnxValue) -> bool:
        """One number alone."""
        return constant.fixed().size == 1 and constant.rank <= other.rank

    def combine(self, g: Builder, a: Value, b: Value) -> Value:
        """The comparison of two operands."""
        return g.cast(g.op(self.operator, a, b), np.int8)

    def stored_operand(self, g: Builder, x: Value) -> Value:
        """See the class. Raises WeightsError if it is empty or of another type than ``x``."""
        values = self.need("element").array()
        if not values.size or values.dtype != x.dtype:
            raise WeightsError(
                "stored operand does not fit the input",
                expected=x.dtype,
                found=f"{values.size} values of {values.dtype}",
            )
        return g.const(values[:1], dims=())


ALIGNED_LEFT = "the output of unequal ranks gets dims that are aligned at the left."

for _number, _name in ((333, "Greater"), (334, "Less")):
    derive(
        Comparison,
        _number,
        _name,
        doc=contract(
            f"1 where the first operand is {_name.lower()}.", onnx=f"{_name}, Cast to int8.", differs=ALIGNED_LEFT
        ),
        module=__name__,
        operator=_name,
    )


@layer(324, "Equal", entry=False)
class Equal(Layer):
    """1 where both operands are equal.

    ONNX: Equal, Cast to int8.
    TNN differs: the output of unequal ranks gets dims that are aligned at the left.
    """

    operands = (Operand("a"), Operand("b", doc="broadcast with `a`", like="a"))
    results = Comparison.results
    counts_inputs = True
    made_from = ("Equal(a, b)",)

    def to_onnx(self, g: Builder, a: Value, b: Value) -> Value:
        """See the class."""
        return g.cast(g.op("Equal", a, b), np.int8)
