"""How far numbers are from those that they should be.

The measure is relative: the largest difference as a share of the reference's largest value. Below :func:`floor` there
is nothing to take a share of, and numbers count as equal.
"""

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
        floor: differences up to this one are no differences.
    """

    max_abs: float
    largest: float
    worst: tuple[int, ...] = ()
    value: float = 0.0
    reference: float = 0.0
    floor: float = 0.0

    @property
    def relative(self) -> float:
        """``max_abs`` as a share of ``largest``: 0 up to ``floor``, infinite above it where ``largest`` is 0."""
        if self.max_abs <= self.floor:
            return 0.0
        return self.max_abs / self.largest if self.largest else math.inf

    def within(self, tolerance: float) -> bool:
        """Whether ``max_abs`` is at most this share of ``largest`` or of 1, whichever is larger."""
        return self.max_abs <= tolerance * max(1.0, self.largest)


def floor(dtype: np.dtype) -> float:
    """The largest difference between numbers of a type that is none: 0 for integers.

    Engines take subnormal numbers for zeros (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1,
    10.2.3, flush-to-zero and denormals-are-zero), and a number below the smallest normal one divided by the machine
    epsilon has a rounding error that is subnormal. From there on down nothing keeps its relative precision; LAPACK
    scales what is smaller (``SMLNUM = DLAMCH('S') / DLAMCH('P')``). For float32 that is 9.9e-32. Half is computed in
    float32 and rounded, so that it is one step of its own grid around zero, 6e-8.
    """
    if dtype.kind != "f":
        return 0.0
    info = np.finfo(dtype)
    if info.bits < np.finfo(np.float32).bits:
        return float(info.smallest_subnormal)
    return float(info.smallest_normal) / float(info.eps)


def deviation(value: np.ndarray, reference: np.ndarray) -> Deviation:
    """Compares two arrays of numbers of the same shape, as float64."""
    a, b = value.astype(np.float64), reference.astype(np.float64)
    coarser = max(floor(value.dtype), floor(reference.dtype))
    if not a.size:
        return Deviation(0.0, 0.0, floor=coarser)
    with np.errstate(invalid="ignore"):
        gap = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    gap = np.where(np.isnan(gap), np.inf, gap)
    worst = tuple(int(k) for k in np.unravel_index(int(np.argmax(gap)), gap.shape))
    largest = float(np.max(np.abs(b), where=np.isfinite(b), initial=0.0))
    return Deviation(float(gap[worst]), largest, worst, float(a[worst]), float(b[worst]), coarser)


def relative_error(values: Mapping[str, np.ndarray], references: Mapping[str, np.ndarray]) -> float:
    """The largest :attr:`Deviation.relative` of any array, its ``max_abs`` where the reference is nothing but zeros;
    infinite for other names or shapes, and for unequal elements that are no numbers."""
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
        worst = max(worst, found.relative if found.largest else found.max_abs)
    return worst
