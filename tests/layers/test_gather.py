"""Layers of ``gather``: what they compute, in NumPy, and which shapes and weights go with their parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.layers.drawing import BYTE, FLOAT, INT, OPERANDS, Array, Draw, Parameters, Recipe, stored
from tests.layers.properties import agreement
from tnn_serving.layers.parameters import CBool


def gathered(layer: Any, data: Array, indices: Array) -> Array:
    return np.take(data, indices, axis=layer.axis)


def gathered_nd(layer: Any, data: Array, indices: Array) -> Array:
    return data[tuple(np.moveaxis(indices, -1, 0))]


def scattered(layer: Any, data: Array, indices: Array, updates: Array) -> Array:
    y = data.copy()
    for place in np.ndindex(*indices.shape):
        target = list(place)
        target[layer.axis] = int(indices[place])
        y[tuple(target)] = updates[place] + (y[tuple(target)] if getattr(layer, "op", 0) else 0)
    return y


def scattered_nd(layer: Any, data: Array, indices: Array, updates: Array) -> Array:
    y = data.copy()
    for place in np.ndindex(*indices.shape[:-1]):
        y[tuple(indices[place])] = updates[place]
    return y


def draw_gather(d: Draw, p: Parameters) -> list[Array]:
    data = d.data(d.shape((1, 4)), FLOAT, INT, BYTE)
    p["axis"] = d.axis(data.ndim)
    size = data.shape[p["axis"]]
    indices = d.ints(d.shape((1, 3)), -size, size - 1)
    p[OPERANDS] = [data, indices]
    inside = d.choice("neither", "data", "indices")
    p["data_in_resource"], p["indices_in_resource"] = CBool(inside == "data"), CBool(inside == "indices")
    if inside == "data":
        p["has_data"], p["data"] = 1, stored(data)
        return [indices]
    if inside == "indices":
        p["has_indices"], p["indices"] = 1, stored(indices)
        return [data]
    return [data, indices]


def _tuples(d: Draw, shape: Sequence[int], depth: int, count: int) -> Array:
    """Different index tuples [n, depth], n up to ``count``."""
    places = list(np.ndindex(*shape[:depth]))
    order = np.random.RandomState(d.int(0, 2**20)).permutation(len(places))[:count]
    return np.array([places[k] for k in order], INT).reshape(-1, depth)


def draw_gather_nd(d: Draw, p: Parameters) -> list[Array]:
    p["batch_dims"] = 0
    data = d.data(d.shape((1, 4)), FLOAT, INT)
    indices = _tuples(d, data.shape, d.int(1, data.ndim), 6)
    return [data, indices - np.where(d.bool(), np.array(data.shape[: indices.shape[-1]], INT), 0).astype(INT)]


def draw_scatter_nd(d: Draw, p: Parameters) -> list[Array]:
    data = d.floats(d.shape((1, 4)))
    indices = _tuples(d, data.shape, d.int(1, data.ndim), 4)
    return [data, indices, d.floats((len(indices), *data.shape[indices.shape[-1] :]))]


def draw_scatter(d: Draw, p: Parameters) -> list[Array]:
    """Indices that differ along the axis, so that no element is written twice."""
    data = d.floats(d.shape((1, 4)))
    p["axis"] = d.axis(data.ndim)
    order = np.argsort(d.distinct(data.shape), axis=p["axis"]).astype(INT)
    dims = [d.int(1, size) for size in data.shape]
    indices = order[tuple(slice(0, size) for size in dims)]
    indices = indices - np.int32(data.shape[p["axis"]]) if d.bool() else indices
    return [data, indices, d.floats(dims)]


RECIPES: dict[str, Recipe] = {
    "Gather": Recipe(draw_gather, gathered, examples=12, constants=(0, 1)),
    "GatherND": Recipe(draw_gather_nd, gathered_nd, constants=(1,)),
    "Scatter": Recipe(draw_scatter, scattered),
    "ScatterElements": Recipe(draw_scatter, scattered, constants=(1,)),
    "ScatterND": Recipe(draw_scatter_nd, scattered_nd, constants=(1,)),
}

test_engines_and_reference_agree = agreement(RECIPES)
