"""Ensembles of models of ours: a file is decoded, classified, and the answer named, in one request."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.end_to_end.test_serving import counted
from tests.networks import network
from tests.servers import Running, load, unload
from tnn_serving import write_model

PICTURES = Path(__file__).parents[2] / "examples" / "pictures"

DECODE = """
input [ { name: "file" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "pixels" data_type: TYPE_FP32 dims: [ 1, 3, 224, 224 ] } ]
parameters [
  { key: "resize" value: { string_value: "448,448" } },
  { key: "scale" value: { string_value: "0.0078125" } },
  { key: "bias" value: { string_value: "-0.9921875" } }
]
"""
CLASSIFY = """
input [ { name: "input" data_type: TYPE_FP32 dims: [ 1, 3, 224, 224 ] } ]
output [ { name: "logits" data_type: TYPE_FP32 dims: [ 1, 1000 ] } ]
"""
ENSEMBLE = """
platform: "ensemble"
max_batch_size: 0
input [ { name: "picture" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "label" data_type: TYPE_FP32 dims: [ 1, 1000 ] label_filename: "labels.txt" } ]
ensemble_scheduling { step [
  { model_name: "ensemble_decode" model_version: -1
    input_map { key: "file" value: "picture" } output_map { key: "pixels" value: "pixels" } },
  { model_name: "ensemble_classify" model_version: -1
    input_map { key: "input" value: "pixels" } output_map { key: "logits" value: "logits" } },
  { model_name: "ensemble_probability" model_version: -1
    input_map { key: "logits" value: "logits" } output_map { key: "probability" value: "label" } }
] }
"""
STEPS = ("ensemble_decode", "ensemble_classify", "ensemble_probability")


def write_steps(repository: Path, demo: Path) -> None:
    """A network that halves what the server decodes and normalises; the demo's classifier; a Softmax, as ONNX."""
    for name in (*STEPS, "what_is_it"):
        (repository / name).mkdir()
    decode, classify, probability = (repository / name / "1" for name in STEPS)
    decode.mkdir()
    halve = network({"file": [1, 3, 448, 448]}, ["Pooling p 1 1 file pixels 1 2 2 2 2 0 0 -1 -1 -1 0"], ["pixels"])
    write_model(halve, decode / "proto.tnnproto", decode / "model.tnnmodel")
    (decode.parent / "config.pbtxt").write_text(DECODE)
    shutil.copytree(demo / "classification" / "1", classify)
    (classify.parent / "config.pbtxt").write_text(CLASSIFY)
    probability.mkdir()
    value = (TensorProto.FLOAT, [1, 1000])
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["logits"], ["probability"], axis=1)],
        "probability",
        [helper.make_tensor_value_info("logits", *value)],
        [helper.make_tensor_value_info("probability", *value)],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), probability / "model.onnx")
    (probability.parent / "config.pbtxt").write_text('backend: "tnn"\nmax_batch_size: 0\n')
    (repository / "what_is_it" / "config.pbtxt").write_text(ENSEMBLE)
    (repository / "what_is_it" / "1").mkdir()
    shutil.copy(demo / "classification" / "labels.txt", repository / "what_is_it" / "labels.txt")


@pytest.fixture(scope="module", autouse=True)
def ensemble(server: Running, repository: Path, demo_models: Path) -> Iterator[None]:
    write_steps(repository, demo_models)
    with server.http() as client:
        load(client, "what_is_it")  # which loads its steps
        yield
        for name in ("what_is_it", *STEPS):
            unload(client, name)


def tensor(module: Any, name: str, value: np.ndarray) -> Any:
    made = module.InferInput(name, list(value.shape), "BYTES" if value.dtype == object else "FP32")
    made.set_data_from_numpy(value)
    return made


@pytest.mark.parametrize(
    ("picture", "label"),
    [("cat.jpg", "cat"), ("astronaut.jpg", "bobsled")],
)
def test_a_file_becomes_a_label(protocol: Any, http: Any, picture: str, label: str) -> None:
    module, client = protocol
    file = np.array([(PICTURES / picture).read_bytes()], object)
    wanted = [module.InferRequestedOutput("label", class_count=3)]
    before = [counted(http, step, 0)["success"] for step in STEPS]
    result = client.infer("what_is_it", [tensor(module, "picture", file)], outputs=wanted)
    classes = [text.decode().split(":") for text in result.as_numpy("label").ravel()]
    assert label in classes[0][2]
    for step, count in zip(STEPS, before, strict=True):
        counted(http, step, count + 1)

    # The same, step by step.
    pixels = client.infer("ensemble_decode", [tensor(module, "file", file)]).as_numpy("pixels")
    assert pixels.shape == (1, 3, 224, 224)
    logits = client.infer("ensemble_classify", [tensor(module, "input", pixels)]).as_numpy("logits")
    probability = client.infer("ensemble_probability", [tensor(module, "logits", logits)]).as_numpy("probability")
    assert float(probability.sum()) == pytest.approx(1, abs=1e-5)
    order = np.argsort(-probability.ravel())[:3]
    assert [int(number) for _, number, _ in classes] == order.tolist()
    got = [float(value) for value, _, _ in classes]
    np.testing.assert_allclose(got, probability.ravel()[order], atol=1e-5)


def test_an_error_in_a_step_is_the_answer(protocol: Any) -> None:
    module, client = protocol
    file = np.array([b"no picture"], object)
    with pytest.raises(module.InferenceServerException, match="not a picture"):
        client.infer("what_is_it", [tensor(module, "picture", file)])
