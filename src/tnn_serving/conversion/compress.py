"""What may be changed of a converted network: smaller weights, and activations in the convolutions before them."""

from __future__ import annotations

import dataclasses

import numpy as np

from tnn_serving.graph import Graph
from tnn_serving.layers.activation import ReLU, ReLU6, Swish
from tnn_serving.layers.base import Layer
from tnn_serving.layers.convolution import NONE, SWISH, Convolution
from tnn_serving.layers.matrix import InnerProduct, MatMul
from tnn_serving.tensor import DataType, Tensor

LARGEST_CODE = 127.0
"""The largest int8 code that a weight takes: TNN's quantiser leaves -128 out."""


def with_half_weights(graph: Graph) -> int:
    """Stores the weights of products in float16, as TNN's converter does; returns how many tensors it were.

    What float16 cannot hold stays float32.
    """
    count = 0
    for layer in graph.layers:
        if not layer.multiplies_weights:
            continue
        for spec, tensor in list(layer.weights()):
            if tensor.dtype is DataType.FLOAT and np.abs(tensor.array()).max(initial=0) <= np.finfo(np.float16).max:
                setattr(layer, spec.name, Tensor.of(tensor.shaped().astype(np.float16), dims=tensor.dims))
                count += 1
    return count


def with_int8_weights(graph: Graph) -> int:
    """Stores the weights of products as int8 codes that are multiplied by their scale when the network is loaded.

    Scales are per output channel of a convolution, and one for a matrix. Returns how many tensors it were.
    """
    count = 0
    for layer in graph.layers:
        field = "filter" if isinstance(layer, Convolution) else "weight"
        if not isinstance(layer, Convolution | InnerProduct | MatMul) or layer.type != layer.types[0]:
            continue
        stored = getattr(layer, field)
        if stored is None or (isinstance(layer, MatMul) and layer.weight_position != 1):
            continue
        values = stored.shaped()
        axes = tuple(range(1, values.ndim)) if isinstance(layer, Convolution) else None
        scale = np.abs(values).max(axis=axes, keepdims=True) / LARGEST_CODE
        scale = np.where(scale > 0, scale, 1).astype(np.float32)
        codes = np.clip(np.rint(values / scale), -LARGEST_CODE, LARGEST_CODE).astype(np.int8)
        setattr(layer, field, Tensor.of(codes))
        layer.scale = Tensor.of(scale.reshape(-1))
        layer.type = f"DynamicRangeQuantized{layer.types[0]}"
        count += 1
    return count


def with_fused_activations(graph: Graph) -> int:
    """Puts an activation into the convolution that it alone reads, as TNN does when it loads; returns how many."""
    kept: list[Layer] = []
    place: dict[str, int] = {}
    count = 0
    for layer in graph.layers:
        source = place.get(layer.inputs[0]) if layer.inputs else None
        code = SWISH if isinstance(layer, Swish) else layer.activation_code
        if isinstance(layer, ReLU | ReLU6 | Swish) and source is not None and not layer.quantized:
            before = kept[source]
            alone = sum(layer.inputs[0] in other.inputs for other in graph.layers) == 1
            if (
                isinstance(before, Convolution)
                and before.activation == NONE
                and alone
                and layer.inputs[0] not in graph.outputs
            ):
                kept[source] = dataclasses.replace(before, activation=code, outputs=layer.outputs)
                place[layer.outputs[0]] = source
                count += 1
                continue
        place.update(dict.fromkeys(layer.outputs, len(kept)))
        kept.append(layer)
    graph.layers = kept
    return count
