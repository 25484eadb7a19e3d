"""Layers that choose elements, or count and find them."""

from __future__ import annotations

import numpy as np
from typing_extensions import Self

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.errors import ShapeError
from tnn_serving.layers.base import Layer
from tnn_serving.layers.operands import FLOAT, INT32, INTEGERS, Operand, X
from tnn_serving.layers.parameters import token
from tnn_serving.layers.pattern import Match
from tnn_serving.layers.registry import layer
from tnn_serving.layers.shape import numbers, shape_operand

FROM_THE_BACK = -(2**63) + 1


@layer(325, "Where", entry=False)
class Where(Layer):
    """Elements of one of two tensors, by a condition.

    ONNX: Where, the condition cast to bool.
    TNN differs: infers wrong dims where the ranks differ.
    """

    operands = (
        Operand("a", doc="chosen where the condition is not 0"),
        Operand("b", doc="broadcast with `a`", like="a"),
        Operand("condition", doc="broadcast with `a`"),
    )
    results = (Operand("y", like="a", doc="the broadcast shape"),)
    made_from = ("Where(condition, a, b)",)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """The condition comes last."""
        return cls.made(m, m["a"], m["b"], m["condition"])

    def to_onnx(self, g: Builder, a: Value, b: Value, condition: Value) -> Value:
        """See the class."""
        return g.op("Where", g.cast(condition, np.bool_), a, b)


@layer(309, "NonZero", entry=False)
class NonZero(Layer):
    """Places of the elements that are not 0.

    ONNX: NonZero, Cast.
    TNN differs: runs only where x can be computed at load, is right only for rank 1, and takes -0.0 for a hit.
    """

    operands = (X,)
    results = (Operand("y", "[rank, count]", INT32, doc="in row-major order; the count depends on the data"),)
    made_from = ("NonZero(x)",)

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        # Bytes and unsigned numbers have no kernel of their own in ONNX Runtime.
        y = g.op("NonZero", g.cast(x, np.bool_) if x.dtype in (np.int8, np.uint32) else x)
        return g.cast(y, np.int32)


@layer(314, "Histogram")
class Histogram(Layer):
    """How often each of the numbers 0 to depth - 1 occurs.

    ONNX: ScatterElements, adding ones.
    TNN differs: numbers outside the range write outside its output; they are not counted here.
    """

    operands = (Operand("x", types=INTEGERS),)
    results = (Operand("y", "[depth]", INT32),)

    depth: int = token("number of bins", default=0, ge=1)

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class. Raises ShapeError for a negative depth."""
        if self.depth < 0:
            raise ShapeError("depth must not be negative", found=self.depth)
        g.check_made(self.depth)
        flat = g.reshape(g.cast(x, np.int64), -1)
        beyond = g.ints(self.depth)
        inside = g.op("And", g.op("GreaterOrEqual", flat, g.ints(0)), g.op("Less", flat, beyond))
        places = g.op("Where", inside, flat, beyond)
        ones = g.op("Expand", g.const(np.array([1], np.int32)), g.shape(flat))
        bins = g.const(np.zeros(self.depth + 1, np.int32))
        counts = g.op("ScatterElements", bins, places, ones, axis=0, reduction="add")
        return g.op("Slice", counts, g.ints(0), beyond, g.ints(0))


@layer(319, "OneHot")
class OneHot(Layer):
    """A new axis with one value at the index and another everywhere else.

    ONNX: OneHot.
    TNN differs: runs only with three inputs; takes the values from the third one if a Shape layer is in the network,
        from the parameters otherwise, which is followed here.
    """

    operands = (
        Operand("indices", types=INTEGERS),
        Operand(
            "depth",
            types=INTEGERS,
            doc="one element; overrides `depth` if it is constant",
            optional=True,
            replaces=("depth",),
        ),
        Operand("values", doc="off and on; only its type counts", optional=True),
    )
    results = (Operand("y", doc="dims of indices with the depth inserted at the axis; type of values, else int32"),)
    made_from = ("OneHot(indices, depth, values)",)

    axis: int = token("place of the new axis; negative counts in the output", default=-1)
    depth: int = token("size of the new axis", default=-1)
    value_off: float = token("value elsewhere", default=0.0)
    value_on: float = token("value at the index", default=1.0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """With stored values, as parameters and as the third input, whose type counts."""
        if m["indices"].is_float or m["depth"].is_float or m["values"].dtype != np.float32:
            return None
        off, on = (float(value) for value in m["values"].fixed().reshape(-1))
        depth = int(m["depth"].scalar())
        operands = m["indices"], m["depth"], m["values"]
        return cls.made(m, *operands, axis=m.attribute("axis", -1), depth=depth, value_off=off, value_on=on)

    def to_onnx(self, g: Builder, indices: Value, depth: Value | None = None, values: Value | None = None) -> Value:
        """See the class. Raises ShapeError without a depth, or for an axis outside the output's rank."""
        if not -indices.rank - 1 <= self.axis <= indices.rank:
            raise ShapeError("axis is out of range", expected=f"{-indices.rank - 1} to {indices.rank}", found=self.axis)
        pair = np.array([self.value_off, self.value_on], np.float32)
        if values is not None and values.constant and not np.array_equal(values.fixed().reshape(-1), pair):
            found = values.fixed().reshape(-1)
            self.warn(f"off and on are {pair[0]:g} and {pair[1]:g}; the constant {found} is not used")
        y = g.op("OneHot", g.cast(indices, np.int64), self._depth(g, depth), g.const(pair), axis=self.axis)
        return g.cast(y, np.int32 if values is None else values.dtype)

    def _depth(self, g: Builder, depth: Value | None) -> Value:
        if depth is not None and not depth.constant and self.depth < 1:
            return g.reshape(g.cast(depth, np.int64))
        size = self.depth if depth is None or not depth.constant else (*numbers(depth), 0)[0]
        if size < 1:
            raise ShapeError("depth must be at least 1", found=size)
        return g.const(np.array(size, np.int64))


@layer(328, "TopK")
class TopK(Layer):
    """The largest or smallest elements of an axis, and where they were.

    ONNX: TopK. Unsorted means worst first.
    TNN differs: which of equal elements it takes, and their order, is not specified; the lowest indices here.
    """

    operands = (
        Operand("x", types=(*FLOAT, *INTEGERS)),
        Operand("k", types=INTEGERS, doc="one element, overrides `k`", optional=True, replaces=("k",)),
    )
    results = (
        Operand("values", like="x", doc="dims of x with min(k, dim) at the axis"),
        Operand("indices", "as values", INT32),
    )
    made_from = ("TopK(x, k)", "TopK(x, Min(k, size))")

    axis: int = token("axis; negative from the end", default=-1)
    largest: int = token("1 largest, 0 smallest", default=1)
    sorted: int = token("1 best first, 0 worst first", default=1)
    k: int = token("how many", default=-1)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Of a stored number of elements, or all if there are fewer; best first, where ONNX leaves that open."""
        x = m["x"]
        axis, largest = x.axis(m.attribute("axis", -1)), m.attribute("largest", 1)
        if m.has("Min") and not m["size"].is_size_of(x, axis):
            return None
        return cls.made(m, x, axis=axis, largest=int(largest), sorted=1, k=int(m["k"].scalar()))

    def to_onnx(self, g: Builder, x: Value, k: Value | None = None) -> list[Value]:
        """See the class. Raises ShapeError unless k is at least 1."""
        axis = x.axis(self.axis)
        fixed = self.k if k is None else (*numbers(k), 0)[0] if k.constant else 1
        if fixed < 1:
            raise ShapeError("k must be at least 1", found=fixed)
        count = g.ints(fixed) if k is None or k.constant else shape_operand(g, k)
        found = g.op(
            "TopK",
            x,
            g.op("Min", count, g.size(x, axis)),
            outputs=2,
            axis=axis,
            largest=int(self.largest != 0),
            sorted=1,
        )
        if not self.sorted:
            found = [g.op("Slice", y, g.ints(-1), g.ints(FROM_THE_BACK), g.ints(axis), g.ints(-1)) for y in found]
        return [found[0], g.cast(found[1], np.int32)]
