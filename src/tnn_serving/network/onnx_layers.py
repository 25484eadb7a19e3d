"""The nodes of an ONNX model as views."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import onnx
import onnx_ir as ir
from onnx import AttributeProto, TensorProto

from tnn_serving.formats.onnx import graphs_of, names_taken
from tnn_serving.network.views import OPERANDS, LayerView, Sizes, WeightView, macs

LONG = 64
"""A list attribute that is longer is shown by its length."""


def layer_views(model: onnx.ModelProto, dims: Mapping[str, Sizes] | None) -> list[LayerView]:
    """The nodes in file order, with the dims of the values and multiply-accumulates where ``dims`` are given.

    A stored tensor is the weight of the only node that takes it.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = _uses(model.graph)
    sizes: dict[str, Sizes] = {name: list(tensor.dims) for name, tensor in stored.items()}
    sizes.update(dims or {})
    views = []
    for index, node in enumerate(model.graph.node):
        names = dict.fromkeys((*node.input, *sorted(names_taken(node))))
        taken = [stored[name] for name in names if uses[name] == 1 and name in stored]
        views.append(
            LayerView(
                index,
                f"{node.domain}.{node.op_type}" if node.domain else node.op_type,
                node.name,
                list(node.input),
                [name for name in node.output if name],
                [_known(sizes.get(name)) for name in node.output if name],
                {item.name: value for item in node.attribute if (value := _plain(item)) is not None},
                [_weight(tensor, "value") for tensor in (*taken, *_inside(node))],
                None if dims is None else _macs(node, sizes),
            )
        )
    return views


def constant_views(model: onnx.ModelProto) -> list[WeightView]:
    """The stored tensors that are no single node's."""
    uses = _uses(model.graph)
    return [_weight(tensor) for tensor in model.graph.initializer if uses[tensor.name] != 1]


def stored_bytes(model: onnx.ModelProto) -> int:
    """The size of all tensors in the file, those in attributes included."""
    inside = (tensor for node in model.graph.node for tensor in _inside(node))
    return sum(_bytes(tensor) for tensor in (*model.graph.initializer, *inside))


def _bytes(tensor: onnx.TensorProto) -> int:
    if tensor.data_type == TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    return math.ceil(int(math.prod(tensor.dims)) * int(ir.DataType(tensor.data_type).bitwidth) / 8)


def _weight(tensor: onnx.TensorProto, name: str = "") -> WeightView:
    """A stored tensor; ``name`` is for one that has none, in an attribute."""
    dtype = TensorProto.DataType.Name(tensor.data_type).lower()
    return WeightView(tensor.name or name, dtype, list(tensor.dims), math.prod(tensor.dims))


def _uses(graph: onnx.GraphProto) -> Counter[str]:
    """How many nodes take a value; an output of the network counts for two."""
    counts = Counter(name for node in graph.node for name in names_taken(node))
    for item in graph.output:
        counts[item.name] += 2
    return counts


def _inside(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    """Tensors in the attributes of a node, and in their graphs."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            yield attribute.t
        elif attribute.type == AttributeProto.TENSORS:
            yield from attribute.tensors
    for graph in graphs_of(node):
        yield from graph.initializer
        for inner in graph.node:
            yield from _inside(inner)


def _plain(attribute: onnx.AttributeProto) -> Any:
    """The value of an attribute for people and JSON; ``None`` for tensors, which are weights, and for references."""
    if attribute.type == AttributeProto.GRAPH:
        return f"a graph of {len(attribute.g.node)} nodes"
    if attribute.type == AttributeProto.GRAPHS:
        return f"{len(attribute.graphs)} graphs"
    if attribute.type in (AttributeProto.TENSOR, AttributeProto.TENSORS) or attribute.ref_attr_name:
        return None
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, int | float):
        return value
    try:
        items = [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in value]
    except TypeError:
        return str(value)
    plain = [item if isinstance(item, int | float | str) else str(item) for item in items]
    return plain if len(plain) <= LONG else f"{len(plain)} values"


def _known(dims: Sizes) -> list[int | None] | None:
    return None if dims is None else list(dims)


def _macs(node: onnx.NodeProto, sizes: Mapping[str, Sizes]) -> int:
    second = OPERANDS.get(node.op_type)
    if second is None or len(node.input) <= second:
        return 0
    x, w, y = (sizes.get(name) for name in (node.input[0], node.input[second], node.output[0]))
    transposed = any(item.name == "transA" and item.i for item in node.attribute)
    return macs(node.op_type, x, w, y, transposed=transposed)
