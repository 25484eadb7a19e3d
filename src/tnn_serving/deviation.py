"""How much arrays differ from a reference.

The measure is relative: the largest difference as a share of the reference's largest value. Differences up to
:func:`floor` count as none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

BLOCK = 1 << 18
"""Elements that are compared at a time."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """The largest difference between an array and a reference.

    Attributes:
        max_abs: largest absolute difference; infinite if only one side has a NaN or an infinity.
        largest: largest absolute finite value of the reference; 0 if there is none.
        worst: index of the largest difference; empty for arrays without elements.
        value, reference: the two numbers at that index.
        floor: differences up to this value count as none.
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
    """The largest difference between numbers of a type that counts as none: 0 for integers.

    Engines treat subnormal numbers as zero (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1,
    10.2.3, flush-to-zero and denormals-are-zero). The rounding error of a number below the smallest normal number
    divided by the machine epsilon is subnormal, so such a number has no relative precision; LAPACK scales it
    (``SMLNUM = DLAMCH('S') / DLAMCH('P')``). For float32 this threshold is 9.9e-32. float16 is computed in float32 and
    rounded, so its threshold is the smallest subnormal float16, 6e-8.
    """
    if dtype.kind != "f":
        return 0.0
    info = np.finfo(dtype)
    if info.bits < np.finfo(np.float32).bits:
        return float(info.smallest_subnormal)
    return float(info.smallest_normal) / float(info.eps)


def deviation(value: np.ndarray, reference: np.ndarray) -> Deviation:
    """Compares two arrays of numbers of the same shape, as float64: block by block, since copies of them as a whole
    would take several times their memory."""
    coarser = max(floor(value.dtype), floor(reference.dtype))
    left, right = value.reshape(-1), reference.reshape(-1)
    most, at, largest = 0.0, 0, 0.0
    for start in range(0, left.size, BLOCK):
        a, b = (array[start : start + BLOCK].astype(np.float64) for array in (left, right))
        with np.errstate(invalid="ignore"):
            gap = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
        gap = np.where(np.isnan(gap), np.inf, gap)
        worst = int(np.argmax(gap))
        if gap[worst] > most:
            most, at = float(gap[worst]), start + worst
        largest = max(largest, float(np.max(np.abs(b), where=np.isfinite(b), initial=0.0)))
    if not left.size:
        return Deviation(0.0, 0.0, floor=coarser)
    place = tuple(int(k) for k in np.unravel_index(at, reference.shape))
    return Deviation(most, largest, place, float(left[at]), float(right[at]), coarser)


def relative_error(values: Mapping[str, np.ndarray], references: Mapping[str, np.ndarray]) -> float:
    """The largest :attr:`Deviation.relative` of all arrays; ``max_abs`` where the reference is all zeros.

    Infinite if names or shapes differ, or if elements that are not numbers differ.
    """
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
