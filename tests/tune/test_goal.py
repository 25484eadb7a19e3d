"""Goals in words."""

from __future__ import annotations

from tnn_serving.tune import Goal


def test_goals_as_text() -> None:
    assert str(Goal("latency")) == "latency"
    assert str(Goal("throughput", 50)) == "throughput, p99 at most 50 ms"
