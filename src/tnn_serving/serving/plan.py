"""How a model's inferences share the cores: engine threads, streams, and executions in flight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tnn_serving.engines.cpu import Cores

PerformanceHint = Literal["LATENCY", "THROUGHPUT"]


def read_hint(text: str) -> PerformanceHint:
    """A hint by OpenVINO's name for it. Raises ValueError for an unknown one."""
    hints: tuple[PerformanceHint, ...] = get_args(PerformanceHint)
    for hint in hints:
        if text.upper() == hint:
            return hint
    raise ValueError(f"expected {' or '.join(hints)}")


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
        in_flight: executions that an instance may have begun: one more than run, so that the next one's input is
            read and the last one's answer sent while the engine works.
    """

    threads: int
    streams: int
    in_flight: int
    reason: str


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
        hint: THROUGHPUT runs as many inferences side by side as there are threads, LATENCY one with all of them, unless
            ``instances`` asks for more.
    """
    used = threads or cores.count
    reasons = [f"{used} threads ({'asked for' if threads else cores.reason})"]
    if streams:
        side_by_side, why = streams, "asked for"
    elif hint == "THROUGHPUT":
        side_by_side, why = used, "THROUGHPUT: one a thread"
    else:
        side_by_side = min(instances, used)
        why = "LATENCY: all threads for one inference" if instances == 1 else f"{instances} instances"
    reasons.append(f"{side_by_side} inferences side by side ({why})")
    return Plan(used, side_by_side, side_by_side + 1, ", ".join(reasons))
