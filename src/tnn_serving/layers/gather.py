"""Layers that read or write elements at computed places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from typing_extensions import Self

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.emit.inference import Dims
from tnn_serving.errors import ShapeError, UnsupportedLayer, WeightsError
from tnn_serving.layers.base import FURTHER, Layer
from tnn_serving.layers.operands import INTEGERS, Operand
from tnn_serving.layers.parameters import CBool, token
from tnn_serving.layers.pattern import Match
from tnn_serving.layers.registry import family, layer
from tnn_serving.layers.weights import buffer, flag, int8_scale, kept
from tnn_serving.tensor import Tensor


def as_indices(g: Builder, x: Value) -> Value:
    """Indices as int64."""
    return g.cast(x, np.int64)


def with_fixed_depth(g: Builder, indices: Value) -> Value:
    """Index tuples [..., k] whose k is written into the graph: it decides ranks, and OpenVINO wants to know it."""
    if indices.rank < 1:
        raise ShapeError("index tuples need at least one dim", found=list(indices.dims))
    if indices.constant:
        return indices
    depth = g.fix(indices, -1)
    return indices if indices.known[-1] is not None else g.reshape(indices, *(0,) * (indices.rank - 1), depth)


def check_inside(tuples: Value, sizes: Dims) -> None:
    """Raises ShapeError if constant index tuples [..., k] are outside of k sizes; negative ones count from the end."""
    limits = np.array(sizes, np.int64)
    if np.any(tuples.fixed() < -limits) or np.any(tuples.fixed() >= limits):
        raise ShapeError("indices are outside the data", expected=f"below {limits.tolist()}")


def check_places(data: Value, updates: Value) -> None:
    """Raises ShapeError if there are updates and no element of the data to write them to."""
    if 0 in data.dims and 0 not in updates.dims:
        raise ShapeError("there are no elements to update", found=f"updates {list(updates.dims)} of {list(data.dims)}")


@layer(104, "Gather", "DynamicRangeQuantizedGather")
class Gather(Layer):
    """Slices of an axis by index.

    Negative indices count from the end. Stored indices without dims are one index, which removes the axis.

    ONNX: Gather.
    """

    operands = (
        Operand("data", doc="unless it is stored", optional=True),
        Operand("indices", doc="int32; unless they are stored", optional=True),
    )
    results = (
        Operand("y", like="data", doc="dims of data before the axis, dims of indices, dims of data behind the axis"),
    )
    made_from = ("Gather(data, indices)",)

    axis: int = token("axis of data; negative from the end", default=0)
    data_in_resource: CBool = token("1 if data is stored", default=CBool(0))
    indices_in_resource: CBool = token("1 if indices are stored", default=CBool(1))

    has_data: int | None = flag("1 if data follows", parameter="data_in_resource")
    data: Tensor | None = buffer("[d0, ...]", when="has_data")
    has_indices: int | None = flag("1 if indices follow", parameter="indices_in_resource")
    indices: Tensor | None = buffer("[...] int32", when="has_indices")
    scale: Tensor | None = int8_scale("data", "[d0], one for each row of int8 data")

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Constants are stored in the layer."""
        data, indices = m["data"], m["indices"]
        operands = [value for value in (data, indices) if not value.constant]
        return cls.made(
            m,
            *operands,
            axis=data.axis(m.attribute("axis", 0)),
            data_in_resource=CBool(int(data.constant)),
            indices_in_resource=CBool(int(indices.constant)),
            data=kept(data.fixed()) if data.constant else None,
            indices=kept(indices.fixed()) if indices.constant else None,
        )

    def roles(self) -> tuple[Operand, ...]:
        """Data is the first input, indices are the last one, where they are not stored."""
        data, indices = self.operands
        front = () if self.data_in_resource else (data,)
        back = () if self.indices_in_resource else (indices,)
        wanted, found = len(front) + len(back), len(self.inputs)
        if found < wanted:
            raise ShapeError("operands are missing", expected=f"{wanted} inputs", found=found)
        return (*front, *[FURTHER] * (found - wanted), *back)

    def to_onnx(self, g: Builder, *inputs: Value) -> Value:
        """See the class."""
        data = self._stored_data(g) if self.data_in_resource else inputs[0]
        indices = self._stored_indices(g) if self.indices_in_resource else inputs[-1]
        if indices.dtype not in (np.int32, np.int64):
            indices = g.cast(indices, np.int32)
        return g.op("Gather", data, indices, axis=data.axis(self.axis))

    def _stored_data(self, g: Builder) -> Value:
        data = self.need("data")
        if not self.dynamic_range or self.scale is None:
            return g.const(data)
        codes, scale = data.shaped(), self.scale.array()
        if not codes.shape or scale.size != codes.shape[0]:
            raise WeightsError(
                "scale does not fit the rows",
                expected=f"{codes.shape[0] if codes.shape else 1} values",
                found=scale.size,
            )
        return g.const(codes.astype(np.float32) * scale.reshape(-1, *(1,) * (codes.ndim - 1)))

    def _stored_indices(self, g: Builder) -> Value:
        indices = self.need("indices")
        return g.const(indices, dims=() if not indices.shape and indices.size == 1 else None)


@layer(315, "GatherND")
class GatherND(Layer):
    """Elements or slices by index tuples.

    ONNX: GatherND.
    TNN differs: right only for one slice, or for tuples as long as the rank; the meaning here is ONNX's. Indices beyond
        the data read foreign memory in TNN; they are refused here.
    """

    operands = (Operand("data", "[d0, ...]"), Operand("indices", "[..., k]", INTEGERS, doc="k up to the rank"))
    results = (Operand("y", like="data", doc="dims of indices but the last, dims of data from k on"),)
    counts_inputs = True
    made_from = ("GatherND(data, indices)",)

    batch_dims: int = token("must be 0", default=0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Without batch dims."""
        return None if m.attribute("batch_dims", 0) else cls.made(m, m["data"], m["indices"])

    def to_onnx(self, g: Builder, data: Value, indices: Value) -> Value:
        """See the class. Raises UnsupportedLayer for batch dims, ShapeError for tuples longer than the rank."""
        if self.batch_dims:
            raise UnsupportedLayer("batch dims are not supported", expected=0, found=self.batch_dims)
        tuples = with_fixed_depth(g, as_indices(g, indices))
        if not 1 <= tuples.dim(-1) <= data.rank:
            raise ShapeError(
                "index tuples do not fit the data", expected=f"1 to {data.rank} long", found=tuples.dim(-1)
            )
        if tuples.constant and None not in data.known[: tuples.dim(-1)]:
            check_inside(tuples, data.known[: tuples.dim(-1)])
        return g.op("GatherND", data, tuples)


@family
class Scattering(Layer):
    """Writes updates into a copy of the data, at indices that may be stored."""

    operands = (
        Operand("data"),
        Operand("indices", types=INTEGERS, doc="unless they are stored", optional=True),
        Operand("updates", like="data"),
    )
    results = (Operand("y", "as data", like="data"),)

    has_indices: int | None = flag("1 if indices follow", byte=True)
    indices: Tensor | None = buffer(
        "int32: [...] of Scatter, [..., k] of ScatterND", when="has_indices", needs_dims=True
    )
    has_updates: int | None = flag("1 if updates follow", byte=True)
    updates: Tensor | None = buffer("ignored by TNN", when="has_updates", needs_dims=True)

    def given(self, g: Builder, inputs: Sequence[Value]) -> tuple[Value, Value, Value]:
        """Data, int64 indices and updates. Raises WeightsError if the indices are neither given nor stored."""
        data, *given, updates = inputs
        indices = given[0] if given else g.const(self.need("indices"))
        return data, as_indices(g, indices), updates

    def roles(self) -> tuple[Operand, ...]:
        """With two inputs these are data and updates."""
        data, _, updates = self.operands
        return (data, updates) if len(self.inputs) == 2 else super().roles()


@layer(336, "Scatter")
class Scatter(Scattering):
    """Elements written along an axis; the last one wins where indices are equal.

    y is data with y[.., indices[i], ..] = updates[i]; negative indices count from the end.

    ONNX: ScatterElements.
    """

    axis: int = token("axis; negative from the end", default=0)

    def to_onnx(self, g: Builder, *inputs: Value) -> Value:
        """See the class. Raises ShapeError if indices and updates have different dims."""
        data, indices, updates = self.given(g, inputs)
        return scattered(g, data, indices, updates, axis=self.axis, reduction="none")


def scattered(g: Builder, data: Value, indices: Value, updates: Value, *, axis: int, reduction: str) -> Value:
    """ONNX ``ScatterElements``. Raises ShapeError if the operands' dims do not fit."""
    if indices.rank != updates.rank or any(
        None not in pair and pair[0] != pair[1] for pair in zip(indices.dims, updates.dims, strict=True)
    ):
        raise ShapeError("indices and updates differ", expected=list(indices.dims), found=list(updates.dims))
    place = data.axis(axis)
    if indices.rank != data.rank or any(
        k != place and have is not None and want is not None and want > have
        for k, (have, want) in enumerate(zip(data.dims, indices.dims, strict=True))
    ):
        raise ShapeError("indices do not fit the data", expected=f"at most {list(data.dims)}", found=list(indices.dims))
    check_places(data, updates)
    return g.op("ScatterElements", data, indices, updates, axis=place, reduction=reduction)


@layer(331, "ScatterElements")
class ScatterElements(Layer):
    """Elements written or added along an axis.

    y is data with y[.., indices[i], ..] set to, or increased by, updates[i]; negative indices count from the end.

    ONNX: ScatterElements.
    TNN differs: a negative axis is undefined; it counts from the end here.
    """

    operands = (
        Operand("data"),
        Operand("indices", types=INTEGERS),
        Operand("updates", "as indices", like="data"),
    )
    results = (Operand("y", "as data", like="data"),)
    made_from = ("ScatterElements(data, indices, updates)",)

    axis: int = token("axis; negative from the end", default=0)
    op: int = token("0 sets, anything else adds", default=0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Set or added."""
        data, reduction = m["data"], m.attribute("reduction", "none")
        if reduction not in ("none", "add"):
            raise UnsupportedLayer("TNN sets elements or adds to them", found=f"reduction {reduction}")
        axis = data.axis(m.attribute("axis", 0))
        return cls.made(m, data, m["indices"], m["updates"], axis=axis, op=int(reduction == "add"))

    def to_onnx(self, g: Builder, data: Value, indices: Value, updates: Value) -> Value:
        """See the class. Raises ShapeError if indices and updates have different dims."""
        reduction = "add" if self.op else "none"
        return scattered(g, data, as_indices(g, indices), updates, axis=self.axis, reduction=reduction)


@layer(305, "ScatterND")
class ScatterND(Scattering):
    """Elements or slices written at index tuples; the last one wins where tuples are equal.

    y is data [d0, ..., dr] with y[indices[i]] = updates[i]; indices [..., k], updates [dims of indices but the last,
    dims of data from k on].

    ONNX: ScatterND.
    """

    made_from = ("ScatterND(data, indices, updates)",)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Set, not added."""
        reduction = m.attribute("reduction", "none")
        if reduction != "none":
            raise UnsupportedLayer("TNN sets slices only", found=f"reduction {reduction}")
        return cls.made(m, m["data"], m["indices"], m["updates"])

    def to_onnx(self, g: Builder, *inputs: Value) -> Value:
        """See the class. Raises ShapeError if the dims of the three do not fit, or stored indices the data."""
        data, indices, updates = self.given(g, inputs)
        tuples = with_fixed_depth(g, indices)
        depth = tuples.dim(-1)
        if not 1 <= depth <= data.rank:
            raise ShapeError("index tuples do not fit the data", expected=f"1 to {data.rank} long", found=depth)
        want = (*tuples.dims[:-1], *data.dims[depth:])
        if len(want) != updates.rank or any(
            None not in pair and pair[0] != pair[1] for pair in zip(want, updates.dims, strict=True)
        ):
            raise ShapeError("updates do not fit", expected=list(want), found=list(updates.dims))
        check_places(data, updates)
        if tuples.constant and None not in data.dims[:depth]:
            check_inside(tuples, data.dims[:depth])
        return g.op("ScatterND", data, tuples, updates)
