"""One real tritonserver for all tests of a session, and what talks to it.

Every test uses models of its own names, or ones that no test changes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from tests.end_to_end.models import BROKEN, write_model
from tnn_serving.demo import build
from tnn_serving.errors import ServerError
from tnn_serving.triton.access import with_token
from tnn_serving.triton.background import free_ports
from tnn_serving.triton.health import Limits
from tnn_serving.triton.index import ServedModel
from tnn_serving.triton.launch import BACKEND_LIBRARY, find_libpython, find_tritonserver, prepare
from tnn_serving.triton.monitor import UNSEEN
from tnn_serving.triton.overlay import Overlay
from tnn_serving.triton.supervise import Callbacks, Supervisor

START_S = 60.0


def skip_unless_installed() -> None:
    """Skips where there is nothing to start."""
    try:
        find_tritonserver()
        find_libpython()
    except ServerError as error:
        pytest.skip(f"no server can be started here: {error}")
    if not BACKEND_LIBRARY.is_file():
        pytest.skip("the backend library has not been built (pip install -e .)")


@pytest.fixture(scope="session")
def installed() -> None:
    """A server can be started here."""
    skip_unless_installed()


@pytest.fixture(scope="session")
def demo_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository that `tnn-serving demo` makes, to be copied from."""
    repository = tmp_path_factory.mktemp("demo_models")
    build(repository, lambda step: None)
    return repository


def wait_for(condition: Callable[[], Any], what: str, deadline_s: float = 30.0) -> Any:
    """The first true value of a condition."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {deadline_s:.0f} s: {what}")


@dataclass
class Running:
    """A supervised server in this process' threads."""

    supervisor: Supervisor
    overlay: Overlay
    http_url: str
    grpc_url: str
    health_url: str
    warnings: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    ready: list[list[ServedModel]] = field(default_factory=list)
    restarts: list[str] = field(default_factory=list)
    outcome: list[int | Exception] = field(default_factory=list)
    thread: threading.Thread | None = None

    def http(self) -> tritonclient.http.InferenceServerClient:
        return tritonclient.http.InferenceServerClient(self.http_url, connection_timeout=10, network_timeout=30)

    def grpc(self) -> tritonclient.grpc.InferenceServerClient:
        return tritonclient.grpc.InferenceServerClient(self.grpc_url)

    def finish(self) -> int | Exception:
        """Asks the server to stop, waits, and gives what run() returned or raised."""
        self.supervisor.stop()
        assert self.thread is not None
        self.thread.join(60)
        assert not self.thread.is_alive()
        return self.outcome[0]


def start(
    repositories: Sequence[Path],
    flags: Sequence[str] = (),
    *,
    limits: Limits | None = None,
    token: str | None = None,
    reload: bool = True,
    **options: Any,
) -> Running:
    """Starts a supervised server and returns when it is ready or has given up."""
    changing = any(flag.startswith("--model-control-mode") for flag in flags)
    overlay = Overlay([str(path) for path in repositories], changing=changing)
    ports = free_ports(4)
    settings = {"http_port": ports[0], "grpc_port": ports[1], "metrics_port": ports[2], "exit_timeout_s": 3}
    launch = prepare(overlay.locations, flags=flags, **{**settings, **options})
    if token is not None:
        launch = with_token(launch, token)
    supervisor = Supervisor(launch, overlay, reload=reload, token=token)
    supervisor.monitor.limits = limits or Limits()
    supervisor.health_address = ("127.0.0.1", ports[3])
    running = Running(supervisor, overlay, *(f"127.0.0.1:{port}" for port in (ports[0], ports[1], ports[3])))
    supervisor.restarts.first_delay_s = 0.1
    supervisor.callbacks = Callbacks(
        on_log=running.log.append,
        on_ready=lambda models: running.ready.append(list(models)),
        on_warning=running.warnings.append,
        on_restart=lambda what, delay_s: running.restarts.append(what),
    )

    def run() -> None:
        try:
            running.outcome.append(supervisor.run())
        except Exception as error:
            running.outcome.append(error)

    running.thread = threading.Thread(target=run, name="supervisor")
    running.thread.start()
    wait_for(lambda: running.ready or running.outcome, "the server is ready", START_S)
    # On a busy machine the first look may have taken too long.
    wait_for(lambda: running.outcome or supervisor.monitor.report().reason != UNSEEN, "its models are looked at")
    return running


@pytest.fixture
def start_server(installed: None) -> Iterator[Callable[..., Running]]:
    """:func:`start`, for tests that need a server of their own; it is stopped afterwards."""
    started: list[Running] = []

    def make(*arguments: Any, **options: Any) -> Running:
        started.append(start(*arguments, **options))
        return started[-1]

    yield make
    for running in started:
        running.finish()
        running.overlay.close()


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The session server's repository; tests add models of their own to it."""
    folder = tmp_path_factory.mktemp("repository")
    write_model(folder, "relu")
    write_model(folder, "named.with.dots")
    write_model(folder, "configured", config='backend: "tnn"\n')
    write_model(folder, "batched", config="max_batch_size: 16\ndynamic_batching { }\n")
    write_model(folder, "broken", proto=BROKEN)
    (folder / "not_a_model").mkdir()
    return folder


@pytest.fixture(scope="session")
def server(installed: None, repository: Path) -> Iterator[Running]:
    """The session's server, in explicit mode with everything in the repository loaded."""
    running = start([repository], ["--model-control-mode=explicit", "--load-model=*"])
    assert running.ready, f"{running.outcome}\n" + "\n".join(running.log[-50:])
    yield running
    pid = running.supervisor.pid
    outcome = running.finish()
    running.overlay.close()
    assert outcome == 0
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.fixture
def http(server: Running) -> Iterator[tritonclient.http.InferenceServerClient]:
    with server.http() as client:
        yield client


@pytest.fixture
def grpc(server: Running) -> Iterator[tritonclient.grpc.InferenceServerClient]:
    with server.grpc() as client:
        yield client


@pytest.fixture(params=["http", "grpc"])
def protocol(request: pytest.FixtureRequest) -> Any:
    """The module and a client of each protocol in turn: ``(tritonclient.http, client)``."""
    return {"http": tritonclient.http, "grpc": tritonclient.grpc}[request.param], request.getfixturevalue(request.param)


def ask(protocol: Any, model: str, array: np.ndarray, name: str = "x", **options: Any) -> Any:
    """Sends one tensor and returns the client's result."""
    module, client = protocol
    kind = tritonclient.utils.np_to_triton_dtype(array.dtype)
    tensor = module.InferInput(name, list(array.shape), kind)
    tensor.set_data_from_numpy(array)
    return client.infer(model, [tensor], **options)
