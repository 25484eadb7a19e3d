"""The view of an ONNX graph that the converters of operators use."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper

from tnn_serving.errors import UnsupportedLayer


class OnnxGraph:
    """An ONNX graph with its constants, and the nodes that read each value.

    Attributes:
        readers: by value, the nodes that read it.
        absorbed: outputs of the nodes that are part of another node's layer.
    """

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
        """The stored value of an input; ``None`` if the node has no such input.

        Raises:
            UnsupportedLayer: the input is computed.
        """
        if index >= len(node.input) or not node.input[index]:
            return None
        name = node.input[index]
        if name not in self.constants:
            raise UnsupportedLayer(
                f"input {index} must be a stored constant", found=f"`{name}`, computed by the network"
            )
        return self.constants[name]

    def only_reader(self, value: str) -> onnx.NodeProto | None:
        """The only node that reads ``value``; ``None`` if there are several, or if the value is an output."""
        readers = self.readers.get(value, [])
        return readers[0] if len(readers) == 1 and value not in self.outputs else None

    def absorb(self, node: onnx.NodeProto) -> None:
        """Marks a node as part of another node's layer."""
        self.absorbed.add(node.output[0])


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node as Python values; strings as text."""
    values = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}
