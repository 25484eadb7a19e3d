"""`tnn-serving gateway`: the configuration that it prints, and the program that it runs."""

from __future__ import annotations

import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.pages import ROOT
from tests.program import command, run
from tests.scale.machines import free_ports
from tests.scale.recorders import recorders
from tests.servers import DEADLINE_S, wait_for

EXAMPLE = ROOT / "deploy" / "envoy" / "gateway.yaml"
MACHINES = ("10.0.0.1", "10.0.0.2", "10.0.0.3")


def accepts(envoy: Path, file: Path) -> None:
    done = subprocess.run(
        [envoy, "--mode", "validate", "--log-level", "warn", "-c", file],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_the_example_is_what_the_command_prints(envoy: Path) -> None:
    done = run("gateway", "render", *MACHINES)
    assert done.returncode == 0
    assert done.stdout == EXAMPLE.read_text(), "tnn-serving gateway render 10.0.0.1 10.0.0.2 10.0.0.3 > " + str(EXAMPLE)
    prose = [line for line in done.stdout.splitlines() if "regex" not in line]
    assert max(map(len, prose)) < 150, "it is to be read"
    accepts(envoy, EXAMPLE)


def test_names_are_looked_up_all_the_time(envoy: Path, tmp_path: Path) -> None:
    done = run("gateway", "render", "servers.example.com", "--server-http-port", 9000, "--repeat-after", 0)
    file = tmp_path / "envoy.yaml"
    file.write_text(done.stdout)
    accepts(envoy, file)
    clusters = yaml.safe_load(done.stdout)["static_resources"]["clusters"]
    assert {one["name"] for one in clusters if "cluster_type" in one} == {one["name"] for one in clusters} - {"admin"}
    assert "hedge" not in done.stdout


@pytest.mark.parametrize("machine", ["10.0.0.1:8000", "http://a", "a b", ""])
def test_a_machine_is_a_name_or_an_address(machine: str) -> None:
    done = run("gateway", "render", machine)
    assert done.returncode == 1
    assert "a machine is the name or the address of a server" in done.stderr


def status(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=DEADLINE_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_runs_until_it_is_stopped(envoy: Path, number: signal.Signals) -> None:
    http, grpc, metrics = free_ports(3)
    with recorders() as (servers, _):
        words = ["gateway", "run", *servers.hosts, "--http-port", http, "--grpc-port", grpc, "--metrics-port", metrics]
        words += ["--server-http-port", servers.http_port, "--server-grpc-port", servers.grpc_port]
        words += ["--server-health-port", servers.health_port]
        words += ["--drain-time", 4 if number == signal.SIGTERM else 10 * DEADLINE_S]
        with subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            try:
                wait_for(lambda: status(metrics, "/health/ready") == 200, "the gateway is ready")
                assert status(http, "/v2/health/ready") == 200
                process.send_signal(number)
                if number == signal.SIGTERM:
                    wait_for(lambda: status(metrics, "/health/ready") == 503, "callers are sent away")
                    assert status(metrics, "/health/live") == 200
                    assert status(http, "/v2/health/ready") == 200
                output = process.communicate(timeout=DEADLINE_S)[0].decode()
            finally:
                process.kill()
        assert process.returncode == 0, output
        assert f"servers: {', '.join(servers.hosts)}" in output
