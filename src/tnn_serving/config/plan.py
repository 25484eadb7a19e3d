"""How a model's inferences share the cores: engine threads, streams, and executions in flight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tnn_serving.engines.cpu import Cores

PerformanceHint = Literal["AUTO", "LATENCY", "THROUGHPUT"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How the cores are divided.

    Attributes:
        threads: of the engine, all streams together.
        streams: inferences that run in parallel.
        concurrent: when more inferences than that are requested at a time, each gets one thread.
        reason: the numbers and where they come from, as a sentence.
    """

    threads: int
    streams: int
    concurrent: bool
    reason: str

    @property
    def in_flight(self) -> int:
        """Executions that an instance may have begun: one more than run, so that the input of the next one is read and
        the answer of the last one sent while the engine works."""
        return (self.threads if self.concurrent else self.streams) + 1


def plan(cores: Cores, *, instances: int, threads: int, streams: int, hint: PerformanceHint) -> Plan:
    """Divides the cores.

    Args:
        cores: what the process may use.
        instances: of the model, as ``instance_group`` has them.
        threads, streams: as configured; 0 leaves it to the plan.
        hint: THROUGHPUT runs as many inferences in parallel as there are threads, LATENCY one with all of them. AUTO
            is LATENCY at low load and THROUGHPUT at high load. Without THROUGHPUT, more than one of ``instances`` is a
            number of inferences in parallel.
    """
    used = threads or cores.count
    concurrent = hint == "AUTO" and not streams and instances == 1 and used > 1
    if streams:
        parallel, why = streams, "as configured"
    elif hint == "THROUGHPUT":
        parallel, why = used, "THROUGHPUT: one per thread"
    elif instances > 1:
        parallel, why = min(instances, used), f"{instances} instances"
    else:
        parallel, why = 1, f"{hint}: all threads for one inference" + (", one for each at high load" * concurrent)
    inferences = "1 inference at a time" if parallel == 1 else f"{parallel} inferences in parallel"
    counted = "1 thread" if used == 1 else f"{used} threads"
    reason = f"{counted} ({'as configured' if threads else cores.reason}), {inferences} ({why})"
    return Plan(used, parallel, concurrent, reason)
