"""How far numbers are from those that they should be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Deviation:
    """The worst of an array's elements against a reference.

    Attributes:
        max_abs: largest absolute difference; infinite where a NaN or an infinity stands on one side only.
        largest: largest absolute value of the reference, of its finite ones; 0 if there are none.
        worst: index of the largest difference; empty for arrays without elements.
        value, reference: the two numbers there.
    """

    max_abs: float
    largest: float
    worst: tuple[int, ...] = ()
    value: float = 0.0
    reference: float = 0.0

    @property
    def relative(self) -> float:
        """``max_abs`` as a share of ``largest``; infinite for any difference from nothing but zeros."""
        if self.max_abs == 0:
            return 0.0
        return self.max_abs / self.largest if self.largest else math.inf

    def within(self, tolerance: float) -> bool:
        """Whether ``max_abs`` is at most this share of ``largest`` or of 1, whichever is larger."""
        return self.max_abs <= tolerance * max(1.0, self.largest)


def deviation(value: np.ndarray, reference: np.ndarray) -> Deviation:
    """Compares two arrays of numbers of the same shape, as float64."""
    a, b = value.astype(np.float64), reference.astype(np.float64)
    if not a.size:
        return Deviation(0.0, 0.0)
    with np.errstate(invalid="ignore"):
        gap = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    gap = np.where(np.isnan(gap), np.inf, gap)
    worst = tuple(int(k) for k in np.unravel_index(int(np.argmax(gap)), gap.shape))
    largest = float(np.max(np.abs(b), where=np.isfinite(b), initial=0.0))
    return Deviation(float(gap[worst]), largest, worst, float(a[worst]), float(b[worst]))


def relative_error(values: Mapping[str, np.ndarray], references: Mapping[str, np.ndarray]) -> float:
    """The largest difference of any array as a share of its reference's largest value, or of 1 where that is nothing
    but zeros; infinite for other names or shapes, and for unequal elements that are no numbers."""
    if values.keys() != references.keys():
        return math.inf
    worst = 0.0
    for name, reference in references.items():
        value = values[name]
        if value.shape != reference.shape:
            return math.inf
        if reference.dtype.kind not in "fiub":
            worst = max(worst, 0.0 if np.array_equal(value, reference) else math.inf)
            continue
        found = deviation(value, reference)
        worst = max(worst, found.max_abs / (found.largest or 1.0))
    return worst
