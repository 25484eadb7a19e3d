"""Layers of ``normalization``: what they compute, in NumPy, and which shapes and weights go with their parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.layers.drawing import Array, Draw, Parameters, Recipe, as_declared, stored
from tests.layers.properties import agreement
from tests.layers.reference import parameter


def affine(layer: Any, x: Array) -> Array:
    column = (-1, *(1,) * (x.ndim - 2))
    y = x * parameter(layer.scale, *column) if hasattr(layer, "scale") else x
    return y + parameter(layer.bias, *column) if layer.bias is not None else y


def _normalised(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    return (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(x.var(axis=axes, keepdims=True) + eps)


def instance_norm(layer: Any, x: Array) -> Array:
    return affine(layer, _normalised(x, tuple(range(2, x.ndim)), layer.eps))


def group_norm(layer: Any, x: Array, scale: Array, bias: Array) -> Array:
    y = _normalised(x.reshape(x.shape[0], layer.group, -1), (2,), layer.eps).reshape(x.shape)
    column = (-1, *(1,) * (x.ndim - 2))
    return y * scale.reshape(column) + bias.reshape(column)


def layer_norm(layer: Any, x: Array, scale: Array, bias: Array) -> Array:
    return _normalised(x, tuple(range(-scale.ndim, 0)), layer.eps) * scale + bias


def lrn(layer: Any, x: Array) -> Array:
    reach = (layer.size - 1) // 2
    squares = np.pad(x * x, [(0, 0), (reach, reach), (0, 0), (0, 0)])
    total = sum(squares[:, k : k + x.shape[1]] for k in range(2 * reach + 1))
    return x / (layer.bias + layer.alpha / layer.size * total) ** layer.beta


def normalize(layer: Any, x: Array) -> Array:
    if layer.p == 2:
        return x / np.maximum(np.sqrt((x * x).sum(axis=1, keepdims=True)), layer.epsilon)
    norm = {1: lambda: np.abs(x).sum(axis=1, keepdims=True), 2**31 - 1: lambda: x.max(axis=1, keepdims=True)}
    return x / norm.get(layer.p, lambda: x.min(axis=1, keepdims=True))()


def draw_affine(d: Draw, p: Parameters, *fields: str) -> list[Array]:
    shape = d.shape((2, 5))
    count = d.choice(1, shape[1])
    for name in fields:
        p[name] = stored(d.floats([count]))
    return [d.floats(shape)]


def draw_batch_norm(d: Draw, p: Parameters) -> list[Array]:
    return draw_affine(d, p, "scale", *(("bias",) if d.bool() else ()))


def draw_scale(d: Draw, p: Parameters) -> list[Array]:
    p["stored_bias"] = d.int(0, 1)
    return draw_affine(d, p, "scale", *(("bias",) if p["stored_bias"] else ()))


def draw_bias_add(d: Draw, p: Parameters) -> list[Array]:
    return draw_affine(d, p, "bias")


EPS = tuple(float(np.float32(eps)) for eps in (1e-5, 1e-3, 0.5))


def draw_instance_norm(d: Draw, p: Parameters) -> list[Array]:
    shape = d.shape((3, 5))
    p["eps"], p["scale"] = d.choice(*EPS), stored(d.floats([shape[1]]))
    if d.bool():
        p["bias"] = stored(d.floats([shape[1]]))
    return [d.floats(shape)]


def draw_group_norm(d: Draw, p: Parameters) -> list[Array]:
    p["eps"] = d.choice(*EPS)
    channels = p["group"] * d.int(1, 3)
    n, *rest = d.shape((2, 4))
    return [d.floats((n, channels, *rest)), d.floats([channels]), d.floats([channels])]


def draw_layer_norm(d: Draw, p: Parameters) -> list[Array]:
    shape = d.shape((2, 5))
    p["eps"], p["reduce_dims_size"] = d.choice(*EPS), d.int(1, len(shape) - 1)
    last = shape[-p["reduce_dims_size"] :]
    return [d.floats(shape), d.floats(last), d.floats(last)]


def draw_lrn(d: Draw, p: Parameters) -> list[Array]:
    p["size"] = d.int(1, 7)
    p["alpha"], p["beta"], p["bias"] = d.choice(0.125, 0.5), d.choice(0.75, 0.5), d.choice(1.0, 2.0, 0.5, 1.5)
    return as_declared(d, p)


def draw_normalize(d: Draw, p: Parameters) -> list[Array]:
    p["across_spatial"], p["axis"], p["epsilon"] = 0, 1, d.choice(*EPS)
    return as_declared(d, p)


RECIPES: dict[str, Recipe] = {
    "BatchNormCxx": Recipe(draw_batch_norm, affine),
    "BiasAdd": Recipe(draw_bias_add, affine),
    "GroupNorm": Recipe(draw_group_norm, group_norm, constants=(1, 2)),
    "InstBatchNormCxx": Recipe(draw_instance_norm, instance_norm),
    "LRN": Recipe(draw_lrn, lrn),
    "LayerNorm": Recipe(draw_layer_norm, layer_norm, constants=(1, 2)),
    "Normalize": Recipe(draw_normalize, normalize),
    "Scale": Recipe(draw_scale, affine),
}

test_engines_and_reference_agree = agreement(RECIPES)
