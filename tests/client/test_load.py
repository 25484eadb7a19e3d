"""Load on the real server: nothing is lost, miscounted or left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.http

from tests.client.conftest import DELAY_MS
from tests.end_to_end.models import write_model
from tests.program import command, run
from tests.servers import wait_for
from tnn_serving.client import connect
from tnn_serving.client.connection import Protocol
from tnn_serving.client.load import ClientSide, Latency, LoadTarget, Measurement, ServerSide, Window, measure_load
from tnn_serving.client.load.answers import Expected
from tnn_serving.client.load.grpc import GrpcConnection
from tnn_serving.client.load.http import HttpConnection
from tnn_serving.client.load.loop import LoadConnection, Loop
from tnn_serving.client.load.measurement import error_counts
from tnn_serving.client.load.message import INLINE, RequestTensor, grpc_request, http_request
from tnn_serving.client.load.schedule import ClosedLoop, Record
from tnn_serving.client.load.server_statistics import local_server
from tnn_serving.errors import ConfigError, RequestError, ServerError
from tnn_serving.triton.background_server import BackgroundServer

PROTOCOLS: list[Protocol] = ["http", "grpc"]
SHAPE = {"x": (1, 3, 8, 8)}
QUICK: dict[str, Any] = {"window_s": 0.1, "max_windows": 3}
SHARED_MEMORY = Path("/dev/shm")


class Limited(ClosedLoop):
    """``count`` requests, then no more."""

    def __init__(self, count: int) -> None:
        self.left = count

    def take(self, now: float) -> float | None:
        self.left -= 1
        return now if self.left >= 0 else None

    def wait_s(self, now: float) -> float:
        return 0.01


def url(server: BackgroundServer, protocol: Protocol) -> str:
    return {"http": server.http_url, "grpc": server.grpc_url}[protocol]


@pytest.fixture(params=PROTOCOLS)
def address(request: pytest.FixtureRequest, loaded: BackgroundServer) -> str:
    """The server's address for each protocol in turn."""
    return url(loaded, request.param)


def send(loop: Loop, count: int) -> Record:
    """Sends exactly ``count`` requests and waits for all answers."""
    record = Record()
    loop.run(Limited(count), record, lambda: len(record.ends) + len(record.errors) >= count)
    return record


@pytest.mark.parametrize("slots", [1, 5])
def test_every_request_reaches_the_server_once(address: str, slots: int) -> None:
    with LoadTarget(address, "counted", shapes=SHAPE, verify=True) as target:
        before = target.connection.statistics("counted")["requests"]
        with target.loop(slots) as loop:
            record = send(loop, 200)
        assert record.errors == []
        assert len(record.ends) == len(record.latencies) == 200
        wait_for(lambda: target.connection.statistics("counted")["requests"] >= before + 200, "all are counted")
        assert target.connection.statistics("counted")["requests"] == before + 200


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 64, 65), (1, 3, 224, 224), (1, 3, 1000, 1001)])
@pytest.mark.parametrize("shared_memory", ["none", "system"])
def test_answers_of_all_sizes_are_right(address: str, shape: tuple[int, ...], shared_memory: Any) -> None:
    with (
        LoadTarget(address, "relu", shapes={"x": shape}, shared_memory=shared_memory, verify=True) as target,
        target.loop(3) as loop,
    ):
        assert send(loop, 12).errors == []


def test_a_wrong_answer_is_an_error(address: str) -> None:
    with LoadTarget(address, "relu", shapes=SHAPE, verify=True) as target:
        target.outputs = {"y": target.outputs["y"] + np.float32(0.5)}
        with target.loop(2) as loop:
            record = send(loop, 6)
    assert len(record.ends) == 0
    assert error_counts(record.errors) == {"output `y` differs from the first answer": 6}


def test_rounding_is_no_error() -> None:
    y = np.array([1.0, -2.0, 3.0], np.float32)
    expected = Expected({"y": y})
    assert expected.check_http(0, memoryview(b"{}" + (y * np.float32(1.0001)).tobytes())) is None
    assert expected.check_http(0, memoryview(b"{}" + (y * np.float32(1.01)).tobytes())) is not None
    assert expected.check_http(0, memoryview(b"{}")) == "answer is too short: 2 bytes"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_refused_requests_are_counted_with_the_servers_message(loaded: BackgroundServer, protocol: Protocol) -> None:
    with LoadTarget(url(loaded, protocol), "relu", shapes=SHAPE) as target:
        # Larger than what gRPC sends at once, so the refusal may arrive before the end of the request.
        sent = [RequestTensor("x", "INT32", (1, 3, 256, 256), bytes(4 * 3 * 256 * 256))]
        made: list[LoadConnection] = []
        for slot in range(2):
            if protocol == "http":
                made.append(
                    HttpConnection(target.address, slot, http_request(target.address, target.info, sent, INLINE))
                )
            else:
                made.append(GrpcConnection(target.address, slot, grpc_request(target.info, sent, INLINE)))
        loop = Loop(target.address, made)
        record = send(loop, 8)
        loop.close()
    assert len(record.ends) == 0
    (text, count), *more = error_counts(record.errors).items()
    assert (count, more) == (8, [])
    assert text.startswith("400 Bad Request: " if protocol == "http" else "INVALID_ARGUMENT: ")
    assert "INT32" in text
    assert "FP32" in text


@pytest.mark.parametrize("shared_memory", ["none", "system"])
def test_a_measurement_agrees_with_itself_and_the_server(address: str, shared_memory: Any) -> None:
    with LoadTarget(address, "relu", shapes=SHAPE, shared_memory=shared_memory) as target:
        found = measure_load(target, concurrency=4, **QUICK)
    assert (found.model, found.concurrency, found.rate, found.batch) == ("relu", 4, None, 1)
    assert (found.errors, found.error_texts, found.backlog, found.interrupted) == (0, {}, 0, False)
    assert found.requests == sum(window.requests for window in found.windows[-3:])
    assert found.requests_per_s == pytest.approx(found.requests / found.duration_s)
    latency = found.latency
    assert latency is not None
    assert 0 < latency.p50_ms <= latency.p90_ms <= latency.p95_ms <= latency.p99_ms <= latency.max_ms
    server = found.server
    assert server is not None
    # The statistics are read under load.
    assert abs(server.requests - found.requests) < 0.5 * found.requests
    parts = (server.queue_ms, server.compute_input_ms, server.compute_infer_ms, server.compute_output_ms)
    assert all(part > 0 for part in parts)
    assert sum(parts) <= server.total_ms * 1.01
    assert server.total_ms < latency.mean_ms
    assert server.average_batch >= 1
    assert server.cpu_us is not None
    assert server.cpu_us > 0
    assert found.client.cpu_us > 0


def test_batches_count_as_inferences(loaded: BackgroundServer) -> None:
    with LoadTarget(loaded.http_url, "waits", shapes={"x": (3, 8, 8)}, batch=4) as target:
        found = measure_load(target, concurrency=2, **QUICK)
    assert found.batch == 4
    assert found.inferences_per_s == pytest.approx(4 * found.requests_per_s)
    assert found.server is not None
    assert found.server.average_batch >= 4
    assert found.server.queue_ms > DELAY_MS / 2


def test_requests_that_fail_under_load(loaded: BackgroundServer) -> None:
    with LoadTarget(loaded.http_url, "bounded", shapes={"x": (3, 8, 8)}) as target:
        found = measure_load(target, concurrency=6, **QUICK)
    assert found.requests > 0
    assert found.errors == sum(found.error_texts.values()) > 0
    assert found.errors == sum(window.errors for window in found.windows[-3:])
    assert all("maximum queue size" in text for text in found.error_texts)


@pytest.mark.parametrize("poisson", [False, True])
def test_a_rate_that_can_be_reached(address: str, poisson: bool) -> None:
    with LoadTarget(address, "relu", shapes=SHAPE) as target:
        found = measure_load(target, rate=100, poisson=poisson, window_s=0.5, max_windows=3)
    assert (found.concurrency, found.rate, found.errors) == (None, 100, 0)
    assert found.requests_per_s == pytest.approx(100, rel=0.1 if not poisson else 0.4)


def test_a_rate_that_is_too_high_shows_in_latency_and_backlog(loaded: BackgroundServer) -> None:
    """One connection sends one request per DELAY_MS; ten times as many are due. The latency includes the wait."""
    rate = 10_000 / DELAY_MS
    with LoadTarget(loaded.http_url, "waits", shapes={"x": (3, 8, 8)}) as target:
        found = measure_load(target, rate=rate, connections=1, window_s=0.2, max_windows=3)
    assert found.requests_per_s < rate / 5
    assert found.backlog > rate * found.duration_s / 2
    assert found.latency is not None
    assert found.server is not None
    assert found.latency.max_ms > 5 * found.server.total_ms
    assert not found.stable


def regions(server: BackgroundServer) -> list[Any]:
    with tritonclient.http.InferenceServerClient(server.http_url.removeprefix("http://")) as client:
        return list(client.get_system_shared_memory_status())


def region_files(pid: int) -> list[Path]:
    """The regions that a process has created."""
    return list(SHARED_MEMORY.glob(f"tnn-serving-bench-{pid}-*"))


@pytest.fixture
def no_region_is_left(loaded: BackgroundServer) -> Iterator[None]:
    yield
    assert regions(loaded) == []
    assert region_files(os.getpid()) == []


@pytest.mark.usefixtures("no_region_is_left")
def test_shared_memory_is_there_and_removed(loaded: BackgroundServer, address: str) -> None:
    with LoadTarget(address, "relu", shapes=SHAPE, shared_memory="system") as target:
        with target.loop(2) as loop:
            assert len(regions(loaded)) == len(region_files(os.getpid())) == 3
            send(loop, 4)
        assert regions(loaded) == []


@pytest.mark.usefixtures("no_region_is_left")
def test_ctrl_c_keeps_what_was_measured(loaded: BackgroundServer) -> None:
    def interrupt(window: Window) -> None:
        raise KeyboardInterrupt

    with LoadTarget(loaded.http_url, "relu", shapes=SHAPE, shared_memory="system") as target:
        found = measure_load(target, concurrency=2, window_s=0.1, on_window=interrupt)
    assert found.interrupted
    assert found.requests >= found.windows[0].requests >= 10


def test_a_server_that_goes_away(tmp_path: Path, installed: None) -> None:
    write_model(tmp_path, "relu")
    with (
        BackgroundServer(tmp_path) as server,
        LoadTarget(server.http_url, "relu", shapes=SHAPE, timeout_s=5) as target,
        pytest.raises(ServerError, match="no answer"),
    ):
        measure_load(target, concurrency=2, window_s=0.1, stability=1e-9, on_window=lambda window: server.close())


def test_the_server_process_is_found_by_its_port(loaded: BackgroundServer) -> None:
    with connect(loaded.http_url) as connection:
        assert local_server(connection.address) == loaded.pid
    assert psutil.Process(loaded.pid).name() == "tritonserver"


def test_inputs_that_cannot_be_made(loaded: BackgroundServer, tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "free dims.*--shape x=1x"),
        ({"shapes": {"z": (1,)}}, "no input `z`.*expected x"),
        ({"shapes": {"x": (3, 8)}}, "another shape"),
        ({"shapes": {"x": (1, 3, 8, 8)}, "batch": 4}, "does not take a batch of 4"),
        ({"data": tmp_path / "missing.npz"}, "data cannot be read"),
    ]
    np.savez(tmp_path / "other.npz", z=np.zeros(3, np.float32))
    np.savez(tmp_path / "wrong.npz", x=np.zeros((1, 3, 8, 8), np.complex64))
    cases += [({"data": tmp_path / "other.npz"}, "no array `x`"), ({"data": tmp_path / "wrong.npz"}, "another type")]
    for options, text in cases:
        with pytest.raises(RequestError, match=text):
            LoadTarget(loaded.http_url, "relu", **options)


def test_inputs_from_a_file(loaded: BackgroundServer, tmp_path: Path) -> None:
    x = np.linspace(-1, 1, 12, dtype=np.float64).reshape(1, 3, 2, 2)
    np.savez(tmp_path / "data.npz", **{"in.x": x, "out.y": x})
    with LoadTarget(loaded.http_url, "relu", data=tmp_path / "data.npz", verify=True) as target, target.loop(1) as loop:
        np.testing.assert_array_equal(target.outputs["y"], np.maximum(x, 0).astype(np.float32))
        assert send(loop, 3).errors == []


def test_invalid_levels(loaded: BackgroundServer) -> None:
    with LoadTarget(loaded.http_url, "relu", shapes=SHAPE) as target:
        for options in ({}, {"concurrency": 1, "rate": 1.0}, {"concurrency": -1}, {"rate": 1.0, "connections": 0}):
            with pytest.raises(ConfigError):
                measure_load(target, **options)
    with pytest.raises(ConfigError, match="plain connections"):
        LoadTarget("https://127.0.0.1", "relu")


# ---- the command ----


def test_bench_serves_a_model_and_prints_json(installed: None, load_repository: Path) -> None:
    done = run(
        "bench", load_repository / "relu" / "1", "--concurrency", "1,3", "--window", 0.1, "--max-windows", 3, "--json"
    )
    assert done.returncode == 0, done.stderr
    levels = json.loads(done.stdout)
    assert [level["concurrency"] for level in levels] == [1, 3]
    for level in levels:
        assert list(level) == [field.name for field in fields(Measurement)]
        for key, kind in (("latency", Latency), ("server", ServerSide), ("client", ClientSide)):
            assert list(level[key]) == [field.name for field in fields(kind)]
        assert list(level["windows"][0]) == [field.name for field in fields(Window)]
        assert level["errors"] == 0
        assert level["server"]["cpu_us"] > 0


def test_bench_of_a_running_server_as_table(loaded: BackgroundServer) -> None:
    quick = ("--window", 0.1, "--max-windows", 3, "--shape", "x=1x3x8x8")
    done = run("bench", loaded.grpc_url, "--model", "relu", "--rate", "50", *quick)
    assert done.returncode == 0, done.stderr
    title, head, row = done.stdout.splitlines()
    assert title.startswith("relu over grpc, batch 1")
    assert head.split()[:3] == ["rate", "requests/s", "p50"]
    assert row.split()[0] == "50"


def test_bench_ends_with_1_when_requests_failed(loaded: BackgroundServer) -> None:
    quick = ("--window", 0.1, "--max-windows", 3, "--shape", "x=3x8x8")
    done = run("bench", loaded.http_url, "--model", "bounded", "--concurrency", 6, *quick)
    assert done.returncode == 1
    assert "requests failed: 503" in done.stderr
    assert "maximum queue size" in done.stderr
    assert len(done.stdout.splitlines()) == 3


@pytest.mark.usefixtures("no_region_is_left")
def test_bench_is_interrupted(loaded: BackgroundServer) -> None:
    options = ("--window", 0.2, "--max-windows", 10_000, "--stability", 0.001, "--shared-memory", "system")
    words = command(
        "bench", loaded.http_url, "--model", "interrupted", "--shape", "x=1x3x8x8", "--concurrency", "2,4", *options
    )
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            with connect(loaded.http_url) as connection:
                wait_for(lambda: connection.statistics("interrupted")["requests"] > 500, "the load has begun", 60)
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()  # otherwise the context waits for its end
    assert process.returncode == 130, stderr
    assert region_files(process.pid) == []
    assert "concurrency 2: interrupted" in stderr
    assert "Traceback" not in stderr
    assert stdout.splitlines()[2].split()[0] == "2"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere/model"], 2, "is no model and no address"),
        (["127.0.0.1:1", "--model", "m"], 1, "no answer from http://127.0.0.1:1"),
        (["{url}", "--model", "nosuch", "--shape", "x=1"], 1, "has no model `nosuch` ready"),
        (["{url}"], 2, "choose one of: bounded"),
        (["{url}", "--concurrency", "0"], 2, "expected positive numbers"),
        (["{url}", "--concurrency", "1", "--rate", "2"], 2, "give one of"),
        (["{url}", "--layers"], 2, "--layers needs a model file"),
        (["{model}", "--model", "relu"], 2, "only a server has models"),
    ],
)
def test_errors_of_bench(
    loaded: BackgroundServer, load_repository: Path, arguments: list[str], code: int, message: str
) -> None:
    words = [word.format(url=loaded.http_url, model=load_repository / "relu") for word in arguments]
    done = run("bench", *words)
    assert done.returncode == code
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert done.stdout == ""
