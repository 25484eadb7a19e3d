"""Triton's queue before a model of ours: priorities, time and length limits, cancelled requests.

A held inference keeps the model busy until everything is queued behind it.
"""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc

from tests.end_to_end.models import write_model
from tests.end_to_end.test_serving import counted, statistics
from tests.engines.third_party.held_engine import HELD, Gate
from tests.servers import Running, start, wait_for
from tnn_serving.triton.health import HealthLimits

QUEUE = 6
"""Requests that may wait in the queue of ``queue_limits``."""
HASTY_US = 1000
"""Microseconds that a hasty request may wait."""

BUSY, LOW, HIGH = HELD, 1.0, 2.0
"""The numbers that requests begin with."""

ONE_AT_A_TIME = """
max_batch_size: 1
parameters [ { key: "engine" value: { string_value: "held" } } ]
instance_group [ { kind: KIND_CPU rate_limiter { resources [ { name: "cores" count: 1 } ] } } ]
"""
"""With a resource, an inference runs in Triton's own thread: what does not run waits in the queue and nowhere else."""

CONFIGS = {
    "queue_priorities": "dynamic_batching { priority_levels: 2 default_priority_level: 2 }\n",
    "queue_limits": f"""
dynamic_batching {{ default_queue_policy {{
  timeout_action: REJECT  default_timeout_microseconds: 600000000  allow_timeout_override: true  max_queue_size: {QUEUE}
}} }}
""",
}


@pytest.fixture(scope="module")
def server(installed: None, gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of this module alone, with the engine whose inferences can be held."""
    repository = tmp_path_factory.mktemp("queues")
    for name, config in CONFIGS.items():
        write_model(repository, name, config=ONE_AT_A_TIME + config)
    # However long an inference is held, it does not hang.
    running = start([repository], ["--log-verbose=1"], limits=HealthLimits(hang_timeout_s=0))
    assert running.ready, f"{running.outcome}\n" + "\n".join(running.log[-50:])
    yield running
    assert running.finish() == 0
    running.overlay.close()


class Sender:
    """Sends requests to a model without waiting, and keeps which are answered and how."""

    def __init__(self, server: Running, client: Any, model: str) -> None:
        self.server = server
        self.client = client
        self.model = model
        self.answered: list[str] = []
        self.errors: dict[str, Exception] = {}
        self._lock = threading.Lock()

    def send(self, label: str, first: float = LOW, **options: Any) -> Any:
        x = np.full((1, 3, 8, 8), first, np.float32)
        tensor = tritonclient.grpc.InferInput("x", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)

        def told(result: Any, error: Exception | None) -> None:
            with self._lock:
                self.answered.append(label)
                if error is not None:
                    self.errors[label] = error

        return self.client.async_infer(self.model, [tensor], told, **options)

    @contextmanager
    def busy(self, gate: Gate) -> Iterator[None]:
        """While a request is held, so that all others wait in the queue."""
        with gate.closed():
            self.send("busy", BUSY)
            wait_for(lambda: gate.held == 1, "the model is busy")
            yield
            assert gate.held == 1

    def wait_for_queue(self, count: int) -> None:
        """Waits until so many are queued."""
        wait_for(lambda: pending(self.server, self.model) == count, f"{count} are queued")

    def wait(self, count: int) -> None:
        wait_for(lambda: len(self.answered) == count, f"{count} requests are answered")


def pending(server: Running, model: str) -> float:
    with urllib.request.urlopen(f"{server.supervisor.launch.url_of('metrics')}/metrics") as answer:
        text = answer.read().decode()
    (found,) = re.findall(rf'^nv_inference_pending_request_count{{.*model="{model}".*}} (\S+)$', text, re.MULTILINE)
    return float(found)


def test_high_priority_overtakes_what_waits(server: Running, gate: Gate) -> None:
    before = len(gate.runs)
    with server.grpc() as client:
        sender = Sender(server, client, "queue_priorities")
        low = [f"low{k}" for k in range(6)]
        with sender.busy(gate):
            for label in low:
                sender.send(label, LOW, priority=2)
            sender.wait_for_queue(len(low))
            sender.send("high", HIGH, priority=1)
            sender.wait_for_queue(len(low) + 1)
            assert not sender.answered
        sender.wait(1 + len(low) + 1)
    assert not sender.errors
    assert gate.runs[before:] == [BUSY, HIGH, *[LOW] * len(low)]


def test_requests_whose_time_is_over_are_not_executed(server: Running, gate: Gate, http: Any) -> None:
    before = statistics(http, "queue_limits")
    hasty = [f"hasty{k}" for k in range(2)]
    with server.grpc() as client:
        sender = Sender(server, client, "queue_limits")
        with sender.busy(gate):
            for label in hasty:
                sender.send(label, timeout=HASTY_US)
            sender.send("patient")
            arrived = len(hasty) + 1
            wait_for(lambda: pending(server, sender.model) + len(sender.errors) == arrived, "all have arrived")
            time.sleep(HASTY_US * 1e-6)  # at least: their time is over however long this really takes
        sender.wait(1 + arrived)
    assert set(sender.errors) == set(hasty)
    for error in sender.errors.values():
        assert "Request timeout expired" in str(error)
    after = counted(http, "queue_limits", before["success"] + before["fail"] + 1 + arrived)
    assert after["executions"] - before["executions"] == 2
    assert after["success"] - before["success"] == 2
    assert after["fail"] - before["fail"] == len(hasty)


def test_a_full_queue_refuses(server: Running, gate: Gate, http: Any) -> None:
    before = statistics(http, "queue_limits")
    with server.grpc() as client:
        sender = Sender(server, client, "queue_limits")
        with sender.busy(gate):
            for k in range(QUEUE):
                sender.send(f"queued{k}")
            sender.wait_for_queue(QUEUE)
            sender.send("too_many")
            wait_for(lambda: sender.errors, "one is refused")
            assert "Exceeds maximum queue size" in str(sender.errors["too_many"])
            assert sender.answered == ["too_many"]
        sender.wait(1 + QUEUE + 1)
    assert set(sender.errors) == {"too_many"}
    # What never came into the queue is in no statistics.
    after = counted(http, "queue_limits", before["success"] + before["fail"] + 1 + QUEUE)
    assert after["executions"] - before["executions"] == after["success"] - before["success"] == 1 + QUEUE


def test_cancelled_requests_are_not_executed(server: Running, gate: Gate, http: Any) -> None:
    before = statistics(http, "queue_limits")
    with server.grpc() as client:
        sender = Sender(server, client, "queue_limits")
        with sender.busy(gate):
            calls = [sender.send(f"unwanted{k}") for k in range(2)]
            sender.send("wanted")
            sender.wait_for_queue(3)
            for call in calls:
                call.cancel()
            wait_for(lambda: cancellations(server) == len(calls), "the server knows")
        sender.wait(1 + 3)
    assert set(sender.errors) == {"unwanted0", "unwanted1"}
    after = counted(http, "queue_limits", before["success"] + before["fail"] + 1 + 3)
    assert after["executions"] - before["executions"] == 2
    assert after["success"] - before["success"] == 2


def cancellations(server: Running) -> int:
    """How many requests the gRPC front end has cancelled, from what it logs as it does."""
    return sum("Issuing cancellation" in line for line in server.log)
