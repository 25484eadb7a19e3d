"""Layers of ``reshape``: what they compute, in NumPy, and which shapes and weights go with their parameters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.layers.drawing import BYTE, FLOAT, INT, OPERANDS, Array, Draw, Parameters, Recipe
from tests.layers.properties import agreement


def permuted(layer: Any, x: Array) -> Array:
    return x.transpose(layer.orders)


def flattened(layer: Any, x: Array) -> Array:
    return x.reshape(math.prod(x.shape[: layer.axis]), -1)


def draw_reshape(d: Draw, p: Parameters) -> list[Array]:
    """Neighbouring dims joined or taken apart; one inferred, or some copied."""
    x = d.data(d.shape((1, 4)), FLOAT, INT, BYTE)
    p["num_axes"] = -1
    if p["reshape_type"] == 1:
        n, h, w, c = d.shape((4, 4))
        p["axis"], p["shape"] = 0, (n, c, w, h)
        return [d.floats((n, c, h, w))]
    p["axis"] = d.int(0, x.ndim - 1)
    tail = list(x.shape[p["axis"] :])
    at = d.int(0, len(tail) - 1)
    if d.bool() and at + 1 < len(tail):
        tail[at : at + 2] = [tail[at] * tail[at + 1]]
    else:
        tail.insert(at, 1)
    if d.bool():
        tail[d.int(0, len(tail) - 1)] = -1
    entries = tuple(tail)
    if d.bool():
        p["shape"] = entries
        return [x]
    p[OPERANDS] = [x, np.array(entries, INT)]
    return p[OPERANDS]


def reshaped(layer: Any, x: Array, shape: Array | None = None) -> Array:
    if layer.reshape_type == 1:
        n, c, h, w = layer.shape
        return x.transpose(0, 2, 3, 1).reshape(n, h, w, c).transpose(0, 3, 1, 2)
    entries = layer.shape if shape is None else tuple(shape.tolist())
    return x.reshape(*x.shape[: layer.axis], *entries)


def draw_squeeze(d: Draw, p: Parameters) -> list[Array]:
    shape = [d.choice(1, 1, 2, 3) for _ in range(d.int(1, 5))]
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    p["axes"] = tuple(axis for axis in ones if d.bool())
    return [d.data(shape, FLOAT, INT, BYTE)]


def squeezed(layer: Any, x: Array) -> Array:
    for axis in reversed(layer.axes):
        x = np.squeeze(x, axis)
    return x


def draw_unsqueeze(d: Draw, p: Parameters) -> list[Array]:
    x = d.data(d.shape((1, 3)), FLOAT, INT, BYTE)
    p["axes"] = tuple(d.int(-x.ndim - k - 1, x.ndim + k) for k in range(d.int(0, 3)))
    return [x]


def unsqueezed(layer: Any, x: Array) -> Array:
    for axis in layer.axes:
        x = np.expand_dims(x, axis)
    return x


def draw_permute(d: Draw, p: Parameters) -> list[Array]:
    x = d.data(d.shape(), FLOAT, INT, BYTE)
    p["orders"] = tuple(axis % x.ndim for axis in d.permutation(range(x.ndim)))
    return [x]


def draw_flatten(d: Draw, p: Parameters) -> list[Array]:
    x = d.data(d.shape(), FLOAT, INT, BYTE)
    p["axis"] = d.int(0, x.ndim)
    return [x]


RECIPES: dict[str, Recipe] = {
    "Flatten": Recipe(draw_flatten, flattened),
    "Permute": Recipe(draw_permute, permuted),
    "Reshape": Recipe(draw_reshape, reshaped, examples=12, constants=(1,)),
    "Squeeze": Recipe(draw_squeeze, squeezed),
    "Unsqueeze": Recipe(draw_unsqueeze, unsqueezed),
}

test_engines_and_reference_agree = agreement(RECIPES)
