"""Sessions of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime as ort

from tnn_serving.engines.base import Arrays, Executable, NodeTime, Options, TensorSpec
from tnn_serving.engines.onnxruntime.engine import OnnxRuntime
from tnn_serving.engines.onnxruntime.profile import Profiling
from tnn_serving.errors import EngineError

if TYPE_CHECKING:
    import onnx

ort.disable_telemetry_events()

_DTYPES: dict[str, np.dtype] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int16)": np.dtype(np.int16),
    "tensor(uint16)": np.dtype(np.uint16),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(uint32)": np.dtype(np.uint32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(uint64)": np.dtype(np.uint64),
    "tensor(bool)": np.dtype(np.bool_),
}
FATAL_ONLY = 4
"""Log severity: warnings are about optimisations that it did not do, and errors are raised as well."""


def compile(model: onnx.ModelProto, options: Options) -> OnnxRuntimeExecutable:
    """Compiles an ONNX model. Raises EngineError if ONNX Runtime cannot."""
    if options.precision not in OnnxRuntime.precisions:
        raise EngineError("ONNX Runtime computes in f32 on CPU", found=f"precision {options.precision}")
    session_options = ort.SessionOptions()
    session_options.log_severity_level = FATAL_ONLY
    if options.threads:
        # A run computes with this many threads, whichever of them are idle; concurrent runs share them.
        session_options.intra_op_num_threads = max(1, options.threads // max(1, options.streams))
    # Threads that wait in a loop for the next operator would take the cores from other models and the server.
    session_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Plans of memory are kept for every combination of input shapes that ever came: growth without bound.
    session_options.enable_mem_pattern = not _has_free_shapes(model)
    profiling = Profiling(model, session_options) if options.profile else None
    try:
        session = ort.InferenceSession(model.SerializeToString(), session_options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EngineError("ONNX Runtime cannot compile the network", found=_reason(error)) from error
    return OnnxRuntimeExecutable(session, profiling)


class OnnxRuntimeExecutable(Executable):
    """A session. It is as fast with free shapes as with fixed ones, and concurrent runs share its threads."""

    engine = OnnxRuntime.name

    def __init__(self, session: ort.InferenceSession, profiling: Profiling | None = None) -> None:
        self._session = session
        self._profiling = profiling
        self._outputs = [
            TensorSpec(item.name, _dtype(item), tuple(d if isinstance(d, int) else None for d in item.shape))
            for item in session.get_outputs()
        ]
        self._names = [spec.name for spec in self._outputs]

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """Outputs in the order of the model."""
        return self._outputs

    def run(self, feeds: Arrays, into: Arrays | None = None) -> dict[str, np.ndarray]:
        """One inference. Raises EngineError."""
        try:
            answer = dict(zip(self._names, self._session.run(self._names, feeds), strict=True))
        except Exception as error:
            raise EngineError("ONNX Runtime refused or failed", found=_reason(error)) from error
        for name, target in (into or {}).items():
            target[...] = answer[name]
            answer[name] = target
        return answer

    def profile(self, feeds: Arrays, runs: int) -> list[NodeTime]:
        """Mean time of every node over so many inferences. Raises EngineError."""
        if self._profiling is None:
            raise EngineError("the network was not compiled for profiling", expected="the option profile=True")
        try:
            return self._profiling.profiled(self._session, feeds, runs)
        except RuntimeError as error:
            raise EngineError("ONNX Runtime refused or failed", found=_reason(error)) from error


def _dtype(item: ort.NodeArg) -> np.dtype:
    if item.type not in _DTYPES:
        raise EngineError(f"output `{item.name}` has a type that is not supported", found=item.type)
    return _DTYPES[item.type]


def _has_free_shapes(model: onnx.ModelProto) -> bool:
    return any(dim.HasField("dim_param") for item in model.graph.input for dim in item.type.tensor_type.shape.dim)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:600]
