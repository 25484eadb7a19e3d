"""Layers of ``reduce``: what they compute, in NumPy, and which shapes and weights go with their parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.layers.drawing import FLOAT, INT, UNCHECKED, Array, Draw, Parameters, Recipe
from tests.layers.properties import agreement

REDUCTIONS: dict[str, Callable[..., Array]] = {
    "ReduceL1": lambda x, axis, keepdims: np.abs(x).sum(axis=axis, keepdims=keepdims),
    "ReduceL2": lambda x, axis, keepdims: np.sqrt((x * x).sum(axis=axis, keepdims=keepdims)),
    "ReduceLogSum": lambda x, axis, keepdims: np.log(x.sum(axis=axis, keepdims=keepdims)),
    "ReduceLogSumExp": lambda x, axis, keepdims: np.log(np.exp(x).sum(axis=axis, keepdims=keepdims)),
    "ReduceMax": np.max,
    "ReduceMean": np.mean,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceSum": np.sum,
    "ReduceSumSquare": lambda x, axis, keepdims: (x * x).sum(axis=axis, keepdims=keepdims),
}

EXACT_OF_INTEGERS = {"ReduceL1", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"}


def reduced(layer: Any, x: Array) -> Array:
    axes = tuple({axis % x.ndim for axis in layer.axes}) or tuple(range(x.ndim))
    return np.asarray(REDUCTIONS[layer.types[0]](x, axis=axes, keepdims=layer.keep_dims != 0), x.dtype)


def reduction(kind: str) -> Recipe:
    def build(d: Draw, p: Parameters) -> list[Array]:
        shape = d.shape()
        p["axes"] = tuple(d.axes(len(shape)))
        if kind == "ReduceProd":
            return [d.data(shape, INT).astype(d.choice(FLOAT, INT)) % 3]
        x = d.data(shape, FLOAT, FLOAT, INT)
        p[UNCHECKED] = x.dtype == INT and kind not in EXACT_OF_INTEGERS
        return [x]

    return Recipe(build, reduced)


def arg_max_or_min(layer: Any, x: Array) -> Array:
    find = np.argmax if layer.mode else np.argmin
    return find(x, axis=layer.axis, keepdims=layer.keep_dims != 0).astype(np.int32)


def draw_arg_max_or_min(d: Draw, p: Parameters) -> list[Array]:
    x = d.data(d.shape(), FLOAT, INT)
    p["axis"] = d.axis(x.ndim)
    return [x]


RECIPES: dict[str, Recipe] = {
    **{name: reduction(name) for name in REDUCTIONS},
    "ArgMaxOrMin": Recipe(draw_arg_max_or_min, arg_max_or_min),
}

test_engines_and_reference_agree = agreement(RECIPES)
