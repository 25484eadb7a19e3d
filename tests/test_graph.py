"""A network as plain data: what tells one from another, and who reads what."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from tests.networks import CONVOLUTION, bare, network, scale
from tnn_serving.graph import Graph, Input
from tnn_serving.tensor import Tensor


def convolution() -> Graph:
    return network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"])


def test_equal_networks_have_one_fingerprint() -> None:
    graph = convolution()
    graph.source = "elsewhere"
    assert graph.fingerprint() == convolution().fingerprint()
    assert len(graph.fingerprint()) == 64


def changed_weight(graph: Graph) -> None:
    layer: Any = graph.layer("c")
    values = layer.filter.array().copy()
    values[0] += 1
    layer.filter = Tensor.of(values)


def changed_parameter(graph: Graph) -> None:
    layer: Any = graph.layer("c")
    layer.activation = type(layer.activation)(0)


@pytest.mark.parametrize(
    "change",
    [
        changed_weight,
        changed_parameter,
        lambda graph: graph.inputs.__setitem__(0, Input("x", (2, 3, 8, 8))),
        lambda graph: graph.outputs.append("x"),
        lambda graph: graph.constants.update(k=Tensor.of(np.float32([1]))),
        lambda graph: graph.scales.update(x=scale(0.5)),
    ],
    ids=["weight", "parameter", "input", "output", "constant", "scale"],
)
def test_whatever_decides_the_answer_changes_the_fingerprint(change: Any) -> None:
    graph = convolution()
    before = copy.deepcopy(graph).fingerprint()
    change(graph)
    assert graph.fingerprint() != before


# ---- layers and blobs ----

LAYERS = ["Exp e 1 1 x a", "Add s 2 1 a x y -1", "QuantizedReLU q 1 1 y z"]


def test_layers_are_found_by_name() -> None:
    graph = bare({"x": (1, 4)}, LAYERS, ["z"])
    assert graph.layer("s").inputs == ("a", "x")
    with pytest.raises(KeyError):
        graph.layer("nothing")


def test_blobs_are_listed_once_in_byte_order() -> None:
    assert bare({"x": (1, 4)}, ["Exp e 1 1 x é", *LAYERS], ["z"]).blob_names() == ["a", "x", "y", "z", "é"]


def test_readers_of_a_blob_are_in_file_order() -> None:
    graph = bare({"x": (1, 4)}, LAYERS, ["z"])
    assert [layer.name for layer in graph.consumers("x")] == ["e", "s"]
    assert list(graph.consumers("z")) == []


def test_one_int8_layer_makes_a_network_quantised() -> None:
    assert bare({"x": (1, 4)}, LAYERS, ["z"]).quantized
    assert not bare({"x": (1, 4)}, LAYERS[:2], ["y"]).quantized
