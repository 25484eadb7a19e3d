"""How long inferences take, compared in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

BUDGET_S = 0.4
"""Time for one comparison. Each candidate runs at least :data:`LEAST_ROUNDS` times, or once if it is slow."""

LEAST_ROUNDS = 3
MOST_ROUNDS = 30

WORTH_CHANGING = 0.97
"""A later candidate is taken if it needs less than this share of the first one's time: less is noise."""


def time_in_turn(candidates: Mapping[str, Callable[[], object]], budget_s: float = BUDGET_S) -> dict[str, float]:
    """Seconds that each candidate takes: all run in turn, so that a busy moment of the machine slows all of them.

    The result is the lower quartile of the rounds, since other work on the machine only ever adds time.
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
