"""A small repository of generated networks that together use every code path of the backend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tnn_serving.engines import ENGINES
from tnn_serving.formats.tnn import write_model
from tnn_serving.graph import Graph, Input
from tnn_serving.layers import make
from tnn_serving.network.formats import Tnn
from tnn_serving.random_weights import fill_random_weights

CONVOLUTION_LAYERS = (
    "Convolution c1 1 1 x a 1 3 16 3 3 2 2 1 1 1 -1 1 1 1",
    "Convolution c2 1 1 a b 1 16 32 3 3 1 1 1 1 1 -1 1 1 1",
    "Convolution c3 1 1 b y 1 32 8 1 1 1 1 0 0 1 -1 1 1 0",
)
"""x [N, 3, H, W] -> y [N, 8, H/2, W/2]"""


DENSE_LAYERS = ("InnerProduct f1 1 1 x a 256 1 0 1", "ReLU r 1 1 a b", "InnerProduct f2 1 1 b y 16 1 0 1")

PIXEL_CONFIG = """
input [ { name: "x" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] } ]
parameters [ { key: "scale" value: { string_value: "0.0078125" } } ]
"""

FILE_CONFIG = """
input [ { name: "x" data_type: TYPE_STRING dims: [ 1 ] } ]
parameters [ { key: "scale" value: { string_value: "0.0078125" } }, { key: "resize" value: { string_value: "64,64" } } ]
"""

ENGINE_CONFIG = 'parameters [ { key: "engine" value: { string_value: "%s" } } ]\n'
SQUARE_DIMS = (1, 3, 64, 64)

SOAK_MODELS: dict[str, tuple[Sequence[str], tuple[int, ...], str]] = {
    **{f"shapes_{name}": (CONVOLUTION_LAYERS, SQUARE_DIMS, ENGINE_CONFIG % name) for name in ENGINES.built_in},
    "measured": (CONVOLUTION_LAYERS, SQUARE_DIMS, ""),
    "pixels": (CONVOLUTION_LAYERS, SQUARE_DIMS, PIXEL_CONFIG),
    "pictures": (CONVOLUTION_LAYERS, SQUARE_DIMS, FILE_CONFIG),
    "dense": (DENSE_LAYERS, (1, 128), ""),
    "unloaded": (CONVOLUTION_LAYERS, SQUARE_DIMS, ""),
}
"""Layers, dims of the input, and configuration of each model."""


def write_models(repository: Path) -> None:
    """Writes the repository."""
    for name, (layers, dims, config) in SOAK_MODELS.items():
        folder = repository / name / "1"
        folder.mkdir(parents=True)
        graph = fill_random_weights(_graph(layers, dims), name=name)
        write_model(graph, *(folder / file for file in Tnn.usual))
        if config:
            (repository / name / "config.pbtxt").write_text(config)


def _graph(lines: Sequence[str], dims: tuple[int, ...]) -> Graph:
    layers = []
    for line in lines:
        kind, name, count_in, count_out, *rest = line.split()
        first, last = int(count_in), int(count_in) + int(count_out)
        layers.append(make(kind, name, rest[:first], rest[first:last], rest[last:]))
    return Graph([Input("x", dims)], ["y"], layers)
