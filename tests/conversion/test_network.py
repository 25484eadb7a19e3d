"""ONNX networks made here, converted, and compared with ONNX Runtime on the original."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnxruntime
import pytest

import tnn_serving as ts
from tnn_serving.conversion import convert
from tnn_serving.errors import FormatError, ShapeError, TnnError, UnsupportedLayer
from tnn_serving.graph import Graph
from tnn_serving.layers.convolution import Convolution, Deconvolution

RNG = np.random.default_rng(11)
DIMS = {"x": (1, 4, 9, 7)}


def values(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def graph_of(source: Any, **options: Any) -> Graph:
    """The graph alone, not tried."""
    return convert(source, checked=False, **options).graph


def network(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    *,
    dims: Sequence[int | str] = ("n", 4, "h", "w"),
    outputs: Sequence[str] = ("y",),
    kind: int = onnx.TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = oh.make_graph(
        nodes,
        "network",
        [oh.make_tensor_value_info("x", kind, dims)],
        [oh.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 11)], ir_version=8)


def check(model: onnx.ModelProto, *shape: int) -> None:
    """Converts, writes, reads and runs a network, and compares it with the original."""
    x = values(*shape)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = dict(zip((o.name for o in session.get_outputs()), session.run(None, {"x": x}), strict=True))
    graph = graph_of(model, dims={"x": shape})
    converted = ts.load(ts.read_model(*ts.write_model(graph)), engine="onnxruntime")
    got = converted.run({"x": x})
    assert set(got) == set(expected)
    for name, want in expected.items():
        assert got[name].shape == want.shape
        assert np.abs(got[name] - want).max() <= 1e-5 * max(1.0, float(np.abs(want).max()))


NORM = {"gamma": 1 + values(6) ** 2, "beta": values(6), "mean": values(6), "variance": 0.1 + values(6) ** 2}


def norm_node(source: str, target: str) -> onnx.NodeProto:
    return oh.make_node("BatchNormalization", [source, "gamma", "beta", "mean", "variance"], [target], epsilon=1e-3)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(
    ("group", "attributes"),
    [
        (1, {"pads": [1, 2, 1, 2]}),
        (2, {"strides": [2, 1], "dilations": [1, 2]}),
        (1, {"auto_pad": "VALID"}),
    ],
)
def test_convolution(bias: bool, folded: bool, group: int, attributes: dict[str, Any]) -> None:
    weights = {"w": values(6, 4 // group, 3, 3)} | ({"b": values(6)} if bias else {}) | (NORM if folded else {})
    last = "c" if folded else "y"
    inputs = ["x", "w"] + (["b"] if bias else [])
    nodes = [oh.make_node("Conv", inputs, [last], kernel_shape=[3, 3], group=group, **attributes)]
    model = network(nodes + ([norm_node("c", "y")] if folded else []), weights)
    graph = graph_of(model, dims=DIMS)
    assert [type(layer) for layer in graph.layers] == [Convolution]
    assert graph.layers[0].name == "y"
    check(model, 2, 4, 11, 8)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("group", [1, 2])
def test_transposed_convolution(bias: bool, folded: bool, group: int) -> None:
    weights = {"w": values(4, 6 // group, 2, 2)} | ({"b": values(6)} if bias else {}) | (NORM if folded else {})
    inputs = ["x", "w"] + (["b"] if bias else [])
    last = "c" if folded else "y"
    nodes = [oh.make_node("ConvTranspose", inputs, [last], kernel_shape=[2, 2], strides=[2, 2], group=group)]
    model = network(nodes + ([norm_node("c", "y")] if folded else []), weights)
    assert [type(layer) for layer in graph_of(model, dims=DIMS).layers] == [Deconvolution]
    check(model, 1, 4, 5, 6)


def test_a_convolution_that_others_read_keeps_its_own_weights() -> None:
    nodes = [
        oh.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1]),
        norm_node("c", "n"),
        oh.make_node("Sigmoid", ["n"], ["s"]),
        oh.make_node("Relu", ["c"], ["r"]),
        oh.make_node("Add", ["s", "r"], ["y"]),
    ]
    model = network(nodes, {"w": values(6, 4, 1, 1)} | NORM, outputs=("y", "n"))
    assert [layer.type for layer in graph_of(model, dims=DIMS).layers] == [
        "Convolution",
        "BatchNormCxx",
        "Sigmoid",
        "ReLU",
        "Add",
    ]
    check(model, 1, 4, 5, 6)


def test_an_output_is_not_folded_away() -> None:
    nodes = [oh.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1]), norm_node("c", "y")]
    check(network(nodes, {"w": values(6, 4, 1, 1)} | NORM, outputs=("c", "y")), 1, 4, 5, 6)


def test_dims_can_be_given() -> None:
    nodes = [oh.make_node("Relu", ["x"], ["y"])]
    open_model = network(nodes, {}, dims=("batch", 3, "height", "width"))
    with pytest.raises(ShapeError):
        graph_of(open_model)
    assert graph_of(open_model, dims={"x": (1, 3, 8, 8)}).inputs[0].dims == (1, 3, 8, 8)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "n.onnx"
    onnx.save(network([oh.make_node("Relu", ["x"], ["y"])], {}), path)
    assert graph_of(path, dims=DIMS).outputs == ["y"]
    with pytest.raises(FormatError, match="cannot be read"):
        graph_of(tmp_path / "missing.onnx")
    path.write_bytes(b"\xff\xff\xff not protobuf")
    with pytest.raises(FormatError, match="no valid ONNX model"):
        graph_of(path)


CONV = {"kernel_shape": [3, 3]}
W = {"w": values(6, 4, 3, 3)}

SAID_OTHERWISE: dict[str, onnx.ModelProto] = {
    "uneven pads": network([oh.make_node("Conv", ["x", "w"], ["y"], pads=[0, 0, 1, 1], **CONV)], W),
    "padding by size": network([oh.make_node("Conv", ["x", "w"], ["y"], auto_pad="SAME_UPPER", **CONV)], W),
    "output padding": network(
        [oh.make_node("ConvTranspose", ["x", "w"], ["y"], output_padding=[1, 1], strides=[2, 2], **CONV)],
        {"w": values(4, 6, 3, 3)},
    ),
    "stored operand": network([oh.make_node("Add", ["x", "k"], ["y"])], {"k": values(1)}),
    "a name twice": network([oh.make_node("Identity", ["x"], ["a"]), oh.make_node("Relu", ["a"], ["y"])], {}),
    "an input that is an output": network([oh.make_node("Identity", ["x"], ["y"])], {}),
    "computed shape": network(
        [
            oh.make_node("Shape", ["x"], ["s"]),
            oh.make_node("Gather", ["s", "zero"], ["n"]),
            oh.make_node("Concat", ["n", "rest"], ["t"], axis=0),
            oh.make_node("Reshape", ["x", "t"], ["y"]),
        ],
        {"zero": np.array([0]), "rest": np.array([-1])},
    ),
    "hard swish, spelled": network(
        [
            oh.make_node("Add", ["x", "three"], ["a"]),
            oh.make_node("Clip", ["a", "zero", "six"], ["b"]),
            oh.make_node("Mul", ["x", "b"], ["c"]),
            oh.make_node("Div", ["c", "six"], ["y"]),
        ],
        {"three": np.float32([3])[0:1].reshape(()), "zero": np.array(0, np.float32), "six": np.array(6, np.float32)},
    ),
    "gelu, spelled": network(
        [
            oh.make_node("Div", ["x", "root"], ["a"]),
            oh.make_node("Erf", ["a"], ["b"]),
            oh.make_node("Add", ["b", "one"], ["c"]),
            oh.make_node("Mul", ["x", "c"], ["d"]),
            oh.make_node("Mul", ["d", "half"], ["y"]),
        ],
        {name: np.array(v, np.float32) for name, v in {"root": 2**0.5, "one": 1, "half": 0.5}.items()},
    ),
    "channels shuffled": network(
        [
            oh.make_node("Reshape", ["x", "apart"], ["a"]),
            oh.make_node("Transpose", ["a"], ["b"], perm=[0, 2, 1, 3, 4]),
            oh.make_node("Reshape", ["b", "back"], ["y"]),
        ],
        {"apart": np.array([1, 2, 2, 11, 8]), "back": np.array([1, 4, 11, 8])},
        dims=(1, 4, 11, 8),
    ),
}


@pytest.mark.parametrize("what", SAID_OTHERWISE)
def test_what_tnn_says_otherwise(what: str) -> None:
    model = SAID_OTHERWISE[what]
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    check(model, *(dims if 0 not in dims else (2, 4, 11, 8)))


@pytest.mark.parametrize(
    ("what", "kind"),
    [("hard swish, spelled", "HardSwish"), ("gelu, spelled", "GELU"), ("channels shuffled", "ShuffleChannel")],
)
def test_a_pattern_of_several_nodes_is_one_layer(what: str, kind: str) -> None:
    model = SAID_OTHERWISE[what]
    dims = None if what == "channels shuffled" else DIMS
    assert [layer.type for layer in graph_of(model, dims=dims).layers] == [kind]


def test_a_value_inside_of_a_pattern_that_is_an_output_stays() -> None:
    model = SAID_OTHERWISE["gelu, spelled"]
    model = onnx.ModelProto.FromString(model.SerializeToString())
    model.graph.output.append(oh.make_tensor_value_info("b", onnx.TensorProto.FLOAT, None))
    assert "Erf" in [layer.type for layer in graph_of(model, dims=DIMS).layers]
    check(model, 2, 4, 11, 8)


LOOP = oh.make_graph(
    [oh.make_node("Identity", ["going"], ["still"]), oh.make_node("Relu", ["value"], ["next"])],
    "body",
    [
        oh.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
        oh.make_tensor_value_info("going", onnx.TensorProto.BOOL, []),
        oh.make_tensor_value_info("value", onnx.TensorProto.FLOAT, None),
    ],
    [
        oh.make_tensor_value_info("still", onnx.TensorProto.BOOL, []),
        oh.make_tensor_value_info("next", onnx.TensorProto.FLOAT, None),
    ],
)
REFUSED: dict[str, tuple[onnx.ModelProto, type[TnnError], str]] = {
    "operator": (network([oh.make_node("Bernoulli", ["x"], ["y"])], {}), UnsupportedLayer, "Bernoulli"),
    "another runtime's": (
        network([oh.make_node("FusedConv", ["x"], ["y"], domain="com.microsoft")], {}),
        UnsupportedLayer,
        "com.microsoft",
    ),
    "a loop": (
        network([oh.make_node("Loop", ["count", "", "x"], ["y"], body=LOOP)], {"count": np.array(3)}),
        UnsupportedLayer,
        "control flow",
    ),
    "computed weights of a group": (
        network([oh.make_node("Conv", ["x", "x"], ["y"], group=2, kernel_shape=[9, 7])], {}),
        UnsupportedLayer,
        "stored constant",
    ),
    "small whole numbers": (
        network([oh.make_node("Add", ["x", "x"], ["y"])], {}, kind=onnx.TensorProto.UINT8),
        UnsupportedLayer,
        "uint8",
    ),
    "strings": (
        network([oh.make_node("Identity", ["x"], ["y"])], {}, kind=onnx.TensorProto.STRING),
        UnsupportedLayer,
        "element type",
    ),
    "norm of another size": (
        network(
            [oh.make_node("Conv", ["x", "w"], ["c"], **CONV), norm_node("c", "y")], {"w": values(5, 4, 3, 3)} | NORM
        ),
        ShapeError,
        "BatchNormalization",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_form_in_tnn_is_refused_with_its_place(what: str) -> None:
    model, error, said = REFUSED[what]
    with pytest.raises(error) as caught:
        graph_of(model, dims=DIMS)
    assert caught.value.where
    assert said in str(caught.value)
