"""Types of ONNX values: what is no array is refused by name where callers see it, and is no obstacle inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tnn_serving as ts
from tests.onnx_models import FLOAT, model, random, reference, value, write
from tnn_serving.check.repository import check
from tnn_serving.errors import FormatError, TnnError, UnsupportedLayer
from tnn_serving.formats.onnx import DTYPES, element_dtype, type_name
from tnn_serving.look.summary import summarize
from tnn_serving.network.formats import open_network

node = helper.make_node
TENSOR = helper.make_tensor_type_proto(FLOAT, ["n", 4])
SEQUENCE = helper.make_sequence_type_proto(TENSOR)
OPTIONAL = helper.make_optional_type_proto(TENSOR)
SPARSE = helper.make_sparse_tensor_type_proto(FLOAT, [2, 4])
MAP = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, []))
MAPS = helper.make_sequence_type_proto(MAP)
X, Y = {"x": ["n", 4]}, {"y": ["n", 4]}

NOT_NUMPYS = [
    "BFLOAT16",
    "FLOAT8E4M3FN",
    "FLOAT8E4M3FNUZ",
    "FLOAT8E5M2",
    "FLOAT8E5M2FNUZ",
    "FLOAT4E2M1",
    "INT4",
    "UINT4",
    "COMPLEX64",
    "COMPLEX128",
    "STRING",
]

REFUSED: dict[str, tuple[onnx.ModelProto, str]] = {
    "sequence in": (
        model([node("ConcatFromSequence", ["x"], ["y"], axis=0)], [helper.make_value_info("x", SEQUENCE)], Y),
        "input `x` is a sequence of tensors of float, which is not supported",
    ),
    "sequence out": (
        model([node("SplitToSequence", ["x"], ["y"], axis=1)], X, [helper.make_value_info("y", SEQUENCE)]),
        "output `y` is a sequence of tensors of float, which is not supported",
    ),
    "optional in": (
        model(
            [node("OptionalGetElement", ["x"], ["y"])],
            [helper.make_value_info("x", OPTIONAL)],
            Y,
            opsets={"": 18},
        ),
        "input `x` is an optional value: a tensor of float, which is not supported",
    ),
    "sparse in": (
        model([node("Relu", ["x"], ["y"])], [helper.make_value_info("x", SPARSE)], Y),
        "input `x` is a sparse tensor of float, which is not supported",
    ),
    "map in": (
        model(
            [node("DictVectorizer", ["x"], ["y"], domain="ai.onnx.ml", int64_vocabulary=[0, 1])],
            [helper.make_value_info("x", MAP)],
            {"y": [1, 2]},
        ),
        "input `x` is a map from int64 to tensors of float, which is not supported",
    ),
    "maps out": (
        model(
            [node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3])],
            X,
            [helper.make_value_info("y", MAPS)],
        ),
        "output `y` is a sequence of maps from int64 to tensors of float, which is not supported",
    ),
}
for name in NOT_NUMPYS:
    kind = getattr(TensorProto, name)
    word = "strings" if name == "STRING" else name.lower()
    REFUSED[f"{name} in"] = (
        model([node("Cast", ["x"], ["y"], to=FLOAT)], [value("x", ["n", 4], kind)], Y, opsets={"": 23}, ir=11),
        f"input `x` is a tensor of {word}, which is not supported",
    )
    REFUSED[f"{name} out"] = (
        model([node("Cast", ["x"], ["y"], to=kind)], X, [value("y", ["n", 4], kind)], opsets={"": 23}, ir=11),
        f"output `y` is a tensor of {word}, which is not supported",
    )


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_array_is_named(case: str, tmp_path: Path) -> None:
    made, said = REFUSED[case]
    with pytest.raises(UnsupportedLayer) as told:
        ts.load(made)
    assert told.value.problem == said
    assert "float16" in str(told.value.expected)
    summary = summarize(open_network(made))
    assert said in str(summary.problem)
    assert len(summary.layers) == 1
    write(made, tmp_path / "m" / "1")
    (checked,) = check([tmp_path]).models
    assert [finding.problem for finding in checked.versions[0].findings] == [said]


def through(kind: int) -> list[onnx.NodeProto]:
    return [node("Cast", ["x"], ["a"], to=kind), node("Cast", ["a"], ["y"], to=FLOAT)]


def quantized(kind: int) -> onnx.ModelProto:
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["a"]), node("DequantizeLinear", ["a", "s", "z"], ["y"])]
    stored = [helper.make_tensor("s", FLOAT, [], [0.25]), helper.make_tensor("z", kind, [], [0])]
    return model(nodes, X, Y, stored, opsets={"": 21}, ir=10)


INSIDE: dict[str, onnx.ModelProto] = {
    **{name: model(through(getattr(TensorProto, name)), X, Y, opsets={"": 19}, ir=9) for name in NOT_NUMPYS[:3]},
    **{name: quantized(getattr(TensorProto, name)) for name in ("INT4", "UINT4")},
    "STRING": model(through(TensorProto.STRING), X, Y),
    "a weight": model(
        [node("Cast", ["w"], ["a"], to=FLOAT), node("Mul", ["x", "a"], ["y"])],
        X,
        Y,
        [helper.make_tensor("w", TensorProto.BFLOAT16, [4], [1.0, 2.0, 3.0, 4.0])],
    ),
    "a sequence": model(
        [node("SplitToSequence", ["x", "one"], ["s"], axis=1), node("ConcatFromSequence", ["s"], ["y"], axis=1)],
        X,
        Y,
        {"one": np.array(1)},
    ),
    "an optional value": model(
        [node("Optional", ["x"], ["o"]), node("OptionalGetElement", ["o"], ["y"])], X, Y, opsets={"": 18}
    ),
}
"""Networks of arrays that compute with something else inside."""


@pytest.mark.parametrize("case", INSIDE)
def test_such_types_inside_are_no_obstacle(case: str, tmp_path: Path) -> None:
    made = INSIDE[case]
    x = random(3, 4)
    wanted = reference(made, {"x": x})["y"]
    loaded = ts.load(made, "onnxruntime")
    np.testing.assert_array_equal(loaded.run({"x": x})["y"], wanted)
    assert all(spec.dtype.kind in "fiub" for spec in loaded.blobs().values())
    summary = summarize(open_network(made))
    assert (summary.problem, [blob.dtype for blob in summary.outputs]) == (None, ["float32"])
    write(made, tmp_path / "m" / "1")
    (checked,) = check([tmp_path]).models
    assert checked.count("error") == 0
    assert checked.versions[0].engine


FLOAT8E8M0 = 24
TYPES = {name: number for name, number in TensorProto.DataType.items() if number}
NEWEST = {"opsets": {"": max(23, min(25, onnx.defs.onnx_opset_version()))}, "ir": 11}


def four(kind: int) -> onnx.TensorProto:
    """The stored numbers 1, 0, 1 and 1."""
    numbers: list[object] = [b"1", b"0", b"1", b"1"] if kind == TensorProto.STRING else [1.0, 0.0, 1.0, 1.0]
    return helper.make_tensor("w", kind, [4], numbers)


def holding(kind: int) -> dict[str, onnx.ModelProto]:
    """Networks that meet an element type in every place."""
    cast, back = node("Cast", ["x"], ["a"], to=kind), node("Cast", ["a"], ["y"], to=FLOAT)
    scaled = [node("Cast", ["w"], ["a"], to=FLOAT), node("Mul", ["x", "a"], ["y"])]
    sparse = model(scaled, X, Y, **NEWEST)
    indices = helper.make_tensor("", TensorProto.INT64, [4], [0, 1, 2, 3])
    sparse.graph.sparse_initializer.add(values=four(kind), indices=indices, dims=[4])
    declared = model([node("Relu", ["x"], ["a"]), node("Relu", ["a"], ["y"])], X, Y, **NEWEST)
    declared.graph.value_info.append(value("a", ["n", 4], kind))
    return {
        "input": model([node("Cast", ["x"], ["y"], to=FLOAT)], [value("x", ["n", 4], kind)], Y, **NEWEST),
        "output": model([node("Cast", ["x"], ["y"], to=kind)], X, [value("y", ["n", 4], kind)], **NEWEST),
        "output without a type": model(
            [node("Cast", ["x"], ["y"], to=kind)], X, [onnx.ValueInfoProto(name="y")], **NEWEST
        ),
        "both": model(
            [node("Identity", ["x"], ["y"])], [value("x", ["n", 4], kind)], [value("y", ["n", 4], kind)], **NEWEST
        ),
        "inside": model([cast, back], X, Y, **NEWEST),
        "stored": model(scaled, X, Y, [four(kind)], **NEWEST),
        "constant": model([node("Constant", [], ["w"], value=four(kind)), *scaled], X, Y, **NEWEST),
        "stored output": model(
            [node("Relu", ["x"], ["y"])], X, [value("y", ["n", 4]), value("w", [4], kind)], [four(kind)], **NEWEST
        ),
        "sparse": sparse,
        "declared by mistake": declared,
    }


def wanted_of(place: str, kind: int, x: np.ndarray) -> np.ndarray:
    """What a network of :func:`holding` answers, by the types that ONNX keeps elements in."""
    if place in ("stored", "constant", "sparse"):
        return x * np.array([1, 0, 1, 1], np.float32)
    if place in ("stored output", "declared by mistake"):
        return x
    if kind == FLOAT8E8M0:
        return np.array([[0.5, 1, 2.0**-127, 1]], np.float32)  # powers of two, rounded up
    dtype = element_dtype(kind)
    assert dtype is not None
    through = x.astype(str).astype(object) if kind == TensorProto.STRING else x.astype(dtype)
    return through if (kind in DTYPES and "output" in place) or place == "both" else through.astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("place", holding(FLOAT))
@pytest.mark.parametrize("name", TYPES)
def test_every_element_type_in_every_place_is_right_or_refused(name: str, place: str, tmp_path: Path) -> None:
    kind, made = TYPES[name], holding(TYPES[name])[place]
    x = np.array([[0.478, 1.0, 0.0, 1.0]], np.float32)
    border = place in ("input", "output", "output without a type", "both", "stored output")
    for engine in ("openvino", "onnxruntime"):
        try:
            loaded = ts.load(made, engine)
        except TnnError as error:
            refusal = error
        else:
            assert kind in DTYPES or not border
            found = loaded.run({"x": x.astype(loaded.inputs[0].dtype)})["y"]
            # Engines take subnormal numbers for zero, and OpenVINO leaves out what rounds to float16 and back.
            tolerance = 1e-3 if name == "FLOAT16" else 1e-37
            np.testing.assert_allclose(found, wanted_of(place, kind, x), rtol=0, atol=tolerance)
    write(made, tmp_path / "m" / "1")
    (checked,) = check([tmp_path]).models
    assert bool(checked.versions[0].engine) != bool(checked.count("error"))
    if kind not in DTYPES and border:
        assert checked.versions[0].findings[0].problem == refusal.problem
        assert "is not supported" in refusal.problem


def test_a_number_that_is_no_element_type(tmp_path: Path) -> None:
    made = holding(FLOAT)["stored"]
    made.graph.initializer[0].data_type = 99
    with pytest.raises(FormatError, match="tensor `w` has an unknown type: found type 99"):
        ts.load(made)


def test_names_of_types() -> None:
    assert type_name(onnx.TypeProto()) == "an unknown type"
    assert type_name(helper.make_tensor_type_proto(4711, [])) == "a tensor of type 4711"
    assert type_name(helper.make_optional_type_proto(SEQUENCE)) == "an optional value: a sequence of tensors of float"


def test_an_input_needs_a_shape() -> None:
    made = model([node("Relu", ["x"], ["y"])], {"x": None}, {"y": None})
    with pytest.raises(UnsupportedLayer, match="input `x` declares no shape, so that its number of dims is not known"):
        ts.load(made)


def test_an_output_whose_number_of_dims_only_a_run_tells() -> None:
    flat = [node("NonZero", ["x"], ["i"]), node("Transpose", ["i"], ["t"]), node("Unique", ["t"], ["y"])]
    loaded = ts.load(model(flat, {"x": [2, 6]}, [value("y", None, TensorProto.INT64)]), "onnxruntime")
    assert [spec.shape for spec in loaded.outputs] == [(None,)]
    inputs = [value("x", [2, 6]), value("shape", ["k"], TensorProto.INT64)]
    loaded = ts.load(model([node("Reshape", ["x", "shape"], ["y"])], inputs, {"y": None}), "onnxruntime")
    assert loaded.outputs[0].dtype == np.float32
    # Zeros have no places of numbers other than zero: the run at load fails.
    places = [node("NonZero", ["x"], ["i"]), node("Squeeze", ["i"], ["s"]), node("Reshape", ["x", "s"], ["y"])]
    with pytest.raises(UnsupportedLayer, match=r"the number of dims of output `y` is not known.*a run at .* fails"):
        ts.load(model(places, {"x": [6]}, {"y": None}))


@pytest.mark.parametrize("domain", ["", "com.microsoft"])
def test_an_unknown_operator_is_the_engines_to_refuse(domain: str) -> None:
    made = model([node("NoSuchOperator", ["x"], ["y"], domain=domain)], X, Y)
    with pytest.raises(TnnError, match="NoSuchOperator"):
        ts.load(made, "onnxruntime")


def test_operators_of_onnx_runtime_run_there_and_rows_are_not_joined(tmp_path: object) -> None:
    made = model([node("BiasGelu", ["x", "b"], ["y"], domain="com.microsoft")], X, Y, {"b": random(4, seed=1)})
    x = random(3, 4)
    np.testing.assert_allclose(ts.load(made).run({"x": x})["y"], reference(made, {"x": x})["y"], rtol=1e-5, atol=1e-6)
    _, obstacle = open_network(made).batched(["y"])
    assert obstacle is not None
    assert "domain com.microsoft" in obstacle
