"""Layers of ``pooling``: what they compute, in NumPy, and which shapes and weights go with their parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.layers.drawing import UNCHECKED, Array, Draw, Parameters, Recipe, per_axis
from tests.layers.properties import agreement
from tests.layers.reference import spatial, surrounded, windows
from tnn_serving.layers.parameters import HW


def pooling(layer: Any, x: Array) -> Array:
    """Explicit padding: out = (n + 2p - k) / s + 1; averages count the elements of the input only."""
    kernel, stride, pad = spatial(layer, "kernel", "stride", "pad")
    kernel = tuple(k or n for k, n in zip(kernel, x.shape[2:], strict=True))
    pads, lowest = [], np.finfo(np.float32).min
    for n, k, s, p in zip(x.shape[2:], kernel, stride, pad, strict=True):
        room = n + 2 * p - k
        out = (-(-room // s) if layer.ceil_mode == 1 else room // s) + 1
        pads.append((p, max((out - 1) * s + k - n - p, -n)))
    ones = (1,) * len(kernel)
    inner = tuple(range(-len(kernel), 0))
    taken = windows(surrounded(x, pads, lowest), kernel, stride, ones)
    inside = taken != lowest
    if layer.pool_type == 0:
        return np.where(inside.any(axis=inner), taken.max(axis=inner), 0)
    return np.where(inside, taken, 0).sum(axis=inner) / np.maximum(inside.sum(axis=inner), 1)


def draw_pooling(d: Draw, p: Parameters) -> list[Array]:
    """The window fits, and the first one is not wholly in the padding; ceil mode may make such a last one."""
    kernel, pad = per_axis(p["kernel"]), per_axis(p["pad"])
    pad = tuple(min(n, max(k - 1, 0)) for k, n in zip(kernel, pad, strict=True))
    kind = type(p["kernel"])
    p["pad"] = kind(*pad) if isinstance(p["kernel"], tuple) else pad[0]
    p["kernel_index"] = kind(*(-1 for _ in kernel)) if isinstance(p["kernel"], tuple) else -1
    if "is_adaptive_pool" in p:
        p["is_adaptive_pool"] = int(d.int(0, 4) == 0)
        p["output"] = HW(d.int(1, 3), d.int(1, 3))
        p[UNCHECKED] = bool(p["is_adaptive_pool"])
    p[UNCHECKED] = p.get(UNCHECKED, False) or p["pad_type"] != -1
    least = [max(k, s) for k, s in zip(kernel, per_axis(p["stride"]), strict=True)]
    return [d.floats((d.int(1, 2), d.int(1, 3), *(n + d.int(0, 5) for n in least)))]


RECIPES: dict[str, Recipe] = {
    "Pooling": Recipe(draw_pooling, pooling, examples=25),
    "Pooling1D": Recipe(draw_pooling, pooling, examples=15),
    "Pooling3D": Recipe(draw_pooling, pooling, examples=12),
}

test_engines_and_reference_agree = agreement(RECIPES)
