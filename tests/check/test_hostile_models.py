"""Models that hang or grow without bound while they are checked: a finding each, and their neighbours are checked."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import tnn_serving as ts
from tests.networks import CONVOLUTION, network
from tnn_serving.check.report import CheckedModel
from tnn_serving.check.repository import check

pytestmark = pytest.mark.slow

LIMITS = {"load_timeout_s": "10", "memory_limit_bytes": "2GB"}


def save(repository: Path, name: str, model: onnx.ModelProto) -> None:
    (repository / name / "1").mkdir(parents=True)
    onnx.save(model, repository / name / "1" / "model.onnx")


def floats(name: str, *dims: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)


def nested_functions() -> onnx.ModelProto:
    """Each function calls the next one twice: 2^40 nodes when they are expanded."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    functions = []
    for k in range(40):
        inner = [
            helper.make_node(f"f{k + 1}", ["a"], ["b"], domain="f"),
            helper.make_node(f"f{k + 1}", ["b"], ["c"], domain="f"),
        ]
        functions.append(helper.make_function("f", f"f{k}", ["a"], ["c"], inner, opsets))
    last = helper.make_node("Relu", ["a"], ["c"])
    functions.append(helper.make_function("f", "f40", ["a"], ["c"], [last], opsets))
    node = helper.make_node("f0", ["x"], ["y"], domain="f")
    graph = helper.make_graph([node], "nested", [floats("x", 1, 4)], [floats("y", 1, 4)])
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)


def endless_loop() -> onnx.ModelProto:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c_in"], ["c_out"]), helper.make_node("Add", ["v_in", "v_in"], ["v_out"])],
        "body",
        [
            helper.make_tensor_value_info("k", TensorProto.INT64, []),
            helper.make_tensor_value_info("c_in", TensorProto.BOOL, []),
            floats("v_in", 1),
        ],
        [helper.make_tensor_value_info("c_out", TensorProto.BOOL, []), floats("v_out", 1)],
    )
    constants = [
        onnx.numpy_helper.from_array(np.array(2**62, np.int64), "trips"),
        onnx.numpy_helper.from_array(np.array(True), "go"),
    ]
    node = helper.make_node("Loop", ["trips", "go", "x"], ["y"], body=body)
    graph = helper.make_graph([node], "loop", [floats("x", 1)], [floats("y", 1)], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def wide_row() -> onnx.ModelProto:
    """A free batch in front of 2^31 columns: 8 GiB for one row."""
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "wide", [floats("x", "n", 2**31)], [floats("y", "n", 2**31)]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CheckedModel]:
    repository = tmp_path_factory.mktemp("repository")
    for make in (nested_functions, endless_loop, wide_row):
        save(repository, make.__name__, make())
    (repository / "good" / "1").mkdir(parents=True)
    graph = network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"])
    ts.write_model(graph, repository / "good" / "1" / "m.tnnproto", repository / "good" / "1" / "m.tnnmodel")
    seen: list[tuple[int, int]] = []
    found = check([repository], LIMITS, on_progress=lambda done, total, name: seen.append((done, total)))
    assert seen == [(k, 4) for k in range(1, 5)]
    return {model.name: model for model in found.models}


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nested_functions", r"takes too long|too much memory"),
        ("endless_loop", r"takes too long"),
        ("wide_row", r"too large|too much memory"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_a_finding(checked: dict[str, CheckedModel], name: str, problem: str) -> None:
    problems = " ".join(finding.problem for _, finding in checked[name].everything() if finding.severity == "error")
    assert re.search(problem, problems), problems


def test_its_neighbour_is_good(checked: dict[str, CheckedModel]) -> None:
    assert not checked["good"].count("error")
    assert checked["good"].versions[0].engine
