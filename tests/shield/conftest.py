"""A real server behind a real Envoy, and an Envoy alone in front of a recorder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from tests.end_to_end.models import write_model
from tests.servers import Running, ask, start
from tests.shield.raw import Answer, Recorder, recorder, send
from tnn_serving.shield.configuration import CallerLimits, Tls
from tnn_serving.shield.front import Shield, behind
from tnn_serving.triton.background_server import free_ports
from tnn_serving.triton.launch import Launch

TOKEN = "a-token-for-the-tests"


@dataclass(repr=False)
class Shielded:
    """A server behind a shield."""

    running: Running
    repository: Path
    pid: int

    @property
    def front(self) -> Shield:
        front = self.running.supervisor.front
        assert isinstance(front, Shield)
        return front

    @property
    def address(self) -> tuple[str, int]:
        """Where callers send HTTP."""
        host, _, port = self.running.http_url.partition(":")
        return host, int(port)

    def send(self, request: bytes, timeout_s: float = 60.0) -> Answer:
        """The answer to the bytes of a request."""
        return send(self.address, request, timeout_s)

    def assert_well(self) -> None:
        """The same processes answer neighbours rightly over both protocols."""
        x = np.array([-1, 0, 2, 1e30], np.float32).reshape(1, 1, 2, 2)
        for module, make in ((tritonclient.http, self.running.http), (tritonclient.grpc, self.running.grpc)):
            with make() as client:
                y = ask((module, client), "relu", x).as_numpy("y")
            np.testing.assert_array_equal(y, np.maximum(x, 0))
        assert self.running.supervisor.pid == self.pid
        assert not self.running.restarts
        assert not self.running.warnings


@pytest.fixture(scope="session")
def shielded(installed: None, envoy: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shielded]:
    """A server in explicit mode with the token, behind a shield with the default limits."""
    folder = tmp_path_factory.mktemp("shielded")
    write_model(folder, "relu")
    write_model(folder, "idle")
    flags = ["--model-control-mode=explicit", "--load-model=relu"]
    running = start([folder], flags, token=TOKEN, shield=lambda launch: Shield(launch, behind(launch)))
    assert running.ready, f"{running.outcome}\n" + "\n".join(running.log[-50:])
    pid = running.supervisor.pid
    assert pid is not None
    yield Shielded(running, folder, pid)
    assert running.finish() == 0
    running.overlay.close()


@dataclass
class Alone:
    """An Envoy in front of a recorder."""

    front: Shield
    behind: Recorder
    address: tuple[str, int]

    def send(self, request: bytes, timeout_s: float = 60.0) -> Answer:
        """The answer to the bytes of a request."""
        return send(self.address, request, timeout_s)


StartAlone = Callable[..., Alone]


def listening(http: int, grpc: int, metrics: int) -> Launch:
    """A launch that has nothing but ports."""
    ports = {"http": http, "grpc": grpc, "metrics": metrics}
    flags = [flag for name, port in ports.items() for flag in (f"--{name}-address=127.0.0.1", f"--{name}-port={port}")]
    return Launch(("tritonserver", *flags), {})


def start_in(stack: ExitStack, limits: CallerLimits | None, tls: Tls | None, log: Path | None) -> Alone:
    record = stack.enter_context(recorder())
    public = listening(*free_ports(3))
    front = Shield(public, listening(record.port, record.port, record.port), limits or CallerLimits(), tls, log)
    stack.callback(front.close)
    front.start(print, print)
    address = public.endpoint("http")
    assert address is not None
    return Alone(front, record, address)


@pytest.fixture
def start_alone(envoy: None) -> Iterator[StartAlone]:
    """Starts Envoys in front of a recorder; they are ended afterwards."""
    with ExitStack() as stack:

        def make(limits: CallerLimits | None = None, tls: Tls | None = None, log: Path | None = None) -> Alone:
            return start_in(stack, limits, tls, log)

        yield make


@pytest.fixture(scope="session")
def shared_alone(envoy: None) -> Iterator[Alone]:
    """An Envoy with the default limits in front of a recorder."""
    with ExitStack() as stack:
        yield start_in(stack, None, None, None)


@pytest.fixture
def alone(shared_alone: Alone) -> Alone:
    """The same, with nothing recorded yet."""
    shared_alone.behind.requests.clear()
    return shared_alone


@pytest.fixture
def start_shielded(start_server: Callable[..., Running], envoy: None, tmp_path: Path) -> Callable[..., Shielded]:
    """Starts servers behind a shield of their own."""

    def make(limits: CallerLimits | None = None, tls: Tls | None = None, **options: Any) -> Shielded:
        repository = tmp_path / "models"
        if not repository.exists():
            write_model(repository, "relu")
        running = start_server(
            [repository], shield=lambda launch: Shield(launch, behind(launch), limits or CallerLimits(), tls), **options
        )
        assert running.ready, f"{running.outcome}\n" + "\n".join(running.log[-50:])
        assert running.supervisor.pid is not None
        return Shielded(running, repository, running.supervisor.pid)

    return make
