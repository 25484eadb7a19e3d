"""When requests are sent, and what is kept of each: the two arrays that everything else is computed from."""

from __future__ import annotations

import time
from array import array
from typing import Protocol

import numpy as np

clock = time.perf_counter
"""Seconds; the clock of all times here."""


class Schedule(Protocol):
    """Says when requests are due. Asked by one thread only."""

    def take(self, now: float) -> float | None:
        """The moment that a request was due, if one is due by ``now``; it counts as taken. ``None`` if none is."""

    def wait_s(self, now: float) -> float:
        """Seconds until the next request is due."""

    def backlog(self, now: float) -> int:
        """How many requests are due but have not been taken."""


class ClosedLoop:
    """A request is due whenever a connection is free: as many in flight as there are connections."""

    def take(self, now: float) -> float | None:
        """Always ``now``."""
        return now

    def wait_s(self, now: float) -> float:
        """Nothing to wait for."""
        return 0.0

    def backlog(self, now: float) -> int:
        """None: who waits for answers is never late."""
        return 0


class OpenLoop:
    """Requests are due at moments that do not depend on the answers, as those of independent users.

    A request that cannot be sent when it is due, because every connection is busy, is sent later; its latency still
    counts from the moment that it was due. Leaving that wait out is known as coordinated omission: it hides exactly
    the moments at which a server is slow.

    Args:
        rate: requests a second.
        poisson: gaps between requests are drawn from an exponential distribution, instead of all being equal.
        seed: of the gaps.
        start: when the first request is due; now, if left out.
    """

    def __init__(self, rate: float, *, poisson: bool = False, seed: int = 0, start: float | None = None) -> None:
        self._gap_s = 1.0 / rate
        self._random = np.random.default_rng(seed) if poisson else None
        self._due = clock() if start is None else start

    def take(self, now: float) -> float | None:
        """The moment that the next request was due, if that is past."""
        due = self._due
        if due > now:
            return None
        self._due = due + (self._gap_s if self._random is None else float(self._random.exponential(self._gap_s)))
        return due

    def wait_s(self, now: float) -> float:
        """Seconds until the next request is due; 0 if it is."""
        return max(0.0, self._due - now)

    def backlog(self, now: float) -> int:
        """How many requests have been due without a free connection to send them on."""
        return max(0, int((now - self._due) / self._gap_s) + 1) if self._due <= now else 0


class Record:
    """The answers so far, in the order in which they came. One thread adds, another one may read what has been added.

    Attributes:
        ends: when each right answer had been read, in seconds of :data:`clock`.
        latencies: seconds from the moment that the request was due.
        errors: moment and text of each request that failed.
    """

    def __init__(self) -> None:
        self.ends = array("d")
        self.latencies = array("d")
        self.errors: list[tuple[float, str]] = []

    def add(self, due: float, end: float, error: str | None = None) -> None:
        """Keeps one answer."""
        if error is not None:
            self.errors.append((end, error))
            return
        self.latencies.append(end - due)
        self.ends.append(end)  # last, since readers go by its length

    def between(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Ends and latencies of the answers from number ``first`` up to ``last``, as copies."""
        return np.array(self.ends[first:last]), np.array(self.latencies[first:last])
