"""What the supervisor says of a server and its models, and what it does when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

import tnn_serving as ts
from tests.end_to_end.models import BROKEN, write_model
from tests.engines.third_party.held_engine import Gate, HeldEngine
from tests.networks import network
from tests.servers import Running, ask, wait_for
from tnn_serving.triton.access import TOKEN_HEADER
from tnn_serving.triton.health import MAX_ENGINE_ERRORS, HealthLimits

Start = Callable[..., Running]
X = np.linspace(-1, 1, 192, dtype=np.float32).reshape(1, 3, 8, 8)
REPORTED_S = 5.0
"""What is wrong is reported within this time."""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    write_model(folder, "relu")
    return folder


def get(running: Running, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Status and text of an answer of the health port."""
    request = urllib.request.Request(f"http://{running.health_url}{path}", headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def ready(running: Running) -> bool:
    return get(running, "/health/ready")[0] == 200


def report(running: Running) -> dict[str, Any]:
    return dict(json.loads(get(running, "/health")[1]))


def is_served(health: dict[str, Any], model: str) -> bool:
    """Whether the last poll saw the model answer: one that saw it being loaded does not count."""
    return any(one["name"] == model and one["ready"] for one in health["models"])


def metric(running: Running, name: str, **labels: str) -> float | None:
    """A sample of the supervisor's own metrics."""
    for family in text_string_to_metric_families(get(running, "/metrics")[1]):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
    return None


def test_a_healthy_server_says_so(start_server: Start, models: Path) -> None:
    write_model(models, "second")
    running = start_server([models])
    assert get(running, "/health/live") == (200, "live\n")
    assert get(running, "/health/ready") == (200, "ready\n")
    health = report(running)
    assert (health["ready"], health["up"], health["state"], health["reason"]) == (True, True, "running", "")
    assert health["pid"] == running.supervisor.pid
    assert health["answered_s_ago"] < 3
    assert sum(health["restarts"].values()) == 0
    assert {(one["name"], one["version"], one["ready"]) for one in health["models"]} == {
        ("relu", "1", True),
        ("second", "1", True),
    }
    assert metric(running, "tnn_supervisor_up") == 1
    assert metric(running, "tnn_supervisor_ready") == 1
    assert 0 < metric(running, "tnn_supervisor_open_descriptors") < metric(running, "tnn_supervisor_most_descriptors")
    assert metric(running, "tnn_supervisor_model_ready", model="relu", version="1") == 1
    assert metric(running, "tnn_supervisor_restarts_total", cause="crash") == 0
    assert get(running, "/nothing")[0] == 404


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that the system does not let run."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_server_that_does_not_answer_is_reported_and_comes_back(start_server: Start, models: Path) -> None:
    running = start_server([models])
    pid = running.supervisor.pid
    assert pid is not None
    with stopped(pid):
        wait_for(lambda: not ready(running), "it is reported", REPORTED_S)
        assert "has not answered" in report(running)["reason"]
        assert metric(running, "tnn_supervisor_up") == 0
        assert metric(running, "tnn_supervisor_model_ready", model="relu", version="1") == 0
    wait_for(lambda: ready(running), "it is ready again")
    assert running.supervisor.pid == pid
    assert not running.restarts


def test_server_that_never_answers_again_is_restarted(start_server: Start, models: Path) -> None:
    running = start_server([models], limits=HealthLimits(stall_report_s=1, hang_timeout_s=3))
    pid = running.supervisor.pid
    assert pid is not None
    with stopped(pid):
        wait_for(lambda: len(running.ready) == 2, "another server is ready")
    assert running.supervisor.pid != pid
    wait_for(lambda: ready(running), "it says so")
    assert "has not answered" in running.restarts[0]
    health = report(running)
    assert health["restarts"]["unresponsive"] == 1
    assert health["last_restarts"][0]["cause"] == "unresponsive"
    assert metric(running, "tnn_supervisor_restarts_total", cause="unresponsive") == 1


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_crash_is_reported_with_its_cause(start_server: Start, models: Path, number: signal.Signals) -> None:
    running = start_server([models])
    running.supervisor.restarts.first_delay_s = 1.0  # so that the time without a server can be seen
    assert running.supervisor.pid is not None
    os.kill(running.supervisor.pid, number)
    wait_for(lambda: report(running)["state"] == "restarting", "it is reported", REPORTED_S)
    assert get(running, "/health/live")[0] == 200
    assert not ready(running)
    assert metric(running, "tnn_supervisor_model_ready", model="relu", version="1") == 0
    wait_for(lambda: len(running.ready) == 2 and ready(running), "it is ready again")
    (restart,) = report(running)["last_restarts"]
    assert restart["cause"] == "crash"
    assert number.name in restart["what"]
    assert restart["delay_s"] == 1.0
    assert metric(running, "tnn_supervisor_restarts_total", cause="crash") == 1


def test_model_that_cannot_be_loaded_is_named(start_server: Start, models: Path) -> None:
    write_model(models, "broken", proto=BROKEN)
    running = start_server([models])
    status, text = get(running, "/health/ready")
    assert status == 503
    assert "broken" in text
    assert "NoSuchLayer" in text
    assert "broken/1/proto.tnnproto" in text


def test_model_that_cannot_be_loaded_may_be_left_out(start_server: Start, models: Path) -> None:
    write_model(models, "broken", proto=BROKEN)
    running = start_server([models], ["--strict-readiness=false"])
    assert ready(running)
    (broken,) = [one for one in report(running)["models"] if one["name"] == "broken"]
    assert not broken["ready"]


def test_broken_new_version_beside_an_old_one_leaves_the_server_ready(start_server: Start, models: Path) -> None:
    running = start_server([models], ["--model-control-mode=poll", "--repository-poll-secs=1"])
    write_model(models, "relu", version=2, proto=BROKEN)
    wait_for(lambda: any(one["version"] == "2" for one in report(running)["models"]), "the new version is tried")
    assert ready(running)
    with running.http() as client:
        assert client.is_model_ready("relu", "1")


def test_failed_load_by_request_leaves_the_server_ready(start_server: Start, models: Path) -> None:
    write_model(models, "broken", proto=BROKEN)
    running = start_server([models], EXPLICIT)
    with running.http() as client, pytest.raises(InferenceServerException, match="NoSuchLayer"):
        client.load_model("broken")
    wait_for(lambda: "broken" in [one["name"] for one in report(running)["models"]], "the failure is seen")
    assert ready(running)


CONVOLUTIONS = 60
SLOW_SIZE = 512


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version folder of a network that answers at once for small inputs, and takes far longer than any limit here for
    one of SLOW_SIZE: some 1.2e12 multiply-accumulates on one thread."""
    folder = tmp_path_factory.mktemp("slow")
    blobs = ["x", *(f"b{i}" for i in range(CONVOLUTIONS - 1)), "y"]
    layers = [
        f"Convolution c{i} 1 1 {blobs[i]} {blobs[i + 1]} 1 {64 if i else 3} 64 3 3 1 1 1 1 1 -1 1 1 1"
        for i in range(CONVOLUTIONS)
    ]
    ts.write_model(network({"x": (1, 3, 8, 8)}, layers, ["y"]), folder / "proto.tnnproto", folder / "model.tnnmodel")
    return folder


ONE_THREAD = 'parameters [ { key: "INFERENCE_NUM_THREADS" value: { string_value: "1" } } ]\n'


def add_slow(models: Path, slow: Path) -> None:
    (models / "slow").mkdir()
    (models / "slow" / "1").symlink_to(slow)
    (models / "slow" / "config.pbtxt").write_text(ONE_THREAD)


@contextmanager
def hanging(running: Running) -> Iterator[None]:
    """While a request of the slow model is under way."""
    x = np.zeros((1, 3, SLOW_SIZE, SLOW_SIZE), np.float32)
    tensor = tritonclient.grpc.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    outcome: list[object] = []
    with running.grpc() as client:
        client.async_infer("slow", [tensor], lambda result, error: outcome.append(error))
        yield
        wait_for(lambda: outcome, "the request is over")  # before its connection is closed


def test_execution_that_hangs_is_reported_while_others_answer(start_server: Start, models: Path, slow: Path) -> None:
    add_slow(models, slow)
    running = start_server([models])
    x = np.ones((1, 3, 2, 2), np.float32)
    with hanging(running), running.http() as client:
        wait_for(lambda: not ready(running), "it is reported", REPORTED_S)
        assert "model slow: an execution has been running for" in get(running, "/health/ready")[1]
        assert metric(running, "tnn_supervisor_model_ready", model="slow", version="1") == 0
        assert metric(running, "tnn_supervisor_model_ready", model="relu", version="1") == 1
        assert report(running)["oldest_execution_s"] > HealthLimits().stall_report_s
        np.testing.assert_array_equal(ask((tritonclient.http, client), "relu", x).as_numpy("y"), x)
        assert client.is_model_ready("slow")  # what Triton says, and why this test is needed
        assert not running.restarts
        assert running.finish() == 0


def test_execution_that_hangs_is_ended_and_its_stacks_are_logged(start_server: Start, models: Path, slow: Path) -> None:
    add_slow(models, slow)
    running = start_server([models], limits=HealthLimits(stall_report_s=1, hang_timeout_s=3))
    with hanging(running):
        wait_for(lambda: len(running.ready) == 2 and ready(running), "another server is ready")
    assert "model slow, version 1: an execution has been running for" in running.restarts[0]
    health = report(running)
    assert health["restarts"]["hang"] == 1
    assert metric(running, "tnn_supervisor_restarts_total", cause="hang") == 1
    stacks = "\n".join(running.log)
    assert "Thread 0x" in stacks
    assert "tnn_serving/engines/" in stacks
    with running.http() as client:
        y = ask((tritonclient.http, client), "slow", np.zeros((1, 3, 8, 8), np.float32)).as_numpy("y")
    assert y.shape == (1, 64, 8, 8)


def test_nothing_is_restarted_when_that_is_switched_off(start_server: Start, models: Path, slow: Path) -> None:
    add_slow(models, slow)
    running = start_server([models], limits=HealthLimits(stall_report_s=1, hang_timeout_s=0))
    with hanging(running):
        wait_for(lambda: report(running)["oldest_execution_s"] > 4, "it has been running for long")
        assert not ready(running)
        assert not running.restarts
        assert running.finish() == 0


@pytest.fixture
def held(models: Path, gate: Gate) -> str:
    """A model on an engine that fails while the gate says so."""
    engine = f'parameters [ {{ key: "engine" value: {{ string_value: "{HeldEngine.name}" }} }} ]\n'
    write_model(models, "held", config=engine)
    return "held"


def fail(client: Any, model: str) -> None:
    with pytest.raises(InferenceServerException, match="it is broken"):
        ask((tritonclient.http, client), model, X)


def test_engine_that_always_fails_is_reported_and_restarted(
    start_server: Start, models: Path, held: str, gate: Gate
) -> None:
    running = start_server([models])
    with running.http() as client:
        ask((tritonclient.http, client), held, X)
        with gate.failing():
            for _ in range(MAX_ENGINE_ERRORS - 1):
                fail(client, held)
        np.testing.assert_array_equal(ask((tritonclient.http, client), held, X).as_numpy("y"), np.maximum(X, 0))
        with gate.failing():
            fail(client, held)
            wait_for(lambda: any(one["engine_errors"] == 1 for one in report(running)["models"]), "the failure is seen")
            assert ready(running)  # there was an answer in between
            for _ in range(MAX_ENGINE_ERRORS):
                fail(client, held)
            wait_for(lambda: not ready(running), "it is reported", REPORTED_S)
            failed = f"model held: its engine has failed {MAX_ENGINE_ERRORS + 1} times"
            assert failed in get(running, "/health/ready")[1]
            assert client.is_model_ready("relu")
    wait_for(lambda: len(running.ready) == 2 and ready(running), "another server is ready")
    assert report(running)["restarts"]["engine"] == 1
    assert "its engine has failed" in running.restarts[0]


def test_wrong_requests_are_no_failures_of_the_engine(start_server: Start, models: Path, held: str, gate: Gate) -> None:
    write_model(models, "encoded", config='input [ { name: "x" data_type: TYPE_STRING dims: [ 1 ] } ]')
    running = start_server([models])
    with running.http() as client:
        for _ in range(2 * MAX_ENGINE_ERRORS):
            with pytest.raises(InferenceServerException, match="not a picture"):
                ask((tritonclient.http, client), "encoded", np.array([b"hello"], np.object_))
        ask((tritonclient.http, client), held, X)
        with gate.failing():
            fail(client, held)
    wait_for(lambda: any(one["engine_errors"] == 1 for one in report(running)["models"]), "the failure is seen")
    assert ready(running)
    assert all(one["engine_errors"] == 0 for one in report(running)["models"] if one["name"] == "encoded")


EXPLICIT = ["--model-control-mode=explicit", "--load-model=relu"]


def test_models_loaded_by_request_are_loaded_again(start_server: Start, models: Path) -> None:
    for name in ("asked", "given_back"):
        write_model(models, name)
    running = start_server([models], EXPLICIT)
    with running.http() as client:
        client.load_model("asked")
        client.load_model("given_back")
        time.sleep(0.1)  # tritonserver crashes when a model goes within some 30 ms of its load
        client.unload_model("given_back")
    assert ready(running)
    unloaded = {"name": "given_back", "state": "UNAVAILABLE"}
    wait_for(lambda: any(one.items() >= unloaded.items() for one in report(running)["models"]), "the unload is seen")
    assert running.supervisor.pid is not None
    os.kill(running.supervisor.pid, signal.SIGKILL)
    wait_for(lambda: len(running.ready) == 2 and ready(running), "it is ready again")
    with running.http() as client:
        assert client.is_model_ready("asked")
        assert not client.is_model_ready("given_back")


def test_models_loaded_by_request_may_be_left_alone(start_server: Start, models: Path) -> None:
    write_model(models, "asked")
    running = start_server([models], EXPLICIT, reload=False)
    with running.http() as client:
        client.load_model("asked")
    wait_for(lambda: is_served(report(running), "asked"), "the model is seen")
    assert running.supervisor.pid is not None
    os.kill(running.supervisor.pid, signal.SIGKILL)
    wait_for(lambda: len(running.ready) == 2 and ready(running), "it is ready again")
    with running.http() as client:
        assert not client.is_model_ready("asked")


def test_model_that_cannot_be_loaded_again_is_reported(start_server: Start, models: Path) -> None:
    asked = write_model(models, "asked")
    running = start_server([models], EXPLICIT)
    with running.http() as client:
        client.load_model("asked")
    wait_for(lambda: is_served(report(running), "asked"), "the model is seen")
    (asked / "1" / "proto.tnnproto").write_bytes(BROKEN)
    assert running.supervisor.pid is not None
    os.kill(running.supervisor.pid, signal.SIGKILL)
    wait_for(lambda: len(running.ready) == 2, "the server runs again")
    wait_for(lambda: "NoSuchLayer" in get(running, "/health/ready")[1], "the model is missed")
    assert any("asked" in warning and "NoSuchLayer" in warning for warning in running.warnings)
    with running.http() as client:
        assert client.is_model_ready("relu")
    asked.rename(models.parent / "asked")  # the operator gives it up
    wait_for(lambda: ready(running), "it is no longer missed")


TOKEN = "0123456789abcdef"


def test_administration_needs_the_token(start_server: Start, models: Path) -> None:
    write_model(models, "second")
    running = start_server([models], EXPLICIT, token=TOKEN)
    assert ready(running)  # the supervisor itself has it
    x = np.ones((1, 3, 2, 2), np.float32)
    for client, header in ((running.http(), TOKEN_HEADER), (running.grpc(), f"triton-grpc-protocol-{TOKEN_HEADER}")):
        right, wrong = {header: TOKEN}, {header: TOKEN[::-1]}
        with client:
            module = tritonclient.http if header == TOKEN_HEADER else tritonclient.grpc
            np.testing.assert_array_equal(ask((module, client), "relu", x).as_numpy("y"), x)
            for headers in (None, wrong):
                for refused in (
                    lambda client=client, headers=headers: client.load_model("second", headers=headers),
                    lambda client=client, headers=headers: client.unload_model("relu", headers=headers),
                    lambda client=client, headers=headers: client.get_model_repository_index(headers=headers),
                    lambda client=client, headers=headers: client.update_trace_settings(
                        settings={"trace_level": ["TIMESTAMPS"]}, headers=headers
                    ),
                    lambda client=client, headers=headers: client.update_log_settings(
                        {"log_verbose_level": 1}, headers=headers
                    ),
                    lambda client=client, headers=headers: client.register_system_shared_memory(
                        "region", "/region", 64, headers=headers
                    ),
                ):
                    with pytest.raises(InferenceServerException, match="restricted"):
                        refused()
            client.load_model("second", headers=right)
            assert client.is_model_ready("second")
            time.sleep(0.1)  # tritonserver crashes when a model goes within some 30 ms of its load
            client.unload_model("second", headers=right)


def test_details_need_the_token(start_server: Start, models: Path) -> None:
    write_model(models, "broken", proto=BROKEN)
    running = start_server([models], token=TOKEN)
    status, text = get(running, "/health/ready")
    assert status == 503
    assert str(models) not in text
    assert get(running, "/health")[0] == 403
    assert get(running, "/health", {TOKEN_HEADER: TOKEN[::-1]})[0] == 403
    status, text = get(running, "/health", {TOKEN_HEADER: TOKEN})
    assert status == 200
    assert "broken/1/proto.tnnproto" in text
    assert "broken/1/proto.tnnproto" in get(running, "/health/ready", {TOKEN_HEADER: TOKEN})[1]


def test_models_are_loaded_again_where_a_token_is_needed(start_server: Start, models: Path) -> None:
    write_model(models, "asked")
    running = start_server([models], EXPLICIT, token=TOKEN)
    with running.http() as client:
        client.load_model("asked", headers={TOKEN_HEADER: TOKEN})

    def health() -> dict[str, Any]:
        return dict(json.loads(get(running, "/health", {TOKEN_HEADER: TOKEN})[1]))

    wait_for(lambda: is_served(health(), "asked"), "the model is seen")
    assert running.supervisor.pid is not None
    os.kill(running.supervisor.pid, signal.SIGKILL)
    wait_for(lambda: len(running.ready) == 2 and ready(running), "it is ready again")
    with running.http() as client:
        assert client.is_model_ready("asked")
