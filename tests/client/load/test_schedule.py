"""When requests are due, and what is recorded of them."""

from __future__ import annotations

import numpy as np
import pytest

from tnn_serving.client.load.schedule import ClosedLoop, OpenLoop, Record


def due_times(schedule: OpenLoop, now: float) -> list[float]:
    found = []
    while (due := schedule.take(now)) is not None:
        found.append(due)
    return found


def test_an_open_loop_is_due_at_its_own_times_however_late_requests_are_taken() -> None:
    schedule = OpenLoop(4, start=10.0)
    assert schedule.take(9.9) is None
    assert schedule.wait_s(9.9) == pytest.approx(0.1)
    assert due_times(schedule, 10.3) == [10.0, 10.25]
    assert schedule.backlog(10.4) == 0
    assert schedule.wait_s(10.4) == pytest.approx(0.1)
    assert schedule.backlog(11.0) == 3
    assert schedule.wait_s(11.0) == 0
    assert due_times(schedule, 11.0) == [10.5, 10.75, 11.0]


def test_random_intervals_have_the_rate_and_are_reproducible() -> None:
    found = due_times(OpenLoop(1000, poisson=True, seed=1, start=0.0), 10.0)
    assert len(found) == pytest.approx(10_000, rel=0.05)
    gaps = np.diff(found)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)
    assert found == due_times(OpenLoop(1000, poisson=True, seed=1, start=0.0), 10.0)


def test_a_closed_loop_is_always_due() -> None:
    schedule = ClosedLoop()
    assert (schedule.take(3.0), schedule.wait_s(3.0), schedule.backlog(3.0)) == (3.0, 0.0, 0)


def test_latency_counts_from_the_due_time() -> None:
    record = Record()
    record.add(1.0, 1.5)
    record.add(1.0, 2.0, "refused")
    record.add(1.25, 2.5)
    ends, latencies = record.between(0, 2)
    assert (ends.tolist(), latencies.tolist(), record.errors) == ([1.5, 2.5], [0.5, 1.25], [(2.0, "refused")])
