"""Layers that put tensors together along an axis and take parts out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from typing_extensions import Self

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.emit.int8 import Codes, Int8, Operands, Scale
from tnn_serving.errors import ShapeError, UnsupportedLayer
from tnn_serving.layers.base import Layer
from tnn_serving.layers.operands import INTEGERS, LIKE_X, Operand, X
from tnn_serving.layers.parameters import INT32_MAX, INT32_MIN, counted, token
from tnn_serving.layers.pattern import Match
from tnn_serving.layers.registry import layer
from tnn_serving.layers.shape import joined, numbers, shape_operand

TO_THE_END, BEFORE_THE_FRONT = 2**63 - 1, -(2**63) + 1


@layer(8, "Concat", "Concat_nhwc", "QuantizedConcat")
class Concat(Layer):
    """Inputs one behind the other along an axis.

    ONNX: Concat. Empty constants, whose dims the model file does not keep, are left out.
    """

    operands = (Operand("x0"), Operand("x1", doc="equal dims but for the axis", repeated=True))
    results = (Operand("y", like="x0", doc="the sum of the sizes at the axis"),)
    made_from = ("Concat(*x)",)

    axis: int = token("axis; negative from the end", default=1)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """See the base class."""
        return cls.made(m, *m.rest, axis=m.y.axis(m.attribute("axis")))

    def to_onnx(self, g: Builder, *inputs: Value) -> Value:
        """See the class. Raises ShapeError for inputs that do not fit each other."""
        filled = [x for x in inputs if not (x.constant and x.fixed().size == 0)] or [inputs[0]]
        if len({x.dtype for x in filled}) > 1:
            raise ShapeError("inputs must be of one type", found=", ".join(str(x.dtype) for x in filled))
        axis = filled[0].axis(self.axis)
        return g.op("Concat", *filled, axis=axis) if len(filled) > 1 else filled[0]

    def to_onnx_int8(self, a: Int8, inputs: Operands, out: Scale) -> Codes:
        """Rescaled to the output's first scale; if any input has a scale per channel, TNN copies the codes."""
        codes = inputs.codes
        g = a.g
        axis = codes[0].value.axis(self.axis)
        if all(c.scale.per_tensor for c in codes):
            target = Scale(out.scale[:1], out.zero[:1])
            parts = [a.rescaled(c, target).value for c in codes]
        else:
            parts = [c.value for c in codes]
        return Codes(g.op("Concat", *parts, axis=axis) if len(parts) > 1 else parts[0], out)


@layer(153, "SplitV")
class SplitV(Layer):
    """Cuts an axis into parts.

    ONNX: Split.
    """

    operands = (X,)
    results = (
        Operand("y", like="x", doc="one per part; no sizes: equal parts, of any axis that they divide"),
        Operand("y", like="x", repeated=True),
    )
    made_from = ("Split(x, sizes?)",)

    axis: int = token("axis; negative from the end", default=0)
    slices: tuple[int, ...] = counted("size of each part", default=(), missing=0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Sizes of the parts where they are known; equal parts otherwise."""
        x, sizes = m["x"], m.get("sizes")
        axis = x.axis(m.attribute("axis", 0))
        if sizes is not None:
            slices = sizes.numbers()
        elif x.known[axis] is None:
            slices = []
        else:
            slices = [y.dims[axis] or 0 for y in m.root.outputs]
        return cls.made(m, x, axis=axis, slices=tuple(slices))

    def to_onnx(self, g: Builder, x: Value) -> list[Value]:
        """See the class. Raises ShapeError for sizes that do not add up, or parts that cannot be equal."""
        axis, parts = x.axis(self.axis), len(self.outputs)
        if not self.slices:
            if x.dim(axis) % parts:
                raise ShapeError(f"axis {axis} cannot be cut into {parts} equal parts", found=x.dim(axis))
            return g.op("Split", x, self._equal(g, x, axis, parts), outputs=parts, axis=axis)
        if len(self.slices) != parts:
            raise ShapeError("number of sizes differs from the outputs", expected=parts, found=len(self.slices))
        if any(size < 0 for size in self.slices) or sum(self.slices) != x.dim(axis):
            raise ShapeError("sizes do not add up", expected=x.dim(axis), found=" + ".join(map(str, self.slices)))
        return g.op("Split", x, g.ints(*self.slices), outputs=parts, axis=axis)

    @staticmethod
    def _equal(g: Builder, x: Value, axis: int, parts: int) -> Value:
        """Sizes of equal parts. ONNX's ``num_outputs`` would make the last one smaller at a size they do not divide."""
        size = x.known[axis]
        if size is not None:
            return g.ints(*[size // parts] * parts)
        return joined(g, [g.op("Div", g.size(x, axis), g.ints(parts))] * parts)


@layer(7, "Split", entry=False)
class Split(Layer):
    """Gives its input to several names.

    ONNX: Identity for each output.
    TNN differs: knows the layer and cannot run it.
    """

    operands = (X,)
    results = (LIKE_X, Operand("y", "as x", like="x", repeated=True))

    def to_onnx(self, g: Builder, x: Value) -> list[Value]:
        """See the class."""
        return [g.op("Identity", x) for _ in self.outputs]


@layer(57, "StridedSlice", "StridedSlice_nhwc")
class StridedSlice(Layer):
    """A range of every axis, by a step.

    ONNX: Slice. Negative begins and ends count from the end; an end of 0 is the end.
    TNN differs: reads outside its input where an end is beyond the dim; here it is the end.
    """

    operands = (
        X,
        Operand("reference", doc="of the same rank; its dims are the sizes, the ends are ignored", optional=True),
    )
    results = (Operand("y", like="x", doc="(end - begin - 1) / stride + 1 elements at each axis"),)

    begins: tuple[int, ...] = counted("first index of each axis")
    ends: tuple[int, ...] = counted("index behind the last of each axis; 0 for the end")
    strides: tuple[int, ...] = counted("step of each axis")

    def with_free_batch(self, inputs: Sequence[Value | None], batch: int) -> Layer | None:
        """A slice of the whole first axis, by number, becomes one to the end."""
        x, reference, *_ = (*inputs, None)
        if x is None or reference is not None or not self.ends or x.dims[:1] != (batch,):
            return None
        if (self.begins[0], self.strides[0]) != (0, 1) or self.ends[0] < batch:
            return None
        return dataclasses.replace(self, ends=(0, *self.ends[1:]))

    def to_onnx(self, g: Builder, x: Value, reference: Value | None = None) -> Value:
        """See the class. Raises ShapeError for lists of another length than the rank, and for an empty result."""
        for what, listed in (("begins", self.begins), ("ends", self.ends), ("strides", self.strides)):
            if len(listed) != x.rank:
                raise ShapeError(f"number of {what} differs from the rank", expected=x.rank, found=len(listed))
        if any(step < 1 for step in self.strides):
            raise ShapeError("strides must be at least 1", found=list(self.strides))
        if reference is not None:
            return self._as_reference(g, x, reference)
        ends = [TO_THE_END if end == 0 else end for end in self.ends]
        y = g.op("Slice", x, g.ints(*self.begins), g.ints(*ends), g.ints(*range(x.rank)), g.ints(*self.strides))
        if 0 in y.dims:
            raise ShapeError(
                "nothing is left", expected="begin < end", found=f"{self.begins} to {self.ends} of {list(x.dims)}"
            )
        return y

    def _as_reference(self, g: Builder, x: Value, reference: Value) -> Value:
        if reference.rank != x.rank:
            raise ShapeError("rank of the reference differs", expected=x.rank, found=reference.rank)
        if any(step != 1 for step in self.strides):
            raise UnsupportedLayer("strides must be 1 with a reference", found=list(self.strides))
        begins = joined(g, [b if b >= 0 else g.op("Add", g.size(x, k), g.ints(b)) for k, b in enumerate(self.begins)])
        ends = g.op("Add", begins, g.shape(reference))
        y = g.op("Slice", x, begins, ends, g.ints(*range(x.rank)))
        if None not in (*y.dims, *reference.dims) and y.dims != reference.dims:
            raise ShapeError(
                "the reference is larger than the rest of the input", expected=list(y.dims), found=list(reference.dims)
            )
        return y


@layer(306, "StridedSliceV2")
class StridedSliceV2(Layer):
    """A range of some axes, by a step that may be negative.

    ONNX: Slice. Begins and ends are limited to the dim; 2147483647 is the end, -2147483648 the place before the front.
    TNN differs: needs rising axes; does not limit begins to the dim; refuses a full reverse (-2147483648); an instance
        that is reshaped keeps the begins and ends of its first shape.
    """

    operands = (
        X,
        Operand("begins", types=INTEGERS, doc="overrides `begins`", optional=True, replaces=("begins",)),
        Operand("ends", types=INTEGERS, doc="overrides `ends`", optional=True, replaces=("ends",)),
        Operand("axes", doc="the parameter decides", optional=True, ignored=True),
        Operand("steps", doc="the parameter decides", optional=True, ignored=True),
    )
    results = (Operand("y", like="x", doc="axes that are not named stay whole"),)
    made_from = ("Slice(x, begins, ends, axes?, steps?)",)

    begins: tuple[int, ...] = counted("first index")
    ends: tuple[int, ...] = counted("index behind the last")
    axes: tuple[int, ...] = counted("axes; negative from the end")
    strides: tuple[int, ...] = counted("steps")

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Axes in rising order and begins inside of the dims, as TNN needs them; or computed begins and ends."""
        x, begins, ends = m["x"], m["begins"], m["ends"]
        given, stepped = m.get("axes"), m.get("steps")
        axes = list(range(begins.dims[0] or 0)) if given is None else [x.axis(axis) for axis in given.numbers()]
        steps = [1] * len(axes) if stepped is None else stepped.numbers()
        order = sorted(range(len(axes)), key=axes.__getitem__)
        sorted_axes, sorted_steps = tuple(axes[k] for k in order), tuple(steps[k] for k in order)
        if begins.constant and ends.constant:
            starts = [begins.numbers()[k] for k in order]
            stops = [ends.numbers()[k] for k in order]
            starts = [_inside(start, x.known[axis]) for start, axis in zip(starts, sorted_axes, strict=True)]
            return cls.made(m, x, begins=tuple(starts), ends=tuple(stops), axes=sorted_axes, strides=sorted_steps)
        if order != sorted(order):
            raise UnsupportedLayer("computed begins need rising axes", found=axes)
        unknown = (0,) * len(axes)
        return cls.made(m, x, begins, ends, begins=unknown, ends=unknown, axes=sorted_axes, strides=sorted_steps)

    def with_free_batch(self, inputs: Sequence[Value | None], batch: int) -> Layer | None:
        """As :class:`StridedSlice`, where axis 0 is named; an end of 2147483647 is the end."""
        x, begin, end, *_ = (*inputs, None, None)
        if x is None or x.dims[:1] != (batch,) or any(v is not None and not v.constant for v in (begin, end)):
            return None
        places = [k for k, axis in enumerate(self.axes) if axis in (0, -x.rank)]
        begins = self.begins if begin is None else numbers(begin)
        ends = self.ends if end is None else numbers(end)
        if len(places) != 1 or not len(begins) == len(ends) == len(self.axes) == len(self.strides):
            return None
        (place,) = places
        if (begins[place], self.strides[place]) != (0, 1) or not batch <= ends[place] < INT32_MAX:
            return None
        whole = (*ends[:place], INT32_MAX, *ends[place + 1 :])
        return dataclasses.replace(self, inputs=self.inputs[:1], begins=begins, ends=whole)

    def to_onnx(self, g: Builder, x: Value, begins: Value | None = None, ends: Value | None = None) -> Value:
        """See the class. Raises ShapeError for lists of different lengths, an axis named twice, or a step of 0."""
        axes = [x.axis(axis) for axis in self.axes]
        starts = self._bound(g, "begins", self.begins, begins)
        stops = self._bound(g, "ends", self.ends, ends)
        if len(self.strides) != len(axes) or len(set(axes)) < len(axes) or 0 in self.strides:
            raise ShapeError(
                "axes and strides do not fit",
                expected="different axes and as many strides, none of them 0",
                found=f"axes {list(self.axes)}, strides {list(self.strides)}",
            )
        return g.op("Slice", x, starts, stops, g.ints(*axes), g.ints(*self.strides)) if axes else x

    def _bound(self, g: Builder, what: str, literal: Sequence[int], given: Value | None) -> Value:
        bound = g.ints(*map(_unbounded, literal)) if given is None else shape_operand(g, given)
        if bound.dim(0) != len(self.axes):
            raise ShapeError(f"number of {what} differs from the axes", expected=len(self.axes), found=bound.dim(0))
        return bound


def _inside(begin: int, size: int | None) -> int:
    """A begin limited to the dim, where that is known: TNN does not limit it."""
    return begin if size is None else min(max(begin, -size), size)


def _unbounded(index: int) -> int:
    """TNN's marks for "to the end" and "before the front", as ONNX has them."""
    return {INT32_MAX: TO_THE_END, INT32_MIN: BEFORE_THE_FRONT}.get(index, index)
