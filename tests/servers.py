"""Real servers that tests start in their own process' threads, and what talks to them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tnn_serving.errors import ServerError
from tnn_serving.shield.front import Shield
from tnn_serving.triton.access import with_token
from tnn_serving.triton.background_server import free_ports
from tnn_serving.triton.health import HealthLimits
from tnn_serving.triton.index import ServedModel
from tnn_serving.triton.launch import BACKEND_LIBRARY, Launch, build_launch, find_libpython, find_tritonserver
from tnn_serving.triton.monitor import NOT_POLLED
from tnn_serving.triton.overlay import Overlay
from tnn_serving.triton.supervise import Callbacks, Supervisor

DEADLINE_S = 120.0
"""How long tests wait for what takes moments on a machine that does nothing else."""

PORT_ATTEMPTS = 5


def skip_unless_installed() -> None:
    """Skips where there is nothing to start."""
    try:
        find_tritonserver()
        find_libpython()
    except ServerError as error:
        pytest.skip(f"no server can be started here: {error}")
    if not BACKEND_LIBRARY.is_file():
        pytest.skip("the backend library has not been built (pip install -e .)")


def wait_for(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
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

    def address(self, protocol: str) -> str:
        """The server's address with its scheme."""
        return {"http": f"http://{self.http_url}", "grpc": f"grpc://{self.grpc_url}"}[protocol]

    def http(self) -> tritonclient.http.InferenceServerClient:
        return tritonclient.http.InferenceServerClient(
            self.http_url, connection_timeout=DEADLINE_S, network_timeout=DEADLINE_S
        )

    def grpc(self) -> tritonclient.grpc.InferenceServerClient:
        return tritonclient.grpc.InferenceServerClient(self.grpc_url)

    def finish(self) -> int | Exception:
        """Asks the server to stop, waits, and gives what run() returned or raised."""
        self.supervisor.stop()
        assert self.thread is not None
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()
        return self.outcome[0]


def start(
    repositories: Sequence[Path],
    flags: Sequence[str] = (),
    *,
    limits: HealthLimits | None = None,
    token: str | None = None,
    reload: bool = True,
    shield: Callable[[Launch], Shield] | None = None,
    **options: Any,
) -> Running:
    """Starts a supervised server, behind a shield if one is given, and returns when it is ready or has given up.

    Its ports are found free before it listens on them. If another program takes one in between, others are tried.
    """
    for _ in range(PORT_ATTEMPTS):
        ports = free_ports(4)
        running = _start(ports, repositories, flags, limits, token, reload, shield, options)
        if not running.outcome or not any(map(is_taken, ports)):
            break
        running.overlay.close()
    return running


def is_taken(port: int) -> bool:
    """Whether a program listens on a port of 127.0.0.1."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return True
    return False


def _start(
    ports: Sequence[int],
    repositories: Sequence[Path],
    flags: Sequence[str],
    limits: HealthLimits | None,
    token: str | None,
    reload: bool,
    shield: Callable[[Launch], Shield] | None,
    options: Mapping[str, Any],
) -> Running:
    options = dict(options)
    overlay = Overlay([str(path) for path in repositories], allowed=options.pop("allowed", ()))
    settings = {"http_port": ports[0], "grpc_port": ports[1], "metrics_port": ports[2], "exit_timeout_s": 3}
    launch = build_launch(overlay.locations, flags=flags, **{**settings, **options})
    if token is not None:
        launch = with_token(launch, token)
    front = shield(launch) if shield is not None else None
    started = front.server if front is not None else launch
    supervisor = Supervisor(started, overlay, reload=reload, token=token, front=front)
    supervisor.monitor.limits = limits or HealthLimits()
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
    wait_for(lambda: running.ready or running.outcome, "the server is ready")
    # On a busy machine the first look may have taken too long.
    wait_for(lambda: running.outcome or supervisor.monitor.report().reason != NOT_POLLED, "its models are looked at")
    return running


def ask(protocol: Any, model: str, array: np.ndarray, name: str = "x", **options: Any) -> Any:
    """Sends one tensor and returns the client's result."""
    module, client = protocol
    kind = np_to_triton_dtype(array.dtype)
    tensor = module.InferInput(name, list(array.shape), kind)
    tensor.set_data_from_numpy(array)
    return client.infer(model, [tensor], **options)


def load(client: Any, name: str) -> None:
    """Loads a model that has just been written; the overlay follows the repository within half a second."""

    def loaded() -> bool:
        try:
            client.load_model(name)
        except InferenceServerException as error:
            if "failed to poll" not in error.message():
                raise
            return False
        return True

    wait_for(loaded, f"{name} is loaded")


def unload(client: Any, name: str) -> None:
    # tritonserver crashes when a model is unloaded within some 30 ms of its load: its worker thread is still on its
    # way back to the queue.
    time.sleep(0.1)
    client.unload_model(name)
    wait_for(lambda: not client.is_model_ready(name), f"{name} is gone")
