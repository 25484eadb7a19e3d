"""Servers that are stopped, die, or never come up."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.end_to_end.models import BROKEN, write_model
from tests.imports import COMPUTING, reported, watched
from tests.servers import DEADLINE_S, Running, ask, wait_for
from tnn_serving.errors import ServerError
from tnn_serving.triton.background_server import free_ports

Start = Callable[..., Running]
PROGRAM = "from tnn_serving.cli.app import main; main()"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    write_model(folder, "relu")
    return folder


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_stop_under_load_is_clean(start_server: Start, models: Path) -> None:
    running = start_server([models])
    answered, stopping = threading.Event(), threading.Event()
    wrong: list[str] = []

    def send() -> None:
        x = np.random.default_rng(0).standard_normal((1, 3, 64, 64), dtype=np.float32)
        with running.http() as client:
            while True:
                try:
                    y = ask((tritonclient.http, client), "relu", x).as_numpy("y")
                except Exception as error:
                    if not stopping.is_set():
                        wrong.append(repr(error))
                    return
                if not np.array_equal(y, np.maximum(x, 0)):
                    wrong.append("a wrong answer")
                answered.set()

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert answered.wait(20)
    pid = running.supervisor.pid
    assert pid is not None
    stopping.set()
    assert running.finish() == 0
    for thread in threads:
        thread.join(30)
    assert not wrong
    assert gone(pid)


def test_stop_with_idle_connection_and_open_stream(start_server: Start, models: Path) -> None:
    """tritonserver alone would end with code 1 for the first, and never for the second."""
    running = start_server([models], exit_timeout_s=1)
    pid = running.supervisor.pid
    assert pid is not None
    with running.grpc() as client, socket.create_connection(("127.0.0.1", int(running.http_url.split(":")[1]))):
        answers: list[Any] = []
        client.start_stream(lambda result, error: answers.append((result, error)))
        tensor = tritonclient.grpc.InferInput("x", [1, 3, 2, 2], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 3, 2, 2), np.float32))
        client.async_stream_infer("relu", [tensor])
        wait_for(lambda: answers, "the stream answers")
        assert answers[0][1] is None
        started = time.monotonic()
        assert running.finish() == 0
        assert time.monotonic() - started < 1 + 5 + 5
        assert gone(pid)


def kill_server(running: Running, number: int = signal.SIGKILL) -> int:
    """Kills tritonserver and returns its process id."""
    pid = running.supervisor.pid
    assert pid is not None
    os.kill(pid, number)
    return pid


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_server_that_dies_is_restarted(start_server: Start, models: Path, number: signal.Signals) -> None:
    running = start_server([models])
    first = kill_server(running, number)
    wait_for(lambda: len(running.ready) == 2, "the server is ready again")
    second = running.supervisor.pid
    assert second != first
    assert number.name in running.restarts[0]
    with running.http() as client:
        x = np.ones((1, 3, 8, 8), np.float32)
        np.testing.assert_array_equal(ask((tritonclient.http, client), "relu", x).as_numpy("y"), x)


def test_server_that_dies_too_often_is_given_up(start_server: Start, models: Path) -> None:
    running = start_server([models])
    running.supervisor.restarts.limit = 1
    kill_server(running)
    wait_for(lambda: len(running.ready) == 2, "the server is ready again")
    kill_server(running)
    wait_for(lambda: running.outcome, "the supervisor gives up")
    assert running.outcome == [1]


def test_no_model_can_be_loaded(start_server: Start, tmp_path: Path) -> None:
    write_model(tmp_path / "models", "broken", proto=BROKEN)
    running = start_server([tmp_path / "models"])
    (error,) = running.outcome
    assert isinstance(error, ServerError)
    assert "`broken`" in str(error)
    assert "NoSuchLayer" in str(error)
    assert "broken/1/proto.tnnproto" in str(error)


def test_empty_repository(start_server: Start, tmp_path: Path) -> None:
    (tmp_path / "models" / "notes").mkdir(parents=True)
    running = start_server([tmp_path / "models"])
    (error,) = running.outcome
    assert isinstance(error, ServerError)
    assert "no model to serve" in str(error)


def test_unreadable_config_is_told_and_the_others_are_served(start_server: Start, models: Path) -> None:
    write_model(models, "odd", config='backend: "tnn" max_batch_size: {')
    (models / "notes").mkdir()
    running = start_server([models])
    states = {model.name: model for model in running.ready[0]}
    assert set(states) == {"relu", "odd"}
    assert states["relu"].ready
    assert states["odd"].state == "UNAVAILABLE"
    assert "config.pbtxt" in states["odd"].reason
    assert [text for text in running.warnings if str(models / "odd") in text]


@pytest.mark.parametrize(
    ("flag", "text"),
    [("--no-such-flag=1", "--no-such-flag"), ("--log-verbose=x", "log-verbose"), ("--rate-limit=x", "rate-limit")],
)
def test_bad_flag_is_named(start_server: Start, models: Path, flag: str, text: str) -> None:
    running = start_server([models], [flag])
    (error,) = running.outcome
    assert isinstance(error, ServerError)
    assert text in str(error)


def test_poll_mode_follows_the_repository(start_server: Start, models: Path) -> None:
    running = start_server([models], ["--model-control-mode=poll", "--repository-poll-secs=1"])
    with running.http() as client:
        assert client.is_model_ready("relu")
        write_model(models, "late")
        wait_for(lambda: client.is_model_ready("late"), "a new model is served")
        time.sleep(0.1)  # tritonserver crashes when a model goes within some 30 ms of its load
        (models / "late").rename(models.parent / "late")
        wait_for(lambda: not client.is_model_ready("late"), "a removed model is gone")
        assert client.is_model_ready("relu")
    loads = [line for line in running.log if "loading: relu" in line]
    assert len(loads) == 1


class Program:
    """``tnn-serving serve`` as a user starts it."""

    def __init__(self, models: Path, *flags: str, code: str = PROGRAM) -> None:
        names = ("http", "grpc", "metrics", "health")
        ports = free_ports(len(names))
        self.http_port, self.grpc_port, _, self.health_port = ports
        options = [f"--{name}-port={port}" for name, port in zip(names, ports, strict=True)]
        command = [sys.executable, "-c", code, "serve", str(models), *options, *flags]
        environment = {**os.environ, "TMPDIR": str(models.parent)}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.process.communicate()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/health/ready", timeout=2):
                    return True
            except OSError:
                return False

        wait_for(ready, "the program serves")

    def health(self) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/health", timeout=2) as answer:
            return json.load(answer)

    def server_pid(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (pid,) = [int(child) for child in children]
        return pid


@pytest.fixture
def program(installed: None, models: Path) -> Any:
    started: list[Program] = []

    def make(*flags: str, code: str = PROGRAM) -> Program:
        started.append(Program(models, *flags, code=code))
        return started[-1]

    yield make
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
        running.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_program_serves_and_stops(program: Callable[..., Program], models: Path, number: signal.Signals) -> None:
    running = program("--log-verbose=1")
    running.wait_until_ready()
    pid = running.server_pid()
    overlays = list(models.parent.glob("tnn-serving-*"))
    assert overlays  # the model has no config.pbtxt
    # The table comes right after; wait for its last line before asking the program to stop.
    assert running.process.stdout is not None
    shown = ""
    while "stop:" not in shown:
        line = running.process.stdout.readline()
        assert line, "the program ended"
        shown += line
    running.process.send_signal(number)
    output, talk = running.process.communicate(timeout=DEADLINE_S)
    assert running.process.returncode == 0, talk
    assert "relu" in shown
    assert "READY" in shown
    assert f"127.0.0.1:{running.http_port}" in shown
    assert gone(pid)
    assert not list(models.parent.glob("tnn-serving-*"))
    assert output == ""


SUPERVISOR_BYTES = 40e6
"""The most memory (PSS) that the supervisor takes."""


def test_the_supervisor_imports_nothing_to_compute_with_and_stays_small(program: Callable[..., Program]) -> None:
    running = program("--model-control-mode=explicit", "--load-model=*", code=watched(COMPUTING, PROGRAM))
    running.wait_until_ready()
    os.kill(running.server_pid(), signal.SIGKILL)  # it is started again, and its model loaded again
    wait_for(lambda: running.health()["restarts"]["crash"] == 1, "the restart")
    running.wait_until_ready()
    used = psutil.Process(running.process.pid).memory_full_info().pss
    running.process.send_signal(signal.SIGTERM)
    _, talk = running.process.communicate(timeout=30)
    assert reported(talk) == []
    assert used <= SUPERVISOR_BYTES


@contextmanager
def nobody(running: Program) -> Iterator[None]:
    yield


@contextmanager
def eight_clients(running: Program) -> Iterator[None]:
    x = np.random.default_rng(0).standard_normal((1, 3, 64, 64), dtype=np.float32)
    answered = [threading.Event() for _ in range(8)]

    def send(event: threading.Event) -> None:
        with tritonclient.http.InferenceServerClient(f"127.0.0.1:{running.http_port}") as client, suppress(Exception):
            while True:  # until the server is gone
                y = ask((tritonclient.http, client), "relu", x).as_numpy("y")
                np.testing.assert_array_equal(y, np.maximum(x, 0))
                event.set()

    threads = [threading.Thread(target=send, args=[event]) for event in answered]
    for thread in threads:
        thread.start()
    assert all(event.wait(30) for event in answered)
    yield
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


@contextmanager
def open_stream(running: Program) -> Iterator[None]:
    answers: list[Any] = []
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{running.grpc_port}") as client:
        client.start_stream(lambda result, error: answers.append(error))
        tensor = tritonclient.grpc.InferInput("x", [1, 3, 2, 2], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 3, 2, 2), np.float32))
        client.async_stream_infer("relu", [tensor])
        wait_for(lambda: answers, "the stream answers")
        assert answers[0] is None
        yield


@contextmanager
def idle_connection(running: Program) -> Iterator[None]:
    connection = http.client.HTTPConnection("127.0.0.1", running.http_port, timeout=10)
    connection.request("GET", "/v2/health/ready")
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200
    assert connection.sock is not None  # kept alive
    yield
    connection.close()


@pytest.mark.parametrize("busy", [nobody, eight_clients, open_stream, idle_connection])
def test_program_stops_in_time_whoever_is_connected(program: Callable[..., Program], busy: Any) -> None:
    exit_timeout_s = 2
    running = program(f"--exit-timeout={exit_timeout_s}", "--no-server-log")
    running.wait_until_ready()
    pid = running.server_pid()
    with busy(running):
        started = time.monotonic()
        running.process.terminate()
        _, talk = running.process.communicate(timeout=DEADLINE_S)
        took_s = time.monotonic() - started
    assert running.process.returncode == 0, talk
    assert took_s < exit_timeout_s + 5 + 3  # 3 for the end of the program itself on a busy machine
    assert gone(pid)


def test_program_that_crashes_too_often_ends_with_the_reason(program: Callable[..., Program]) -> None:
    running = program("--restarts=1", "--no-server-log")
    running.wait_until_ready()
    first = running.server_pid()
    os.kill(first, signal.SIGSEGV)

    def restarted() -> bool:
        children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
        return bool(children) and int(children[0]) != first

    wait_for(restarted, "it is started again")
    running.wait_until_ready()
    os.kill(running.server_pid(), signal.SIGKILL)
    _, talk = running.process.communicate(timeout=DEADLINE_S)
    assert running.process.returncode == 1
    assert "SIGSEGV; restarting in 1 s" in talk
    assert "CudaDriverHelper" not in talk
    assert "SIGKILL; it has died 2 times in a row" in " ".join(talk.split())


def test_pause_of_program_and_server_is_no_hang(program: Callable[..., Program]) -> None:
    """What a frozen container, or a stopped process group, looks like afterwards."""
    hang_timeout_s = 3
    running = program(f"--hang-timeout={hang_timeout_s}", "--stall-report=1", "--no-server-log")
    running.wait_until_ready()
    pids = [running.process.pid, running.server_pid()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(2 * hang_timeout_s)  # the pause itself is what is tried
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
        time.sleep(1)  # so that the program surely finds a server that has been silent for the whole pause
    url = f"http://127.0.0.1:{running.health_port}"
    paused_until = time.monotonic()

    def answered() -> bool:
        with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
            health = json.load(answer)
        assert sum(health["restarts"].values()) == 0
        assert health["pid"] == pids[1]
        return bool(health["ready"]) and time.monotonic() - paused_until > hang_timeout_s

    wait_for(answered, "the same server is still ready")


@pytest.mark.parametrize("how", ["made", "file", "variable", "off"])
def test_program_asks_for_a_token_when_it_is_open(
    program: Callable[..., Program], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    chosen = "a-token-of-my-own-choice"
    flags = ["--host=0.0.0.0", "--no-server-log"]
    if how == "file":
        (tmp_path / "token").write_text(chosen + "\n")
        flags.append(f"--admin-token-file={tmp_path / 'token'}")
    elif how == "variable":
        monkeypatch.setenv("TNN_ADMIN_TOKEN", chosen)
    elif how == "off":
        flags.append("--no-admin-token")
    running = program(*flags)
    running.wait_until_ready()
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{running.http_port}") as client:
        if how == "off":
            assert client.get_model_repository_index()
        else:
            with pytest.raises(InferenceServerException, match="tnn-admin-token"):
                client.get_model_repository_index()
        if how in ("file", "variable"):
            assert client.get_model_repository_index(headers={"tnn-admin-token": chosen})
    running.process.terminate()
    _, talk = running.process.communicate(timeout=DEADLINE_S)
    assert running.process.returncode == 0, talk
    talk = " ".join(talk.split())
    assert ("tnn-admin-token" in talk) == (how != "off")
    assert chosen not in talk
    if how == "made":
        assert re.search(r"header tnn-admin-token: [A-Za-z0-9_-]{32}\b", talk)


@pytest.mark.parametrize("delay_s", [0.0, 0.3])
def test_program_stopped_while_starting_is_clean(program: Callable[..., Program], models: Path, delay_s: float) -> None:
    running = program("--server-log")

    def starting() -> bool:
        assert running.process.poll() is None, running.process.communicate()
        children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
        with suppress(FileNotFoundError):  # one that only lists the flags has gone
            return any(b"--model-repository=" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children)
        return False

    wait_for(starting, "tritonserver is started")
    time.sleep(delay_s)  # the moment within the start is what varies here
    pid = running.server_pid()
    running.process.terminate()
    _, talk = running.process.communicate(timeout=DEADLINE_S)
    assert running.process.returncode == 0, talk
    assert gone(pid)
    assert not list(models.parent.glob("tnn-serving-*"))


def test_server_does_not_outlive_a_killed_program(program: Callable[..., Program]) -> None:
    running = program("--no-server-log")
    running.wait_until_ready()
    pid = running.server_pid()
    running.process.kill()
    running.process.wait()
    wait_for(lambda: gone(pid), "tritonserver is gone")


def test_program_names_a_taken_port(installed: None, models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-c", PROGRAM, "serve", str(models), f"--http-port={port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert "--http-port" in done.stderr
    assert done.stdout == ""
