"""Arithmetic that the references of several layer modules share: NumPy, slow, short, for small arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tests.layers.drawing import Array, per_axis


def erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def relu(x: Array) -> Array:
    return np.maximum(x, 0)


def relu6(x: Array) -> Array:
    return np.clip(x, 0, 6)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def swish(x: Array) -> Array:
    return x * sigmoid(x)


def parameter(tensor: Any, *dims: int) -> Array:
    """Stored weights as float64."""
    return tensor.array().astype(np.float64).reshape(dims)


def spatial(layer: Any, *names: str) -> list[tuple[int, ...]]:
    """Parameters that have one value per axis, as tuples."""
    return [per_axis(getattr(layer, name)) for name in names]


def windows(x: Array, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Array:
    """All windows of the spatial axes: [N, C, out..., kernel...]."""
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    view = sliding_window_view(x, reach, axis=tuple(range(2, x.ndim)))
    steps = tuple(slice(None, None, s) for s in stride)
    taps = tuple(slice(None, None, d) for d in dilation)
    return view[(slice(None), slice(None), *steps, *taps)]


def surrounded(x: Array, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Array:
    """``x`` with a value around its spatial axes; negative pads crop."""
    x = np.pad(x, [(0, 0), (0, 0), *((max(a, 0), max(b, 0)) for a, b in pads)], constant_values=value)
    crop = [slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(pads, x.shape[2:], strict=True)]
    return x[(slice(None), slice(None), *crop)]
