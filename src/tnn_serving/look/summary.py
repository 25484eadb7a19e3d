"""What a model contains, as plain data: the table and the JSON of ``inspect`` are two views of it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from tnn_serving.emit.builder import LAYER_KEY
from tnn_serving.engines import ENGINES
from tnn_serving.errors import TnnError
from tnn_serving.graph import Graph
from tnn_serving.layers.base import Layer
from tnn_serving.network.int8 import decide, processor
from tnn_serving.tensor import STORAGE, DataType
from tnn_serving.translate.free_dims import free_dims
from tnn_serving.translate.graph import Translation, translate


@dataclass(frozen=True, slots=True)
class BlobSummary:
    """A blob: its dims at the shapes asked for, and which of them the caller may choose."""

    name: str
    dtype: str
    dims: list[int | None] | None
    free: list[bool] | None = None


@dataclass(frozen=True, slots=True)
class WeightSummary:
    """A stored buffer."""

    name: str
    dtype: str
    dims: list[int] | None
    elements: int


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """A layer. ``macs`` is multiply-accumulates at the shapes asked for; ``problem`` why it cannot run."""

    index: int
    type: str
    name: str
    inputs: list[str]
    outputs: list[str]
    output_dims: list[list[int | None] | None]
    parameters: dict[str, Any]
    weights: list[WeightSummary]
    macs: int | None
    problem: str | None = None

    @property
    def elements(self) -> int:
        """Number of stored weights."""
        return sum(weight.elements for weight in self.weights)


@dataclass(slots=True)
class Summary:
    """A network as ``inspect`` shows it.

    ``problem`` says what keeps it from running, if anything does; ``int8`` which form its int8 layers would take on
    this processor, and why, by engine.
    """

    source: str
    proto_version: str
    inputs: list[BlobSummary]
    outputs: list[BlobSummary]
    layers: list[LayerSummary]
    constants: list[WeightSummary]
    int8_blobs: int
    parameters: int
    weight_bytes: int
    macs: int | None
    problem: str | None = None
    int8: dict[str, str] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)


def summarize(graph: Graph, shapes: Mapping[str, Sequence[int]] | None = None) -> Summary:
    """Describes a network, at the proto's input shapes or at others.

    A network that cannot be executed is described as far as its files go, with the reason in ``problem``.
    """
    translation: Translation | None = None
    free: dict[str, tuple[bool, ...]] = {}
    problem = None
    optional = [item.name for item in graph.inputs if item.name in graph.constants]
    try:
        translation = translate(graph, shapes=shapes, given=optional)
        free = free_dims(graph, given=optional).axes
    except TnnError as error:
        problem = str(error)
    macs = _macs_by_layer(translation) if translation else {}
    layers = [_layer(index, layer, translation, macs) for index, layer in enumerate(graph.layers)]
    stored = [weight for layer in layers for weight in layer.weights]
    constants = [_weight(name, tensor.dtype, tensor.dims, tensor.size) for name, tensor in graph.constants.items()]
    types: dict[str, int] = defaultdict(int)
    for layer in graph.layers:
        types[layer.type] += 1
    everything = [*stored, *constants]
    return Summary(
        source=graph.source,
        proto_version=f"{graph.version:#x}",
        inputs=[
            _blob(item.name, translation, list((shapes or {}).get(item.name, item.dims)), free.get(item.name))
            for item in graph.inputs
        ],
        outputs=[_blob(name, translation, None, None) for name in graph.outputs],
        layers=layers,
        constants=constants,
        int8_blobs=len(graph.scales),
        parameters=sum(weight.elements for weight in everything),
        weight_bytes=sum(weight.elements * STORAGE[DataType[weight.dtype.upper()]].itemsize for weight in everything),
        macs=sum(macs.values()) if translation else None,
        problem=problem,
        int8=_int8_forms(graph),
        types=dict(sorted(types.items(), key=lambda pair: (-pair[1], pair[0]))),
    )


def _int8_forms(graph: Graph) -> dict[str, str]:
    if not graph.quantized:
        return {}
    decisions = {engine: decide(graph, engine, "auto", processor()) for engine in ENGINES}
    return {engine: f"{decision.form.value}: {decision.reason}" for engine, decision in decisions.items()}


def _layer(index: int, layer: Layer, translation: Translation | None, macs: Mapping[str, int]) -> LayerSummary:
    dims = [list(translation.blobs[name].dims) if translation else None for name in layer.outputs]
    parameters = {spec.name: _plain(getattr(layer, spec.name)) for spec in layer.parameters}
    if layer.surplus:
        parameters["surplus"] = list(layer.surplus)
    return LayerSummary(
        index,
        layer.type,
        layer.name,
        list(layer.inputs),
        list(layer.outputs),
        dims,
        parameters,
        [_weight(spec.name, tensor.dtype, tensor.dims, tensor.size) for spec, tensor in layer.weights()],
        macs.get(layer.name, 0) if translation else None,
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _weight(name: str, dtype: DataType, dims: tuple[int, ...] | None, size: int) -> WeightSummary:
    return WeightSummary(name, dtype.name.lower(), list(dims) if dims is not None else None, size)


def _blob(
    name: str, translation: Translation | None, dims: list[int | None] | None, free: tuple[bool, ...] | None
) -> BlobSummary:
    known = translation.blobs.get(name) if translation else None
    if known is None:
        return BlobSummary(name, "unknown", dims)
    return BlobSummary(name, str(known.dtype), list(known.dims), list(free) if free is not None else None)


def _macs_by_layer(translation: Translation) -> dict[str, int]:
    """Multiply-accumulates of the matrix and convolution operators, by TNN layer."""
    counts: dict[str, int] = defaultdict(int)
    for node in translation.model.graph:
        count = _macs(node)
        if count:
            counts[node.metadata_props.get(LAYER_KEY, "")] += count
    return dict(counts)


def _macs(node: ir.Node) -> int:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    x, w = (_dims(value) for value in node.inputs[:2])
    y = _dims(node.outputs[0])
    if x is None or w is None or y is None:
        return 0
    if node.op_type == "Conv":
        return math.prod(y) * math.prod(w[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(x) * math.prod(w[1:])
    return math.prod(y) * x[-1]


def _dims(value: ir.Value | None) -> list[int] | None:
    if value is None or value.shape is None:
        return None
    dims = list(value.shape)
    return [d for d in dims if isinstance(d, int)] if all(isinstance(d, int) for d in dims) else None
