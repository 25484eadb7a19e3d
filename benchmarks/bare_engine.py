"""An engine as one would use it from Python without us: the exported network, compiled for one shape."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import openvino as ov
from machine import cores

import tnn_serving as ts
from tnn_serving.graph import Graph


@dataclass(frozen=True, slots=True)
class Runs:
    """What came of running it again and again in one thread. ``cpu_us`` is of all the engine's threads."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


class BareEngine:
    """One network on one engine, at its own settings for low latency, on all cores, in float32."""

    def __init__(self, graph: Graph, engine: str, inputs: Mapping[str, np.ndarray]) -> None:
        model = ts.to_onnx(graph, int8="fast").SerializeToString()
        self._inputs = dict(inputs)
        if engine == "openvino":
            network = ov.Core().read_model(model)
            network.reshape({name: list(array.shape) for name, array in inputs.items()})
            options = {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32",
                "INFERENCE_NUM_THREADS": cores(),
            }
            request = ov.Core().compile_model(network, "CPU", options).create_infer_request()
            self._run = lambda: request.infer(self._inputs, share_inputs=True, share_outputs=True)[0]
        else:
            settings = ort.SessionOptions()
            settings.intra_op_num_threads = cores()
            session = ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
            self._run = lambda: session.run(None, self._inputs)[0]

    def answer(self) -> np.ndarray:
        """The first output, a copy."""
        return np.array(self._run())

    def measure(self, seconds: float) -> Runs:
        """Runs it for so long."""
        self._run()
        times = []
        cpu = time.process_time()
        start = time.perf_counter()
        while (begun := time.perf_counter()) < start + seconds:
            self._run()
            times.append(time.perf_counter() - begun)
        took_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
        p50_s, p99_s = np.percentile(times, [50, 99])
        return Runs(len(times) / took_s, float(p50_s) * 1e3, float(p99_s) * 1e3, cpu_s / len(times) * 1e6)
