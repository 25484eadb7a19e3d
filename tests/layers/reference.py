"""What layers compute, written down in NumPy without looking at ONNX: slow, short, for small arrays.

Each function takes the layer and its inputs (float64 for floats) and gives its outputs. Types without one are compared
between the engines alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Array = np.ndarray
Reference = Callable[..., Array | Sequence[Array]]

FLOAT = np.float32


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "Abs": np.abs,
    "Acos": np.arccos,
    "Asin": np.arcsin,
    "Atan": np.arctan,
    "Ceil": np.ceil,
    "Cos": np.cos,
    "Erf": _erf,
    "Exp": np.exp,
    "Floor": np.floor,
    "Log": np.log,
    "LogSigmoid": lambda x: -_softplus(-x),
    "Neg": np.negative,
    "ReLU": lambda x: np.maximum(x, 0),
    "ReLU6": lambda x: np.clip(x, 0, 6),
    "Reciprocal": lambda x: 1 / x,
    "Rsqrt": lambda x: 1 / np.sqrt(x),
    "Sigmoid": _sigmoid,
    "Sign": np.sign,
    "Sin": np.sin,
    "Softplus": _softplus,
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Sqrt": np.sqrt,
    "Swish": lambda x: x * _sigmoid(x),
    "Tan": np.tan,
    "Tanh": np.tanh,
}
"""Functions of float elements."""

OF_INTEGERS = {"Abs", "Neg", "ReLU", "ReLU6", "Sign"}
"""Those that are computed of integers too; the others pass them on."""


def unary(layer: Any, x: Array) -> Array:
    name = layer.types[0]
    return FUNCTIONS[name](x) if x.dtype.kind == "f" or name in OF_INTEGERS else x


def elu(layer: Any, x: Array) -> Array:
    return np.where(x > 0, x, layer.alpha * np.expm1(x)) if x.dtype.kind == "f" else x


def selu(layer: Any, x: Array) -> Array:
    return layer.gamma * np.where(x > 0, x, layer.alpha * np.expm1(x)) if x.dtype.kind == "f" else x


def gelu(layer: Any, x: Array) -> Array:
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


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
    return value * _sigmoid(gate)


def signed_mul(layer: Any, x: Array) -> Array:
    t = (np.sign(x - layer.alpha) + layer.beta) / layer.gamma
    return t * t[:, :1]


def softmax(layer: Any, x: Array) -> Array:
    axis = (layer.axis + x.ndim) % x.ndim
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def log_softmax(layer: Any, x: Array) -> Array:
    return np.log(softmax(layer, x))


# ---- several operands ----


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


# ---- reductions ----

REDUCTIONS: dict[str, Callable[..., Array]] = {
    "ReduceL1": lambda x, axis, keepdims: np.abs(x).sum(axis=axis, keepdims=keepdims),
    "ReduceL2": lambda x, axis, keepdims: np.sqrt((x * x).sum(axis=axis, keepdims=keepdims)),
    "ReduceLogSum": lambda x, axis, keepdims: np.log(x.sum(axis=axis, keepdims=keepdims)),
    "ReduceLogSumExp": lambda x, axis, keepdims: np.log(np.exp(x).sum(axis=axis, keepdims=keepdims)),
    "ReduceMax": np.max,
    "ReduceMean": np.mean,
    "ReduceMin": np.min,
    "ReduceProd": np.prod,
    "ReduceSum": np.sum,
    "ReduceSumSquare": lambda x, axis, keepdims: (x * x).sum(axis=axis, keepdims=keepdims),
}


def reduced(layer: Any, x: Array) -> Array:
    axes = tuple({axis % x.ndim for axis in layer.axes}) or tuple(range(x.ndim))
    return np.asarray(REDUCTIONS[layer.types[0]](x, axis=axes, keepdims=layer.keep_dims != 0), x.dtype)


def arg_max_or_min(layer: Any, x: Array) -> Array:
    find = np.argmax if layer.mode else np.argmin
    return find(x, axis=layer.axis, keepdims=layer.keep_dims != 0).astype(np.int32)


# ---- windows ----


def windows(x: Array, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Array:
    """All windows of the spatial axes: [N, C, out..., kernel...]."""
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    view = sliding_window_view(x, reach, axis=tuple(range(2, x.ndim)))
    steps = tuple(slice(None, None, s) for s in stride)
    taps = tuple(slice(None, None, d) for d in dilation)
    return view[(slice(None), slice(None), *steps, *taps)]


def spatial(layer: Any, *names: str) -> list[tuple[int, ...]]:
    """Parameters that have one value an axis, as tuples."""
    values = [getattr(layer, name) for name in names]
    return [tuple(value) if isinstance(value, tuple) else (value,) for value in values]


def activated(x: Array, code: int) -> Array:
    return {0: lambda y: y, 1: FUNCTIONS["ReLU"], 2: FUNCTIONS["ReLU6"], 256: FUNCTIONS["Swish"]}[code](x)


def _parameter(tensor: Any, *dims: int) -> Array:
    return tensor.array().astype(np.float64).reshape(dims)


def _biased(layer: Any, y: Array) -> Array:
    if layer.has_bias and layer.bias is not None:
        y = y + _parameter(layer.bias, -1, *(1,) * (y.ndim - 2))
    return activated(y, layer.activation)


def _padded(x: Array, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Array:
    """Zeros around the spatial axes; negative pads crop."""
    x = np.pad(x, [(0, 0), (0, 0), *((max(a, 0), max(b, 0)) for a, b in pads)], constant_values=value)
    crop = [slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(pads, x.shape[2:], strict=True)]
    return x[(slice(None), slice(None), *crop)]


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
    filters = _parameter(layer.filter, group, layer.output_channel // group, count, *kernel)
    x = _padded(x, convolution_pads(layer, x.shape[2:]))
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
    filters = _parameter(layer.filter, group, c // group, out, kh, kw)
    full = np.zeros((n, group, out, sh * (h - 1) + dh * (kh - 1) + 1, sw * (w - 1) + dw * (kw - 1) + 1))
    grouped = x.reshape(n, group, c // group, h, w)
    for i, j in itertools.product(range(kh), range(kw)):
        place = full[:, :, :, i * dh :, j * dw :][:, :, :, : sh * (h - 1) + 1 : sh, : sw * (w - 1) + 1 : sw]
        place += np.einsum("ngchw,gco->ngohw", grouped, filters[..., i, j])
    y = full.reshape(n, -1, *full.shape[3:])
    return _biased(layer, y[:, :, ph : y.shape[2] - ph, pw : y.shape[3] - pw])


def pooling(layer: Any, x: Array) -> Array:
    """Explicit padding: out = (n + 2p - k) / s + 1; averages count the elements of the input only."""
    kernel, stride, pad = spatial(layer, "kernel", "stride", "pad")
    kernel = tuple(k or n for k, n in zip(kernel, x.shape[2:], strict=True))
    pads, lowest = [], np.finfo(np.float32).min
    for n, k, s, p in zip(x.shape[2:], kernel, stride, pad, strict=True):
        room = n + 2 * p - k
        out = (-(-room // s) if layer.ceil_mode == 1 else room // s) + 1
        pads.append((p, max((out - 1) * s + k - n - p, -n)))
    ones = (1,) * len(kernel)
    inner = tuple(range(-len(kernel), 0))
    taken = windows(_padded(x, pads, lowest), kernel, stride, ones)
    inside = taken != lowest
    if layer.pool_type == 0:
        return np.where(inside.any(axis=inner), taken.max(axis=inner), 0)
    return np.where(inside, taken, 0).sum(axis=inner) / np.maximum(inside.sum(axis=inner), 1)


# ---- normalisation ----


def affine(layer: Any, x: Array) -> Array:
    column = (-1, *(1,) * (x.ndim - 2))
    y = x * _parameter(layer.scale, *column) if hasattr(layer, "scale") else x
    return y + _parameter(layer.bias, *column) if layer.bias is not None else y


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


# ---- places ----


def padded(layer: Any, x: Array) -> Array:
    if hasattr(layer, "pads"):
        pads = list(zip(layer.pads[: x.ndim], layer.pads[x.ndim :], strict=True))
    else:
        channels, rows = (layer.channel_begin, layer.channel_end), (layer.top, layer.bottom)
        pads = [(0, 0), channels, rows, (layer.left, layer.right)]
    if layer.mode:
        return np.pad(x, pads, mode="reflect" if layer.mode == 1 else "edge")
    return np.pad(x, pads, constant_values=layer.value if x.dtype.kind == "f" else int(layer.value))


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


def gathered(layer: Any, data: Array, indices: Array) -> Array:
    return np.take(data, indices, axis=layer.axis)


def gathered_nd(layer: Any, data: Array, indices: Array) -> Array:
    return data[tuple(np.moveaxis(indices, -1, 0))]


def scattered(layer: Any, data: Array, indices: Array, updates: Array) -> Array:
    y = data.copy()
    for place in np.ndindex(*indices.shape):
        target = list(place)
        target[layer.axis] = int(indices[place])
        y[tuple(target)] = updates[place] + (y[tuple(target)] if getattr(layer, "op", 0) else 0)
    return y


def scattered_nd(layer: Any, data: Array, indices: Array, updates: Array) -> Array:
    y = data.copy()
    for place in np.ndindex(*indices.shape[:-1]):
        y[tuple(indices[place])] = updates[place]
    return y


def one_hot(layer: Any, indices: Array) -> Array:
    on = np.arange(layer.depth) == np.where(indices < 0, indices + layer.depth, indices)[..., None]
    return np.moveaxis(np.where(on, int(layer.value_on), int(layer.value_off)), -1, layer.axis).astype(np.int32)


def top_k(layer: Any, x: Array) -> list[Array]:
    """For elements that all differ."""
    count = min(layer.k, x.shape[layer.axis])
    order = np.argsort(-x if layer.largest else x, axis=layer.axis, kind="stable").take(range(count), axis=layer.axis)
    order = order if layer.sorted else np.flip(order, axis=layer.axis)
    return [np.take_along_axis(x, order, axis=layer.axis), order.astype(np.int32)]


def histogram(layer: Any, x: Array) -> Array:
    inside = x[(x >= 0) & (x < layer.depth)]
    return np.bincount(inside, minlength=layer.depth).astype(np.int32)


def suppressed(layer: Any, boxes: Array, scores: Array) -> Array:
    """Greedy suppression of corner boxes by falling score."""
    rows = []
    for image, kind in itertools.product(range(scores.shape[0]), range(scores.shape[1])):
        kept: list[int] = []
        for box in np.argsort(-scores[image, kind]):
            room = len(kept) < layer.max_output_boxes_per_class
            if room and scores[image, kind, box] > layer.score_threshold:
                area = boxes[image]
                if all(_overlap(area[box], area[other]) <= layer.iou_threshold for other in kept):
                    kept.append(int(box))
        rows += [(image, kind, box) for box in kept]
    return np.array(rows, np.int32).reshape(-1, 3)


def _overlap(a: Array, b: Array) -> float:
    low = np.maximum(np.minimum(a[:2], a[2:]), np.minimum(b[:2], b[2:]))
    high = np.minimum(np.maximum(a[:2], a[2:]), np.maximum(b[:2], b[2:]))
    shared = float(np.prod(np.maximum(high - low, 0)))
    return shared / float(np.prod(np.abs(a[2:] - a[:2])) + np.prod(np.abs(b[2:] - b[:2])) - shared)


# ---- channels and shapes ----


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


def permuted(layer: Any, x: Array) -> Array:
    return x.transpose(layer.orders)


def flattened(layer: Any, x: Array) -> Array:
    return x.reshape(math.prod(x.shape[: layer.axis]), -1)


def tiled(layer: Any, x: Array) -> Array:
    return np.tile(x, layer.reps)


def expanded(layer: Any, x: Array) -> Array:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(1 if d == -1 else d for d in layer.shape)))


# ---- products ----


def inner_product(layer: Any, x: Array) -> Array:
    axis = layer.axis % x.ndim
    flat = x.reshape(*x.shape[:axis], -1)
    y = flat @ _parameter(layer.weight, layer.num_output, -1).T
    return y + _parameter(layer.bias, -1) if layer.has_bias else y


def stored_product(layer: Any, x: Array) -> Array:
    stored = layer.weight.shaped().astype(np.float64)
    return stored @ x if layer.weight_position == 0 else x @ stored


def einsum(layer: Any, *operands: Array) -> Array:
    return np.einsum(layer.equation.replace(";", ","), *operands)


def lstm(layer: Any, x: Array, w: Array, r: Array, bias: Array) -> list[Array]:
    hidden, steps = layer.hidden_size, x.shape[0]
    parts, last_h, last_c = [], [], []
    for d, back in enumerate([layer.direction == 1] if layer.direction < 2 else [False, True]):
        h = c = np.zeros((x.shape[1], hidden))
        y = np.zeros((steps, *h.shape))
        for t in reversed(range(steps)) if back else range(steps):
            gates = x[t] @ w[d].T + h @ r[d].T + bias[d, : 4 * hidden] + bias[d, 4 * hidden :]
            i, o, f, z = np.split(gates, 4, axis=1)
            c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(z)
            h = _sigmoid(o) * np.tanh(c)
            y[t] = h
        parts.append(y)
        last_h.append(h)
        last_c.append(c)
    return [np.concatenate(parts, axis=2), np.stack(last_h), np.stack(last_c)][: len(layer.outputs)]
