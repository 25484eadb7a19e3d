"""What a measurement says, computed from the times of answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tnn_serving.client.load.server import ServerSide, Snapshot, difference

AGREEING = 3
"""So many windows in a row must agree, and are what is reported."""

BUSY_CLIENT = 0.9
"""From this share of a core on, the client may be what is measured: its loop runs on one."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Of the right answers, in milliseconds, from the moment at which a request was due."""

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
    """One stretch of time, from the last answer of the one before to its own last answer."""

    duration_s: float
    requests: int
    errors: int
    requests_per_s: float
    p50_ms: float | None


@dataclass(frozen=True, slots=True)
class ClientSide:
    """What sending cost on this machine.

    Attributes:
        cpu_us: processor time of the client a request, in microseconds.
        cpu_share: of one core. Near 1, the client is the bottleneck.
    """

    cpu_us: float
    cpu_share: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """One level of load.

    Attributes:
        concurrency: requests in flight all the time; ``None`` with a rate.
        rate: requests a second that were due; ``None`` with a concurrency.
        batch: inferences a request.
        requests: right answers in the windows that are reported.
        errors: failed requests in them; their texts with how often each came.
        duration_s: of these windows together.
        backlog: requests that were due at the end but could not be sent yet: the rate was too high.
        stable: the last windows agree.
        interrupted: by Ctrl-C.
        windows: all windows, the reported ones last.
        server: ``None`` if the server counted nothing.
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
        end: of its last answer.
        answers: so many right ones since the start.
        errors: so many failed ones since the start.
        snapshot: taken then.
    """

    end: float
    answers: int
    errors: int
    snapshot: Snapshot


def window(before: Cut, after: Cut, latencies: np.ndarray) -> Window:
    """The window between two cuts with the latencies in it."""
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


def sides(first: Cut, last: Cut) -> tuple[ServerSide | None, ClientSide]:
    """Server and client between two cuts."""
    before, after = first.snapshot, last.snapshot
    answered = last.answers - first.answers + last.errors - first.errors
    cpu_s = after.client_cpu_s - before.client_cpu_s
    client = ClientSide(cpu_s / max(1, answered) * 1e6, cpu_s / max(1e-9, after.at - before.at))
    return difference(before, after, answered), client


def counted(errors: Sequence[tuple[float, str]]) -> dict[str, int]:
    """Texts with how often each came, most frequent first."""
    return dict(Counter(text for _, text in errors).most_common())
