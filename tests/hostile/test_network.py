"""Nothing leaves the machine: no program of ours looks up a name or connects on its own account.

Each command runs in a network namespace where the only name server is a recorder.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tnn_serving as ts
from tests.end_to_end.models import write_model
from tests.hostile.serve_once import serve_once
from tests.networks import CONVOLUTION, network

pytestmark = pytest.mark.slow

RECORDER = """
import fcntl, os, socket, struct, subprocess, sys, threading

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as interface:  # brings up the loopback interface
    fcntl.ioctl(interface, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS, IFF_UP | IFF_RUNNING
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))

def record():
    while True:
        packet, caller = server.recvfrom(4096)
        name, at = [], 12
        while packet[at]:
            name.append(packet[at + 1 : at + 1 + packet[at]].decode())
            at += packet[at] + 1
        print("question:", ".".join(name), flush=True)
        server.sendto(packet[:2] + b"\\x81\\x83" + packet[4:], caller)  # no such name

threading.Thread(target=record, daemon=True).start()
done = subprocess.run(sys.argv[1:], stdout=sys.stderr)
print("ended:", done.returncode, flush=True)
"""

LOAD = """
import sys, numpy as np, tnn_serving as ts
for engine in ("openvino", "onnxruntime"):
    ts.load(sys.argv[1], engine).run({"x": np.zeros((1, 3, 8, 8), np.float32)})
"""


@pytest.fixture(scope="module")
def isolated(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs another one with the recorder as its only name server."""
    folder = tmp_path_factory.mktemp("network")
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    (folder / "recorder.py").write_text(RECORDER)
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare (util-linux) is not installed")
    script = f'mount --bind {folder}/resolv.conf /etc/resolv.conf && exec {sys.executable} {folder}/recorder.py "$@"'
    command = [unshare, "--user", "--map-root-user", "--net", "--mount", "sh", "-c", script, "sh"]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, timeout=60)
    if tried.returncode:
        pytest.skip(f"namespaces are not allowed here: {tried.stderr.strip()}")
    return command


def questions(isolated: list[str], *command: str) -> list[str]:
    done = subprocess.run([*isolated, *command], capture_output=True, text=True, timeout=240)
    assert "ended: 0" in done.stdout, done.stderr[-2000:]
    return [line for line in done.stdout.splitlines() if line.startswith("question:")]


def test_the_recorder_hears_questions(isolated: list[str]) -> None:
    look_up = "import socket\ntry: socket.getaddrinfo('some.example', 80)\nexcept OSError: pass"
    assert "question: some.example" in questions(isolated, sys.executable, "-c", look_up)


def test_loading_and_running_on_both_engines_asks_for_no_name(isolated: list[str], tmp_path: Path) -> None:
    graph = network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"])
    ts.write_model(graph, tmp_path / "m.tnnproto", tmp_path / "m.tnnmodel")
    assert questions(isolated, sys.executable, "-c", LOAD, str(tmp_path)) == []


@pytest.mark.parametrize("command", [["--version"], ["check", "REPOSITORY"], ["inspect", "REPOSITORY/net"]])
def test_commands_ask_for_no_name(isolated: list[str], tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "net" / "1").mkdir(parents=True)
    graph = network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"])
    ts.write_model(graph, tmp_path / "net" / "1" / "m.tnnproto", tmp_path / "net" / "1" / "m.tnnmodel")
    program = Path(sys.executable).with_name("tnn-serving")
    arguments = [part.replace("REPOSITORY", str(tmp_path)) for part in command]
    assert questions(isolated, str(program), *arguments) == []


def test_a_server_that_starts_answers_and_stops_asks_for_no_name(
    installed: None, isolated: list[str], tmp_path: Path
) -> None:
    write_model(tmp_path / "models", "relu")
    assert questions(isolated, *serve_once(tmp_path / "models")) == []


@pytest.mark.parametrize("module", ["tnn_serving", "tnn_serving.model", "tnn_serving.cli.app", "tnn_serving.check"])
def test_imports_ask_for_no_name(isolated: list[str], module: str) -> None:
    assert questions(isolated, sys.executable, "-c", f"import {module}, time; time.sleep(1)") == []
