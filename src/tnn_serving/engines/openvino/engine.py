"""OpenVINO on CPU."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import onnx
import openvino as ov

from tnn_serving.engines.base import VIEW_FROM_BYTES, Arrays, NodeTime, Options, Shapes, TensorSpec
from tnn_serving.engines.cpu import cpu_name
from tnn_serving.engines.kept import Kept
from tnn_serving.engines.openvino import profile
from tnn_serving.engines.openvino.codes import unsigned_codes
from tnn_serving.engines.openvino.repairs import keep_ties_in_order, truncate_divisions, widen_single_channels
from tnn_serving.engines.openvino.rounding import codes_as_floats, keep_divisions, keep_products, quantise_rounded
from tnn_serving.errors import EngineError
from tnn_serving.version import VERSION

NOTHING_KEPT = Kept(None)

LEAST_KERNELS = 256
"""Kernels that an executable with free shapes keeps, or one for each of its operators if these are more: those of
several shapes, or of one. OpenVINO would keep 5000, some 0.1 MB each, for every network. Shapes that come often are
compiled for anyway."""

MISCOMPUTED = {("RoiAlign", "max")}
"""Operators, with their mode, that OpenVINO compiles but computes otherwise than ONNX says: it takes the maximum of
interpolated samples, where ONNX and TNN take that of the weighted corners."""

KERNELS_IN_COMMON = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
"""What oneDNN, below OpenVINO, keeps for whoever compiles an equal layer next: 1024 kernels by itself, some 0.1 MB for
every new shape of a network. Compiled models keep their own; equal layers of a model still find each other."""

COPY_UP_TO_BYTES = 16 * 1024
"""Inputs up to this size are copied into the request's own memory, which costs less than giving it theirs."""


def _mode(node: onnx.NodeProto) -> str:
    return next((attribute.s.decode() for attribute in node.attribute if attribute.name == "mode"), "")


# OpenVINO's bindings fill a table of types when first asked, without the care that several threads need: two of them
# that ask at once can wait for each other for ever. Asked here, the table is full before there is a second thread.
ov.Type.f32.to_dtype()


@cache
def _core() -> ov.Core:
    for name, value in KERNELS_IN_COMMON.items():
        os.environ.setdefault(name, value)  # oneDNN reads it when it first compiles
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
        serialized = model.SerializeToString()
        try:
            network = _core().read_model(serialized)
            keep_ties_in_order(network)
            truncate_divisions(network)
            widen_single_channels(network)
            if options.exact_codes:
                codes_as_floats(network)
                keep_divisions(network)
                keep_products(network)
            else:
                quantise_rounded(network)
                unsigned_codes(network)
        except RuntimeError as error:
            raise EngineError("OpenVINO cannot read the network", found=_reason(error)) from error
        properties = _properties(options)
        operators = sum(node.get_type_name() != "Constant" for node in network.get_ops())
        properties["CPU_RUNTIME_CACHE_CAPACITY"] = max(LEAST_KERNELS, operators)
        return OpenVINOExecutable(
            network,
            properties,
            [value.name for value in model.graph.input],
            [value.name for value in model.graph.output],
            _compile(network, properties, Kept(options.cache_dir), serialized),
        )


def _properties(options: Options) -> dict[str, Any]:
    properties: dict[str, Any] = {
        # Without this, CPUs with bf16 units compute in bf16 silently: 0.4 to 2 % off.
        "INFERENCE_PRECISION_HINT": options.precision,
        "PERFORMANCE_HINT": "LATENCY",
        # Pinned threads of several models sit on the same cores, and wait there behind the server's own threads.
        "ENABLE_CPU_PINNING": False,
    }
    if options.threads:
        properties["INFERENCE_NUM_THREADS"] = options.threads
    if options.streams:
        properties["NUM_STREAMS"] = options.streams
    if options.profile:
        properties |= profile.PROPERTIES
    return properties


def _compile(
    network: ov.Model, properties: Mapping[str, Any], kept: Kept = NOTHING_KEPT, serialized: bytes = b""
) -> ov.CompiledModel:
    """Compiles, or takes what was compiled of the same model before.

    OpenVINO's own cache (CACHE_DIR) looks at no more than the version in its files: one with a flipped bit gives wrong
    answers. It also maps them, so that one that is cut short later ends the process.

    Raises:
        EngineError: OpenVINO cannot compile the network.
    """
    name = ""
    if kept.folder is not None:
        facts = f"{ov.__version__} {VERSION} {cpu_name()} {sorted(properties.items())}"
        name = hashlib.sha256(hashlib.sha256(serialized).digest() + facts.encode()).hexdigest() + ".blob"
        blob = kept.get(name)
        if blob is not None:
            with suppress(RuntimeError):  # it was exported by another build of the same version, at worst
                return _core().import_model(blob, "CPU", dict(properties))
    try:
        compiled = _core().compile_model(network, "CPU", dict(properties))
        if kept.folder is not None:
            kept.put(name, compiled.export_model().getvalue())
    except RuntimeError as error:
        raise EngineError("OpenVINO cannot compile the network", found=_reason(error)) from error
    return compiled


class OpenVINOExecutable:
    """A compiled model with a pool of infer requests: as many as were ever busy at once.

    The OpenVINO model it was compiled from costs nothing to keep, since the compiled one shares its weights; it serves
    to compile for single shapes later.
    """

    engine = OpenVINO.name

    def __init__(
        self,
        network: ov.Model,
        properties: Mapping[str, Any],
        inputs: Sequence[str],
        outputs: Sequence[str],
        compiled: ov.CompiledModel,
    ) -> None:
        self._network = network
        self._properties = properties
        self._lock = threading.Lock()
        self._compilation = _Compilation(compiled)
        # A compiled port carries the names of everything that was merged into it, and an input that nothing reads has
        # no port; outputs keep their order.
        ports = list(compiled.inputs)
        self._inputs = {name: k for name in inputs for k, port in enumerate(ports) if name in port.names}
        self._names = list(inputs)
        self._outputs = [
            TensorSpec(name, port.element_type.to_dtype(), _shape(port.partial_shape))
            for name, port in zip(outputs, compiled.outputs, strict=True)
        ]
        fixed = all(None not in _shape(port.partial_shape) for port in [*ports, *compiled.outputs])
        self._kind = _FixedRequest if fixed else _Request

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """Outputs in the order of the model."""
        return self._outputs

    def run(self, feeds: Arrays, into: Arrays | None = None) -> dict[str, np.ndarray]:
        """One inference on an idle infer request; inputs are read in place. Raises EngineError."""
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

    def _answer(self, compilation: _Compilation, feeds: Arrays, into: Arrays | None) -> dict[str, np.ndarray]:
        try:
            request = compilation.idle.get_nowait()
        except queue.Empty:
            request = self._kind(compilation.compiled, self._outputs)
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
                    self._compilation = _Compilation(_compile(self._network, self._properties))
        return self._compilation

    def _alone(self, feeds: Arrays, into: Arrays | None) -> dict[str, np.ndarray]:
        """An inference that failed, once more where nothing else runs: it may have been spoilt by another one."""
        compilation = _Compilation(_compile(self._network, self._properties))
        try:
            answer = self._answer(compilation, feeds, into)
        except RuntimeError as error:
            raise EngineError("OpenVINO refused or failed", found=_reason(error)) from error
        with self._lock:
            if self._compilation.broken:
                self._compilation = compilation
        return answer

    def profile(self, feeds: Arrays, runs: int) -> list[NodeTime]:
        """Mean time of every node over so many inferences. Raises EngineError."""
        tensors = {self._inputs[name]: _tensor(array) for name, array in feeds.items() if name in self._inputs}
        try:
            return profile.profiled(self._sound().compiled, tensors, runs)
        except RuntimeError as error:
            raise EngineError("OpenVINO refused or failed", found=_reason(error)) from error

    def at(self, shapes: Shapes) -> OpenVINOExecutable:
        """The network compiled for one set of input shapes, which spares it work in every inference."""
        network = self._network.clone()
        ports = [port for port in network.inputs if port.names & shapes.keys()]
        try:
            network.reshape({port: list(shapes[next(iter(port.names & shapes.keys()))]) for port in ports})
        except RuntimeError as error:
            raise EngineError("OpenVINO cannot take these shapes", found=_reason(error)) from error
        return self._recompiled(network, self._properties)

    def side_by_side(self, streams: int) -> OpenVINOExecutable:
        """The same network compiled for so many inferences at a time, with one thread each."""
        return self._recompiled(
            self._network, {**self._properties, "NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": streams}
        )

    def _recompiled(self, network: ov.Model, properties: Mapping[str, Any]) -> OpenVINOExecutable:
        """Not kept: one file a shape would fill the disk without end."""
        outputs = [spec.name for spec in self._outputs]
        return OpenVINOExecutable(network, properties, self._names, outputs, _compile(network, properties))


class _Compilation:
    """A compiled model and its idle infer requests; ``broken`` when an inference has failed on it."""

    def __init__(self, compiled: ov.CompiledModel) -> None:
        self.compiled = compiled
        self.idle: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self.broken = False


class _Request:
    """An infer request of a network with free shapes. It does not know where the idle ones lie, which would make a
    cycle of references: a compilation that nobody needs would stay until Python looks for those."""

    def __init__(self, compiled: ov.CompiledModel, outputs: Sequence[TensorSpec]) -> None:
        self._request = compiled.create_infer_request()
        self._outputs = outputs

    def feed(self, index: int, array: np.ndarray) -> None:
        """Sets an input to the array's own memory."""
        self._request.set_input_tensor(index, _tensor(array))

    def infer(self, into: Arrays, idle: queue.SimpleQueue[_Request]) -> dict[str, np.ndarray]:
        """Runs, gives the outputs, and goes to the idle ones when nobody looks at its memory any more."""
        self._lend(into)
        self._request.infer(share_outputs=True)
        lease: _Lease | None = None
        answer = {}
        for k, spec in enumerate(self._outputs):
            data = self._view(k)
            target = into.get(spec.name)
            if target is not None:
                if data is not target:
                    target[...] = data
                answer[spec.name] = target
            elif data.nbytes < VIEW_FROM_BYTES or data.dtype != spec.dtype:
                answer[spec.name] = np.array(data, dtype=spec.dtype)
            else:
                lease = lease or _Lease(self, idle)
                answer[spec.name] = np.asarray(_Leased(data, lease))
        self._take_back()
        if lease is None:
            idle.put(self)
        return answer

    def _lend(self, into: Arrays) -> None:
        """Lets the engine compute outputs straight into the caller's memory, where it can."""

    def _take_back(self) -> None:
        """Undoes :meth:`_lend`: the caller's memory may be gone at the next inference."""

    def _view(self, index: int) -> np.ndarray:
        data: np.ndarray = self._request.get_output_tensor(index).data
        return data


class _FixedRequest(_Request):
    """An infer request of a network with fixed shapes: its own tensors never move, so they are looked up once, and
    outputs can be computed straight into memory of the caller."""

    def __init__(self, compiled: ov.CompiledModel, outputs: Sequence[TensorSpec]) -> None:
        super().__init__(compiled, outputs)
        self._own_inputs = [_written(tensor) for tensor in self._request.input_tensors]
        self._own_outputs = list(self._request.output_tensors)
        self._views: list[np.ndarray] = [tensor.data for tensor in self._own_outputs]
        self._lent: dict[int, np.ndarray] = {}

    def feed(self, index: int, array: np.ndarray) -> None:
        own = self._own_inputs[index]
        if own is None:
            super().feed(index, array)
        elif own.shape == array.shape:
            own[...] = array
        else:
            raise RuntimeError(f"input {index} has shape {list(array.shape)}, not {list(own.shape)}")

    def _lend(self, into: Arrays) -> None:
        for k, spec in enumerate(self._outputs):
            target = into.get(spec.name)
            if target is not None and self._may_lend(k, target):
                self._request.set_output_tensor(k, ov.Tensor(target, shared_memory=True))
                self._lent[k] = target

    def _take_back(self) -> None:
        for k in self._lent:
            self._request.set_output_tensor(k, self._own_outputs[k])
        self._lent.clear()

    def _may_lend(self, index: int, target: np.ndarray) -> bool:
        own = self._views[index]
        return target.nbytes >= VIEW_FROM_BYTES and target.dtype == own.dtype and target.shape == own.shape

    def _view(self, index: int) -> np.ndarray:
        return self._lent.get(index, self._views[index])


class _Lease:
    """Keeps an infer request from its next use as long as somebody looks at its outputs."""

    def __init__(self, request: _Request, idle: queue.SimpleQueue[_Request]) -> None:
        self._request = request
        self._idle = idle

    def __del__(self) -> None:
        self._idle.put(self._request)


class _Leased:
    """An array's memory, and the lease that whoever looks at it holds."""

    def __init__(self, array: np.ndarray, lease: _Lease) -> None:
        self.__array_interface__ = array.__array_interface__
        self._lease = lease


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


def _written(tensor: ov.Tensor) -> np.ndarray | None:
    """The tensor's memory if inputs are to be copied there: small ones, for which that is the cheapest way."""
    data: np.ndarray = tensor.data
    return data if data.ndim and data.size and data.nbytes <= COPY_UP_TO_BYTES else None


def _shape(shape: ov.PartialShape) -> tuple[int | None, ...]:
    return tuple(None if dim.is_dynamic else dim.get_length() for dim in shape)


def _reason(error: Exception) -> str:
    """The sentence of an OpenVINO error without its source positions."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return " ".join((told or lines)[:3])[:600]
