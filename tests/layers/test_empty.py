"""Inputs without elements: the same dims from both engines, or one sentence, and never the end of the process."""

from __future__ import annotations

import numpy as np
import pytest

import tnn_serving as ts
from tests.networks import network, one_layer
from tnn_serving.errors import RequestError, ShapeError
from tnn_serving.graph import Graph
from tnn_serving.translate.graph import translate

ENGINES = ("openvino", "onnxruntime")
NO_BATCH, NO_CHANNELS, NO_ROWS = (0, 4, 6, 6), (2, 0, 6, 6), (2, 4, 0, 6)

ANSWERED = {
    "Convolution n 1 1 x y 1 4 5 3 3 1 1 1 1 1 -1 1 1 1": [NO_BATCH],
    "Deconvolution n 1 1 x y 1 4 5 2 2 2 2 0 0 1 -1 1 1 0": [NO_BATCH],
    "InnerProduct n 1 1 x y 5 1 0 1": [NO_BATCH],
    "BatchNormCxx n 1 1 x y": [NO_BATCH, NO_ROWS],
    "PReLU n 1 1 x y 0 1": [NO_BATCH, NO_ROWS],
    "ReLU n 1 1 x y": [NO_BATCH, NO_CHANNELS, NO_ROWS],
    "Softmax n 1 1 x y 2": [NO_BATCH, NO_CHANNELS],
    "Permute n 1 1 x y 4 0 2 3 1": [NO_BATCH, NO_CHANNELS, NO_ROWS],
    "StridedSliceV2 n 1 1 x y 1 0 1 1 1 3 1 2": [NO_BATCH, NO_CHANNELS],
    "ReduceSum n 1 1 x y 1 2 3": [NO_BATCH, NO_CHANNELS, NO_ROWS],
}

REFUSED = {
    "Pooling n 1 1 x y 0 2 2 2 2 0 0 -1 -1 -1 0 0 0 0": [NO_BATCH, NO_CHANNELS, NO_ROWS],
    "Pooling n 1 1 x y 1 3 3 2 2 0 0 -1 -1 0 0 0 0 0": [NO_BATCH, NO_CHANNELS, NO_ROWS],
    "Pooling n 1 1 x y 1 0 0 1 1 0 0 -1 -1 -1 0 0 0 0": [NO_BATCH, NO_CHANNELS, NO_ROWS],
    "Pooling n 1 1 x y 1 0 0 1 1 0 0 -1 -1 -1 0 1 3 3": [NO_BATCH, NO_CHANNELS, NO_ROWS],
    "LRN n 1 1 x y 0.1 0.75 1 3": [NO_BATCH, NO_CHANNELS, NO_ROWS],
    "PixelShuffle n 1 1 x y 2": [NO_CHANNELS],
    "ReduceMax n 1 1 x y 1 1": [NO_CHANNELS],
    "ReduceMean n 1 1 x y 1 2 3": [NO_ROWS],
    "ArgMaxOrMin n 1 1 x y 1 1 1 0": [NO_CHANNELS],
}


@pytest.mark.parametrize("line", ANSWERED)
def test_dims_are_the_same_on_both_engines(line: str) -> None:
    graph = network({"x": (1, 4, 6, 6)}, [line], ["y"])
    models = [ts.load(graph, engine, threads=1) for engine in ENGINES]
    for dims in ANSWERED[line]:
        x = np.ones(dims, np.float32)
        first, second = (model.run({"x": x})["y"] for model in models)
        assert first.shape == second.shape
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("line", REFUSED)
def test_what_has_no_answer_is_refused(line: str, engine: str) -> None:
    model = ts.load(network({"x": (1, 4, 6, 6)}, [line], ["y"]), engine, threads=1)
    for dims in REFUSED[line]:
        with pytest.raises(RequestError, match="layer 0 `n`"):
            model.run({"x": np.ones(dims, np.float32)})


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (
            one_layer(
                "RoiAlign",
                {"x": np.ones((0, 1, 4, 4), np.float32)},
                "1 1 1 0 1",
                rois=np.ones((1, 4), np.float32),
                indices=np.int32([0]),
            ),
            "input has no elements",
        ),
        (
            one_layer(
                "ScatterElements",
                {"x": np.ones((0, 2), np.float32), "i": np.int32([[0, 0]]), "u": np.ones((1, 2), np.float32)},
                "0 0",
            ),
            "there are no elements to update",
        ),
        (
            one_layer(
                "ScatterND",
                {"x": np.ones((0, 1), np.float32), "i": np.int32([[0]]), "u": np.ones((1, 1), np.float32)},
            ),
            "there are no elements to update",
        ),
    ],
    ids=lambda value: value.layers[0].type if isinstance(value, Graph) else "",
)
def test_places_in_nothing_are_refused(graph: Graph, words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        translate(graph)
