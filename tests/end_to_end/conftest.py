"""One real tritonserver for all tests of a session.

Every test uses models of its own names, or ones that no test changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc
import tritonclient.http

from tests.end_to_end.models import BROKEN, write_model
from tests.servers import Running, start
from tnn_serving.demo import build_demo_models


@pytest.fixture(scope="session")
def demo_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository that `tnn-serving demo` makes, to be copied from."""
    repository = tmp_path_factory.mktemp("demo_models")
    build_demo_models(repository, lambda step: None)
    return repository


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
