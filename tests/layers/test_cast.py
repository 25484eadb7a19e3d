"""Layers of ``cast``: what they compute, in NumPy, and which shapes and weights go with their parameters."""

from __future__ import annotations

import numpy as np

from tests.layers.drawing import BYTE, FLOAT, INT, OUTPUTS, Array, Draw, Parameters, Recipe, as_declared
from tests.layers.properties import agreement


def draw_cast(d: Draw, p: Parameters) -> list[Array]:
    p["to"] = d.choice(0, 1, 2, 3, 4, 5)
    return as_declared(d, p)


CAST = {0: FLOAT, 1: FLOAT, 2: BYTE, 3: INT, 4: FLOAT, 5: np.int64}


def draw_reformat(d: Draw, p: Parameters) -> list[Array]:
    p["destination"] = d.choice(0, 1, 3, 4)
    p[OUTPUTS] = d.int(1, 3)
    return [d.data(d.shape(), FLOAT, INT) for _ in range(p[OUTPUTS])]


RECIPES: dict[str, Recipe] = {
    "Cast": Recipe(
        draw_cast, lambda layer, x: np.trunc(x).astype(CAST[layer.to]) if layer.to in (2, 3, 5) else x.astype(FLOAT)
    ),
    "Reformat": Recipe(
        draw_reformat,
        lambda layer, *xs: [np.trunc(x).astype(INT) if layer.destination == 3 else x.astype(FLOAT) for x in xs],
    ),
}

test_engines_and_reference_agree = agreement(RECIPES)
