"""What all peers share: where they listen, and the engine that they answer with, at its fastest documented settings.

Runs in the peer's own environment; needs openvino and numpy only. A peer is started with these variables:
``PEER_MODELS`` (folder of NAME.onnx), ``PEER_PORT``, ``PEER_WORKERS``, ``PEER_THREADS`` (of the engine, in each worker).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import openvino as ov

MODELS = Path(os.environ["PEER_MODELS"])
PORT = int(os.environ["PEER_PORT"])
WORKERS = int(os.environ["PEER_WORKERS"])
THREADS = int(os.environ["PEER_THREADS"])
SHAPES = {"tiny": (1, 4), "squeezenet": (1, 3, 224, 224)}
NAMES = tuple(SHAPES)


class Network:
    """One network compiled for its one shape. ``run`` is not for several threads at once; inference leaves the GIL."""

    def __init__(self, name: str) -> None:
        core = ov.Core()
        model = core.read_model(MODELS / f"{name}.onnx")
        model.reshape(list(SHAPES[name]))
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": THREADS,
            "NUM_STREAMS": 1,
        }
        self._request = core.compile_model(model, "CPU", options).create_infer_request()
        # The request's own tensors: filling them costs one copy, and an inference no conversion at all.
        self._input = self._request.get_input_tensor(0).data.reshape(-1)
        self._output = self._request.get_output_tensor(0).data
        self.name = name
        self.input_name = next(iter(model.inputs[0].names))
        self.output_name = next(iter(model.outputs[0].names))
        self.shape = SHAPES[name]
        self.output_shape = tuple(self._output.shape)
        self.run(bytes(self._input.nbytes))

    def run(self, data: bytes) -> bytes:
        """Bytes of the input tensor to bytes of the output tensor, float32."""
        self._input[:] = np.frombuffer(data, np.float32)
        self._request.infer()
        return self._output.tobytes()

    def run_array(self, array: np.ndarray) -> np.ndarray:
        """The same with arrays; the answer's memory is used again by the next inference."""
        self._input[:] = array.reshape(-1)
        self._request.infer()
        return self._output
