"""ONNX models for the tests of OpenVINO, in ONNX's own text."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import parser

from tnn_serving.engines import ENGINES, Options


def model(graph: str, *, opset: int = 21, **constants: np.ndarray) -> onnx.ModelProto:
    """A model of a graph in ONNX's text; constants are stored beside it."""
    made = parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> {graph}')
    made.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    return made


def answers(made: onnx.ModelProto, feeds: dict[str, np.ndarray], **options: bool) -> dict[str, dict[str, np.ndarray]]:
    """What each engine answers, by its name."""
    chosen = Options(threads=1, **options)
    return {name: ENGINES[name].compile(made, chosen).run(feeds) for name in ("openvino", "onnxruntime")}
