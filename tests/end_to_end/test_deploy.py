"""The files under deploy/: the real promtool accepts them, and what they name is what the servers show."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http
import yaml

from tests.servers import Running, ask
from tnn_serving.shield.metrics import metrics as shield_metrics
from tnn_serving.triton.access import TOKEN_HEADER
from tnn_serving.triton.backend.metrics import FAMILIES
from tnn_serving.triton.process import KILL_AFTER_S

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DASHBOARD = DEPLOY / "grafana" / "tnn-serving.json"
METRIC = re.compile(r"\b(?:nv|tnn)_\w+")


def promtool(*arguments: object) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed (Debian, Ubuntu: apt install prometheus)")
    done = subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_when_they_should() -> None:
    promtool("check", "rules", PROMETHEUS / "alerts.yml")
    promtool("test", "rules", PROMETHEUS / "alerts_test.yml")


def test_every_alert_is_tested() -> None:
    rules = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == alerts


def test_scrape_configuration_is_valid() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


DASHBOARDS = pytest.mark.parametrize(
    "dashboard", sorted((DEPLOY / "grafana").glob("*.json")), ids=lambda path: path.stem
)
UNITS = pytest.mark.parametrize("unit", sorted((DEPLOY / "systemd").glob("*.service")), ids=lambda path: path.stem)


def panels(dashboard: Path) -> list[dict[str, Any]]:
    return list(json.loads(dashboard.read_text())["panels"])


def panel_expressions(dashboard: Path) -> Iterator[str]:
    for panel in panels(dashboard):
        yield from (target["expr"] for target in panel["targets"])


@DASHBOARDS
def test_expressions_of_the_dashboard_are_valid(tmp_path: Path, dashboard: Path) -> None:
    variables = {"$__rate_interval": "1m", "$__range": "1h", "$model": ".*"}
    rules = []
    for number, expression in enumerate(panel_expressions(dashboard)):
        for name, value in variables.items():
            expression = expression.replace(name, value)
        assert "$" not in expression
        rules.append({"record": f"panel:{number}", "expr": expression})
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)


@DASHBOARDS
def test_panels_do_not_overlap(dashboard: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels(dashboard):
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def sample_names(texts: Sequence[str]) -> set[str]:
    return {name for text in texts for name in re.findall(r"^\w+", text, re.MULTILINE)}


def test_metrics_that_are_named_exist(server: Running) -> None:
    """Alerts and dashboard against what a real server and its supervisor show. Metrics of things that this server has
    not done yet (pictures, shape caches) are looked up among those that the backend declares."""
    with server.http() as client:
        ask((tritonclient.http, client), "relu", np.ones((1, 3, 8, 8), np.float32))
    metrics_url = server.supervisor.launch.url_of("metrics")
    texts = []
    for url in (metrics_url, f"http://{server.health_url}"):
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
            texts.append(answer.read().decode())
    declared = {family.name for family in FAMILIES}
    declared |= {name + end for name in declared for end in ("_sum", "_count", "_bucket")}
    shield = shield_metrics({"server.memory_allocated": 1}, up=True, restarts=0)
    declared |= {one.name + "_total" * (one.type == "counter") for one in shield}
    alerts = (PROMETHEUS / "alerts.yml").read_text()
    named = set(METRIC.findall(alerts)) | {
        name for text in panel_expressions(DASHBOARD) for name in METRIC.findall(text)
    }
    assert named <= sample_names(texts) | declared
    assert {name for name in named if name.startswith(("nv_", "tnn_supervisor"))} <= sample_names(texts)


def options(text: str) -> set[str]:
    return set(re.findall(r"--[a-z-]+(?==| |$)", text))


def systemd_analyze(*words: object) -> subprocess.CompletedProcess[str]:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run([tool, *map(str, words)], capture_output=True, text=True, timeout=60, check=False)


@UNITS
def test_systemd_unit_is_valid(tmp_path: Path, unit: Path) -> None:
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/tnn-serving/bin/tnn-serving", "/bin/true"))  # which exists
    done = systemd_analyze("verify", copy)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@UNITS
def test_systemd_unit_is_exposed_little(unit: Path) -> None:
    """At most 2.0; the threshold is in tenths."""
    if "--offline" not in systemd_analyze("--help").stdout:
        pytest.skip("this systemd-analyze judges no files")
    done = systemd_analyze("security", "--offline=true", "--no-pager", "--threshold=20", unit)
    assert done.returncode == 0, done.stdout


@UNITS
def test_systemd_gives_the_time_to_end(unit: Path) -> None:
    text = unit.read_text()
    (stop_s,) = map(int, re.findall(r"TimeoutStopSec=(\d+)s", text))
    # Those of the command line, and the default of --exit-timeout.
    (drain_s,) = map(int, re.findall(r"--drain-time (\d+)", text))
    assert stop_s > 10 + KILL_AFTER_S + drain_s


def test_options_in_the_files_exist() -> None:
    lines = (DEPLOY / "systemd" / "tnn-serving.service").read_text().splitlines()
    used = {option for line in lines if "serve " in line for option in options(line) if "pip" not in line}
    page = (DEPLOY.parent / "docs" / "guides" / "serving.md").read_text()
    assert used
    assert {option for option in used if f"`{option}`" not in page} == set()
    assert TOKEN_HEADER in (DEPLOY.parent / "docs" / "guides" / "operations.md").read_text()
