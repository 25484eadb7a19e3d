"""Whether a model is one that ONNX specifies."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from tnn_serving.errors import FormatError, LimitError
from tnn_serving.formats.onnx.types import nodes_within, tensor_bytes

SMALL_BYTES = 1024
"""Stored tensors up to this size take part in shape inference; of larger ones only type and shape do."""

FIRST_IR = 4
"""The IR version from which on an initializer need not be listed among the inputs."""

PROTOBUF_MAX_BYTES = 2**31 - 1
"""What a protobuf message can hold, and so what an engine can be given at once."""

UNKNOWN_DOMAIN = "unknown"
"""Where the checker does not ask for a definition of an operator."""


def check(model: onnx.ModelProto) -> None:
    """Has ONNX's checker look at a model.

    Operators that ONNX does not define are left to the engines: ONNX Runtime has some of its own in the default domain
    (``SimplifiedLayerNormalization``, and ``LayerNormalization`` before opset 17). An output may lack its type and
    shape, which follow from the nodes.

    Raises:
        FormatError: the model is not valid.
        LimitError: it is too large for an engine.
    """
    size = sum(map(tensor_bytes, model.graph.initializer))
    if size > PROTOBUF_MAX_BYTES:
        raise LimitError(
            "the model is too large", expected=f"at most {PROTOBUF_MAX_BYTES} bytes of weights", found=size
        )
    if not model.opset_import or not model.graph.output:
        raise FormatError("no valid ONNX model", found=f"no {'outputs' if model.opset_import else 'opset_import'}")
    bare = skeleton(model)
    bare.opset_import.append(onnx.helper.make_opsetid(UNKNOWN_DOMAIN, 1))
    opset = next((item.version for item in bare.opset_import if not item.domain), 0)
    for node in nodes_within(bare.graph):
        if not node.domain and not onnx.defs.has(node.op_type, opset, ""):
            node.domain = UNKNOWN_DOMAIN
    for item in (*bare.graph.input, *bare.graph.output):
        if item.type.HasField("tensor_type"):
            item.type.tensor_type.shape.SetInParent()
    for item in bare.graph.output:
        if item.type.WhichOneof("value") is None:
            item.type.CopyFrom(onnx.helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    try:
        onnx.checker.check_model(bare)
        for tensor in model.graph.initializer:
            onnx.checker.check_tensor(tensor)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise FormatError("no valid ONNX model", found=" ".join(str(error).split())[:400]) from error


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with large initializers made inputs, and without what it says of inner values: a small one that can be
    copied and inferred in no time. Its IR version is one in which initializers need not be inputs."""
    made = onnx.ModelProto()
    made.producer_name = model.producer_name
    if model.HasField("ir_version"):
        made.ir_version = max(FIRST_IR, model.ir_version)
    made.opset_import.extend(model.opset_import)
    made.functions.extend(model.functions)
    graph = made.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    listed = {item.name for item in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor_bytes(tensor) <= SMALL_BYTES:
            graph.initializer.append(tensor)
        elif tensor.name not in listed:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return made
