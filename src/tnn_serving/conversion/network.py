"""The walk that makes layers of nodes, from the outputs to the inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from graphlib import TopologicalSorter

import numpy as np

from tnn_serving.conversion.lowering import lowered
from tnn_serving.conversion.origin import Origin
from tnn_serving.errors import TnnError, UnsupportedLayer, located
from tnn_serving.graph import Graph, Input
from tnn_serving.layers.base import Layer
from tnn_serving.layers.pattern import Match, OnnxNode, OnnxValue, Operator, match, parsed
from tnn_serving.layers.registry import declared
from tnn_serving.layers.weights import NARROWED, kept
from tnn_serving.tensor import TNN_TYPE

NOTED = [np.dtype(kind) for kind in ("float16", "float64", "int64", "uint8", "int16", "uint16")]
"""Types that TNN does not have, and whose range or precision differ from what it computes in."""

MOST_DEPTH = 64
"""How often a node may be said in other nodes: more would be a circle."""


@dataclass(slots=True)
class Walk:
    """Layers so far, the last one first, and what they need.

    Attributes:
        places: by a layer's name, the ONNX node that it was made for.
        dims: by a blob's name, its dims in the ONNX network at the default shapes.
    """

    source: Origin
    layers: list[Layer] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    dims: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    _needed: set[str] = field(default_factory=set)
    _absorbed: set[int] = field(default_factory=set)

    def run(self) -> Graph:
        """The graph of the whole network. Raises what :func:`tnn_serving.conversion.convert` does."""
        self._needed.update(self.source.outputs)
        _prune(self.source)
        for node in reversed(self.source.nodes.copy()):
            with located(node.place):
                self._convert(node, 0)
        inputs = [
            Input(value.name, tuple(size or 0 for size in value.dims), TNN_TYPE[NARROWED.get(value.dtype, value.dtype)])
            for value in self.source.inputs
        ]
        constants = {name: kept(array) for name, array in self.constants.items()}
        return Graph(inputs, self.source.outputs, _sorted(self.layers[::-1]), constants)

    def notes(self) -> list[str]:
        """What TNN computes in another type than ONNX, and what holds at the default dims."""
        found = {v.dtype for node in self.source.nodes for v in node.outputs} | {v.dtype for v in self.source.inputs}
        types = [f"{dtype} is computed in {NARROWED[dtype]}" for dtype in sorted(found & set(NOTED), key=str)]
        return [*types, *dict.fromkeys(self.source.notes)]

    def _convert(self, node: OnnxNode, depth: int) -> None:
        """Makes the layer of a node, or of what it is said in."""
        if id(node) in self._absorbed:
            return
        if not any(value.name in self._needed for value in node.outputs):
            self.source.remove(node)
            return
        if not depth:
            _check_wrapping(node)
        reasons: list[TnnError] = []
        for cls, pattern in layers_of(node.op_type):
            found = match(pattern, node)
            if found is not None and self._take(cls, found, reasons):
                return
        self._lower(node, depth, reasons)

    def _take(self, cls: type[Layer], found: Match, reasons: list[TnnError]) -> bool:
        """Adds the layer of a pattern, unless others read what is inside of it."""
        try:
            layer = cls.from_onnx(found)
        except TnnError as error:
            reasons.append(error)
            return False
        if layer is None or not self._closed(found, layer):
            return False
        self._absorbed.update(id(node) for node in found.nodes)
        values = {value.name: value for value in (*_values(found), *found.constants)}
        for name in layer.inputs:
            value = values[name]
            if value.constant:
                self.constants[name] = value.fixed()
            else:
                self._needed.add(name)
        self.dims.update({value.name: value.dims for value in found.root.outputs if value.name in self._needed})
        self.places[layer.name] = found.root.place
        self.layers.append(layer)
        return True

    def _closed(self, found: Match, layer: Layer) -> bool:
        """Whether nothing but the layer itself reads the values inside of a pattern."""
        inside = {id(node) for node in found.nodes}
        for node in found.nodes:
            for value in node.outputs:
                if value.name in layer.outputs:
                    continue
                if value.name in self.source.outputs or any(id(reader) not in inside for reader in value.readers):
                    return False
        return True

    def _lower(self, node: OnnxNode, depth: int, reasons: list[TnnError]) -> None:
        """Says a node in others and converts these, the last one first."""
        mark = len(self.source.nodes)
        made = lowered(self.source, node) if depth < MOST_DEPTH else None
        if made is None:
            if reasons:
                raise reasons[0]
            raise UnsupportedLayer(
                f"no TNN layer computes ONNX {node.op_type}",
                hint="docs/reference/conversion.md lists what can be converted; --outputs cuts the network before it",
            )
        self.source.remove(node)
        for old, new in zip(node.outputs, made, strict=False):
            new = self._renamed(old, new, mark)
            new.readers += old.readers
        for part in reversed(self.source.nodes[mark:].copy()):
            self._convert(part, depth + 1)

    def _renamed(self, old: OnnxValue, new: OnnxValue, mark: int) -> OnnxValue:
        """The new value under the old one's name."""
        fresh = {id(value) for node in self.source.nodes[mark:] for value in node.outputs}
        if id(new) not in fresh or new.name in self._needed:
            new = self.source.add("Identity", [new], [f"{old.name}.same"], {}, self.source.opset, kept=True)[0]
        new.name = old.name
        return new


WRAPPING = frozenset(
    {"Add", "Sub", "Mul", "Div", "Neg", "Sum", "Pow", "CumSum", "CumProd", "MatMul", "ReduceSum", "ReduceProd", "Cast"}
)
"""Operators that wrap around where a result does not fit its type."""

SMALL_INTEGERS = tuple(np.dtype(kind) for kind in ("int8", "uint8", "int16", "uint16"))


def _check_wrapping(node: OnnxNode) -> None:
    """Raises UnsupportedLayer for arithmetic of whole numbers that TNN would do in more bits than ONNX does."""
    x, y = node.input(0), node.outputs[0].dtype
    if node.op_type not in WRAPPING or y not in SMALL_INTEGERS or x is None:
        return
    if node.op_type == "Cast" and (x.dtype in (y, np.bool_) or (y == np.int8 and not x.is_float)):
        return
    raise UnsupportedLayer(
        f"TNN does not compute {node.op_type} in {y}", hint="cast to int32 or float32 before, and back behind"
    )


@cache
def _by_operator() -> dict[str, list[tuple[type[Layer], Operator]]]:
    found: dict[str, list[tuple[type[Layer], Operator]]] = {}
    for cls in dict.fromkeys(declared().values()):
        for text in cls.made_from:
            pattern = parsed(text)
            found.setdefault(pattern.op_type, []).append((cls, pattern))
    return {name: sorted(items, key=lambda item: -item[1].size) for name, items in found.items()}


def layers_of(op_type: str) -> list[tuple[type[Layer], Operator]]:
    """The layers that are made from patterns which end in an operator, the largest pattern first."""
    return _by_operator().get(op_type, [])


def _values(found: Match) -> Iterator[OnnxValue]:
    yield from (value for value in found.values.values() if value is not None)
    yield from found.rest


def _prune(source: Origin) -> None:
    """Takes away the nodes that no output needs."""
    needed = set(source.outputs)
    for node in reversed(source.nodes.copy()):
        if any(value.name in needed for value in node.outputs):
            needed.update(value.name for value in node.inputs if value is not None)
        else:
            source.remove(node)
            source.nodes.remove(node)


def _sorted(layers: list[Layer]) -> list[Layer]:
    """Layers in an order in which they can be computed: as they are, unless one has several outputs."""
    producer = {name: index for index, layer in enumerate(layers) for name in layer.outputs}
    before = {k: {producer[n] for n in layer.inputs if n in producer} for k, layer in enumerate(layers)}
    if all(max(found, default=-1) < k for k, found in before.items()):
        return layers
    return [layers[k] for k in TopologicalSorter(before).static_order()]
