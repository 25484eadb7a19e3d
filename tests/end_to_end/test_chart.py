"""The Helm chart: linted and rendered by Helm's own library, and checked against the schemas of Kubernetes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pages import ROOT
from tnn_serving.triton.health import HEALTH_PORT
from tnn_serving.triton.process import KILL_AFTER_S
from tnn_serving.version import VERSION

helm = pytest.importorskip("helm_python", reason="Helm's library is not installed (pip install -e '.[test]')")
kubernetes_validate = pytest.importorskip(
    "kubernetes_validate", reason="Kubernetes' schemas are not installed (pip install -e '.[test]')"
)

CHART = ROOT / "deploy" / "helm" / "tnn-serving"
VERSIONS = [f"1.{minor}" for minor in range(31, 38)]
OF_OTHERS = ("keda.sh/", "monitoring.coreos.com/")
"""Groups of resources that no schema here describes."""

Manifest = dict[str, Any]

CHOICES: dict[str, list[dict[str, Any]]] = {
    "models": [
        {},
        {"models": {"source": "image", "image": {"reference": "registry/models:3"}}},
        {"models": {"source": "fetched", "fetched": {"envFrom": [{"secretRef": {"name": "account"}}]}}},
        {"models": {"source": "included"}},
    ],
    "cache": [
        {},
        {"cache": {"source": "persistentVolumeClaim", "persistentVolumeClaim": "shared", "preparedOnly": True}},
        {"cache": {"source": "included", "preparedOnly": True}},
    ],
    "gateway": [
        {},
        {"gateway": {"tls": {"secret": "s", "clientAuthoritySecret": "a"}, "extraArgs": ["--client-rate=0"]}},
        {"gateway": {"enabled": False}},
    ],
    "autoscaling": [{}, {"autoscaling": {"by": "cpu"}}, {"autoscaling": {"by": "queue"}}],
    "network": [
        {},
        {"networkPolicy": {"enabled": True}},
        {"networkPolicy": {"enabled": True, "callers": [{"podSelector": {}}]}},
    ],
    "monitoring": [{}, {"prometheusOperator": {"serviceMonitor": True, "rules": True, "labels": {"release": "p"}}}],
    "rest": [
        {},
        {
            "adminToken": {"value": "0123456789abcdef"},
            "image": {"tag": "7", "pullSecrets": ["registry"]},
            "extraArgs": ["--model-control-mode=explicit"],
            "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
            "podDisruptionBudget": {"enabled": False},
            "podAnnotations": {"c": "d"},
            "podLabels": {"e": "f"},
            "nodeSelector": {"g": "h"},
            "tolerations": [{"key": "k", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "high",
        },
    ],
}
"""What the values offer; every combination is rendered."""


@pytest.fixture(scope="module")
def chart() -> Any:
    return helm.Chart.load(CHART)


def render(chart: Any, values: dict[str, Any] | None = None) -> Iterator[Manifest]:
    for name, text in chart.render(values, name="tnn-serving", namespace="default").items():
        if name.endswith(".yaml"):
            yield from filter(None, yaml.safe_load_all(text))


def find(manifests: Iterator[Manifest], kind: str, name: str = "tnn-serving") -> Manifest:
    (found,) = (one for one in manifests if one["kind"] == kind and one["metadata"]["name"] == name)
    return found


def deployments() -> list[dict[str, Any]]:
    return [yaml.safe_load(file.read_text()) for file in sorted((CHART / "ci").glob("*.yaml"))]


@pytest.mark.slow
@pytest.mark.parametrize("values", [None, *deployments()])
def test_helm_finds_nothing_to_complain_of(values: dict[str, Any] | None) -> None:
    for version in VERSIONS:
        report = helm.lint(CHART, values, strict=True, kube_version=f"v{version}.0")
        assert report["errors"] == []
        assert [one["error"] for one in report["messages"]] == ["icon is recommended"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_combination_is_valid_for_all_versions_of_kubernetes(chart: Any) -> None:
    checked: set[str] = set()
    for choice in itertools.product(*CHOICES.values()):
        values = {key: value for part in choice for key, value in part.items()}
        for name, templated in chart.render(values, name="tnn-serving", namespace="default").items():
            # Most are the same in many combinations: reading them is what takes time.
            for text in set(re.split("^---$", templated, flags=re.MULTILINE)) - checked:
                checked.add(text)
                manifest = yaml.safe_load(text) if name.endswith(".yaml") else None
                if manifest is None or manifest["apiVersion"].startswith(OF_OTHERS):
                    continue
                for version in VERSIONS:
                    kubernetes_validate.validate(manifest, version, strict=True)
    assert len(checked) > 100


def test_a_field_that_does_not_exist_would_be_found(chart: Any) -> None:
    manifest = find(render(chart), "Deployment")
    manifest["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    for version in VERSIONS:
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(manifest, version, strict=True)


def test_the_manifests_in_the_repository_are_what_the_chart_renders() -> None:
    import render as deploy

    assert [path.relative_to(ROOT) for path, text in deploy.files() if path.read_text() != text] == []


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"replica": 3}, "replica"),
        ({"image": {"tag": "latest"}}, "tag"),
        ({"models": {"source": "s3"}}, "source"),
        ({"autoscaling": {"by": "memory"}}, "by"),
        ({"adminToken": {"value": "short"}}, "value"),
        ({"gateway": {"replicas": 0}}, "replicas"),
    ],
)
def test_wrong_values_are_refused(chart: Any, values: dict[str, Any], problem: str) -> None:
    with pytest.raises(helm.HelmError, match=problem):
        chart.validate_schema(values)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"models": {"persistentVolumeClaim": ""}}, "models.persistentVolumeClaim is needed"),
        ({"models": {"source": "image"}}, "models.image.reference is needed"),
        ({"cache": {"source": "persistentVolumeClaim"}}, "cache.persistentVolumeClaim is needed"),
        ({"adminToken": {"existingSecret": ""}}, "adminToken.existingSecret or adminToken.value is needed"),
    ],
)
def test_missing_values_are_named(chart: Any, values: dict[str, Any], problem: str) -> None:
    with pytest.raises(helm.HelmError, match=problem):
        list(render(chart, values))


def test_every_default_is_in_the_schema(chart: Any) -> None:
    chart.validate_schema(chart.values)

    def names(value: Any) -> set[str]:
        return set(value) | {name for one in value.values() if isinstance(one, dict) for name in names(one)}

    described = set(re.findall(r'"(\w+)"', (CHART / "values.schema.json").read_text()))
    free = {"requests", "limits", "cpu", "memory"}
    assert names(chart.values) - free <= described


def test_versions_are_those_of_the_package(chart: Any) -> None:
    assert chart.metadata["appVersion"] == chart.metadata["version"] == VERSION
    for manifest in render(chart):
        if manifest["kind"] == "Deployment":
            (container,) = manifest["spec"]["template"]["spec"]["containers"]
            assert container["image"] == f"tnn-serving:{VERSION}"


@pytest.mark.parametrize("name", ["tnn-serving", "tnn-serving-gateway"])
def test_pods_are_confined_and_have_the_time_to_end(chart: Any, name: str) -> None:
    pod = find(render(chart), "Deployment", name)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod["automountServiceAccountToken"]
    times = [int(word.partition("=")[2]) for word in container["args"] if word.startswith(("--exit-t", "--drain-t"))]
    assert len(times) == 2
    more_s = KILL_AFTER_S if name == "tnn-serving" else 0
    assert pod["terminationGracePeriodSeconds"] > sum(times) + more_s
    assert "lifecycle" not in container
    readiness = container["readinessProbe"]
    assert readiness["failureThreshold"] == 2
    # The balancers have noticed before the server stops to answer.
    drain_s = next(int(word.partition("=")[2]) for word in container["args"] if word.startswith("--drain-t"))
    assert drain_s >= readiness["failureThreshold"] * readiness["periodSeconds"]


def test_probes_ask_the_supervisor(chart: Any) -> None:
    (container,) = find(render(chart), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert {"name": "health", "containerPort": HEALTH_PORT} in container["ports"]
    for probe, path in (("readiness", "ready"), ("liveness", "live")):
        assert container[f"{probe}Probe"]["httpGet"] == {"path": f"/health/{path}", "port": "health"}


def test_annotations_scrape_both_ports_of_servers_and_that_of_the_gateway(chart: Any) -> None:
    ports = {}
    for one in render(chart):
        if one["kind"] == "Service":
            ports[one["metadata"]["name"]] = one["metadata"]["annotations"]["prometheus.io/port"]
            listed = {str(port["port"]) for port in one["spec"]["ports"]}
            assert one["metadata"]["annotations"]["prometheus.io/port"] in listed
    assert ports == {
        "tnn-serving": "8002",
        "tnn-serving-servers": "8002",
        "tnn-serving-supervisors": str(HEALTH_PORT),
    }


@pytest.mark.parametrize("values", [None, *deployments()])
def test_what_is_selected_exists(chart: Any, values: dict[str, Any] | None) -> None:
    manifests = list(render(chart, values))
    pods = [one["spec"]["template"]["metadata"]["labels"] for one in manifests if one["kind"] == "Deployment"]
    services = [one["metadata"]["labels"] for one in manifests if one["kind"] == "Service"]
    for one in manifests:
        spec = one.get("spec", {})
        if one["kind"] in ("Deployment", "PodDisruptionBudget"):
            wanted, among = spec["selector"]["matchLabels"], pods
        elif one["kind"] == "Service":
            wanted, among = spec["selector"], pods
        elif one["kind"] == "NetworkPolicy":
            wanted, among = spec["podSelector"]["matchLabels"], pods
        elif one["kind"] == "ServiceMonitor":
            wanted, among = spec["selector"]["matchLabels"], services
        else:
            continue
        assert sum(wanted.items() <= labels.items() for labels in among) == 1, one["metadata"]


def test_the_gateway_finds_the_servers_by_the_headless_service(chart: Any) -> None:
    (container,) = find(render(chart), "Deployment", "tnn-serving-gateway")["spec"]["template"]["spec"]["containers"]
    service = find(render(chart), "Service", container["command"][-1])
    assert service["spec"]["clusterIP"] == "None"
    assert {port["port"] for port in service["spec"]["ports"]} == {8000, 8001, 8002, HEALTH_PORT}


def test_alerts_are_those_of_the_repository(chart: Any) -> None:
    rules = find(render(chart, {"prometheusOperator": {"rules": True}}), "PrometheusRule")["spec"]
    assert rules == yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())


def test_the_scaler_asks_for_metrics_that_exist(chart: Any) -> None:
    scaler = find(render(chart, {"autoscaling": {"by": "queue", "queueMs": 5.5}}), "ScaledObject")["spec"]
    (trigger,) = scaler["triggers"]
    assert trigger["metadata"]["threshold"] == "5.5"
    assert set(re.findall(r"nv_\w+", trigger["metadata"]["query"])) == {
        "nv_inference_queue_duration_us",
        "nv_inference_request_success",
    }
    assert "replicas" not in find(render(chart, {"autoscaling": {"by": "queue"}}), "Deployment")["spec"]


def test_notes_say_what_is_missing(chart: Any) -> None:
    def notes(values: dict[str, Any] | None) -> str:
        return str(chart.render(values, name="tnn-serving", namespace="models")["tnn-serving/templates/NOTES.txt"])

    assert "create secret generic tnn-serving-admin" in notes(None)
    assert "create secret" not in notes({"adminToken": {"value": "0123456789abcdef"}})
    assert "stay at one" in notes({"gateway": {"enabled": False}})
    assert "all cores of its node" in notes({"resources": {"limits": {"cpu": None}}})
    assert "tnn-serving prepare" in notes({"autoscaling": {"by": "cpu"}})


def test_options_of_the_containers_exist(chart: Any) -> None:
    reference = (ROOT / "docs" / "reference" / "cli.md").read_text()
    for values in (None, *deployments()):
        for one in render(chart, values):
            if one["kind"] == "Deployment":
                (container,) = one["spec"]["template"]["spec"]["containers"]
                for word in container["args"]:
                    assert f"`{word.partition('=')[0]}" in reference or word.partition("=")[0] in reference, word


def test_files_are_not_repeated() -> None:
    assert Path(CHART / "files" / "alerts.yml").is_symlink()
