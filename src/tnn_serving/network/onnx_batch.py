"""A batch size that is written down in an ONNX model, made free.

Exporters write the batch of their example into the first dims of the inputs, and into the literal shapes of Reshape
nodes, as [1, 512]. Where the literal is that batch, copying the dim says the same of it and the right thing of others.
Whether rows are independent then is for :mod:`~tnn_serving.translate.row_walk` to decide.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from tnn_serving.formats.onnx import tensor_dims

OptionalDims = tuple[int | None, ...] | None


def written_batch(entries: Sequence[onnx.ValueInfoProto]) -> int | None:
    """The batch that the first dims of inputs fix; ``None`` if they are free, or no batch is the same for all.

    An input of one row beside inputs with a free batch counts: it has a row for each of theirs then.
    """
    firsts = {dims[0] for item in entries if (dims := tensor_dims(item))}
    fixed = {size for size in firsts if size is not None}
    if len(fixed) != 1 or 0 in fixed or (None in firsts and fixed != {1}):
        return None
    return fixed.pop()


def with_free_batch(
    model: onnx.ModelProto, entries: Sequence[onnx.ValueInfoProto], batch: int, dims: Mapping[str, OptionalDims]
) -> onnx.ModelProto:
    """A model that takes any number of rows, as far as a batch that is written down is what prevents it.

    Args:
        model: without tensors that need not be copied.
        entries: the inputs that callers feed.
        batch: their first dim.
        dims: of the model's values.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    fed = {item.name for item in entries}
    for item in (*(item for item in graph.input if item.name in fed), *graph.output):
        sizes = tensor_dims(item)
        if sizes and sizes[0] == batch:
            item.type.tensor_type.shape.dim[0].Clear()
    literals = _literals(graph)
    for node in graph.node:
        # With allowzero a 0 is an axis without elements.
        copies = not any(item.name == "allowzero" and item.i for item in node.attribute)
        if node.op_type == "Reshape" and not node.domain and len(node.input) > 1 and copies:
            freed = _freed(literals.get(node.input[1], ()), dims.get(node.input[0]), batch)
            if freed is not None:
                name = _new_name(graph, f"{node.name}.shape")
                graph.initializer.append(numpy_helper.from_array(np.array(freed, np.int64), name))
                node.input[1] = name
    return made


def _literals(graph: onnx.GraphProto) -> dict[str, list[int]]:
    """The lists of integers that are stored, by name."""
    tensors = {item.name: item for item in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            tensors.update((node.output[0], item.t) for item in node.attribute if item.name == "value")
    return {
        name: [int(size) for size in numpy_helper.to_array(tensor)]
        for name, tensor in tensors.items()
        if tensor.data_type == onnx.TensorProto.INT64 and len(tensor.dims) == 1
    }


def _freed(shape: Sequence[int], x: OptionalDims, batch: int) -> list[int] | None:
    """The same shape for any batch, if its first entry is the batch: that dim copied, or what is left over."""
    if not x or not shape or shape[0] != batch:
        return None
    if x[0] == batch:
        return [0, *shape[1:]]
    rest = [x[k] if size == 0 and k < len(x) else size for k, size in enumerate(shape)][1:]
    sizes = [size or 0 for size in x]
    if -1 in rest or None in x or None in rest or batch * math.prod(size or 0 for size in rest) != math.prod(sizes):
        return None
    return [-1, *shape[1:]]


def _new_name(graph: onnx.GraphProto, name: str) -> str:
    taken = {item.name for item in (*graph.input, *graph.initializer)}
    taken.update(value for node in graph.node for value in node.output)
    while name in taken:
        name += "_"
    return name
