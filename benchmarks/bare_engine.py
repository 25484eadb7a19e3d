"""An engine without this package, called from Python: the exported network, compiled for one shape.

Like the servers, it runs in its own process and session: Linux divides the cores among sessions first.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import onnxruntime as ort
import openvino as ov

import tnn_serving as ts
from machine import cores
from tnn_serving.graph import Graph

Run = Callable[[], np.ndarray]


@dataclass(frozen=True, slots=True)
class Runs:
    """Figures of repeated runs in one thread. ``cpu_us`` includes all threads of the engine."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


class BareEngine:
    """One network on one engine, with the engine's settings for low latency, on all cores, in float32."""

    def __init__(self, graph: Graph, engine: str, inputs: Mapping[str, np.ndarray]) -> None:
        model = ts.to_onnx(graph).SerializeToString()
        self._process = ProcessPoolExecutor(
            1, get_context("spawn"), initializer=_initialise, initargs=(model, engine, dict(inputs))
        )

    def __enter__(self) -> BareEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.shutdown()

    def answer(self) -> np.ndarray:
        """The first output."""
        return self._process.submit(_answer).result()

    def measure(self, seconds: float, pause_s: float = 0) -> Runs:
        """Runs it for ``seconds``, with a pause after each run that is not part of the run's time."""
        return self._process.submit(_measure, seconds, pause_s).result()


_run: Run


def _initialise(model: bytes, engine: str, inputs: dict[str, np.ndarray]) -> None:
    global _run
    os.setsid()
    _run = {"openvino": _openvino, "onnxruntime": _onnxruntime}[engine](model, inputs)


def _openvino(model: bytes, inputs: dict[str, np.ndarray]) -> Run:
    network = ov.Core().read_model(model)
    network.reshape({name: list(array.shape) for name, array in inputs.items()})
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": cores()}
    request = ov.Core().compile_model(network, "CPU", options).create_infer_request()
    return lambda: request.infer(inputs, share_inputs=True, share_outputs=True)[0]


def _onnxruntime(model: bytes, inputs: dict[str, np.ndarray]) -> Run:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = cores()
    session = ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, inputs)[0]


def _answer() -> np.ndarray:
    return np.array(_run())


def _measure(seconds: float, pause_s: float) -> Runs:
    _run()
    times = []
    cpu_s = time.process_time()
    start = time.perf_counter()
    while (begun := time.perf_counter()) < start + seconds:
        _run()
        times.append(time.perf_counter() - begun)
        if pause_s:
            time.sleep(pause_s)
    took_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu_s
    p50_s, p99_s = np.percentile(times, [50, 99])
    return Runs(len(times) / took_s, float(p50_s) * 1e3, float(p99_s) * 1e3, cpu_s / len(times) * 1e6)
