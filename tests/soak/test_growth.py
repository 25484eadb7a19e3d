"""The verdict on memory growth, with and without leaks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tnn_serving.soak.growth import Verdict, _t, fit_growth

SECONDS = np.arange(0.0, 600.0)
ALLOWED = 10.0


def noisy(seed: int, correlation: float = 0.9, spread_mb: float = 3.0) -> np.ndarray:
    """Noise in which successive samples are correlated."""
    random = np.random.default_rng(seed)
    noise = np.zeros(len(SECONDS))
    for k in range(1, len(noise)):
        noise[k] = correlation * noise[k - 1] + random.normal(0, spread_mb)
    return noise


def test_a_leak_is_found_with_its_slope() -> None:
    leak_mb = 300 + SECONDS * 600 / 3600
    line = fit_growth(SECONDS, (leak_mb + noisy(0, 0.0, 1.0)) * 1e6)
    assert line is not None
    assert line.low_mb_per_hour < 600 < line.high_mb_per_hour
    assert line.verdict(ALLOWED) is Verdict.GROWS
    assert line.from_s == pytest.approx(200, abs=1)
    assert line.start_mb == pytest.approx(300 + 200 / 6, abs=2)


def test_the_warm_up_is_ignored() -> None:
    filled = np.minimum(SECONDS, 150) * 2 + 100
    line = fit_growth(SECONDS, filled * 1e6)
    assert line is not None
    assert line.slope_mb_per_hour == pytest.approx(0, abs=1e-6)
    assert line.verdict(ALLOWED) is Verdict.FLAT


def test_noise_is_rarely_growth() -> None:
    """Correlated noise widens the confidence interval."""
    found = [fit_growth(SECONDS, (300 + noisy(seed, 0.98)) * 1e6) for seed in range(200)]
    assert sum(line is not None and line.verdict(0.0) is Verdict.GROWS for line in found) <= 12  # 2.5 % would be 5
    assert np.mean([line.correlation for line in found if line is not None]) > 0.3


def test_short_peaks_are_not_growth() -> None:
    spikes = np.where(SECONDS % 30 < 3, 80.0, 0.0) * (SECONDS / 600)
    line = fit_growth(SECONDS, (300 + spikes + noisy(1, 0.0, 0.1)) * 1e6)
    assert line is not None
    assert line.verdict(ALLOWED) is not Verdict.GROWS


HALF_AN_HOUR_S = np.arange(0.0, 1800.0, 4.0)
"""A sample at rest takes one second, and the load between two takes three."""


def at_rest(seed: int, leak_mb_per_hour: float) -> np.ndarray:
    """Memory as it is at rest: it fills while the first minutes pass, and differs by some MB from sample to sample, as
    the allocator finds room for models that are reloaded."""
    times_s = HALF_AN_HOUR_S
    filling_mb = 15 - 15 * np.exp(-times_s / 90)
    return (
        200 + filling_mb + leak_mb_per_hour * times_s / 3600 + np.random.default_rng(seed).normal(0, 2.5, len(times_s))
    )


@pytest.mark.parametrize(
    ("leak_mb_per_hour", "verdict"), [(0.0, Verdict.FLAT), (25.0, Verdict.GROWS), (100.0, Verdict.GROWS)]
)
def test_half_an_hour_is_enough_for_a_verdict(leak_mb_per_hour: float, verdict: Verdict) -> None:
    for seed in range(100):
        line = fit_growth(HALF_AN_HOUR_S, at_rest(seed, leak_mb_per_hour) * 1e6, filled_s=60.0)
        assert line is not None
        assert line.verdict(ALLOWED) is verdict, line


def test_the_warm_up_lasts_until_stores_are_full() -> None:
    filled = np.minimum(SECONDS, 400) * 2 + 100
    line = fit_growth(SECONDS, filled * 1e6, filled_s=400.0)
    assert line is not None
    assert line.from_s == 400.0
    assert line.slope_mb_per_hour == pytest.approx(0, abs=1e-6)
    early = fit_growth(SECONDS, filled * 1e6, filled_s=10.0)
    assert early is not None
    assert early.from_s == pytest.approx(200, abs=1)
    assert early.slope_mb_per_hour > 1000


def test_a_run_that_did_not_fill_the_stores_has_no_verdict() -> None:
    assert fit_growth(SECONDS, SECONDS, filled_s=math.inf) is None


def test_a_short_run_has_no_verdict() -> None:
    assert fit_growth([], []) is None
    assert fit_growth(SECONDS[:10], SECONDS[:10]) is None


@pytest.mark.parametrize(("freedom", "point"), [(3, 3.182), (5, 2.571), (10, 2.228), (38, 2.024), (1e6, 1.960)])
def test_points_of_students_distribution(freedom: float, point: float) -> None:
    assert _t(freedom) == pytest.approx(point, rel=0.02)
