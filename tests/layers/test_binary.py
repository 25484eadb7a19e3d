"""Layers of ``binary``: what they compute, in NumPy, and which shapes and weights go with their parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.layers.drawing import BYTE, FLOAT, INT, Array, Draw, Parameters, Recipe
from tests.layers.properties import agreement
from tnn_serving.tensor import Tensor


def _divided(a: Array, b: Array) -> Array:
    if a.dtype.kind != "i":
        return a / b
    quotient = np.abs(a.astype(np.int64)) // np.abs(b.astype(np.int64))
    return (quotient * np.sign(a) * np.sign(b)).astype(a.dtype)


OPERATIONS: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "And": lambda a, b: ((a != 0) & (b != 0)).astype(np.int8),
    "Div": _divided,
    "Equal": lambda a, b: (a == b).astype(np.int8),
    "Greater": lambda a, b: (a > b).astype(np.int8),
    "Less": lambda a, b: (a < b).astype(np.int8),
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Mul": np.multiply,
    "SquaredDifference": lambda a, b: (a - b) ** 2,
    "Sub": np.subtract,
}


def binary(layer: Any, *operands: Array) -> Array:
    total, *others = operands
    for other in others:
        total = OPERATIONS[layer.types[0]](total, other)
    return total


def stored_binary(layer: Any, x: Array) -> Array:
    element = layer.element.shaped()
    if layer.types[0] in ("Greater", "Less"):
        element = element.reshape(-1)[0]
    operands = (x, element) if layer.weight_input_index == 1 else (element, x)
    return binary(layer, *operands)


def draw_binary(d: Draw, p: Parameters, *dtypes: Any, most: int = 3, nonzero: bool = False) -> list[Array]:
    dtype = d.choice(*dtypes)
    shape = d.shape((1, 4))

    def operand(dims: Sequence[int]) -> Array:
        x = d.data(dims, dtype)
        return np.where(x == 0, x.dtype.type(2), x) if nonzero and x.dtype.kind == "i" else x

    if "weight_input_index" in p and d.int(0, 2) == 0:
        p["weight_input_index"] = d.int(0, 1)
        element = operand(_element_dims(d, shape))
        p["element"] = Tensor.of(element)
        return [operand(shape)]
    p["weight_input_index"] = -1
    shapes = [shape, *(d.broadcast(shape) for _ in range(d.int(1, most - 1)))]
    return [operand(dims) for dims in d.permutation(shapes)]


def _element_dims(d: Draw, shape: Sequence[int]) -> tuple[int, ...]:
    """Not rank 0: a scalar is stored with one element and taken for "as many as fit"."""
    dims = tuple(1 if d.bool() else size for size in shape)
    return dims[d.int(0, len(dims) - 1) :]


def binary_reference(layer: Any, *operands: Array) -> Array:
    return stored_binary(layer, *operands) if len(operands) == 1 else binary(layer, *operands)


def draw_arithmetic(d: Draw, p: Parameters) -> list[Array]:
    return draw_binary(d, p, FLOAT, FLOAT, INT)


def draw_division(d: Draw, p: Parameters) -> list[Array]:
    return draw_binary(d, p, FLOAT, FLOAT, INT, nonzero=True)


def draw_logic(d: Draw, p: Parameters) -> list[Array]:
    return draw_binary(d, p, BYTE)


def draw_comparison(d: Draw, p: Parameters) -> list[Array]:
    return draw_binary(d, p, FLOAT, INT, BYTE, most=2)


def draw_equality(d: Draw, p: Parameters) -> list[Array]:
    shape = d.shape((1, 4))
    dtype = d.choice(FLOAT, INT, BYTE)
    return [d.data(dims, dtype) for dims in (shape, d.broadcast(shape))]


RECIPES: dict[str, Recipe] = {
    **{
        name: Recipe(draw_arithmetic, binary_reference, constants=(0, 1, 2))
        for name in ("Add", "Sub", "Mul", "Maximum", "Minimum", "SquaredDifference")
    },
    "And": Recipe(draw_logic, binary_reference, constants=(0, 1, 2)),
    "Div": Recipe(draw_division, binary_reference, constants=(0, 1, 2)),
    "Equal": Recipe(draw_equality, binary, constants=(1,)),
    "Greater": Recipe(draw_comparison, binary_reference, constants=(0, 1)),
    "Less": Recipe(draw_comparison, binary_reference, constants=(0, 1)),
}

test_engines_and_reference_agree = agreement(RECIPES)
