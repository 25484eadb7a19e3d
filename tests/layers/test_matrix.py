"""Layers of ``matrix``: what they compute, in NumPy, and which shapes and weights go with their parameters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.layers.drawing import FLOAT, Array, Draw, Parameters, Recipe, stored
from tests.layers.properties import agreement
from tests.layers.reference import parameter


def inner_product(layer: Any, x: Array) -> Array:
    axis = layer.axis % x.ndim
    flat = x.reshape(*x.shape[:axis], -1)
    y = flat @ parameter(layer.weight, layer.num_output, -1).T
    return y + parameter(layer.bias, -1) if layer.has_bias else y


def stored_product(layer: Any, x: Array) -> Array:
    stored = layer.weight.shaped().astype(np.float64)
    return stored @ x if layer.weight_position == 0 else x @ stored


def einsum(layer: Any, *operands: Array) -> Array:
    return np.einsum(layer.equation.replace(";", ","), *operands)


def draw_inner_product(d: Draw, p: Parameters) -> list[Array]:
    shape = d.shape((2, 4))
    p["axis"] = d.choice(1, 1, d.int(1, len(shape) - 1), -1)
    p["weight"] = stored(d.floats((p["num_output"], math.prod(shape[p["axis"] :]))))
    p["has_bias"], p["bias"] = d.int(0, 1), stored(d.floats([p["num_output"]]))
    return [d.floats(shape)]


def draw_mat_mul(d: Draw, p: Parameters) -> list[Array]:
    m, k, n = d.shape((3, 3))
    batch = d.shape((0, 2), 3)
    left, right = d.floats((*batch, m, k)), d.floats((*d.broadcast(batch), k, n))
    p["weight_position"] = d.choice(-1, -1, 0, 1)
    if p["weight_position"] == -1:
        return [left, right] if d.bool() else [left[..., 0, :] if left.ndim == 2 else left, right]
    p["weight"] = stored((left, right)[p["weight_position"]])
    return [(right, left)[p["weight_position"]]]


def product(layer: Any, *operands: Array) -> Array:
    return stored_product(layer, *operands) if len(operands) == 1 else operands[0] @ operands[1]


EQUATIONS = {
    "ij;jk->ik": "ij jk",
    "bij;bjk->bik": "bij bjk",
    "bhid;bhjd->bhij": "bhid bhjd",
    "ij;ij->i": "ij ij",
    "bi;j->bij": "bi j",
    "ij->ji": "ij",
}


def draw_einsum(d: Draw, p: Parameters) -> list[Array]:
    p["equation"] = d.choice(*EQUATIONS)
    sizes = {label: d.int(1, 4) for label in "bhijkd"}
    return [d.floats([sizes[label] for label in term]) for term in EQUATIONS[p["equation"]].split()]


def draw_inverse(d: Draw, p: Parameters) -> list[Array]:
    x = d.floats((*d.shape((0, 3)), 2, 2), -1, 1)
    return [x + 3 * np.eye(2, dtype=FLOAT)]


RECIPES: dict[str, Recipe] = {
    "Einsum": Recipe(draw_einsum, einsum, constants=(1,)),
    "InnerProduct": Recipe(draw_inner_product, inner_product, examples=12),
    "Inverse": Recipe(draw_inverse, lambda layer, x: np.linalg.inv(x)),
    "MatMul": Recipe(draw_mat_mul, product, examples=15, constants=(0, 1)),
}

test_engines_and_reference_agree = agreement(RECIPES)
