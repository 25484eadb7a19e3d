"""Whole networks of the real TNN: trained ones, and its benchmark networks at their own and at other sizes."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import tnn_serving as ts
from tests.conformance.loaded import ENGINES, Loaded
from tests.recordings import SHARED
from tnn_serving.errors import RequestError
from tnn_serving.graph import Graph
from tnn_serving.random_weights import network_name, random_input

log = logging.getLogger(__name__)

MODELS = SHARED / "models"

pytestmark = [
    pytest.mark.conformance,
    pytest.mark.skipif(not MODELS.is_dir(), reason="no whole networks of TNN beside this checkout"),
]

FLOAT_LIMIT = 3e-5
"""Largest difference over largest magnitude; 7e-6 was seen, and 5e-6 between two devices of TNN itself."""

INT8_LIMIT = 1e-5
"""One step of a code is at least 1e-3: below this every code was right."""

FACES = MODELS / "original_repository" / "tnn_face_detection" / "1" / "proto.tnnproto"
WITHOUT_WEIGHTS = ("centerface", "efficientnet_lite0")
"""Their weights are not stored; the tests of the demo models build and compare them."""

TRAINED = [
    (FACES if path.stem.startswith("face_detection.") else path.with_suffix(".tnnproto"), path)
    for path in sorted((MODELS / "real").glob("*.npz"))
    if path.stem not in WITHOUT_WEIGHTS
]

BENCHMARKS = sorted((MODELS / "zoo").glob("*.tnnproto"))

OTHER_SIZES_REFUSED = {
    "inception_v3": "a pooling of fixed size ends in a Reshape to 1 x 1",
    "inception_v4": "a fully connected layer takes whatever its pooling leaves",
    "quant_inception_v3": "a pooling of fixed size ends in a Reshape to 1 x 1",
    "quant_resnet50": "a pooling of fixed size ends in a Reshape to 1 x 1",
    "resnet50": "a pooling of fixed size ends in a Reshape to 1 x 1",
}


def distance(got: np.ndarray, want: np.ndarray) -> float:
    """Largest difference over the largest magnitude wanted."""
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    return float(np.abs(got.astype(np.float64) - want).max() / np.abs(want).max())


def with_fixed_shapes(model: ts.Model, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a server answers with: OpenVINO computes otherwise once the shapes are fixed."""
    model.warm({name: array.shape for name, array in inputs.items()})
    return model.run(inputs)


def compare(got: dict[str, np.ndarray], want: dict[str, np.ndarray], limit: float, what: str) -> None:
    found = {name: distance(got[name], array) for name, array in want.items()}
    log.info("%s: %s", what, ", ".join(f"{name} {value:.1e}" for name, value in found.items()))
    assert max(found.values()) <= limit, found


@pytest.mark.parametrize(("proto", "recording"), TRAINED, ids=[path.stem for _, path in TRAINED])
def test_trained_network(proto: Path, recording: Path) -> None:
    with np.load(recording) as recorded:
        arrays = {key: recorded[key] for key in recorded.files}
    graph = ts.read_model(proto)
    loaded = Loaded(graph)
    inputs = {key[3:]: value for key, value in arrays.items() if key.startswith("in.")}
    want = {key[4:]: value for key, value in arrays.items() if key.startswith("out.")}
    limit = INT8_LIMIT if graph.quantized else FLOAT_LIMIT
    for engine in ENGINES:
        model = loaded.on(engine)
        compare(model.run(inputs), want, limit, f"{recording.stem} on {engine}")
        compare(with_fixed_shapes(model, inputs), want, limit, f"{recording.stem} on {engine}, shapes fixed")


def resized(graph: Graph, dims: Sequence[int]) -> Graph:
    """The network with another input shape in its proto."""
    made = copy.copy(graph)
    made.inputs = [dataclasses.replace(graph.inputs[0], dims=tuple(dims))]
    return made


@pytest.mark.parametrize("proto", BENCHMARKS, ids=lambda path: network_name(path.name))
def test_benchmark_network(proto: Path) -> None:
    graph, name = ts.fill_random_weights(ts.read_model(proto)), network_name(proto.name)
    with np.load(proto.with_suffix(".npz")) as recorded:
        want = {key.removeprefix("naive."): recorded[key] for key in recorded.files if key.startswith("naive.")}
        dims, entry = tuple(map(int, recorded["input.shape"])), str(recorded["input.name"])
    limit = INT8_LIMIT if graph.quantized else FLOAT_LIMIT
    x = random_input(name, dims)
    batch, channels, height, width = dims
    refused = name in OTHER_SIZES_REFUSED
    other = (2 * batch, channels, height if refused else height + 32, width)
    y = random_input(name, other, seed=1)
    loaded, fresh = Loaded(graph), Loaded(resized(graph, other))
    for engine in ENGINES:
        model = loaded.on(engine)
        compare(model.run({entry: x}), want, limit, f"{name} on {engine}")
        compare(with_fixed_shapes(model, {entry: x}), want, limit, f"{name} on {engine}, shapes fixed")
        if refused:
            larger = random_input(name, (batch, channels, height + 32, width + 64))
            with pytest.raises(RequestError, match="layer"):
                model.run({entry: larger})
        compare(model.run({entry: y}), fresh.on(engine).run({entry: y}), INT8_LIMIT, f"{name} on {engine} at {other}")
