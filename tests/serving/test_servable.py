"""Serving logic without a server: requests over memory, one bad one never spoiling its neighbours."""

from __future__ import annotations

import io
import queue
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tnn_serving as ts
from tests.networks import CONVOLUTION, network
from tnn_serving.errors import CancelledError, ConfigError, FormatError, RequestError, TnnError
from tnn_serving.graph import Tensor
from tnn_serving.serving.servable import Requests, RequestTensor, Result, Servable

X = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)


def tensor(
    array: np.ndarray, name: str = "x", datatype: str = "FP32", shape: tuple[int, ...] | None = None
) -> RequestTensor:
    data = memoryview(array.tobytes())
    return RequestTensor(name, datatype, array.shape if shape is None else shape, data)


def request(*tensors: RequestTensor, **more: Any) -> Requests:
    return Requests({t.name: t for t in tensors}, **more)


def execute(servable: Servable, requests: Requests) -> Result:
    """The result, at once or from another thread."""
    later: queue.SimpleQueue[Result] = queue.SimpleQueue()
    result = servable.execute(requests, later.put)
    return later.get(timeout=30) if result is None else result


def answer(response: Result) -> dict[str, np.ndarray]:
    assert isinstance(response, list), response
    return {t.name: t.data for t in response}


def problem(response: Result) -> str:
    assert isinstance(response, TnnError), response
    return str(response)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    (model / "1").mkdir(parents=True)
    graph = network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"])
    ts.write_model(graph, model / "1" / "any.tnnproto", model / "1" / "any.tnnmodel")
    return model


def pixels_config(**parameters: str) -> dict[str, Any]:
    return {
        "name": "m",
        "input": [{"name": "x", "data_type": "TYPE_UINT8", "dims": [-1, -1, 3]}],
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
    }


def test_answers_are_the_models(folder: Path) -> None:
    servable = Servable.open(folder, {"name": "m"}, version=1)
    got = answer(execute(servable, request(tensor(X))))
    np.testing.assert_array_equal(got["y"], ts.load(folder / "1").run({"x": X})["y"])
    assert servable.config["input"][0]["dims"] == [-1, 3, -1, -1]


def test_one_bad_request_spoils_no_other(folder: Path) -> None:
    servable = Servable.open(folder, {"name": "m"}, version=1)
    short = RequestTensor("x", "FP32", (1, 3, 8, 8), memoryview(b"1234"))
    batch = [
        request(tensor(X)),
        request(short),
        request(tensor(X, datatype="FP64")),
        request(tensor(X[:, :2])),
        request(tensor(X[0])),
        request(tensor(X, name="z")),
        request(),
        request(tensor(X), outputs=("nothing",)),
        request(tensor(X), is_cancelled=lambda: True),
        request(tensor(2 * X)),
    ]
    responses = [execute(servable, each) for each in batch]
    model = ts.load(folder / "1")
    np.testing.assert_array_equal(answer(responses[0])["y"], model.run({"x": X})["y"])
    np.testing.assert_array_equal(answer(responses[-1])["y"], model.run({"x": 2 * X})["y"])
    told = [problem(response) for response in responses[1:-1]]
    for text, said in zip(
        told,
        [
            "input `x`: wrong number of bytes: expected 768 for [1, 3, 8, 8], found 4",
            "input `x`: wrong type: expected FP32, found FP64",
            "expected [any, 3, any, any], found [1, 2, 8, 8]",
            "expected [any, 3, any, any], found [3, 8, 8]",
            "there is no input `z`: expected x",
            "input `x` is missing",
            "there is no output `nothing`: expected y",
            "cancelled",
        ],
        strict=True,
    ):
        assert said in text
        assert text.startswith("model `m`")
    assert isinstance(responses[-2], CancelledError)
    assert all(isinstance(response, RequestError) for response in responses[1:-1])


def test_only_the_outputs_asked_for_are_sent(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    graph = network({"x": (1, 3, 8, 8)}, [*CONVOLUTION, "Sigmoid s 1 1 y z"], ["y", "z"])
    ts.write_model(graph, tmp_path / "1" / "m.tnnproto", tmp_path / "1" / "m.tnnmodel")
    servable = Servable.open(tmp_path, {"name": "m"}, version=1)
    assert set(answer(execute(servable, request(tensor(X))))) == {"y", "z"}
    assert set(answer(execute(servable, request(tensor(X), outputs=("z",))))) == {"z"}


def test_optional_inputs_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    graph = network({"x": (1, 4), "h": (1, 4)}, ["Add a 2 1 x h y -1"], ["y"])
    graph.constants["h"] = Tensor.of(np.full((1, 4), 5, np.float32))
    ts.write_model(graph, tmp_path / "1" / "m.tnnproto", tmp_path / "1" / "m.tnnmodel")
    servable = Servable.open(tmp_path, {"name": "m"}, version=1)
    x = np.ones((1, 4), np.float32)
    without = execute(servable, request(tensor(x)))
    given = execute(servable, request(tensor(x), tensor(x, "h")))
    np.testing.assert_array_equal(answer(without)["y"], x + 5)
    np.testing.assert_array_equal(answer(given)["y"], x + 1)


@pytest.mark.parametrize("shape", [(6, 10, 3), (1, 6, 10, 3)])
def test_pixels_become_the_blob_that_tnn_makes(folder: Path, shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)
    config = pixels_config(scale="0.5,0.25,2", bias="1,-2,3", reverse_channel="true")
    config["input"][0]["dims"] = [-1] * (len(shape) - 1) + [3]
    servable = Servable.open(folder, config, version=1)
    got = answer(execute(servable, request(tensor(picture, datatype="UINT8"))))["y"]
    planes = picture.reshape(1, 6, 10, 3)[..., ::-1].astype(np.float32) * np.float32([0.5, 0.25, 2]) + np.float32(
        [1, -2, 3]
    )
    wanted = ts.load(folder / "1").run({"x": planes.transpose(0, 3, 1, 2)})["y"]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-3)


def test_pictures_are_resized_height_first(folder: Path) -> None:
    servable = Servable.open(folder, pixels_config(resize="4,12"), version=1)
    picture = np.zeros((20, 30, 3), np.uint8)
    assert answer(execute(servable, request(tensor(picture, datatype="UINT8"))))["y"].shape == (1, 4, 4, 12)


def test_encoded_pictures_are_decoded(folder: Path) -> None:
    picture = np.random.default_rng(3).integers(0, 256, (6, 10, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    encoded = struct.pack("<I", len(file.getvalue())) + file.getvalue()
    config = pixels_config()
    raw = Servable.open(folder, config, version=1)
    wanted = answer(execute(raw, request(tensor(picture, datatype="UINT8"))))["y"]
    config["input"][0].update(data_type="TYPE_STRING", dims=[-1])
    servable = Servable.open(folder, config, version=1)

    def sent(data: bytes) -> Result:
        return execute(servable, request(RequestTensor("x", "BYTES", (1,), memoryview(data))))

    good, cut, garbage, long, none = map(
        sent, [encoded, encoded[:100], struct.pack("<I", 5) + b"hello", b"\xff\xff\xff\xff", b""]
    )
    np.testing.assert_array_equal(answer(good)["y"], wanted)
    assert "cut off" in problem(cut)
    assert "input `x`" in problem(garbage)
    assert "cut off" in problem(long)
    assert "no picture" in problem(none)


def test_intermediate_blobs_can_be_served(folder: Path) -> None:
    config = {"name": "m", "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [-1]}]}
    servable = Servable.open(folder, config, version=1)
    assert answer(execute(servable, request(tensor(X))))["y"].shape == (1, 4, 8, 8)
    with pytest.raises(ConfigError, match=r"config\.pbtxt, output `q`: the network has no such blob"):
        Servable.open(folder, {"output": [{"name": "q", "data_type": "TYPE_FP32", "dims": [-1]}]}, version=1)


def test_a_configuration_that_lacks_an_input_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no inputs"):
        Servable.open(folder, {"name": "m"}, version=1, complete=False)


def test_problems_at_load_name_model_and_version(folder: Path) -> None:
    (folder / "1" / "any.tnnmodel").write_bytes(b"\x04")
    with pytest.raises(FormatError, match=r"model `m`, version 1, .*any\.tnnmodel: model file is truncated"):
        Servable.open(folder, {"name": "m"}, version=1)
    with pytest.raises(FormatError, match="no model in"):
        Servable.open(folder, {"name": "m"}, version=7)


def test_requests_together_have_one_answer(folder: Path) -> None:
    servable = Servable.open(folder, {"name": "m", "max_batch_size": 4}, version=1)
    assert servable.joins == 4
    x = np.random.default_rng(5).standard_normal((4, 3, 8, 8)).astype(np.float32)
    got = answer(execute(servable, request(tensor(x), rows=(1, 2, 1))))["y"]
    np.testing.assert_allclose(got, ts.load(folder / "1").run({"x": x})["y"], rtol=1e-5, atol=1e-5)


def test_requests_that_fail_together_are_tried_alone(folder: Path) -> None:
    config = {**pixels_config(), "max_batch_size": 4}
    config["input"] = [{"name": "x", "data_type": "TYPE_STRING", "dims": [1]}]
    servable = Servable.open(folder, config, version=1)
    pictures = []
    for size in (6, 9):
        file = io.BytesIO()
        Image.new("RGB", (size, size), "red").save(file, "PNG")
        pictures.append(struct.pack("<I", len(file.getvalue())) + file.getvalue())
    data = pictures[0] + struct.pack("<I", 5) + b"hello" + pictures[1] + pictures[1]
    together = RequestTensor("x", "BYTES", (4, 1), memoryview(data))
    results = execute(servable, request(together, rows=(1, 1, 2)))
    assert isinstance(results, tuple)
    small, bad, large = results
    assert answer(small)["y"].shape == (1, 4, 6, 6)
    assert answer(large)["y"].shape == (2, 4, 9, 9)
    assert "input `x`" in problem(bad)


def test_without_batches_nothing_is_gathered(folder: Path) -> None:
    assert Servable.open(folder, {"name": "m"}, version=1).joins == 0


def test_rows_that_depend_on_each_other_are_not_gathered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "1").mkdir()
    graph = network({"x": (1, 4)}, ["ReduceMax r 1 1 x a 1 0", "Sub s 2 1 x a y -1"], ["y"])
    ts.write_model(graph, tmp_path / "1" / "m.tnnproto", tmp_path / "1" / "m.tnnmodel")
    caplog.set_level("INFO")
    servable = Servable.open(tmp_path, {"name": "m", "max_batch_size": 4}, version=1)
    assert "rows of output `y` depend on each other" in caplog.text
    assert servable.joins == 0
