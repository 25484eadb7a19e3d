"""From a network to ONNX: names, dims that callers may choose, what is refused, and where."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnx
import onnxruntime as rt
import pytest

from tests.networks import CONVOLUTION, bare, network, scale
from tnn_serving.emit.builder import LAYER_KEY
from tnn_serving.emit.inference import OPSET
from tnn_serving.emit.limits import Limits
from tnn_serving.errors import LimitError, ShapeError, TnnError, UnsupportedLayer, WeightsError
from tnn_serving.graph import Graph, Input
from tnn_serving.tensor import DataType, Tensor
from tnn_serving.translate.graph import check_shapes, refusals, translate

F32, INT32 = np.dtype(np.float32), np.dtype(np.int32)


def convolution() -> Graph:
    return network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"])


def quantised() -> Graph:
    """x -> int8 ReLU -> a -> float ReLU -> y."""
    return network({"x": (1, 3, 4, 4)}, ["QuantizedReLU q 1 1 x a", "ReLU r 1 1 a y"], ["y"])


def answers(graph: Graph, feeds: dict[str, np.ndarray], **options: Any) -> list[np.ndarray]:
    """What ONNX Runtime computes from a translation."""
    model = translate(graph, **options).proto()
    onnx.checker.check_model(model, full_check=True)
    session = rt.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    made: list[np.ndarray] = session.run(None, feeds)
    return made


# ---- the model ----


def test_blobs_and_layers_keep_their_names() -> None:
    graph = network({"x": (1, 4)}, ["Elu e 1 1 x a 0.5", "HardSwish h 1 1 a y 1.0 0.5"], ["y"])
    made = translate(graph)
    model = made.proto()
    assert model.opset_import[0].version == OPSET
    assert [item.name for item in model.graph.input] == ["x"]
    assert [item.name for item in model.graph.output] == ["y"]
    assert "a" in {name for node in model.graph.node for name in node.output}
    layers = {next(p.value for p in node.metadata_props if p.key == LAYER_KEY) for node in model.graph.node}
    assert layers == {"e", "h"}
    assert all(node.name.split("/")[0] in layers for node in model.graph.node)


def test_blobs_are_known_by_type_and_dims() -> None:
    made = translate(convolution(), symbolic={"x": (True, False, True, True)})
    assert made.blobs.keys() == {"x", "y"}
    assert [(b.name, b.dtype, b.dims, b.known) for b in made.inputs] == [
        ("x", F32, (1, 3, 8, 8), (None, 3, None, None))
    ]
    assert [(b.name, b.dtype, b.dims, b.known) for b in made.outputs] == [
        ("y", F32, (1, 4, 8, 8), (None, 4, None, None))
    ]
    shape = made.proto().graph.input[0].type.tensor_type.shape
    assert [dim.dim_param or dim.dim_value for dim in shape.dim] == ["x.dim0", 3, "x.dim2", "x.dim3"]


def test_any_blob_may_be_an_output_and_what_it_does_not_need_is_left_out() -> None:
    graph = network({"x": (1, 4)}, ["Exp e 1 1 x a", "Log l 1 1 a y", "Abs s 1 1 x z"], ["y", "z"])
    made = translate(graph, outputs=["a"])
    assert [blob.name for blob in made.outputs] == ["a"]
    x = np.float32([[1, 2, 3, 4]])
    for names in (["a"], ["z", "a"], ["y", "z"]):
        got = answers(graph, {"x": x}, outputs=names)
        want = {"a": np.exp(x), "y": x, "z": np.abs(x)}
        for name, array in zip(names, got, strict=True):
            np.testing.assert_allclose(array, want[name], rtol=1e-6)


def test_other_shapes_than_the_protos() -> None:
    made = translate(convolution(), shapes={"x": (2, 3, 5, 7)})
    assert made.outputs[0].dims == (2, 4, 5, 7)
    with pytest.raises(ShapeError, match="input `x` has another rank") as raised:
        translate(convolution(), shapes={"x": (3, 5, 7)})
    assert (raised.value.expected, raised.value.found) == ("4 dims", [3, 5, 7])


def test_a_stored_input_is_a_constant_unless_it_is_fed() -> None:
    graph = network(
        {"x": (1, 4), "z": (1, 4)}, ["Add a 2 1 x z y -1"], ["y"], constants={"z": np.float32([[1, 2, 3, 4]])}
    )
    made = translate(graph)
    assert [blob.name for blob in made.inputs] == ["x"]
    np.testing.assert_array_equal(made.defaults["z"], [[1, 2, 3, 4]])
    x = np.ones((1, 4), np.float32)
    np.testing.assert_array_equal(answers(graph, {"x": x})[0], [[2, 3, 4, 5]])
    np.testing.assert_array_equal(answers(graph, {"x": x, "z": x}, given=["z"])[0], [[2, 2, 2, 2]])


def test_constants_of_a_dynamic_range_model_are_scaled() -> None:
    stored = {"w": np.int8([[1, -2, 3, 4]]), "w_dynamic_range_quant_scale": np.float32([0.5])}
    graph = network({"x": (1, 4)}, ["Add a 2 1 x w y -1"], ["y"], constants=stored)
    np.testing.assert_array_equal(answers(graph, {"x": np.zeros((1, 4), np.float32)})[0], [[0.5, -1, 1.5, 2]])
    graph.constants["w_dynamic_range_quant_scale"] = Tensor.of(np.float32([0.5, 1]))
    with pytest.raises(WeightsError, match="scale of constant `w` must be one value"):
        translate(graph)


def test_layers_are_announced_with_their_inputs() -> None:
    seen: list[tuple[str, list[tuple[int | None, ...]]]] = []
    graph = network({"x": (1, 4)}, ["Exp e 1 1 x a", "Add s 2 1 a x y -1"], ["y"])
    translate(graph, before=lambda layer, values: seen.append((layer.name, [value.dims for value in values])))
    assert seen == [("e", [(1, 4)]), ("s", [(1, 4), (1, 4)])]


def test_int8_blobs_are_real_numbers_or_codes() -> None:
    graph = quantised()
    for name in ("x", "a"):
        graph.scales[name] = scale(0.5)
    x = np.tile(np.float32([-1, 0.5, 1, 2]), (1, 3, 4, 1))
    np.testing.assert_array_equal(answers(graph, {"x": x})[0], np.maximum(x, 0))
    made = translate(graph, raw_int8=True, outputs=["a"])
    assert [blob.dtype for blob in (*made.inputs, *made.outputs)] == [np.int8, np.int8]
    codes = (2 * x).astype(np.int8)
    np.testing.assert_array_equal(answers(graph, {"x": codes}, raw_int8=True, outputs=["a"])[0], np.maximum(codes, 0))
    assert translate(graph).blobs["a"].dtype == F32


# ---- what is refused ----


@pytest.mark.parametrize(
    ("layers", "outputs", "kind", "text"),
    [
        (["ReLU r 1 1 nothing y"], ["y"], ShapeError, "layer 0 `r` \\(ReLU\\): input `nothing` is not available"),
        (["ReLU r 1 1 x y", "Abs s 1 1 x y"], ["y"], ShapeError, "layer 1 `s` \\(Abs\\): blob `y` is written twice"),
        (["ReLU r 1 1 x y"], ["z"], ShapeError, "output `z` is not produced by any layer"),
        (["ReLU r 1 1 x y"], ["x"], ShapeError, "`x` is an input or a constant"),
        (["ReLU r 0 1 y"], ["y"], ShapeError, "layer 0 `r` \\(ReLU\\): wrong number of inputs"),
        (["ReLU r 1 2 x y z"], ["y"], ShapeError, "layer 0 `r` \\(ReLU\\): wrong number of outputs"),
        (["ReLU r 1 1 x a", "Reverse s 1 1 a y"], ["y"], UnsupportedLayer, "layer 1 `s` \\(Reverse\\)"),
        (["QuantizedReLU r 1 1 x y"], ["y"], WeightsError, "scale of int8 blob `x` is missing"),
    ],
    ids=["unknown blob", "written twice", "unknown output", "input as output", "inputs", "outputs", "type", "scale"],
)
def test_refusals_name_network_and_layer(
    layers: list[str], outputs: list[str], kind: type[TnnError], text: str
) -> None:
    graph = bare({"x": (1, 4, 2, 2)}, layers, outputs)
    graph.source = "net.tnnproto"
    with pytest.raises(kind, match=text) as raised:
        translate(graph)
    assert raised.value.where[0] == "net.tnnproto"


def test_a_layer_that_does_not_take_its_input_is_named() -> None:
    with pytest.raises(WeightsError, match="layer 0 `c` \\(Convolution\\)"):
        translate(convolution(), shapes={"x": (1, 4, 8, 8)})


def test_all_layers_at_fault_are_listed_and_those_behind_them_are_not() -> None:
    layers = ["Reverse s 1 1 x a", "ReLU r 1 1 a b", "Reverse t 1 1 b c", "Concat m 1 1 x d 7", "Abs v 1 1 x y"]
    found = refusals(bare({"x": (1, 4)}, layers, ["y"]))
    assert [type(error) for error in found] == [UnsupportedLayer, UnsupportedLayer, ShapeError]
    assert ["`s`" in str(found[0]), "`t`" in str(found[1]), "`m`" in str(found[2])] == [True] * 3
    assert refusals(convolution()) == []


def test_memory_of_weights_and_activations_is_limited_together() -> None:
    graph = convolution()
    made = translate(graph)
    assert made.weights_bytes == 4 * (4 * 3 * 3 * 3 + 4)
    total = made.weights_bytes + made.activations_bytes
    assert translate(graph, limits=Limits(memory_bytes=total)).weights_bytes == made.weights_bytes
    with pytest.raises(LimitError):
        translate(graph, limits=Limits(memory_bytes=total - 1))


def test_the_time_for_loading_ends() -> None:
    with pytest.raises(LimitError, match="loading takes too long"):
        translate(convolution(), limits=Limits(deadline_s=time.monotonic() - 1))


# ---- other shapes ----


def test_shapes_are_asked_of_every_layer() -> None:
    graph = network({"x": (1, 6)}, ["ReLU r 1 1 x a", "InnerProduct f 1 1 a y 5 1 0 1"], ["y"])
    assert check_shapes(graph, {"x": (7, 6)}).fixed == ()
    with pytest.raises(WeightsError, match="layer 1 `f` \\(InnerProduct\\)"):
        check_shapes(graph, {"x": (7, 5)})


def test_inputs_whose_values_decide_sizes_are_named() -> None:
    graph = Graph(
        [Input("x", (1, 2), DataType.FLOAT), Input("s", (2,), DataType.INT32)],
        ["y"],
        bare({}, ["Expand e 2 1 x s y"], ["y"]).layers,
    )
    assert translate(graph).sizing == ("s",)
    check_shapes(graph, {}, values={"s": np.int32([3, 2])}, limits=Limits(memory_bytes=100))
    with pytest.raises(LimitError, match="layer 0 `e` \\(Expand\\)"):
        check_shapes(graph, {}, values={"s": np.int32([300, 2])}, limits=Limits(memory_bytes=100))
