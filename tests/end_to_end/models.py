"""Tiny TNN models written to a folder, for servers that tests start."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import tnn_serving
from tests.networks import network
from tnn_serving.layers.convolution import Convolution
from tnn_serving.tensor import Tensor

RELU = b'"1 2 1 4206624770 ,"\n"x 1 3 8 8 ,"\n" x y ,"\n"y ,"\n" 1 ,"\n"ReLU r 1 1 x y ,"\n'
"""One input x and one output y = max(x, 0), both float32 and free in every dim."""

NO_WEIGHTS = bytes.fromhex("0200bcfa00000000")


def write_model(
    repository: Path, name: str, *, config: str | None = None, version: int = 1, proto: bytes = RELU
) -> Path:
    """Writes ``repository/name/version`` and returns the model's folder."""
    model = repository / name
    folder = model / str(version)
    folder.mkdir(parents=True)
    (folder / "proto.tnnproto").write_bytes(proto)
    (folder / "model.tnnmodel").write_bytes(NO_WEIGHTS)
    if config is not None:
        (model / "config.pbtxt").write_text(config)
    return model


def gathering(rows: int) -> str:
    """Configuration of a model whose requests wait until there are so many rows of them."""
    return f"""
max_batch_size: {rows}
dynamic_batching {{ preferred_batch_size: [ {rows} ] max_queue_delay_microseconds: 60000000 }}
"""


def joining(rows: int) -> str:
    """Configuration of a model that runs up to so many rows of several requests as one inference; where nothing is
    said, this follows a measurement."""
    return f'parameters [ {{ key: "max_joined_rows" value: {{ string_value: "{rows}" }} }} ]\n'


def write_slow_model(repository: Path, name: str, *, config: str) -> Path:
    """A model x [N, 3, H, W] -> y [N, 64, 1, 1] that takes some milliseconds for 64 x 64, far longer than sending it.

    Returns the model's folder.
    """
    tokens = "3 3 1 1 1 1 1 -1 1 1 1"
    layers = [f"Convolution c0 1 1 x b0 1 3 64 {tokens}"]
    layers += [f"Convolution c{k} 1 1 b{k - 1} b{k} 1 64 64 {tokens}" for k in range(1, 8)]
    layers.append("Pooling mean 1 1 b7 y 1 0 0 1 1 0 0 -1 -1 -1 0")
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    tnn_serving.write_model(
        network({"x": [1, 3, 64, 64]}, layers, ["y"]), folder / "proto.tnnproto", folder / "model.tnnmodel"
    )
    (repository / name / "config.pbtxt").write_text(config)
    return repository / name


BROKEN = RELU.replace(b"ReLU", b"NoSuchLayer")


def write_matrix(
    repository: Path, name: str, matrix: np.ndarray, *, config: str | None = None, version: int = 1
) -> Path:
    """Writes a network y = matrix · x for x [N, C, H, W], or replaces its files, each in one step."""
    size = len(matrix)
    graph = network({"x": (1, size, 4, 4)}, [f"Convolution c 1 1 x y 1 {size} {size} 1 1 1 1 0 0 0 -1 1 1 0"], ["y"])
    (convolution,) = graph.layers
    assert isinstance(convolution, Convolution)
    convolution.filter = Tensor.of(matrix.astype(np.float32)[:, :, None, None])
    model = repository / name
    folder = model / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    tnn_serving.write_model(graph, folder / "proto.tnnproto", folder / "model.tnnmodel")
    if config is not None:
        (model / "config.pbtxt").write_text(config)
    return model


def times(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What a network of :func:`write_matrix` answers; exact for small whole numbers."""
    return np.einsum("oi,nihw->nohw", matrix, x)
