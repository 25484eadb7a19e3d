"""When requests are sent, and the record of their answers."""

from __future__ import annotations

import time
from array import array
from typing import Protocol

import numpy as np

clock = time.perf_counter
"""The clock of all times here, in seconds."""


class Schedule(Protocol):
    """When requests are due. Not thread-safe."""

    def take(self, now: float) -> float | None:
        """Removes the next request if it is due by ``now`` and returns when it was due; otherwise ``None``."""

    def wait_s(self, now: float) -> float:
        """Seconds until the next request is due."""

    def backlog(self, now: float) -> int:
        """How many requests are due but not sent."""


class ClosedLoop:
    """A request is due whenever a connection is free: there are as many in flight as connections."""

    def take(self, now: float) -> float | None:
        """Always ``now``."""
        return now

    def wait_s(self, now: float) -> float:
        """Always 0."""
        return 0.0

    def backlog(self, now: float) -> int:
        """Always 0."""
        return 0


class OpenLoop:
    """Requests are due at times that do not depend on the answers, like those of independent users.

    If every connection is busy, a request is sent late; its latency still counts from the time when it was due.
    Ignoring that wait is known as coordinated omission: it hides the times when a server is slow.

    Args:
        rate: requests per second.
        poisson: intervals are drawn from an exponential distribution, instead of being equal.
        seed: of the intervals.
        start: when the first request is due; now by default.
    """

    def __init__(self, rate: float, *, poisson: bool = False, seed: int = 0, start: float | None = None) -> None:
        self._gap_s = 1.0 / rate
        self._random = np.random.default_rng(seed) if poisson else None
        self._due = clock() if start is None else start

    def take(self, now: float) -> float | None:
        """See :class:`Schedule`."""
        due = self._due
        if due > now:
            return None
        self._due = due + (self._gap_s if self._random is None else float(self._random.exponential(self._gap_s)))
        return due

    def wait_s(self, now: float) -> float:
        """Seconds until the next request is due; 0 if it is due."""
        return max(0.0, self._due - now)

    def backlog(self, now: float) -> int:
        """How many requests are due but have no free connection."""
        return max(0, int((now - self._due) / self._gap_s) + 1) if self._due <= now else 0


class Record:
    """The answers so far, in order of arrival. One thread adds; another may read what has been added.

    Attributes:
        ends: when each successful answer was complete, in seconds of :data:`clock`.
        latencies: seconds from when the request was due to ``ends``.
        errors: time and text of each failed request.
    """

    def __init__(self) -> None:
        self.ends = array("d")
        self.latencies = array("d")
        self.errors: list[tuple[float, str]] = []

    def add(self, due: float, end: float, error: str | None = None) -> None:
        """Records one answer."""
        if error is not None:
            self.errors.append((end, error))
            return
        self.latencies.append(end - due)
        self.ends.append(end)  # last, since readers use its length

    def between(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Copies of ends and latencies of the answers from number ``first`` to before ``last``."""
        return np.array(self.ends[first:last]), np.array(self.latencies[first:last])
