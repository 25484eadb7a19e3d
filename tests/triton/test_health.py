"""The health of models, without a server."""

from __future__ import annotations

import math

import pytest

from tnn_serving.triton.health import (
    MAX_ENGINE_ERRORS,
    HealthLimits,
    ServerMetrics,
    VersionHealth,
    VersionMetrics,
    missing_models,
    version_health,
)
from tnn_serving.triton.probe import parse_metrics

LIMITS = HealthLimits(stall_report_s=3, hang_timeout_s=60)


def version(
    state: str = "READY", reason: str = "", *, name: str = "m", number: str = "1", **values: float
) -> VersionHealth:
    return version_health(name, number, state, reason, VersionMetrics(**values), LIMITS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("usual_s", "report_s", "restart_s"), [(0, 3, 60), (0.1, 3, 60), (1, 20, 60), (2, 40, 80), (10, 200, 400)]
)
def test_limits_depend_on_the_usual_time_of_a_model(usual_s: float, report_s: float, restart_s: float) -> None:
    assert LIMITS.report_after_s(usual_s) == report_s
    assert LIMITS.restart_after_s(usual_s) == restart_s


def test_restarts_can_be_disabled() -> None:
    assert HealthLimits(hang_timeout_s=0).restart_after_s(1) == math.inf


@pytest.mark.parametrize(
    ("values", "ready"),
    [
        ({}, True),
        ({"oldest_execution_s": 2.9}, True),
        ({"oldest_execution_s": 3.1}, False),
        ({"oldest_execution_s": 3.1, "usual_execution_s": 0.2}, True),
        ({"oldest_execution_s": 4.1, "usual_execution_s": 0.2}, False),
        ({"engine_errors": MAX_ENGINE_ERRORS - 1}, True),
        ({"engine_errors": MAX_ENGINE_ERRORS}, False),
    ],
)
def test_a_version_is_judged_by_its_executions(values: dict[str, float], ready: bool) -> None:
    one = version(**values)
    assert one.ready is ready
    assert bool(one.reason) is not ready


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        (VersionMetrics(in_python=True), "it is frozen"),
        (VersionMetrics(in_python=True, engine_errors=MAX_ENGINE_ERRORS), "it is frozen"),
        (VersionMetrics(in_python=True, oldest_execution_s=4), "an execution has been running for 4.0 s"),
        (VersionMetrics(in_python=False), ""),
    ],
)
def test_models_do_not_answer_when_python_is_frozen(metrics: VersionMetrics, reason: str) -> None:
    one = version_health("m", "1", "READY", "", metrics, LIMITS, "it is frozen")
    assert (one.ready, one.reason) == (not reason, reason)


def test_an_unavailable_model_is_not_ready() -> None:
    one = version("UNAVAILABLE", "Unsupported: no such layer")
    assert not one.ready
    assert one.reason == "Unsupported: no such layer"


def test_models_that_do_not_answer_are_missing() -> None:
    broken = version("UNAVAILABLE", "broken files", number="2")
    assert missing_models([], []) == {}
    assert missing_models([version()], ["m"]) == {}
    assert missing_models([version(), broken], ["m"]) == {}
    assert missing_models([broken], ["m"]) == {"m": "broken files"}
    assert missing_models([broken], []) == {}
    assert missing_models([], ["m"]) == {"m": "it is not loaded"}
    stalled = version(number="2", oldest_execution_s=100)
    assert missing_models([version(), stalled], []) == {"m": stalled.reason}


METRICS = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="relu",version="1"} 10
nv_inference_request_success{model="idle",version="3"} 0
nv_cache_num_hits_per_model{model="relu",version="1"} 6
nv_inference_compute_infer_duration_us{model="relu",version="1"} 2000000
nv_inference_compute_infer_duration_us{model="idle",version="3"} 0
nv_cpu_utilization 0.25
# HELP tnn_heartbeats_total Grows
# TYPE tnn_heartbeats_total counter
tnn_heartbeats_total 41
tnn_oldest_execution_seconds{model="relu",version="1"} 1.75
tnn_engine_errors_in_a_row{model="relu",version="1"} 2
"""


def test_metrics_are_read() -> None:
    relu = VersionMetrics(1.75, 0.5, 2, in_python=True)
    assert parse_metrics(METRICS) == ServerMetrics({("relu", "1"): relu, ("idle", "3"): VersionMetrics()}, 41)
    assert parse_metrics("") == ServerMetrics({}, None)
