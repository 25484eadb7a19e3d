"""One look at a running server: does it answer, what does it serve, how long do its executions take."""

from __future__ import annotations

import re
import urllib.error
from collections import defaultdict
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from tnn_serving.triton.health import Measured
from tnn_serving.triton.index import Endpoint

OLDEST_EXECUTION = "tnn_oldest_execution_seconds"
ENGINE_ERRORS_IN_A_ROW = "tnn_engine_errors_in_a_row"
_REQUESTS = "nv_inference_request_success"
_CACHE_HITS = "nv_cache_num_hits_per_model"
_COMPUTE_US = "nv_inference_compute_infer_duration_us"

_NEEDED = re.compile(rf"^(?:{OLDEST_EXECUTION}|{ENGINE_ERRORS_IN_A_ROW}|{_REQUESTS}|{_CACHE_HITS}|{_COMPUTE_US})\{{")


def answers(server: Endpoint, *, timeout_s: float = 5.0) -> bool:
    """Whether a server answers at its HTTP endpoint."""
    try:
        server.ask("/v2/health/live", timeout_s=timeout_s)
    except urllib.error.HTTPError:
        return True  # alive, though not for us (a restricted endpoint)
    except OSError:
        return False
    return True


def measure(metrics: Endpoint, *, timeout_s: float) -> Mapping[tuple[str, str], Measured]:
    """What the metrics endpoint tells of each (model, version).

    Raises:
        OSError: it can't be reached.
    """
    return measured(metrics.ask("/metrics", timeout_s=timeout_s).decode())


def measured(text: str) -> Mapping[tuple[str, str], Measured]:
    """The same from the text of the metrics."""
    values: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    # Only what is needed is parsed: with hundreds of models there are thousands of lines, once a second.
    lines = [line for line in text.splitlines() if _NEEDED.match(line)]
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            version = sample.labels.get("model", ""), sample.labels.get("version", "")
            values[version][sample.name] = sample.value
    return {version: _measured(of_version) for version, of_version in values.items()}


def _measured(values: Mapping[str, float]) -> Measured:
    # Triton adds the time of an execution once for each request in it, and nothing for an answer from the cache.
    executed = values.get(_REQUESTS, 0) - values.get(_CACHE_HITS, 0)
    return Measured(
        oldest_execution_s=values.get(OLDEST_EXECUTION, 0.0),
        usual_execution_s=values.get(_COMPUTE_US, 0.0) / 1e6 / executed if executed > 0 else 0.0,
        engine_errors=int(values.get(ENGINE_ERRORS_IN_A_ROW, 0)),
    )
