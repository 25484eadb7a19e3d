"""Small ONNX models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT

Dims = Sequence[int | str | None] | None


def value(name: str, dims: Dims, kind: int = FLOAT) -> onnx.ValueInfoProto:
    """A tensor of that name."""
    return helper.make_tensor_value_info(name, kind, dims)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Dims] | Sequence[onnx.ValueInfoProto],
    outputs: Mapping[str, Dims] | Sequence[onnx.ValueInfoProto],
    stored: Mapping[str, np.ndarray] | Sequence[onnx.TensorProto] = (),
    *,
    opsets: Mapping[str, int] | None = None,
    ir: int = 8,
) -> onnx.ModelProto:
    """A model; inputs and outputs are float tensors where only dims are given."""
    given, made = (
        [value(*pair) for pair in values.items()] if isinstance(values, Mapping) else list(values)
        for values in (inputs, outputs)
    )
    tensors = (
        [numpy_helper.from_array(array, name) for name, array in stored.items()]
        if isinstance(stored, Mapping)
        else list(stored)
    )
    return helper.make_model(
        helper.make_graph(list(nodes), "g", given, made, tensors),
        opset_imports=[helper.make_opsetid(*pair) for pair in (opsets or {"": 17}).items()],
        ir_version=ir,
    )


def write(made: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    """The file, in a folder that is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(made.SerializeToString())
    return folder / name


def reference(made: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime itself makes of a model as it stands. Raises if it refuses."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    unnamed = {item.name: np.zeros(item.shape, np.float32) for item in session.get_inputs() if not item.name}
    return dict(zip(names, session.run(names, {**feeds, **unnamed}), strict=True))


CONV_W, CONV_B = random(4, 3, 3, 3), random(4, seed=1)


def convolution(
    dims: Dims = ("n", 3, "h", "w"),
    names: Sequence[str] = ("x", "c", "r", "y"),
    node_names: Sequence[str] = ("", "", ""),
) -> onnx.ModelProto:
    """Conv, Relu and Sigmoid, with a weight large enough that it is no part of shape arithmetic."""
    x, c, r, y = names
    nodes = [
        helper.make_node("Conv", [x, "w", "b"], [c], name=node_names[0], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Relu", [c], [r], name=node_names[1]),
        helper.make_node("Sigmoid", [r], [y], name=node_names[2]),
    ]
    return model(nodes, {x: dims}, {y: None if dims is None else [None] * len(dims)}, {"w": CONV_W, "b": CONV_B})
