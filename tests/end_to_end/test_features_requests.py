"""Single requests to models of ours: streams, shared memory, classes, warm-up, statistics, the log."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import tritonclient.utils.shared_memory as shared_memory
from tritonclient.utils import InferenceServerException

from tests.end_to_end.models import RELU, joining, write_model
from tests.end_to_end.test_serving import counted, numbers, statistics
from tests.servers import DEADLINE_S, Running, ask, load, unload, wait_for

WARM_UP = """
max_batch_size: 4
model_warmup [
  { name: "random" batch_size: 3 count: 2
    inputs { key: "x" value: { data_type: TYPE_FP32 dims: [ 3, 8, 8 ] random_data: true } } },
  { name: "zero" batch_size: 1
    inputs { key: "x" value: { data_type: TYPE_FP32 dims: [ 3, 16, 16 ] zero_data: true } } }
]
"""
LABELLED = """
max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1, 1, 3 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "colours.txt" } ]
"""
DECOUPLED = "model_transaction_policy { decoupled: true }\n"


@pytest.fixture(scope="module", autouse=True)
def models(server: Running, repository: Path) -> Iterator[None]:
    write_model(repository, "warmed", config=WARM_UP + joining(4))
    (write_model(repository, "labelled", config=LABELLED) / "colours.txt").write_text("red\ngreen\nblue\n")
    write_model(repository, "decoupled", config=DECOUPLED)
    write_model(repository, "accounted", config="max_batch_size: 4\n")
    write_model(repository, "two_versions", config="version_policy { all { } }\n")
    write_model(repository, "two_versions", version=2, proto=RELU.replace(b"ReLU", b"Abs"))
    names = ("two_versions", "warmed", "labelled", "decoupled", "accounted")
    with server.http() as client:
        for name in names:
            load(client, name)
        yield
        for name in names:
            unload(client, name)


class Stream:
    """An open gRPC stream with what has come over it."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.came: queue.Queue[tuple[Any, Any]] = queue.Queue()

    def __enter__(self) -> Stream:
        self.client.start_stream(lambda result, error: self.came.put((result, error)))
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_stream()

    def send(self, model: str, x: np.ndarray, request_id: str, **options: Any) -> None:
        tensor = tritonclient.grpc.InferInput("x", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)
        self.client.async_stream_infer(model, [tensor], request_id=request_id, **options)

    def next(self) -> Any:
        result, error = self.came.get(timeout=DEADLINE_S)
        if error is not None:
            raise error
        return result


def test_stream(grpc: Any) -> None:
    """Requests of several models over one stream; a refused one does not end it."""
    sent = {str(k): numbers(1 + k % 3, 3, 8, 8, seed=k) for k in range(20)}
    with Stream(grpc) as stream:
        for key, x in sent.items():
            stream.send(("relu", "configured")[int(key) % 2], x, key)
        for _ in range(len(sent)):
            result = stream.next()
            key = result.get_response().id
            np.testing.assert_array_equal(result.as_numpy("y"), np.maximum(sent.pop(key), 0))
        stream.send("relu", numbers(3), "wrong")
        with pytest.raises(InferenceServerException, match="unexpected shape for input 'x'"):
            stream.next()
        stream.send("relu", -numbers(1, 1, 1, 1), "after")
        assert stream.next().get_response().id == "after"


def test_a_decoupled_model_gives_one_answer(grpc: Any) -> None:
    """Decoupled means any number of answers a request; a network gives one, which is the last."""
    x = numbers(2, 3, 8, 8)
    with Stream(grpc) as stream:
        for key in ("first", "second"):
            stream.send("decoupled", x, key, enable_empty_final_response=True)
        answers = [stream.next() for _ in range(2)]
        assert sorted(answer.get_response().id for answer in answers) == ["first", "second"]
        for answer in answers:
            np.testing.assert_array_equal(answer.as_numpy("y"), np.maximum(x, 0))
            assert answer.get_response().parameters["triton_final_response"].bool_param
        assert stream.came.empty()
    with pytest.raises(InferenceServerException, match="decoupled"):
        ask((tritonclient.grpc, grpc), "decoupled", x)


def test_system_shared_memory(protocol: Any) -> None:
    """Tensors in a region of the client's: read there, and the answer written there."""
    module, client = protocol
    x = numbers(2, 3, 50, 40)
    name = f"tnn_serving_{module.__name__.rpartition('.')[2]}"
    region = shared_memory.create_shared_memory_region(name, f"/{name}", 2 * x.nbytes)
    try:
        shared_memory.set_shared_memory_region(region, [x])
        client.register_system_shared_memory(name, f"/{name}", 2 * x.nbytes)
        try:
            tensor = module.InferInput("x", list(x.shape), "FP32")
            tensor.set_shared_memory(name, x.nbytes)
            wanted = module.InferRequestedOutput("y")
            wanted.set_shared_memory(name, x.nbytes, offset=x.nbytes)
            client.infer("relu", [tensor], outputs=[wanted])
            y = shared_memory.get_contents_as_numpy(region, np.float32, x.shape, offset=x.nbytes)
            np.testing.assert_array_equal(y, np.maximum(x, 0))
            too_long = module.InferInput("x", [4, 3, 50, 40], "FP32")
            too_long.set_shared_memory(name, 4 * x.nbytes)
            with pytest.raises(InferenceServerException, match=r"(?i)shared memory"):
                client.infer("relu", [too_long])
        finally:
            client.unregister_system_shared_memory(name)
    finally:
        shared_memory.destroy_shared_memory_region(region)


def test_classes_with_labels(protocol: Any) -> None:
    module, _ = protocol
    x = np.array([[[[1, 7, 3]]], [[[0.5, -1, 0.25]]]], np.float32)
    result = ask(protocol, "labelled", x, outputs=[module.InferRequestedOutput("y", class_count=2)])
    classes = [[text.decode().split(":") for text in row] for row in result.as_numpy("y")]
    assert [[(float(v), int(k), label) for v, k, label in row] for row in classes] == [
        [(7, 1, "green"), (3, 2, "blue")],
        [(0.5, 0, "red"), (0.25, 2, "blue")],
    ]


def test_two_versions_side_by_side(protocol: Any) -> None:
    x = numbers(1, 3, 8, 8)
    for version, expected in (("1", np.maximum(x, 0)), ("2", np.abs(x)), ("", np.abs(x))):
        answer = ask(protocol, "two_versions", x, model_version=version)
        np.testing.assert_array_equal(answer.as_numpy("y"), expected)


def test_warm_up_has_run_when_a_model_is_ready(http: Any) -> None:
    """Each sample has run as often as its count says, its rows as one inference, before the first request."""
    counts = statistics(http, "warmed")
    assert counts["executions"] == 3
    assert counts["rows"] == 7
    assert counts["fail"] == 0
    assert rows_executed(http, "warmed") == {1: 1, 3: 2}


def rows_executed(client: Any, model: str) -> dict[int, int]:
    """How many executions of each number of rows there were."""
    stats = client.get_inference_statistics(model)["model_stats"][0]
    return {int(entry["batch_size"]): int(entry["compute_infer"]["count"]) for entry in stats["batch_stats"]}


def test_statistics_account_for_every_request(http: Any) -> None:
    """Requests, rows, executions, failures, and where the time went."""
    client = (tritonclient.http, http)
    for rows in (1, 3, 4):
        ask(client, "accounted", numbers(rows, 3, 8, 8))
    with pytest.raises(InferenceServerException, match="batch-size must be <= 4"):
        ask(client, "accounted", numbers(5, 3, 8, 8))
    counts = counted(http, "accounted", 3)
    assert (counts["success"], counts["rows"], counts["executions"]) == (3, 8, 3)
    assert rows_executed(http, "accounted") == {1: 1, 3: 1, 4: 1}
    stats = http.get_inference_statistics("accounted", "1")["model_stats"][0]
    assert stats["version"] == "1"
    times = {name: int(value["ns"]) for name, value in stats["inference_stats"].items()}
    parts = sum(times[name] for name in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert 0 < times["compute_infer"] < parts <= times["success"]


def test_the_log_is_turned_up_while_the_server_runs(server: Running, protocol: Any) -> None:
    _, client = protocol
    verbose = "log_verbose_level"

    def level(settings: Any) -> int:
        if isinstance(settings, dict):
            return int(settings[verbose])
        return int(settings.settings[verbose].uint32_param)

    def lines() -> list[str]:
        return [line for line in server.log if "'relu'" in line or "model: relu" in line]

    assert level(client.get_log_settings()) == 0
    ask(protocol, "relu", numbers(1, 1, 1, 1))
    quiet = len(lines())
    assert level(client.update_log_settings({verbose: 1})) == 1
    try:
        ask(protocol, "relu", numbers(1, 1, 1, 1))
        wait_for(lambda: len(lines()) > quiet, "the log tells of single requests")
    finally:
        client.update_log_settings({verbose: 0})
    assert level(client.get_log_settings()) == 0
