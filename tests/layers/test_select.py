"""Layers of ``select``: what they compute, in NumPy, and which shapes and weights go with their parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.layers.drawing import BYTE, FLOAT, INT, OPERANDS, Array, Draw, Parameters, Recipe, as_declared
from tests.layers.properties import agreement


def one_hot(layer: Any, indices: Array) -> Array:
    on = np.arange(layer.depth) == np.where(indices < 0, indices + layer.depth, indices)[..., None]
    return np.moveaxis(np.where(on, int(layer.value_on), int(layer.value_off)), -1, layer.axis).astype(np.int32)


def top_k(layer: Any, x: Array) -> list[Array]:
    """For elements that all differ."""
    count = min(layer.k, x.shape[layer.axis])
    order = np.argsort(-x if layer.largest else x, axis=layer.axis, kind="stable").take(range(count), axis=layer.axis)
    order = order if layer.sorted else np.flip(order, axis=layer.axis)
    return [np.take_along_axis(x, order, axis=layer.axis), order.astype(np.int32)]


def histogram(layer: Any, x: Array) -> Array:
    inside = x[(x >= 0) & (x < layer.depth)]
    return np.bincount(inside, minlength=layer.depth).astype(np.int32)


def draw_where(d: Draw, p: Parameters) -> list[Array]:
    shape = d.shape((1, 4))
    dtype = d.choice(FLOAT, INT)
    condition = d.ints(d.broadcast(shape), 0, 1, dtype=BYTE)
    return [d.data(shape, dtype), d.data(d.broadcast(shape), dtype), condition]


def draw_one_hot(d: Draw, p: Parameters) -> list[Array]:
    p["depth"] = d.int(1, 5)
    p["value_off"], p["value_on"] = float(d.int(-2, 2)), float(d.int(-2, 2))
    indices = d.ints(d.shape((1, 3)), -p["depth"], p["depth"])
    p["axis"] = d.int(-indices.ndim - 1, indices.ndim)
    return [indices]


def draw_top_k(d: Draw, p: Parameters) -> list[Array]:
    x = d.distinct(d.shape())
    p["axis"], p["k"] = d.axis(x.ndim), d.int(1, 5)
    x = (x * 8).astype(INT) if d.bool() else x
    if d.bool():
        return [x]
    p[OPERANDS] = [x]
    return [x, np.array([p["k"]], INT)]


def draw_histogram(d: Draw, p: Parameters) -> list[Array]:
    return [d.ints(d.shape(), -1, 5)]


RECIPES: dict[str, Recipe] = {
    "Histogram": Recipe(draw_histogram, histogram),
    "NonZero": Recipe(as_declared, lambda layer, x: np.array(np.nonzero(x), INT)),
    "OneHot": Recipe(draw_one_hot, one_hot),
    "TopK": Recipe(draw_top_k, top_k, constants=(1,)),
    "Where": Recipe(draw_where, lambda layer, a, b, condition: np.where(condition != 0, a, b), constants=(0, 1, 2)),
}

test_engines_and_reference_agree = agreement(RECIPES)
