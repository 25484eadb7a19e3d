"""Reproducible random weights for networks that come without any, such as TNN's benchmark protos.

Each layer decides the size and the numbers of its weights (:meth:`Layer.random_weights`); here the layers of a network
get their names, and products the gain that keeps activations at their size from layer to layer.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tnn_serving.emit.builder import Value
from tnn_serving.emit.limits import Limits, memory_of_machine_bytes
from tnn_serving.formats.tnn.files import PROTO_SUFFIX
from tnn_serving.graph import Graph
from tnn_serving.layers.base import Layer
from tnn_serving.layers.convolution import RELU
from tnn_serving.layers.draw import BLOB_SCALE, Draw
from tnn_serving.tensor import PROTO_V1, BlobScale, Tensor
from tnn_serving.translate.graph import translate

LAST_GAIN = {"mobilenet_v2": 0.15, "resnet50": 0.06}
"""Networks whose last layer is damped, so that the softmax behind it is not saturated."""

INT8_GAIN = {"quant_mobilenet_v2": 1.0, "quant_resnet50": 0.8}
"""Gain of int8 layers without an activation, where it is not 0.5."""


def network_name(source: str) -> str:
    """The name that seeds a network's weights: its file name without ``bench_`` and the ending."""
    path = Path(source)
    return (path.stem if path.suffix.lower() == PROTO_SUFFIX else path.name).removeprefix("bench_")


def random_input(name: str, dims: Sequence[int], *, seed: int = 0) -> np.ndarray:
    """A float32 input of variance 1 for the network of that name."""
    state = np.random.RandomState(zlib.crc32(f"{name}/input/{seed}".encode()))
    values = (2.0 * state.random_sample(math.prod(dims)) - 1.0) * math.sqrt(3.0)
    return values.astype(np.float32).reshape(tuple(dims))


def fill_random_weights(graph: Graph, *, name: str | None = None, seed: int = 0) -> Graph:
    """A copy of ``graph`` in which every missing weight is filled.

    Args:
        graph: read from a proto, with or without a model file; weights that are there stay.
        name: seeds the numbers; the file name without ``bench_`` if left out.
        seed: another set of numbers.

    Raises:
        ShapeError: a layer does not take the shape of its input.
        WeightsError: a layer needs a buffer whose size nothing in the proto decides.
        LimitError: the network needs more memory than the machine has.
    """
    filled = copy.deepcopy(graph)
    limits = Limits(memory_bytes=memory_of_machine_bytes())
    filler = _Filler(filled, name or network_name(graph.source), seed, limits)
    filler.fill_scales()
    translate(filled, before=filler.fill, limits=limits)
    return filled


class _Filler:
    def __init__(self, graph: Graph, name: str, seed: int, limits: Limits) -> None:
        self.graph = graph
        self.name = name
        self.seed = seed
        self.limits = limits
        self.last = next((layer.name for layer in reversed(graph.layers) if layer.multiplies_weights), "")

    def fill_scales(self) -> None:
        """Every blob at an int8 layer gets one scale, no zero point."""
        for layer in self.graph.layers:
            if not layer.quantized:
                continue
            for blob in (*layer.inputs, *layer.outputs):
                if blob not in self.graph.constants:
                    scale = Tensor.of(np.full(1, BLOB_SCALE, np.float32), version=PROTO_V1)
                    bias = Tensor.of(np.zeros(1, np.int32), version=PROTO_V1)
                    self.graph.scales.setdefault(blob, BlobScale(scale, None, bias))

    def fill(self, layer: Layer, inputs: Sequence[Value | None]) -> None:
        """Fills one layer; its inputs are known, so that weights can be as large as they must be."""
        if layer.stored or any(True for _ in layer.weights()):
            return
        draw = Draw(self.name, layer.name, self.seed, self._gain(layer), self.limits)
        for field, value in layer.random_weights(draw, [x for x in inputs if x is not None]).items():
            setattr(layer, field, value)

    def _gain(self, layer: Layer) -> float:
        if layer.name == self.last:
            return 1.0 if layer.quantized else LAST_GAIN.get(self.name, 1.0)
        readers = [reader for blob in layer.outputs for reader in self.graph.consumers(blob)]
        rectified = bool(readers) and all(reader.activation_code == RELU for reader in readers)
        if layer.fused_activation or rectified:
            return math.sqrt(2)
        return INT8_GAIN.get(self.name, 0.5) if layer.quantized else 1.0
