"""A short soak of the real server, from the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.request
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.end_to_end.models import write_model
from tests.program import command
from tests.servers import wait_for

KEYS = {
    "seconds",
    "requests",
    "answered",
    "refused",
    "cancelled",
    "shared",
    "reloads",
    "failures",
    "shapes",
    "times_s",
    "memory_mb",
    "anonymous_mb",
    "growth",
    "allowed_mb_per_hour",
    "verdict",
    "interrupted",
}


RUN_S = 900.0
"""How long a whole run may take: it tries hundreds of shapes, and reloads models meanwhile."""


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The program; it is killed at the end if it still runs."""
    words = command("soak", "--clients", "2", *arguments)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def answers(process: subprocess.Popen[str]) -> int:
    """How many requests the program's server has answered."""
    assert process.poll() is None
    for child in psutil.Process(process.pid).children():
        flags: list[str] = []
        with suppress(psutil.NoSuchProcess):  # a process before the server, which has ended
            flags = child.cmdline()
        for port in [flag.partition("=")[2] for flag in flags if flag.startswith("--http-port=")]:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/stats") as answer:
                stats = json.loads(answer.read())["model_stats"]
                return sum(int(model["inference_stats"]["success"]["count"]) for model in stats)
    return 0


@pytest.mark.timeout(RUN_S)
def test_generated_models(installed: None, tmp_path: Path) -> None:
    plot = tmp_path / "soak.svg"
    with started("--requests", "300", "--json", "--report", str(plot), "--allow", "1e9") as process:
        output, talk = process.communicate(timeout=RUN_S)
    assert process.returncode == 0, output + talk
    found = json.loads(output)
    assert set(found) == KEYS
    assert found["failures"] == {}
    assert found["requests"] >= 300
    assert found["requests"] == found["answered"] + found["refused"] + found["cancelled"]
    assert found["answered"] > 100
    assert found["refused"] > 0
    assert sum(found["shapes"].values()) > 100
    assert len(found["times_s"]) == len(found["memory_mb"])
    assert min(found["memory_mb"]) > 20
    assert len(found["anonymous_mb"]) == len(found["memory_mb"])
    assert all(0 < part < whole for part, whole in zip(found["anonymous_mb"], found["memory_mb"], strict=True))
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")


@pytest.mark.timeout(RUN_S)
def test_an_interrupted_soak_reports_what_it_has(installed: None, tmp_path: Path) -> None:
    write_model(tmp_path / "models", "relu")
    page = tmp_path / "soak.html"
    seconds = 10 * RUN_S  # it is interrupted long before
    with started("--models", str(tmp_path / "models"), "--seconds", str(seconds), "--report", str(page)) as process:
        wait_for(lambda: answers(process) > 500, "load is on", RUN_S)  # more than are sent to find shapes
        process.send_signal(signal.SIGINT)
        output, talk = process.communicate(timeout=RUN_S)
    assert process.returncode == 130, output + talk
    assert "requests" in output
    assert "<svg" in page.read_text()


@pytest.mark.slow
def test_a_report_of_another_kind_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with started("--report", str(tmp_path / "soak.pdf")) as process:
        _, talk = process.communicate(timeout=RUN_S)
    assert process.returncode == 2
    assert ".svg" in talk
