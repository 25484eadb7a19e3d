"""Layers of ``activation``: what they compute, in NumPy, and which shapes and weights go with their parameters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.layers.drawing import (
    BYTE,
    FLOAT,
    INT,
    Array,
    Draw,
    Parameters,
    Recipe,
    as_declared,
    elementwise,
    stored,
)
from tests.layers.properties import agreement
from tests.layers.reference import erf, relu, relu6, sigmoid, softplus, swish


def elu(layer: Any, x: Array) -> Array:
    return np.where(x > 0, x, layer.alpha * np.expm1(x)) if x.dtype.kind == "f" else x


def selu(layer: Any, x: Array) -> Array:
    return layer.gamma * np.where(x > 0, x, layer.alpha * np.expm1(x)) if x.dtype.kind == "f" else x


def gelu(layer: Any, x: Array) -> Array:
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def hard_sigmoid(layer: Any, x: Array) -> Array:
    return np.clip(layer.alpha * x + layer.beta, 0, 1) if x.dtype.kind == "f" else x


def hard_swish(layer: Any, a: Array, b: Array | None = None) -> Array:
    return a * np.clip(layer.alpha * (a if b is None else b) + layer.beta, 0, 1)


def clip(layer: Any, x: Array) -> Array:
    low, high = layer.min, layer.max
    if x.dtype.kind == "i":
        low, high = math.ceil(low), math.floor(high)
    return np.maximum(np.minimum(x, high), low)


def power(layer: Any, x: Array) -> Array:
    if x.dtype.kind != "f":
        return x
    return np.power(layer.scale * x + layer.shift, layer.exponent)


def prelu(layer: Any, x: Array) -> Array:
    slope = layer.slope.array().astype(np.float64)
    slope = slope[:1] if layer.channel_shared else slope
    return np.where(x > 0, x, x * slope.reshape(-1, *(1,) * (x.ndim - 2)))


def glu(layer: Any, x: Array) -> Array:
    value, gate = np.split(x, 2, axis=layer.axis)
    return value * sigmoid(gate)


def signed_mul(layer: Any, x: Array) -> Array:
    t = (np.sign(x - layer.alpha) + layer.beta) / layer.gamma
    return t * t[:, :1]


def softmax(layer: Any, x: Array) -> Array:
    axis = (layer.axis + x.ndim) % x.ndim
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def log_softmax(layer: Any, x: Array) -> Array:
    return np.log(softmax(layer, x))


def draw_power(d: Draw, p: Parameters) -> list[Array]:
    p["exponent"] = d.choice(0.0, 0.25, 0.5, 1.0, -1.0, 2.0, 3.0, -2.0)
    p["scale"], p["shift"] = d.choice(1.0, 0.5, -2.0), d.choice(0.0, 3.0, -0.25)
    return [d.data(d.shape(), FLOAT, FLOAT, INT, BYTE)]


def draw_prelu(d: Draw, p: Parameters) -> list[Array]:
    shape = d.shape((2, 5))
    p["slope"] = stored(d.floats([d.choice(1, shape[1])]))
    return [d.floats(shape)]


def draw_glu(d: Draw, p: Parameters) -> list[Array]:
    shape = list(d.shape())
    p["axis"] = d.axis(len(shape))
    shape[p["axis"]] *= 2
    return [d.floats(shape)]


def draw_signed_mul(d: Draw, p: Parameters) -> list[Array]:
    p["gamma"] = d.choice(0.5, 1.0, -2.0)
    return as_declared(d, p)


def draw_softmax(d: Draw, p: Parameters) -> list[Array]:
    x = d.floats(d.shape())
    p["axis"] = d.axis(x.ndim)
    return [x]


def draw_clip(d: Draw, p: Parameters) -> list[Array]:
    return [d.data(d.shape(), FLOAT, INT, BYTE)]


def draw_hard_swish(d: Draw, p: Parameters) -> list[Array]:
    shape = d.shape((1, 4))
    return [d.floats(shape), *(d.floats(d.broadcast(shape)) for _ in range(d.int(0, 1)))]


RECIPES: dict[str, Recipe] = {
    "LogSigmoid": elementwise(lambda x: -softplus(-x)),
    "ReLU": elementwise(relu, integers=True),
    "ReLU6": elementwise(relu6, integers=True),
    "Sigmoid": elementwise(sigmoid),
    "Softplus": elementwise(softplus),
    "Softsign": elementwise(lambda x: x / (1 + np.abs(x))),
    "Swish": elementwise(swish),
    "Tanh": elementwise(np.tanh),
    "Clip": Recipe(draw_clip, clip),
    "Elu": Recipe(as_declared, elu),
    "GELU": Recipe(as_declared, gelu),
    "GLU": Recipe(draw_glu, glu),
    "HardSigmoid": Recipe(as_declared, hard_sigmoid),
    "HardSwish": Recipe(draw_hard_swish, hard_swish),
    "LogSoftmax": Recipe(draw_softmax, log_softmax),
    "PReLU": Recipe(draw_prelu, prelu),
    "Power": Recipe(draw_power, power, examples=12),
    "Selu": Recipe(as_declared, selu),
    "SignedMul": Recipe(draw_signed_mul, signed_mul),
    "Softmax": Recipe(draw_softmax, softmax),
}

test_engines_and_reference_agree = agreement(RECIPES)
