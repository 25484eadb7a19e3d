"""What was measured of a candidate, and how well that serves a goal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tnn_serving.tune.space import Candidate

Kind = Literal["latency", "throughput"]


@dataclass(frozen=True, slots=True)
class Point:
    """One level of load.

    Attributes:
        concurrency: requests in flight all the time.
        requests: that were answered.
        rows: an execution of the backend, on average; ``None`` if the server did not tell.
        server_cpu_us: processor time of the server a request; ``None`` if it cannot be told.
        stable: the windows agreed.
    """

    concurrency: int
    requests: int
    inferences_per_s: float
    p50_ms: float
    p99_ms: float
    rows: float | None
    server_cpu_us: float | None
    stable: bool


@dataclass(frozen=True, slots=True)
class Trial:
    """One measurement of a candidate.

    Attributes:
        points: by level of load; empty if there is a problem.
        error: largest difference to the default's answer, as a share of the output's largest value.
        problem: why the candidate is out.
    """

    candidate: Candidate
    points: tuple[Point, ...] = ()
    error: float = 0.0
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Goal:
    """What is wanted.

    Attributes:
        kind: "latency": the lowest p50, over all levels of load (their geometric mean); "throughput": the most
            inferences a second, at any level.
        p99_ms: bound of p99 in milliseconds; for "latency" at every level, for "throughput" at the one that counts.
    """

    kind: Kind = "latency"
    p99_ms: float | None = None

    def score(self, points: Sequence[Point]) -> float:
        """A number that is larger where the goal is met better.

        Positive, proportional to speed, where the bound holds; otherwise minus the p99 that comes nearest to it.
        Minus infinity without points.
        """
        if not points:
            return -math.inf
        kept = [point for point in points if self._holds(point)]
        if self.kind == "throughput":
            best = max((point.inferences_per_s for point in kept), default=0.0)
            return best or -min(point.p99_ms for point in points)
        if len(kept) < len(points):
            return -max(point.p99_ms for point in points)
        return 1e3 / math.exp(sum(math.log(point.p50_ms) for point in points) / len(points))

    def point(self, points: Sequence[Point]) -> Point | None:
        """The level that counts: the fastest that keeps the bound, or comes nearest to it; ``None`` without points."""
        if not points:
            return None
        if self.kind == "latency":
            return points[0]
        kept = [point for point in points if self._holds(point)]
        if kept:
            return max(kept, key=lambda point: point.inferences_per_s)
        return min(points, key=lambda point: point.p99_ms)

    def _holds(self, point: Point) -> bool:
        return self.p99_ms is None or point.p99_ms <= self.p99_ms

    def __str__(self) -> str:
        return self.kind if self.p99_ms is None else f"{self.kind}, p99 at most {self.p99_ms:g} ms"
