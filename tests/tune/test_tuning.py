"""Whole runs of `tune` on a real server, and runs that are interrupted."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import threading
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.end_to_end.models import write_model
from tests.program import command, run
from tests.servers import DEADLINE_S, wait_for
from tests.tune.examples import MINE, write_network
from tests.tune.test_page import Balanced
from tnn_serving.config.text import read_config
from tnn_serving.tune import write
from tnn_serving.tune.report import CandidateResult, Report


@dataclass(frozen=True)
class Done:
    """The result of a run."""

    model: Path
    found: dict[str, Any]
    html: str
    messages: str


@pytest.fixture(scope="module")
def done(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A run with all outputs, for a configuration with a comment."""
    folder = tmp_path_factory.mktemp("tuned")
    model = write_network(folder / "small", MINE)
    html = folder / "report.html"
    made = run(
        "tune", model, "--goal", "throughput", "--concurrency", "1,4", "--budget", "25s", "--json", "--report", html
    )
    assert made.returncode == 0, made.stderr
    return Done(model, json.loads(made.stdout), html.read_text(encoding="utf-8"), made.stderr)


def test_json_has_everything(done: Done) -> None:
    found = done.found
    assert set(found) == {field.name for field in fields(Report)}
    assert set(found["default"]) == {field.name for field in fields(CandidateResult)}
    assert (found["model"], found["goal"], found["concurrency"]) == ("small", "throughput", [1, 4])
    assert found["inputs"] == {"x": [1, 3, 16, 16]}
    assert found["default"]["label"] == "default"
    assert found["chosen"] in found["candidates"]
    assert found["default"] in found["candidates"]
    labels = [one["label"] for one in found["candidates"]]
    assert "default" in labels
    assert len(labels) > 1  # how many fit into the budget differs from machine to machine
    assert len(set(labels)) == len(labels)
    for one in found["candidates"]:
        assert one["problem"] is None
        assert [at["concurrency"] for at in one["points"]] == [1, 4]
        assert all(0 < at["p50_ms"] <= at["p99_ms"] for at in one["points"])
        assert all(at["requests"] >= 10 and at["inferences_per_s"] > 0 for at in one["points"])
    assert found["machine"]["versions"]["tritonserver"] == "2.51.0"
    assert found["met"]
    assert not found["interrupted"]


def test_chosen_settings_are_written_and_the_rest_is_unchanged(done: Done) -> None:
    file = done.model / "config.pbtxt"
    text = write.read(file)
    assert text.startswith(MINE)
    changed = done.found["confirmed"] and done.found["chosen"] != done.found["default"]
    assert (text != MINE) == changed
    assert file.with_name("config.pbtxt.before-tune").exists() == changed
    after = read_config(text)
    expected = done.found["chosen"]["parameters"] if changed else {}
    assert after.parameters == expected


def test_the_page_shows_default_and_chosen_and_needs_nothing_else(done: Done) -> None:
    assert re.search(r'data-mark="[^"]*chosen"', done.html)
    assert re.search(r'data-mark="default', done.html)
    assert "<script" not in done.html
    assert not re.findall(r'(?:src|href)="', done.html)
    (drawing,) = re.findall(r"<svg.*?</svg>", done.html, re.DOTALL)
    ElementTree.fromstring(drawing)
    Balanced().feed(done.html)


def test_a_model_that_cannot_be_served_is_an_error(installed: None, tmp_path: Path) -> None:
    model = write_model(tmp_path, "broken", proto=b"no proto")
    made = run("tune", model, "--budget", "10s")
    assert made.returncode == 1
    assert "it cannot be loaded" in made.stderr
    assert not (model / "config.pbtxt").exists()


def test_a_limit_that_all_candidates_exceed(installed: None, tmp_path: Path) -> None:
    model = write_network(tmp_path / "small")
    made = run("tune", model, "--p99", "0.001", "--budget", "5s")
    assert made.returncode == 1
    assert re.search(r"all candidates exceed the p99 limit of 0\.001 ms; the lowest is \d+\.\d+ ms", made.stderr)
    assert not (model / "config.pbtxt").exists()


class Terminal:
    """The command on a terminal, which shows its progress."""

    def __init__(self, *arguments: object) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command("tune", *arguments),
            stdout=subprocess.PIPE,
            stderr=slave,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )
        os.close(slave)
        self.shown = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                self.shown += os.read(self._master, 65536).decode("utf-8", "replace")
            except OSError:  # the other side is closed
                return

    def interrupt(self) -> tuple[int, str, str]:
        """Exit code, stdout, and the terminal's content."""
        servers = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGINT)
        printed, _ = self.process.communicate(timeout=DEADLINE_S)
        self._reader.join(DEADLINE_S)
        os.close(self._master)
        assert not [one for one in servers if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        return self.process.returncode, printed, self.shown


def test_ctrl_c_keeps_what_was_measured_and_leaves_no_server(installed: None, tmp_path: Path) -> None:
    model = write_network(tmp_path / "small", MINE)
    terminal = Terminal(model, "--budget", "5m", "--json")  # far more than two candidates take
    wait_for(lambda: "4: " in terminal.shown, "two candidates are measured")
    code, printed, shown = terminal.interrupt()
    assert code == 130, shown
    found = json.loads(printed)
    assert found["interrupted"]
    assert not found["confirmed"]
    assert [one["trials"] for one in found["candidates"] if one["label"] == "default"] == [1]
    assert "interrupted before" in shown
    assert "Traceback" not in shown
    assert sorted(os.listdir(model)) == ["1", "config.pbtxt"]
    assert write.read(model / "config.pbtxt") == MINE


def test_ctrl_c_while_the_server_starts(installed: None, tmp_path: Path) -> None:
    terminal = Terminal(write_network(tmp_path / "small"), "--budget", "10m")
    wait_for(lambda: "starting the server" in terminal.shown, "the command has begun")
    wait_for(lambda: psutil.Process(terminal.process.pid).children(), "a server is started")
    code, printed, shown = terminal.interrupt()
    assert (code, printed) == (130, ""), shown
    assert "Traceback" not in shown
