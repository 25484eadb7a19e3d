"""Whether a network answers a batch as it answers each row alone, and the network that does, where one can be made.

A Reshape to a literal [1, C] takes one row only. Where the literal is the batch of the proto, copying the dim instead
is the same for one row and right for many. :func:`batch_ability` makes such changes in a copy of the graph, and then
lets :mod:`~tnn_serving.translate.row_walk` decide about the result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from tnn_serving.emit.builder import LAYER_KEY, Value
from tnn_serving.errors import TnnError
from tnn_serving.graph import Graph, Input
from tnn_serving.layers.base import Layer
from tnn_serving.translate.free_dims import FreeDims
from tnn_serving.translate.graph import check_shapes, translate
from tnn_serving.translate.row_walk import rows_stay_apart
from tnn_serving.translate.rows import COUNTS


@dataclass(frozen=True, slots=True)
class BatchAbility:
    """What a network does with a batch on the first axis of its inputs.

    Attributes:
        graph: the network to serve batches with: the one asked about, or a copy in which layers are rewritten. Both
            give the same answer to one row.
        safe: rows are independent: each is answered as it is alone.
        reason: if not safe, what prevents it, with the layer; if rewritten, which layers were; otherwise empty.
        rewritten: names of the layers that take any number of rows now.
    """

    graph: Graph
    safe: bool
    reason: str = ""
    rewritten: tuple[str, ...] = ()


def batch_ability(
    graph: Graph, given: Sequence[str] = (), *, outputs: Sequence[str] | None = None, found: FreeDims | None = None
) -> BatchAbility:
    """Decides by analysis whether the first axis of all inputs is a batch of independent rows.

    Args:
        graph: a network that translates at its default shapes; it is not changed.
        given: inputs with a stored value that the caller will feed, which makes them part of the batch. The others of
            that kind are constants: the same for all rows.
        outputs: blobs to look at, the network's own if left out.
        found: what is known of the network's free dims, for these ``given`` and ``outputs``; spares a translation.

    Raises:
        UnsupportedLayer, ShapeError, WeightsError: as :func:`~tnn_serving.translate.graph.translate`.
    """
    fed = [item for item in graph.inputs if item.name not in graph.constants or item.name in given]
    problem = _no_batch(fed)
    if problem is None:
        problem = _mixed(graph, fed, given, outputs, found)
        if problem is None:
            return BatchAbility(graph, safe=True)
        changed, names = _with_free_batch(graph, fed, given)
        if names:
            left = _mixed(changed, fed, given, outputs)
            if left is None:
                listed = ", ".join(f"`{name}`" for name in names)
                return BatchAbility(changed, True, f"rewritten to take any number of rows: {listed}", names)
            problem = left
    return BatchAbility(graph, False, problem)


def _no_batch(fed: Sequence[Input]) -> str | None:
    """Why the inputs have no batch axis in common."""
    if not fed:
        return "the network has no inputs"
    for item in fed:
        if not item.dims:
            return f"input `{item.name}` has no axis"
    sizes = {item.dims[0] for item in fed}
    if len(sizes) > 1:
        return "the first axes of the inputs differ: " + ", ".join(f"`{i.name}` {list(i.dims)}" for i in fed)
    return None


def _mixed(
    graph: Graph,
    fed: Sequence[Input],
    given: Sequence[str],
    outputs: Sequence[str] | None,
    found: FreeDims | None = None,
) -> str | None:
    """Why rows are not independent."""
    if found is not None and all(found.axes[item.name][0] for item in fed):
        translation = found.translation
    else:
        found = None
        batch_only = {item.name: (True, *(False for _ in item.dims[1:])) for item in fed}
        translation = translate(graph, outputs=outputs, given=given, symbolic=batch_only)
    obstacle = rows_stay_apart(translation.model, {item.name: item.dims for item in fed})
    if obstacle is not None:
        if obstacle.node is None:
            return obstacle.what
        text = f"{_place(graph, obstacle.node)} {obstacle.what}"
        moved = obstacle.moved
        if moved is not None and moved.metadata_props.get(LAYER_KEY) != obstacle.node.metadata_props.get(LAYER_KEY):
            text += f"; {_place(graph, moved)} put them there"
        return text
    if found is not None and all(item.dims[0] == 1 for item in fed):
        return None  # another number of rows has been walked, and writes down the same sizes
    written: list[tuple[tuple[str, int, int], ...]] = []
    for count in COUNTS:
        try:
            written.append(check_shapes(graph, {i.name: (count, *i.dims[1:]) for i in fed}, given=given).fixed)
        except TnnError as error:
            error.where = error.where[1:]
            return f"{count} rows are refused: {error}"
    for name, axis, size in written[0]:
        if any((name, axis, size) not in others for others in written):
            return f"the size {size} of axis {axis} of blob `{name}` is written into the network"
    return None


def _place(graph: Graph, node: ir.Node) -> str:
    """The layer that an ONNX node was made for."""
    name = node.metadata_props.get(LAYER_KEY, "")
    for index, layer in enumerate(graph.layers):
        if layer.name == name:
            return f"layer {index} `{name}` ({layer.type})"
    return f"the conversion at blob `{node.outputs[0].name}` ({node.op_type})"


# ---- rewriting ----


def _with_free_batch(graph: Graph, fed: Sequence[Input], given: Sequence[str]) -> tuple[Graph, tuple[str, ...]]:
    """A copy whose layers keep the batch where they had its default size as a literal, and the names of those."""
    seen: dict[tuple[str, ...], Sequence[Value | None]] = {}

    def look(layer: Layer, values: Sequence[Value | None]) -> None:
        seen[layer.outputs] = list(values)

    translate(graph, given=given, before=look)
    reached = {item.name for item in fed}
    layers, names = [], []
    for layer in graph.layers:
        made = None
        if reached.intersection(layer.inputs) and not layer.reads_dims_only:
            reached.update(layer.outputs)
            values = seen.get(layer.outputs)
            if values and layer.inputs[0] in reached:
                made = layer.with_free_batch(values, fed[0].dims[0])
        layers.append(layer if made is None else made)
        if made is not None:
            names.append(layer.name)
    return dataclasses.replace(graph, layers=layers, proto_text=None, model_bytes=None), tuple(names)
