"""Loads that hang, crash or grow: each is refused with a sentence, and the requests of other models notice nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
import tritonclient.grpc
import tritonclient.http

import tnn_serving as ts
from tests.check.test_hostile_models import endless_loop, nested_functions, wide_row
from tests.end_to_end.models import write_model
from tests.hostile.conftest import Target
from tests.networks import CONVOLUTION, network
from tests.servers import Running, ask, wait_for

pytestmark = pytest.mark.slow

CLIENTS = 8
"""Half of them over HTTP, half over gRPC."""

MODELS = 13
LOAD = 30
MOST_SERVER_PSS = 180e6


def limits(**values: str) -> str:
    """Parameters of a configuration."""
    return "".join(
        f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n' for key, value in values.items()
    )


def write_onnx(target: Target, made: onnx.ModelProto, config: str) -> str:
    """A model of the pool becomes this one; returns its name."""
    name, version = target.pool_model()
    for file in version.iterdir():
        file.unlink()
    onnx.save(made, version / "model.onnx")
    (version.parent / "config.pbtxt").write_text(f'backend: "tnn"\n{config}')
    wait_for(lambda: target.is_shown(name), f"the overlay shows {name}")
    return name


class Neighbours:
    """Clients of another model, each with a connection that it keeps, whose answers are compared one by one."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._is_over = threading.Event()
        self.answers = [0] * CLIENTS
        self.errors: list[Exception] = []
        self._threads = [threading.Thread(target=self._ask, args=(k,)) for k in range(CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        wait_for(lambda: min(self.answers) > 5, "the neighbours are answered")

    def stop(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, k: int) -> None:
        is_http = k % 2 == 0
        module = tritonclient.http if is_http else tritonclient.grpc
        numbers = np.random.default_rng(k)
        try:
            with self._running.http() if is_http else self._running.grpc() as client:
                while not self._is_over.is_set():
                    x = numbers.standard_normal((1, 3, 4, 4)).astype(np.float32)
                    np.testing.assert_array_equal(ask((module, client), "relu", x).as_numpy("y"), np.maximum(x, 0))
                    self.answers[k] += 1
        except Exception as error:
            self.errors.append(error)

    def over_grpc(self) -> list[int]:
        """How many answers each client over gRPC has. Over HTTP, Triton answers nothing on connections of the thread
        that waits for the load."""
        return self.answers[1::2]


@contextmanager
def neighbours(target: Target) -> Iterator[Neighbours]:
    """Clients whose answers are right all the time, from a server that is ready and the same."""
    clients = Neighbours(target.running)
    clients.start()
    try:
        yield clients
    finally:
        clients.stop()
    assert clients.errors == []
    target.assert_well()


def is_ready(running: Running) -> bool:
    """Whether the health port says so."""
    with urllib.request.urlopen(f"http://{running.health_url}/health/ready") as answer:
        return bool(answer.status == 200)


@pytest.mark.parametrize(
    ("make", "config", "wanted"),
    [
        (nested_functions, {"load_timeout_s": "5"}, "loading takes too long: expected at most 5 s .*load_timeout_s"),
        (endless_loop, {"load_timeout_s": "5"}, "loading takes too long: expected at most 5 s .*load_timeout_s"),
        (wide_row, {"memory_limit_bytes": "1GB"}, "value `x`: a tensor is too large"),
    ],
)
def test_a_load_that_hangs_or_grows_is_refused(
    target: Target, make: Callable[[], onnx.ModelProto], config: dict[str, str], wanted: str
) -> None:
    name = write_onnx(target, make(), limits(**config))
    with neighbours(target) as clients:
        texts: list[str] = []
        loading = threading.Thread(target=lambda: texts.append(target.refusal(name)))
        before = clients.over_grpc()
        loading.start()
        if make is not wide_row:  # which is refused before anything is made
            wait_for(
                lambda: all(now > then + 20 for now, then in zip(clients.over_grpc(), before, strict=True)), "answers"
            )
            assert loading.is_alive()
        assert is_ready(target.running)
        loading.join()
    assert re.search(wanted, texts[0]), texts[0]


def workers(target: Target) -> list[psutil.Process]:
    """The processes that prepare models for the server."""
    found = psutil.Process(target.pid).children(recursive=True)
    return [process for process in found if process.ppid() != target.pid]


def test_a_worker_that_crashes_twice_is_named(target: Target) -> None:
    name = write_onnx(target, endless_loop(), limits(load_timeout_s="600"))
    with neighbours(target):
        texts: list[str] = []
        loading = threading.Thread(target=lambda: texts.append(target.refusal(name)))
        loading.start()
        for _ in range(2):
            (worker,) = wait_for(lambda: workers(target), "a worker")
            worker.send_signal(6)
            worker.wait()
        loading.join()
    assert re.search("the worker that loads the model was ended by a signal: found SIGABRT", texts[0]), texts[0]


def test_a_worker_that_crashes_once_is_replaced(target: Target) -> None:
    name, version = target.pool_model()
    graph = network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"])
    ts.write_model(graph, version / "proto.tnnproto", version / "model.tnnmodel")
    wait_for(lambda: target.is_shown(name), f"the overlay shows {name}")
    with neighbours(target), target.running.grpc() as client:
        loading = threading.Thread(target=client.load_model, args=(name,))
        loading.start()
        (worker,) = wait_for(lambda: workers(target) or not loading.is_alive(), "a worker")
        worker.kill()
        loading.join()
        assert client.is_model_ready(name)


@pytest.fixture
def busy() -> Iterator[None]:
    """As many programs that compute all the time."""
    with ExitStack() as running:
        for _ in range(LOAD):
            process = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
            running.callback(process.wait)
            running.callback(process.kill)
        yield


def test_many_models_become_ready_on_a_busy_machine(
    busy: None, start_server: Callable[..., Running], tmp_path: Path
) -> None:
    for k in range(MODELS):
        layer = f"Pooling p 1 1 x y 0 {k + 1} 1 1 1 0 0 -1 -1 -1 0"
        graph = network({"x": (1, 3, 32, 32)}, [layer], ["y"])
        version = tmp_path / f"m{k}" / "1"
        version.mkdir(parents=True)
        ts.write_model(graph, version / "proto.tnnproto", version / "model.tnnmodel")
    running = start_server([tmp_path])
    assert {model.name: model.reason for model in running.ready[-1]} == {f"m{k}": "" for k in range(MODELS)}
    with running.http() as client:
        x = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
        for k in range(MODELS):
            windows = np.lib.stride_tricks.sliding_window_view(x, k + 1, axis=2)
            np.testing.assert_array_equal(
                ask((tritonclient.http, client), f"m{k}", x).as_numpy("y"), windows.max(axis=-1)
            )


def test_a_server_imports_and_holds_what_it_runs(start_server: Callable[..., Running], tmp_path: Path) -> None:
    write_model(tmp_path, "relu")
    running = start_server([tmp_path])
    with running.http() as client:
        ask((tritonclient.http, client), "relu", np.ones((1, 3, 8, 8), np.float32))
    server = psutil.Process(running.supervisor.pid)
    assert server.memory_full_info().pss < MOST_SERVER_PSS
    mapped = {os.path.basename(item.path) for item in server.memory_maps()}
    assert not any("onnx_cpp2py" in name for name in mapped)
