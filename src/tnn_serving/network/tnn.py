"""Networks that come from TNN's files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property

import onnx

from tnn_serving.emit.int8 import Form
from tnn_serving.emit.limits import UNLIMITED, Limits
from tnn_serving.engines.base import Arrays
from tnn_serving.engines.cpu import Cpu
from tnn_serving.graph import Graph
from tnn_serving.network.base import NO_VALUES, Border, Network, Pictures
from tnn_serving.network.int8 import Decision, decide
from tnn_serving.tensor import COMPUTED
from tnn_serving.translate.batch import batch_ability
from tnn_serving.translate.graph import check_shapes, fingerprint, free_dims, translate

log = logging.getLogger(__name__)


class TnnNetwork:
    """A network that was read from TNN's files."""

    def __init__(self, graph: Graph, limits: Limits = UNLIMITED) -> None:
        self.graph = graph
        self.limits = limits
        self.sizing: tuple[str, ...] = ()
        self.source = graph.source
        self.optional = [item.name for item in graph.inputs if item.name in graph.constants]

    @property
    def outputs(self) -> list[str]:
        """Names of its outputs, in file order."""
        return list(self.graph.outputs)

    @property
    def quantized(self) -> bool:
        """It has int8 layers."""
        return self.graph.quantized

    @cached_property
    def weight_bytes(self) -> int:
        """Size of weights and constants in the types they are computed in."""
        stored = [tensor for layer in self.graph.layers for _, tensor in layer.weights()]
        stored += self.graph.constants.values()
        return sum(tensor.size * COMPUTED[tensor.dtype].itemsize for tensor in stored)

    @property
    def default_shapes(self) -> dict[str, tuple[int, ...]]:
        """The input shapes that the proto gives."""
        return {item.name: item.dims for item in self.graph.inputs}

    @cached_property
    def free(self) -> dict[str, tuple[bool, ...]]:
        """For each input, which dims the caller may choose."""
        return free_dims(self.graph, given=self.optional, limits=self.limits)

    def border(self, pictures: Pictures, *, raw_int8: bool) -> Border:
        """Inputs in file order, blobs in the order of the layers."""
        made = translate(
            self.graph,
            given=self.optional,
            symbolic=self.free,
            pictures=pictures,
            raw_int8=raw_int8,
            limits=self.limits,
        )
        self.sizing = made.sizing
        for blob in made.inputs:
            if not any(True for _ in self.graph.consumers(blob.name)):
                log.warning("%s: input `%s` is not used by any layer", self.source, blob.name)
        names = (name for layer in self.graph.layers for name in layer.outputs)
        blobs = {name: made.blobs[name] for name in names if name in made.blobs}
        return Border(made.inputs, blobs, made.weights_bytes, made.activations_bytes)

    def onnx(
        self, *, outputs: Sequence[str], given: Sequence[str], pictures: Pictures, form: Form, raw_int8: bool
    ) -> onnx.ModelProto:
        """The network as an ONNX model."""
        return translate(
            self.graph,
            outputs=outputs,
            given=given,
            symbolic=self.free,
            pictures=pictures,
            form=form,
            raw_int8=raw_int8,
            limits=self.limits,
        ).proto()

    def check_shapes(
        self, shapes: Mapping[str, Sequence[int]], given: Sequence[str], values: Arrays = NO_VALUES
    ) -> None:
        """Asks every layer."""
        check_shapes(self.graph, shapes, given=given, values=values, limits=self.limits)

    def int8_form(self, engine: str, choice: str, cpu: Cpu) -> Decision:
        """How int8 layers are run on an engine."""
        return decide(self.graph, engine, choice, cpu)

    def batched(self, outputs: Sequence[str]) -> tuple[Network, str | None]:
        """The network for batches, and what speaks against them."""
        if min((len(i.dims) for i in self.graph.inputs if i.name not in self.optional), default=0) < 2:
            return self, "an input has no dims beside a batch"
        ability = batch_ability(self.graph, outputs=outputs)
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

    def producer(self, blob: str) -> str:
        """Index, name and type of the layer that produces a blob."""
        for index, layer in enumerate(self.graph.layers):
            if blob in layer.outputs:
                return f"layer {index} `{layer.name}` ({layer.type})"
        return "no layer"

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self.graph)

    def fingerprint(self) -> str:
        """SHA-256 over layers, parameters and weights."""
        return self._fingerprint
