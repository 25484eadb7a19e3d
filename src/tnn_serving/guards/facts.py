"""What is known of the values of an ONNX graph without running it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

from tnn_serving.formats.onnx import DTYPES, names_taken, skeleton

MOVING = {"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators whose output has the values of the first operand, all of them and no others."""

INDEX_ARITHMETIC = {
    *("Add", "Clip", "Max", "Min", "Mod", "Mul", "Neg", "Sub", "Where"),
    *("Concat", "Expand", "Gather", "Slice", "Tile"),
}
"""Operators that indices and sizes are computed with."""

WIDE_TYPES = {onnx.TensorProto.INT64, onnx.TensorProto.UINT64, onnx.TensorProto.UINT32}
"""Integers beyond int32."""

Dim = int | str | None
"""A size, the name of one, or ``None`` for one that only a run shows."""


class Source(IntEnum):
    """What decides a value."""

    STORED = 0
    SHAPES = 1
    VALUES = 2


@dataclass(frozen=True, slots=True)
class Place:
    """An axis of an input."""

    input: str
    axis: int


class GraphFacts:
    """Of the graph of a model.

    Attributes:
        live: values that outputs follow from.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._inputs = {item.name for item in graph.input} - {item.name for item in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output if name}
        self._stored = {item.name: item for item in graph.initializer}
        inferred = shape_inference.infer_shapes(skeleton(model), data_prop=True).graph
        known = (*inferred.input, *inferred.output, *inferred.value_info)
        self._types = {item.name: item for item in known}
        self._places = _places(item for item in graph.input if item.name in self._inputs)
        self.live = _live(graph)
        self._sources: dict[str, Source] = {}
        for node in graph.node:
            source = Source.SHAPES if node.op_type in ("Shape", "Size") else self._most(names_taken(node))
            self._sources.update(dict.fromkeys(node.output, source))

    def source(self, name: str) -> Source:
        """What decides a value of the graph."""
        if name in self._inputs:
            return Source.VALUES
        return self._sources.get(name, Source.STORED)

    def _most(self, names: Iterable[str]) -> Source:
        return max(map(self.source, names), default=Source.STORED)

    def value(self, name: str) -> np.ndarray | None:
        """The value of a stored tensor; ``None`` for anything else."""
        tensor = self._stored.get(name)
        if tensor is None:
            node = self._producers.get(name)
            if node is None or node.op_type != "Constant":
                return None
            item = node.attribute[0]
            if item.name != "value":
                return np.asarray(onnx.helper.get_attribute_value(item))
            tensor = item.t
        return numpy_helper.to_array(tensor)

    def dtype(self, name: str) -> np.dtype | None:
        """The element type of a value, where it is known."""
        return DTYPES.get(self.kind(name))

    def kind(self, name: str) -> int:
        """ONNX's number of the element type; 0 where it is not known."""
        if name in self._stored:
            return int(self._stored[name].data_type)
        item = self._types.get(name)
        return 0 if item is None else int(item.type.tensor_type.elem_type)

    def dims(self, name: str) -> list[Dim] | None:
        """The dims of a value, where their number is known."""
        if name in self._stored:
            return list(self._stored[name].dims)
        item = self._types.get(name)
        if item is None or not item.type.HasField("tensor_type") or not item.type.tensor_type.HasField("shape"):
            return None
        return [
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
            for dim in item.type.tensor_type.shape.dim
        ]

    def place(self, dim: Dim) -> Place | None:
        """The only axis of an input whose size has this name."""
        return self._places.get(dim) if isinstance(dim, str) else None

    def moved_input(self, name: str) -> str | None:
        """The input that has the values of this one, as integers in any shape; ``None`` if it is not one."""
        while name not in self._inputs:
            node = self._producers.get(name)
            if node is None or not node.input:
                return None
            integers = node.op_type == "Cast" and np.dtype(self.dtype(node.input[0]) or np.float32).kind in "iu"
            if not integers and node.op_type not in MOVING:
                return None
            name = node.input[0]
        return name if np.dtype(self.dtype(name) or np.float32).kind in "iu" else None

    def wide_inputs(self, name: str) -> Iterable[str]:
        """The inputs of more than 32 bits that a value is computed from, as integers."""
        for value in self._behind(name):
            if value in self._inputs and self.kind(value) in WIDE_TYPES:
                yield value

    def rounded(self, name: str) -> Iterable[onnx.NodeProto]:
        """The conversions from floating point to integers that a value is computed from."""
        for value in self._behind(name):
            node = self._producers.get(value)
            if node is not None and self._rounds(node):
                yield node

    def _rounds(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "Cast" and np.dtype(self.dtype(node.input[0]) or np.float32).kind == "f"

    def _behind(self, name: str) -> Iterable[str]:
        """A value and those that it is computed from, up to the conversions to integers."""
        waiting, seen = [name], {name}
        while waiting:
            value = waiting.pop()
            yield value
            node = self._producers.get(value)
            if node is not None and node.op_type in (*MOVING, *INDEX_ARITHMETIC, "Cast") and not self._rounds(node):
                fresh = [entry for entry in node.input if entry and entry not in seen]
                seen.update(fresh)
                waiting.extend(fresh)


def _live(graph: onnx.GraphProto) -> set[str]:
    live = {item.name for item in graph.output}
    for node in reversed(graph.node):
        if any(name in live for name in node.output):
            live |= names_taken(node)
    return live


def _places(inputs: Iterable[onnx.ValueInfoProto]) -> dict[str, Place]:
    found: dict[str, list[Place]] = {}
    for item in inputs:
        for axis, dim in enumerate(item.type.tensor_type.shape.dim):
            if dim.dim_param:
                found.setdefault(dim.dim_param, []).append(Place(item.name, axis))
    return {name: places[0] for name, places in found.items() if len(places) == 1}
