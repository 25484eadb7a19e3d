"""The figures computed from the times of answers."""

from __future__ import annotations

import numpy as np
import pytest

from tnn_serving.client.load.measurement import Cut, Latency, Window, agree, error_counts, sides_between, window_between
from tnn_serving.client.load.server_statistics import Snapshot


def one(rate: float, p50_ms: float | None = 1.0) -> Window:
    return Window(1.0, int(rate), 0, rate, p50_ms)


@pytest.mark.parametrize(
    ("windows", "agreeing"),
    [
        ([], False),
        ([one(100), one(100)], False),
        ([one(100), one(100), one(100)], True),
        ([one(50), one(100), one(103), one(98)], True),
        ([one(100), one(103), one(98), one(50)], False),
        ([one(100), one(104), one(96)], True),
        ([one(100), one(110), one(100)], False),
        ([one(100, 1.0), one(100, 1.2), one(100, 1.0)], False),
        ([one(100, 1.0), one(100, None), one(100, 1.0)], False),
    ],
)
def test_windows_agree_within_five_percent_of_their_mean(windows: list[Window], agreeing: bool) -> None:
    assert agree(windows, 0.05) is agreeing


def snapshot(at: float, requests: int, cpu_s: float | None) -> Snapshot:
    statistics = {
        "requests": requests,
        "inferences": 8 * requests,
        "executions": requests // 2,
        "success_ns": 2_000_000 * requests,
        "queue_ns": 500_000 * requests,
        "compute_input_ns": 100_000 * requests,
        "compute_infer_ns": 1_000_000 * requests,
        "compute_output_ns": 200_000 * requests,
    }
    return Snapshot(at, statistics, cpu_s, at / 4)


def test_a_window_lasts_from_answer_to_answer() -> None:
    before = Cut(10.0, 100, 1, snapshot(10.1, 100, 0.0))
    after = Cut(12.0, 140, 3, snapshot(12.1, 140, 0.1))
    found = window_between(before, after, np.array([0.002, 0.004, 0.003]))
    assert found == Window(duration_s=2.0, requests=40, errors=2, requests_per_s=20.0, p50_ms=3.0)
    assert window_between(before, before, np.array([])).p50_ms is None


def test_server_and_client_between_two_cuts() -> None:
    server, client = sides_between(
        Cut(10.0, 100, 0, snapshot(10.0, 100, 1.0)), Cut(12.0, 140, 10, snapshot(12.0, 140, 1.1))
    )
    assert server is not None
    assert (server.requests, server.executions, server.average_batch) == (40, 20, 16.0)
    assert (server.total_ms, server.queue_ms, server.compute_infer_ms) == (2.0, 0.5, 1.0)
    assert (server.compute_input_ms, server.compute_output_ms) == (0.1, 0.2)
    assert server.cpu_us == pytest.approx(0.1 / 50 * 1e6)
    assert client.cpu_us == pytest.approx(0.5 / 50 * 1e6)
    assert client.cpu_share == pytest.approx(0.25)


def test_a_server_whose_cpu_time_is_unknown() -> None:
    server, _ = sides_between(Cut(0.0, 0, 0, snapshot(0.0, 0, None)), Cut(1.0, 10, 0, snapshot(1.0, 10, None)))
    assert server is not None
    assert server.cpu_us is None
    idle = Cut(0.0, 0, 0, snapshot(0.0, 5, None))
    assert sides_between(idle, idle)[0] is None


def test_percentiles_in_milliseconds() -> None:
    found = Latency.of(np.arange(1, 101) / 1000)
    assert found is not None
    assert (found.p50_ms, found.p90_ms, found.max_ms) == (pytest.approx(50.5), pytest.approx(90.1), pytest.approx(100))
    assert (found.p95_ms, found.p99_ms, found.mean_ms) == pytest.approx((95.05, 99.01, 50.5))
    assert Latency.of(np.array([])) is None


def test_texts_are_counted() -> None:
    assert list(error_counts([(1.0, "a"), (2.0, "b"), (3.0, "b")]).items()) == [("b", 2), ("a", 1)]
