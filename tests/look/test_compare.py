"""Where two runs differ: of two engines, of a recording, of two models of any formats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import tnn_serving as ts
from tests.networks import network
from tests.onnx_models import CONV_B, CONV_W, convolution, model, random, write
from tests.program import run
from tnn_serving.conversion import convert
from tnn_serving.errors import RequestError, ShapeError
from tnn_serving.look.compare import compare, differences
from tnn_serving.network.views import LayerView

pytestmark = pytest.mark.slow

node = helper.make_node
SIZE = {"x": (1, 3, 8, 8)}


QUANTIZED = ["QuantizedConvolution c 1 1 x a 1 3 8 3 3 1 1 1 1 1 -1 1 1 0", "QuantizedReLU r 1 1 a y"]


def test_two_forms_of_int8_on_one_engine() -> None:
    graph = network({"x": (1, 3, 12, 12)}, QUANTIZED, ["y"])
    engines = ["onnxruntime", "onnxruntime"]
    found = ts.compare(graph, engines=engines, int8="fast", reference_int8="exact", tolerance=0.05)
    assert (found.left, found.right) == ("graph on onnxruntime, int8 fast", "graph on onnxruntime, int8 exact")
    assert [row.blob for row in found.blobs][-1:] == ["y"]
    assert found.first is None
    assert ts.compare(graph, engines=engines).blobs[-1].max_abs == 0


def test_a_blob_that_does_not_exist() -> None:
    with pytest.raises(RequestError, match=r"there is no blob `C`: expected c, r, y \(did you mean `c`\?\)"):
        ts.compare(convolution((1, 3, 8, 8)), blobs=["C"])


def files(folder: Path) -> tuple[Path, Path]:
    """A TNN model, and the ONNX model that it was made from."""
    graph = convert(convolution(), dims=SIZE, checked=False).graph
    ts.write_model(graph, folder / "net.tnnproto", folder / "net.tnnmodel")
    return folder / "net.tnnproto", write(convolution(), folder, "original.onnx")


def test_an_onnx_model_on_two_engines() -> None:
    found = compare(convolution((1, 3, 8, 8)))
    assert (found.left, found.right) == ("g on openvino", "g on onnxruntime")
    assert [(row.layer, row.type, row.blob) for row in found.blobs] == [
        ("Conv_0", "Conv", "c"),
        ("Relu_1", "Relu", "r"),
        ("Sigmoid_2", "Sigmoid", "y"),
    ]
    assert found.first is None
    assert compare(convolution((1, 3, 8, 8)), engines=["onnxruntime"]).right == "g on openvino"


def test_a_model_against_the_one_it_came_from(tmp_path: Path) -> None:
    tnn, original = files(tmp_path)
    found = compare(tnn, original)
    assert (found.left, found.right) == (f"{tnn} on openvino", f"{original} on openvino")
    assert [(row.type, row.blob, row.equal) for row in found.blobs] == [
        ("Convolution", "c", True),
        ("ReLU", "r", True),
        ("Sigmoid", "y", True),
    ]
    told = run("compare", original, tnn, "--json")
    assert told.returncode == 0, told.stderr
    assert [row["type"] for row in json.loads(told.stdout)["blobs"]] == ["Conv", "Relu", "Sigmoid"]


def test_a_difference_to_the_original_is_found_at_its_layer(tmp_path: Path) -> None:
    tnn, _ = files(tmp_path)
    other = convolution()
    other.graph.initializer[1].raw_data = (CONV_B + np.float32([0, 0, 1, 0])).tobytes()
    found = compare(tnn, write(other, tmp_path, "other.onnx"))
    assert found.first is not None
    assert (found.first.layer, found.first.blob, found.first.worst[1]) == ("c", "c", 2)
    assert abs(found.first.reference - found.first.value) == pytest.approx(1, rel=1e-5)


def test_inputs_and_outputs_of_other_names_belong_together_in_order(tmp_path: Path) -> None:
    tnn, _ = files(tmp_path)
    renamed = convolution(("n", 3, "h", "w"), ("image", "h1", "h2", "prob"))
    found = compare(tnn, renamed)
    assert [(row.blob, row.equal) for row in found.blobs] == [("y", True)]
    assert found.right.endswith("where `x` is `image` and `y` is `prob`")
    assert "(reference)" in run("compare", tnn, write(renamed, tmp_path, "renamed.onnx")).stdout


def test_equal_names_come_before_the_order() -> None:
    def two(first: str, second: str) -> onnx.ModelProto:
        nodes = [node("Neg", ["x"], [first]), node("Abs", ["x"], [second])]
        return model(nodes, {"x": [1, 4]}, {first: [1, 4], second: [1, 4]})

    found = compare(two("a", "b"), two("c", "a"))
    assert [(row.blob, row.equal) for row in found.blobs] == [("a", False), ("b", False)]
    assert found.right.endswith("where `b` is `c`")


def test_what_one_model_leaves_free_the_other_may_fix() -> None:
    found = compare(convolution(("n", 3, "h", "w")), convolution((2, 3, 7, 9)))
    assert {row.shape for row in found.blobs} == {(2, 4, 7, 9)}
    assert (
        compare(convolution(("n", 3, "h", 9)), convolution((2, 3, "h", "w")), shapes={"x": (2, 3, 7, 9)}).first is None
    )


def last(dims: tuple[int, ...]) -> onnx.ModelProto:
    """The same network with the channels last."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        node("Conv", ["t", "w", "b"], ["p"], pads=[1, 1, 1, 1]),
        node("Transpose", ["p"], ["c"], perm=[0, 2, 3, 1]),
    ]
    return model(nodes, {"x": dims}, {"c": None}, {"w": CONV_W, "b": CONV_B})


def test_another_layout_is_said() -> None:
    with pytest.raises(ShapeError, match="does not fit input `x` of g") as told:
        compare(convolution((1, 3, 8, 6)), last((1, 8, 6, 3)))
    assert told.value.hint == "one of them has the channels last"
    with pytest.raises(ShapeError) as told:
        compare(convolution((1, 3, 8, 6)), convolution((1, 3, 8, 7)))
    assert (told.value.expected, told.value.hint) == ([1, 3, 8, 7], None)
    two = model([node("Add", ["x", "z"], ["y"])], {"x": [1, 3, 8, 6], "z": [1]}, {"y": None})
    with pytest.raises(ShapeError, match="do not take the same inputs"):
        compare(convolution((1, 3, 8, 6)), two)


LAYERS = [LayerView(0, "A", "first", [], ["a"], [None]), LayerView(1, "B", "second", [], ["b"], [None])]


def test_shapes_that_differ_are_a_problem_and_ones_are_not() -> None:
    found = differences(
        LAYERS,
        {"a": np.ones((1, 4, 1, 1), np.float32), "b": np.ones((1, 2, 3), np.float32)},
        {"a": np.ones((1, 4), np.float32), "b": np.ones((1, 3, 2), np.float32)},
        names=("l", "r"),
    )
    assert [(row.shape, row.equal, row.problem) for row in found.blobs] == [
        ((1, 4, 1, 1), True, None),
        ((1, 2, 3), False, "shapes differ: [1, 2, 3] and [1, 3, 2]"),
    ]
    assert found.first is found.blobs[1]
    with pytest.raises(RequestError, match="nothing to compare: no blob is in both: expected a, b"):
        differences(LAYERS, {"a": np.ones(1)}, {"b": np.ones(1)}, names=("l", "r"))


def test_a_subnormal_number_is_a_zero() -> None:
    """Engines flush them: 0 against -8.67e-41 is no difference, whatever else is in the blob."""
    zeros, tiny = np.zeros((1, 4), np.float32), np.float32([[0, -8.67e-41, 0, 0]])
    for left, right in ((zeros, tiny), (tiny, zeros)):
        (row,) = differences(LAYERS[:1], {"a": left}, {"a": right}, names=("l", "r")).blobs
        assert (row.relative, row.cosine, row.equal) == (0, 1, True)
        assert row.max_abs == pytest.approx(8.67e-41, rel=1e-3)


def test_a_network_whose_blob_underflows_is_equal_on_both_engines() -> None:
    nodes = [node("Mul", ["x", "s"], ["a"]), node("Relu", ["a"], ["y"])]
    made = model(nodes, {"x": [1, 8]}, {"y": [1, 8]}, {"s": np.float32([1e-40])})
    found = compare(made)
    assert found.first is None
    assert max(row.max_abs for row in found.blobs) < 1e-38


def test_a_recording(tmp_path: Path) -> None:
    made = convolution((1, 3, 8, 8))
    x = random(1, 3, 8, 8)
    blobs = ts.load(made, "onnxruntime").run({"x": x}, outputs=["c", "y"])
    blobs["c"][0, 1, 2, 3] += 1
    np.savez(tmp_path / "r.npz", **{"in.x": x}, **{f"out.{name}": array for name, array in blobs.items()})
    found = compare(made, against=tmp_path / "r.npz")
    assert [(row.blob, row.equal) for row in found.blobs] == [("c", False), ("y", True)]
    assert compare(made, against=tmp_path / "r.npz", blobs=["y"]).first is None
