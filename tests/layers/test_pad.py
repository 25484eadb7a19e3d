"""Layers of ``pad``: what they compute, in NumPy, and which shapes and weights go with their parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.layers.drawing import FLOAT, INT, OPERANDS, Array, Draw, Parameters, Recipe
from tests.layers.properties import agreement


def padded(layer: Any, x: Array) -> Array:
    if hasattr(layer, "pads"):
        pads = list(zip(layer.pads[: x.ndim], layer.pads[x.ndim :], strict=True))
    else:
        channels, rows = (layer.channel_begin, layer.channel_end), (layer.top, layer.bottom)
        pads = [(0, 0), channels, rows, (layer.left, layer.right)]
    if layer.mode:
        return np.pad(x, pads, mode="reflect" if layer.mode == 1 else "edge")
    return np.pad(x, pads, constant_values=layer.value if x.dtype.kind == "f" else int(layer.value))


def draw_pad(d: Draw, p: Parameters) -> list[Array]:
    shape = d.shape((4, 4))
    for name, size in (("top", 2), ("bottom", 2), ("left", 3), ("right", 3)):
        p[name] = d.int(0, shape[size] - 1 if p["mode"] == 1 else 3)
    for name in ("channel_begin", "channel_end"):
        p[name] = 0 if p["mode"] else d.int(0, 2)
    return [d.data(shape, FLOAT, INT)]


def draw_pad_v2(d: Draw, p: Parameters) -> list[Array]:
    shape = d.shape((1, 5))
    p["pads"] = tuple(d.int(0, size - 1 if p["mode"] == 1 else 2) for size in shape * 2)
    x = d.data(shape, FLOAT, INT)
    if d.bool():
        return [x]
    p[OPERANDS] = [x]
    return [x, np.array(p["pads"], INT)]


RECIPES: dict[str, Recipe] = {
    "Pad": Recipe(draw_pad, padded),
    "PadV2": Recipe(draw_pad_v2, padded, constants=(1,)),
}

test_engines_and_reference_agree = agreement(RECIPES)
