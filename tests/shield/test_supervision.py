"""Envoy is started, watched, restarted and ended with the server, and readiness tells when callers are not served."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.models import write_model
from tests.program import command, run
from tests.servers import DEADLINE_S, wait_for
from tests.shield.conftest import Shielded, listening
from tests.shield.raw import JSON, RIGHT, Answer, send, with_length
from tnn_serving.errors import ConfigError, ServerError
from tnn_serving.shield.configuration import Tls
from tnn_serving.shield.front import Shield, behind
from tnn_serving.triton.background_server import free_ports
from tnn_serving.triton.health_port import GATEWAY_PATH
from tnn_serving.triton.launch import Launch

Start = Callable[..., Shielded]
READY = b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n"


def readiness(shielded: Shielded) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{shielded.running.health_url}/health/ready", timeout=DEADLINE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_an_envoy_that_is_killed_is_restarted(start_shielded: Start) -> None:
    shielded = start_shielded()
    assert readiness(shielded) == (200, "ready\n")
    pid = shielded.front.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: shielded.front.pid not in (None, pid), "another Envoy runs")
    wait_for(lambda: readiness(shielded)[0] == 200, "ready again")
    assert shielded.send(with_length(JSON)).outputs == RIGHT
    assert shielded.running.supervisor.pid == shielded.pid
    (warning,) = shielded.running.warnings
    assert warning.startswith("Envoy was ended by SIGKILL; the shield is restarted in")


def test_an_envoy_that_does_not_answer_makes_the_server_not_ready(start_shielded: Start) -> None:
    shielded = start_shielded()
    pid = shielded.front.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        status, text = wait_for(
            lambda: readiness(shielded) if readiness(shielded)[0] == 503 else None, "it is not ready"
        )
        assert status == 503
        assert "the shield (Envoy) has not answered for" in text
        metrics = urllib.request.urlopen(f"http://{shielded.running.health_url}/metrics", timeout=DEADLINE_S).read()
        assert b"tnn_shield_up 0.0" in metrics
        assert b"tnn_supervisor_up 1.0" in metrics
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: readiness(shielded)[0] == 200, "ready again")
    assert shielded.front.pid == pid


def test_a_server_that_is_killed_is_restarted_behind_the_same_envoy(start_shielded: Start) -> None:
    shielded = start_shielded()
    pid = shielded.front.pid
    os.kill(shielded.pid, signal.SIGKILL)
    wait_for(lambda: shielded.send(READY).status == 503, "the shield answers for the server that is gone")
    wait_for(lambda: len(shielded.running.ready) == 2, "the server is back")
    assert shielded.send(with_length(JSON)).outputs == RIGHT
    assert shielded.front.pid == pid


def test_requests_that_run_are_answered_before_the_end(start_shielded: Start) -> None:
    shielded = start_shielded()
    pid = shielded.front.pid
    connection = socket.create_connection(shielded.address, timeout=DEADLINE_S)
    request = with_length(JSON)
    connection.sendall(request[:-10])
    wait_for(lambda: _running(shielded) == 1, "the request has arrived")
    shielded.running.supervisor.stop()
    wait_for(lambda: not _accepts(shielded.address), "no more connections are accepted")
    connection.sendall(request[-10:])
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    connection.close()
    assert shielded.running.finish() == 0
    assert pid is not None
    assert not psutil.pid_exists(pid)


def test_a_server_that_drains_answers_and_says_that_it_is_not_ready(start_shielded: Start) -> None:
    shielded = start_shielded()
    supervisor, gateway = shielded.running.supervisor, f"http://{shielded.running.health_url}{GATEWAY_PATH}"
    assert "connection: close" not in shielded.send(with_length(JSON)).head
    supervisor.drain_s = 2 * DEADLINE_S
    supervisor.stop(drain=True)
    wait_for(lambda: readiness(shielded)[0] == 503, "it is not ready")
    assert readiness(shielded)[1].startswith("tritonserver is stopping")
    with urllib.request.urlopen(gateway, timeout=DEADLINE_S) as answer:
        assert answer.headers["x-envoy-degraded"]
    leaving = wait_for(lambda: _leaving(shielded), "answers ask callers to connect again")
    assert leaving.outputs == RIGHT
    assert shielded.running.finish() == 0, "a second signal ends it at once"


def _leaving(shielded: Shielded) -> Answer | None:
    answer = shielded.send(with_length(JSON))
    assert answer.status == 200
    return answer if "connection: close" in answer.head else None


def test_the_drain_ends_with_its_time(start_shielded: Start) -> None:
    shielded = start_shielded()
    shielded.running.supervisor.drain_s = 0.5
    shielded.running.supervisor.stop(drain=True)
    wait_for(lambda: shielded.running.outcome, "the server has ended")
    assert shielded.running.outcome == [0]


def _running(shielded: Shielded) -> float:
    for metric in shielded.front.metrics():
        if metric.name == "tnn_shield_running_requests":
            return sum(sample.value for sample in metric.samples)
    return 0


def _accepts(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return False
    return True


def test_envoy_refuses_a_certificate_that_is_none(envoy: None, tmp_path: Path) -> None:
    for name in ("cert", "key"):
        (tmp_path / name).write_text("nonsense")
    public = listening(*free_ports(3))
    front = Shield(public, listening(*free_ports(3)), tls=Tls(tmp_path / "cert", tmp_path / "key"))
    with pytest.raises(ServerError, match="the shield \\(Envoy\\) did not start"):
        front.start(print, print)
    assert front.pid is None


def test_without_envoy_the_error_says_what_to_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    front = Shield(listening(*free_ports(3)), listening(*free_ports(3)))
    with pytest.raises(ServerError, match="tnn-serving install-server"):
        front.start(print, print)
    front.close()


def test_the_server_behind_is_on_loopback_at_other_ports() -> None:
    public = Launch(
        (
            "tritonserver",
            *(f"--{name}-{what}" for name in ("http", "grpc", "metrics") for what in ("address=0.0.0.0", "port=8")),
        ),
        {},
    )
    server = behind(public)
    for name in ("http", "grpc", "metrics"):
        endpoint = server.endpoint(name)
        assert endpoint is not None
        assert endpoint[0] == "127.0.0.1"
        assert endpoint[1] != 8
    with pytest.raises(ConfigError, match="--tls-cert"):
        behind(replace(public, command=(*public.command, "--grpc-use-ssl=true")))


def test_ctrl_c_ends_everything(installed: None, envoy: None, tmp_path: Path) -> None:
    write_model(tmp_path / "models", "relu")
    http, grpc, metrics, health = free_ports(4)
    words = ["serve", tmp_path / "models", "--shield", "always", "--http-port", http, "--grpc-port", grpc]
    words += ["--metrics-port", metrics, "--health-port", health, "--exit-timeout", 2, "--cache-dir", "none"]
    words += ["--drain-time", 10 * DEADLINE_S]  # for SIGTERM only
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command(*words), env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            wait_for(lambda: _ready(http), "the server is ready")
            children = psutil.Process(process.pid).children(recursive=True)
            assert {child.name() for child in children} >= {"envoy", "tritonserver"}
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
    assert process.returncode == 0, output.decode()
    assert not any(child.is_running() for child in children)
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def _ready(port: int) -> bool:
    try:
        return send(("127.0.0.1", port), READY).status == 200
    except OSError:
        return False


def test_an_open_host_has_the_shield_and_none_says_what_that_means(
    installed: None, envoy: None, tmp_path: Path
) -> None:
    write_model(tmp_path / "models", "relu")
    for extra, expected in (([], "envoy"), (["--shield", "none"], "tritonserver")):
        http, grpc, metrics, health = free_ports(4)
        words = ["serve", tmp_path / "models", "--host", "0.0.0.0", "--http-port", http, "--grpc-port", grpc]
        words += [
            "--metrics-port",
            metrics,
            "--health-port",
            health,
            "--exit-timeout",
            2,
            "--cache-dir",
            "none",
            *extra,
        ]
        with subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                wait_for(partial(_ready, http), "the server is ready")
                (listener,) = {
                    child.name()
                    for child in psutil.Process(process.pid).children(recursive=True)
                    for one in child.net_connections("tcp")
                    if one.status == psutil.CONN_LISTEN and one.laddr.port == http
                }
                process.send_signal(signal.SIGINT)
                output = process.communicate(timeout=DEADLINE_S)[0].decode()
            finally:
                process.kill()
        assert process.returncode == 0, output
        assert listener == expected
        assert ("there is no shield" in output) == (expected == "tritonserver")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--tls-cert", "x"], "there is no shield here"),
        (["--access-log", "x"], "there is no shield here"),
        (["--shield", "always", "--tls-cert", "x"], "both a certificate and its key"),
        (["--shield", "always", "--tls-client-ca", "x"], "both a certificate and its key"),
        (["--shield", "always", "--tls-cert", "x", "--tls-key", "x"], "cannot be read"),
        (["--shield", "always", "--grpc-use-ssl=true"], "no TLS of its own behind the shield"),
    ],
)
def test_options_that_contradict_each_other(installed: None, tmp_path: Path, arguments: list[str], error: str) -> None:
    write_model(tmp_path, "relu")
    done = run("serve", tmp_path, *arguments)
    assert done.returncode != 0
    assert error in " ".join(done.stderr.split())
