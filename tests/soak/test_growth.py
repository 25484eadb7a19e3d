"""The verdict on memory growth, with and without leaks."""

from __future__ import annotations

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


def test_a_short_run_has_no_verdict() -> None:
    assert fit_growth([], []) is None
    assert fit_growth(SECONDS[:10], SECONDS[:10]) is None


@pytest.mark.parametrize(("freedom", "point"), [(3, 3.182), (5, 2.571), (10, 2.228), (38, 2.024), (1e6, 1.960)])
def test_points_of_students_distribution(freedom: float, point: float) -> None:
    assert _t(freedom) == pytest.approx(point, rel=0.02)
