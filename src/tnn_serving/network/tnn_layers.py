"""The layers of a TNN graph as views."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import onnx_ir as ir

from tnn_serving.emit.builder import LAYER_KEY
from tnn_serving.graph import Graph
from tnn_serving.network.views import OPERANDS, LayerView, WeightView, macs
from tnn_serving.tensor import Tensor
from tnn_serving.translate.graph import Translation


def layer_views(graph: Graph, translation: Translation | None) -> list[LayerView]:
    """The layers in file order, with the dims and multiply-accumulates of a translation where there is one."""
    counts = None if translation is None else _macs_by_layer(translation)
    # Between layers that are translated as one there is no blob.
    dims = {} if translation is None else {name: list(blob.dims) for name, blob in translation.blobs.items()}
    views = []
    for index, layer in enumerate(graph.layers):
        parameters = {spec.name: _plain(getattr(layer, spec.name)) for spec in layer.parameters}
        if layer.surplus:
            parameters["surplus"] = list(layer.surplus)
        views.append(
            LayerView(
                index,
                layer.type,
                layer.name,
                list(layer.inputs),
                list(layer.outputs),
                [dims.get(name) for name in layer.outputs],
                parameters,
                [_weight(spec.name, tensor) for spec, tensor in layer.weights()],
                None if counts is None else counts[layer.name],
            )
        )
    return views


def constant_views(graph: Graph) -> list[WeightView]:
    """The constants of the model file."""
    return [_weight(name, tensor) for name, tensor in graph.constants.items()]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _weight(name: str, tensor: Tensor) -> WeightView:
    dims = None if tensor.dims is None else list(tensor.dims)
    return WeightView(name, tensor.dtype.name.lower(), dims, tensor.size)


def _macs_by_layer(translation: Translation) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for node in translation.model.graph:
        second = OPERANDS.get(node.op_type)
        if second is not None:
            x, w, y = (_dims(value) for value in (node.inputs[0], node.inputs[second], node.outputs[0]))
            transposed = bool(node.attributes.get_int("transA", 0))
            counts[node.metadata_props.get(LAYER_KEY, "")] += macs(node.op_type, x, w, y, transposed=transposed)
    return counts


def _dims(value: ir.Value | None) -> list[int | None] | None:
    if value is None or value.shape is None:
        return None
    return [dim if isinstance(dim, int) else None for dim in value.shape]
