"""What TNN merges in int8 networks before it runs them, because it decides where numbers are rounded.

A convolution takes in the ReLU or ReLU6 that directly follows it in the file, and rounds with that blob's scale; a 1x1
convolution takes in the addition that directly follows, and rounds once instead of twice. TNN does not check that the
follower reads the convolution; here it must be its only reader.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from tnn_serving.graph import Graph
from tnn_serving.layers.activation import ReLU, ReLU6
from tnn_serving.layers.base import Layer
from tnn_serving.layers.binary import Add
from tnn_serving.layers.convolution import Convolution


@dataclass(frozen=True, slots=True)
class Step:
    """A layer to run, with the blob that it adds (``None``: none) before or after its activation."""

    index: int
    layer: Layer
    absorbed: str | None = None
    after_activation: bool = False


def steps(graph: Graph, kept: Sequence[str]) -> list[Step]:
    """The layers in the order and form that TNN runs them.

    Args:
        kept: blobs that must exist, because they are outputs.
    """
    plain = [Step(index, layer) for index, layer in enumerate(graph.layers)]
    if not graph.quantized:
        return plain
    return _activations(graph, _additions(graph, _activations(graph, plain, kept), kept), kept)


def _activations(graph: Graph, found: list[Step], kept: Sequence[str]) -> list[Step]:
    done: list[Step] = []
    for step in found:
        before = done[-1] if done else None
        code = 1 if isinstance(step.layer, ReLU) else 2 if isinstance(step.layer, ReLU6) else 0
        if (
            code
            and before is not None
            and isinstance(before.layer, Convolution)
            and before.layer.quantized
            and not before.layer.activation
            and _only_reader(graph, before.layer, step.layer, kept)
            and step.layer.outputs[0] in graph.scales
        ):
            merged = copy.copy(before.layer)
            merged.activation = code
            merged.outputs = step.layer.outputs
            done[-1] = Step(before.index, merged, before.absorbed, before.after_activation)
        else:
            done.append(step)
    return done


def _additions(graph: Graph, found: list[Step], kept: Sequence[str]) -> list[Step]:
    done: list[Step] = []
    for step in found:
        before = done[-1] if done else None
        if (
            isinstance(step.layer, Add)
            and step.layer.quantized
            and len(step.layer.inputs) == 2
            and before is not None
            and _is_pointwise(before.layer)
            # TNN loses the addition altogether behind a ReLU6.
            and getattr(before.layer, "activation", 0) != 2
            and _only_reader(graph, before.layer, step.layer, kept)
        ):
            own = before.layer.outputs[0]
            others = [name for name in step.layer.inputs if name != own]
            if len(others) == 1 and others[0] not in graph.constants:
                merged = copy.copy(before.layer)
                merged.outputs = step.layer.outputs
                done[-1] = Step(before.index, merged, others[0], bool(getattr(merged, "activation", 0)))
                continue
        done.append(step)
    return done


def _is_pointwise(layer: Layer) -> bool:
    return (
        isinstance(layer, Convolution)
        and layer.quantized
        and tuple(layer.kernel) == (1, 1)
        and tuple(layer.stride) == (1, 1)
        and tuple(layer.pad) == (0, 0)
        and layer.group == 1
    )


def _only_reader(graph: Graph, layer: Layer, reader: Layer, kept: Sequence[str]) -> bool:
    blob = layer.outputs[0]
    return blob in reader.inputs and blob not in kept and [r.name for r in graph.consumers(blob)] == [reader.name]
