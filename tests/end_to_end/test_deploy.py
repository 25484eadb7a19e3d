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
from tnn_serving.triton.health import HEALTH_PORT
from tnn_serving.triton.process import KILL_AFTER_S

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
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


def dashboard() -> dict[str, Any]:
    return dict(json.loads((DEPLOY / "grafana" / "tnn-serving.json").read_text()))


def panel_expressions() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def test_expressions_of_the_dashboard_are_valid(tmp_path: Path) -> None:
    variables = {"$__rate_interval": "1m", "$__range": "1h", "$model": ".*"}
    rules = []
    for number, expression in enumerate(panel_expressions()):
        for name, value in variables.items():
            expression = expression.replace(name, value)
        assert "$" not in expression
        rules.append({"record": f"panel:{number}", "expr": expression})
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
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
    named = set(METRIC.findall(alerts)) | {name for text in panel_expressions() for name in METRIC.findall(text)}
    assert named <= sample_names(texts) | declared
    assert {name for name in named if name.startswith(("nv_", "tnn_supervisor"))} <= sample_names(texts)


def options(text: str) -> set[str]:
    return set(re.findall(r"--[a-z-]+(?==| |$)", text))


def test_kubernetes_probes_ask_the_supervisor() -> None:
    deployment, service, budget = yaml.safe_load_all((DEPLOY / "kubernetes" / "tnn-serving.yaml").read_text())
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["health"] == HEALTH_PORT
    for probe, path in (("readiness", "ready"), ("liveness", "live")):
        assert container[f"{probe}Probe"]["httpGet"] == {"path": f"/health/{path}", "port": "health"}
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"]
    exit_timeout_s = int(next(word for word in container["args"] if word.startswith("--exit-timeout=")).split("=")[1])
    pause_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["spec"]["terminationGracePeriodSeconds"] > exit_timeout_s + KILL_AFTER_S + pause_s
    labels = pod["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    assert budget["spec"]["selector"]["matchLabels"] == labels
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(ports)


def test_systemd_unit_is_valid(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    text = (DEPLOY / "systemd" / "tnn-serving.service").read_text()
    unit = tmp_path / "tnn-serving.service"
    unit.write_text(text.replace("/opt/tnn-serving/bin/tnn-serving", "/bin/true"))  # which exists
    done = subprocess.run([tool, "verify", unit], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_options_in_the_files_exist() -> None:
    files = [DEPLOY / "systemd" / "tnn-serving.service", DEPLOY / "kubernetes" / "tnn-serving.yaml"]
    lines = [line for file in files for line in file.read_text().splitlines() if "serve " in line or "- --" in line]
    used = {option for line in lines for option in options(line) if "pip" not in line}
    page = (DEPLOY.parent / "docs" / "guides" / "serving.md").read_text()
    assert used
    assert {option for option in used if f"`{option}`" not in page} == set()
    assert TOKEN_HEADER in (DEPLOY.parent / "docs" / "guides" / "operations.md").read_text()
