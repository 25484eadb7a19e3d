"""The measurements of a candidate, and how well they meet a goal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tnn_serving.tune.space import Candidate


GoalKind = Literal["latency", "throughput"]


@dataclass(frozen=True, slots=True)
class Point:
    """The measurement of one level of load.

    Attributes:
        concurrency: concurrent requests.
        requests: answered requests.
        rows: average rows per execution of the backend; ``None`` if the server did not report it.
        server_cpu_us: CPU time of the server per request; ``None`` if unknown.
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
        points: one per level of load; empty if there is a problem.
        error: largest difference from the default's answer, as a share of the output's largest value.
        problem: why the candidate is excluded.
    """

    candidate: Candidate
    points: tuple[Point, ...] = ()
    error: float = 0.0
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Goal:
    """The goal of a tuning.

    Attributes:
        kind: "latency": the lowest p50 (geometric mean over all levels of load); "throughput": the most inferences per
            second at any level.
        p99_ms: limit of p99 in milliseconds; for "latency" at every level, for "throughput" at the best level.
    """

    kind: GoalKind = "latency"
    p99_ms: float | None = None

    def score(self, points: Sequence[Point]) -> float:
        """A score, larger for better points.

        Within the p99 limit it is positive and proportional to speed; otherwise it is the negative of the p99 nearest
        to the limit. Minus infinity without points.
        """
        if not points:
            return -math.inf
        within = [point for point in points if self._is_within(point)]
        if self.kind == "throughput":
            best = max((point.inferences_per_s for point in within), default=0.0)
            return best or -min(point.p99_ms for point in points)
        if len(within) < len(points):
            return -max(point.p99_ms for point in points)
        return 1e3 / math.exp(sum(math.log(point.p50_ms) for point in points) / len(points))

    def point(self, points: Sequence[Point]) -> Point | None:
        """The decisive point: for "throughput" the fastest one within the p99 limit, or the one nearest to it, for
        "latency" the first one; ``None`` without points."""
        if not points:
            return None
        if self.kind == "latency":
            return points[0]
        within = [point for point in points if self._is_within(point)]
        if within:
            return max(within, key=lambda point: point.inferences_per_s)
        return min(points, key=lambda point: point.p99_ms)

    def _is_within(self, point: Point) -> bool:
        return self.p99_ms is None or point.p99_ms <= self.p99_ms

    def __str__(self) -> str:
        return self.kind if self.p99_ms is None else f"{self.kind}, p99 at most {self.p99_ms:g} ms"
