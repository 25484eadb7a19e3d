"""Layers that give the same elements other dims, or the same dims in another order."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from typing_extensions import Self

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.emit.int8 import Codes, Int8, Operands, Scale
from tnn_serving.emit.limits import MAX_RANK
from tnn_serving.errors import ShapeError, UnsupportedLayer
from tnn_serving.layers.base import Layer
from tnn_serving.layers.operands import INTEGERS, Operand, X
from tnn_serving.layers.parameters import counted, token
from tnn_serving.layers.pattern import Match
from tnn_serving.layers.registry import layer
from tnn_serving.layers.shape import joined, numbers, shape_operand

NCHW_ORDER, NHWC_ORDER = 0, 1
ORDERS = {NCHW_ORDER: "NCHW, as in memory", NHWC_ORDER: "NHWC, as in TensorFlow"}


def channels_last(rank: int) -> list[int]:
    """The permutation that moves axis 1 to the end."""
    return [0, *range(2, rank), 1] if rank > 2 else list(range(rank))


def channels_first(rank: int) -> list[int]:
    """The permutation that moves the last axis to axis 1: undoes :func:`channels_last`."""
    return [0, rank - 1, *range(1, rank - 1)] if rank > 2 else list(range(rank))


@layer(9, "Reshape", "QuantizedReshape", "QuantizedReshapeTensorflow")
class Reshape(Layer):
    """The same elements in another shape.

    Dims of y: those of x before ``axis``, then the entries of the shape, then 1 for each entry that ``num_axes`` leaves
    out. An entry of -1 is inferred, 0 copies the dim of x at the same position of y.

    ONNX: Reshape; for NHWC order between two Transpose.
    TNN differs: does not compare the numbers of elements where no entry is -1.
    """

    operands = (
        X,
        Operand(
            "shape",
            types=INTEGERS,
            doc="overrides `shape` and `num_axes`",
            optional=True,
            replaces=("shape", "num_axes"),
        ),
    )
    results = (Operand("y", like="x"),)
    made_from = ("Reshape(x, shape)",)

    axis: int = token("leading dims of x that are kept", default=0, ge=0)
    num_axes: int = token("how many entries of the shape count; -1 for all", default=0, ge=-1)
    shape: tuple[int, ...] = counted("entries: a size, -1 to infer it, 0 to copy it", missing=0)
    reshape_type: int = token("order in which the elements are taken", default=NCHW_ORDER, values=ORDERS)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """To a stored shape, or to one that the network computes."""
        x, wanted = m["x"], m["shape"]
        if not wanted.constant:
            return cls.made(m, x, wanted, num_axes=0, shape=())
        entries = wanted.numbers()
        if not entries or (m.attribute("allowzero", 0) and 0 in entries):
            return None
        return cls.made(m, x, num_axes=len(entries), shape=tuple(entries))

    def with_free_batch(self, inputs: Sequence[Value | None], batch: int) -> Layer | None:
        """[1, C, -1] copies the first dim instead; [1, T, C] of [T, C] infers it."""
        x, shape, *_ = (*inputs, None)
        if x is None or self.axis or not x.rank or (shape is not None and not shape.constant):
            return None
        entries = self._entries(shape)
        if not entries or entries[0] != batch:
            return None
        rest = [x.dims[k] if entry == 0 and k < x.rank else entry for k, entry in enumerate(entries)][1:]
        if x.dims[0] == batch:
            first = 0
        elif -1 not in rest and batch * math.prod(n or 0 for n in rest) == math.prod(n or 0 for n in x.dims):
            first = -1
        else:
            return None
        return dataclasses.replace(self, inputs=self.inputs[:1], num_axes=-1, shape=(first, *entries[1:]))

    def to_onnx(self, g: Builder, x: Value, shape: Value | None = None) -> Value:
        """See the class. Raises ShapeError for a shape that the elements do not fit."""
        target = self._target(g, x, shape)
        if self.reshape_type == NHWC_ORDER:
            return self._channels_last(g, x, target)
        if self.reshape_type != NCHW_ORDER:
            raise UnsupportedLayer("reshape type is unknown", expected=ORDERS, found=self.reshape_type)
        return g.op("Reshape", x, joined(g, target))

    def _entries(self, shape: Value | None) -> tuple[int, ...]:
        """The entries of the shape that count, from a constant or the parameters."""
        if shape is not None:
            return numbers(shape)
        count = len(self.shape) if self.num_axes == -1 else min(max(self.num_axes, 0), len(self.shape))
        return (*self.shape[:count], *(1,) * (len(self.shape) - count))

    def _target(self, g: Builder, x: Value, shape: Value | None) -> list[int | Value]:
        """The dims of y: numbers, and at most one run that is known at run time."""
        if not 0 <= self.axis <= x.rank:
            raise ShapeError("axis is out of range", expected=f"0 to {x.rank}", found=self.axis)
        kept = [0] * self.axis
        if shape is not None and not shape.constant:
            return [*kept, shape_operand(g, shape)]
        if shape is None and not self.shape:
            raise ShapeError("no shape is given", expected="a parameter or a second input")
        entries = self._entries(shape)
        target = [*kept, *entries]
        if any(entry < -1 for entry in entries) or entries.count(-1) > 1:
            raise ShapeError("shape is invalid", expected="sizes, 0, and -1 at most once", found=list(entries))
        if any(entry == 0 for entry in target[x.rank :]):
            raise ShapeError(
                "shape copies a dim that the input does not have",
                expected=f"0 in the first {x.rank} places",
                found=target,
            )
        return [*target]

    @staticmethod
    def _channels_last(g: Builder, x: Value, target: list[int | Value]) -> Value:
        """Takes the elements in NHWC order. Dims stay in NCHW order outside; a 0 copies by NCHW position."""
        dims: list[int | Value] = []
        for piece in target:
            if isinstance(piece, int):
                dims.append(piece)
            else:
                dims += [g.op("Gather", piece, g.ints(k), axis=0) for k in range(piece.dim(0))]
        if x.rank > 4 or len(dims) > 4:
            raise UnsupportedLayer("NHWC order is for up to 4 dims", found=f"{x.rank} to {len(dims)} dims")
        if x.rank != len(dims) and len(dims) > 1:
            # The channels have different places in the two NHWC shapes, so that ONNX would copy another dim.
            channels = dims[1]
            if isinstance(channels, int):
                dims[1] = channels or g.size(x, 1)
            elif x.rank > 1:
                dims[1] = g.op("Where", g.op("Equal", channels, g.ints(0)), g.size(x, 1), channels)
        if x.rank > 2:
            x = g.op("Transpose", x, perm=channels_last(x.rank))
        y = g.op("Reshape", x, joined(g, [dims[k] for k in channels_last(len(dims))]))
        return g.op("Transpose", y, perm=channels_first(len(dims))) if len(dims) > 2 else y

    def to_onnx_int8(self, a: Int8, inputs: Operands, out: Scale) -> Codes:
        """Moves the codes."""
        return Codes(self.to_onnx(a.g, inputs.codes[0].value, *inputs.others), out)


@layer(10, "Flatten", "Flatten_nhwc")
class Flatten(Layer):
    """Two dims: the product of those before an axis, and of the rest.

    ONNX: Flatten.
    """

    operands = (X,)
    results = (Operand("y", "[d0 * ... * d(axis-1), d(axis) * ... * dn]", like="x"),)
    made_from = ("Flatten(x)",)

    axis: int = token("first dim of the second group", ge=0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """See the base class."""
        return cls.made(m, m["x"], axis=m["x"].axis(m.attribute("axis", 1)))

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class. Raises ShapeError for an axis outside 0 to rank."""
        if not 0 <= self.axis <= x.rank:
            raise ShapeError("axis is out of range", expected=f"0 to {x.rank}", found=self.axis)
        return g.op("Flatten", x, axis=self.axis)


@layer(118, "Squeeze")
class Squeeze(Layer):
    """Removes axes of size 1.

    ONNX: Squeeze.
    TNN differs: removes the axes from the last to the first, and counts a negative one in the rank left at that
        moment; this is followed here.
    """

    operands = (X,)
    results = (Operand("y", like="x", doc="dims of x without the axes; no axes: the same dims"),)
    made_from = ("Squeeze(x, axes?)",)

    axes: tuple[int, ...] = counted("axes to remove", default=(), missing=0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Axes counted from the front, in rising order."""
        x, axes = m["x"], m.root.axes()
        if axes is None:
            axes = [axis for axis, size in enumerate(x.dims) if size == 1]
        return cls.made(m, x, axes=tuple(sorted(map(x.axis, axes))))

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class. Raises ShapeError for an axis that is not there or not of size 1."""
        left = list(range(x.rank))
        removed = []
        for axis in reversed(self.axes):
            if not -len(left) <= axis < len(left):
                raise ShapeError("axis is out of range", expected=f"{-len(left)} to {len(left) - 1}", found=axis)
            removed.append(left.pop(axis))
        return g.op("Squeeze", x, g.ints(*sorted(removed))) if removed else x


@layer(164, "Unsqueeze")
class Unsqueeze(Layer):
    """Inserts axes of size 1.

    ONNX: Unsqueeze.
    TNN differs: inserts one by one in the order of the list, and counts a negative axis in the rank reached so far;
        this is followed here.
    """

    operands = (X,)
    results = (Operand("y", like="x", doc="dims of x with ones at the axes; no axes: the same dims"),)
    made_from = ("Unsqueeze(x, axes?)",)

    axes: tuple[int, ...] = counted("places of the new axes", default=(), missing=0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Axes counted from the front, in rising order."""
        return cls.made(m, m["x"], axes=tuple(sorted(map(m.y.axis, m.root.axes() or ()))))

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class. Raises ShapeError for a place outside the rank."""
        if x.rank + len(self.axes) > MAX_RANK:
            raise ShapeError("too many axes", expected=f"{MAX_RANK} dims at most", found=x.rank + len(self.axes))
        is_new = [False] * x.rank
        for axis in self.axes:
            reach = len(is_new)
            if not -reach - 1 <= axis <= reach:
                raise ShapeError("axis is out of range", expected=f"{-reach - 1} to {reach}", found=axis)
            is_new.insert(axis if axis >= 0 else axis + reach + 1, True)
        places = [place for place, new in enumerate(is_new) if new]
        return g.op("Unsqueeze", x, g.ints(*places)) if places else x


@layer(32, "Permute", "QuantizedPermute")
class Permute(Layer):
    """Axes in another order.

    ONNX: Transpose. Axes that the list leaves out follow behind it in rising order.
    """

    operands = (X,)
    results = (Operand("y", like="x", doc="dim i is dim `orders[i]` of x"),)
    made_from = ("Transpose(x)", "Identity(x)")

    orders: tuple[int, ...] = counted("axis of x for each axis of y")

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """An Identity keeps the order: TNN has no other layer that gives the elements of any type another name."""
        order = range(m["x"].rank)
        if m.has("Identity"):
            return cls.made(m, m["x"], orders=tuple(order))
        return cls.made(m, m["x"], orders=tuple(m.attribute("perm") or reversed(order)))

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class. Raises ShapeError if the list is no order of the axes."""
        if len(set(self.orders)) < len(self.orders) or not set(self.orders) <= set(range(x.rank)):
            raise ShapeError("orders must be different axes", expected=f"0 to {x.rank - 1}", found=list(self.orders))
        return g.op("Transpose", x, perm=[*self.orders, *(k for k in range(x.rank) if k not in self.orders)])

    def to_onnx_int8(self, a: Int8, inputs: Operands, out: Scale) -> Codes:
        """Moves the codes."""
        return Codes(self.to_onnx(a.g, inputs.codes[0].value, *inputs.others), out)
