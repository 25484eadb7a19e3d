"""A compiled OpenVINO network that answers."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov

from tnn_serving.engines.base import Arrays, Executable, NodeTime, Shapes, TensorSpec
from tnn_serving.engines.openvino import exported, profile
from tnn_serving.engines.openvino.engine import OpenVINO
from tnn_serving.engines.openvino.errors import reason
from tnn_serving.engines.openvino.numbers import wide_inputs
from tnn_serving.engines.openvino.plugin import compile_network
from tnn_serving.engines.openvino.requests import FixedInferRequest, InferRequest, tensor
from tnn_serving.errors import EngineError, RequestError

if TYPE_CHECKING:
    import onnx


class OpenVINOExecutable(Executable):
    """A compiled network with a pool of infer requests: as many as were ever busy at once.

    Args:
        compiled: the network, compiled.
        inputs, outputs: their names.
        limits: inputs that are right within limits only, as :func:`~tnn_serving.engines.openvino.numbers.wide_inputs`
            gives them.
        properties: what it was compiled with.
        again: compiles it once more.
    """

    engine = OpenVINO.name

    def __init__(
        self,
        compiled: ov.CompiledModel,
        inputs: Sequence[str],
        outputs: Sequence[str],
        limits: Mapping[str, tuple[int, int]],
        properties: Mapping[str, Any],
        again: Callable[[], ov.CompiledModel],
    ) -> None:
        self._again = again
        self._lock = threading.Lock()
        self._compilation = _Compilation(compiled)
        # A compiled port carries the names of everything that was merged into it, and an input that nothing reads has
        # no port; outputs keep their order.
        ports = list(compiled.inputs)
        self._inputs = {name: k for name in inputs for k, port in enumerate(ports) if name in port.names}
        self._names = list(inputs)
        self._limits = limits
        self._properties = properties
        self._outputs = [
            TensorSpec(name, port.element_type.to_dtype(), _shape(port.partial_shape))
            for name, port in zip(outputs, compiled.outputs, strict=True)
        ]
        fixed = all(None not in _shape(port.partial_shape) for port in [*ports, *compiled.outputs])
        self._request = FixedInferRequest if fixed else InferRequest

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """Outputs in the order of the model."""
        return self._outputs

    def run(self, feeds: Arrays, into: Arrays | None = None) -> dict[str, np.ndarray]:
        """One inference on an idle infer request; inputs are read in place.

        Raises EngineError, and RequestError for integers that OpenVINO would cut to 32 bits.
        """
        if self._limits:
            self._check_integers(feeds)
        while True:
            compilation = self._sound()
            try:
                answer = self._answer(compilation, feeds, into)
            except RuntimeError:
                compilation.broken = True
                return self._alone(feeds, into)
            if not compilation.broken:
                return answer
            # Another inference failed beside this one, whose answer may be garbage: once more, on a sound compilation.

    def _check_integers(self, feeds: Arrays) -> None:
        for name, (low, high) in self._limits.items():
            array = feeds.get(name)
            if array is not None and array.size and (array.max() > high or array.min() < low):
                raise RequestError(
                    f"input `{name}` has integers that OpenVINO does not compute with",
                    expected=f"{low} to {high}",
                    found=f"{array.min()} to {array.max()}",
                    hint="run the network on another engine",
                )

    def _answer(self, compilation: _Compilation, feeds: Arrays, into: Arrays | None) -> dict[str, np.ndarray]:
        try:
            request = compilation.idle.get_nowait()
        except queue.Empty:
            request = self._request(compilation.compiled, self._outputs)
        for name, array in feeds.items():
            if name in self._inputs:
                request.feed(self._inputs[name], array)
        return request.infer(into or {}, compilation.idle)

    def _sound(self) -> _Compilation:
        """A compilation on which nothing has failed.

        OpenVINO's nodes keep what an inference that failed left in them, and answer the following ones, on other infer
        requests too, with errors or garbage.
        """
        if self._compilation.broken:
            with self._lock:
                if self._compilation.broken:
                    self._compilation = _Compilation(self._again())
        return self._compilation

    def _alone(self, feeds: Arrays, into: Arrays | None) -> dict[str, np.ndarray]:
        """An inference that failed, once more where nothing else runs: another one may have spoilt it."""
        compilation = _Compilation(self._again())
        try:
            answer = self._answer(compilation, feeds, into)
        except RuntimeError as error:
            raise EngineError("OpenVINO refused or failed", found=reason(error)) from error
        with self._lock:
            if self._compilation.broken:
                self._compilation = compilation
        return answer

    def profile(self, feeds: Arrays, runs: int) -> list[NodeTime]:
        """Mean time of every node over so many inferences. Raises EngineError."""
        tensors = {self._inputs[name]: tensor(array) for name, array in feeds.items() if name in self._inputs}
        try:
            return profile.profiled(self._sound().compiled, tensors, runs)
        except RuntimeError as error:
            raise EngineError("OpenVINO refused or failed", found=reason(error)) from error

    def export(self, model: onnx.ModelProto) -> bytes:
        """The compiled network, with the names of its inputs and outputs."""
        try:
            blob = self._sound().compiled.export_model().getvalue()
        except RuntimeError as error:
            raise EngineError("OpenVINO cannot export the network", found=reason(error)) from error
        outputs = [spec.name for spec in self._outputs]
        facts = exported.Facts(self._names, outputs, dict(self._limits), dict(self._properties))
        return exported.write_exported(facts, blob)


class OpenVINONetwork(OpenVINOExecutable):
    """An executable with the network that it was compiled from, and can be compiled from again.

    Args:
        network: what was compiled. It costs nothing to keep, since the compiled one shares its weights.
        properties: what it was compiled with.
        inputs, outputs: their names.
        compiled: the network, compiled.
    """

    def __init__(
        self,
        network: ov.Model,
        properties: Mapping[str, Any],
        inputs: Sequence[str],
        outputs: Sequence[str],
        compiled: ov.CompiledModel,
    ) -> None:
        again = partial(compile_network, network, properties)
        super().__init__(compiled, inputs, outputs, wide_inputs(network), properties, again)
        self._network = network

    def at(self, shapes: Shapes) -> OpenVINOExecutable:
        """The network compiled for one set of input shapes, which spares it work in every inference."""
        network = self._network.clone()
        ports = [port for port in network.inputs if port.names & shapes.keys()]
        try:
            network.reshape({port: list(shapes[next(iter(port.names & shapes.keys()))]) for port in ports})
        except RuntimeError as error:
            raise EngineError("OpenVINO cannot take these shapes", found=reason(error)) from error
        return self._recompiled(network, self._properties)

    def concurrent(self, streams: int) -> OpenVINOExecutable:
        """The same network compiled for so many concurrent inferences, with one thread each."""
        return self._recompiled(
            self._network, {**self._properties, "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": streams}
        )

    def _recompiled(self, network: ov.Model, properties: Mapping[str, Any]) -> OpenVINOExecutable:
        """Not stored: one file per shape would fill the disk without end."""
        outputs = [spec.name for spec in self._outputs]
        compiled = compile_network(network, properties)
        return OpenVINONetwork(network, properties, self._names, outputs, compiled)


class _Compilation:
    """A compiled network and its idle infer requests; ``broken`` when an inference has failed on it."""

    def __init__(self, compiled: ov.CompiledModel) -> None:
        self.compiled = compiled
        self.idle: queue.SimpleQueue[InferRequest] = queue.SimpleQueue()
        self.broken = False


def _shape(shape: ov.PartialShape) -> tuple[int | None, ...]:
    return tuple(None if dim.is_dynamic else dim.get_length() for dim in shape)
