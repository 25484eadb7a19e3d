"""The nodes of a graph under change, with those that guards add."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GUARD_PREFIX = "tnn_serving.guard/"
"""What the names of all values begin with that guards make."""


class NodeList:
    """Nodes in the order of their computation."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output, and gives its name."""
        output = self._name(kind)
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    @contextmanager
    def before(self, node: onnx.NodeProto) -> Iterator[None]:
        """Moves what is added meanwhile to the place before a node that is in the list."""
        end = len(self.nodes)
        yield
        added = self.nodes[end:]
        del self.nodes[end:]
        place = next(k for k, each in enumerate(self.nodes) if each.output == node.output)
        self.nodes[place:place] = added

    def constant(self, value: np.ndarray) -> str:
        """The name of a stored tensor, equal ones once."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            name = self._constants[key] = self._name("constant")
            self.initializers.append(numpy_helper.from_array(value, name))
        return self._constants[key]

    def ints(self, values: Sequence[int]) -> str:
        """A stored vector of int64."""
        return self.constant(np.array(values, np.int64))

    def floats(self, values: Sequence[float]) -> str:
        """A stored vector of float32."""
        return self.constant(np.array(values, np.float32))

    def as_int64(self, value: str) -> str:
        """A value as int64."""
        return self.op("Cast", value, to=TensorProto.INT64)

    def as_float(self, value: str) -> str:
        """A value as float32."""
        return self.op("Cast", value, to=TensorProto.FLOAT)

    def limited(self, value: str, low: str, high: str) -> str:
        """A value between two others; with Where, since Min and Max take integers in newer sets of operators only."""
        below = self.op("Where", self.op("Less", value, high), value, high)
        return self.op("Where", self.op("Less", below, low), low, below)

    def flat(self, value: str) -> str:
        """A value as a vector."""
        return self.op("Reshape", value, self.ints([-1]))

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{GUARD_PREFIX}{kind}_{self._count}"
