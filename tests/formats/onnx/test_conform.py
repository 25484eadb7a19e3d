"""What ONNX Runtime takes, though ONNX forbids it, runs; what it refuses is refused with a reason."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph

import tnn_serving as ts
from tests.onnx_models import model, random, reference, value
from tnn_serving.emit.limits import Limits
from tnn_serving.errors import FormatError, LimitError
from tnn_serving.formats.onnx import read_onnx

node = helper.make_node
RELU = node("Relu", ["x"], ["y"])
MUL = node("Mul", ["x", "w"], ["y"])
X = {"x": [2, 4]}
Y = {"y": [2, 4]}
W = np.arange(4, dtype=np.float32)

Change = Callable[[onnx.ModelProto], object]


RUNTIME_ERRORS = (Fail, InvalidArgument, InvalidGraph)
"""What ONNX Runtime raises; these classes have no base of their own."""


def changed(made: onnx.ModelProto, change: Change) -> onnx.ModelProto:
    change(made)
    return made


def sparse(indices: np.ndarray) -> onnx.ModelProto:
    values = numpy_helper.from_array(np.float32([2, 3]), "w")
    stored = helper.make_sparse_tensor(values, numpy_helper.from_array(indices, "places"), [2, 4])
    return changed(model([MUL], X, Y), lambda m: m.graph.sparse_initializer.append(stored))


TAKEN: dict[str, onnx.ModelProto] = {
    "initializers of IR 3 that are no inputs": model([MUL], X, Y, {"w": W}, opsets={"": 7}, ir=3),
    "IR 1": changed(model([RELU], X, Y), lambda m: setattr(m, "ir_version", 1)),
    "a graph without a name": changed(model([RELU], X, Y), lambda m: m.graph.ClearField("name")),
    "no import of com.microsoft": model([node("FastGelu", ["x"], ["y"], domain="com.microsoft")], X, Y),
    "no import of ai.onnx.ml": model(
        [node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[0.5], scale=[2.0])], X, Y
    ),
    "no import of the default domain": model([RELU], X, Y, opsets={"ai.onnx.ml": 3}),
    "the default domain by its long name": model([node("Relu", ["x"], ["y"], domain="ai.onnx")], X, Y),
    "the default domain twice": model([RELU], X, Y, opsets={"": 17, "ai.onnx": 17}),
    "an operator that only ONNX Runtime has": model(
        [node("LayerNormalization", ["x", "w"], ["y"])], X, Y, {"w": W}, opsets={"": 13}
    ),
    "nodes in the wrong order": model([node("Relu", ["a"], ["y"]), node("Neg", ["x"], ["a"])], X, Y),
    "the wrong order through a branch": model(
        [
            node(
                "If",
                ["yes"],
                ["y"],
                then_branch=helper.make_graph([node("Relu", ["a"], ["t"])], "then", [], [value("t", None)]),
                else_branch=helper.make_graph([node("Neg", ["a"], ["e"])], "else", [], [value("e", None)]),
            ),
            node("Abs", ["x"], ["a"]),
        ],
        X,
        Y,
        {"yes": np.array(False)},
    ),
    "an output without a shape": model([RELU], X, {"y": None}),
    "an output without a type": changed(model([RELU], X, Y), lambda m: m.graph.output[0].ClearField("type")),
    "an output of another shape": model([RELU], X, {"y": [3, 3]}),
    "an inner value of another shape": changed(
        model([node("Neg", ["x"], ["a"]), node("Relu", ["a"], ["y"])], X, Y),
        lambda m: m.graph.value_info.append(value("a", [9, 9])),
    ),
    "an initializer twice": model([MUL], X, Y, [numpy_helper.from_array(k * W, "w") for k in (1, 2)]),
    "data twice": changed(model([MUL], X, Y, {"w": W}), lambda m: m.graph.initializer[0].float_data.extend([9] * 4)),
    "a sparse initializer": sparse(np.int64([1, 6])),
    "a sparse initializer by coordinates": sparse(np.int64([[0, 1], [1, 2]])),
    "metadata twice": changed(
        model([RELU], X, Y), lambda m: [m.metadata_props.add(key="a", value=text) for text in "bc"]
    ),
    "an input without a name": changed(model([RELU], X, Y), lambda m: m.graph.input.append(value("", [1]))),
    "an output that is an input": model([RELU], X, {"y": [2, 4], "x": [2, 4]}),
    "an output that is stored": model([RELU], X, {"y": [2, 4], "w": [4]}, {"w": W}),
}
"""Models that ONNX Runtime runs and ONNX's checker, its inference or OpenVINO would not."""


@pytest.mark.slow
@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize("engine", ["onnxruntime", "auto"])
def test_what_onnx_runtime_takes_runs(name: str, engine: str) -> None:
    made = TAKEN[name]
    x = random(2, 4)
    wanted = reference(made, {"x": x})
    before = made.SerializeToString(deterministic=True)
    answer = ts.load(made, engine).run({"x": x})
    assert answer.keys() == wanted.keys()
    for output, array in wanted.items():
        np.testing.assert_allclose(answer[output], array, rtol=1e-5, atol=1e-5)
        assert answer[output].shape == array.shape
    assert made.SerializeToString(deterministic=True) == before


def test_nodes_get_names_of_their_own() -> None:
    names = ["", "Relu_0", "same", "same", ""]
    nodes = [node("Relu", [f"v{k}"], [f"v{k + 1}"], name=name) for k, name in enumerate(names)]
    made = model(nodes, {"v0": [1]}, {"v5": [1]})
    with pytest.raises(RUNTIME_ERRORS, match="same node name"):  # ONNX Runtime wants them to differ
        reference(made, {"v0": random(1)})
    for _ in range(2):
        assert [n.name for n in read_onnx(made).graph.node] == ["Relu_0_1", "Relu_0", "same", "same_1", "Relu_4"]
    assert ts.load(made, "onnxruntime").run({"v0": random(1)})["v5"].shape == (1,)


REFUSED: dict[str, tuple[onnx.ModelProto, str]] = {
    "empty": (onnx.ModelProto(), "opset_import"),
    "no outputs": (model([RELU], X, {}), "no outputs"),
    "no opset": (changed(model([RELU], X, Y), lambda m: m.ClearField("opset_import")), "opset_import"),
    "no IR version": (changed(model([RELU], X, Y), lambda m: m.ClearField("ir_version")), "ir_version"),
    "an IR version of the future": (changed(model([RELU], X, Y), lambda m: setattr(m, "ir_version", 99)), "99"),
    "an unknown attribute": (model([node("Relu", ["x"], ["y"], foo=1)], X, Y), "foo"),
    "a cycle": (model([node("Add", ["x", "y"], ["a"]), node("Relu", ["a"], ["y"])], X, Y), "topologically sorted"),
    "a value from nowhere": (model([node("Relu", ["q"], ["y"])], X, Y), "'q'"),
    "a value twice": (model([RELU, RELU], X, Y), "'y'"),
    "too little data": (
        changed(model([MUL], X, Y, {"w": W}), lambda m: setattr(m.graph.initializer[0], "raw_data", b"\0" * 8)),
        "raw_data",
    ),
    "too little data in a large tensor": (
        changed(
            model([MUL], X, Y, {"w": random(2000, 4)}),
            lambda m: setattr(m.graph.initializer[0], "raw_data", b"\0" * 8),
        ),
        "raw_data",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_model_is_refused_with_the_reason(name: str) -> None:
    made, reason = REFUSED[name]
    with pytest.raises(RUNTIME_ERRORS, match="ONNXRuntimeError"):
        reference(made, {"x": random(2, 4)})
    with pytest.raises(FormatError, match=f"no valid ONNX model.*{reason}"):
        read_onnx(made)


def test_a_sparse_initializer_cannot_be_larger_than_allowed() -> None:
    made = sparse(np.int64([1, 6]))
    made.graph.sparse_initializer[0].dims[:] = [2**15, 2**15]
    with pytest.raises(LimitError, match=r"4.29 GB"):
        read_onnx(made, Limits(memory_bytes=1e9))
    made.graph.sparse_initializer[0].dims[:] = [2**40, 2**20]
    with pytest.raises(LimitError):
        read_onnx(made)


def test_data_in_another_file_is_named() -> None:
    made = model([MUL], X, Y, {"w": W})
    onnx.external_data_helper.set_external_data(made.graph.initializer[0], "w.bin")
    made.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(FormatError, match="tensor `w` is stored in another file"):
        read_onnx(made)
