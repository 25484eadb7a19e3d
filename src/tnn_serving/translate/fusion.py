"""What TNN merges in int8 networks before it runs them, because it decides where numbers are rounded.

A convolution takes in the ReLU or ReLU6 that directly follows it in the file, and rounds with that blob's scale; a 1x1
convolution takes in the addition that directly follows, and rounds once instead of twice. TNN does not check that the
follower reads the convolution; here it must be its only reader.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tnn_serving.graph import Graph
from tnn_serving.layers.base import Layer


@dataclass(frozen=True, slots=True)
class Step:
    """A layer to run, and what was merged into it.

    Attributes:
        index: of the layer in the graph.
        layer: the layer as the graph has it.
        followers: layers merged into it, in file order.
        absorbed: the blob that it adds; ``None`` for none.
        after_activation: the blob is added behind the activation.
    """

    index: int
    layer: Layer
    followers: tuple[Layer, ...] = ()
    absorbed: str | None = None
    after_activation: bool = False

    @property
    def parts(self) -> tuple[Layer, ...]:
        """The layer and what was merged into it."""
        return (self.layer, *self.followers)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Blobs that the merged layer writes."""
        return self.followers[-1].outputs if self.followers else self.layer.outputs

    @property
    def activation(self) -> int:
        """Code of the activation inside a convolution, merged or its own; 0 for other layers."""
        return max(self.layer.fused_activation, *(layer.activation_code for layer in self.followers), 0)

    def merged(self) -> Layer:
        """The layer with its followers' activation and outputs."""
        return self.layer.fused(self.activation, self.outputs) if self.followers else self.layer


def steps(graph: Graph) -> list[Step]:
    """The layers in the order and form that TNN runs them. Outputs of the network are never merged away."""
    plain = [Step(index, layer) for index, layer in enumerate(graph.layers)]
    if not graph.quantized:
        return plain
    return _activations(graph, _additions(graph, _activations(graph, plain)))


def _activations(graph: Graph, found: list[Step]) -> list[Step]:
    done: list[Step] = []
    for step in found:
        before = done[-1] if done else None
        if (
            before is not None
            and not step.followers
            and step.layer.activation_code
            and before.merged().takes_activation
            and _only_reader(graph, before, step.layer)
            and step.layer.outputs[0] in graph.scales
        ):
            done[-1] = replace(before, followers=(*before.followers, step.layer))
        else:
            done.append(step)
    return done


def _additions(graph: Graph, found: list[Step]) -> list[Step]:
    done: list[Step] = []
    for step in found:
        before = done[-1] if done else None
        other = None if before is None else _added(graph, before, step.layer)
        if before is not None and other is not None:
            done[-1] = replace(
                before,
                followers=(*before.followers, step.layer),
                absorbed=other,
                after_activation=bool(before.activation),
            )
        else:
            done.append(step)
    return done


def _added(graph: Graph, before: Step, layer: Layer) -> str | None:
    """The other operand of an addition that moves into the convolution before it; ``None`` if it does not."""
    if not (layer.adds and layer.quantized and len(layer.inputs) == 2 and before.merged().takes_addition):
        return None
    if not _only_reader(graph, before, layer):
        return None
    others = [name for name in layer.inputs if name not in before.outputs]
    return others[0] if len(others) == 1 and others[0] not in graph.constants else None


def _only_reader(graph: Graph, step: Step, reader: Layer) -> bool:
    if len(step.outputs) != 1 or len(reader.outputs) != 1:
        return False
    (blob,) = step.outputs
    return (
        blob in reader.inputs and blob not in graph.outputs and [r.name for r in graph.consumers(blob)] == [reader.name]
    )
