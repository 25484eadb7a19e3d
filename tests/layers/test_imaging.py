"""Layers of ``imaging``: what they compute, in NumPy, and which shapes and weights go with their parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.layers.drawing import Array, Draw, Parameters, Recipe, stored
from tests.layers.properties import agreement


def draw_hdr_guide(d: Draw, p: Parameters) -> list[Array]:
    shapes = {"ccm_weight": (3, 3), "ccm_bias": (3,), "shifts": (3, 4), "slopes": (3, 4)}
    shapes |= {"projection_weight": (3,), "projection_bias": (1,)}
    for name, dims in shapes.items():
        p[name] = stored(d.floats(dims, -1, 1))
    n, _, h, w = d.shape((4, 4))
    return [d.floats((n, 3, h, w), -1, 1)]


def hdr(layer: Any, x: Array) -> Array:
    ccm, bias, shifts, slopes, mix, offset = (t.shaped().astype(np.float64) for _, t in layer.weights())
    colours = np.einsum("oc,nchw->nohw", ccm, x) + bias[:, None, None]
    bent = np.maximum(colours[:, :, None] - shifts[None, :, :, None, None], 0)
    curves = (slopes[None, :, :, None, None] * bent).sum(axis=2)
    return np.clip(np.einsum("c,nchw->nhw", mix, curves)[:, None] + offset, 0, 1)


RECIPES: dict[str, Recipe] = {
    "HDRGuide": Recipe(draw_hdr_guide, hdr),
}

test_engines_and_reference_agree = agreement(RECIPES)
