"""Probes of a running server: whether it answers, and its metrics."""

from __future__ import annotations

import re
import urllib.error
from collections import defaultdict
from collections.abc import Mapping

from tnn_serving.triton.backend.metrics import ENGINE_ERRORS, HEARTBEATS, OLDEST_EXECUTION
from tnn_serving.triton.health import ServerMetrics, VersionMetrics
from tnn_serving.triton.index import Endpoint

_REQUESTS = "nv_inference_request_success"
_CACHE_HITS = "nv_cache_num_hits_per_model"
_COMPUTE_US = "nv_inference_compute_infer_duration_us"

_OF_VERSIONS = (OLDEST_EXECUTION.name, ENGINE_ERRORS.name, _REQUESTS, _CACHE_HITS, _COMPUTE_US)
_NEEDED = re.compile(rf"^(?:(?:{'|'.join(_OF_VERSIONS)})\{{|{HEARTBEATS.name} )")


def answers(server: Endpoint, *, timeout_s: float = 5.0) -> bool:
    """Whether a server answers at its HTTP endpoint."""
    try:
        server.ask("/v2/health/live", timeout_s=timeout_s)
    except urllib.error.HTTPError:
        return True  # alive, but the endpoint is restricted
    except OSError:
        return False
    return True


def read_metrics(metrics: Endpoint, *, timeout_s: float) -> ServerMetrics:
    """The metrics, from the metrics endpoint.

    Raises:
        OSError: it cannot be reached.
    """
    return parse_metrics(metrics.ask("/metrics", timeout_s=timeout_s).decode())


def parse_metrics(text: str) -> ServerMetrics:
    """The metrics, from the text of the metrics endpoint."""
    heartbeats = None
    values: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    # Only the lines that are needed are parsed: with hundreds of models there are thousands of lines, once per second.
    lines = [line for line in text.splitlines() if _NEEDED.match(line)]
    # Imported here: a server does not wait for it.
    from prometheus_client.parser import text_string_to_metric_families

    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            if sample.name == HEARTBEATS.name:
                heartbeats = sample.value
                continue
            version = sample.labels.get("model", ""), sample.labels.get("version", "")
            values[version][sample.name] = sample.value
    return ServerMetrics({version: _version_metrics(of_version) for version, of_version in values.items()}, heartbeats)


def _version_metrics(values: Mapping[str, float]) -> VersionMetrics:
    # Triton adds the time of an execution once per request in it, and nothing for an answer from the cache.
    executed = values.get(_REQUESTS, 0) - values.get(_CACHE_HITS, 0)
    return VersionMetrics(
        in_python=OLDEST_EXECUTION.name in values,
        oldest_execution_s=values.get(OLDEST_EXECUTION.name, 0.0),
        usual_execution_s=values.get(_COMPUTE_US, 0.0) / 1e6 / executed if executed > 0 else 0.0,
        engine_errors=int(values.get(ENGINE_ERRORS.name, 0)),
    )
