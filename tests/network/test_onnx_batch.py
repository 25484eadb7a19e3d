"""A batch that an ONNX file fixes is free where batches are asked for and rows are independent, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import tnn_serving as ts
from tests.onnx_models import model, random, reference, value, write
from tnn_serving.check.model import check_model
from tnn_serving.config.model_config import BACKEND
from tnn_serving.config.text import read_config
from tnn_serving.network.formats import open_network
from tnn_serving.network.onnx_batch import written_batch
from tnn_serving.serving.servable import Servable

node = helper.make_node
W = random(12, 5)
LARGE = random(1, 300)


def reshaped(*shape: int, **attributes: int) -> onnx.ModelProto:
    nodes = [node("Reshape", ["x", "s"], ["r"], **attributes), node("MatMul", ["r", "w"], ["y"])]
    return model(nodes, {"x": [1, 3, 2, 2]}, {"y": [1, 5]}, {"s": np.array(shape), "w": W})


def constant_shape() -> onnx.ModelProto:
    made = reshaped(1, 12)
    made.graph.node.insert(0, node("Constant", [], ["s"], value=made.graph.initializer[0]))
    del made.graph.initializer[0]
    return made


FREED: dict[str, onnx.ModelProto] = {
    "one row": model([node("Relu", ["x"], ["y"])], {"x": [1, 16]}, {"y": [1, 16]}),
    "four rows": model([node("Relu", ["x"], ["y"])], {"x": [4, 16]}, {"y": [4, 16]}),
    "two inputs": model([node("Add", ["x", "z"], ["y"])], {"x": [1, 16], "z": [1, 16]}, {"y": [1, 16]}),
    "a free one beside it": model([node("Add", ["x", "z"], ["y"])], {"x": ["n", 16], "z": [1, 16]}, {"y": ["n", 16]}),
    "a weight of one row": model([node("Add", ["x", "w"], ["y"])], {"x": [1, 300]}, {"y": [1, 300]}, {"w": LARGE}),
    "a literal reshape": reshaped(1, 12),
    "a literal reshape to the rest": reshaped(1, -1),
    "a literal reshape of a constant": constant_shape(),
    "a literal reshape with a copied dim": model(
        [node("Reshape", ["x", "s"], ["y"])], {"x": [1, 3, 4]}, {"y": [1, 3, 2, 2]}, {"s": np.array([1, 0, 2, 2])}
    ),
    "a reshape back to the batch": model(
        [node("Reshape", ["x", "s"], ["r"]), node("Neg", ["r"], ["m"]), node("Reshape", ["m", "t"], ["y"])],
        {"x": [1, 6]},
        {"y": [1, 2, 3]},
        {"s": np.array([-1, 3]), "t": np.array([1, 2, 3])},
    ),
}
KEPT: dict[str, tuple[onnx.ModelProto, str]] = {
    "rows that mix": (
        model([node("Softmax", ["x"], ["y"], axis=0)], {"x": [1, 16]}, {"y": [1, 16]}),
        "the file is for a batch of 1, and with another one node `Softmax_0` (Softmax) works along axis 0",
    ),
    "an axis without elements": (reshaped(1, 12, allowzero=1), "node `Reshape_0` (Reshape)"),
    "different first dims": (
        model([node("Concat", ["x", "z"], ["y"], axis=0)], {"x": [1, 16], "z": [2, 16]}, {"y": [3, 16]}),
        "has no free first dim",
    ),
    "several rows beside a free one": (
        model([node("MatMul", ["x", "z"], ["y"])], {"x": ["n", 4], "z": [4, 4]}, {"y": ["n", 4]}),
        "has no free first dim: [4, 4]",
    ),
    "no axis beside the batch": (
        model([node("Relu", ["x"], ["y"])], {"x": [1]}, {"y": [1]}),
        "the file is for a batch of 1, and with another one input `x` has no free first dim",
    ),
}


def alone(made: onnx.ModelProto, feeds: dict[str, np.ndarray], rows: int) -> np.ndarray:
    """The answers to single rows by ONNX Runtime, which gets as many equal ones as the file wants."""
    sizes = {item.name: item.type.tensor_type.shape.dim[0].dim_value or 1 for item in made.graph.input}
    answers = []
    for row in range(rows):
        fed = {name: np.repeat(array[row : row + 1], sizes[name], 0) for name, array in feeds.items()}
        answers.append(reference(made, fed)["y"][:1])
    return np.concatenate(answers)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("case", FREED)
def test_rows_answer_as_each_alone(case: str, engine: str) -> None:
    made = FREED[case]
    before = open_network(made)
    freed, obstacle = before.batched(before.outputs, asked=True)
    assert obstacle is None
    assert freed.default_shapes == before.default_shapes
    assert freed.fingerprint() != before.fingerprint()
    loaded = ts.load(freed, engine)
    assert [spec.shape[0] for spec in (*loaded.inputs, *loaded.outputs)] == [None] * (len(loaded.inputs) + 1)
    for rows in (1, 2, 3):
        feeds = {s.name: random(rows, *(d or 0 for d in s.shape[1:]), seed=k) for k, s in enumerate(loaded.inputs)}
        answer = loaded.run(feeds)["y"]
        np.testing.assert_allclose(answer, alone(made, feeds, rows), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", FREED)
def test_a_batch_stays_where_none_is_asked_for(case: str) -> None:
    network = open_network(FREED[case])
    same, obstacle = network.batched(network.outputs)
    assert same is network
    assert obstacle is not None
    assert "has no free first dim" in obstacle


@pytest.mark.parametrize("case", KEPT)
def test_a_batch_stays_where_rows_cannot_be_told_apart(case: str) -> None:
    made, reason = KEPT[case]
    network = open_network(made)
    same, obstacle = network.batched(network.outputs, asked=True)
    assert same is network
    assert reason in str(obstacle)


def test_a_batch_that_is_written_down() -> None:
    assert written_batch([value("x", [3, 4]), value("z", [3])]) == 3
    assert written_batch([value("x", ["n", 4]), value("z", [1, 4])]) == 1
    assert written_batch([value("x", ["n", 4]), value("z", [2, 4])]) is None
    assert written_batch([value("x", [2, 4]), value("z", [3, 4])]) is None
    assert written_batch([value("x", ["n", 4])]) is None
    assert written_batch([value("x", []), value("z", [0, 3])]) is None


def test_a_configuration_that_asks_for_batches_gets_them(tmp_path: Path) -> None:
    write(FREED["a literal reshape"], tmp_path / "m" / "1")
    config = read_config(b'name: "m" max_batch_size: 8')
    servable = Servable.open(tmp_path / "m", config, version=1)
    assert (servable.config.max_batch_size, servable.config.input[0].dims) == (8, (3, 2, 2))
    assert servable.model.run({"x": random(5, 3, 2, 2)})["y"].shape == (5, 5)
    servable.close()
    (tmp_path / "m" / "config.pbtxt").write_text(f'backend: "{BACKEND}" max_batch_size: 8')
    checked, _ = check_model(tmp_path / "m", {})
    (version,) = checked.versions
    assert [finding.problem for finding in version.findings if finding.severity != "note"] == []
    assert (version.inputs[0].dims, version.batch) == ([-1, 3, 2, 2], "rows are independent")


def test_a_configuration_that_cannot_get_them_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(KEPT["rows that mix"][0], tmp_path / "m" / "1")
    Servable.open(tmp_path / "m", read_config(b'name: "m" max_batch_size: 8'), version=1).close()
    said = "max_batch_size is 8, but the network does not take another first dim"
    (record,) = [record for record in caplog.records if said in record.getMessage()]
    assert "the file is for a batch of 1" in record.getMessage()
    (tmp_path / "m" / "config.pbtxt").write_text(f'backend: "{BACKEND}" max_batch_size: 8')
    checked, _ = check_model(tmp_path / "m", {})
    (warning,) = [finding for finding in checked.versions[0].findings if finding.severity == "warning"]
    assert (warning.problem, warning.found) == (said, "`x` [1, 16]")
    assert "works along axis 0" in str(warning.hint)


def test_the_names_of_new_shapes_are_new() -> None:
    made = reshaped(1, 12)
    made.graph.node[0].name = "r"
    made.graph.initializer.append(numpy_helper.from_array(np.float32([1]), "r.shape"))
    freed, obstacle = open_network(made).batched(["y"], asked=True)
    assert obstacle is None
    assert ts.load(freed, "onnxruntime").run({"x": random(2, 3, 2, 2)})["y"].shape == (2, 5)
