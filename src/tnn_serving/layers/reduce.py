"""Reductions over axes."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from typing_extensions import Self

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.errors import ShapeError, UnsupportedLayer
from tnn_serving.layers.base import Layer
from tnn_serving.layers.operands import FLOAT, INT32, Operand
from tnn_serving.layers.parameters import rest, token
from tnn_serving.layers.pattern import Match
from tnn_serving.layers.registry import contract, derive, family, layer

REDUCED = Operand("x", types=(*FLOAT, *INT32))


@family
class Reduce(Layer):
    """Reduces some axes, or all, to one element each; int32 stays int32."""

    operands = (REDUCED,)
    results = (Operand("y", like="x", doc="the axes have size 1 or are dropped"),)
    operator: ClassVar[str]
    needs_elements: ClassVar[bool] = False
    """It has no value for an axis of size 0."""

    def __init_subclass__(cls, **_: Any) -> None:
        """Each is made from its operator."""
        if "operator" in vars(cls):
            cls.made_from = (f"{cls.operator}(x, axes?)",)

    keep_dims: int = token("0 drops the reduced axes, anything else keeps them with size 1")
    axes: tuple[int, ...] = rest("axes to reduce, negative ones from the end; all if there are none")

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Of constant axes; of whole numbers only where TNN does not round."""
        x, axes = m["x"], m.root.axes()
        if not x.is_float and cls.on_integers is not Reduce.on_integers:
            raise UnsupportedLayer(f"TNN rounds {cls.types[0]} of whole numbers on the way", found=x.dtype)
        if not axes and m.attribute("noop_with_empty_axes", 0):
            return None
        return cls.made(m, x, keep_dims=int(m.attribute("keepdims", 1)), axes=tuple(axes or ()))

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class. Raises ShapeError for axes that x does not have, or that have no elements to reduce."""
        axes = sorted({x.axis(axis) for axis in self.axes}) or list(range(x.rank))
        if self.needs_elements:
            check_elements(x, axes)
        if x.dtype == np.float32:
            return over(g, self.operator, x, axes, keep=self.keep_dims != 0)
        y = self.on_integers(g, x, axes)
        return y if self.keep_dims or not axes else g.op("Squeeze", y, g.ints(*axes))

    def on_integers(self, g: Builder, x: Value, axes: list[int]) -> Value:
        """The reduction of int32 elements over rising axes, which are kept."""
        return over(g, self.operator, x, axes)


def check_elements(x: Value, axes: list[int]) -> None:
    """Raises ShapeError if one of the axes has size 0."""
    if any(x.dims[axis] == 0 for axis in axes):
        raise ShapeError("there are no elements to reduce", expected=f"at least 1 on axes {axes}", found=list(x.dims))


def over(g: Builder, operator: str, x: Value, axes: list[int], *, keep: bool = True) -> Value:
    """An ONNX reduction over these axes."""
    return g.op(operator, x, g.ints(*axes), keepdims=int(keep))


def truncated(g: Builder, operator: str, x: Value) -> Value:
    """A float function of int32 elements, rounded toward zero."""
    return g.cast(g.op(operator, g.cast(x, np.float32)), np.int32)


for _number, _types, _doc, _differs in (
    (188, ("ReduceL1",), "Sum of absolute values.", ""),
    (177, ("ReduceMax",), "Largest element.", "the result is never below -FLT_MAX."),
    (192, ("ReduceMin",), "Smallest element.", "the result is never above FLT_MAX."),
    (
        193,
        ("ReduceProd",),
        "Product.",
        "drops the upper bits of a product beyond int32, where ONNX Runtime gives the largest int32.",
    ),
    (133, ("ReduceSum", "Reduce_Sum"), "Sum.", ""),
):
    derive(
        Reduce,
        _number,
        *_types,
        doc=contract(_doc, onnx=f"{_types[0]}.", differs=_differs),
        module=__name__,
        operator=_types[0],
        needs_elements=_types[0] in ("ReduceMax", "ReduceMin"),
    )


@layer(189, "ReduceL2")
class ReduceL2(Reduce):
    """Square root of the sum of squares; of int32 the root is truncated.

    ONNX: ReduceL2; for int32 Mul, ReduceSum and Sqrt of float32.
    """

    operator = "ReduceL2"

    def on_integers(self, g: Builder, x: Value, axes: list[int]) -> Value:
        """See the class."""
        return truncated(g, "Sqrt", over(g, "ReduceSum", g.op("Mul", x, x), axes))


@layer(190, "ReduceLogSum")
class ReduceLogSum(Reduce):
    """Logarithm of the sum; of int32 it is truncated.

    ONNX: ReduceLogSum; for int32 ReduceSum and Log of float32.
    """

    operator = "ReduceLogSum"

    def on_integers(self, g: Builder, x: Value, axes: list[int]) -> Value:
        """See the class."""
        return truncated(g, "Log", over(g, "ReduceSum", x, axes))


@layer(191, "ReduceLogSumExp")
class ReduceLogSumExp(Reduce):
    """Logarithm of the sum of exp(x), without overflow.

    TNN goes axis by axis and truncates every exp and log of int32, so that the largest element plus the logarithm of
    its number of occurrences remains.

    ONNX: ReduceLogSumExp; for int32, axis by axis, ReduceMax, Equal, ReduceSum, Log and Add.
    """

    operator = "ReduceLogSumExp"
    needs_elements = True

    def on_integers(self, g: Builder, x: Value, axes: list[int]) -> Value:
        """See the class."""
        for axis in axes:
            largest = over(g, "ReduceMax", x, [axis])
            count = over(g, "ReduceSum", g.cast(g.op("Equal", x, largest), np.int32), [axis])
            x = g.op("Add", largest, truncated(g, "Log", count))
        return x


@layer(169, "ReduceMean")
class ReduceMean(Reduce):
    """Mean; of int32 axis by axis, truncated each time.

    ONNX: ReduceMean; for int32, axis by axis, ReduceSum and Div.
    """

    operator = "ReduceMean"
    needs_elements = True

    def on_integers(self, g: Builder, x: Value, axes: list[int]) -> Value:
        """See the class."""
        for axis in axes:
            x = g.op("Div", over(g, "ReduceSum", x, [axis]), g.cast(g.size(x, axis), np.int32))
        return x


@layer(194, "ReduceSumSquare")
class ReduceSumSquare(Reduce):
    """Sum of squares.

    ONNX: ReduceSumSquare; for int32 Mul and ReduceSum.
    """

    operator = "ReduceSumSquare"

    def on_integers(self, g: Builder, x: Value, axes: list[int]) -> Value:
        """See the class."""
        return over(g, "ReduceSum", g.op("Mul", x, x), axes)


@layer(199, "ArgMaxOrMin")
class ArgMaxOrMin(Layer):
    """Index of the largest or smallest element along one axis; the first one of several.

    ONNX: ArgMax or ArgMin, Cast to int32.
    TNN differs: compares int32 by their bits read as floats, which reverses the order of negative ones.
    """

    operands = (REDUCED,)
    results = (Operand("y", types=INT32, doc="the axis has size 1 or is dropped"),)
    made_from = ("ArgMax(x)", "ArgMin(x)")

    mode: int = token("what to look for", default=0, values={0: "minimum", 1: "maximum"})
    axis: int = token("axis to search", default=0)
    keep_dims: int = token("0 drops the axis, anything else keeps it with size 1", default=1)
    select_last_index: int = token("ignored by TNN: the first one of several is taken", default=0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Of floats, and the first one of several."""
        x = m["x"]
        if not x.is_float or m.attribute("select_last_index", 0):
            return None
        axis, keep = x.axis(m.attribute("axis", 0)), m.attribute("keepdims", 1)
        return cls.made(m, x, mode=int(m.has("ArgMax")), axis=axis, keep_dims=int(keep))

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        operator, axis = "ArgMax" if self.mode else "ArgMin", x.axis(self.axis)
        check_elements(x, [axis])
        return g.cast(g.op(operator, x, axis=axis, keepdims=int(self.keep_dims != 0)), np.int32)
