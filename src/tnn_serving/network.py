"""A network as models run it: something that can be said in ONNX, whatever files it came from."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import onnx

from tnn_serving.engines.base import Arrays
from tnn_serving.engines.cpu import Cpu
from tnn_serving.graph import COMPUTED, Graph
from tnn_serving.int8 import Decision, decide
from tnn_serving.layers.quantized import Form
from tnn_serving.translate.batch import batch_ability
from tnn_serving.translate.graph import Blob, check_shapes, fingerprint, free_dims, translate
from tnn_serving.translate.limits import UNLIMITED, Limits
from tnn_serving.translate.pictures import PictureInput

log = logging.getLogger(__name__)

Pictures = Mapping[str, PictureInput]

NO_VALUES: Arrays = {}


@dataclass(frozen=True, slots=True)
class Border:
    """What callers feed a network and what they may ask it for: any blob, by name; and an estimate of its memory at
    the default shapes."""

    inputs: list[Blob]
    blobs: dict[str, Blob]
    weights_bytes: int = 0
    activations_bytes: int = 0


class Network(Protocol):
    """What a :class:`tnn_serving.Model` needs to know of a network.

    Attributes:
        source: the file it came from.
        outputs: names of its outputs.
        optional: inputs that have a stored value and may be left out.
        quantized: it has int8 layers of TNN's.
        weight_bytes: size of its weights in memory.
        default_shapes: a shape of each input that the network takes, in the network's own layout.
        limits: what it may ask for while it is loaded, and of memory at each shape.
        sizing: inputs whose values decide how large something is.
    """

    source: str
    limits: Limits
    sizing: tuple[str, ...]

    @property
    def outputs(self) -> list[str]: ...
    @property
    def optional(self) -> list[str]: ...
    @property
    def quantized(self) -> bool: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def default_shapes(self) -> dict[str, tuple[int, ...]]: ...

    def border(self, pictures: Pictures, *, raw_int8: bool) -> Border:
        """What callers may feed, those of ``pictures`` as uint8 pixels [N, H, W, C], and what they may ask for."""

    def onnx(
        self, *, outputs: Sequence[str], given: Sequence[str], pictures: Pictures, form: Form, raw_int8: bool
    ) -> onnx.ModelProto:
        """The network as an ONNX model with free dims symbolic.

        Args:
            outputs: blobs to make the outputs.
            given: optional inputs that the caller will feed.
            pictures: inputs to take as pixels.
            form: how int8 layers are written.
            raw_int8: int8 blobs are codes at the border.

        Raises ShapeError for an output that is not there.
        """

    def check_shapes(
        self, shapes: Mapping[str, Sequence[int]], given: Sequence[str], values: Arrays = NO_VALUES
    ) -> None:
        """Asks whether the network takes these shapes, and values of :attr:`sizing` inputs.

        Raises ShapeError naming the layer that refuses, LimitError for more memory than allowed.
        """

    def int8_form(self, engine: str, choice: str, cpu: Cpu) -> Decision:
        """How int8 layers are run on an engine. Raises ConfigError for an unknown choice."""

    def batched(self, outputs: Sequence[str]) -> tuple[Network, str | None]:
        """The network with sizes of a batch that are written down in it made free, where that is provably right; and
        what keeps the rows of a batch from being independent, if anything does."""

    def producer(self, blob: str) -> str:
        """The layer that produces a blob, as messages name it."""

    def fingerprint(self) -> str:
        """A hash of everything that decides what the network computes, as hex."""


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
