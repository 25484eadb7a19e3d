"""How cores are divided, and the threads that execute."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from tnn_serving.config.plan import instances, plan, read_hint
from tnn_serving.engines.cpu import Cores
from tnn_serving.serving.lanes import Lanes

FOUR = Cores(4, "all cores of the machine")


@pytest.mark.parametrize(
    ("asked", "threads", "streams", "in_flight", "told"),
    [
        ({}, 4, 1, 5, "4 threads (all cores of the machine), 1 inferences side by side (AUTO: all threads for one inf"),
        ({"threads": 1}, 1, 1, 2, "AUTO: all threads for one inference)"),
        ({"hint": "LATENCY"}, 4, 1, 2, "LATENCY: all threads for one inference)"),
        ({"instances": 2}, 4, 2, 3, "2 instances"),
        ({"instances": 9}, 4, 4, 5, "9 instances"),
        ({"hint": "THROUGHPUT"}, 4, 4, 5, "THROUGHPUT: one a thread"),
        ({"threads": 2, "hint": "THROUGHPUT"}, 2, 2, 3, "2 threads (asked for)"),
        ({"streams": 3}, 4, 3, 4, "3 inferences side by side (asked for)"),
    ],
)
def test_cores_are_divided_and_it_is_said_why(
    asked: dict[str, Any], threads: int, streams: int, in_flight: int, told: str
) -> None:
    default: dict[str, Any] = {"instances": 1, "threads": 0, "streams": 0, "hint": "AUTO"}
    made = plan(FOUR, **{**default, **asked})
    assert (made.threads, made.streams, made.in_flight) == (threads, streams, in_flight)
    assert made.elastic == (in_flight > streams + 1)
    assert told in made.reason


def test_instances_are_counted_over_all_groups() -> None:
    assert instances({}) == 1
    assert instances({"instance_group": [{"count": 2}, {"kind": "KIND_CPU"}]}) == 3


def test_hints_are_read_in_any_case() -> None:
    assert read_hint("throughput") == "THROUGHPUT"
    with pytest.raises(ValueError, match="AUTO, LATENCY, THROUGHPUT"):
        read_hint("CUMULATIVE_THROUGHPUT")


def test_lanes_work_side_by_side_and_no_more_than_allowed() -> None:
    lanes = Lanes(2, "test")
    going, most, lock, open_gate = [0], [0], threading.Lock(), threading.Event()

    def work() -> None:
        with lock:
            going[0] += 1
            most[0] = max(most[0], going[0])
        open_gate.wait(60)
        with lock:
            going[0] -= 1

    submitted: list[int] = []

    def submit_all() -> None:
        for k in range(5):
            lanes.submit(work)
            submitted.append(k)

    submitter = threading.Thread(target=submit_all)
    submitter.start()
    deadline = time.monotonic() + 60
    while going[0] < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert submitted == [0, 1]  # the third waits until a lane is free
    open_gate.set()
    submitter.join()
    lanes.close()
    assert (most[0], going[0], len(submitted)) == (2, 0, 5)


def test_work_goes_to_the_lane_that_was_busy_last() -> None:
    lanes = Lanes(3, "test")
    gate, inside = threading.Event(), threading.Semaphore(0)
    names: list[str] = []

    def wait() -> None:
        inside.release()
        gate.wait(60)

    def settle() -> None:
        deadline = time.monotonic() + 60
        while len(lanes._idle) < 3 and time.monotonic() < deadline:
            time.sleep(0.001)

    for _ in range(3):  # all three have been busy
        lanes.submit(wait)
    for _ in range(3):
        assert inside.acquire(timeout=60)
    gate.set()
    settle()
    for _ in range(20):
        lanes.submit(lambda: names.append(threading.current_thread().name + str(threading.get_ident())))
        settle()
    lanes.close()
    assert len(names) == 20
    assert len(set(names)) == 1
