"""Layers of ``unary``: what they compute, in NumPy, and which shapes and weights go with their parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.layers.drawing import INT32_MAX, INT32_MIN, Array, Draw, Parameters, Recipe, as_declared, elementwise
from tests.layers.properties import agreement
from tests.layers.reference import erf


def draw_bit_shift(d: Draw, p: Parameters) -> list[Array]:
    p["bits"] = d.int(0, 31)
    return [d.ints(d.shape(), INT32_MIN, INT32_MAX - 1)]


def bits(layer: Any, x: Array) -> Array:
    raw = x.view(np.uint32)
    return (raw << np.uint32(layer.bits) if layer.direction else raw >> np.uint32(layer.bits)).view(np.int32)


RECIPES: dict[str, Recipe] = {
    "Abs": elementwise(np.abs, integers=True),
    "Acos": elementwise(np.arccos),
    "Asin": elementwise(np.arcsin),
    "Atan": elementwise(np.arctan),
    "Ceil": elementwise(np.ceil),
    "Cos": elementwise(np.cos),
    "Erf": elementwise(erf),
    "Exp": elementwise(np.exp),
    "Floor": elementwise(np.floor),
    "Log": elementwise(np.log),
    "Neg": elementwise(np.negative, integers=True),
    "Reciprocal": elementwise(lambda x: 1 / x),
    "Rsqrt": elementwise(lambda x: 1 / np.sqrt(x)),
    "Sign": elementwise(np.sign, integers=True),
    "Sin": elementwise(np.sin),
    "Sqrt": elementwise(np.sqrt),
    "Tan": elementwise(np.tan),
    "BitShift": Recipe(draw_bit_shift, bits),
    "Not": Recipe(as_declared, lambda layer, x: (x == 0).astype(x.dtype)),
}

test_engines_and_reference_agree = agreement(RECIPES)
