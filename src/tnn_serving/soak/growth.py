"""Whether memory grows: a slope, and how sure it is.

Samples of a process' memory come in steps and are much alike from one second to the next, so ordinary least squares
would be far too sure of itself. Two things are done about it. The samples after the warm-up are cut into equal windows
of which the median is taken: what a reload takes for a moment disappears, what leaks stays. And the confidence interval
counts only as many independent windows as there are: n (1 - r) / (1 + r), r being the correlation of neighbouring
residuals (Santer et al. 2000, J. Geophys. Res. 105, 7337-7356).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

WARM_UP = 1 / 3
"""Share of the time that does not count: caches fill, and every arena of memory is used for the first time."""

WINDOWS = 40
"""At most; fewer where there are not :data:`LEAST_SAMPLES` for each."""

LEAST_SAMPLES = 3

MOST_ALIKE = 0.95
"""Largest correlation of neighbours that is believed; more would leave nothing to say."""


class Verdict(str, Enum):
    """What the slope's confidence interval says of a threshold."""

    FLAT = "flat"
    """All of it lies below."""
    GROWS = "grows"
    """All of it lies above."""
    UNCLEAR = "unclear"
    """The threshold lies within: a longer run would tell."""


@dataclass(frozen=True, slots=True)
class Growth:
    """A straight line through memory over time.

    Attributes:
        slope_mb_per_hour: of the line, MB being 10^6 bytes.
        low_mb_per_hour, high_mb_per_hour: 95 % confidence interval of the slope.
        start_mb: the line's value at the end of the warm-up.
        from_s, to_s: the time that counts.
        correlation: of neighbouring windows' residuals.
        windows: number of windows.
    """

    slope_mb_per_hour: float
    low_mb_per_hour: float
    high_mb_per_hour: float
    start_mb: float
    from_s: float
    to_s: float
    correlation: float
    windows: int

    def verdict(self, allowed_mb_per_hour: float) -> Verdict:
        """Whether memory grows faster than is allowed."""
        if self.low_mb_per_hour > allowed_mb_per_hour:
            return Verdict.GROWS
        return Verdict.FLAT if self.high_mb_per_hour <= allowed_mb_per_hour else Verdict.UNCLEAR


def growth(times_s: Sequence[float], memory_bytes: Sequence[float]) -> Growth | None:
    """The line through samples of memory after the warm-up; ``None`` if there are too few to say anything."""
    times, memory = np.asarray(times_s, float), np.asarray(memory_bytes, float) / 1e6
    if len(times) < 2:
        return None
    from_s = float(times[0] + WARM_UP * (times[-1] - times[0]))
    steady = times >= from_s
    times, memory = times[steady], memory[steady]
    count = min(WINDOWS, len(times) // LEAST_SAMPLES)
    if count < 4:
        return None
    x = np.array([part.mean() for part in np.array_split(times, count)])
    y = np.array([np.median(part) for part in np.array_split(memory, count)])
    centred = x - x.mean()
    spread = float(centred @ centred)
    slope = float(centred @ y) / spread
    residuals = y - y.mean() - slope * centred
    squares = float(residuals @ residuals)
    alike = float(residuals[1:] @ residuals[:-1]) / squares if squares > 0 else 0.0
    alike = min(max(alike, 0.0), MOST_ALIKE)
    independent = count * (1 - alike) / (1 + alike)
    freedom = independent - 2
    error = math.sqrt(squares / freedom / spread) * _t(freedom) if freedom > 1 else math.inf
    hour = 3600.0
    return Growth(
        slope * hour,
        (slope - error) * hour,
        (slope + error) * hour,
        float(y.mean() + slope * (from_s - x.mean())),
        from_s,
        float(times[-1]),
        alike,
        count,
    )


def _t(freedom: float) -> float:
    """The 97.5 % point of Student's distribution (Abramowitz & Stegun 26.7.5), within 2 % from 2 degrees on."""
    z, n = 1.959963984540054, freedom
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / n ** (k + 1) for k, term in enumerate(terms))
