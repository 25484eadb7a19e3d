"""Types of ONNX values: those that callers feed and get as arrays, and the names of the others."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
from onnx import AttributeProto, TensorProto

from tnn_serving.errors import FormatError

DTYPES: dict[int, np.dtype] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.DOUBLE: np.dtype(np.float64),
    TensorProto.INT8: np.dtype(np.int8),
    TensorProto.INT16: np.dtype(np.int16),
    TensorProto.INT32: np.dtype(np.int32),
    TensorProto.INT64: np.dtype(np.int64),
    TensorProto.UINT8: np.dtype(np.uint8),
    TensorProto.UINT16: np.dtype(np.uint16),
    TensorProto.UINT32: np.dtype(np.uint32),
    TensorProto.UINT64: np.dtype(np.uint64),
    TensorProto.BOOL: np.dtype(np.bool_),
}
"""Element types of inputs and outputs: those that numpy and Triton both have."""


def tensor_dtype(value: onnx.ValueInfoProto) -> np.dtype | None:
    """The element type of a tensor as numpy has it; ``None`` for one that it has not, and for what is no tensor."""
    return DTYPES.get(value.type.tensor_type.elem_type) if value.type.HasField("tensor_type") else None


def element_dtype(kind: int) -> np.dtype | None:
    """The type that ONNX's package keeps elements in: also of those that numpy has no name for, as ``ml_dtypes`` has
    them. ``None`` for a number that is no type."""
    try:
        return onnx.helper.tensor_dtype_to_np_dtype(kind)
    except KeyError:
        return None


def tensor_dims(value: onnx.ValueInfoProto) -> tuple[int | None, ...] | None:
    """The dims of a tensor, ``None`` where free, which some exporters write as -1; ``None`` if even the rank is."""
    if not value.type.HasField("tensor_type") or not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for d in dims)


def type_name(kind: onnx.TypeProto) -> str:
    """A type for people: ``a tensor of strings``, ``a sequence of tensors of float``, ``an unknown type``."""
    what = kind.WhichOneof("value")
    if what == "tensor_type":
        return f"a tensor of {_elements(kind.tensor_type.elem_type)}"
    if what == "sparse_tensor_type":
        return f"a sparse tensor of {_elements(kind.sparse_tensor_type.elem_type)}"
    if what == "sequence_type":
        return f"a sequence of {_several(type_name(kind.sequence_type.elem_type))}"
    if what == "optional_type":
        return f"an optional value: {type_name(kind.optional_type.elem_type)}"
    if what == "map_type":
        key = _elements(kind.map_type.key_type)
        return f"a map from {key} to {_several(type_name(kind.map_type.value_type))}"
    return "an unknown type"


def _elements(kind: int) -> str:
    if kind == TensorProto.STRING:
        return "strings"
    return TensorProto.DataType.Name(kind).lower() if kind in TensorProto.DataType.values() else f"type {kind}"


def _several(one: str) -> str:
    _, noun, rest = one.split(" ", 2) if one.count(" ") > 1 else (*one.split(" "), "")
    return f"{noun}s {rest}".strip() if noun in ("tensor", "sequence", "map") else one


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """The size of a stored tensor in memory, an int4 in a byte of its own, a string as a reference.

    Raises FormatError for a number that is no element type.
    """
    dtype = element_dtype(tensor.data_type)
    if dtype is None:
        raise FormatError(f"tensor `{tensor.name}` has an unknown type", found=_elements(tensor.data_type))
    return int(math.prod(tensor.dims)) * dtype.itemsize


def packed_bytes(tensor: onnx.TensorProto) -> int:
    """The size of a tensor in a file, elements of less than a byte packed.

    Raises FormatError for dims or an element type that no tensor in a file has.
    """
    try:
        bits = int(ir.DataType(tensor.data_type).bitwidth)
    except (ValueError, TypeError):
        raise FormatError(f"tensor `{tensor.name}` cannot be stored so", found=_elements(tensor.data_type)) from None
    if min(tensor.dims, default=0) < 0:
        raise FormatError(f"tensor `{tensor.name}` has a negative dim", found=list(tensor.dims))
    return -(-bits * int(math.prod(tensor.dims)) // 8)


def tensors_within(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every stored tensor of a model: initializers and attributes, of functions and inner graphs too."""
    yield from _tensors_of(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _tensors_in(node)


def _tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _tensors_in(node)


def _tensors_in(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
        for sparse in attribute.sparse_tensors:
            yield from (sparse.values, sparse.indices)
    for inner in graphs_of(node):
        yield from _tensors_of(inner)


def nodes_within(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the graphs in their attributes, such as the branches of an If."""
    for node in graph.node:
        yield node
        for inner in graphs_of(node):
            yield from nodes_within(inner)


def graphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in the attributes of a node."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def names_taken(node: onnx.NodeProto) -> set[str]:
    """Names of the values that a node takes, those that the graphs in its attributes take from outside included."""
    names = set(node.input)
    for inner in graphs_of(node):
        names.update(item.name for item in inner.output)
        for part in inner.node:
            names |= names_taken(part)
    return names
