"""Layers of ``convolution``: what they compute, in NumPy, and which shapes and weights go with their parameters."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.layers.drawing import UNCHECKED, Array, Draw, Parameters, Recipe, per_axis, stored
from tests.layers.properties import agreement
from tests.layers.reference import parameter, relu, relu6, spatial, surrounded, swish, windows
from tnn_serving.layers.parameters import HW


def activated(x: Array, code: int) -> Array:
    return {0: lambda y: y, 1: relu, 2: relu6, 256: swish}[code](x)


def _biased(layer: Any, y: Array) -> Array:
    if layer.has_bias and layer.bias is not None:
        y = y + parameter(layer.bias, -1, *(1,) * (y.ndim - 2))
    return activated(y, layer.activation)


def convolution_pads(layer: Any, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Begin and end pads of each axis: explicit, or what SAME and VALID leave over, the lesser half in front."""
    kernel, stride, dilation = spatial(layer, "kernel", "stride", "dilation")
    if layer.pad_type == -1:
        if hasattr(layer, "pad_begin"):
            return [(layer.pad_begin, layer.pad_end)]
        return [(p, p) for (p,) in zip(*spatial(layer, "pad"), strict=True)]
    pads = []
    for n, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        reach = d * (k - 1) + 1
        counted = k if len(sizes) == 1 else reach
        out = -(-n // s) if layer.pad_type == 0 else -(-(n - counted + 1) // s)
        front = int(((out - 1) * s + counted - n) / 2)
        pads.append((front, (out - 1) * s + reach - n - front))
    return pads


def convolution(layer: Any, x: Array) -> Array:
    kernel, stride, dilation = spatial(layer, "kernel", "stride", "dilation")
    group, count = layer.group, x.shape[1] // layer.group
    filters = parameter(layer.filter, group, layer.output_channel // group, count, *kernel)
    x = surrounded(x, convolution_pads(layer, x.shape[2:]))
    axes = len(kernel)
    taken = windows(x, kernel, stride, dilation)
    taken = taken.reshape(x.shape[0], group, count, *taken.shape[2:])
    out, taps = "uvw"[:axes], "ijk"[:axes]
    y = np.einsum(f"ngc{out}{taps},goc{taps}->ngo{out}", taken, filters)
    return _biased(layer, y.reshape(x.shape[0], -1, *y.shape[3:]))


def deconvolution(layer: Any, x: Array) -> Array:
    """Explicit padding: each input element adds its filter to the output."""
    (kh, kw), (sh, sw), (dh, dw), (ph, pw) = spatial(layer, "kernel", "stride", "dilation", "pad")
    n, c, h, w = x.shape
    group, out = layer.group, layer.output_channel // layer.group
    filters = parameter(layer.filter, group, c // group, out, kh, kw)
    full = np.zeros((n, group, out, sh * (h - 1) + dh * (kh - 1) + 1, sw * (w - 1) + dw * (kw - 1) + 1))
    grouped = x.reshape(n, group, c // group, h, w)
    for i, j in itertools.product(range(kh), range(kw)):
        place = full[:, :, :, i * dh :, j * dw :][:, :, :, : sh * (h - 1) + 1 : sh, : sw * (w - 1) + 1 : sw]
        place += np.einsum("ngchw,gco->ngohw", grouped, filters[..., i, j])
    y = full.reshape(n, -1, *full.shape[3:])
    return _biased(layer, y[:, :, ph : y.shape[2] - ph, pw : y.shape[3] - pw])


def _bias(d: Draw, p: Parameters, outputs: int) -> None:
    p["has_bias"] = d.int(0, 1)
    if p["has_bias"]:
        p["stored_bias"], p["bias"] = 1, stored(d.floats([outputs]))


def draw_convolution(d: Draw, p: Parameters) -> list[Array]:
    kernel, dilation = per_axis(p["kernel"]), per_axis(p["dilation"])
    if len(kernel) == 3:
        p["kernel"] = type(p["kernel"])(*(min(k, 2) for k in kernel))
        kernel = p["kernel"]
    inner = d.int(1, 3)
    p["group"] = d.int(1, 3)
    p["output_channel"] = p["group"] * d.int(1, 3)
    pads = (0,) * len(kernel)
    if p["pad_type"] == -1:
        pads = (p["pad_begin"] + p["pad_end"],) if "pad_begin" in p else tuple(2 * n for n in p["pad"])
    sizes = []
    for k, e, pad in zip(kernel, dilation, pads, strict=True):
        least = 1 if p["pad_type"] == 0 else max(e * (k - 1) + 1 - pad, 1)
        sizes.append(least + d.int(0, 5))
    p["filter"] = stored(d.floats((p["output_channel"], inner, *kernel)))
    _bias(d, p, p["output_channel"])
    return [d.floats((d.int(1, 2), p["group"] * inner, *sizes))]


def draw_deconvolution(d: Draw, p: Parameters) -> list[Array]:
    p["group"] = d.int(1, 3)
    p["output_channel"] = p["group"] * d.int(1, 3)
    channels = p["group"] * d.int(1, 3)
    sizes, pads = [], []
    for k, s, e in zip(p["kernel"], p["stride"], p["dilation"], strict=True):
        n, reach = d.int(1, 5), e * (k - 1) + 1
        if p["pad_type"] != -1 and s * n - (s + reach - 2) < 1:
            n += reach
        sizes.append(n)
        pads.append(d.int(0, max(min(3, (s * (n - 1) + reach - 1) // 2), 0)))
    p["pad"] = HW(*pads)
    p["filter"] = stored(d.floats((channels, p["output_channel"] // p["group"], *p["kernel"])))
    _bias(d, p, p["output_channel"])
    p[UNCHECKED] = p["pad_type"] != -1
    return [d.floats((d.int(1, 2), channels, *sizes))]


RECIPES: dict[str, Recipe] = {
    "Convolution": Recipe(draw_convolution, convolution, examples=25),
    "Convolution1D": Recipe(draw_convolution, convolution, examples=15),
    "Convolution3D": Recipe(draw_convolution, convolution, examples=12),
    "Deconvolution": Recipe(draw_deconvolution, deconvolution, examples=20),
}

test_engines_and_reference_agree = agreement(RECIPES)
