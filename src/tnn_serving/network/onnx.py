"""Networks that come as ONNX models: the same road as TNN's from the middle on."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx import shape_inference

from tnn_serving.analysis import Blob
from tnn_serving.emit.builder import Builder
from tnn_serving.emit.int8 import Form
from tnn_serving.emit.limits import UNLIMITED, Limits
from tnn_serving.engines import ENGINES, Options
from tnn_serving.engines.base import Arrays
from tnn_serving.engines.cpu import Cpu
from tnn_serving.errors import EngineError, FormatError, ShapeError, UnsupportedLayer, located
from tnn_serving.formats.content import ONNX, head_of, identified, identify
from tnn_serving.formats.tnn.files import check_regular
from tnn_serving.graph import Input
from tnn_serving.network.base import NO_VALUES, Network, Variant
from tnn_serving.network.int8 import Decision
from tnn_serving.translate.graph import ShapeCheck, Translation
from tnn_serving.translate.pictures import pixels
from tnn_serving.translate.row_walk import rows_stay_apart

log = logging.getLogger(__name__)

SMALL_BYTES = 1024
"""Stored tensors up to this size take part in shape inference; of larger ones only type and shape do."""

PICTURE_SIZES = (224, 640, 320, 256, 128, 112, 96, 64, 48, 32, 16, 8)
OTHER_SIZES = (256, 512, 128, 64, 32, 16, 8, 4, 2, 1)
"""Sizes to try for free dims, where a shape is needed and nobody has said one: the first that the network takes."""


def read_onnx(path: Path, limits: Limits = UNLIMITED) -> OnnxNetwork:
    """Reads an ONNX model, with external data that lies beside it.

    Raises:
        FormatError: the file is no valid ONNX model.
    """
    with located(str(path)):
        with identified(path, ONNX):
            proto = _load(path)
        return OnnxNetwork(proto, str(path), limits)


def _load(path: Path) -> onnx.ModelProto:
    check_regular(path)
    try:
        proto = onnx.load(path)
        onnx.checker.check_model(proto)
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror or error}") from error
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        for name in _external_data(path):
            head = head_of(path.parent / name)
            content = None if head is None else identify(head)
            if content is not None:
                raise FormatError(f"external data `{name}` is {content.name}", hint=content.advice) from error
        raise FormatError("no valid ONNX model", found=" ".join(str(error).split())[:400]) from error
    return proto


def _external_data(path: Path) -> list[str]:
    """Names of the files beside an ONNX model that store its tensors; none if the model itself cannot be read."""
    try:
        stored = onnx.load(path, load_external_data=False).graph.initializer
    except (DecodeError, ValueError):
        return []
    places = [entry.value for tensor in stored for entry in tensor.external_data if entry.key == "location"]
    return [name for name in dict.fromkeys(places) if name == Path(name).name]


class OnnxNetwork:
    """A network given in ONNX.

    Raises:
        UnsupportedLayer: an input or output that is no tensor of numbers.
    """

    quantized = False

    def __init__(self, proto: onnx.ModelProto, source: str, limits: Limits = UNLIMITED) -> None:
        self.source = source
        self.limits = limits
        self._proto = proto
        # Exporters list weights among the inputs too, as IR versions below 4 had to: what has a value is a constant.
        stored = {item.name for item in proto.graph.initializer}
        self._entries = [item for item in proto.graph.input if item.name not in stored]
        self.optional: list[str] = []
        self._skeleton = _without_large_tensors(proto)
        for item in [*self._entries, *proto.graph.output]:
            _check_tensor(item)

    @property
    def outputs(self) -> list[str]:
        """Names of its outputs, in file order."""
        return [item.name for item in self._proto.graph.output]

    @cached_property
    def weight_bytes(self) -> int:
        """Size of the stored tensors."""
        return sum(_tensor_bytes(item) for item in self._proto.graph.initializer)

    @cached_property
    def default_shapes(self) -> dict[str, tuple[int, ...]]:
        """A shape of each input: the declared dims, and for free ones a batch of 1 and sizes that the network takes."""
        declared = {item.name: _dims(item) for item in self._entries}
        first = {name: _filled(dims, 0) for name, dims in declared.items()}
        if all(None not in dims[1:] for dims in declared.values()):
            return first
        takes = self._tried()
        for k in range(max(len(PICTURE_SIZES), len(OTHER_SIZES))):
            shapes = {name: _filled(dims, k) for name, dims in declared.items()}
            try:
                self.check_shapes(shapes, ())
            except ShapeError:
                continue
            if takes(shapes):
                return shapes
        return first

    def _tried(self) -> Callable[[Mapping[str, tuple[int, ...]]], bool]:
        """Tells whether the network runs at a shape: what does not fit may show then only."""
        made = ir.serde.serialize_model(self._model(Variant(tuple(self.outputs))))
        try:
            executable = ENGINES["onnxruntime"].compile(made, Options())
        except EngineError:
            return lambda shapes: True

        def runs(shapes: Mapping[str, tuple[int, ...]]) -> bool:
            try:
                executable.run({item.name: np.zeros(shapes[item.name], _dtype(item)) for item in self._entries})
            except EngineError:
                return False
            return True

        return runs

    def translate(self, variant: Variant) -> Translation:
        """The model with its outputs and picture inputs as asked for; every value whose type is known is a blob."""
        inputs = []
        for item in self._entries:
            known, dims = _dims(item), self.default_shapes[item.name]
            dtype = _dtype(item)
            if item.name in variant.pictures:
                known, dims = _as_pixels(item.name, known), _as_pixels(item.name, dims)
                dtype = np.dtype(np.uint8)
            inputs.append(Blob(item.name, dtype, dims, known))
        inferred = shape_inference.infer_shapes(self._skeleton, data_prop=True).graph
        values = [item for item in (*inferred.value_info, *inferred.output) if item.type.HasField("tensor_type")]
        blobs = {item.name: Blob(item.name, _dtype(item), _dims(item), _dims(item)) for item in values}
        activations_bytes = max(map(self._bytes, values), default=0)
        model = self._model(variant)
        outputs = [blobs[name] for name in variant.outputs if name in blobs]
        return Translation(
            model,
            inputs,
            outputs,
            blobs,
            weights_bytes=self.weight_bytes,
            activations_bytes=activations_bytes,
            checked=False,
        )

    def _bytes(self, item: onnx.ValueInfoProto) -> int:
        """The bytes of a value whose dims are known. Raises LimitError if it is larger than allowed."""
        with located(self.source, f"value `{item.name}`"):
            return self.limits.check_tensor(_dims(item), _dtype(item))

    def _model(self, variant: Variant) -> ir.Model:
        model = ir.serde.deserialize_model(self._proto)
        graph = model.graph
        entries = {item.name for item in self._entries}
        graph.inputs[:] = [value for value in graph.inputs if value.name in entries]
        graph.outputs[:] = self._values(graph, variant.outputs)
        for value in graph.inputs:
            _name_free_dims(value)
        for name, picture in variant.pictures.items():
            entry = next(item for item in self._entries if item.name == name)
            _put_pixels_before(graph, entry, self.default_shapes[name], picture)
        model.producer_name = model.producer_name or "unknown"
        return model

    def check_shapes(
        self, shapes: Mapping[str, Sequence[int]], fed: Sequence[str], values: Arrays = NO_VALUES
    ) -> ShapeCheck:
        """Has ONNX's own inference look at every node.

        Raises ShapeError with the node that does not fit, LimitError for a value that is too large.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self._skeleton)
        for item in model.graph.input:
            if item.name in shapes:
                _set_dims(item, shapes[item.name])
        # What is written down about inner values belongs to other shapes.
        del model.graph.value_info[:]
        for item in model.graph.output:
            item.type.tensor_type.ClearField("shape")
        with located(self.source):
            try:
                inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
            except shape_inference.InferenceError as error:
                raise ShapeError("shapes do not fit the network", found=_reason(error)) from error
            _check_reshapes(inferred)
        known = (*inferred.input, *inferred.value_info, *inferred.output)
        shaped = [i for i in known if i.type.HasField("tensor_type") and i.type.tensor_type.HasField("shape")]
        return ShapeCheck(memory_bytes=self.weight_bytes + max(map(self._bytes, shaped), default=0))

    def int8_form(self, engine: str, choice: str, cpu: Cpu) -> Decision:
        """Int8 operators of ONNX say themselves how they are computed."""
        return Decision(Form.EXACT, "the network has no int8 layers of TNN's")

    def batched(self, outputs: Sequence[str]) -> tuple[Network, str | None]:
        """Itself; what speaks against batches is a first dim that is written down, or a node that mixes rows."""
        for item in self._entries:
            dims = _dims(item)
            if len(dims) < 2 or dims[0] is not None:
                return self, f"input `{item.name}` has no free first dim: {[-1 if d is None else d for d in dims]}"
        obstacle = rows_stay_apart(self._model(Variant(tuple(outputs))), self.default_shapes)
        return self, None if obstacle is None else str(obstacle)

    def settled(self) -> Network:
        """The same network without a time limit."""
        made = copy.copy(self)
        made.limits = replace(self.limits, deadline_s=math.inf)
        return made

    def producer(self, blob: str) -> str | None:
        """Name and type of the node that produces a value."""
        return self._producers.get(blob)

    @cached_property
    def _producers(self) -> dict[str, str]:
        nodes = self._proto.graph.node
        return {blob: f"node `{node.name}` ({node.op_type})" for node in nodes for blob in node.output if blob}

    @cached_property
    def _fingerprint(self) -> str:
        return hashlib.sha256(self._proto.SerializeToString(deterministic=True)).hexdigest()

    def fingerprint(self) -> str:
        """SHA-256 over the whole model."""
        return self._fingerprint

    def _values(self, graph: ir.Graph, names: Sequence[str]) -> list[ir.Value]:
        known = {value.name: value for node in graph for value in node.outputs}
        missing = [name for name in names if name not in known]
        if missing:
            raise ShapeError(f"output `{missing[0]}` is not produced by any node")
        return [known[name] for name in names]


def _check_tensor(item: onnx.ValueInfoProto) -> None:
    if not item.type.HasField("tensor_type") or item.type.tensor_type.elem_type == onnx.TensorProto.STRING:
        raise UnsupportedLayer(f"`{item.name}` is no tensor of numbers", found=item.type.WhichOneof("value"))


def _dtype(item: onnx.ValueInfoProto) -> np.dtype:
    return onnx.helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type)


def _dims(item: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """``None`` where free, which some exporters write as -1."""
    dims = item.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for d in dims)


def _set_dims(item: onnx.ValueInfoProto, shape: Sequence[int]) -> None:
    del item.type.tensor_type.shape.dim[:]
    for size in shape:
        item.type.tensor_type.shape.dim.add().dim_value = size


def _filled(dims: Sequence[int | None], attempt: int) -> tuple[int, ...]:
    sizes = PICTURE_SIZES if len(dims) == 4 else OTHER_SIZES
    size = sizes[min(attempt, len(sizes) - 1)]
    return tuple((1 if axis == 0 else size) if dim is None else dim for axis, dim in enumerate(dims))


def _as_pixels(name: str, dims: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(dims) != 4:
        return dims  # refused with its reason when the model is made
    n, c, h, w = dims
    return n, h, w, c


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    return int(math.prod(tensor.dims)) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


def _without_large_tensors(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with large initializers made inputs, so that it can be copied and inferred in no time."""
    made = onnx.ModelProto()
    made.ir_version, made.producer_name = proto.ir_version, proto.producer_name
    made.opset_import.extend(proto.opset_import)
    made.functions.extend(proto.functions)
    graph = made.graph
    graph.name = proto.graph.name
    graph.node.extend(proto.graph.node)
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    listed = {item.name for item in proto.graph.input}
    for tensor in proto.graph.initializer:
        if _tensor_bytes(tensor) <= SMALL_BYTES:
            graph.initializer.append(tensor)
        elif tensor.name not in listed:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return made


def _name_free_dims(value: ir.Value) -> None:
    """Engines want a name for each free dim."""
    if value.shape is not None:
        fixed = [isinstance(dim, int) and dim >= 0 for dim in value.shape]
        dims = [dim if fixed[k] else f"{value.name}.dim{k}" for k, dim in enumerate(value.shape)]
        value.shape = ir.Shape(dims)


def _put_pixels_before(graph: ir.Graph, entry: onnx.ValueInfoProto, shape: tuple[int, ...], picture: Any) -> None:
    """Replaces an input [N, C, H, W] by uint8 pixels [N, H, W, C] and the nodes that convert them."""
    builder = Builder()
    for node in graph:
        for value in node.outputs:
            builder.claim(value.name or "")
    for name in graph.initializers:
        builder.claim(name)
    dims = _dims(entry)
    item = Input(entry.name, tuple(size if dim is None else dim for dim, size in zip(dims, shape, strict=True)))
    symbols = tuple(f"{entry.name}.dim{k}" if dim is None else dim for k, dim in enumerate(dims))
    before = next(value for value in graph.inputs if value.name == entry.name)
    pixels_in, blob = pixels(builder, item, picture, item.dims, symbols)
    for node, index in list(before.uses()):
        node.replace_input_with(index, blob.ir)
    graph.inputs[:] = [pixels_in.ir if value is before else value for value in graph.inputs]
    for name, value in builder.initializers.items():
        graph.initializers[name] = value
    graph.insert_before(graph[0], builder.nodes)


def _check_reshapes(graph: onnx.GraphProto) -> None:
    """ONNX's inference accepts a shape of another number of elements; engines find out late, or not at all."""
    values = (*graph.input, *graph.value_info, *graph.output)
    known = {item.name: _dims(item) for item in values if item.type.tensor_type.HasField("shape")}
    for node in graph.node:
        if node.op_type != "Reshape":
            continue
        have, want = (known.get(name, (None,)) for name in (node.input[0], node.output[0]))
        if None in have or None in want or math.prod(d or 0 for d in have) == math.prod(d or 0 for d in want):
            continue
        raise ShapeError(
            f"node `{node.name}` (Reshape): elements do not fit the new shape", expected=list(want), found=list(have)
        )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
