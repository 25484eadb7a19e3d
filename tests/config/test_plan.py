"""How cores are divided among inferences."""

from __future__ import annotations

from typing import Any

import pytest

from tnn_serving.config.plan import plan
from tnn_serving.engines.cpu import Cores

FOUR = Cores(4, "all cores of the machine")


@pytest.mark.parametrize(
    ("asked", "threads", "streams", "in_flight", "reason"),
    [
        ({}, 4, 1, 5, "4 threads (all cores of the machine), 1 inference at a time (AUTO: all threads for one infe"),
        (
            {"threads": 1},
            1,
            1,
            2,
            "1 thread (as configured), 1 inference at a time (AUTO: all threads for one inference)",
        ),
        ({"hint": "LATENCY"}, 4, 1, 2, "LATENCY: all threads for one inference)"),
        ({"instances": 2}, 4, 2, 3, "2 instances"),
        ({"instances": 9}, 4, 4, 5, "9 instances"),
        ({"hint": "THROUGHPUT"}, 4, 4, 5, "4 inferences in parallel (THROUGHPUT: one per thread)"),
        ({"threads": 2, "hint": "THROUGHPUT"}, 2, 2, 3, "2 threads (as configured), 2 inferences"),
        ({"streams": 3}, 4, 3, 4, "3 inferences in parallel (as configured)"),
    ],
)
def test_cores_are_divided_and_it_is_said_why(
    asked: dict[str, Any], threads: int, streams: int, in_flight: int, reason: str
) -> None:
    default: dict[str, Any] = {"instances": 1, "threads": 0, "streams": 0, "hint": "AUTO"}
    made = plan(FOUR, **{**default, **asked})
    assert (made.threads, made.streams, made.in_flight) == (threads, streams, in_flight)
    assert made.concurrent == (in_flight > streams + 1)
    assert reason in made.reason
