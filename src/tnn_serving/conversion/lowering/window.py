"""Windows: pads that TNN does not have, dilated and counted pooling, transposed convolutions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import reduce

import numpy as np

from tnn_serving.conversion.lowering.arithmetic import along
from tnn_serving.conversion.lowering.rules import lowers
from tnn_serving.conversion.lowering.tensor import known_dims
from tnn_serving.conversion.origin import Origin
from tnn_serving.errors import UnsupportedLayer
from tnn_serving.layers.pattern import OnnxNode, OnnxValue

MOST_PLACES = 128
"""Most elements of a window that is cut out element by element."""

LOWEST = float(np.finfo(np.float32).min)


def _window(n: OnnxNode, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    axes = len(kernel)
    attributes = n.attributes
    strides, dilations = attributes.get("strides") or [1] * axes, attributes.get("dilations") or [1] * axes
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    return list(strides), list(dilations), reach


def explicit_pads(n: OnnxNode, x: OnnxValue, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """The pads in front and behind, as numbers. Raises UnsupportedLayer if they depend on a free size."""
    axes = len(kernel)
    strides, _, reach = _window(n, kernel)
    auto = n.attributes.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        pads = n.attributes.get("pads") or [0] * 2 * axes
        return list(pads[:axes]), list(pads[axes:])
    if auto == "VALID":
        return [0] * axes, [0] * axes
    sizes = known_dims(x)[2:]
    over = [
        max((-(-size // step) - 1) * step + ke - size, 0) for size, step, ke in zip(sizes, strides, reach, strict=True)
    ]
    small, large = [t // 2 for t in over], [t - t // 2 for t in over]
    return (small, large) if auto == "SAME_UPPER" else (large, small)


def _padded(s: Origin, x: OnnxValue, begins: Sequence[int], ends: Sequence[int], value: float = 0.0) -> OnnxValue:
    """Spatial axes with elements around."""
    if not any((*begins, *ends)):
        return x
    return s.op("Pad", x, s.ints(0, 0, *begins, 0, 0, *ends), s.like(x, value) if value else None)


@lowers("Conv")
def _conv(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """Pads that are not even, in a layer of their own; filters that are computed, by a product for each place."""
    x, w = n.need(0), n.need(1)
    kernel = w.dims[2:]
    if None in kernel or x.rank not in (3, 4, 5):
        return None
    sizes = [size or 0 for size in kernel]
    if not w.constant:
        return _computed(s, n, x, w, sizes)
    begins, ends = explicit_pads(n, x, sizes)
    if begins == ends and n.attributes.get("auto_pad", "NOTSET") == "NOTSET":
        return None
    kept = {key: value for key, value in n.attributes.items() if key not in ("pads", "auto_pad")}
    if begins == ends:
        kept["pads"] = [*begins, *ends]
    return s.single("Conv", [_padded(s, x, begins, ends) if begins != ends else x, w, n.input(2)], kept)


def _computed(s: Origin, n: OnnxNode, x: OnnxValue, w: OnnxValue, kernel: list[int]) -> OnnxValue | None:
    """The sum over the places of the kernel of a product of channels."""
    if n.attributes.get("group", 1) != 1 or math.prod(kernel) > MOST_PLACES:
        return None
    strides, dilations, _ = _window(n, kernel)
    begins, ends = explicit_pads(n, x, kernel)
    wide, (outputs, channels) = _padded(s, x, begins, ends), w.dims[:2]
    size = n.outputs[0].dims[2:]
    if None in (*n.outputs[0].known[2:], outputs, channels):
        return None
    parts = []
    flat = s.op("Reshape", w, s.ints(outputs or 0, channels or 0, -1))
    for k, place in enumerate(itertools.product(*(range(size) for size in kernel))):
        cut = _at(s, wide, place, strides, dilations, [n or 0 for n in size])
        columns = s.op("Reshape", cut, s.ints(0, channels or 0, -1))
        parts.append(s.op("MatMul", s.op("Gather", flat, s.const(np.int64(k)), axis=2), columns))
    y = reduce(lambda a, b: s.op("Add", a, b), parts)
    y = s.op("Reshape", y, s.ints(0, outputs or 0, *(n or 0 for n in size)))
    bias = n.input(2)
    return y if bias is None else s.op("Add", y, s.op("Reshape", bias, s.ints(-1, *(1,) * len(kernel))))


def _at(
    s: Origin, x: OnnxValue, place: Sequence[int], strides: Sequence[int], dilations: Sequence[int], out: Sequence[int]
) -> OnnxValue:
    """The elements at one place of every window."""
    first = [p * d for p, d in zip(place, dilations, strict=True)]
    last = [f + (n - 1) * step + 1 for f, n, step in zip(first, out, strides, strict=True)]
    axes = range(2, 2 + len(first))
    return s.op("Slice", x, s.ints(*first), s.ints(*last), s.ints(*axes), s.ints(*strides))


def _room(n: OnnxNode, x: OnnxValue, kernel: Sequence[int], begins: list[int], ends: list[int]) -> list[int]:
    """Pads behind that all windows of the output need, where the output's size is rounded up."""
    if not n.attributes.get("ceil_mode", 0):
        return ends
    strides, _, reach = _window(n, kernel)
    sizes, out = known_dims(x)[2:], known_dims(n.outputs[0])[2:]
    return [
        max((count - 1) * step + ke - size - begin, 0)
        for count, step, ke, size, begin in zip(out, strides, reach, sizes, begins, strict=True)
    ]


@lowers("MaxPool")
def _max_pool(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """Pads of their own below every number; a dilated window element by element."""
    x, kernel = n.need(0), list(n.attributes["kernel_shape"])
    if len(n.outputs) > 1:
        return None
    if not x.is_float:
        wide = s.op("MaxPool", s.op("Cast", x, to=1), **n.attributes)
        return s.op("Cast", wide, to={np.dtype(np.int8): 3, np.dtype(np.uint8): 2}[x.dtype])
    strides, dilations, _ = _window(n, kernel)
    begins, ends = explicit_pads(n, x, kernel)
    wide = _padded(s, x, begins, _room(n, x, kernel, begins, ends), LOWEST)
    if not any(d > 1 for d in dilations):
        if wide is x and not n.attributes.get("ceil_mode", 0) and n.attributes.get("auto_pad", "NOTSET") == "NOTSET":
            return None
        return s.op("MaxPool", wide, kernel_shape=kernel, strides=strides)
    if math.prod(kernel) > MOST_PLACES:
        return None
    out = known_dims(n.outputs[0])[2:]
    places = itertools.product(*(range(size) for size in kernel))
    return s.op("Max", *(_at(s, wide, place, strides, dilations, out) for place in places))


@lowers("AveragePool")
def _average_pool(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """A convolution of every channel with ones, over how many elements each window has."""
    x, kernel = n.need(0), list(n.attributes["kernel_shape"])
    channels = x.known[1]
    if channels is None or not x.is_float or x.rank not in (3, 4, 5):
        return None
    strides, dilations, _ = _window(n, kernel)
    begins, ends = explicit_pads(n, x, kernel)
    room = _room(n, x, kernel, begins, ends)
    ones = np.ones((channels, 1, *kernel), x.dtype)
    inside = bool(n.attributes.get("count_include_pad", 0))
    total = s.op(
        "Conv", _padded(s, x, begins, room), s.const(ones), group=channels, strides=strides, dilations=dilations
    )
    if inside and room == ends:
        return s.op("Mul", total, s.like(x, 1 / math.prod(kernel)))
    counted = _counted(known_dims(x)[2:], begins, ends, room, inside)
    count = s.op("Conv", s.const(counted), s.const(ones[:1].astype(np.float32)), strides=strides, dilations=dilations)
    return s.op("Div", total, s.const(np.maximum(count.fixed(), 1).astype(x.dtype)))


def _counted(
    sizes: Sequence[int], begins: Sequence[int], ends: Sequence[int], room: Sequence[int], inside: bool
) -> np.ndarray:
    """[1, 1, ...]: 1 where an element counts, of the input or of its pads, and 0 in the room behind."""
    made = np.ones((1, 1, *sizes), np.float32)
    for axis, (begin, end, more) in enumerate(zip(begins, ends, room, strict=True), 2):
        around = [(0, 0)] * made.ndim
        around[axis] = begin, end
        made = np.pad(made, around, constant_values=float(inside))
        around[axis] = 0, max(more - end, 0)
        made = np.pad(made, around).take(range(begin + sizes[axis - 2] + more), axis=axis)
    return made


@lowers("LpPool")
def _lp_pool(s: Origin, n: OnnxNode) -> OnnxValue:
    """The root of the sum of powers: an average that counts pads, times the size of the window."""
    x, kernel, p = n.need(0), list(n.attributes["kernel_shape"]), n.attributes.get("p", 2)
    kept = {key: value for key, value in n.attributes.items() if key != "p"}
    size = s.op("Abs", x)
    mean = s.op("AveragePool", s.op("Pow", size, s.like(x, p)), count_include_pad=1, **kept)
    return s.op("Pow", s.op("Mul", mean, s.like(x, math.prod(kernel))), s.like(x, 1 / p))


@lowers("GlobalLpPool")
def _global_lp_pool(s: Origin, n: OnnxNode) -> OnnxValue:
    """The same over all of an axis."""
    x, p = n.need(0), n.attributes.get("p", 2)
    powers = s.op("Pow", s.op("Abs", x), s.like(x, p))
    return s.op("Pow", s.op("ReduceSum", powers, s.ints(*range(2, x.rank)), keepdims=1), s.like(x, 1 / p))


@lowers("GlobalAveragePool", "GlobalMaxPool")
def _whole_pool(s: Origin, n: OnnxNode) -> OnnxValue:
    """A reduction, where there is no pooling of so many axes."""
    x = n.need(0)
    operator = "ReduceMean" if n.op_type == "GlobalAveragePool" else "ReduceMax"
    return s.op(operator, x, s.ints(*range(2, x.rank)), keepdims=1)


@lowers("ConvTranspose")
def _conv_transpose(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """The full sum, of which a part is cut out; along one axis, as a picture of one row."""
    x, w = n.need(0), n.need(1)
    kept = {"group": n.attributes.get("group", 1)}
    if x.rank == 3:
        wide = {
            key: [1 if key != "pads" else 0, value[0]] if key != "pads" else [0, value[0], 0, value[1]]
            for key, value in n.attributes.items()
            if key in ("strides", "dilations", "pads", "kernel_shape")
        }
        if "output_padding" in n.attributes:
            wide["output_padding"] = [0, n.attributes["output_padding"][0]]
        if "output_shape" in n.attributes:
            wide["output_shape"] = [1, n.attributes["output_shape"][0]]
        if "auto_pad" in n.attributes:
            kept["auto_pad"] = n.attributes["auto_pad"]
        y = s.op(
            "ConvTranspose",
            s.op("Unsqueeze", x, s.ints(2)),
            s.op("Unsqueeze", w, s.ints(2)),
            n.input(2),
            **kept,
            **wide,
        )
        return s.op("Squeeze", y, s.ints(2))
    if x.rank != 4 or not w.constant:
        return None
    kernel = [size or 0 for size in w.dims[2:]]
    strides, dilations, reach = _window(n, kernel)
    extra = list(n.attributes.get("output_padding") or [0, 0])
    begins, ends = _crops(n, x, kernel, strides, reach, extra)
    plain = not any(extra) and begins == ends and "output_shape" not in n.attributes
    if plain and n.attributes.get("auto_pad", "NOTSET") == "NOTSET":
        return None
    y = s.op(
        "ConvTranspose",
        x,
        w,
        n.input(2) if not any(e > 0 for e in (-v for v in ends)) else None,
        strides=strides,
        dilations=dilations,
        **kept,
    )
    # What is added behind is nothing but the bias.
    y = s.op("Pad", y, s.ints(0, 0, *(-b for b in begins), 0, 0, *(-e for e in ends)))
    bias = n.input(2)
    if bias is not None and any(e < 0 for e in ends):
        y = s.op("Add", y, s.op("Reshape", bias, s.ints(-1, 1, 1)))
    return y


def _crops(
    n: OnnxNode, x: OnnxValue, kernel: list[int], strides: list[int], reach: list[int], extra: list[int]
) -> tuple[list[int], list[int]]:
    """How much of the full sum is cut off in front and behind; negative where zeros are added."""
    wanted, auto = n.attributes.get("output_shape"), n.attributes.get("auto_pad", "NOTSET")
    if wanted is None and auto in ("NOTSET", "VALID"):
        pads = n.attributes.get("pads") or [0] * 4
        return list(pads[:2]), [pad - more for pad, more in zip(pads[2:], extra, strict=True)]
    if wanted is None:
        over = [ke + more - step for ke, more, step in zip(reach, extra, strides, strict=True)]
    else:
        sizes = known_dims(x)[2:]
        full = [step * (size - 1) + ke for step, size, ke in zip(strides, sizes, reach, strict=True)]
        over = [f + more - out for f, more, out in zip(full, extra, wanted[-2:], strict=True)]
    small = [max(t, 0) // 2 for t in over]
    front = small if auto == "SAME_UPPER" else [max(t, 0) - h for t, h in zip(over, small, strict=True)]
    return front, [t - f - more for t, f, more in zip(over, front, extra, strict=True)]


@lowers("Col2Im")
def _col_to_im(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """A transposed convolution of every channel with filters that each have one 1."""
    x = n.need(0)
    image, block = n.need(1).numbers(), n.need(2).numbers()
    if len(image) != 2 or x.known[1] is None:
        return None
    places = math.prod(block)
    channels = x.known[1] // places
    strides, dilations, reach = _window(n, block)
    pads = n.attributes.get("pads") or [0] * 4
    rows = [(size + pads[k] + pads[k + 2] - reach[k]) // strides[k] + 1 for k, size in enumerate(image)]
    filters = np.tile(np.eye(places, dtype=x.dtype).reshape(places, 1, *block), (channels, 1, 1, 1))
    planes = s.op("Reshape", x, s.ints(0, channels * places, *rows))
    full = [(r - 1) * step + ke for r, step, ke in zip(rows, strides, reach, strict=True)]
    y = s.op("ConvTranspose", planes, s.const(filters), group=channels, strides=strides, dilations=dilations)
    ends = [f - p - size for f, p, size in zip(full, pads[:2], image, strict=True)]
    if not any((*pads[:2], *ends)):
        return y
    return s.op("Pad", y, s.ints(0, 0, *(-p for p in pads[:2]), 0, 0, *(-e for e in ends)))


@lowers("Upsample", "Resize")
def _resize(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """A product with a matrix along each axis whose size changes: what ONNX makes of a matrix of ones and zeros."""
    x = n.need(0)
    if not x.is_float or n.attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return None
    roi, scales, sizes = n.input(1), n.input(2), n.input(3)
    axes = n.attributes.get("axes") or list(range(x.rank))
    given = {key: value for key, value in n.attributes.items() if key not in ("axes", "keep_aspect_ratio_policy")}
    if n.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch" or (roi is not None and roi.fixed().size):
        return None
    factors = [] if scales is None else scales.fixed().reshape(-1).tolist()
    targets = [] if sizes is None else sizes.numbers()
    y = x
    for place, axis in enumerate(x.axis(axis) for axis in axes):
        size, new = x.known[axis], n.outputs[0].dims[axis]
        if (factors[place] == 1) if factors else (targets[place] == size):
            continue
        if size is None or size > 4096 or new is None:
            raise UnsupportedLayer("the sizes must be fixed for this kind of resizing", found=list(x.known))
        unit = s.const(np.eye(size, dtype=np.float32))
        operand = s.const(np.array([1, factors[place]], np.float32)) if factors else None
        target = None if factors else s.ints(size, targets[place])
        matrix = s.op("Resize", unit, None, operand, target, **given)
        y = along(s, y, axis, matrix.fixed())
    return y if y is not x else s.add("Identity", [x], [s.fresh(f"{x.name}.same")], {}, s.opset, kept=True)[0]
