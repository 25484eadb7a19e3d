"""ONNX operators that OpenVINO compiles, but computes otherwise than ONNX says: models with them are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import onnx

from tnn_serving.errors import EngineError

KNOWN_OPSET = 24
"""OpenVINO reads operators of newer sets as well, but ignores the attributes that they got there."""

PEEPHOLES = 7
"""Number of the input of LSTM that OpenVINO ignores."""

FLOAT8E8M0 = 24
"""The number of the element type, which not every release of ONNX that is taken has a name for."""

Attributes = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Refusal:
    """One kind of node that is refused.

    Attributes:
        operators: their ONNX types.
        when: whether a node with these attributes is of the kind.
        instead: what OpenVINO would do.
    """

    operators: frozenset[str]
    when: Callable[[onnx.NodeProto, Attributes], bool]
    instead: str

    def meets(self, node: onnx.NodeProto) -> bool:
        """Whether a node is of this kind."""
        if node.op_type not in self.operators:
            return False
        return self.when(node, {item.name: _value(item) for item in node.attribute})


REFUSALS = (
    Refusal(
        frozenset({"RoiAlign"}),
        lambda node, attributes: attributes.get("mode") == "max",
        "takes the maximum of interpolated samples, not that of the weighted corners",
    ),
    Refusal(
        frozenset({"GRU", "LSTM", "RNN"}),
        lambda node, attributes: attributes.get("layout", 0) != 0,
        "takes the axes as with layout 0",
    ),
    Refusal(
        frozenset({"LSTM"}),
        lambda node, attributes: len(node.input) > PEEPHOLES and bool(node.input[PEEPHOLES]),
        "ignores peepholes",
    ),
    Refusal(
        frozenset({"Resize"}),
        lambda node, attributes: attributes.get("antialias", 0) != 0,
        "filters otherwise than ONNX",
    ),
    Refusal(
        frozenset({"Resize"}),
        lambda node, attributes: attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch",
        "ignores keep_aspect_ratio_policy",
    ),
    Refusal(
        frozenset({"Resize"}),
        lambda node, attributes: attributes.get("mode") == "cubic" and attributes.get("exclude_outside", 0) != 0,
        "ignores exclude_outside",
    ),
    Refusal(
        frozenset({"Cast"}),
        lambda node, attributes: attributes.get("to") == onnx.TensorProto.BFLOAT16,
        "cuts digits off instead of rounding",
    ),
    Refusal(
        frozenset({"Cast"}),
        lambda node, attributes: attributes.get("to") == FLOAT8E8M0,
        "ignores round_mode",
    ),
    Refusal(
        frozenset({"BitShift"}),
        lambda node, attributes: True,
        "multiplies and divides instead of shifting",
    ),
)


def check_operators(model: onnx.ModelProto) -> None:
    """Raises EngineError for a node that OpenVINO would compute otherwise."""
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 1)
    for node in _nodes([*model.graph.node, *(node for function in model.functions for node in function.node)]):
        for refusal in REFUSALS:
            if refusal.meets(node):
                _refuse(node, refusal.instead)
        if opset > KNOWN_OPSET and node.domain in ("", "ai.onnx"):
            unread = _unread(node, opset)
            if unread:
                _refuse(node, f"ignores {unread}")


def _refuse(node: onnx.NodeProto, instead: str) -> None:
    raise EngineError(f"node `{node.name or node.output[0]}` ({node.op_type}): OpenVINO {instead}")


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes with those of the graphs inside them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph.node)


def _value(attribute: onnx.AttributeProto) -> Any:
    if attribute.type == onnx.AttributeProto.STRING:
        return attribute.s.decode("utf-8", "replace")
    return onnx.helper.get_attribute_value(attribute)


def _unread(node: onnx.NodeProto, opset: int) -> str | None:
    """An attribute that the operator got after :data:`KNOWN_OPSET`, and that is not what is done without it."""
    try:
        known = onnx.defs.get_schema(node.op_type, KNOWN_OPSET).attributes
        defaults = {
            name: item.default_value for name, item in onnx.defs.get_schema(node.op_type, opset).attributes.items()
        }
    except onnx.defs.SchemaError:
        return None  # OpenVINO does not know the operator, and says so
    for item in node.attribute:
        if item.name not in known and (item.name not in defaults or _value(item) != _value(defaults[item.name])):
            return str(item.name)
    return None
