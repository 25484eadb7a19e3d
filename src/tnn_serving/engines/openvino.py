"""OpenVINO on CPU."""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
import openvino as ov

from tnn_serving.engines.base import Options, TensorSpec
from tnn_serving.engines.openvino_codes import unsigned_codes
from tnn_serving.engines.openvino_division import round_divisions
from tnn_serving.engines.openvino_repairs import keep_ties_in_order, widen_single_channels
from tnn_serving.errors import EngineError

MISCOMPUTED = {("RoiAlign", "max")}
"""Operators, with their mode, that OpenVINO compiles but computes otherwise than ONNX says: it takes the maximum of
interpolated samples, where ONNX and TNN take that of the weighted corners."""


def _mode(node: onnx.NodeProto) -> str:
    return next((attribute.s.decode() for attribute in node.attribute if attribute.name == "mode"), "")


# OpenVINO's bindings fill a table of types when first asked, without the care that several threads need: two of them
# that ask at once can wait for each other for ever. Asked here, the table is full before there is a second thread.
ov.Type.f32.to_dtype()


@cache
def _core() -> ov.Core:
    return ov.Core()


class OpenVINO:
    """Compiles with OpenVINO's CPU plugin."""

    name = "openvino"

    def version(self) -> str:
        """Version of the package."""
        return str(ov.__version__)

    def compile(self, model: onnx.ModelProto, options: Options) -> OpenVINOExecutable:
        """Compiles an ONNX model. Raises EngineError if OpenVINO cannot, or would compute something else."""
        for node in model.graph.node:
            if (node.op_type, _mode(node)) in MISCOMPUTED:
                raise EngineError(
                    f"OpenVINO computes {node.op_type} with mode {_mode(node)} differently", found=node.name
                )
        properties: dict[str, Any] = {
            # Without this, CPUs with bf16 units compute in bf16 silently: 0.4 to 2 % off.
            "INFERENCE_PRECISION_HINT": options.precision,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if options.threads:
            properties["INFERENCE_NUM_THREADS"] = options.threads
        if options.streams:
            properties["NUM_STREAMS"] = options.streams
        if options.cache_dir is not None:
            properties["CACHE_DIR"] = str(options.cache_dir)
        try:
            network = _core().read_model(model.SerializeToString())
            keep_ties_in_order(network)
            widen_single_channels(network)
            unsigned_codes(network)
            if options.ieee_division:
                round_divisions(network)
            compiled = _core().compile_model(network, "CPU", properties)
        except RuntimeError as error:
            raise EngineError("OpenVINO cannot compile the network", found=_reason(error)) from error
        return OpenVINOExecutable(
            compiled, [value.name for value in model.graph.input], [value.name for value in model.graph.output]
        )


class OpenVINOExecutable:
    """A compiled model with a pool of infer requests: as many as were ever busy at once."""

    engine = OpenVINO.name

    def __init__(self, compiled: ov.CompiledModel, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        self._compiled = compiled
        self._idle: queue.SimpleQueue[ov.InferRequest] = queue.SimpleQueue()
        # A compiled port carries the names of everything that was merged into it, and an input that nothing reads has
        # no port; outputs keep their order.
        ports = list(compiled.inputs)
        self._inputs = {name: k for name in inputs for k, port in enumerate(ports) if name in port.names}
        self._outputs = [
            TensorSpec(name, port.element_type.to_dtype(), _shape(port.partial_shape))
            for name, port in zip(outputs, compiled.outputs, strict=True)
        ]

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """Outputs in the order of the model."""
        return self._outputs

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One inference on an idle infer request; inputs are read in place. Raises EngineError."""
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._compiled.create_infer_request()
        try:
            for name, array in feeds.items():
                if name in self._inputs:
                    request.set_input_tensor(self._inputs[name], _tensor(array))
            request.infer()
            answer = {spec.name: _copied(request.get_output_tensor(k), spec) for k, spec in enumerate(self._outputs)}
        except RuntimeError as error:
            # A request that failed may fail for ever after: it does not go back to the others.
            raise EngineError("OpenVINO refused or failed", found=_reason(error)) from error
        self._idle.put(request)
        return answer


class _Writeable:
    """The same memory without numpy's read-only mark: OpenVINO insists on that, although it only reads inputs."""

    def __init__(self, array: np.ndarray) -> None:
        address = array.__array_interface__["data"][0]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}
        self._keeps_alive = array


def _tensor(array: np.ndarray) -> ov.Tensor:
    """A tensor over the array's own memory; an empty or rank-0 array has none that could be shared."""
    if not array.ndim or not array.size:
        return ov.Tensor(array)
    return ov.Tensor(array if array.flags.writeable else np.asarray(_Writeable(array)), shared_memory=True)


def _copied(tensor: ov.Tensor, spec: TensorSpec) -> np.ndarray:
    """The request's own memory is used again by the next inference."""
    return np.array(tensor.data, dtype=spec.dtype)


def _shape(shape: ov.PartialShape) -> tuple[int | None, ...]:
    return tuple(None if dim.is_dynamic else dim.get_length() for dim in shape)


def _reason(error: Exception) -> str:
    """The sentence of an OpenVINO error without its source positions."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return " ".join((told or lines)[:3])[:600]
