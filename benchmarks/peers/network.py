"""Common part of all peers: their ports, and the engine with its fastest documented settings.

Runs in the peer's own environment; needs only openvino and numpy. A peer is started with these variables:
``PEER_MODELS`` (folder of NAME.onnx), ``PEER_PORTS`` (for requests, and two more for other endpoints),
``PEER_WORKERS``, ``PEER_THREADS`` (of the engine, per worker), ``PEER_BATCH`` (maximum requests per batch; 1 for a
server without batching).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino as ov

MODELS = Path(os.environ["PEER_MODELS"])
PORT, *OTHER_PORTS = map(int, os.environ["PEER_PORTS"].split(","))
WORKERS = int(os.environ["PEER_WORKERS"])
THREADS = int(os.environ["PEER_THREADS"])
BATCH = int(os.environ["PEER_BATCH"])
BATCH_WAIT_S = 0.001
"""How long requests wait for a batch: the shortest time that all peers support."""

SHAPES = {"tiny": (1, 4), "squeezenet": (1, 3, 224, 224)}
NAMES = tuple(SHAPES)
CHEAP = ("tiny",)
"""Networks whose inference costs less than its call: a batch of these is one inference. For the others, a batch takes a
CPU as long as its rows individually, so they run individually, which saves the copy that joins them."""


class Network:
    """One network compiled for one shape. Not thread-safe; inference releases the GIL."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shape = SHAPES[name]
        self._model = ov.Core().read_model(MODELS / f"{name}.onnx")
        self.input_name = next(iter(self._model.inputs[0].names))
        self.output_name = next(iter(self._model.outputs[0].names))
        self._request = self._compiled(self.shape[0])
        # The request's own tensors: filling them costs one copy, and the inference needs no conversion.
        self._input = self._request.get_input_tensor(0).data.reshape(-1)
        self._output = self._request.get_output_tensor(0).data
        self.output_shape = tuple(self._output.shape)
        self._rows = self._compiled(ov.Dimension(1, BATCH)) if BATCH > 1 and name in CHEAP else None
        self.run(bytes(self._input.nbytes))

    def _compiled(self, rows: int | ov.Dimension) -> ov.InferRequest:
        model = self._model.clone()
        model.reshape([rows, *self.shape[1:]])
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": THREADS,
            "NUM_STREAMS": 1,
            # Each process counts cores from the first one: several processes would be pinned to the same cores.
            "ENABLE_CPU_PINNING": WORKERS == 1,
        }
        return ov.Core().compile_model(model, "CPU", options).create_infer_request()

    def run(self, data: bytes) -> bytes:
        """Bytes of the input tensor to bytes of the output tensor, float32."""
        self._input[:] = np.frombuffer(data, np.float32)
        self._request.infer()
        return self._output.tobytes()

    def run_many(self, batch: Sequence[bytes]) -> list[bytes]:
        """:meth:`run` for each element."""
        if self._rows is None or len(batch) == 1:
            return [self.run(data) for data in batch]
        answers = self._run_rows(np.frombuffer(b"".join(batch), np.float32).reshape(-1, *self.shape[1:]))
        return [row.tobytes() for row in answers]

    def run_array(self, rows: np.ndarray) -> np.ndarray:
        """:meth:`run` with arrays of one or more rows; the memory of a single row's answer is reused."""
        if len(rows) == 1:
            self._input[:] = rows.reshape(-1)
            self._request.infer()
            return self._output
        if self._rows is None:
            return np.concatenate([self.run_array(row[None]).copy() for row in rows])
        return self._run_rows(rows)

    def _run_rows(self, rows: np.ndarray) -> np.ndarray:
        assert self._rows is not None
        return self._rows.infer([rows], share_inputs=True)[0]
