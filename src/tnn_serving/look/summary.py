"""What a model contains, as plain data: the table and the JSON of ``inspect`` are two views of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tnn_serving.engines import ENGINES
from tnn_serving.errors import RequestError, TnnError
from tnn_serving.nearest import did_you_mean, listed
from tnn_serving.network.base import Network, Variant
from tnn_serving.network.int8 import processor
from tnn_serving.network.views import LayerView, WeightView


@dataclass(frozen=True, slots=True)
class BlobSummary:
    """An input or output: its dims at the shapes asked for, and which of them the caller may choose."""

    name: str
    dtype: str
    dims: list[int | None] | None
    free: list[bool] | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """A network as ``inspect`` shows it.

    Attributes:
        proto_version: of the format: the number of a proto, the versions of an ONNX model.
        constants: stored tensors that are no single layer's.
        int8_blobs: number of int8 blobs of TNN's with a scale.
        parameters: number of stored values.
        weight_bytes: their size in the file.
        macs: multiply-accumulates at the shapes asked for.
        problem: what keeps the network from running, if anything does.
        int8: which form its int8 layers take on this processor, and why, by engine.
        types: number of layers by type, the most frequent first.
    """

    source: str
    proto_version: str
    inputs: list[BlobSummary]
    outputs: list[BlobSummary]
    layers: list[LayerView]
    constants: list[WeightView]
    int8_blobs: int
    parameters: int
    weight_bytes: int
    macs: int | None
    problem: str | None = None
    int8: dict[str, str] = field(default_factory=dict)
    types: dict[str, int] = field(default_factory=dict)


def summarize(network: Network, shapes: Mapping[str, Sequence[int]] | None = None) -> Summary:
    """Describes a network, at its default shapes or at others.

    A network that cannot be executed is described as far as its files go, with the reason in ``problem``.

    Raises:
        RequestError: shapes for an input that is not there.
    """
    at = {**network.default_shapes, **(shapes or {})}
    unknown = at.keys() - network.default_shapes.keys()
    if unknown:
        known, name = network.default_shapes, min(unknown)
        raise RequestError(f"there is no input `{name}`", expected=listed(known), hint=did_you_mean(name, known))
    problem, dtypes, free = None, dict[str, str](), dict[str, list[bool]]()
    try:
        layers = network.layers(at)
        made = network.translate(Variant(tuple(network.outputs), tuple(network.optional)))
        dtypes = {blob.name: str(blob.dtype) for blob in (*made.inputs, *made.blobs.values())}
        free = {blob.name: [dim is None for dim in blob.known] for blob in made.inputs}
    except TnnError as error:
        layers, problem = network.layers(), str(error)
    dims: dict[str, list[int | None] | None] = {name: list(shape) for name, shape in at.items()}
    dims.update({name: sizes for layer in layers for name, sizes in zip(layer.outputs, layer.output_dims, strict=True)})
    constants = network.constants()
    stored = [*(weight for layer in layers for weight in layer.weights), *constants]
    return Summary(
        source=network.source,
        proto_version=network.version,
        inputs=[BlobSummary(name, dtypes.get(name, "unknown"), dims[name], free.get(name)) for name in at],
        outputs=[BlobSummary(name, dtypes.get(name, "unknown"), dims.get(name)) for name in network.outputs],
        layers=layers,
        constants=constants,
        int8_blobs=network.int8_blobs,
        parameters=sum(weight.elements for weight in stored),
        weight_bytes=network.stored_bytes,
        macs=None if problem else sum(layer.macs or 0 for layer in layers),
        problem=problem,
        int8=_int8_forms(network),
        types=dict(sorted(Counter(layer.type for layer in layers).items(), key=lambda pair: (-pair[1], pair[0]))),
    )


def _int8_forms(network: Network) -> dict[str, str]:
    if not network.quantized:
        return {}
    decisions = {engine.name: network.int8_form(engine, "auto", processor()) for engine in ENGINES.usable()}
    return {engine: f"{decision.form.value}: {decision.reason}" for engine, decision in decisions.items()}
