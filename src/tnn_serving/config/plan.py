"""How a model's inferences share the cores: engine threads, streams, and executions in flight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tnn_serving.engines.cpu import Cores

PerformanceHint = Literal["AUTO", "LATENCY", "THROUGHPUT"]


def read_hint(text: str) -> PerformanceHint:
    """A hint by OpenVINO's name for it. Raises ValueError for an unknown one."""
    hints: tuple[PerformanceHint, ...] = get_args(PerformanceHint)
    for hint in hints:
        if text.upper() == hint:
            return hint
    raise ValueError(f"expected {', '.join(hints)}")


def takes_turns(config: Mapping[str, Any]) -> bool:
    """Whether instances need a resource of Triton's rate limiter, which takes it back when a request's call returns."""
    groups = config.get("instance_group") or []
    return any((group.get("rate_limiter") or {}).get("resources") for group in groups)


@dataclass(frozen=True, slots=True)
class Plan:
    """Numbers, and the sentence that says why.

    Attributes:
        threads: of the engine, all streams together.
        streams: inferences that run side by side.
        elastic: where more inferences come than that, they get one thread each.
        reason: the sentence.
    """

    threads: int
    streams: int
    elastic: bool
    reason: str

    @property
    def in_flight(self) -> int:
        """Executions that an instance may have begun: one more than run, so that the next one's input is read and the
        last one's answer sent while the engine works."""
        return (self.threads if self.elastic else self.streams) + 1


def instances(config: Mapping[str, Any]) -> int:
    """Instances that a configuration asks for."""
    groups = config.get("instance_group") or []
    return max(1, sum(int(group.get("count", 1) or 1) for group in groups))


def plan(cores: Cores, *, instances: int, threads: int, streams: int, hint: PerformanceHint) -> Plan:
    """Divides the cores.

    Args:
        cores: what the process may use.
        instances: of the model, as ``instance_group`` says.
        threads, streams: as asked for; 0 leaves it to the plan.
        hint: THROUGHPUT runs as many inferences side by side as there are threads, LATENCY one with all of them. AUTO
            is LATENCY while few requests come, THROUGHPUT while many do. ``instances`` above one are a number of
            inferences side by side to anything but THROUGHPUT.
    """
    used = threads or cores.count
    reasons = [f"{used} threads ({'asked for' if threads else cores.reason})"]
    elastic = hint == "AUTO" and not streams and instances == 1 and used > 1
    if streams:
        side_by_side, why = streams, "asked for"
    elif hint == "THROUGHPUT":
        side_by_side, why = used, "THROUGHPUT: one a thread"
    elif instances > 1:
        side_by_side, why = min(instances, used), f"{instances} instances"
    else:
        side_by_side, why = 1, f"{hint}: all threads for one inference" + (", one for each while many come" * elastic)
    reasons.append(f"{side_by_side} inferences side by side ({why})")
    return Plan(used, side_by_side, elastic, ", ".join(reasons))
