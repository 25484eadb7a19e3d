"""Triton's queue before a model of ours: priorities, time and length limits, cancelled requests.

What is queued is queued behind inferences that really take long.
"""

from __future__ import annotations

import re
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc

from tests.end_to_end.models import write_slow_model
from tests.end_to_end.test_serving import counted, statistics
from tests.servers import Running, load, unload, wait_for

SLOW = (768, 768)
QUICK = (32, 32)
BUSY = 4
"""Slow requests that keep the model busy: two are begun, the third may be handed over, the last waits."""
QUEUE = 6
"""Requests that may wait in the queue of ``queue_limits``."""

FIXED = """
max_batch_size: 1
parameters [
  { key: "engine" value: { string_value: "openvino" } },
  { key: "PERFORMANCE_HINT" value: { string_value: "LATENCY" } }
]
"""
CONFIGS = {
    "queue_priorities": "dynamic_batching { priority_levels: 2 default_priority_level: 2 }\n",
    "queue_limits": f"""
dynamic_batching {{ default_queue_policy {{
  timeout_action: REJECT  default_timeout_microseconds: 60000000  allow_timeout_override: true  max_queue_size: {QUEUE}
}} }}
""",
}


@pytest.fixture(scope="module", autouse=True)
def models(server: Running, repository: Path) -> Iterator[None]:
    with server.http() as client:
        for name, config in CONFIGS.items():
            write_slow_model(repository, name, config=FIXED + config)
            load(client, name)
        yield
        for name in CONFIGS:
            unload(client, name)


class Sender:
    """Sends requests to a model without waiting, and keeps in which order they are answered."""

    def __init__(self, client: Any, model: str) -> None:
        self.client = client
        self.model = model
        self.slow_waiting = 0.0
        self.answered: list[str] = []
        self.errors: dict[str, Exception] = {}
        self._lock = threading.Lock()

    def send(self, label: str, size: tuple[int, int], **options: Any) -> Any:
        x = np.full((1, 3, *size), 0.5, np.float32)
        tensor = tritonclient.grpc.InferInput("x", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)

        def told(result: Any, error: Exception | None) -> None:
            with self._lock:
                self.answered.append(label)
                if error is not None:
                    self.errors[label] = error

        return self.client.async_infer(self.model, [tensor], told, **options)

    def keep_busy(self, server: Running) -> None:
        """Sends slow requests, and waits until those of them that are not handed over wait in the queue."""
        for k in range(BUSY):
            self.send(f"busy{k}", SLOW)
        seen: list[float] = []

        def settled() -> bool:
            seen.append(pending(server, self.model))
            return seen[-1] > 0 and len(seen) >= 3 and len(set(seen[-3:])) == 1

        wait_for(settled, "the last of them waits")
        self.slow_waiting = seen[-1]

    def wait_for_queue(self, server: Running, count: int) -> None:
        """Waits until so many are queued besides the slow ones."""
        wait_for(lambda: pending(server, self.model) == self.slow_waiting + count, f"{count} are queued")

    def wait(self, count: int) -> None:
        wait_for(lambda: len(self.answered) == count, f"{count} requests are answered")


def pending(server: Running, model: str) -> float:
    with urllib.request.urlopen(f"{server.supervisor.launch.url_of('metrics')}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    (found,) = re.findall(rf'^nv_inference_pending_request_count{{.*model="{model}".*}} (\S+)$', text, re.MULTILINE)
    return float(found)


def test_high_priority_overtakes_what_waits(server: Running) -> None:
    with server.grpc() as client:
        sender = Sender(client, "queue_priorities")
        sender.keep_busy(server)
        low = [f"low{k}" for k in range(6)]
        for label in low:
            sender.send(label, QUICK, priority=2)
        sender.wait_for_queue(server, len(low))
        sender.send("high", QUICK, priority=1)
        sender.wait_for_queue(server, len(low) + 1)
        assert not set(low) & set(sender.answered)
        sender.wait(BUSY + len(low) + 1)
    assert not sender.errors
    # It is handed over first; the first low one runs beside it and may be answered a moment earlier.
    order = [label for label in sender.answered if not label.startswith("busy")]
    assert order.index("high") < 2, order


def test_requests_whose_time_is_over_are_not_executed(server: Running, http: Any) -> None:
    before = statistics(http, "queue_limits")
    with server.grpc() as client:
        sender = Sender(client, "queue_limits")
        sender.keep_busy(server)
        hasty = [f"hasty{k}" for k in range(2)]
        for label in hasty:
            sender.send(label, QUICK, timeout=1000)  # microseconds
        sender.send("patient", QUICK)
        sender.wait(BUSY + len(hasty) + 1)
    assert set(sender.errors) == set(hasty)
    for error in sender.errors.values():
        assert "Request timeout expired" in str(error)
    after = counted(http, "queue_limits", before["success"] + before["fail"] + BUSY + len(hasty) + 1)
    assert after["executions"] - before["executions"] == BUSY + 1
    assert after["success"] - before["success"] == BUSY + 1
    assert after["fail"] - before["fail"] == len(hasty)


def test_a_full_queue_refuses(server: Running, http: Any) -> None:
    before = statistics(http, "queue_limits")
    with server.grpc() as client:
        sender = Sender(client, "queue_limits")
        sender.keep_busy(server)
        room = QUEUE - int(sender.slow_waiting)
        for k in range(room):
            sender.send(f"queued{k}", QUICK)
        sender.wait_for_queue(server, room)
        sender.send("too_many", QUICK)
        wait_for(lambda: sender.errors, "one is refused")
        assert "Exceeds maximum queue size" in str(sender.errors["too_many"])
        sender.wait(BUSY + room + 1)
    assert set(sender.errors) == {"too_many"}
    # What never came into the queue is in no statistics.
    after = counted(http, "queue_limits", before["success"] + before["fail"] + BUSY + room)
    assert after["executions"] - before["executions"] == after["success"] - before["success"] == BUSY + room


def test_cancelled_requests_are_not_executed(server: Running, http: Any) -> None:
    before = statistics(http, "queue_limits")
    with server.grpc() as client:
        sender = Sender(client, "queue_limits")
        sender.keep_busy(server)
        calls = [sender.send(f"unwanted{k}", QUICK) for k in range(2)]
        sender.send("wanted", QUICK)
        sender.wait_for_queue(server, 3)
        for call in calls:
            call.cancel()
        sender.wait(BUSY + 3)
    assert set(sender.errors) == {"unwanted0", "unwanted1"}
    after = counted(http, "queue_limits", before["success"] + before["fail"] + BUSY + 3)
    assert after["executions"] - before["executions"] == BUSY + 1
    assert after["success"] - before["success"] == BUSY + 1
