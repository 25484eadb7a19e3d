"""Layers that make or read shapes: dims and counts of a tensor, tensors made from dims, broadcasting to dims.

Shape arithmetic runs on int64 in ONNX and on int32 in TNN: results are cast to int32 where a blob begins, and
:func:`shape_operand` takes the cast away again where the blob is used as dims.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import groupby

import numpy as np
from typing_extensions import Self

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.errors import ShapeError, WeightsError
from tnn_serving.layers.base import Layer
from tnn_serving.layers.operands import INT32, INTEGERS, NUMBERS, Operand, X
from tnn_serving.layers.parameters import counted, rest
from tnn_serving.layers.pattern import Match
from tnn_serving.layers.registry import layer
from tnn_serving.layers.weights import buffer, kept
from tnn_serving.tensor import Tensor


def shape_operand(g: Builder, x: Value) -> Value:
    """A blob of dims, begins or counts as int64 [n], as ONNX's shape operands want it.

    Its length decides the rank of something else, and is therefore fixed.
    """
    wide = g.cast(x, np.int64)
    flat = wide if wide.rank == 1 else g.reshape(wide, -1)
    if not flat.constant:
        g.fix(flat, 0)
    return flat


def numbers(x: Value) -> tuple[int, ...]:
    """The elements of a constant of dims, indices or counts. Raises ShapeError if ``x`` is not constant."""
    return tuple(int(number) for number in x.fixed().reshape(-1))


def joined(g: Builder, pieces: Sequence[int | Value]) -> Value:
    """Dims put together from numbers and from int64 [n] values, as one int64 operand."""
    flat: list[int | Value] = []
    for piece in pieces:
        flat += [piece] if isinstance(piece, int) or not piece.constant else numbers(piece)
    parts: list[Value] = []
    for literal, run in groupby(flat, key=lambda piece: isinstance(piece, int)):
        if literal:
            parts.append(g.ints(*(piece for piece in run if isinstance(piece, int))))
        else:
            parts += [piece for piece in run if not isinstance(piece, int)]
    if len(parts) < 2:
        return parts[0] if parts else g.ints()
    return g.op("Concat", *parts, axis=0)


@layer(72, "Shape")
class Shape(Layer):
    """Dims of the input.

    ONNX: Shape, Cast.
    """

    operands = (X,)
    results = (Operand("y", "[rank]", INT32),)
    reads_dims_only = True
    made_from = ("Shape(x)",)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Of all dims."""
        return None if "start" in m.root.attributes or "end" in m.root.attributes else cls.made(m, m["x"])

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return g.cast(g.shape(x), np.int32)


@layer(312, "Size")
class Size(Layer):
    """Number of elements of the input.

    ONNX: Size, Reshape, Cast.
    """

    operands = (X,)
    results = (Operand("y", "[1]", INT32),)
    reads_dims_only = True
    made_from = ("Reshape(Size(x), 1)",)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """As one dim: TNN has no scalar."""
        return cls.made(m, m["x"]) if m.y.dims == (1,) else None

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return g.cast(g.reshape(g.op("Size", x), 1), np.int32)


@layer(308, "ConstantOfShape")
class ConstantOfShape(Layer):
    """A tensor of computed dims whose elements are all the stored value.

    ONNX: Expand of the value, which equals ConstantOfShape.
    TNN differs: takes only shapes that it can compute at load, and crashes if no Shape layer is in the network.
    """

    operands = (Operand("shape", types=INTEGERS),)
    results = (Operand("y", doc="the dims of `shape`, type of the value"),)
    made_from = ("ConstantOfShape(shape)",)

    value: Tensor | None = buffer("[1]; its type is the output's")

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """See the base class."""
        value = m.attribute("value")
        return cls.made(m, m["shape"], value=kept(np.zeros(1, np.float32) if value is None else value.reshape(-1)))

    def to_onnx(self, g: Builder, shape: Value) -> Value:
        """See the class. Raises WeightsError unless exactly one value is stored."""
        value = self.need("value")
        if value.size != 1:
            raise WeightsError("the value must be one element", expected="1 value", found=f"{value.size} values")
        return g.op("Expand", g.const(value, dims=()), shape_operand(g, shape))


@layer(311, "Range")
class Range(Layer):
    """Numbers from a start, by a step, up to a limit that is not reached.

    ONNX: Range, its limit never before the start.
    TNN differs: int32 lengths are one short where delta does not divide the span; it runs only where the three can be
        computed at load and a Shape layer is in the network.
    """

    operands = (
        Operand("start", "[] or [1]", NUMBERS),
        Operand("limit", "[] or [1]", like="start"),
        Operand("delta", "[] or [1]", like="start"),
    )
    results = (Operand("y", "[n]", like="start", doc="n = max(ceil((limit - start) / delta), 0)"),)
    counts_inputs = True
    made_from = ("Range(start, limit, delta)",)

    def to_onnx(self, g: Builder, start: Value, limit: Value, delta: Value) -> Value:
        """See the class. Raises ShapeError for a step of 0."""
        if delta.constant and not np.all(delta.fixed()):
            raise ShapeError("the step of a range must not be 0", found=delta.fixed())
        if not delta.constant and delta.dtype.kind == "i":
            # OpenVINO divides by it, which ends the process where it is 0.
            zero, one = (g.const(np.array(number, delta.dtype)) for number in (0, 1))
            delta = g.op("Where", g.op("Equal", delta, zero), one, delta)
        start, limit, delta = (x if x.rank == 0 else g.reshape(x) for x in (start, limit, delta))
        # OpenVINO counts steps away from the limit as well, where there are none.
        rising = g.op("Greater", delta, g.const(np.array(0, delta.dtype)))
        limit = g.op("Where", rising, g.op("Max", limit, start), g.op("Min", limit, start))
        return g.op("Range", start, limit, delta)


@layer(304, "Expand")
class Expand(Layer):
    """Broadcasts to a shape: a dim of 1 in either list takes the other's size.

    ONNX: Expand; -1 becomes 1.
    TNN differs: ignores the second input if no Shape layer is in the network; keeps the dim of the longer list where
        the two do not fit, which is refused here.
    """

    operands = (
        X,
        Operand("shape", types=INTEGERS, doc="overrides `shape`", optional=True, replaces=("shape",)),
    )
    results = (Operand("y", like="x", doc="x broadcast with the shape; -1 in the shape keeps the dim of x"),)
    made_from = ("Expand(x, shape)",)

    shape: tuple[int, ...] = counted("target dims, aligned right", default=(), missing=0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """To a stored shape, or to one that the network computes."""
        x, shape = m["x"], m["shape"]
        return cls.made(m, x, shape=tuple(shape.numbers())) if shape.constant else cls.made(m, x, shape)

    def with_free_batch(self, inputs: Sequence[Value | None], batch: int) -> Layer | None:
        """A literal first dim that the input already has is kept instead."""
        x, shape, *_ = (*inputs, None)
        if x is None or not x.rank or (shape is not None and not shape.constant):
            return None
        entries = self.shape if shape is None else numbers(shape)
        if len(entries) != x.rank or entries[0] != batch or x.dims[0] != batch:
            return None
        return dataclasses.replace(self, inputs=self.inputs[:1], shape=(-1, *entries[1:]))

    def to_onnx(self, g: Builder, x: Value, shape: Value | None = None) -> Value:
        """See the class. Raises ShapeError for dims that cannot be broadcast."""
        if shape is None or shape.constant:
            wanted = self.shape if shape is None else numbers(shape)
            return g.op("Expand", x, g.ints(*(1 if dim == -1 else dim for dim in wanted))) if wanted else x
        dims = shape_operand(g, shape)
        kept = g.op("Where", g.op("Less", dims, g.ints(0)), g.ints(1), dims)
        return g.op("Expand", x, kept)


@layer(148, "Tile", "Repeat")
class Tile(Layer):
    """Repeats the input along its axes.

    ONNX: Tile; Unsqueeze, Expand and Reshape where more than one axis is repeated, or as often as an input says.
    """

    operands = (
        X,
        Operand("reps", types=INTEGERS, doc="overrides `reps`", optional=True, replaces=("reps",)),
    )
    results = (Operand("y", like="x", doc="dim * rep on each axis, both lists aligned right and filled with 1"),)
    made_from = ("Tile(x, reps)",)

    reps: tuple[int, ...] = rest("repeats, aligned right with the dims")

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """By stored numbers, or by those that the network computes."""
        x, reps = m["x"], m["reps"]
        return cls.made(m, x, reps=tuple(reps.numbers())) if reps.constant else cls.made(m, x, reps)

    def to_onnx(self, g: Builder, x: Value, reps: Value | None = None) -> Value:
        """See the class. Raises ShapeError for a negative repeat."""
        if reps is None or reps.constant:
            given = self.reps if reps is None else numbers(reps)
            if any(rep < 0 for rep in given):
                raise ShapeError("repeats must not be negative", found=list(given))
            pieces: list[int | Value] = [*given]
        else:
            operand = shape_operand(g, reps)
            pieces = [g.op("Gather", operand, g.ints(k), axis=0) for k in range(operand.dim(0))]
        if not pieces:
            return x
        if len(pieces) > x.rank:
            x = g.op("Unsqueeze", x, g.ints(*range(len(pieces) - x.rank)))
        pieces = [*[1] * (x.rank - len(pieces)), *pieces]
        if all(isinstance(rep, int) for rep in pieces) and (0 in pieces or sum(rep != 1 for rep in pieces) < 2):
            return g.op("Tile", x, joined(g, pieces))
        return _repeated(g, x, pieces)


def _repeated(g: Builder, x: Value, reps: Sequence[int | Value]) -> Value:
    """``x`` with each axis repeated, by an axis in front of it that is expanded: OpenVINO's Tile mixes up elements."""
    places: list[int] = []
    wide: list[int | Value] = []
    dims: list[int | Value] = []
    for axis, rep in enumerate(reps):
        known = x.known[axis]
        if rep != 1:
            places.append(len(wide))
            wide.append(rep)
        wide.append(1)
        if isinstance(rep, int) and known is not None:
            dims.append(rep * known)
        else:
            dims.append(g.op("Mul", g.size(x, axis), g.ints(rep) if isinstance(rep, int) else rep))
    spread = g.op("Unsqueeze", x, g.ints(*places))
    return g.op("Reshape", g.op("Expand", spread, joined(g, wide)), joined(g, dims))
