"""Conversion of an ONNX graph to a TNN graph; :mod:`tnn_serving.convert.operators` converts the operators."""

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
    """A TNN graph that computes the same as the ONNX network.

    Layers and blobs have the names of ONNX values. A layer that includes a following node has the name of that node's
    output.

    Args:
        source: an ONNX model, or its path.
        dims: default dims by input, where the model's dims are free or should be replaced.

    Raises:
        FormatError, LimitError: as :func:`tnn_serving.formats.onnx.read_onnx`.
        ShapeError: an input without fixed dims.
        UnsupportedLayer: a node that TNN cannot express, or that is not supported here.
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
                raise UnsupportedLayer("operator cannot be converted to TNN", expected=", ".join(sorted(CONVERTERS)))
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
