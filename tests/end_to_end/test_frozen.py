"""An extension keeps the interpreter lock for good: nothing that goes through Python is answered any more."""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from tests.end_to_end.models import write_model
from tests.engines.third_party import stuck_engine, write_metadata
from tests.engines.third_party.stuck_engine import AFTERWARDS, DURING, StuckEngine
from tests.pages import ROOT
from tests.servers import Running, ask, wait_for
from tnn_serving.triton.health import HealthLimits

pytestmark = pytest.mark.slow

LIMITS = HealthLimits(stall_report_s=2, hang_timeout_s=10)
X = np.ones((1, 3, 2, 2), np.float32)


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the compiled extension and the metadata of the engine that uses it."""
    headers = sysconfig.get_paths()["include"]
    if not shutil.which("cc") or not Path(headers, "Python.h").is_file():
        pytest.skip(f"no extension can be compiled here: this needs a C compiler and Python's headers in {headers}")
    folder = tmp_path_factory.mktemp("site-packages")
    source = Path(stuck_engine.__file__).with_name("keep_lock.c")
    library = folder / "keep_lock.so"
    subprocess.run(["cc", "-shared", "-fPIC", f"-I{headers}", "-o", str(library), str(source)], check=True)
    write_metadata(folder, StuckEngine, StuckEngine.__module__)
    return folder


@pytest.fixture
def running(
    start_server: Callable[..., Running], extension: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Running:
    """A server with a model that can get stuck, and a neighbour of it."""
    monkeypatch.setenv("PYTHONPATH", f"{extension}:{ROOT}")
    engine = f'parameters [ {{ key: "engine" value: {{ string_value: "{StuckEngine.name}" }} }} ]\n'
    write_model(tmp_path, "stuck", config=engine)
    write_model(tmp_path, "relu")
    running = start_server([tmp_path], limits=LIMITS)
    check(running, "stuck")
    check(running, "relu")
    return running


def check(running: Running, model: str) -> None:
    with running.http() as client:
        np.testing.assert_array_equal(ask((tritonclient.http, client), model, X).as_numpy("y"), X)


def health(running: Running) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{running.health_url}/health", timeout=5) as answer:
        return dict(json.load(answer))


def is_ready(running: Running) -> bool:
    try:
        with urllib.request.urlopen(f"http://{running.health_url}/health/ready", timeout=5):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return False


@pytest.mark.parametrize("when", [DURING, AFTERWARDS])
def test_interpreter_that_is_frozen_is_reported_and_the_server_restarted(running: Running, when: float) -> None:
    wait_for(lambda: is_ready(running), "it is ready")
    tensor = tritonclient.grpc.InferInput("x", list(X.shape), "FP32")
    tensor.set_data_from_numpy(X * np.float32(when))
    outcome: list[Any] = []
    with running.grpc() as client:
        client.async_infer("stuck", [tensor], lambda result, error: outcome.append(error))
        wait_for(lambda: "Python inside tritonserver has not moved" in health(running)["reason"], "it is reported")
        assert not is_ready(running)
        frozen = health(running)
        assert frozen["up"]
        assert frozen["frozen_s"] > LIMITS.stall_report_s
        assert [(one["name"], one["ready"]) for one in frozen["models"]] == [("relu", False), ("stuck", False)]
        assert ("model stuck, version 1, has been running for" in frozen["reason"]) == (when == DURING)
        with running.http() as http:
            assert http.is_model_ready("relu")  # what Triton says, and why this test is needed
        wait_for(lambda: len(running.ready) == 2 and is_ready(running), "another server is ready")
        wait_for(lambda: outcome, "the request is over")  # before its connection is closed
    assert (outcome[0] is None) == (when == AFTERWARDS)
    assert health(running)["restarts"]["hang"] == 1
    assert health(running)["frozen_s"] == 0
    assert "stuck_engine.py" in "\n".join(running.log)  # the stacks name what keeps the lock
    check(running, "relu")
    check(running, "stuck")


def test_server_that_is_frozen_can_be_stopped(running: Running) -> None:
    tensor = tritonclient.grpc.InferInput("x", list(X.shape), "FP32")
    tensor.set_data_from_numpy(X * np.float32(DURING))
    outcome: list[Any] = []
    with running.grpc() as client:
        client.async_infer("stuck", [tensor], lambda result, error: outcome.append(error))
        wait_for(lambda: health(running)["oldest_execution_s"] > 0, "it is stuck")
        assert running.finish() == 0
        wait_for(lambda: outcome, "the request is over")
