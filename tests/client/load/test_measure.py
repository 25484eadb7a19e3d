"""Measurements of a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.client.load.sending import SHAPE
from tests.conftest import DELAY_MS
from tests.end_to_end.models import write_model
from tests.servers import Running
from tnn_serving.client.load import LoadTarget, measure_load
from tnn_serving.errors import ConfigError, ServerError
from tnn_serving.triton.background_server import BackgroundServer

QUICK: dict[str, Any] = {"window_s": 0.1, "max_windows": 3}


@pytest.mark.parametrize("shared_memory", ["none", "system"])
def test_a_measurement_agrees_with_itself_and_the_server(address: str, shared_memory: Any) -> None:
    with LoadTarget(address, "relu", shapes=SHAPE, shared_memory=shared_memory) as target:
        found = measure_load(target, concurrency=4, **QUICK)
    assert (found.model, found.concurrency, found.rate, found.batch) == ("relu", 4, None, 1)
    assert (found.errors, found.error_texts, found.backlog, found.interrupted) == (0, {}, 0, False)
    assert found.requests == sum(window.requests for window in found.windows[-3:])
    assert found.requests_per_s == pytest.approx(found.requests / found.duration_s)
    latency = found.latency
    assert latency is not None
    assert 0 < latency.p50_ms <= latency.p90_ms <= latency.p95_ms <= latency.p99_ms <= latency.max_ms
    server = found.server
    assert server is not None
    # The statistics are read under load.
    assert abs(server.requests - found.requests) < 0.5 * found.requests
    parts = (server.queue_ms, server.compute_input_ms, server.compute_infer_ms, server.compute_output_ms)
    assert all(part > 0 for part in parts)
    assert sum(parts) <= server.total_ms * 1.01
    assert server.total_ms < latency.mean_ms
    assert server.average_batch >= 1
    assert server.cpu_us is not None
    assert server.cpu_us > 0
    assert found.client.cpu_us > 0


def test_batches_count_as_inferences(loaded: Running) -> None:
    with LoadTarget(loaded.address("http"), "waits", shapes={"x": (3, 8, 8)}, batch=4) as target:
        found = measure_load(target, concurrency=2, **QUICK)
    assert found.batch == 4
    assert found.inferences_per_s == pytest.approx(4 * found.requests_per_s)
    assert found.server is not None
    assert found.server.average_batch >= 4
    assert found.server.queue_ms > DELAY_MS / 2


def test_requests_that_fail_under_load(loaded: Running) -> None:
    with LoadTarget(loaded.address("http"), "bounded", shapes={"x": (3, 8, 8)}) as target:
        found = measure_load(target, concurrency=6, **QUICK)
    assert found.requests > 0
    assert found.errors == sum(found.error_texts.values()) > 0
    assert found.errors == sum(window.errors for window in found.windows[-3:])
    assert all("maximum queue size" in text for text in found.error_texts)


@pytest.mark.parametrize("poisson", [False, True])
def test_a_rate_that_can_be_reached(address: str, poisson: bool) -> None:
    with LoadTarget(address, "relu", shapes=SHAPE) as target:
        found = measure_load(target, rate=100, poisson=poisson, window_s=0.5, max_windows=3)
    assert (found.concurrency, found.rate, found.errors) == (None, 100, 0)
    assert found.requests_per_s == pytest.approx(100, rel=0.1 if not poisson else 0.4)


def test_a_rate_that_is_too_high_shows_in_latency_and_backlog(loaded: Running) -> None:
    """One connection sends one request per DELAY_MS; ten times as many are due. The latency includes the wait."""
    rate = 10_000 / DELAY_MS
    with LoadTarget(loaded.address("http"), "waits", shapes={"x": (3, 8, 8)}) as target:
        found = measure_load(target, rate=rate, connections=1, window_s=0.2, max_windows=3)
    assert found.requests_per_s < rate / 5
    assert found.backlog > rate * found.duration_s / 2
    assert found.latency is not None
    assert found.server is not None
    assert found.latency.max_ms > 5 * found.server.total_ms
    assert not found.stable


def test_a_server_that_goes_away(tmp_path: Path, installed: None) -> None:
    write_model(tmp_path, "relu")
    with (
        BackgroundServer(tmp_path) as server,
        LoadTarget(server.http_url, "relu", shapes=SHAPE, timeout_s=5) as target,
        pytest.raises(ServerError, match="no answer"),
    ):
        measure_load(target, concurrency=2, window_s=0.1, stability=1e-9, on_window=lambda window: server.close())


def test_invalid_levels(loaded: Running) -> None:
    with LoadTarget(loaded.address("http"), "relu", shapes=SHAPE) as target:
        for options in ({}, {"concurrency": 1, "rate": 1.0}, {"concurrency": -1}, {"rate": 1.0, "connections": 0}):
            with pytest.raises(ConfigError):
                measure_load(target, **options)
    with pytest.raises(ConfigError, match="plain connections"):
        LoadTarget("https://127.0.0.1", "relu")
