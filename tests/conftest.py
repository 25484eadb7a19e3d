"""What every test may need: the processor's part in it, and marks that follow from what a test uses."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc
import tritonclient.http
from hypothesis import settings

from tests.end_to_end.models import BROKEN, write_model
from tests.servers import Running, load, skip_unless_installed, start
from tnn_serving.cache import cache_folder
from tnn_serving.engines.cpu import this_cpu
from tnn_serving.errors import ServerError
from tnn_serving.shield.envoy import find_envoy

WITHOUT_VNNI = "the processor, or the limit set for oneDNN, lacks VNNI: fast int8 saturates its 16-bit sums"


DELAY_MS = 20
WAITS = f"max_batch_size: 16\ndynamic_batching {{ max_queue_delay_microseconds: {DELAY_MS * 1000} }}\n"
"""Every request waits for others so long."""

BOUNDED = (
    "max_batch_size: 16\ndynamic_batching { max_queue_delay_microseconds: 20000 "
    "default_queue_policy { max_queue_size: 1 } }\n"
)
"""One request waits, the others are refused."""


settings.register_profile("same each time", derandomize=True, database=None, deadline=None)
settings.load_profile("same each time")


def pytest_configure(config: pytest.Config) -> None:
    """Gives the tests a cache of their own: what another version of the package has kept must not decide them.

    Only downloads are taken from the user's.
    """
    kept = cache_folder()
    if hasattr(config, "workerinput") or kept is None:  # workers of pytest-xdist have the first process' environment
        return
    folder = Path(tempfile.mkdtemp(prefix="tnn-serving-tests-"))
    config.add_cleanup(partial(shutil.rmtree, folder, ignore_errors=True))
    (kept / "wheels").mkdir(parents=True, exist_ok=True)
    (folder / "tnn-serving").mkdir()
    (folder / "tnn-serving" / "wheels").symlink_to(kept / "wheels")
    os.environ.setdefault("PIP_CACHE_DIR", str(kept.parent / "pip"))
    os.environ["XDG_CACHE_HOME"] = str(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "installed" in getattr(item, "fixturenames", ()):
            item.add_marker("server")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("needs_vnni") and not this_cpu().vnni:
        pytest.skip(WITHOUT_VNNI)


@pytest.fixture(scope="session")
def envoy() -> Path:
    """Envoy, for shields and gateways."""
    try:
        return find_envoy()
    except ServerError as error:
        pytest.skip(f"Envoy is not here: {error}")


@pytest.fixture(scope="session")
def installed() -> None:
    """A server can be started here."""
    skip_unless_installed()


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
def protocol(request: pytest.FixtureRequest, installed: None) -> Any:
    """The module and a client of each protocol in turn: ``(tritonclient.http, client)``."""
    return {"http": tritonclient.http, "grpc": tritonclient.grpc}[request.param], request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def loaded(server: Running, repository: Path) -> Running:
    """The session's server with models to put under load: fast, slow, or refusing what is too much."""
    write_model(repository, "counted")
    write_model(repository, "waits", config=WAITS)
    write_model(repository, "bounded", config=BOUNDED)
    with server.http() as client:
        for name in ("counted", "waits", "bounded"):
            load(client, name)
    return server


@pytest.fixture(params=["http", "grpc"])
def address(request: pytest.FixtureRequest, loaded: Running) -> str:
    """The server's address for each protocol in turn."""
    return loaded.address(request.param)
