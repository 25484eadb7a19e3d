"""Which engine runs a network: by name, or the one that is measured to be faster."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from tnn_serving.engines.base import Engine
from tnn_serving.engines.onnxruntime.engine import OnnxRuntime
from tnn_serving.engines.openvino.engine import OpenVINO
from tnn_serving.errors import ConfigError

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (OpenVINO(), OnnxRuntime())}
"""All engines by name; the first one is taken where there is nothing to choose between them."""

AUTO = "auto"

BUDGET_S = 0.4
"""Time for measuring one choice. Each candidate runs at least :data:`LEAST_ROUNDS` times, or once if it is slow."""

LEAST_ROUNDS = 3
MOST_ROUNDS = 30

WORTH_CHANGING = 0.97
"""A later candidate is taken if it needs less than this share of the first one's time: less is noise."""


def engine_named(name: str) -> list[Engine]:
    """The engines to try for a name, best first: one of that name, or all of them for ``auto``.

    Raises ConfigError for an unknown name.
    """
    if name == AUTO:
        return list(ENGINES.values())
    if name not in ENGINES:
        raise ConfigError("unknown engine", expected=f"auto, {', '.join(ENGINES)}", found=name)
    return [ENGINES[name]]


def measure(candidates: Mapping[str, Callable[[], object]], budget_s: float = BUDGET_S) -> dict[str, float]:
    """Seconds that each candidate takes: all run in turn, so that a busy moment of the machine meets all of them.

    The lower quartile of the rounds is told, since other work on the machine only ever adds.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    start = time.perf_counter()
    for run in candidates.values():
        run()  # the first inference packs weights
    least = LEAST_ROUNDS if time.perf_counter() - start < 2 * budget_s else 1
    end = time.perf_counter() + budget_s
    for done in range(MOST_ROUNDS):
        if done >= least and time.perf_counter() > end:
            break
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: sorted(taken)[len(taken) // 4] for name, taken in times.items()}


def fastest(seconds: Mapping[str, float]) -> str:
    """The candidate to take: the first, unless another one is clearly faster."""
    first = next(iter(seconds))
    best = min(seconds, key=lambda name: seconds[name])
    return best if seconds[best] < WORTH_CHANGING * seconds[first] else first
