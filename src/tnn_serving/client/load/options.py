"""What a benchmark sends, and how it measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

SharedMemory = Literal["none", "system"]

OPEN_LOOP_CONNECTIONS = 64
"""Default of how many requests of an open loop can be in flight; the others wait, and their latency includes the
wait."""


@dataclass(frozen=True, slots=True)
class Level:
    """A level of load: concurrent requests, or requests per second."""

    concurrency: int | None = None
    rate: float | None = None

    @property
    def label(self) -> str:
        """The level as a title."""
        return f"concurrency {self.concurrency}" if self.rate is None else f"rate {self.rate:g}"


@dataclass(frozen=True, slots=True)
class BenchRequests:
    """The requests to send; see :class:`~tnn_serving.client.load.measure.LoadTarget`."""

    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    data: Path | None = None
    batch: int = 1
    seed: int = 0
    shared_memory: SharedMemory = "none"
    verify: bool = False


@dataclass(frozen=True, slots=True)
class Pace:
    """How to send and measure; see :func:`~tnn_serving.client.load.measure.measure_load`."""

    poisson: bool = False
    connections: int = OPEN_LOOP_CONNECTIONS
    window_s: float = 2.0
    stability: float = 0.05
    max_windows: int = 10
