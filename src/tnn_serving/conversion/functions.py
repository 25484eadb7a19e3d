"""The functions by which ONNX itself defines some of its operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tnn_serving.layers.pattern import OnnxNode


@dataclass(frozen=True, slots=True)
class Definition:
    """A function in place of an operator.

    Attributes:
        body: its nodes.
        opset: that they belong to.
        defaults: of the operator's attributes.
    """

    body: onnx.FunctionProto
    opset: int
    defaults: Mapping[str, onnx.AttributeProto]

    def nodes(self, node: OnnxNode) -> list[onnx.NodeProto]:
        """The nodes with the attributes of the node that they stand for, and without the inputs that it leaves out."""
        given = {name for name, value in zip(self.body.input, node.inputs, strict=False) if value is not None}
        left_out = set(self.body.input) - given
        return [self._filled(proto, node, left_out) for proto in self.body.node]

    def _filled(self, proto: onnx.NodeProto, node: OnnxNode, left_out: set[str]) -> onnx.NodeProto:
        made = onnx.NodeProto()
        made.CopyFrom(proto)
        made.ClearField("input")
        made.input.extend("" if name in left_out else name for name in proto.input)
        made.ClearField("attribute")
        for item in proto.attribute:
            name = item.ref_attr_name
            if not name:
                made.attribute.append(item)
            elif name in node.attributes:
                made.attribute.append(onnx.helper.make_attribute(item.name, as_attribute(node.attributes[name])))
            elif self.defaults[name].name:
                made.attribute.append(
                    onnx.helper.make_attribute(item.name, as_attribute(attribute_value(self.defaults[name])))
                )
        return made


def definition(node: OnnxNode) -> Definition | None:
    """The function that defines an operator, for the types of these inputs; ``None`` if there is none."""
    try:
        # What a schema says of functions is missing in ONNX's type hints.
        schema: Any = onnx.defs.get_schema(node.op_type, node.opset, "")
    except onnx.defs.SchemaError:
        return None
    body = _body(schema, node)
    if body is None:
        return None
    opset = next((int(item.version) for item in body.opset_import if not item.domain), node.opset)
    return Definition(body, opset, {name: item.default_value for name, item in schema.attributes.items()})


def _body(schema: Any, node: OnnxNode) -> onnx.FunctionProto | None:
    if schema.has_function:
        found: onnx.FunctionProto = schema.function_body
        return found
    if not schema.has_context_dependent_function:
        return None
    kinds = [
        b""
        if value is None
        else onnx.helper.make_tensor_type_proto(
            onnx.helper.np_dtype_to_tensor_dtype(value.dtype), list(value.dims)
        ).SerializeToString()
        for value in node.inputs
    ]
    names = [value.name for value in node.outputs] or [f"output{k}" for k in range(len(schema.outputs))]
    made = onnx.FunctionProto()
    made.ParseFromString(schema.get_context_dependent_function(as_proto(node, names).SerializeToString(), kinds))
    return made if made.node else None


def as_proto(node: OnnxNode, names: Sequence[str]) -> onnx.NodeProto:
    """The node for ONNX's own functions, with outputs of these names."""
    attributes = {
        key: as_attribute(value)
        for key, value in node.attributes.items()
        if not (isinstance(value, list) and not value)
    }
    inputs = [value.name if value is not None else "" for value in node.inputs]
    return onnx.helper.make_node(node.op_type, inputs, list(names), **attributes)


def as_attribute(value: Any) -> Any:
    """An attribute as ONNX's helper takes it."""
    return numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value


def attribute_value(item: onnx.AttributeProto) -> Any:
    """An attribute as a Python value: text, numbers, or an array."""
    value = onnx.helper.get_attribute_value(item)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        return [text.decode(errors="replace") for text in value]
    return value
