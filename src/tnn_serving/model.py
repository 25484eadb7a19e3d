"""The Python API: a loaded network that answers."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from tnn_serving.engines import Executable, Options, TensorSpec, engine_named
from tnn_serving.engines.cpu import Cpu
from tnn_serving.errors import ConfigError, EngineError, RequestError, TnnError, located
from tnn_serving.formats import read_model
from tnn_serving.graph import Graph
from tnn_serving.int8 import Decision, decide, processor
from tnn_serving.layers.quantized import Form
from tnn_serving.translate.graph import Blob, check_shapes, fingerprint, free_dims, translate
from tnn_serving.translate.inference import SAMPLE_LIMIT
from tnn_serving.translate.limits import UNLIMITED, Limits
from tnn_serving.translate.pictures import PictureInput

log = logging.getLogger(__name__)

REMEMBERED_SHAPES = 4096
"""Combinations of input shapes that are known to fit."""

Source = str | os.PathLike[str] | tuple[str | os.PathLike[str] | bytes, str | os.PathLike[str] | bytes] | Graph


def to_graph(source: Source) -> Graph:
    """The graph that a source means: see :func:`load`."""
    if isinstance(source, Graph):
        return source
    if isinstance(source, tuple):
        return read_model(*source)
    return read_model(source)


def load(
    source: Source, engine: str = "auto", *, int8: str = "auto", raw_int8: bool = False, **options: object
) -> Model:
    """Loads a model: reads, translates, compiles.

    Args:
        source: a model folder, a .tnnproto with its .tnnmodel beside it, (proto, model) as paths or bytes, or a Graph.
        engine: "openvino", "onnxruntime", or "auto": OpenVINO, and ONNX Runtime for what it cannot compile.
        int8: "exact" gives TNN's code everywhere; "fast" uses the engine's int8 kernels, within one step a layer;
            "auto" is fast where the processor and the network make it safe.
        raw_int8: int8 blobs are codes at the border too, instead of float32.
        options: see :class:`tnn_serving.engines.Options`.

    Raises:
        FormatError: the files are broken.
        UnsupportedLayer: a layer cannot be executed.
        ShapeError, WeightsError: layers do not fit each other or their weights.
        EngineError: no engine compiles the network.
        ConfigError: an unknown engine or option.
    """
    return Model(to_graph(source), engine, Options.of(options), int8=int8, raw_int8=raw_int8)


def to_onnx(source: Source, *, int8: str = "exact", raw_int8: bool = False) -> onnx.ModelProto:
    """The network as an ONNX model: opset 21, standard operators, blob names kept, free dims symbolic.

    Inputs with a stored value are graph inputs with an initializer, which is ONNX's way to say the same.

    Args:
        source: as for :func:`load`.
        int8: "exact", or "fast" for Quantize and DequantizeLinear, which engines run as int8 kernels.
        raw_int8: int8 blobs are codes at the border, instead of float32.

    Raises:
        FormatError, UnsupportedLayer, ShapeError, WeightsError: as :func:`load`.
    """
    if int8 not in ("exact", "fast"):
        raise ConfigError("unknown int8 form", expected="exact or fast", found=int8)
    graph = to_graph(source)
    optional = _optional(graph)
    translation = translate(
        graph,
        given=optional,
        symbolic=free_dims(graph, given=optional),
        form=Form.EXACT if int8 == "exact" else Form.FAST_U8,
        raw_int8=raw_int8,
    )
    translation.model.metadata_props.update({"tnn.source": graph.source, "tnn.sha256": fingerprint(graph)})
    made = translation.proto()
    made.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in translation.defaults.items()
    )
    return made


def _optional(graph: Graph) -> list[str]:
    return [item.name for item in graph.inputs if item.name in graph.constants]


class Model:
    """A loaded network. ``run`` may be called from several threads at once.

    Other outputs than the network's own, and inputs that have a stored default, need another compilation; it is made
    when first asked for and kept.
    """

    def __init__(
        self,
        graph: Graph,
        engine: str = "auto",
        options: Options | None = None,
        *,
        pictures: Mapping[str, PictureInput] | None = None,
        int8: str = "auto",
        raw_int8: bool = False,
        cpu: Cpu | None = None,
        limits: Limits = UNLIMITED,
    ) -> None:
        self.graph = graph
        self._limits = limits
        self._int8 = int8
        self._raw_int8 = raw_int8
        self._cpu = cpu or processor()
        self.int8: Decision | None = None
        self._pictures = dict(pictures or {})
        self._engines = engine_named(engine)
        self._options = options or Options()
        self._lock = threading.Lock()
        self._compiled: dict[tuple[tuple[str, ...], tuple[str, ...]], Executable] = {}
        self._taken: dict[object, None] = {}
        self._optional = _optional(graph)
        self._free = free_dims(graph, given=self._optional, limits=limits)
        everything = translate(
            graph, given=self._optional, symbolic=self._free, pictures=self._pictures, raw_int8=raw_int8, limits=limits
        )
        self._sizing = everything.sizing
        self._inputs = {blob.name: _spec(blob) for blob in everything.inputs}
        self._sizes = {blob.name: tuple(dim or 0 for dim in blob.dims) for blob in everything.inputs}
        for name in self._inputs:
            if not any(True for _ in graph.consumers(name)):
                log.warning("%s: input `%s` is not used by any layer", graph.source, name)
        self._blobs = everything.blobs
        self._executable(tuple(graph.outputs), ())
        self._limits = replace(limits, deadline_s=math.inf)  # requests have no part in the time for loading

    @property
    def engine(self) -> str:
        """Name of the engine that runs the network."""
        return self._executable(tuple(self.graph.outputs), ()).engine

    @property
    def inputs(self) -> list[TensorSpec]:
        """Name, type and shape of each input (``None`` where free), in file order."""
        return list(self._inputs.values())

    @property
    def outputs(self) -> list[TensorSpec]:
        """Name, type and shape of each output (``None`` where it follows the inputs), in file order."""
        return [_spec(self._blobs[name]) for name in self.graph.outputs]

    @property
    def optional_inputs(self) -> list[str]:
        """Inputs that may be left out, because the model file holds a value for them."""
        return list(self._optional)

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """A shape of each input that the network takes: the default one, in the input's own layout."""
        return dict(self._sizes)

    @property
    def default_shapes(self) -> dict[str, tuple[int, ...]]:
        """The input shapes that the proto gives."""
        return {item.name: item.dims for item in self.graph.inputs}

    def blobs(self) -> dict[str, TensorSpec]:
        """Type and shape of every blob that a layer produces."""
        produced = {name for layer in self.graph.layers for name in layer.outputs}
        return {name: _spec(blob) for name, blob in self._blobs.items() if name in produced}

    def run(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Runs the network.

        Args:
            inputs: an array for each input; those with a stored value may be left out. Arrays are converted to the
                input's type where that loses nothing in kind (float64 to float32, int64 to int32).
            outputs: blobs to return, any of the network; its outputs if left out.

        Raises:
            RequestError: an input is missing, unknown, or of a wrong type, rank or size.
            EngineError: the engine fails.
        """
        feeds = {name: self._checked(name, array) for name, array in inputs.items()}
        for name in self._inputs:
            if name not in feeds and name not in self._optional:
                raise RequestError(
                    f"input `{name}` is missing", expected=", ".join(self._inputs), found=", ".join(feeds)
                )
        given = tuple(name for name in self._optional if name in feeds)
        wanted = tuple(outputs) if outputs is not None else tuple(self.graph.outputs)
        self._check_shapes(feeds, given)
        return self._executable(wanted, given).run(feeds)

    def _check_shapes(self, feeds: Mapping[str, np.ndarray], given: Sequence[str]) -> None:
        """Asks the layers about shapes that were not seen before: engines answer some that do not fit with garbage."""
        values = {name: feeds[name] for name in self._sizing if name in feeds and feeds[name].size <= SAMPLE_LIMIT}
        shapes = {name: array.shape for name, array in feeds.items()}
        key = tuple(shapes.items()), tuple(array.tobytes() for array in values.values())
        if key in self._taken:
            return
        for name in self._pictures.keys() & shapes.keys():
            n, h, w, c = shapes[name]
            shapes[name] = (n, c, h, w)
        try:
            check_shapes(self.graph, shapes, given=given, values=values, limits=self._limits)
        except TnnError as error:
            sizes = ", ".join(f"`{name}` {list(array.shape)}" for name, array in feeds.items())
            raise RequestError(f"the network does not take {sizes}", found=str(error)) from error
        while len(self._taken) >= REMEMBERED_SHAPES:
            self._taken.pop(next(iter(self._taken)), None)
        self._taken[key] = None

    def _checked(self, name: str, value: np.ndarray) -> np.ndarray:
        spec = self._inputs.get(name)
        if spec is None:
            raise RequestError(f"there is no input `{name}`", expected=", ".join(self._inputs) or "none")
        array = np.asarray(value)
        if array.dtype != spec.dtype:
            if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
                raise RequestError(f"input `{name}` has another type", expected=spec.dtype, found=array.dtype)
            array = array.astype(spec.dtype)
        if len(array.shape) != len(spec.shape) or any(
            want is not None and want != have for want, have in zip(spec.shape, array.shape, strict=True)
        ):
            raise RequestError(
                f"input `{name}` has another shape", expected=_spelled(spec.shape), found=list(array.shape)
            )
        return np.ascontiguousarray(array) if array.ndim else array

    def _executable(self, outputs: tuple[str, ...], given: tuple[str, ...]) -> Executable:
        key = (outputs, given)
        with self._lock:
            if key not in self._compiled:
                self._compiled[key] = self._compile(outputs, given)
            return self._compiled[key]

    def _compile(self, outputs: tuple[str, ...], given: tuple[str, ...]) -> Executable:
        failures: list[EngineError] = []
        for engine in self._engines:
            decision = decide(self.graph, engine.name, self._int8, self._cpu)
            translation = translate(
                self.graph,
                outputs=outputs,
                given=given,
                symbolic=self._free,
                pictures=self._pictures,
                form=decision.form,
                raw_int8=self._raw_int8,
                limits=self._limits,
            )
            exact = self.graph.quantized and decision.form is Form.EXACT
            try:
                with located(self.graph.source):
                    executable = engine.compile(translation.proto(), replace(self._options, ieee_division=exact))
            except EngineError as error:
                log.info("%s", error)
                failures.append(error)
                continue
            if self.graph.quantized and self.int8 is None:
                log.info("%s: int8 layers in %s form: %s", self.graph.source, decision.form.value, decision.reason)
                self.int8 = decision
            return executable
        raise failures[0]


def _spec(blob: Blob) -> TensorSpec:
    return TensorSpec(blob.name, blob.dtype, blob.known)


def _spelled(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if dim is None else str(dim) for dim in shape) + "]"
