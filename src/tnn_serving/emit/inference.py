"""What ONNX itself says of one operator: types and dims of its outputs, and their values where inputs are known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import onnx
from onnx import shape_inference
from onnx.defs import OpSchema, get_schema
from onnx.reference import ReferenceEvaluator

from tnn_serving.emit.limits import SAMPLE_LIMIT

OPSET = 21
IR_VERSION = 10
"""ONNX versions that OpenVINO 2026 and ONNX Runtime 1.2x both take."""

COMPUTED_LIMIT = 1 << 20
"""Largest result, in elements, that is computed while translating; a larger one is left to the engine."""

DATA_DECIDES = frozenset({"NonZero", "NonMaxSuppression"})
"""Operators whose output dims only the data tell; they are never more than the inputs allow."""

Dims = tuple[int | None, ...]


class Known(NamedTuple):
    """What is known of an operand: ``None`` for dims that are not, and for a value that is not."""

    name: str
    dtype: np.dtype
    dims: Dims
    sample: np.ndarray | None


class Inferred(NamedTuple):
    """What inference finds of an output. ``dims`` is ``None`` where not even the rank is known."""

    dtype: np.dtype
    dims: Dims | None


def infer(node: onnx.NodeProto, operands: Sequence[Known], opset: int = OPSET) -> dict[str, Inferred]:
    """Type and dims of each output of an operator, by output name.

    Raises:
        onnx.shape_inference.InferenceError: the operands do not fit the operator.
        onnx.defs.SchemaError: there is no such operator in this opset.
    """
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for name, dtype, dims, sample in operands:
        types[name] = onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(dtype), list(dims))
        if sample is not None and sample.size <= SAMPLE_LIMIT:
            data[name] = onnx.numpy_helper.from_array(sample)
    found = shape_inference.infer_node_outputs(
        _schema(node.op_type, opset), node, types, data, opset_imports=_opsets(opset), ir_version=IR_VERSION
    )
    return {name: _inferred(kind) for name, kind in found.items()}


def _inferred(kind: onnx.TypeProto) -> Inferred:
    tensor = kind.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if not tensor.HasField("shape"):
        return Inferred(dtype, None)
    return Inferred(dtype, tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim))


def result_dims(op_type: str, operands: Sequence[Known], found: Inferred) -> Dims | None:
    """Dims of an output as far as they can be said before it is computed: those inferred, or for OneHot, whose depth
    ONNX's inference does not look at, those that the depth gives."""
    if op_type == "OneHot" and len(operands) > 1 and operands[1].sample is not None:
        return (*operands[0].dims, int(operands[1].sample.reshape(-1)[0]))
    return found.dims


def is_small(op_type: str, operands: Sequence[Known], outputs: Iterable[Inferred]) -> bool:
    """Whether a result may be computed here: what expands its operands beyond :data:`COMPUTED_LIMIT` is not."""
    return op_type in DATA_DECIDES or all(
        dims is not None and None not in dims and math.prod(dim or 0 for dim in dims) <= COMPUTED_LIMIT
        for dims in (result_dims(op_type, operands, found) for found in outputs)
    )


def evaluate(
    node: onnx.NodeProto, names: Sequence[str], feeds: Mapping[str, np.ndarray], opset: int = OPSET
) -> list[np.ndarray]:
    """The outputs of an operator on these inputs, by ONNX's reference."""
    graph = onnx.helper.make_graph(
        [node],
        "node",
        [onnx.helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(node.input) if name],
        [onnx.helper.make_empty_tensor_value_info(name) for name in node.output],
    )
    model = onnx.helper.make_model(graph, opset_imports=_opsets(opset), ir_version=IR_VERSION)
    with np.errstate(all="ignore"):
        return [np.asarray(found) for found in ReferenceEvaluator(model).run(list(names), dict(feeds))]


@cache
def _schema(op_type: str, opset: int) -> OpSchema:
    return get_schema(op_type, opset, "")


@cache
def _opsets(opset: int) -> list[onnx.OperatorSetIdProto]:
    return [onnx.helper.make_opsetid("", opset)]
