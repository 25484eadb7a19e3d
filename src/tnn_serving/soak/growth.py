"""Memory growth: a slope and its confidence interval.

A process's memory changes in steps, and successive samples are strongly correlated, so the confidence interval of
ordinary least squares is far too narrow. Two corrections are made. First, the samples after the warm-up are divided
into equal windows, and the median of each is used: short peaks during a reload disappear, leaks remain. Second, the
confidence interval uses the effective number of independent windows, n (1 - r) / (1 + r), where r is the lag-1
correlation of the residuals (Santer et al. 2000, J. Geophys. Res. 105, 7337-7356).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

WARM_UP_SHARE = 1 / 3
"""Share of the time that is ignored: caches fill, and every memory arena is used for the first time."""

MAX_WINDOWS = 40
"""Number of windows; fewer if they would have less than :data:`MIN_SAMPLES` samples each."""

MIN_SAMPLES = 3

MAX_CORRELATION = 0.95
"""Upper limit of the lag-1 correlation; above it, too few independent windows remain for a verdict."""


class Verdict(str, Enum):
    """The slope's confidence interval compared with a threshold."""

    FLAT = "flat"
    """All of the interval is below the threshold."""
    GROWS = "grows"
    """All of the interval is above the threshold."""
    UNCLEAR = "unclear"
    """The threshold is within the interval: a longer run is needed."""


@dataclass(frozen=True, slots=True)
class Growth:
    """A straight line through memory over time.

    Attributes:
        slope_mb_per_hour: of the line, MB being 10^6 bytes.
        low_mb_per_hour, high_mb_per_hour: 95 % confidence interval of the slope.
        start_mb: the line's value at the end of the warm-up.
        from_s, to_s: the time span of the line, without the warm-up.
        correlation: lag-1 correlation of the windows' residuals.
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
        """Whether memory grows faster than allowed."""
        if self.low_mb_per_hour > allowed_mb_per_hour:
            return Verdict.GROWS
        return Verdict.FLAT if self.high_mb_per_hour <= allowed_mb_per_hour else Verdict.UNCLEAR


def fit_growth(times_s: Sequence[float], memory_bytes: Sequence[float], filled_s: float = 0.0) -> Growth | None:
    """The line through the samples of memory after the warm-up; ``None`` if there are too few.

    Args:
        filled_s: the warm-up does not end earlier.
    """
    times, memory = np.asarray(times_s, float), np.asarray(memory_bytes, float) / 1e6
    if len(times) < 2:
        return None
    from_s = max(filled_s, float(times[0] + WARM_UP_SHARE * (times[-1] - times[0])))
    steady = times >= from_s
    times, memory = times[steady], memory[steady]
    count = min(MAX_WINDOWS, len(times) // MIN_SAMPLES)
    if count < 4:
        return None
    x = np.array([part.mean() for part in np.array_split(times, count)])
    y = np.array([np.median(part) for part in np.array_split(memory, count)])
    centred = x - x.mean()
    spread = float(centred @ centred)
    slope = float(centred @ y) / spread
    residuals = y - y.mean() - slope * centred
    squares = float(residuals @ residuals)
    correlation = float(residuals[1:] @ residuals[:-1]) / squares if squares > 0 else 0.0
    correlation = min(max(correlation, 0.0), MAX_CORRELATION)
    independent = count * (1 - correlation) / (1 + correlation)
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
        correlation,
        count,
    )


def _t(freedom: float) -> float:
    """The 97.5 % quantile of Student's distribution (Abramowitz & Stegun 26.7.5), within 2 % from 2 degrees of freedom
    upwards."""
    z, n = 1.959963984540054, freedom
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / n ** (k + 1) for k, term in enumerate(terms))
