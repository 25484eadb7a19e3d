"""The tune command with a real server, a small network and real files."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import psutil
import pytest

import tnn_serving as ts
from tests.end_to_end.models import write_model
from tests.networks import network
from tests.program import command, run
from tests.servers import wait_for
from tests.tune.test_search import point
from tnn_serving.config.text import read_config
from tnn_serving.errors import ConfigError
from tnn_serving.tune import Goal, ModelPaths, TrialLoad, write
from tnn_serving.tune.page import tuning_page
from tnn_serving.tune.plot import PlotAxis, latency_plot
from tnn_serving.tune.report import CandidateResult, Machine, Report
from tnn_serving.tune.space import DEFAULT, Candidate
from tnn_serving.tune.trials import TrialServer

LAYERS = [
    "Convolution c1 1 1 x a 1 3 8 3 3 1 1 1 1 1 -1 1 1 1",
    "Convolution c2 1 1 a y 1 8 4 3 3 1 1 1 1 1 -1 1 1 1",
]
MINE = "# mine\nmax_batch_size: 8\ndynamic_batching { }\n"


def write_network(folder: Path, config: str | None = None) -> Path:
    """A model folder with two convolutions in it."""
    (folder / "1").mkdir(parents=True)
    graph = network({"x": (1, 3, 16, 16)}, LAYERS, ["y"])
    ts.write_model(graph, folder / "1" / "proto.tnnproto", folder / "1" / "model.tnnmodel")
    if config is not None:
        (folder / "config.pbtxt").write_text(config)
    return folder


# ---- one whole run ----


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
    assert {"default", "openvino", "onnxruntime"} <= set(labels)
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


class Balanced(HTMLParser):
    """Fails on a tag that is closed without being open, or is still open at the end of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "html":
            assert not self.open


# ---- candidates on a server ----


def test_candidates_are_served_with_the_configuration_to_write(installed: None, tmp_path: Path) -> None:
    mine = 'parameters { key: "shape_cache_size" value { string_value: "4" } }\n'
    model = write_network(tmp_path / "small", f'name: "small"\n{MINE}{mine}')
    text = write.read(model / "config.pbtxt")
    candidate = Candidate(engine="onnxruntime", hint="THROUGHPUT", rows=2, instances=2)
    with TrialServer(ModelPaths.of(model), text, TrialLoad((2,))) as trials:
        trials.start()
        assert trials.inputs() == {"x": [1, 3, 16, 16]}
        trial = trials.measure(candidate, 0.2)
        assert trial.problem is None
        assert trial.error <= 1e-4
        assert [at.concurrency for at in trial.points] == [2]
        config = trials.config(candidate)
        assert config.parameters == {**candidate.parameters, "shape_cache_size": "4"}
        assert [group.count for group in config.instance_group] == [2]
        assert config.max_batch_size == 8

        refused = trials.measure(Candidate(engine="openvinno"), 0.2)
        assert refused.points == ()
        assert "openvinno" in str(refused.problem)

        trials.drop(candidate)
        pid = trials.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        psutil.Process(pid).wait(10)
        died = trials.measure(candidate, 0.2)
        assert "the server died" in str(died.problem)
        assert trials.measure(DEFAULT, 0.2).points
        after = trials.pid
    assert after not in (None, pid)
    assert not psutil.pid_exists(int(after or 0))


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


# ---- Ctrl-C ----


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
        printed, _ = self.process.communicate(timeout=60)
        self._reader.join(10)
        os.close(self._master)
        assert not [one for one in servers if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        return self.process.returncode, printed, self.shown


def test_ctrl_c_keeps_what_was_measured_and_leaves_no_server(installed: None, tmp_path: Path) -> None:
    model = write_network(tmp_path / "small", MINE)
    terminal = Terminal(model, "--budget", "1m", "--json")
    wait_for(lambda: "4: " in terminal.shown, "two candidates are measured", 90)
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
    wait_for(lambda: "starting the server" in terminal.shown, "the command has begun", 60)
    wait_for(lambda: psutil.Process(terminal.process.pid).children(), "a server is started", 30)
    code, printed, shown = terminal.interrupt()
    assert (code, printed) == (130, ""), shown
    assert "Traceback" not in shown


# ---- usage ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "soon"], "expected at least 5s"),
        (["--budget", "1s"], "expected at least 5s"),
        (["--report", "report.pdf"], ".html or .svg"),
        (["--concurrency", "1,x"], "expected positive numbers"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: Sequence[str], message: str) -> None:
    made = run("tune", write_network(tmp_path / "small"), *arguments)
    assert made.returncode == 2
    assert message in re.sub(r"[\s│]+", " ", made.stderr)


def test_model_paths(tmp_path: Path) -> None:
    model = write_network(tmp_path / "small")
    assert ModelPaths.of(model) == ModelPaths(model, model / "config.pbtxt")
    assert ModelPaths.of(model / "1") == ModelPaths(model / "1", model / "config.pbtxt")
    bare = (model / "1").rename(tmp_path / "bare")
    assert ModelPaths.of(bare) == ModelPaths(bare, None)
    with pytest.raises(ConfigError, match="no model at"):
        ModelPaths.of(tmp_path / "nowhere")


# ---- the report ----


def result(
    label: str, *points: tuple[int, float], engine: str = "openvino", problem: str | None = None
) -> CandidateResult:
    made = tuple(point(level, ms) for level, ms in points)
    return CandidateResult(label, {"engine": engine} if engine else {}, None, made, 0.0, problem, 1)


def report(
    default: CandidateResult, chosen: CandidateResult, *others: CandidateResult, p99_ms: float | None = None
) -> Report:
    return Report(
        model="<face>",
        goal="throughput",
        p99_ms=p99_ms,
        budget_s=60,
        elapsed_s=59,
        date="2026-01-01T00:00:00Z",
        machine=Machine("cpu", 2, "all", {}),
        inputs={"x": [1, 3]},
        batch=1,
        concurrency=(1, 4),
        kept={},
        default=default,
        chosen=chosen,
        candidates=[chosen, default, *others],
        gain=1.5,
        rounds=4,
        confirmed=True,
        met=True,
        interrupted=False,
    )


BEFORE = result("default", (1, 4.0), (4, 12.0), engine="")
AFTER = result("openvino, 2 streams", (1, 3.0), (4, 6.0))


def circles(drawing: str) -> Iterator[tuple[float, float]]:
    """Centres of the rings around the chosen candidate's points."""
    for x, y in re.findall(r'<g data-mark="chosen"><circle cx="([\d.]+)" cy="([\d.]+)"', drawing):
        yield float(x), float(y)


def test_the_chosen_point_is_marked() -> None:
    slow = result("onnxruntime", (1, 9.0), (4, 30.0), engine="onnxruntime")
    drawing = latency_plot(report(BEFORE, AFTER, slow))
    root = ElementTree.fromstring(drawing)
    titles = {element.text for element in root.iter("{http://www.w3.org/2000/svg}title")}
    assert "openvino, 2 streams; concurrency 4: 666.7/s, p50 6.00 ms, p99 12.00 ms" in titles
    rings = list(circles(drawing))
    assert len(rings) == 2
    for x, y in rings:  # in both panels the ring is around the candidate's own point
        assert f'<circle cx="{x}" cy="{y}" r="4.5"' in drawing
    assert drawing.count('data-mark="default"') == 2


def test_one_mark_for_both_if_nothing_is_better() -> None:
    drawing = latency_plot(report(BEFORE, BEFORE, AFTER, p99_ms=50))
    assert drawing.count('data-mark="default, chosen"') == 2
    assert drawing.count("limit 50 ms") == 1


def test_a_page_escapes_text_and_shows_problems() -> None:
    failed = replace(result("onnxruntime"), problem="no <kernel> & nothing else")
    html = tuning_page(report(BEFORE, AFTER, failed), 'parameters [ { key: "engine" } ]')
    Balanced().feed(html)
    assert "<h1>&lt;face&gt;</h1>" in html
    assert "no &lt;kernel&gt; &amp; nothing else" in html
    assert "<strong>openvino, 2 streams</strong>" in html
    assert "parameters [ { key: &quot;engine&quot; } ]" in html


@pytest.mark.parametrize("values", [[1.0], [0.2, 0.9], [3.0, 700.0], [120.0, 155.0], [0.004, 0.9]])
def test_an_axis_has_room_and_round_numbers(values: list[float]) -> None:
    axis = PlotAxis.of(values, 10, 110)
    assert all(10 <= axis(value) <= 110 for value in values)
    assert axis(min(values)) <= axis(max(values))
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 12
    assert all(9.9 <= axis(tick) <= 110 for tick in ticks if tick)
    assert all(f"{tick:.6e}"[0] in "0123456789" for tick in ticks)


def test_goals_as_text() -> None:
    assert str(Goal("latency")) == "latency"
    assert str(Goal("throughput", 50)) == "throughput, p99 at most 50 ms"
