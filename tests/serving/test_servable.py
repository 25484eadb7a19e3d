"""Serving logic without a server: requests over memory; a bad request never affects its neighbours."""

from __future__ import annotations

import io
import queue
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from PIL import Image

import tnn_serving as ts
from tests.networks import CONVOLUTION, network
from tnn_serving.config.model_config import ModelConfig
from tnn_serving.errors import CancelledError, ConfigError, FormatError, RequestError, TnnError
from tnn_serving.serving.servable import Requests, Response, Result, Servable
from tnn_serving.serving.tensors import RequestTensor
from tnn_serving.tensor import Tensor

X = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)


def tensor(
    array: np.ndarray, name: str = "x", datatype: str = "FP32", shape: tuple[int, ...] | None = None
) -> RequestTensor:
    data = memoryview(array.tobytes())
    return RequestTensor(name, datatype, array.shape if shape is None else shape, data)


def request(*tensors: RequestTensor, **more: Any) -> Requests:
    return Requests({t.name: t for t in tensors}, **more)


def ask(servable: Servable, *requests: Requests) -> list[Any]:
    """The result of each, whichever thread it comes from."""
    results: list[queue.SimpleQueue[Result]] = [queue.SimpleQueue() for _ in requests]
    found = [servable.execute(one, result.put) for one, result in zip(requests, results, strict=True)]
    return [
        result.get(timeout=60) if at_once is None else at_once for at_once, result in zip(found, results, strict=True)
    ]


def answer(response: Response | Exception) -> dict[str, np.ndarray]:
    assert isinstance(response, list), response
    return {t.name: t.data for t in response}


def problem(response: Response | Exception) -> str:
    assert isinstance(response, TnnError), response
    return str(response)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    (model / "1").mkdir(parents=True)
    graph = network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"])
    ts.write_model(graph, model / "1" / "any.tnnproto", model / "1" / "any.tnnmodel")
    return model


def open_model(folder: Path, config: dict[str, Any] | None = None, **more: Any) -> Servable:
    """Version 1 of a model folder, served with a configuration in the JSON form that Triton passes."""
    return Servable.open(folder, ModelConfig.read({"name": "m", **(config or {})}), version=1, **more)


def pixels_config(**parameters: str) -> dict[str, Any]:
    return {
        "name": "m",
        "input": [{"name": "x", "data_type": "TYPE_UINT8", "dims": [-1, -1, 3]}],
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
    }


def test_answers_are_the_models(folder: Path) -> None:
    servable = open_model(folder)
    got = answer(ask(servable, request(tensor(X)))[0])
    np.testing.assert_allclose(got["y"], ts.load(folder / "1").run({"x": X})["y"], rtol=1e-5, atol=1e-5)
    assert servable.config.input[0].dims == (3, -1, -1)


def test_one_bad_request_spoils_no_other(folder: Path) -> None:
    servable = open_model(folder)
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
    responses = ask(servable, *batch)
    model = ts.load(folder / "1")
    for response, x in ((responses[0], X), (responses[-1], 2 * X)):
        np.testing.assert_allclose(answer(response)["y"], model.run({"x": x})["y"], rtol=1e-5, atol=1e-5)
    for text, expected in zip(
        [problem(response) for response in responses[1:-1]],
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
        assert expected in text
        assert text.startswith("model `m`")
    assert isinstance(responses[-2], CancelledError)
    assert all(isinstance(response, RequestError) for response in responses[1:-1])


def test_only_the_outputs_asked_for_are_sent(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    graph = network({"x": (1, 3, 8, 8)}, [*CONVOLUTION, "Sigmoid s 1 1 y z"], ["y", "z"])
    ts.write_model(graph, tmp_path / "1" / "m.tnnproto", tmp_path / "1" / "m.tnnmodel")
    servable = open_model(tmp_path)
    assert set(answer(ask(servable, request(tensor(X)))[0])) == {"y", "z"}
    assert set(answer(ask(servable, request(tensor(X), outputs=("z",)))[0])) == {"z"}


def test_optional_inputs_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    graph = network({"x": (1, 4), "h": (1, 4)}, ["Add a 2 1 x h y -1"], ["y"])
    graph.constants["h"] = Tensor.of(np.full((1, 4), 5, np.float32))
    ts.write_model(graph, tmp_path / "1" / "m.tnnproto", tmp_path / "1" / "m.tnnmodel")
    servable = open_model(tmp_path)
    x = np.ones((1, 4), np.float32)
    without, fed = ask(servable, request(tensor(x)), request(tensor(x), tensor(x, "h")))
    np.testing.assert_array_equal(answer(without)["y"], x + 5)
    np.testing.assert_array_equal(answer(fed)["y"], x + 1)


@pytest.mark.parametrize("shape", [(6, 10, 3), (1, 6, 10, 3)])
def test_pixels_become_the_blob_that_tnn_makes(folder: Path, shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)
    config = pixels_config(scale="0.5,0.25,2", bias="1,-2,3", reverse_channel="true")
    config["input"][0]["dims"] = [-1] * (len(shape) - 1) + [3]
    servable = open_model(folder, config)
    got = answer(ask(servable, request(tensor(picture, datatype="UINT8")))[0])["y"]
    planes = picture.reshape(1, 6, 10, 3)[..., ::-1].astype(np.float32) * np.float32([0.5, 0.25, 2]) + np.float32(
        [1, -2, 3]
    )
    wanted = ts.load(folder / "1").run({"x": planes.transpose(0, 3, 1, 2)})["y"]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-3)


def test_pictures_are_resized_height_first(folder: Path) -> None:
    servable = open_model(folder, pixels_config(resize="4,12"))
    picture = np.zeros((20, 30, 3), np.uint8)
    assert answer(ask(servable, request(tensor(picture, datatype="UINT8")))[0])["y"].shape == (1, 4, 4, 12)


def test_encoded_pictures_are_decoded(folder: Path) -> None:
    picture = np.random.default_rng(3).integers(0, 256, (6, 10, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    encoded = struct.pack("<I", len(file.getvalue())) + file.getvalue()
    config = pixels_config()
    raw = open_model(folder, config)
    wanted = answer(ask(raw, request(tensor(picture, datatype="UINT8")))[0])["y"]
    config["input"][0].update(data_type="TYPE_STRING", dims=[-1])
    servable = open_model(folder, config)

    def sent(data: bytes) -> Requests:
        return request(RequestTensor("x", "BYTES", (1,), memoryview(data)))

    good, cut, garbage, long, none = ask(
        servable,
        sent(encoded),
        sent(encoded[:100]),
        sent(struct.pack("<I", 5) + b"hello"),
        sent(b"\xff\xff\xff\xff"),
        sent(b""),
    )
    np.testing.assert_array_equal(answer(good)["y"], wanted)
    assert "cut off" in problem(cut)
    assert "input `x`" in problem(garbage)
    assert "cut off" in problem(long)
    assert "no picture" in problem(none)


def test_intermediate_blobs_can_be_served(folder: Path) -> None:
    config = {"output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [-1]}]}
    servable = open_model(folder, config)
    assert answer(ask(servable, request(tensor(X)))[0])["y"].shape == (1, 4, 8, 8)
    with pytest.raises(ConfigError, match=r"config\.pbtxt, output `q`: the network has no such blob"):
        open_model(folder, {"output": [{"name": "q", "data_type": "TYPE_FP32", "dims": [-1]}]})


def test_a_configuration_that_lacks_an_input_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no inputs"):
        open_model(folder, complete=False)


def test_problems_at_load_name_model_and_version(folder: Path) -> None:
    (folder / "1" / "any.tnnmodel").write_bytes(b"\x04")
    with pytest.raises(FormatError, match=r"model `m`, version 1, .*any\.tnnmodel: model file is truncated"):
        open_model(folder)
    with pytest.raises(FormatError, match="7: cannot be read: no such file or folder"):
        Servable.open(folder, ModelConfig(name="m"), version=7)


def inferences(servable: Servable) -> int:
    return sum(cache.counts.hits + cache.counts.misses for cache in servable.model.shape_caches())


def test_gathered_requests_run_as_one_inference(folder: Path) -> None:
    servable = open_model(folder, {"max_batch_size": 4})
    x = np.random.default_rng(5).standard_normal((4, 3, 8, 8)).astype(np.float32)
    before = inferences(servable)
    got = answer(ask(servable, request(tensor(x), rows=(1, 2, 1)))[0])["y"]
    assert inferences(servable) == before + 1
    np.testing.assert_allclose(got, ts.load(folder / "1").run({"x": x})["y"], rtol=1e-5, atol=1e-5)


def test_a_bad_one_among_gathered_requests_spoils_no_other(folder: Path) -> None:
    file = io.BytesIO()
    picture = np.random.default_rng(3).integers(0, 256, (6, 10, 3)).astype(np.uint8)
    Image.fromarray(picture).save(file, "PNG")
    good, bad = (struct.pack("<I", len(data)) + data for data in (file.getvalue(), b"no picture"))
    config = {**pixels_config(), "max_batch_size": 8}
    config["input"][0].update(data_type="TYPE_STRING", dims=[1])
    servable = open_model(folder, config)
    gathered = RequestTensor("x", "BYTES", (4, 1), memoryview(good + bad + good + good))
    first, second, third = ask(servable, request(gathered, rows=(1, 1, 2)))[0]
    assert "not a picture" in problem(second)
    np.testing.assert_allclose(answer(third)["y"][1:], answer(first)["y"], rtol=1e-6)


def test_an_index_out_of_range_among_gathered_requests_spoils_no_other(tmp_path: Path) -> None:
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    text = """<ir_version: 8, opset_import: ["" : 18]>
    g (int64[n, 2] i) => (float[n, 2] y) <float[4] x = {10, 11, 12, 13}, int64 one = {1}>
    { j = Add (i, one) y = Gather (x, j) }"""
    onnx.save(onnx.parser.parse_model(text), version / "model.onnx")
    servable = open_model(tmp_path / "m", {"max_batch_size": 8})
    gathered = np.array([[0, 1], [2, 100], [1, 2], [-2, 0]])
    first, second, third = ask(servable, request(tensor(gathered, "i", "INT64"), rows=(1, 1, 2)))[0]
    assert answer(first)["y"].tolist() == [[11, 12]]
    assert "expected -4 to 3, found 101" in problem(second)
    assert answer(third)["y"].tolist() == [[12, 13], [13, 11]]


def test_batches_are_completed_where_rows_are_independent(folder: Path) -> None:
    servable = open_model(folder)
    assert servable.config.max_batch_size > 1
    assert servable.config.dynamic_batching is not None
    assert servable.config.input[0].dims == (3, -1, -1)


@pytest.mark.parametrize("text", ["max_batch_size: 0\n", 'backend: "tnn"\nmax_batch_size: 0'])
def test_a_batch_size_that_is_written_down_counts(folder: Path, text: str) -> None:
    (folder / "config.pbtxt").write_text(text)
    servable = open_model(folder)
    assert servable.config.max_batch_size == 0
    assert servable.config.input[0].dims == (-1, 3, -1, -1)


def test_rows_that_depend_on_each_other_are_not_joined(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "1").mkdir()
    graph = network({"x": (1, 4)}, ["ReduceMax r 1 1 x a 1 0", "Sub s 2 1 x a y -1"], ["y"])
    ts.write_model(graph, tmp_path / "1" / "m.tnnproto", tmp_path / "1" / "m.tnnmodel")
    caplog.set_level("INFO")
    servable = open_model(tmp_path, {"max_batch_size": 4})
    assert "requests are not joined" in caplog.text
    assert servable.joins == 0
    assert open_model(tmp_path).config.max_batch_size == 0


def test_large_outputs_are_computed_into_memory_of_the_server(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    graph = network({"x": (1, 3, 64, 64)}, CONVOLUTION, ["y"])
    ts.write_model(graph, tmp_path / "1" / "m.tnnproto", tmp_path / "1" / "m.tnnmodel")
    config = {"parameters": {"engine": {"string_value": "openvino"}}}
    servable = open_model(tmp_path, config)
    lent: dict[str, bytearray] = {}

    def allocate(name: str, datatype: str, shape: tuple[int, ...], size: int) -> memoryview:
        assert (datatype, shape, size) == ("FP32", (1, 4, 64, 64), 4 * 4 * 64 * 64)
        lent[name] = bytearray(size)
        return memoryview(lent[name])

    x = np.random.default_rng(5).standard_normal((1, 3, 64, 64)).astype(np.float32)
    wanted = ts.load(tmp_path / "1", "openvino").run({"x": x})["y"]
    for _ in range(2):
        lent.clear()
        assert ask(servable, request(tensor(x), allocate=allocate)) == [[]]
        np.testing.assert_allclose(np.frombuffer(lent["y"], np.float32).reshape(1, 4, 64, 64), wanted, atol=1e-5)
        np.testing.assert_allclose(answer(ask(servable, request(tensor(x)))[0])["y"], wanted, atol=1e-5)


def test_equal_files_and_settings_share_a_network(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    first = open_model(folder)
    second = open_model(copy, {"name": "n"})
    assert first.model is second.model
    other = {"parameters": {"NUM_STREAMS": {"string_value": "2"}}}
    assert open_model(copy, {"name": "n", **other}).model is not first.model
