"""The road from an ONNX graph to a TNN graph: constants, nodes in order, outputs.

What each operator becomes stands in :mod:`tnn_serving.convert.operators`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import onnx

from tnn_serving.convert.onnx_graph import OnnxGraph
from tnn_serving.convert.operators import CONVERTERS
from tnn_serving.errors import ShapeError, UnsupportedLayer, located
from tnn_serving.formats.onnx import read_onnx
from tnn_serving.graph import Graph, Input
from tnn_serving.tensor import DataType


def convert_onnx(
    source: onnx.ModelProto | str | os.PathLike[str], *, dims: Mapping[str, Sequence[int]] | None = None
) -> Graph:
    """A TNN graph that computes what the ONNX network does.

    Layers and blobs are named after ONNX values; a layer that took over a following node is named after that node's.

    Args:
        source: an ONNX model, or the path of one.
        dims: default dims of inputs, where they shall differ from the model's or where it leaves them open.

    Raises:
        FormatError, LimitError: as :func:`tnn_serving.formats.onnx.read_onnx`.
        ShapeError: an input whose dims are neither in the model nor given.
        UnsupportedLayer: a node that has no form in TNN, or not yet one here.
    """
    model = read_onnx(source)
    known = OnnxGraph(model)
    inputs = [_input(item, dims or {}) for item in model.graph.input if item.name not in known.constants]
    layers = []
    for node in model.graph.node:
        if node.output[0] in known.absorbed:
            continue
        with located(f"ONNX node `{node.name}` ({node.op_type})"):
            converter = CONVERTERS.get(node.op_type)
            if converter is None:
                raise UnsupportedLayer("operator has no TNN form here", expected=", ".join(sorted(CONVERTERS)))
            layers.append(converter(known, node))
    return Graph(inputs, known.outputs, layers, source=model.graph.name or "onnx")


def _input(item: onnx.ValueInfoProto, dims: Mapping[str, Sequence[int]]) -> Input:
    kind = item.type.tensor_type
    if kind.elem_type != onnx.TensorProto.FLOAT:
        found = onnx.TensorProto.DataType.Name(kind.elem_type)
        raise UnsupportedLayer(
            f"input `{item.name}` has a type that cannot be converted", expected="FLOAT", found=found
        )
    stored = tuple(int(dim.dim_value) for dim in kind.shape.dim)
    chosen = tuple(int(dim) for dim in dims.get(item.name, stored))
    if len(chosen) != len(stored) or min(chosen, default=1) < 1:
        raise ShapeError(f"input `{item.name}` needs dims", expected=f"{len(stored)} positive numbers", found=chosen)
    return Input(item.name, chosen, DataType.FLOAT)
