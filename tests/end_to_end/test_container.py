"""The container file: what can be held against the real thing without a container engine."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.image import instructions
from tests.end_to_end.models import write_model
from tests.servers import Running
from tnn_serving.triton.background_server import free_ports
from tnn_serving.triton.health import HEALTH_PORT
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
    assert set(kept()) == {"pyproject.toml", "hatch_build.py", "LICENSE", "README.md", "constraints.txt", "src"}
    assert all((ROOT / name).exists() for name in kept())


def kept() -> list[str]:
    ignored = (ROOT / ".containerignore").read_text().splitlines()
    return [line[1:] for line in ignored if line.startswith("!")]


def health_check(port: int) -> int:
    (check,) = of("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert f"127.0.0.1:{HEALTH_PORT}/health/ready" in command[-1]
    command[-1] = command[-1].replace(f":{HEALTH_PORT}/", f":{port}/")
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
    page = (ROOT / "docs" / "guides" / "serving.md").read_text()
    for option in (word for word in json.loads(text) if word.startswith("--")):
        assert f"`{option.partition('=')[0]}`" in page
