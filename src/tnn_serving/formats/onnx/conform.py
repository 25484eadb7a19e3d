"""What ONNX Runtime takes although ONNX's specification forbids it, brought into the form that is specified.

Exporters of many years have left such files behind, and the runtime that most people know runs them. ONNX's checker and
inference refuse them, and so does OpenVINO.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tnn_serving.emit.limits import Limits
from tnn_serving.formats.onnx.types import names_taken, nodes_within, tensors_within

DEFAULT_DOMAIN = "ai.onnx"
"""The long spelling of the default domain; the usual one is empty."""

TYPED_DATA = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
"""Where a tensor keeps its elements, if not in ``raw_data``."""

WIDENED: dict[int, tuple[str, str]] = {
    onnx.TensorProto.BFLOAT16: ("int32_data", "<u2"),
    onnx.TensorProto.UINT32: ("uint64_data", "<u4"),
}
"""Types of elements that OpenVINO reads wrongly where they are stored in this field, and how raw data has them."""


def conform(model: onnx.ModelProto, limits: Limits) -> None:
    """Changes a model in place.

    - The default domain has one spelling, and each domain that nodes use is imported: in the newest version that ONNX
      has, which is what ONNX Runtime takes.
    - Sparse initializers become dense. Of initializers with the same name the last one counts, of data that is stored
      twice the raw one. Inputs without a name, which no node can use, go.
    - Elements that are stored as wider numbers, and that OpenVINO then reads wrongly, are raw data.
    - Nodes come in an order in which they can be computed. The graph has a name, and each of its nodes one of its own.

    Raises:
        LimitError: a sparse initializer is too large.
    """
    _import_domains(model)
    graph = model.graph
    graph.name = graph.name or "graph"
    _replace(graph.input, [item for item in graph.input if item.name])
    graph.initializer.extend(_dense(item, limits) for item in graph.sparse_initializer)
    del graph.sparse_initializer[:]
    _replace(graph.initializer, {item.name: item for item in graph.initializer}.values())
    for tensor in graph.initializer:
        if tensor.HasField("raw_data"):
            for field in TYPED_DATA:
                tensor.ClearField(field)
    for tensor in tensors_within(model):
        field, stored = WIDENED.get(tensor.data_type, ("", ""))
        if field and getattr(tensor, field):
            tensor.raw_data = np.array(getattr(tensor, field)).astype(stored).tobytes()
            tensor.ClearField(field)
    _sort(graph)
    _name_nodes(graph)


def _replace(field: Any, items: Any) -> None:
    """Makes a repeated field of messages hold these of its own items."""
    kept = list(items)
    if len(kept) < len(field):
        del field[:]
        field.extend(kept)


def _import_domains(model: onnx.ModelProto) -> None:
    nodes = [*nodes_within(model.graph), *(node for function in model.functions for node in function.node)]
    for item in (*nodes, *model.opset_import, *(item for f in model.functions for item in f.opset_import)):
        if item.domain == DEFAULT_DOMAIN:
            item.domain = ""
    if not model.opset_import:
        return  # refused, also by ONNX Runtime
    _replace(model.opset_import, {item.domain: item for item in model.opset_import}.values())
    imported = {item.domain for item in model.opset_import}
    for domain in sorted({node.domain for node in nodes} - imported):
        model.opset_import.append(onnx.helper.make_opsetid(domain, _newest(domain)))


def _newest(domain: str) -> int:
    """The newest version of a domain that ONNX knows; 1 for domains that are not ONNX's."""
    if not domain:
        return int(onnx.defs.onnx_opset_version())
    return max((int(s.since_version) for s in onnx.defs.get_all_schemas() if s.domain == domain), default=1)


def _dense(sparse: onnx.SparseTensorProto, limits: Limits) -> onnx.TensorProto:
    limits.check_tensor(sparse.dims, onnx.helper.tensor_dtype_to_np_dtype(sparse.values.data_type))
    values, places = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    whole = np.zeros(tuple(sparse.dims), values.dtype)
    if places.ndim == 1:
        whole.reshape(-1)[places] = values
    else:
        whole[tuple(places.T)] = values
    return numpy_helper.from_array(whole, sparse.values.name)


def _sort(graph: onnx.GraphProto) -> None:
    """Leaves the order as it is where it can be computed, and where none can: the checker says so then."""
    nodes = list(graph.node)
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    needed = {k: {producer[name] for name in names_taken(node) if name in producer} for k, node in enumerate(nodes)}
    if all(max(before, default=-1) < index for index, before in needed.items()):
        return
    try:
        order = list(TopologicalSorter(needed).static_order())
    except CycleError:
        return
    del graph.node[:]
    graph.node.extend(nodes[index] for index in order)


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Names come from the operator and the place, so that they are the same whenever a file is read."""
    taken = {node.name for node in graph.node}
    seen: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in seen:
            stem = name = node.name or f"{node.op_type}_{index}"
            count = 0
            while name in taken:
                count += 1
                name = f"{stem}_{count}"
            node.name = name
            taken.add(name)
        seen.add(node.name)
