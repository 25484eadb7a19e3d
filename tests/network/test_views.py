"""Layers as views: the same of a TNN model and of an ONNX model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import TensorProto, helper

import tnn_serving as ts
from tests.networks import CONVOLUTION, network
from tests.onnx_models import convolution, model, random, value
from tnn_serving.errors import ShapeError
from tnn_serving.look.summary import summarize
from tnn_serving.network.formats import open_network
from tnn_serving.network.views import WeightView, macs
from tnn_serving.tensor import Tensor

node = helper.make_node


def test_nodes_are_layers() -> None:
    conv, relu, sigmoid = open_network(convolution()).layers({"x": (2, 3, 5, 6)})
    assert (conv.index, conv.type, conv.name) == (0, "Conv", "Conv_0")
    assert (conv.inputs, conv.outputs, conv.output_dims) == (["x", "w", "b"], ["c"], [[2, 4, 5, 6]])
    assert conv.parameters == {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    assert conv.weights == [WeightView("w", "float", [4, 3, 3, 3], 108), WeightView("b", "float", [4], 4)]
    assert (conv.macs, conv.elements) == (2 * 4 * 5 * 6 * 27, 112)
    assert [(layer.name, layer.type, layer.macs) for layer in (relu, sigmoid)] == [
        ("Relu_1", "Relu", 0),
        ("Sigmoid_2", "Sigmoid", 0),
    ]


def test_both_formats_count_alike() -> None:
    graph = network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"])
    layer = graph.layer("c")
    layer.filter = Tensor.of(layer.need("filter").array().reshape(4, 3, 3, 3))  # type: ignore[attr-defined]
    tnn, exported = summarize(open_network(graph)), summarize(open_network(ts.to_onnx(graph)), {"x": (1, 3, 8, 8)})
    assert (tnn.macs, tnn.parameters, tnn.weight_bytes) == (3 * 9 * 4 * 64, 112, 448)
    assert (exported.macs, exported.parameters, exported.weight_bytes) == (tnn.macs, 112, 448)
    assert (exported.inputs, exported.outputs) == (tnn.inputs, tnn.outputs)
    assert (tnn.proto_version, exported.proto_version) == ("0xfabc0004", "IR 10, opset 21")


def test_without_shapes_nothing_is_refused() -> None:
    network_of_strings = open_network(
        model(
            [node("Identity", ["x"], ["y"])],
            [value("x", [1], TensorProto.STRING)],
            [value("y", [1], TensorProto.STRING)],
        )
    )
    (layer,) = network_of_strings.layers()
    assert (layer.output_dims, layer.macs) == ([None], None)


def test_shapes_that_do_not_fit_are_refused() -> None:
    made = model([node("MatMul", ["x", "w"], ["y"])], {"x": ["n", "c"]}, {"y": None}, {"w": random(3, 4)})
    assert open_network(made).layers({"x": (5, 3)})[0].output_dims == [[5, 4]]
    with pytest.raises(ShapeError, match="MatMul_0"):
        open_network(made).layers({"x": (5, 2)})


def test_where_stored_tensors_belong() -> None:
    """To the only node that takes them; an attribute's to its node; the others to none."""
    branch = helper.make_graph([node("Add", ["x", "inner"], ["t"])], "t", [], [value("t", None)])
    other = helper.make_graph([node("Identity", ["x"], ["e"])], "e", [], [value("e", None)])
    made = model(
        [
            node("Mul", ["x", "shared"], ["a"]),
            node("Mul", ["a", "shared"], ["b"]),
            node("Constant", [], ["k"], value=helper.make_tensor("", TensorProto.INT64, [2], [1, 2])),
            node("If", ["yes"], ["c"], then_branch=branch, else_branch=other),
            node("Sum", ["b", "c", "own"], ["y"]),
        ],
        {"x": [2, 3]},
        {"y": [2, 3], "given": [3]},
        {"shared": random(3), "own": random(3), "inner": random(3), "given": random(3), "yes": np.array(True)},
    )
    network_of_weights = open_network(made)
    layers = {layer.name: layer for layer in network_of_weights.layers()}
    weights = {name: [weight.name for weight in layer.weights] for name, layer in layers.items()}
    assert weights == {"Mul_0": [], "Mul_1": [], "Constant_2": ["value"], "If_3": ["yes", "inner"], "Sum_4": ["own"]}
    assert layers["If_3"].parameters == {"then_branch": "a graph of 1 nodes", "else_branch": "a graph of 1 nodes"}
    assert [weight.name for weight in network_of_weights.constants()] == ["shared", "given"]
    summary = summarize(network_of_weights)
    assert (summary.parameters, summary.weight_bytes) == (4 * 3 + 2 + 1, 4 * 12 + 16 + 1)


def test_sizes_of_types_that_numpy_does_not_have() -> None:
    stored = helper.make_tensor("w", TensorProto.INT4, [5], [1, 2, 3, 4, 5])
    scale = helper.make_tensor("s", TensorProto.FLOAT, [], [0.5])
    made = model(
        [node("DequantizeLinear", ["w", "s"], ["d"]), node("Mul", ["x", "d"], ["y"])],
        {"x": ["n", 5]},
        {"y": ["n", 5]},
        [stored, scale],
        opsets={"": 21},
        ir=10,
    )
    summary = summarize(open_network(made))
    assert summary.layers[0].weights[0] == WeightView("w", "int4", [5], 5)
    assert (summary.weight_bytes, summary.problem) == (3 + 4, None)


@pytest.mark.parametrize(
    ("operator", "x", "w", "y", "count"),
    [
        ("Conv", (1, 4, 8, 8), (6, 2, 3, 3), (1, 6, 8, 8), 6 * 64 * 18),
        ("QLinearConv", (1, 4, 8, 8), (6, 4, 1, 1), (1, 6, 8, 8), 6 * 64 * 4),
        ("ConvTranspose", (1, 4, 8, 8), (4, 6, 2, 2), (1, 6, 16, 16), 4 * 64 * 24),
        ("MatMul", (5, 2, 3), (3, 4), (5, 2, 4), 5 * 2 * 4 * 3),
        ("Gemm", (2, 3), (3, 4), (2, 4), 24),
        ("Relu", (2, 3), (3, 4), (2, 3), 0),
        ("MatMul", (None, 3), (3, 4), (None, 4), 0),
        ("MatMul", None, (3, 4), None, 0),
    ],
)
def test_multiply_accumulates(
    operator: str, x: Sequence[int | None] | None, w: Sequence[int], y: Sequence[int | None] | None, count: int
) -> None:
    assert macs(operator, x, w, y) == count


def test_multiply_accumulates_of_a_transposed_operand() -> None:
    assert macs("Gemm", (3, 2), (3, 4), (2, 4), transposed=True) == 24
    made = model([node("Gemm", ["x", "w"], ["y"], transA=1)], {"x": [3, 2]}, {"y": [2, 4]}, {"w": random(3, 4)})
    assert summarize(open_network(made)).macs == 24
