"""Code in model folders and load requests: none of it runs, and the neighbours answer."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.end_to_end.models import write_model
from tests.end_to_end.test_supervision import Program
from tests.servers import DEADLINE_S, Running, ask, wait_for
from tnn_serving.triton.background_server import free_ports
from tnn_serving.triton.launch import build_launch
from tnn_serving.triton.supervise import Restarts, Supervisor

Start = Callable[..., Running]

SOURCE = """
#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void run(void) { close(open(MARK, O_CREAT | O_WRONLY, 0600)); }
"""
TOKEN = "a-token-of-my-own-choice"


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What the library writes as soon as it is loaded."""
    return tmp_path / "the code ran"


@pytest.fixture
def library(tmp_path: Path, mark: Path) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler here to make a hostile library with")
    source, made = tmp_path / "hostile.c", tmp_path / "hostile.library"
    source.write_text(SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", f'-DMARK="{mark}"', "-o", made, source], check=True)
    return made


def write_hostile(repository: Path, library: Path) -> dict[str, str]:
    """A model for each way in which Triton comes to load a library; the words of each refusal by the model's name."""
    forms = {
        "in_version": ("1/libtriton_tnn.so", "", "file `1/libtriton_tnn.so` is a shared library"),
        "in_model": ("libtriton_tnn.so", 'backend: "tnn"\n', "file `libtriton_tnn.so` is a shared library"),
        "own_backend": ("1/libtriton_x.so", 'backend: "x"\n', "it is a model of `x`"),
        "runtime": ("1/data.bin", 'backend: "tnn"\nruntime: "data.bin"\n', "`runtime` names a library"),
    }
    for name, (file, config, _) in forms.items():
        write_model(repository, name, config=config)
        shutil.copyfile(library, repository / name / file)
    return {name: words for name, (_, _, words) in forms.items()}


def assert_neighbour_answers(running: Running, name: str = "relu") -> None:
    x = np.array([-1, 0, 2, 1e30], np.float32).reshape(1, 1, 2, 2)
    for module, make in ((tritonclient.http, running.http), (tritonclient.grpc, running.grpc)):
        with make() as client:
            y = ask((module, client), name, x).as_numpy("y")
        np.testing.assert_array_equal(y, np.maximum(x, 0))


@pytest.mark.parametrize("form", ["in_version", "in_model", "own_backend", "runtime"])
def test_tritonserver_by_itself_runs_it(installed: None, tmp_path: Path, library: Path, mark: Path, form: str) -> None:
    """The attacks are real: without the gate each of them works."""
    write_hostile(tmp_path / "all", library)
    (tmp_path / "models").mkdir()
    (tmp_path / "all" / form).rename(tmp_path / "models" / form)
    if form == "in_version":
        (tmp_path / "models" / form / "config.pbtxt").write_text('backend: "tnn"\n')
    ports = free_ports(3)
    launch = build_launch(
        [str(tmp_path / "models")], http_port=ports[0], grpc_port=ports[1], metrics_port=ports[2], exit_timeout_s=1
    )
    with pytest.raises(Exception, match="no model could be loaded"):
        Supervisor(launch, restarts=Restarts(limit=0)).run()
    assert mark.exists()


def test_no_form_of_it_runs(start_server: Start, tmp_path: Path, library: Path, mark: Path) -> None:
    models = tmp_path / "models"
    write_model(models, "relu")
    refusals = write_hostile(models, library)
    running = start_server([models])
    assert_neighbour_answers(running)
    states = {model.name: model for model in running.ready[0]}
    assert set(states) == {"relu", *refusals}
    for name, words in refusals.items():
        assert (states[name].state, words in states[name].reason) == ("UNAVAILABLE", True)
        assert [text for text in running.warnings if f"{name} is not served: " in text and words in text]
    assert not mark.exists()


def test_code_that_comes_while_the_server_runs(start_server: Start, tmp_path: Path, library: Path, mark: Path) -> None:
    """A model that is served goes on as it was, also after a restart; a new one is never shown."""
    models = tmp_path / "models"
    write_model(models, "relu")
    running = start_server([models], ["--model-control-mode=poll", "--repository-poll-secs=1"])
    shutil.copyfile(library, models / "relu" / "1" / "libtriton_tnn.so")
    write_hostile(models, library)
    write_model(models, "later")
    wait_for(lambda: len(running.warnings) >= 5, "all five folders are refused")
    with running.http() as client:
        wait_for(lambda: client.is_model_ready("later"), "what came with them is served")
    assert_neighbour_answers(running)
    pid = running.supervisor.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(running.ready) == 2, "the server is ready again")
    assert_neighbour_answers(running)
    assert not mark.exists()


@pytest.fixture
def program(installed: None, tmp_path: Path) -> Iterator[Callable[..., Program]]:
    started: list[Program] = []

    def make(*flags: str) -> Program:
        started.append(Program(tmp_path / "models", *flags))
        return started[-1]

    yield make
    for running in started:
        running.process.kill()
        running.process.communicate()


def post(port: int, path: str, body: object, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    connection.request("POST", path, json.dumps(body), {name.replace("_", "-"): text for name, text in headers.items()})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def hostile_load(library: Path) -> dict[str, Any]:
    config = {"backend": "x", "max_batch_size": 0}
    files = {"file:1/libtriton_x.so": library.read_bytes().hex()}
    return {"parameters": {"config": json.dumps(config), **files}}


def test_a_web_page_loads_nothing(
    program: Callable[..., Program], tmp_path: Path, library: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On loopback too, each load request needs the token, which a page cannot send."""
    monkeypatch.setenv("TNN_ADMIN_TOKEN", TOKEN)
    write_model(tmp_path / "models", "relu")
    running = program("--model-control-mode=explicit", "--load-model=relu", "--no-server-log")
    running.wait_until_ready()
    path = "/v2/repository/models/relu/load"
    page = {"Content_Type": "text/plain", "Origin": "http://page.example"}
    for body in ({}, hostile_load(library)):
        status, text = post(running.http_port, path, body, **page)
        assert (status, "tnn-admin-token" in text) == (403, True)
    assert post(running.http_port, path, {}, tnn_admin_token=TOKEN)[0] == 200
    status, text = post(running.http_port, path, hostile_load(library), tnn_admin_token=TOKEN)
    assert (status, "may not bring a configuration or files" in text) == (501, True)
    headers = {"triton-grpc-protocol-tnn-admin-token": TOKEN}
    outside = write_model(tmp_path / "outside", "stranger", config='backend: "tnn"\n')
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{running.grpc_port}") as client:
        with pytest.raises(InferenceServerException, match="tnn-admin-token"):
            client.load_model("relu")
        with pytest.raises(InferenceServerException, match="may not bring a configuration or files"):
            client.load_model(
                "relu",
                headers=headers,
                config='{"backend": "x"}',
                files={"file:1/libtriton_x.so": library.read_bytes()},
            )
        with pytest.raises(InferenceServerException, match="without a slash"):
            client.load_model(f"../../{os.path.relpath(outside, '/tmp')}", headers=headers)
        assert client.is_model_ready("relu")
        assert [model["name"] for model in client.get_model_repository_index(headers, as_json=True)["models"]] == [
            "relu"
        ]
    assert not mark.exists()


def test_overrides_that_the_operator_allows(
    program: Callable[..., Program], tmp_path: Path, library: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run code, as the flag says; so the refusals above are what prevents it."""
    monkeypatch.setenv("TNN_ADMIN_TOKEN", TOKEN)
    write_model(tmp_path / "models", "relu")
    running = program("--model-control-mode=explicit", "--load-model=relu", "--allow-load-overrides", "--no-server-log")
    running.wait_until_ready()
    headers = {"triton-grpc-protocol-tnn-admin-token": TOKEN}
    with (
        tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{running.grpc_port}") as client,
        pytest.raises(InferenceServerException),
    ):
        client.load_model(
            "x", headers=headers, config='{"backend": "x"}', files={"file:1/libtriton_x.so": library.read_bytes()}
        )
    assert mark.exists()


def test_an_abbreviated_address_opens_nothing_without_the_token(
    program: Callable[..., Program], tmp_path: Path
) -> None:
    write_model(tmp_path / "models", "relu")
    (port,) = free_ports(1)
    running = program("--http-addr=0.0.0.0", f"--http-po={port}", "--no-server-log")
    running.http_port = port
    running.wait_until_ready()
    for path in ("/v2/repository/index", "/v2/systemsharedmemory/region/x/register", "/v2/logging"):
        status, text = post(port, path, {})
        assert (status, "tnn-admin-token" in text) == (403, True)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--allow-sagemaker=true"], "--allow-sagemaker is refused"),
        (["--allow-sage", "on"], "--allow-sagemaker is refused"),
        (["--allow-vertex-ai=1"], "--allow-vertex-ai is refused"),
        (["--no-admin-token", "--model-control=explicit"], "always needs the token"),
    ],
)
def test_flags_that_would_open_a_way(
    program: Callable[..., Program], tmp_path: Path, flags: list[str], words: str
) -> None:
    write_model(tmp_path / "models", "relu")
    running = program(*flags)
    _, talk = running.process.communicate(timeout=DEADLINE_S)
    assert running.process.returncode != 0
    assert words in " ".join(talk.replace("│", " ").split())


def test_the_environment_opens_no_endpoint(
    program: Callable[..., Program], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vertex AI's would open by itself; and what the server needs not, it does not have."""
    monkeypatch.setenv("AIP_MODE", "PREDICTION")
    secrets = {"AWS_SECRET_ACCESS_KEY": "secret-of-the-cloud", "TNN_ADMIN_TOKEN": TOKEN}
    for name, text in secrets.items():
        monkeypatch.setenv(name, text)
    write_model(tmp_path / "models", "relu")
    running = program("--no-server-log")
    running.wait_until_ready()
    pid = running.server_pid()
    listening = subprocess.run(["cat", f"/proc/{pid}/net/tcp", f"/proc/{pid}/net/tcp6"], capture_output=True, text=True)
    assert f":{8080:04X} 00000000:0000 0A" not in listening.stdout
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"TNN_PYTHON=" in environment
    assert not [text for text in secrets.values() if text.encode() in environment]
