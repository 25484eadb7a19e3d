"""The figures of a measurement, computed from the times of answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tnn_serving.client.load.server_statistics import ServerSide, Snapshot, server_side

AGREEING = 3
"""How many successive windows must agree; these are reported."""

BUSY_CLIENT = 0.9
"""At this share of a core and above, the client may be the bottleneck: its loop uses one core."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency of successful requests in milliseconds, from the moment when a request was due."""

    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, seconds: np.ndarray) -> Latency | None:
        """From latencies in seconds; ``None`` if there are none."""
        if not seconds.size:
            return None
        p50, p90, p95, p99 = np.percentile(seconds, [50, 90, 95, 99]) * 1e3
        return cls(
            float(seconds.mean() * 1e3), float(p50), float(p90), float(p95), float(p99), float(seconds.max() * 1e3)
        )


@dataclass(frozen=True, slots=True)
class Window:
    """A period of time, from the last answer of the previous window to its own last answer."""

    duration_s: float
    requests: int
    errors: int
    requests_per_s: float
    p50_ms: float | None


@dataclass(frozen=True, slots=True)
class ClientSide:
    """CPU time of the client.

    Attributes:
        cpu_us: microseconds per request.
        cpu_share: share of one core. Near 1, the client is the bottleneck.
    """

    cpu_us: float
    cpu_share: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """One level of load.

    Attributes:
        concurrency: concurrent requests; ``None`` with a rate.
        rate: requests per second that were due; ``None`` with a concurrency.
        batch: inferences per request.
        requests: successful requests in the reported windows.
        errors: failed requests in these windows.
        error_texts: how often each error occurred.
        duration_s: total duration of these windows.
        backlog: requests that were due at the end but could not be sent: the rate was too high.
        stable: the last windows agree.
        interrupted: by Ctrl-C.
        windows: all windows, the reported ones last.
        server: ``None`` if the server error_counts nothing.
    """

    model: str
    protocol: str
    concurrency: int | None
    rate: float | None
    batch: int
    requests: int
    requests_per_s: float
    inferences_per_s: float
    latency: Latency | None
    errors: int
    error_texts: dict[str, int]
    duration_s: float
    backlog: int
    stable: bool
    interrupted: bool
    windows: list[Window]
    server: ServerSide | None
    client: ClientSide

    @property
    def client_is_busy(self) -> bool:
        """Whether the client may be what was measured."""
        return self.client.cpu_share >= BUSY_CLIENT


@dataclass(frozen=True, slots=True)
class Cut:
    """The end of a window.

    Attributes:
        end: time of its last answer.
        answers: successful requests since the start.
        errors: failed requests since the start.
        snapshot: the counters at that time.
    """

    end: float
    answers: int
    errors: int
    snapshot: Snapshot


def window_between(before: Cut, after: Cut, latencies: np.ndarray) -> Window:
    """The window between two cuts, from its latencies."""
    duration_s = after.end - before.end
    requests = after.answers - before.answers
    return Window(
        duration_s=duration_s,
        requests=requests,
        errors=after.errors - before.errors,
        requests_per_s=requests / duration_s if duration_s > 0 else 0.0,
        p50_ms=float(np.median(latencies) * 1e3) if latencies.size else None,
    )


def agree(windows: Sequence[Window], stability: float) -> bool:
    """Whether the last :data:`AGREEING` windows are each within ``stability`` of their mean, in rate and in p50."""
    last = windows[-AGREEING:]
    if len(last) < AGREEING:
        return False
    rates = [one.requests_per_s for one in last]
    medians = [one.p50_ms for one in last if one.p50_ms is not None]
    return len(medians) == AGREEING and _within(rates, stability) and _within(medians, stability)


def _within(values: Sequence[float], stability: float) -> bool:
    mean = sum(values) / len(values)
    return all(abs(value - mean) <= stability * mean for value in values)


def sides_between(first: Cut, last: Cut) -> tuple[ServerSide | None, ClientSide]:
    """Server and client between two cuts."""
    before, after = first.snapshot, last.snapshot
    answered = last.answers - first.answers + last.errors - first.errors
    cpu_s = after.client_cpu_s - before.client_cpu_s
    client = ClientSide(cpu_s / max(1, answered) * 1e6, cpu_s / max(1e-9, after.at - before.at))
    return server_side(before, after, answered), client


def error_counts(errors: Sequence[tuple[float, str]]) -> dict[str, int]:
    """How often each error text occurred, most frequent first."""
    return dict(Counter(text for _, text in errors).most_common())
