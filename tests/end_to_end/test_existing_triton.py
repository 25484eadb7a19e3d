"""The backend in a Triton that somebody else starts: a copy of the wheel's server, without our launcher.

With it, Triton's own python backend, whose models ask ours.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http
from tritonclient.utils import InferenceServerException
from typer.testing import CliRunner

from tests.end_to_end.models import RELU, write_model
from tests.end_to_end.test_serving import counted, numbers, statistics
from tests.servers import Running, ask, wait_for
from tnn_serving.cli.app import make_app
from tnn_serving.triton.background_server import free_ports
from tnn_serving.triton.launch import find_libpython, find_tritonserver

EXAMPLE = Path(__file__).parents[2] / "examples" / "bls" / "choose"
Start = Callable[..., Any]


@pytest.fixture(scope="module")
def tree(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Triton of its own, into which the backend has been installed."""
    server = find_tritonserver()
    source = server.parents[1]
    if source.parent.name != "pytriton":
        pytest.skip(f"{source} is not the wheel's")
    folder = tmp_path_factory.mktemp("triton") / "pytriton"
    tree = folder / "tritonserver"
    shutil.copytree(source, tree, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(source.parents[1] / "nvidia_pytriton.libs", folder.parent / "nvidia_pytriton.libs")
    done = CliRunner().invoke(make_app(), ["backend", "install", str(tree / "backends")])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tree / "backends" / "tnn")
    return tree


class Server:
    """A tritonserver with nothing around it."""

    def __init__(self, tree: Path, repository: Path, environment: Mapping[str, str]) -> None:
        (port,) = free_ports(1)
        self.url = f"127.0.0.1:{port}"
        self.log_file = repository.parent / f"{repository.name}.log"
        command = [
            *(tree / "bin" / "tritonserver", f"--model-repository={repository}"),
            *(f"--backend-directory={tree / 'backends'}", "--http-address=127.0.0.1", f"--http-port={port}"),
            *("--allow-grpc=false", "--allow-metrics=false", "--exit-timeout-secs=3"),
        ]
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command], env=dict(environment), stdout=log, stderr=subprocess.STDOUT
            )

    def client(self) -> Any:
        return tritonclient.http.InferenceServerClient(self.url)

    def wait(self) -> None:
        wait_for(lambda: self.is_ready() or self.process.poll() is not None, "the server is ready")
        assert self.process.poll() is None, self.log()

    def is_ready(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.is_server_ready())
            except OSError:
                return False

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def serve(tree: Path) -> Iterator[Start]:
    started: list[Server] = []

    def make(repository: Path, **environment: str) -> Server:
        """Only what a plain shell of a service has; where this package is not installed, the way to it."""
        found = {"PYTHONPATH": os.environ["PYTHONPATH"]} if os.environ.get("PYTHONPATH") else {}
        started.append(Server(tree, repository, {"PATH": "/usr/bin:/bin", **found, **environment}))
        return started[-1]

    yield make
    for server in started:
        if server.process.poll() is None:
            server.end()


def test_a_server_without_our_launcher_serves(serve: Start, tmp_path: Path) -> None:
    write_model(tmp_path / "models", "relu", config='backend: "tnn"\nmax_batch_size: 4\n')
    server = serve(tmp_path / "models")
    server.wait()
    x = numbers(3, 3, 8, 8)
    with server.client() as client:
        np.testing.assert_array_equal(ask((tritonclient.http, client), "relu", x).as_numpy("y"), np.maximum(x, 0))
        assert client.get_model_config("relu")["input"][0]["name"] == "x"  # filled in
    assert "runs inside the server" in server.log()
    assert server.end() == 0, server.log()


def test_a_copied_library_says_what_is_missing(serve: Start, tree: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "models", "relu", config='backend: "tnn"\n')
    settings = tree / "backends" / "tnn" / "python.conf"
    kept = settings.read_text()
    settings.unlink()
    try:
        server = serve(tmp_path / "models")
        wait_for(lambda: server.process.poll() is not None, "the server has given up")
    finally:
        settings.write_text(kept)
    assert "`tnn-serving backend install` writes python.conf beside this library" in server.log()


def test_a_python_model_asks_ours(
    start_server: Callable[..., Running], tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Business logic scripting, as docs/guides/serving.md says how, with the numpy that is installed here."""
    version = ".".join(map(str, sys.version_info[:2]))
    stub = f"../../python_backend_stubs/{version}/triton_python_backend_stub"
    (tree / "backends" / "python" / "triton_python_backend_stub").symlink_to(stub)
    models = tmp_path / "models"
    write_model(models, "bright")
    write_model(models, "dark", proto=RELU.replace(b"ReLU", b"Abs"))
    shutil.copytree(EXAMPLE, models / "choose", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(find_libpython().parent), prepend=":")
    running = start_server(
        [models],
        [f"--backend-directory={tree / 'backends'}"],
        tritonserver=tree / "bin" / "tritonserver",
        allowed=["python"],
    )
    assert running.ready, "\n".join(running.log[-50:])
    noise, light = numbers(2, 3, 9, 7), np.abs(numbers(1, 3, 5, 5, seed=1)) + 1
    with running.http() as client:
        http = (tritonclient.http, client)
        for sent, expected in ((noise, np.abs(noise)), (light, light), (-light, light)):
            np.testing.assert_array_equal(ask(http, "choose", sent).as_numpy("y"), expected)
        for model, count in (("dark", 2), ("bright", 1), ("choose", 3)):
            counted(client, model, count)
            assert statistics(client, model)["success"] == count
        with pytest.raises(InferenceServerException, match="unexpected shape"):
            ask(http, "choose", numbers(1, 4, 2, 2))
