"""Reproducible random weights for networks that come without any, such as TNN's benchmark protos.

Each tensor has a generator of its own, seeded by the CRC-32 of ``network/layer/field/seed``, and is scaled so that
activations keep their size from layer to layer. Only the frozen uniform generator of ``numpy.random.RandomState`` and
IEEE arithmetic in float64 are used, so the numbers are the same everywhere; each is rounded to float32 once.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tnn_serving.emit.builder import Value
from tnn_serving.formats.tnn.files import PROTO_SUFFIX
from tnn_serving.graph import Graph
from tnn_serving.layers.base import Layer
from tnn_serving.tensor import PROTO_V1, BlobScale, Tensor
from tnn_serving.translate.graph import translate

BLOB_SCALE = 0.05
"""Scale of every int8 blob."""

CODE_STEP = 73.0
"""Standard deviation of int8 codes that are uniform in -127 ... 127."""

LAST_GAIN = {"mobilenet_v2": 0.15, "resnet50": 0.06}
"""Networks whose last layer is damped, so that the softmax behind it is not saturated."""

INT8_GAIN = {"quant_mobilenet_v2": 1.0, "quant_resnet50": 0.8}
"""Gain of int8 layers without an activation, where it is not 0.5."""


def network_name(source: str) -> str:
    """The name that seeds a network's weights: its file name without ``bench_`` and the ending."""
    path = Path(source)
    return (path.stem if path.suffix.lower() == PROTO_SUFFIX else path.name).removeprefix("bench_")


def uniform(name: str, layer: str, field: str, count: int, seed: int) -> np.ndarray:
    """``count`` float64 numbers in [-1, 1) that depend on nothing but the arguments."""
    state = np.random.RandomState(zlib.crc32(f"{name}/{layer}/{field}/{seed}".encode()))
    return 2.0 * state.random_sample(count) - 1.0


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
    """
    filled = copy.deepcopy(graph)
    filler = _Filler(filled, name or network_name(graph.source), seed)
    filler.fill_scales()
    translate(filled, before=filler.fill)
    return filled


class _Filler:
    def __init__(self, graph: Graph, name: str, seed: int) -> None:
        self.graph = graph
        self.name = name
        self.seed = seed
        self.last = next((layer.name for layer in reversed(graph.layers) if _is_product(layer)), "")

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

    def fill(self, layer: Layer, inputs: Sequence[Value]) -> None:
        """Fills one layer; its inputs are known, so that weights can be as large as they must be."""
        if layer.stored or any(True for _ in layer.weights()):
            return
        for field, make in self._recipe(layer, inputs).items():
            setattr(layer, field, make())

    def _recipe(self, layer: Layer, inputs: Sequence[Value]) -> dict[str, Callable[[], Tensor]]:
        names = {spec.name for spec in layer.payload}
        x = inputs[0] if inputs else None
        if x is None or not names:
            return {}
        if "filter" in names:
            return self._product(layer, _filter_dims(layer, x), "filter")
        if "weight" in names and hasattr(layer, "num_output"):
            first = int(getattr(layer, "axis", 1)) % x.rank
            row = math.prod(x.dim(axis) for axis in range(first, x.rank))
            return self._product(layer, (layer.num_output, row), "weight")
        if "element" in names and len(inputs) == 1:
            multiplies = layer.types[0] in ("Mul", "Div")
            return {"element": lambda: self._around(layer, "element", x.dim(1), 1.0 if multiplies else 0.0)}
        if "scale" in names:
            return {
                "scale": lambda: self._around(layer, "scale", x.dim(1), 1.0),
                "bias": lambda: self._around(layer, "bias", x.dim(1), 0.0),
            }
        if "slope" in names:
            return {"slope": lambda: self._around(layer, "slope", x.dim(1), 0.0)}
        return {}

    def _product(self, layer: Layer, dims: tuple[int, ...], field: str) -> dict[str, Callable[[], Tensor]]:
        fan = math.prod(dims[1:])
        quantized = layer.quantized
        gain = self._gain(layer, quantized)
        made: dict[str, Callable[[], Tensor]] = {}
        scale = np.zeros(0, np.float32)
        if quantized:
            spread = 1 + 0.2 * self._uniform(layer, "scale", dims[0])
            scale = ((gain / math.sqrt(fan) / CODE_STEP * spread) * BLOB_SCALE).astype(np.float32)
            made[field] = lambda: _tensor(self._codes(layer, dims))
            made["scale"] = lambda: _tensor(scale)
        else:
            factor = math.sqrt(3.0) * gain / math.sqrt(fan)
            made[field] = lambda: _tensor(
                (self._uniform(layer, "filter", math.prod(dims)) * factor).astype(np.float32).reshape(dims)
            )
        if getattr(layer, "has_bias", 0):
            if "stored_bias" in {spec.name for spec in layer.payload}:
                layer.stored_bias = 1  # type: ignore[attr-defined]
            small = self._uniform(layer, "bias", dims[0]) * 0.1
            made["bias"] = lambda: _tensor(
                np.floor(small / scale.astype(np.float64)).astype(np.int32) if quantized else small.astype(np.float32)
            )
        return made

    def _codes(self, layer: Layer, dims: tuple[int, ...]) -> np.ndarray:
        values = np.floor((self._uniform(layer, "filter", math.prod(dims)) + 1) * 127.5 - 127)
        return np.clip(values, -127, 127).astype(np.int8).reshape(dims)

    def _gain(self, layer: Layer, quantized: bool) -> float:
        if layer.name == self.last:
            return 1.0 if quantized else LAST_GAIN.get(self.name, 1.0)
        readers = [reader for blob in layer.outputs for reader in self.graph.consumers(blob)]
        rectified = bool(readers) and all(reader.types[0] == "ReLU" for reader in readers if reader.types)
        if getattr(layer, "activation", 0) or rectified:
            return math.sqrt(2)
        return INT8_GAIN.get(self.name, 0.5) if quantized else 1.0

    def _around(self, layer: Layer, field: str, count: int, middle: float) -> Tensor:
        spread = 0.2 if middle else 0.1
        return _tensor((middle + spread * self._uniform(layer, field, count)).astype(np.float32))

    def _uniform(self, layer: Layer, field: str, count: int) -> np.ndarray:
        return uniform(self.name, layer.name, field, count, self.seed)


def _is_product(layer: Layer) -> bool:
    return any(spec.name in ("filter", "weight") for spec in layer.payload)


def _filter_dims(layer: Layer, x: Value) -> tuple[int, ...]:
    group = max(layer.group, 1)  # type: ignore[attr-defined]
    kernel = layer.kernel  # type: ignore[attr-defined]
    taps = tuple(kernel) if isinstance(kernel, tuple) else (kernel,)
    out = layer.output_channel  # type: ignore[attr-defined]
    if layer.types[0] == "Deconvolution":
        return (x.dim(1), out // group, *taps)
    return (out, x.dim(1) // group, *taps)


def _tensor(values: np.ndarray) -> Tensor:
    """Version 1 buffers, without dims, as the recorded networks had them."""
    return Tensor.of(values, version=PROTO_V1)
