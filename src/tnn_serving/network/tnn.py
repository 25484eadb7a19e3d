"""Networks that come from TNN's files."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from tnn_serving.analysis import scores_of
from tnn_serving.choices import Int8Choice
from tnn_serving.emit.limits import UNLIMITED, Limits
from tnn_serving.engines.base import NO_ARRAYS, Arrays, Engine
from tnn_serving.engines.cpu import Cpu
from tnn_serving.errors import TnnError
from tnn_serving.graph import Graph
from tnn_serving.network.base import InputShapes, Network, Variant
from tnn_serving.network.int8 import Decision, decide
from tnn_serving.network.softmax import with_softmax
from tnn_serving.network.tnn_layers import constant_views, layer_views
from tnn_serving.network.views import LayerView, WeightView
from tnn_serving.tensor import COMPUTED, STORAGE, Tensor
from tnn_serving.translate.batch import batch_ability
from tnn_serving.translate.free_dims import Axes, FreeDims, free_dims
from tnn_serving.translate.graph import ShapeCheck, Translation, check_shapes, refusals, translate

log = logging.getLogger(__name__)


class TnnNetwork:
    """A network that was read from TNN's files.

    Args:
        graph: the network.
        limits: what it may ask for.
        free: for each input, which dims the caller may choose, where that is known already.
    """

    def __init__(self, graph: Graph, limits: Limits = UNLIMITED, free: Axes | None = None) -> None:
        self.graph = graph
        self.limits = limits
        self.source = graph.source
        self.optional = [item.name for item in graph.inputs if item.name in graph.constants]
        self._free = free
        self._found: FreeDims | None = None

    @property
    def version(self) -> str:
        """The number at the start of the proto."""
        return f"{self.graph.version:#x}"

    @property
    def int8_blobs(self) -> int:
        """Number of int8 blobs that have a scale."""
        return len(self.graph.scales)

    @property
    def outputs(self) -> list[str]:
        """Names of its outputs, in file order."""
        return list(self.graph.outputs)

    @property
    def quantized(self) -> bool:
        """It has int8 layers."""
        return self.graph.quantized

    @property
    def stored_bytes(self) -> int:
        """Size of weights and constants in the file."""
        return sum(tensor.size * STORAGE[tensor.dtype].itemsize for tensor in self._stored)

    @cached_property
    def weight_bytes(self) -> int:
        """Size of weights and constants in the types they are computed in."""
        return sum(tensor.size * COMPUTED[tensor.dtype].itemsize for tensor in self._stored)

    @property
    def _stored(self) -> list[Tensor]:
        weights = [tensor for layer in self.graph.layers for _, tensor in layer.weights()]
        return [*weights, *self.graph.constants.values()]

    @property
    def default_shapes(self) -> dict[str, tuple[int, ...]]:
        """The input shapes that the proto gives."""
        return {item.name: item.dims for item in self.graph.inputs}

    @property
    def free(self) -> Axes:
        """For each input, which dims the caller may choose."""
        if self._free is None:
            self._found = free_dims(self.graph, given=self.optional, limits=self.limits)
            self._free = self._found.axes
        return self._free

    def translate(self, variant: Variant) -> Translation:
        """The network as an ONNX model; blobs in the order of the layers."""
        free = self.free
        if self._found is not None and variant == Variant(tuple(self.outputs), tuple(self.optional)):
            return self._found.translation
        made = translate(
            self.graph,
            outputs=self._scores(variant.outputs),
            given=variant.fed,
            symbolic=free,
            pictures=variant.pictures,
            form=variant.form,
            raw_int8=variant.raw_int8,
            limits=self.limits,
        )
        return with_softmax(made, variant.outputs)

    def _scores(self, outputs: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(scores_of(name, self._producers) for name in outputs))

    def check_shapes(
        self, shapes: Mapping[str, Sequence[int]], fed: Sequence[str], values: Arrays = NO_ARRAYS
    ) -> ShapeCheck:
        """Asks every layer."""
        return check_shapes(self.graph, shapes, given=fed, values=values, limits=self.limits)

    def layers(self, shapes: InputShapes | None = None) -> list[LayerView]:
        """The layers in file order."""
        if shapes is None:
            return layer_views(self.graph, None)
        return layer_views(self.graph, translate(self.graph, shapes=shapes, given=self.optional))

    def constants(self) -> list[WeightView]:
        """The constants of the model file."""
        return constant_views(self.graph)

    def refusals(self) -> list[TnnError]:
        """One error for each layer at fault."""
        return refusals(self.graph, given=self.optional)

    def int8_form(self, engine: Engine, choice: Int8Choice, cpu: Cpu) -> Decision:
        """How int8 layers are run on an engine."""
        return decide(self.graph, engine, choice, cpu)

    def batched(self, outputs: Sequence[str], *, asked: bool = False) -> tuple[Network, str | None]:
        """The network for batches, and what prevents them."""
        if min((len(i.dims) for i in self.graph.inputs if i.name not in self.optional), default=0) < 2:
            return self, "an input has no dims beside a batch"
        outputs = self._scores(outputs)
        known = self.free and not self.optional and outputs == self.outputs
        ability = batch_ability(self.graph, outputs=outputs, found=self._found if known else None)
        if ability.safe and self.optional:
            # What may be left out is the same for all rows when it is, and part of the batch when it is not.
            fed = batch_ability(ability.graph, self.optional, outputs=outputs)
            ability = ability if fed.safe else fed
        if not ability.safe:
            return self, ability.reason
        if ability.rewritten:
            log.info("%s: %s", self.source, ability.reason)
            return TnnNetwork(ability.graph, self.limits), None
        return self, None

    def settled(self) -> Network:
        """The same network without a time limit and without its translation."""
        return TnnNetwork(self.graph, replace(self.limits, deadline_s=math.inf), self._free)

    def producer(self, blob: str) -> str | None:
        """Index, name and type of the layer that produces a blob."""
        return self._producers.get(scores_of(blob, self._producers))

    @cached_property
    def _producers(self) -> dict[str, str]:
        return {
            blob: f"layer {index} `{layer.name}` ({layer.type})"
            for index, layer in enumerate(self.graph.layers)
            for blob in layer.outputs
        }

    @cached_property
    def _fingerprint(self) -> str:
        return self.graph.fingerprint()

    def fingerprint(self) -> str:
        """SHA-256 over layers, parameters and weights."""
        return self._fingerprint
