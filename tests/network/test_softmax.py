"""Outputs named BLOB.softmax: probabilities, made by a node of the graph, of TNN and of ONNX networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.parser
import pytest

import tnn_serving as ts
from tests.networks import CONVOLUTION, network
from tnn_serving.config.model_config import ModelConfig
from tnn_serving.errors import ConfigError, RequestError, TnnError
from tnn_serving.network.base import Variant
from tnn_serving.network.formats import open_network
from tnn_serving.prepare.loading import load_model
from tnn_serving.prepare.model_version import ModelVersion

ENGINES = ["openvino", "onnxruntime"]


def linear(opset: int, shape: str) -> bytes:
    """An ONNX model whose scores are twice its input."""
    text = f"""<ir_version: 8, opset_import: ["": {opset}]>
    g (float[N,{shape}] x) => (float[N,{shape}] logits) {{
        two = Constant <value = float {{2.0}}> ()
        logits = Mul(x, two)
    }}"""
    return bytes(onnx.parser.parse_model(text).SerializeToString())


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    made: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return made


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("shape", [(7,), (7, 1, 1)])
def test_probabilities_of_an_onnx_network(engine: str, opset: int, shape: tuple[int, ...]) -> None:
    model = ts.load(linear(opset, ",".join(map(str, shape))), engine=engine)
    x = np.random.default_rng(0).standard_normal((3, *shape), np.float32)
    answer = model.run({"x": x}, ["logits.softmax", "logits"])
    assert list(answer) == ["logits.softmax", "logits"]
    np.testing.assert_allclose(answer["logits"], 2 * x, rtol=1e-6)
    np.testing.assert_allclose(answer["logits.softmax"], softmax(2 * x), rtol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_probabilities_of_a_tnn_network(engine: str) -> None:
    layers = ["Flatten f 1 1 x y 1"]
    model = ts.load(network({"x": (2, 5, 1, 1)}, layers, ["y"]), engine=engine)
    x = np.random.default_rng(1).standard_normal((2, 5, 1, 1), np.float32)
    np.testing.assert_allclose(model.run({"x": x}, ["y.softmax"])["y.softmax"], softmax(x[:, :, 0, 0]), rtol=1e-5)


def test_a_blob_that_has_the_name_is_that_blob() -> None:
    model = ts.load(network({"x": (1, 3)}, ["ReLU a 1 1 x y", "Neg b 1 1 x y.softmax"], ["y"]))
    x = np.float32([[1, 2, 3]])
    np.testing.assert_array_equal(model.run({"x": x}, ["y.softmax"])["y.softmax"], -x)


def test_what_holds_no_scores_is_refused() -> None:
    model = ts.load(network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"]))
    with pytest.raises(ConfigError, match=r"blob `y` does not hold scores: expected .*\[N, classes\].*found float32"):
        model.run({"x": np.zeros((1, 3, 8, 8), np.float32)}, ["y.softmax"])


def test_an_unknown_blob_has_no_softmax() -> None:
    with pytest.raises(RequestError, match=r"no blob `nope.softmax`"):
        ts.load(linear(17, "3")).run({"x": np.zeros((1, 3), np.float32)}, ["nope.softmax"])


def served(tmp_path: Path, config: dict[str, object]) -> ModelConfig:
    folder = tmp_path / "m"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(linear(17, "7"))
    return load_model(ModelVersion(folder, ModelConfig.read(config), 1)).configured.config


def test_a_declared_output_is_completed(tmp_path: Path) -> None:
    config = served(tmp_path, {"max_batch_size": 4, "output": [{"name": "logits.softmax"}]})
    assert [(t.name, t.datatype, t.dims) for t in config.output] == [("logits.softmax", "FP32", (7,))]


def test_a_declared_output_of_an_unknown_blob_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TnnError, match=r"output `logit.softmax`: the network has no such blob.*did you mean `logits`"):
        served(tmp_path, {"output": [{"name": "logit.softmax"}]})


def test_it_changes_no_other_output(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(linear(17, "7"))
    opened = open_network(tmp_path / "model.onnx")
    made = opened.translate(Variant(("logits.softmax", "logits")))
    assert [value.name for value in made.model.graph.outputs] == ["logits.softmax", "logits"]
    assert opened.producer("logits.softmax") == opened.producer("logits")
    assert opened.outputs == ["logits"]
