"""Layers of ``recurrent``: what they compute, in NumPy, and which shapes and weights go with their parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.layers.drawing import OUTPUTS, Array, Draw, Parameters, Recipe
from tests.layers.properties import agreement
from tests.layers.reference import sigmoid


def lstm(layer: Any, x: Array, w: Array, r: Array, bias: Array) -> list[Array]:
    hidden, steps = layer.hidden_size, x.shape[0]
    parts, last_h, last_c = [], [], []
    for d, back in enumerate([layer.direction == 1] if layer.direction < 2 else [False, True]):
        h = c = np.zeros((x.shape[1], hidden))
        y = np.zeros((steps, *h.shape))
        for t in reversed(range(steps)) if back else range(steps):
            gates = x[t] @ w[d].T + h @ r[d].T + bias[d, : 4 * hidden] + bias[d, 4 * hidden :]
            i, o, f, z = np.split(gates, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(z)
            h = sigmoid(o) * np.tanh(c)
            y[t] = h
        parts.append(y)
        last_h.append(h)
        last_c.append(c)
    return [np.concatenate(parts, axis=2), np.stack(last_h), np.stack(last_c)][: len(layer.outputs)]


def draw_lstm(d: Draw, p: Parameters) -> list[Array]:
    steps, batch, width = d.shape((3, 3))
    hidden, count = p["hidden_size"], 2 if p["direction"] == 2 else 1
    p[OUTPUTS] = d.choice(1, 2, 3)
    shapes = ((steps, batch, width), (count, 4 * hidden, width), (count, 4 * hidden, hidden), (count, 8 * hidden))
    return [d.floats(shape, -1, 1) for shape in shapes]


RECIPES: dict[str, Recipe] = {
    "LSTMONNX": Recipe(draw_lstm, lstm, constants=(1, 2, 3)),
}

test_engines_and_reference_agree = agreement(RECIPES)
