"""What a model, a graph, a layer and a tensor show of themselves."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

import tnn_serving as ts
from tests.networks import CONVOLUTION, bare, network
from tnn_serving.graph import Graph
from tnn_serving.tensor import Tensor

MOST_CHARACTERS = 1000
"""Of a `repr`: a few lines."""

CHAIN = [*CONVOLUTION, "ReLU r0 1 1 y b0", *(f"ReLU r{k + 1} 1 1 b{k} b{k + 1}" for k in range(40))]


@pytest.fixture(scope="module")
def chain() -> Graph:
    return network({"x": (1, 3, 8, 8)}, CHAIN, ["b40", "y"])


class Cells(HTMLParser):
    """The texts of an HTML page, by the tag that they are in; fails on tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1], data))


def test_graph(chain: Graph) -> None:
    assert repr(chain).splitlines() == [
        "TNN network graph, 42 layers",
        "  inputs:  x float [1, 3, 8, 8]",
        "  outputs: b40, y",
        "  layers:  41 ReLU, 1 Convolution",
    ]
    cells = Cells(chain._repr_html_()).texts
    for text in ("b40", "[1, 3, 8, 8]", "r40", "Convolution", "filter 108, bias 4"):
        assert ("td", text) in cells


def test_model(chain: Graph) -> None:
    model = ts.load(chain, "onnxruntime")
    assert repr(model).splitlines() == [
        "Model graph on onnxruntime, f32",
        "  inputs:  x float32 [any, 3, any, any]",
        "  outputs: b40 float32 [any, 4, any, any], y float32 [any, 4, any, any]",
    ]
    cells = Cells(model._repr_html_()).texts
    for text in ("[any, 3, any, any]", "b40 [any, 4, any, any]", "r40", "112"):
        assert ("td", text) in cells


def test_model_of_onnx(chain: Graph) -> None:
    model = ts.load(ts.to_onnx(chain), "onnxruntime")
    assert "b40 float32 [any, 4, any, any]" in repr(model)
    assert ("td", "Relu") in Cells(model._repr_html_()).texts


def test_layer_and_tensor(chain: Graph) -> None:
    shown = repr(chain.layer("c"))
    assert shown.startswith("Convolution(name='c', inputs=['x'], outputs=['y'], group=1, ")
    assert shown.endswith(", filter=Tensor(float 108 values), bias=Tensor(float 4 values))")
    assert repr(Tensor.of(np.zeros((2, 3), np.int8))) == "Tensor(int8 [2, 3])"


def test_large_networks_stay_short() -> None:
    names = [f"a_rather_long_name_of_a_blob_{k}" for k in range(300)]
    layers = [f"ReLU {name} 1 1 x {name}" for name in names]
    graph = network({"x": (1, 3)}, layers, names)
    model = ts.load(graph, "onnxruntime")
    for shown in (graph, model):
        assert len(repr(shown)) < MOST_CHARACTERS
        assert "and 294 more" in repr(shown)
    shape = bare({"x": (1, 3)}, [f"Permute p 1 1 x y 300 {' '.join(map(str, range(300)))}"], ["y"]).layers[0]
    assert len(repr(shape)) < MOST_CHARACTERS


def test_names_are_text_in_html() -> None:
    graph = network({"<i>": (1, 3)}, ["ReLU <script> 1 1 <i> y"], ["y"])
    for html in (graph._repr_html_(), ts.load(graph, "onnxruntime")._repr_html_()):
        assert "<script>" not in html
        assert ("td", "<script>") in Cells(html).texts
