"""Requests to the real tritonserver: data through the backend unharmed, errors where they belong."""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from PIL import Image
from tritonclient.utils import InferenceServerException

from tests.end_to_end.models import BROKEN, gathering, joining, write_model
from tests.servers import DEADLINE_S, Running, ask, load, unload, wait_for

MODELS = ["relu", "named.with.dots", "configured"]


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("model", MODELS)
def test_models_of_any_name_answer(protocol: Any, model: str) -> None:
    x = numbers(1, 3, 8, 8)
    np.testing.assert_array_equal(ask(protocol, model, x).as_numpy("y"), np.maximum(x, 0))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 3, 8, 8), (2, 3, 100, 201), (1, 3, 1500, 1200)])
def test_tensors_of_all_sizes(protocol: Any, shape: tuple[int, ...]) -> None:
    x = numbers(*shape)
    np.testing.assert_array_equal(ask(protocol, "relu", x).as_numpy("y"), np.maximum(x, 0))


def test_requested_output_only(protocol: Any) -> None:
    module, _ = protocol
    result = ask(protocol, "relu", numbers(1, 3, 8, 8), outputs=[module.InferRequestedOutput("y")])
    assert result.as_numpy("y").shape == (1, 3, 8, 8)


def test_config_is_completed(http: Any) -> None:
    config = http.get_model_config("relu")
    assert config["backend"] == "tnn"
    assert [(i["name"], i["data_type"]) for i in config["input"]] == [("x", "TYPE_FP32")]
    assert [(o["name"], o["data_type"]) for o in config["output"]] == [("y", "TYPE_FP32")]
    assert config["instance_group"][0]["kind"] == "KIND_CPU"
    assert http.get_model_config("batched")["max_batch_size"] == 16


def test_body_in_many_chunks(server: Running) -> None:
    """Triton hands such a body to the backend in pieces of 4 KiB."""
    x = numbers(1, 3, 300, 401)
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "shape": list(x.shape),
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": x.nbytes},
                }
            ],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        }
    ).encode()
    body = header + x.tobytes()
    connection = http.client.HTTPConnection(server.http_url, timeout=DEADLINE_S)
    connection.request(
        "POST",
        "/v2/models/relu/infer",
        body=(body[at : at + 3000] for at in range(0, len(body), 3000)),
        headers={"Inference-Header-Content-Length": str(len(header)), "Transfer-Encoding": "chunked"},
        encode_chunked=True,
    )
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    assert answer.status == 200, content
    start = int(answer.headers["Inference-Header-Content-Length"])
    y = np.frombuffer(content[start:], np.float32).reshape(x.shape)
    np.testing.assert_array_equal(y, np.maximum(x, 0))


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_compressed_bodies(http: Any, compression: str) -> None:
    x = np.zeros((1, 3, 200, 200), np.float32)
    result = ask(
        (tritonclient.http, http),
        "relu",
        x,
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    np.testing.assert_array_equal(result.as_numpy("y"), x)


@pytest.mark.parametrize(
    ("array", "name", "text"),
    [
        (np.ones((1, 3, 8, 8), np.float32), "z", "z"),
        (np.ones((1, 3, 8, 8), np.int32), "x", "FP32"),
        (np.ones((3,), np.float32), "x", "x"),
    ],
    ids=["name", "type", "rank"],
)
def test_wrong_requests_are_refused_with_400(http: Any, array: np.ndarray, name: str, text: str) -> None:
    with pytest.raises(InferenceServerException) as raised:
        ask((tritonclient.http, http), "relu", array, name)
    assert raised.value.status() == "400"
    assert text in raised.value.message()


def test_unknown_output_is_refused(protocol: Any) -> None:
    module, _ = protocol
    with pytest.raises(InferenceServerException, match="nope"):
        ask(protocol, "relu", numbers(1, 3, 8, 8), outputs=[module.InferRequestedOutput("nope")])


def test_broken_model_says_why_and_does_not_stop_the_others(server: Running, http: Any) -> None:
    models = {model.name: model for model in server.ready[0]}
    assert models["broken"].state == "UNAVAILABLE"
    assert "NoSuchLayer" in models["broken"].reason
    assert "broken/1/" in models["broken"].reason
    assert models["relu"].ready
    assert models["relu"].inputs == ("x FP32 [-1,-1,-1,-1]",)
    assert models["relu"].outputs == ("y FP32 [-1,-1,-1,-1]",)
    with pytest.raises(InferenceServerException):
        ask((tritonclient.http, http), "broken", numbers(1, 3, 8, 8))


def send_together(server: Running, model: str, arrays: list[np.ndarray]) -> list[Any]:
    """Sends each array from a thread of its own; gives the answers, or the errors."""
    answers: dict[int, Any] = {}

    def send(k: int) -> None:
        with server.grpc() as client:
            try:
                answers[k] = ask((tritonclient.grpc, client), model, arrays[k]).as_numpy("y")
            except InferenceServerException as error:
                answers[k] = error

    threads = [threading.Thread(target=send, args=(k,)) for k in range(len(arrays))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[k] for k in range(len(arrays))]


def statistics(client: Any, model: str) -> dict[str, int]:
    stats = client.get_inference_statistics(model)["model_stats"][0]
    counts = {name: int(value["count"]) for name, value in stats["inference_stats"].items()}
    return counts | {"rows": int(stats["inference_count"]), "executions": int(stats["execution_count"])}


def counted(client: Any, model: str, answered: int) -> dict[str, int]:
    """The statistics once so many requests are in them: an answer is sent before it is counted."""

    def complete() -> dict[str, int] | None:
        counts = statistics(client, model)
        return counts if counts["success"] + counts["fail"] >= answered else None

    counts: dict[str, int] = wait_for(complete, f"{answered} requests of {model} are counted")
    return counts


@pytest.mark.parametrize(("joined_rows", "executions"), [(24, 1), (1, 12)])
def test_dynamic_batch_gives_each_request_its_answer(
    server: Running, http: Any, repository: Path, joined_rows: int, executions: int
) -> None:
    """Triton's batch is complete when all requests are in it, however long they take to come; whether its rows run as
    one inference is a parameter, since whether that is faster differs from machine to machine."""
    arrays = [numbers(1 + k % 3, 3, 8, 8, seed=k) for k in range(12)]
    rows = sum(len(x) for x in arrays)
    name = f"gathered_{joined_rows}"
    write_model(repository, name, config=gathering(rows) + joining(joined_rows))
    load(http, name)
    for k, answer in enumerate(send_together(server, name, arrays)):
        np.testing.assert_array_equal(answer, np.maximum(arrays[k], 0), err_msg=f"request {k}")
    counts = counted(http, name, len(arrays))
    assert (counts["rows"], counts["executions"]) == (rows, executions)
    unload(http, name)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_bad_request_does_not_fail_its_neighbours(server: Running, http: Any, repository: Path) -> None:
    """Requests with bad data in one execution with good ones, and the count of both."""
    config = gathering(9) + joining(9) + 'input [ { name: "x" data_type: TYPE_STRING dims: [ 1 ] } ]\n'
    write_model(repository, "mixed", config=config)
    load(http, "mixed")
    pictures = [np.random.default_rng(k).integers(0, 256, (5 + k, 9, 3), np.uint8) for k in range(9)]
    sent = [b"no picture" if k % 3 == 1 else png(picture) for k, picture in enumerate(pictures)]
    answers = send_together(server, "mixed", [np.array([[data]], dtype=object) for data in sent])
    for k, (answer, picture) in enumerate(zip(answers, pictures, strict=True)):
        if k % 3 == 1:
            assert isinstance(answer, InferenceServerException)
            assert answer.status() == "StatusCode.INVALID_ARGUMENT"
        else:
            assert not isinstance(answer, Exception), answer
            assert answer.shape == (1, 3, *picture.shape[:2])
            assert sorted(answer.astype(np.uint8).ravel()) == sorted(picture.ravel())
    counts = counted(http, "mixed", 9)
    assert (counts["success"], counts["fail"]) == (6, 3)
    assert counts["compute_input"] == counts["compute_infer"] == counts["compute_output"] == 6
    assert counts["executions"] == 1
    unload(http, "mixed")


def test_encoded_pictures_as_bytes(http: Any, repository: Path) -> None:
    """BYTES elements arrive whole, whatever is in them; a bad one is that request's error."""
    write_model(repository, "pictures", config='input [ { name: "x" data_type: TYPE_STRING dims: [ 1 ] } ]\n')
    load(http, "pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (400, 300, 3), np.uint8)
    data = png(pixels)
    client = (tritonclient.http, http)
    y = ask(client, "pictures", np.array([data], dtype=object)).as_numpy("y")
    assert y.shape == (1, 3, 400, 300)
    assert np.array_equal(np.sort(y.astype(np.uint8), axis=None), np.sort(pixels, axis=None))
    for bad in (b"", b"no picture", data[:50]):
        with pytest.raises(InferenceServerException) as raised:
            ask(client, "pictures", np.array([bad], dtype=object))
        assert raised.value.status() == "400"
    unload(http, "pictures")


def test_load_change_and_unload(http: Any, repository: Path) -> None:
    client = (tritonclient.http, http)
    model = write_model(repository, "changing")
    load(http, "changing")
    x = numbers(1, 3, 4, 4)
    np.testing.assert_array_equal(ask(client, "changing", x).as_numpy("y"), np.maximum(x, 0))
    time.sleep(0.1)
    write_model(repository, "changing", version=2)
    wait_for(lambda: _versions_after_load(http, "changing") == ["2"], "version 2 is served")
    np.testing.assert_array_equal(ask(client, "changing", x).as_numpy("y"), np.maximum(x, 0))
    (model / "3").mkdir()
    (model / "3" / "proto.tnnproto").write_bytes(BROKEN)
    wait_for(lambda: _refusal(http, "changing"), "the broken version 3 is refused")
    unload(http, "changing")
    with pytest.raises(InferenceServerException):
        ask(client, "changing", x)


def _versions_after_load(client: Any, name: str) -> list[str]:
    time.sleep(0.1)
    client.load_model(name)
    return [
        entry["version"]
        for entry in client.get_model_repository_index()
        if entry["name"] == name and entry.get("state") == "READY"
    ]


def _refusal(client: Any, name: str) -> str:
    time.sleep(0.1)
    try:
        client.load_model(name)
    except InferenceServerException as error:
        return str(error.message())
    return ""


def test_many_loads_and_unloads(server: Running, http: Any, repository: Path) -> None:
    write_model(repository, "again")
    client = (tritonclient.http, http)
    load(http, "again")
    unload(http, "again")
    pid = server.supervisor.pid
    for _ in range(10):
        http.load_model("again")
        ask(client, "again", numbers(1, 3, 8, 8))
        unload(http, "again")
    assert server.supervisor.pid == pid
    assert not server.restarts


def test_sequence_control_inputs_and_ids(http: Any) -> None:
    """Sequence ids, numbers and strings, arrive with requests of a model that takes no notice of them."""
    client = (tritonclient.http, http)
    x = numbers(1, 3, 8, 8)
    for sequence in (7, "a string"):
        result = ask(client, "relu", x, request_id="request-é", sequence_id=sequence, sequence_start=True)
        assert result.get_response()["id"] == "request-é"
        np.testing.assert_array_equal(result.as_numpy("y"), np.maximum(x, 0))


def test_log_of_the_backend_is_in_tritons_log(server: Running) -> None:
    assert [line for line in server.log if "runs inside the server" in line and line.startswith("I")]
