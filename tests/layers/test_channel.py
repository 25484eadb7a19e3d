"""Layers of ``channel``: what they compute, in NumPy, and which shapes and weights go with their parameters."""

from __future__ import annotations

from typing import Any

from tests.layers.drawing import BYTE, FLOAT, INT, Array, Draw, Parameters, Recipe
from tests.layers.properties import agreement


def shuffled(layer: Any, x: Array) -> Array:
    n, c, *rest = x.shape
    return x.reshape(n, layer.group, c // layer.group, *rest).swapaxes(1, 2).reshape(x.shape)


def pixel_shuffled(layer: Any, x: Array) -> Array:
    n, c, h, w = x.shape
    r = layer.upscale_factor
    return x.reshape(n, c // r**2, r, r, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(n, c // r**2, h * r, w * r)


def reorganised(layer: Any, x: Array) -> Array:
    n, c, h, w = x.shape
    s = layer.stride
    if layer.forward:
        deep = (n, s, s, c // s**2, h, w) if layer.mode == 0 else (n, c // s**2, s, s, h, w)
        order = (0, 3, 4, 1, 5, 2) if layer.mode == 0 else (0, 1, 4, 2, 5, 3)
        return x.reshape(deep).transpose(order).reshape(n, c // s**2, h * s, w * s)
    order = (0, 3, 5, 1, 2, 4) if layer.mode == 0 else (0, 1, 3, 5, 2, 4)
    return x.reshape(n, c, h // s, s, w // s, s).transpose(order).reshape(n, c * s**2, h // s, w // s)


def draw_shuffle_channel(d: Draw, p: Parameters) -> list[Array]:
    n, c, *rest = d.shape((2, 5))
    return [d.data((n, c * p["group"], *rest), FLOAT, INT, BYTE)]


def draw_pixel_shuffle(d: Draw, p: Parameters) -> list[Array]:
    n, c, h, w = d.shape((4, 4), 3)
    return [d.floats((n, c * p["upscale_factor"] ** 2, h, w))]


def draw_reorg(d: Draw, p: Parameters) -> list[Array]:
    n, c, h, w = d.shape((4, 4), 3)
    s = p["stride"]
    return [d.floats((n, c * s * s, h, w) if p["forward"] else (n, c, h * s, w * s))]


RECIPES: dict[str, Recipe] = {
    "PixelShuffle": Recipe(draw_pixel_shuffle, pixel_shuffled),
    "Reorg": Recipe(draw_reorg, reorganised),
    "ShuffleChannel": Recipe(draw_shuffle_channel, shuffled),
}

test_engines_and_reference_agree = agreement(RECIPES)
