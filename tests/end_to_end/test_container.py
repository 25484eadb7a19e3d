"""The container file: what can be held against the real thing without a container engine.

With ``TNN_SERVING_BUILD_IMAGE=1``, as root and with debootstrap, the image is built as trees, and run.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Running, free_ports, wait_for
from tests.end_to_end.image import build, instructions
from tests.end_to_end.models import write_model
from tnn_serving.triton.health_port import DEFAULT_PORT
from tnn_serving.triton.launch import WHEEL_GLIBC

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "Containerfile"


def of(word: str) -> list[str]:
    return [rest for found, rest in instructions(FILE) if found == word]


def test_the_image_is_the_last_of_two_stages_and_has_no_root() -> None:
    words = [word for word, _ in instructions(FILE)]
    last = len(words) - 1 - words[::-1].index("FROM")
    assert words.count("FROM") == 2
    (user,) = of("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert words.index("USER") > max(k for k, word in enumerate(words) if word == "RUN") > last
    assert [rest for word, rest in instructions(FILE)[last:] if word == "COPY"] == [
        "--from=build /opt/tnn-serving /opt/tnn-serving"
    ]
    assert "bookworm" in of("FROM")[1]  # glibc 2.36
    assert WHEEL_GLIBC <= (2, 36)


def test_what_is_copied_is_what_the_package_is_built_from() -> None:
    assert set(kept()) == {"pyproject.toml", "hatch_build.py", "LICENSE", "README.md", "src"}
    assert all((ROOT / name).exists() for name in kept())


def kept() -> list[str]:
    ignored = (ROOT / ".containerignore").read_text().splitlines()
    return [line[1:] for line in ignored if line.startswith("!")]


def health_check(port: int) -> int:
    (check,) = of("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert f"127.0.0.1:{DEFAULT_PORT}/health/ready" in command[-1]
    command[-1] = command[-1].replace(f":{DEFAULT_PORT}/", f":{port}/")
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode


def test_health_check_tells_ready_from_unready(
    server: Running, start_server: Callable[..., Running], tmp_path: Path
) -> None:
    write_model(tmp_path, "relu")
    healthy = start_server([tmp_path])
    assert health_check(port_of(healthy)) == 0
    assert health_check(port_of(server)) == 1  # one of its models can't be loaded
    (free,) = free_ports(1)
    assert health_check(free) == 1


def port_of(running: Running) -> int:
    return int(running.health_url.rpartition(":")[2])


@pytest.mark.parametrize("words", ["ENTRYPOINT", "CMD"])
def test_options_exist(words: str) -> None:
    (text,) = of(words)
    page = (ROOT / "docs" / "serving.md").read_text()
    for option in (word for word in json.loads(text) if word.startswith("--")):
        assert f"`{option.partition('=')[0]}`" in page


READ_ONLY = """
mount --bind $ROOT $ROOT; mount -o remount,bind,ro $ROOT
mount -t tmpfs tmpfs $ROOT/tmp; mount -t proc proc $ROOT/proc
"""
LOOPBACK = "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sH14x', b'lo', 0x41))"
"""Switches a new network namespace's lo on (SIOCSIFFLAGS with IFF_UP and IFF_RUNNING)."""

ASK = """
import os, numpy, tritonclient.http as http
assert os.getuid() == 10001
client = http.InferenceServerClient("127.0.0.1:8000")
x = http.InferInput("x", [1, 1, 1, 3], "FP32")
x.set_data_from_numpy(numpy.array([-1, 0, 2], numpy.float32).reshape(1, 1, 1, 3))
assert client.infer("relu", [x]).as_numpy("y").ravel().tolist() == [0, 0, 2]
try:
    client.load_model("relu")
except http.InferenceServerException as error:
    assert "tnn-admin-token" in str(error)
else:
    raise AssertionError("anybody can load models")
"""


@pytest.mark.skipif(
    os.environ.get("TNN_SERVING_BUILD_IMAGE") != "1",
    reason="takes minutes and 3 GB: set TNN_SERVING_BUILD_IMAGE=1, as root and with debootstrap installed",
)
@pytest.mark.timeout(3600)
def test_the_image_is_built_and_serves(tmp_path: Path) -> None:
    """With a read-only root and a network of its own, as an engine would run it."""
    image = build(FILE, ROOT, kept(), tmp_path)
    write_model(image.root / "models", "relu")
    (entry,), (arguments,), (check,) = of("ENTRYPOINT"), of("CMD"), of("HEALTHCHECK")
    serve = image.command(*json.loads(entry), *json.loads(arguments), before=READ_ONLY)
    inside = f"{shlex.join([sys.executable, '-c', LOOPBACK])}; exec {shlex.join(serve)}"
    with (tmp_path / "serve.log").open("wb") as log:
        server = subprocess.Popen(["unshare", "--net", "sh", "-ec", inside], stdout=log, stderr=subprocess.STDOUT)
    try:
        join = ["nsenter", f"--net=/proc/{server.pid}/ns/net"]

        def runs(*words: str) -> bool:
            done = subprocess.run([*join, *image.command(*words)], capture_output=True, timeout=60, check=False)
            return done.returncode == 0

        wait_for(lambda: runs(*json.loads(check.partition("CMD ")[2])), "the health check succeeds", 120)
        assert runs("python3", "-c", ASK)
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0, (tmp_path / "serve.log").read_text()
    finally:
        server.kill()
        server.wait()
