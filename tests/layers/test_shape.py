"""Layers of ``shape``: what they compute, in NumPy, and which shapes and weights go with their parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.layers.drawing import BYTE, FLOAT, INT, OPERANDS, Array, Draw, Parameters, Recipe, as_declared, stored
from tests.layers.properties import agreement


def tiled(layer: Any, x: Array) -> Array:
    return np.tile(x, layer.reps)


def expanded(layer: Any, x: Array) -> Array:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(1 if d == -1 else d for d in layer.shape)))


def draw_tile(d: Draw, p: Parameters) -> list[Array]:
    x = d.data(d.shape((1, 4)), FLOAT, INT, BYTE)
    reps = tuple(d.int(1, 3) for _ in range(d.int(1, 5)))
    p["reps"] = reps
    if d.bool():
        return [x]
    p[OPERANDS] = [x]
    return [x, np.array(reps, INT)]


def draw_expand(d: Draw, p: Parameters) -> list[Array]:
    shape = d.shape((1, 5))
    x = d.data(d.broadcast(shape) or (1,), FLOAT, INT, BYTE)
    p["shape"] = tuple(
        -1 if x.shape[k - len(shape) :][:1] == (size,) and d.bool() else size for k, size in enumerate(shape)
    )
    if d.bool():
        return [x]
    p[OPERANDS] = [x]
    return [x, np.array(p["shape"], INT)]


def draw_constant_of_shape(d: Draw, p: Parameters) -> list[Array]:
    p["value"] = stored(d.data([1], FLOAT, INT, BYTE))
    return [np.array(d.shape((1, 4)), INT)]


def draw_number_range(d: Draw, p: Parameters) -> list[Array]:
    start, limit, delta = d.int(-5, 5), d.int(-5, 5), d.choice(1, 2, 3, -1, -2)
    dtype, dims = d.choice(FLOAT, INT), d.choice((), (1,))
    return [np.full(dims, number, dtype) for number in (start, limit, delta)]


def ranged(layer: Any, start: Array, limit: Array, delta: Array) -> Array:
    numbers = range(*(int(x.reshape(-1)[0]) for x in (start, limit, delta)))
    return np.array(list(numbers), start.dtype)


def filled(layer: Any, shape: Array) -> Array:
    return np.full(tuple(shape), layer.value.array()[0])


RECIPES: dict[str, Recipe] = {
    "ConstantOfShape": Recipe(draw_constant_of_shape, filled),
    "Expand": Recipe(draw_expand, expanded, constants=(1,)),
    "Range": Recipe(draw_number_range, ranged),
    "Shape": Recipe(as_declared, lambda layer, x: np.array(x.shape, INT)),
    "Size": Recipe(as_declared, lambda layer, x: np.array([x.size], INT)),
    "Tile": Recipe(draw_tile, tiled, constants=(1,)),
}

test_engines_and_reference_agree = agreement(RECIPES)
