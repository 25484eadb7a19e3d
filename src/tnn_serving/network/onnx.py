"""Networks that come as ONNX models: the same road as TNN's from the middle on."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import onnx
import onnx_ir as ir
from onnx import shape_inference

from tnn_serving.analysis import Blob, scores_of
from tnn_serving.choices import Int8Choice
from tnn_serving.emit.int8 import Form
from tnn_serving.emit.limits import UNLIMITED, Limits
from tnn_serving.engines import ENGINES, Engine, Executable, Options, following_onnx
from tnn_serving.engines.base import NO_ARRAYS, Arrays
from tnn_serving.engines.cpu import Cpu
from tnn_serving.engines.trial import TrialInputs
from tnn_serving.errors import EngineError, FormatError, LimitError, ShapeError, TnnError, UnsupportedLayer, located
from tnn_serving.formats.onnx import DTYPES, skeleton, tensor_bytes, tensor_dims, tensor_dtype, type_name
from tnn_serving.network.base import InputShapes, Network, Variant
from tnn_serving.network.int8 import Decision
from tnn_serving.network.onnx_batch import with_free_batch, written_batch
from tnn_serving.network.onnx_layers import constant_views, layer_views, stored_bytes
from tnn_serving.network.onnx_memory import activation_bytes
from tnn_serving.network.onnx_pixels import as_pixels, put_pixels_before
from tnn_serving.network.softmax import with_softmax
from tnn_serving.network.views import LayerView, WeightView
from tnn_serving.translate.graph import ShapeCheck, Translation
from tnn_serving.translate.row_walk import rows_stay_apart

log = logging.getLogger(__name__)

PICTURE_SIZES = (224, 640, 320, 256, 128, 112, 96, 64, 48, 32, 16, 8)
OTHER_SIZES = (256, 512, 128, 64, 32, 16, 8, 4, 2, 1)
"""Sizes to try for free dims, where a shape is needed and none is given: the first that the network takes."""

SIZES_TRIED = max(len(PICTURE_SIZES), len(OTHER_SIZES))

SUPPORTED = ", ".join(sorted(onnx.TensorProto.DataType.Name(kind).lower() for kind in DTYPES))


class OnnxNetwork:
    """A network given in ONNX.

    The model is kept in two parts: the graph without its large tensors, which is small enough to be copied, changed and
    inferred as often as need be, and these tensors, which are never copied.

    Args:
        model: as :func:`~tnn_serving.formats.onnx.read_onnx` gives it.
        source: the file it came from.
        limits: what it may ask for.
    """

    quantized = False
    int8_blobs = 0

    def __init__(self, model: onnx.ModelProto, source: str = "model", limits: Limits = UNLIMITED) -> None:
        self.source = source
        self.limits = limits
        self.optional: list[str] = []
        self._whole = model
        # Exporters list weights among the inputs too, as IR versions below 4 had to: what has a value is a constant.
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._entries = [item for item in model.graph.input if item.name not in self._stored]
        self._graph = skeleton(model)

    @property
    def version(self) -> str:
        """Versions of the file format and of each set of operators."""
        sets = (f"{item.domain or 'opset'} {item.version}" for item in self._whole.opset_import)
        return ", ".join([f"IR {self._whole.ir_version}", *sets])

    @property
    def outputs(self) -> list[str]:
        """Names of its outputs, in file order."""
        return [item.name for item in self._graph.graph.output]

    @property
    def stored_bytes(self) -> int:
        """Size of the stored tensors in the file."""
        return stored_bytes(self._whole)

    @cached_property
    def weight_bytes(self) -> int:
        """Size of the stored tensors."""
        return sum(map(tensor_bytes, self._stored.values()))

    @cached_property
    def default_shapes(self) -> dict[str, tuple[int, ...]]:
        """A shape of each input: the declared dims, and for free ones a batch of 1 and sizes that the network takes."""
        declared = {item.name: tensor_dims(item) or () for item in self._entries}
        tried = [{name: _filled(dims, k) for name, dims in declared.items()} for k in range(SIZES_TRIED)]
        if all(None not in dims[1:] for dims in declared.values()):
            return tried[0]
        runs, fitting = None, []
        for shapes in tried:
            try:
                self.check_shapes(shapes, ())
            except LimitError as error:
                too_large = error
                continue
            except ShapeError:
                fitting.append(shapes)
                continue
            fitting.append(shapes)
            runs = runs or self._trial()
            if runs(shapes):
                return shapes
        if not fitting:
            raise too_large
        return fitting[0]

    def _reference(self) -> Executable:
        """The network on the engine whose meaning is ONNX's. Raises EngineError."""
        engine = following_onnx(ENGINES.values())
        if engine is None:
            raise EngineError("no engine follows ONNX")
        made = ir.serde.serialize_model(self._model(Variant(tuple(self.outputs))))
        return engine.compile(made, Options())

    def _sized_zeros(self, shapes: InputShapes) -> dict[str, np.ndarray]:
        """Zeros, but for inputs that decide sizes and the like."""
        zeros = {item.name: np.zeros(tuple(shapes[item.name]), tensor_dtype(item)) for item in self._entries}
        return {**zeros, **TrialInputs(self._graph, zeros).sized}

    def _trial(self) -> Callable[[InputShapes], bool]:
        """Tells whether the network runs at a shape: what does not fit may show then only."""
        try:
            executable = self._reference()
        except EngineError:
            return lambda shapes: True

        def runs(shapes: InputShapes) -> bool:
            try:
                executable.run(self._sized_zeros(shapes))
            except EngineError:
                return False
            return True

        return runs

    # ---- types and dims ----

    def _check_types(self) -> None:
        """Raises UnsupportedLayer for an input or output that is no array."""
        with located(self.source):
            for item in self._entries:
                _check_type("input", item.name, item.type)
                if tensor_dims(item) is None:
                    raise UnsupportedLayer(
                        f"input `{item.name}` declares no shape, so that its number of dims is not known",
                        hint="write its shape into the file, with names for free dims",
                    )
            for item in self._graph.graph.output:
                _check_type("output", item.name, item.type)

    def _inferred(self, shapes: InputShapes | None = None, *, strict: bool = False) -> onnx.GraphProto:
        """The graph with the types of all values that follow from the inputs', at these shapes or at any.

        Raises ShapeError, if strict for any node that does not fit.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self._graph)
        for item in model.graph.input:
            if item.name in (shapes or {}):
                del item.type.tensor_type.shape.dim[:]
                item.type.tensor_type.shape.dim.extend(
                    onnx.TensorShapeProto.Dimension(dim_value=size) for size in (shapes or {})[item.name]
                )
        # What the file says of its outputs may be for other shapes.
        for item in model.graph.output:
            if item.type.HasField("tensor_type"):
                item.type.tensor_type.ClearField("shape")
        with located(self.source):
            try:
                return shape_inference.infer_shapes(model, strict_mode=strict, data_prop=True).graph
            except shape_inference.InferenceError as error:
                raise ShapeError("shapes do not fit the network", found=_reason(error)) from error

    def _blobs(self) -> dict[str, Blob]:
        """Every value that can be an output, in the order of the nodes."""
        inferred = self._inferred()
        types = {item.name: item for item in (*inferred.value_info, *inferred.output)}
        blobs = {}
        for name in self._producers:
            item = types.get(name)
            dtype, dims = (None, None) if item is None else (tensor_dtype(item), tensor_dims(item))
            if dtype is not None and dims is not None:
                blobs[name] = Blob(name, dtype, dims, dims)
        for declared in self._graph.graph.output:
            with located(self.source):
                _check_type("output", declared.name, types.get(declared.name, declared).type)
            known, dims = blobs.get(declared.name), tensor_dims(declared)
            if known is None and dims is not None and (dtype := tensor_dtype(declared)) is not None:
                blobs[declared.name] = Blob(declared.name, dtype, dims, dims)
            elif known is not None and dims is not None and len(dims) == len(known.dims):
                both = tuple(b if a is None else a for a, b in zip(known.dims, dims, strict=True))
                blobs[declared.name] = replace(known, dims=both, known=both)
        return {**blobs, **self._seen([name for name in self.outputs if name not in blobs])}

    def _seen(self, names: Sequence[str]) -> dict[str, Blob]:
        """Outputs whose type or number of dims only a run tells."""
        if not names:
            return {}
        shapes = self.default_shapes
        try:
            answer = self._reference().run(self._sized_zeros(shapes))
        except EngineError as error:
            with located(self.source):
                raise UnsupportedLayer(
                    f"the number of dims of output `{names[0]}` is not known: the file does not say it, and a run at "
                    f"{', '.join(f'`{name}` {list(shape)}' for name, shape in shapes.items())} fails",
                    found=error,
                ) from error
        return {name: Blob(name, answer[name].dtype, answer[name].shape, (None,) * answer[name].ndim) for name in names}

    def _activation_bytes(self, inferred: onnx.GraphProto) -> int:
        """An estimate of the values alive at one time. Raises LimitError if these and the weights are too large."""
        with located(self.source):
            activations = activation_bytes(inferred, self._stored.keys(), self.limits)
            self.limits.check_memory(self.weight_bytes, activations)
        return activations

    # ---- as ONNX ----

    def translate(self, variant: Variant) -> Translation:
        """The model with its outputs and picture inputs as asked for; every value whose type is known is a blob."""
        self._check_types()
        # Before anything runs at these shapes.
        activations = self._activation_bytes(self._inferred(self.default_shapes))
        inputs = []
        for item in self._entries:
            known, dims, dtype = tensor_dims(item) or (), self.default_shapes[item.name], tensor_dtype(item)
            if item.name in variant.pictures:
                known, dims, dtype = as_pixels(known), as_pixels(dims), np.dtype(np.uint8)
            inputs.append(Blob(item.name, dtype or np.dtype(np.float32), dims, known))
        blobs = self._blobs()
        scores = self._scores(variant.outputs)
        made = Translation(
            self._model(replace(variant, outputs=scores), blobs),
            inputs,
            [blobs[name] for name in scores if name in blobs],
            blobs,
            weights_bytes=self.weight_bytes,
            activations_bytes=activations,
            checked=False,
        )
        return with_softmax(made, variant.outputs)

    def _scores(self, outputs: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(scores_of(name, self._producers) for name in outputs))

    def _model(self, variant: Variant, blobs: Mapping[str, Blob] | None = None) -> ir.Model:
        try:
            model = ir.serde.deserialize_model(self._graph)
        except ir.serde.SerdeError as error:
            raise FormatError("no valid ONNX model", found=_reason(error)) from error
        graph = model.graph
        entries = {item.name: item for item in self._entries}
        for value in graph.inputs:
            if value.name not in entries and value.name not in graph.initializers:
                value.const_value = ir.serde.deserialize_tensor(self._stored[value.name or ""])
                graph.initializers.add(value)
        graph.inputs[:] = [value for value in graph.inputs if value.name in entries]
        graph.outputs[:] = self._values(graph, variant.outputs)
        for value in graph.inputs:
            _declare(value, tensor_dims(entries[value.name or ""]))
        for value in graph.outputs:
            blob = (blobs or {}).get(value.name or "")
            if blob is not None:
                value.type = ir.TensorType(ir.DataType.from_numpy(blob.dtype))
                _declare(value, blob.known)
        for name, picture in variant.pictures.items():
            put_pixels_before(graph, name, tensor_dims(entries[name]) or (), self.default_shapes[name], picture)
        model.producer_name = model.producer_name or "unknown"
        return model

    def _values(self, graph: ir.Graph, names: Sequence[str]) -> list[ir.Value]:
        known = {value.name: value for node in graph for value in node.outputs}
        if set(names) <= set(self.outputs):  # an input or a stored tensor can be one, too
            known = {**{value.name: value for value in (*graph.inputs, *graph.initializers.values())}, **known}
        missing = [name for name in names if name not in known]
        if missing:
            raise ShapeError(f"output `{missing[0]}` is not produced by any node")
        return [known[name] for name in names]

    # ---- what a network is asked ----

    def check_shapes(self, shapes: InputShapes, fed: Sequence[str], values: Arrays = NO_ARRAYS) -> ShapeCheck:
        """Has ONNX's own inference look at every node.

        Raises ShapeError with the node that does not fit, LimitError for a value that is too large.
        """
        inferred = self._inferred(shapes, strict=True)
        with located(self.source):
            _check_reshapes(inferred)
        return ShapeCheck(memory_bytes=self.weight_bytes + self._activation_bytes(inferred))

    def layers(self, shapes: InputShapes | None = None) -> list[LayerView]:
        """The nodes in file order."""
        if shapes is None:
            return layer_views(self._whole, None)
        self._check_types()
        self.check_shapes(shapes, ())
        inferred = self._inferred(shapes)
        values = (*inferred.input, *inferred.value_info, *inferred.output)
        return layer_views(self._whole, {item.name: tensor_dims(item) for item in values})

    def constants(self) -> list[WeightView]:
        """Stored tensors that are no single node's."""
        return constant_views(self._whole)

    def refusals(self) -> list[TnnError]:
        """None: the engines judge nodes."""
        return []

    def int8_form(self, engine: Engine, choice: Int8Choice, cpu: Cpu) -> Decision:
        """Int8 operators of ONNX say themselves how they are computed."""
        return Decision(Form.EXACT, "the network has no int8 layers of TNN's")

    def batched(self, outputs: Sequence[str], *, asked: bool = False) -> tuple[Network, str | None]:
        """The network, with a free batch where batches are asked for; and what prevents them: an input without a free
        batch, or a node that mixes rows."""
        self._check_types()
        network, wrong = self, None
        batch = written_batch(self._entries) if asked else None
        if batch is not None:
            network = self._with_free_batch(batch)
        for item in network._entries:
            dims = tensor_dims(item) or ()
            if len(dims) < 2 or dims[0] is not None:
                wrong = f"input `{item.name}` has no free first dim: {[-1 if d is None else d for d in dims]}"
        if wrong is None:
            obstacle = rows_stay_apart(network._model(Variant(self._scores(outputs))), network.default_shapes)
            wrong = None if obstacle is None else str(obstacle)
        if wrong is not None and batch is not None:
            return self, f"the file is for a batch of {batch}, and with another one {wrong}"
        return network, wrong

    def _with_free_batch(self, batch: int) -> OnnxNetwork:
        inferred = self._inferred()
        dims = {i.name: tensor_dims(i) for i in (*inferred.input, *inferred.value_info, *inferred.output)}
        made = OnnxNetwork(self._whole, self.source, self.limits)
        made._graph = with_free_batch(self._graph, self._entries, batch, dims)
        names = {item.name for item in self._entries}
        made._entries = [item for item in made._graph.graph.input if item.name in names]
        made.default_shapes = self.default_shapes
        return made

    def settled(self) -> Network:
        """The same network without a time limit."""
        made = copy.copy(self)
        made.limits = replace(self.limits, deadline_s=math.inf)
        return made

    def producer(self, blob: str) -> str | None:
        """Name and type of the node that produces a value."""
        return self._producers.get(scores_of(blob, self._producers))

    @cached_property
    def _producers(self) -> dict[str, str]:
        nodes = self._graph.graph.node
        made = {blob: f"node `{node.name}` ({node.op_type})" for node in nodes for blob in node.output if blob}
        return {**made, **{name: f"input or stored tensor `{name}`" for name in self.outputs if name not in made}}

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(self._graph.SerializeToString(deterministic=True))
        for tensor in self._stored.values():
            digest.update(tensor.SerializeToString(deterministic=True))
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """SHA-256 over graph and tensors."""
        return self._fingerprint


def _check_type(what: str, name: str, kind: onnx.TypeProto) -> None:
    """Raises UnsupportedLayer for what is no array. A type that is not declared may follow from the nodes."""
    if kind.WhichOneof("value") is None:
        return
    if not kind.HasField("tensor_type") or kind.tensor_type.elem_type not in DTYPES:
        raise UnsupportedLayer(
            f"{what} `{name}` is {type_name(kind)}, which is not supported", expected=f"a tensor of {SUPPORTED}"
        )


def _filled(dims: Sequence[int | None], attempt: int) -> tuple[int, ...]:
    sizes = PICTURE_SIZES if len(dims) == 4 else OTHER_SIZES
    size = sizes[min(attempt, len(sizes) - 1)]
    return tuple((1 if axis == 0 else size) if dim is None else dim for axis, dim in enumerate(dims))


def _declare(value: ir.Value, dims: tuple[int | None, ...] | None) -> None:
    """Engines want a name for each free dim."""
    if dims is not None:
        value.shape = ir.Shape([f"{value.name}.dim{k}" if dim is None else dim for k, dim in enumerate(dims)])


def _check_reshapes(graph: onnx.GraphProto) -> None:
    """ONNX's inference accepts a shape of another number of elements; engines find out late, or not at all."""
    known = {item.name: tensor_dims(item) for item in (*graph.input, *graph.value_info, *graph.output)}
    for node in graph.node:
        if node.op_type != "Reshape":
            continue
        have, want = (known.get(name) for name in (node.input[0], node.output[0]))
        if have is None or want is None or None in have or None in want:
            continue
        if math.prod(d or 0 for d in have) != math.prod(d or 0 for d in want):
            text = f"node `{node.name}` (Reshape): elements do not fit the new shape"
            raise ShapeError(text, expected=list(want), found=list(have))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
