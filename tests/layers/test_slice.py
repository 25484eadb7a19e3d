"""Layers of ``slice``: what they compute, in NumPy, and which shapes and weights go with their parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.layers.drawing import (
    BYTE,
    FLOAT,
    INT,
    INT32_MAX,
    INT32_MIN,
    OPERANDS,
    OUTPUTS,
    Array,
    Draw,
    Parameters,
    Recipe,
    as_declared,
)
from tests.layers.properties import agreement


def sliced(layer: Any, x: Array) -> Array:
    cut = tuple(
        slice(begin, end or None, step)
        for begin, end, step in zip(layer.begins, layer.ends, layer.strides, strict=True)
    )
    return x[cut]


def sliced_axes(layer: Any, x: Array) -> Array:
    for axis, begin, end, step in zip(layer.axes, layer.begins, layer.ends, layer.strides, strict=True):
        stop = None if end in (2**31 - 1, -(2**31)) else end
        x = x[(slice(None),) * (axis % x.ndim) + (slice(begin, stop, step),)]
    return x


def split(layer: Any, x: Array) -> list[Array]:
    if not layer.slices:
        return np.split(x, len(layer.outputs), axis=layer.axis)
    return np.split(x, np.cumsum(layer.slices)[:-1], axis=layer.axis)


def draw_strided_slice(d: Draw, p: Parameters) -> list[Array]:
    x = d.data(d.shape(), FLOAT, INT, BYTE)
    begins, ends, strides = [], [], []
    for size in x.shape:
        begin = d.int(0, size - 1)
        end = d.int(begin + 1, size)
        begins.append(begin - size if d.bool() else begin)
        ends.append(0 if end == size and d.bool() else end - size if end < size and d.bool() else end)
        strides.append(d.int(1, 3))
    p["begins"], p["ends"], p["strides"] = tuple(begins), tuple(ends), tuple(strides)
    return [x]


def draw_strided_slice_v2(d: Draw, p: Parameters) -> list[Array]:
    x = d.data(d.shape(), FLOAT, INT, BYTE)
    p["axes"] = tuple(sorted(d.axes(x.ndim, 1), key=lambda axis: axis % x.ndim))
    begins, ends, strides = [], [], []
    for axis in p["axes"]:
        size, step = x.shape[axis], d.choice(1, 2, 3, -1, -2)
        begin = d.int(0, size - 1)
        if step > 0:
            end = d.choice(INT32_MAX, size, d.int(begin + 1, size))
        else:
            end = d.choice(INT32_MIN, begin - 1 if begin else INT32_MIN)
        begins.append(begin - size if d.bool() else begin)
        ends.append(end)
        strides.append(step)
    p["begins"], p["ends"], p["strides"] = tuple(begins), tuple(ends), tuple(strides)
    if d.bool():
        return [x]
    p[OPERANDS] = [x]
    return [x, np.array(begins, INT), np.array(ends, INT)]


def draw_concat(d: Draw, p: Parameters) -> list[Array]:
    shape = list(d.shape())
    p["axis"] = d.axis(len(shape))
    dtype = d.choice(FLOAT, INT, BYTE)
    made = []
    for _ in range(d.int(2, 4)):
        shape[p["axis"]] = d.int(1, 4)
        made.append(d.data(shape, dtype))
    return made


def draw_split_v(d: Draw, p: Parameters) -> list[Array]:
    shape = list(d.shape())
    p["axis"], parts = d.axis(len(shape)), [d.int(1, 3) for _ in range(d.int(1, 4))]
    p[OUTPUTS] = len(parts)
    if d.bool():
        p["slices"] = tuple(parts)
    shape[p["axis"]] = sum(parts) if p["slices"] else len(parts) * d.int(1, 3)
    return [d.data(shape, FLOAT, INT, BYTE)]


def draw_split(d: Draw, p: Parameters) -> list[Array]:
    p[OUTPUTS] = d.int(1, 3)
    return as_declared(d, p)


def _same(layer: Any, *operands: Array) -> list[Array]:
    return [operands[0] for _ in layer.outputs]


RECIPES: dict[str, Recipe] = {
    "Concat": Recipe(draw_concat, lambda layer, *xs: np.concatenate(xs, axis=layer.axis), constants=(0, 1, 2, 3)),
    "Split": Recipe(draw_split, _same),
    "SplitV": Recipe(draw_split_v, split),
    "StridedSlice": Recipe(draw_strided_slice, sliced, examples=12),
    "StridedSliceV2": Recipe(draw_strided_slice_v2, sliced_axes, examples=12, constants=(1, 2)),
}

test_engines_and_reference_agree = agreement(RECIPES)
