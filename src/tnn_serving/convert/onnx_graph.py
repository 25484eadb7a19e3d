"""The road from an ONNX graph to a TNN graph: constants, nodes in order, outputs.

What each operator becomes stands in :mod:`tnn_serving.convert.operators`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper

from tnn_serving.errors import FormatError, ShapeError, UnsupportedLayer, located
from tnn_serving.graph import DataType, Graph, Input
from tnn_serving.layers.base import Layer

Converter = Callable[["OnnxGraph", onnx.NodeProto], Layer]
CONVERTERS: dict[str, Converter] = {}
"""Operator name to the function that makes a layer of a node."""


def converts(operator: str) -> Callable[[Converter], Converter]:
    """Registers the converter of an ONNX operator."""

    def register(function: Converter) -> Converter:
        if operator in CONVERTERS:
            raise ValueError(f"operator {operator} has two converters")
        CONVERTERS[operator] = function
        return function

    return register


class OnnxGraph:
    """An ONNX graph as converters see it: who reads a value, and which values are constants."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.constants = {item.name: onnx.numpy_helper.to_array(item) for item in self.graph.initializer}
        self.outputs = [item.name for item in self.graph.output]
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)
        self.absorbed: set[str] = set()

    def constant(self, node: onnx.NodeProto, index: int) -> np.ndarray | None:
        """The stored value of an input, ``None`` if the node has no such input.

        Raises:
            UnsupportedLayer: the input is computed.
        """
        if index >= len(node.input) or not node.input[index]:
            return None
        name = node.input[index]
        if name not in self.constants:
            raise UnsupportedLayer(f"input {index} must be a stored constant", found=f"`{name}`, computed by the network")
        return self.constants[name]

    def only_reader(self, value: str) -> onnx.NodeProto | None:
        """The node that is the only one to use ``value``; ``None`` if there are several, or it is an output."""
        readers = self.readers.get(value, [])
        return readers[0] if len(readers) == 1 and value not in self.outputs else None

    def absorb(self, node: onnx.NodeProto) -> None:
        """Marks a node whose work another layer has taken over."""
        self.absorbed.add(node.output[0])


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node as Python values; strings as text."""
    values = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def convert_onnx(
    source: onnx.ModelProto | str | os.PathLike[str], *, dims: Mapping[str, Sequence[int]] | None = None
) -> Graph:
    """A TNN graph that computes what the ONNX network does.

    Layers and blobs are named after ONNX values; a layer that took over a following node is named after that node's.

    Args:
        source: an ONNX model, or the path of one.
        dims: default dims of inputs, where they shall differ from the model's or where it leaves them open.

    Raises:
        FormatError: not an ONNX file.
        ShapeError: an input whose dims are neither in the model nor given.
        UnsupportedLayer: a node that has no form in TNN, or not yet one here.
    """
    model = source if isinstance(source, onnx.ModelProto) else _load(source)
    known = OnnxGraph(model)
    inputs = [_input(item, dims or {}) for item in model.graph.input if item.name not in known.constants]
    layers = []
    for node in model.graph.node:
        if node.output[0] in known.absorbed:
            continue
        with located(f"ONNX node `{node.name or node.output[0]}` ({node.op_type})"):
            converter = CONVERTERS.get(node.op_type)
            if converter is None:
                raise UnsupportedLayer("operator has no TNN form here", expected=", ".join(sorted(CONVERTERS)))
            layers.append(converter(known, node))
    return Graph(inputs, known.outputs, layers, source=model.graph.name or "onnx")


def _load(path: str | os.PathLike[str]) -> onnx.ModelProto:
    try:
        return onnx.load(os.fspath(path))
    except (OSError, ValueError) as error:
        raise FormatError(f"{os.fspath(path)} cannot be read", found=str(error)) from error
    except Exception as error:
        if type(error).__name__ != "DecodeError":
            raise
        raise FormatError(f"{os.fspath(path)} is not an ONNX file", found=str(error)) from error


def _input(item: onnx.ValueInfoProto, dims: Mapping[str, Sequence[int]]) -> Input:
    kind = item.type.tensor_type
    if kind.elem_type != onnx.TensorProto.FLOAT:
        found = onnx.TensorProto.DataType.Name(kind.elem_type)
        raise UnsupportedLayer(f"input `{item.name}` has a type that cannot be converted", expected="FLOAT", found=found)
    stored = tuple(int(dim.dim_value) for dim in kind.shape.dim)
    chosen = tuple(int(dim) for dim in dims.get(item.name, stored))
    if len(chosen) != len(stored) or min(chosen, default=1) < 1:
        raise ShapeError(f"input `{item.name}` needs dims", expected=f"{len(stored)} positive numbers", found=chosen)
    return Input(item.name, chosen, DataType.FLOAT)
