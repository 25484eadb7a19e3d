"""Small networks, made from the text of their layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

import tnn_serving as ts
from tnn_serving.graph import Graph, Input
from tnn_serving.layers import make
from tnn_serving.tensor import TNN_TYPE, BlobScale, Tensor

Shapes = Mapping[str, Sequence[int]]
Arrays = Mapping[str, np.ndarray]


def bare(inputs: Shapes, layers: Sequence[str], outputs: Sequence[str], *, constants: Arrays | None = None) -> Graph:
    """A graph from layer lines (``type name n_in n_out ins... outs... tokens...``), without weights."""
    made = []
    for line in layers:
        kind, name, n_in, n_out, *rest = line.split()
        a, b = int(n_in), int(n_in) + int(n_out)
        made.append(make(kind, name, rest[:a], rest[a:b], rest[b:]))
    graph = Graph([Input(name, tuple(dims)) for name, dims in inputs.items()], list(outputs), made)
    graph.constants.update({name: Tensor.of(array) for name, array in (constants or {}).items()})
    return graph


def network(
    inputs: Shapes, layers: Sequence[str], outputs: Sequence[str], *, seed: int = 0, constants: Arrays | None = None
) -> Graph:
    """A graph from layer lines as :func:`bare` takes them, with random weights."""
    return ts.fill_random_weights(bare(inputs, layers, outputs, constants=constants), name="test", seed=seed)


CONVOLUTION = ["Convolution c 1 1 x y 1 3 4 3 3 1 1 1 1 1 -1 1 1 1"]
"""x [N, 3, H, W] -> y [N, 4, H, W], with ReLU."""


def scale(value: float) -> BlobScale:
    return BlobScale(Tensor.of(np.array([value], np.float32)), None, Tensor.of(np.zeros(1, np.int32)))


def one_layer(kind: str, inputs: dict[str, np.ndarray], line: str = "", **constants: np.ndarray) -> Graph:
    """A network of one layer `n` that reads these inputs and constants, in this order, and writes `y`."""
    layer = make(kind, "n", [*inputs, *constants], ["y"], line.split())
    return Graph(
        [Input(name, array.shape, TNN_TYPE[array.dtype]) for name, array in inputs.items()],
        ["y"],
        [layer],
        constants={name: Tensor.of(array) for name, array in constants.items()},
    )
