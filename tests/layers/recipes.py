"""For each layer type: which shapes and weights go with its parameters. What a declaration says is not said again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.layers import reference as ref
from tests.layers.drawing import OPERANDS, OUTPUTS, UNCHECKED, Array, Draw, Parameters, Recipe
from tnn_serving.layers.parameters import HW, CBool
from tnn_serving.tensor import Tensor

FLOAT, INT, BYTE = np.float32, np.int32, np.int8
INT32_MAX, INT32_MIN = 2**31 - 1, -(2**31)


def stored(array: Array) -> Tensor:
    return Tensor.of(array)


# ---- one input ----


def any_type(d: Draw, p: Parameters) -> list[Array]:
    return [d.data(d.shape(), FLOAT, INT, BYTE)]


def floats(d: Draw, p: Parameters) -> list[Array]:
    return [d.floats(d.shape())]


def unlike(d: Draw, p: Parameters) -> list[Array]:
    """Numbers of any type without equal ones."""
    return [d.distinct(d.shape())]


def with_channels(d: Draw, p: Parameters) -> list[Array]:
    return [d.floats(d.shape((2, 5)))]


def picture(d: Draw, p: Parameters) -> list[Array]:
    return [d.floats(d.shape((4, 4)))]


def power(d: Draw, p: Parameters) -> list[Array]:
    p["exponent"] = d.choice(0.0, 0.25, 0.5, 1.0, -1.0, 2.0, 3.0, -2.0)
    p["scale"], p["shift"] = d.choice(1.0, 0.5, -2.0), d.choice(0.0, 3.0, -0.25)
    return [d.data(d.shape(), FLOAT, FLOAT, INT, BYTE)]


def prelu(d: Draw, p: Parameters) -> list[Array]:
    shape = d.shape((2, 5))
    p["slope"] = stored(d.floats([d.choice(1, shape[1])]))
    return [d.floats(shape)]


def glu(d: Draw, p: Parameters) -> list[Array]:
    shape = list(d.shape())
    p["axis"] = d.axis(len(shape))
    shape[p["axis"]] *= 2
    return [d.floats(shape)]


def signed_mul(d: Draw, p: Parameters) -> list[Array]:
    p["gamma"] = d.choice(0.5, 1.0, -2.0)
    return with_channels(d, p)


def softmax(d: Draw, p: Parameters) -> list[Array]:
    x = d.floats(d.shape())
    p["axis"] = d.axis(x.ndim)
    return [x]


def bit_shift(d: Draw, p: Parameters) -> list[Array]:
    p["bits"] = d.int(0, 31)
    return [d.ints(d.shape(), INT32_MIN, INT32_MAX - 1)]


def bits(layer: Any, x: Array) -> Array:
    raw = x.view(np.uint32)
    return (raw << np.uint32(layer.bits) if layer.direction else raw >> np.uint32(layer.bits)).view(np.int32)


def clip(d: Draw, p: Parameters) -> list[Array]:
    return [d.data(d.shape(), FLOAT, INT, BYTE)]


def cast(d: Draw, p: Parameters) -> list[Array]:
    p["to"] = d.choice(0, 1, 2, 3, 4, 5)
    return any_type(d, p)


CAST = {0: FLOAT, 1: FLOAT, 2: BYTE, 3: INT, 4: FLOAT, 5: np.int64}


def reformat(d: Draw, p: Parameters) -> list[Array]:
    p["destination"] = d.choice(0, 1, 3, 4)
    p[OUTPUTS] = d.int(1, 3)
    return [d.data(d.shape(), FLOAT, INT) for _ in range(p[OUTPUTS])]


# ---- several operands ----


def binary(d: Draw, p: Parameters, *dtypes: Any, most: int = 3, nonzero: bool = False) -> list[Array]:
    dtype = d.choice(*dtypes)
    shape = d.shape((1, 4))

    def operand(dims: Sequence[int]) -> Array:
        x = d.data(dims, dtype)
        return np.where(x == 0, x.dtype.type(2), x) if nonzero and x.dtype.kind == "i" else x

    if "weight_input_index" in p and d.int(0, 2) == 0:
        p["weight_input_index"] = d.int(0, 1)
        element = operand(_element_dims(d, shape))
        p["element"] = Tensor.of(element)
        return [operand(shape)]
    p["weight_input_index"] = -1
    shapes = [shape, *(d.broadcast(shape) for _ in range(d.int(1, most - 1)))]
    return [operand(dims) for dims in d.draw(_permutations(shapes))]


def _permutations(items: list[Any]) -> Any:
    from hypothesis import strategies as st

    return st.permutations(items)


def _element_dims(d: Draw, shape: Sequence[int]) -> tuple[int, ...]:
    """Not rank 0: a scalar is stored with one element and taken for "as many as fit"."""
    dims = tuple(1 if d.bool() else size for size in shape)
    return dims[d.int(0, len(dims) - 1) :]


def binary_reference(layer: Any, *operands: Array) -> Array:
    return ref.stored_binary(layer, *operands) if len(operands) == 1 else ref.binary(layer, *operands)


def arithmetic(d: Draw, p: Parameters) -> list[Array]:
    return binary(d, p, FLOAT, FLOAT, INT)


def division(d: Draw, p: Parameters) -> list[Array]:
    return binary(d, p, FLOAT, FLOAT, INT, nonzero=True)


def logic(d: Draw, p: Parameters) -> list[Array]:
    return binary(d, p, BYTE)


def comparison(d: Draw, p: Parameters) -> list[Array]:
    return binary(d, p, FLOAT, INT, BYTE, most=2)


def equality(d: Draw, p: Parameters) -> list[Array]:
    shape = d.shape((1, 4))
    dtype = d.choice(FLOAT, INT, BYTE)
    return [d.data(dims, dtype) for dims in (shape, d.broadcast(shape))]


def hard_swish(d: Draw, p: Parameters) -> list[Array]:
    shape = d.shape((1, 4))
    return [d.floats(shape), *(d.floats(d.broadcast(shape)) for _ in range(d.int(0, 1)))]


def where(d: Draw, p: Parameters) -> list[Array]:
    shape = d.shape((1, 4))
    dtype = d.choice(FLOAT, INT)
    condition = d.ints(d.broadcast(shape), 0, 1, dtype=BYTE)
    return [d.data(shape, dtype), d.data(d.broadcast(shape), dtype), condition]


# ---- reductions ----

EXACT_OF_INTEGERS = {"ReduceL1", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"}


def reduction(kind: str) -> Recipe:
    def build(d: Draw, p: Parameters) -> list[Array]:
        shape = d.shape()
        p["axes"] = tuple(d.axes(len(shape)))
        if kind == "ReduceProd":
            return [d.data(shape, INT).astype(d.choice(FLOAT, INT)) % 3]
        x = d.data(shape, FLOAT, FLOAT, INT)
        p[UNCHECKED] = x.dtype == INT and kind not in EXACT_OF_INTEGERS
        return [x]

    return Recipe(build, ref.reduced)


def arg_max_or_min(d: Draw, p: Parameters) -> list[Array]:
    x = d.data(d.shape(), FLOAT, INT)
    p["axis"] = d.axis(x.ndim)
    return [x]


# ---- windows ----


def _bias(d: Draw, p: Parameters, outputs: int) -> None:
    p["has_bias"] = d.int(0, 1)
    if p["has_bias"]:
        p["stored_bias"], p["bias"] = 1, stored(d.floats([outputs]))


def _values(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple) else (value,)


def convolution(d: Draw, p: Parameters) -> list[Array]:
    kernel, dilation = _values(p["kernel"]), _values(p["dilation"])
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


def deconvolution(d: Draw, p: Parameters) -> list[Array]:
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


def pooling(d: Draw, p: Parameters) -> list[Array]:
    """The window fits, and the first one is not wholly in the padding; ceil mode may make such a last one."""
    kernel, pad = _values(p["kernel"]), _values(p["pad"])
    pad = tuple(min(n, max(k - 1, 0)) for k, n in zip(kernel, pad, strict=True))
    kind = type(p["kernel"])
    p["pad"] = kind(*pad) if isinstance(p["kernel"], tuple) else pad[0]
    p["kernel_index"] = kind(*(-1 for _ in kernel)) if isinstance(p["kernel"], tuple) else -1
    if "is_adaptive_pool" in p:
        p["is_adaptive_pool"] = int(d.int(0, 4) == 0)
        p["output"] = HW(d.int(1, 3), d.int(1, 3))
        p[UNCHECKED] = bool(p["is_adaptive_pool"])
    p[UNCHECKED] = p.get(UNCHECKED, False) or p["pad_type"] != -1
    least = [max(k, s) for k, s in zip(kernel, _values(p["stride"]), strict=True)]
    return [d.floats((d.int(1, 2), d.int(1, 3), *(n + d.int(0, 5) for n in least)))]


# ---- normalisation ----


def affine(d: Draw, p: Parameters, *fields: str) -> list[Array]:
    shape = d.shape((2, 5))
    count = d.choice(1, shape[1])
    for name in fields:
        p[name] = stored(d.floats([count]))
    return [d.floats(shape)]


def batch_norm(d: Draw, p: Parameters) -> list[Array]:
    return affine(d, p, "scale", *(("bias",) if d.bool() else ()))


def scale(d: Draw, p: Parameters) -> list[Array]:
    p["stored_bias"] = d.int(0, 1)
    return affine(d, p, "scale", *(("bias",) if p["stored_bias"] else ()))


def bias_add(d: Draw, p: Parameters) -> list[Array]:
    return affine(d, p, "bias")


EPS = tuple(float(np.float32(eps)) for eps in (1e-5, 1e-3, 0.5))


def instance_norm(d: Draw, p: Parameters) -> list[Array]:
    shape = d.shape((3, 5))
    p["eps"], p["scale"] = d.choice(*EPS), stored(d.floats([shape[1]]))
    if d.bool():
        p["bias"] = stored(d.floats([shape[1]]))
    return [d.floats(shape)]


def group_norm(d: Draw, p: Parameters) -> list[Array]:
    p["eps"] = d.choice(*EPS)
    channels = p["group"] * d.int(1, 3)
    n, *rest = d.shape((2, 4))
    return [d.floats((n, channels, *rest)), d.floats([channels]), d.floats([channels])]


def layer_norm(d: Draw, p: Parameters) -> list[Array]:
    shape = d.shape((2, 5))
    p["eps"], p["reduce_dims_size"] = d.choice(*EPS), d.int(1, len(shape) - 1)
    last = shape[-p["reduce_dims_size"] :]
    return [d.floats(shape), d.floats(last), d.floats(last)]


def lrn(d: Draw, p: Parameters) -> list[Array]:
    p["size"] = d.int(1, 7)
    p["alpha"], p["beta"], p["bias"] = d.choice(0.125, 0.5), d.choice(0.75, 0.5), d.choice(1.0, 2.0, 0.5, 1.5)
    return picture(d, p)


def normalize(d: Draw, p: Parameters) -> list[Array]:
    p["across_spatial"], p["axis"], p["epsilon"] = 0, 1, d.choice(*EPS)
    return with_channels(d, p)


# ---- places ----


def pad(d: Draw, p: Parameters) -> list[Array]:
    shape = d.shape((4, 4))
    for name, size in (("top", 2), ("bottom", 2), ("left", 3), ("right", 3)):
        p[name] = d.int(0, shape[size] - 1 if p["mode"] == 1 else 3)
    for name in ("channel_begin", "channel_end"):
        p[name] = 0 if p["mode"] else d.int(0, 2)
    return [d.data(shape, FLOAT, INT)]


def pad_v2(d: Draw, p: Parameters) -> list[Array]:
    shape = d.shape((1, 5))
    p["pads"] = tuple(d.int(0, size - 1 if p["mode"] == 1 else 2) for size in shape * 2)
    x = d.data(shape, FLOAT, INT)
    if d.bool():
        return [x]
    p[OPERANDS] = [x]
    return [x, np.array(p["pads"], INT)]


def strided_slice(d: Draw, p: Parameters) -> list[Array]:
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


def strided_slice_v2(d: Draw, p: Parameters) -> list[Array]:
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


def concat(d: Draw, p: Parameters) -> list[Array]:
    shape = list(d.shape())
    p["axis"] = d.axis(len(shape))
    dtype = d.choice(FLOAT, INT, BYTE)
    made = []
    for _ in range(d.int(2, 4)):
        shape[p["axis"]] = d.int(1, 4)
        made.append(d.data(shape, dtype))
    return made


def split_v(d: Draw, p: Parameters) -> list[Array]:
    shape = list(d.shape())
    p["axis"], parts = d.axis(len(shape)), [d.int(1, 3) for _ in range(d.int(1, 4))]
    p[OUTPUTS] = len(parts)
    if d.bool():
        p["slices"] = tuple(parts)
    shape[p["axis"]] = sum(parts) if p["slices"] else len(parts) * d.int(1, 3)
    return [d.data(shape, FLOAT, INT, BYTE)]


def split(d: Draw, p: Parameters) -> list[Array]:
    p[OUTPUTS] = d.int(1, 3)
    return any_type(d, p)


def gather(d: Draw, p: Parameters) -> list[Array]:
    data = d.data(d.shape((1, 4)), FLOAT, INT, BYTE)
    p["axis"] = d.axis(data.ndim)
    size = data.shape[p["axis"]]
    indices = d.ints(d.shape((1, 3)), -size, size - 1)
    p[OPERANDS] = [data, indices]
    inside = d.choice("neither", "data", "indices")
    p["data_in_resource"], p["indices_in_resource"] = CBool(inside == "data"), CBool(inside == "indices")
    if inside == "data":
        p["has_data"], p["data"] = 1, stored(data)
        return [indices]
    if inside == "indices":
        p["has_indices"], p["indices"] = 1, stored(indices)
        return [data]
    return [data, indices]


def _tuples(d: Draw, shape: Sequence[int], depth: int, count: int) -> Array:
    """Different index tuples [n, depth], n up to ``count``."""
    places = list(np.ndindex(*shape[:depth]))
    order = np.random.RandomState(d.int(0, 2**20)).permutation(len(places))[:count]
    return np.array([places[k] for k in order], INT).reshape(-1, depth)


def gather_nd(d: Draw, p: Parameters) -> list[Array]:
    p["batch_dims"] = 0
    data = d.data(d.shape((1, 4)), FLOAT, INT)
    indices = _tuples(d, data.shape, d.int(1, data.ndim), 6)
    return [data, indices - np.where(d.bool(), np.array(data.shape[: indices.shape[-1]], INT), 0).astype(INT)]


def scatter_nd(d: Draw, p: Parameters) -> list[Array]:
    data = d.floats(d.shape((1, 4)))
    indices = _tuples(d, data.shape, d.int(1, data.ndim), 4)
    return [data, indices, d.floats((len(indices), *data.shape[indices.shape[-1] :]))]


def scatter(d: Draw, p: Parameters) -> list[Array]:
    """Indices that differ along the axis, so that no element is written twice."""
    data = d.floats(d.shape((1, 4)))
    p["axis"] = d.axis(data.ndim)
    order = np.argsort(d.distinct(data.shape), axis=p["axis"]).astype(INT)
    dims = [d.int(1, size) for size in data.shape]
    indices = order[tuple(slice(0, size) for size in dims)]
    indices = indices - np.int32(data.shape[p["axis"]]) if d.bool() else indices
    return [data, indices, d.floats(dims)]


def one_hot(d: Draw, p: Parameters) -> list[Array]:
    p["depth"] = d.int(1, 5)
    p["value_off"], p["value_on"] = float(d.int(-2, 2)), float(d.int(-2, 2))
    indices = d.ints(d.shape((1, 3)), -p["depth"], p["depth"])
    p["axis"] = d.int(-indices.ndim - 1, indices.ndim)
    return [indices]


def top_k(d: Draw, p: Parameters) -> list[Array]:
    x = d.distinct(d.shape())
    p["axis"], p["k"] = d.axis(x.ndim), d.int(1, 5)
    x = (x * 8).astype(INT) if d.bool() else x
    if d.bool():
        return [x]
    p[OPERANDS] = [x]
    return [x, np.array([p["k"]], INT)]


def histogram(d: Draw, p: Parameters) -> list[Array]:
    return [d.ints(d.shape(), -1, 5)]


# ---- channels and shapes ----


def shuffle_channel(d: Draw, p: Parameters) -> list[Array]:
    n, c, *rest = d.shape((2, 5))
    return [d.data((n, c * p["group"], *rest), FLOAT, INT, BYTE)]


def pixel_shuffle(d: Draw, p: Parameters) -> list[Array]:
    n, c, h, w = d.shape((4, 4), 3)
    return [d.floats((n, c * p["upscale_factor"] ** 2, h, w))]


def reorg(d: Draw, p: Parameters) -> list[Array]:
    n, c, h, w = d.shape((4, 4), 3)
    s = p["stride"]
    return [d.floats((n, c * s * s, h, w) if p["forward"] else (n, c, h * s, w * s))]


def reshape(d: Draw, p: Parameters) -> list[Array]:
    """Neighbouring dims joined or taken apart; one inferred, or some copied."""
    x = d.data(d.shape((1, 4)), FLOAT, INT, BYTE)
    p["num_axes"] = -1
    if p["reshape_type"] == 1:
        n, h, w, c = d.shape((4, 4))
        p["axis"], p["shape"] = 0, (n, c, w, h)
        return [d.floats((n, c, h, w))]
    p["axis"] = d.int(0, x.ndim - 1)
    tail = list(x.shape[p["axis"] :])
    at = d.int(0, len(tail) - 1)
    if d.bool() and at + 1 < len(tail):
        tail[at : at + 2] = [tail[at] * tail[at + 1]]
    else:
        tail.insert(at, 1)
    if d.bool():
        tail[d.int(0, len(tail) - 1)] = -1
    entries = tuple(tail)
    if d.bool():
        p["shape"] = entries
        return [x]
    p[OPERANDS] = [x, np.array(entries, INT)]
    return p[OPERANDS]


def reshaped(layer: Any, x: Array, shape: Array | None = None) -> Array:
    if layer.reshape_type == 1:
        n, c, h, w = layer.shape
        return x.transpose(0, 2, 3, 1).reshape(n, h, w, c).transpose(0, 3, 1, 2)
    entries = layer.shape if shape is None else tuple(shape.tolist())
    return x.reshape(*x.shape[: layer.axis], *entries)


def squeeze(d: Draw, p: Parameters) -> list[Array]:
    shape = [d.choice(1, 1, 2, 3) for _ in range(d.int(1, 5))]
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    p["axes"] = tuple(axis for axis in ones if d.bool())
    return [d.data(shape, FLOAT, INT, BYTE)]


def squeezed(layer: Any, x: Array) -> Array:
    for axis in reversed(layer.axes):
        x = np.squeeze(x, axis)
    return x


def unsqueeze(d: Draw, p: Parameters) -> list[Array]:
    x = d.data(d.shape((1, 3)), FLOAT, INT, BYTE)
    p["axes"] = tuple(d.int(-x.ndim - k - 1, x.ndim + k) for k in range(d.int(0, 3)))
    return [x]


def unsqueezed(layer: Any, x: Array) -> Array:
    for axis in layer.axes:
        x = np.expand_dims(x, axis)
    return x


def permute(d: Draw, p: Parameters) -> list[Array]:
    x = d.data(d.shape(), FLOAT, INT, BYTE)
    p["orders"] = tuple(axis % x.ndim for axis in d.draw(_permutations(list(range(x.ndim)))))
    return [x]


def flatten(d: Draw, p: Parameters) -> list[Array]:
    x = d.data(d.shape(), FLOAT, INT, BYTE)
    p["axis"] = d.int(0, x.ndim)
    return [x]


def tile(d: Draw, p: Parameters) -> list[Array]:
    x = d.data(d.shape((1, 4)), FLOAT, INT, BYTE)
    reps = tuple(d.int(1, 3) for _ in range(d.int(1, 5)))
    p["reps"] = reps
    if d.bool():
        return [x]
    p[OPERANDS] = [x]
    return [x, np.array(reps, INT)]


def expand(d: Draw, p: Parameters) -> list[Array]:
    shape = d.shape((1, 5))
    x = d.data(d.broadcast(shape) or (1,), FLOAT, INT, BYTE)
    p["shape"] = tuple(
        -1 if x.shape[k - len(shape) :][:1] == (size,) and d.bool() else size for k, size in enumerate(shape)
    )
    if d.bool():
        return [x]
    p[OPERANDS] = [x]
    return [x, np.array(p["shape"], INT)]


def constant_of_shape(d: Draw, p: Parameters) -> list[Array]:
    p["value"] = stored(d.data([1], FLOAT, INT, BYTE))
    return [np.array(d.shape((1, 4)), INT)]


def number_range(d: Draw, p: Parameters) -> list[Array]:
    start, limit, delta = d.int(-5, 5), d.int(-5, 5), d.choice(1, 2, 3, -1, -2)
    dtype, dims = d.choice(FLOAT, INT), d.choice((), (1,))
    return [np.full(dims, number, dtype) for number in (start, limit, delta)]


def ranged(layer: Any, start: Array, limit: Array, delta: Array) -> Array:
    numbers = range(*(int(x.reshape(-1)[0]) for x in (start, limit, delta)))
    return np.array(list(numbers), start.dtype)


# ---- products, recurrence, pictures ----


def inner_product(d: Draw, p: Parameters) -> list[Array]:
    shape = d.shape((2, 4))
    p["axis"] = d.choice(1, 1, d.int(1, len(shape) - 1), -1)
    p["weight"] = stored(d.floats((p["num_output"], math.prod(shape[p["axis"] :]))))
    p["has_bias"], p["bias"] = d.int(0, 1), stored(d.floats([p["num_output"]]))
    return [d.floats(shape)]


def mat_mul(d: Draw, p: Parameters) -> list[Array]:
    m, k, n = d.shape((3, 3))
    batch = d.shape((0, 2), 3)
    left, right = d.floats((*batch, m, k)), d.floats((*d.broadcast(batch), k, n))
    p["weight_position"] = d.choice(-1, -1, 0, 1)
    if p["weight_position"] == -1:
        return [left, right] if d.bool() else [left[..., 0, :] if left.ndim == 2 else left, right]
    p["weight"] = stored((left, right)[p["weight_position"]])
    return [(right, left)[p["weight_position"]]]


def product(layer: Any, *operands: Array) -> Array:
    return ref.stored_product(layer, *operands) if len(operands) == 1 else operands[0] @ operands[1]


EQUATIONS = {
    "ij;jk->ik": "ij jk",
    "bij;bjk->bik": "bij bjk",
    "bhid;bhjd->bhij": "bhid bhjd",
    "ij;ij->i": "ij ij",
    "bi;j->bij": "bi j",
    "ij->ji": "ij",
}


def einsum(d: Draw, p: Parameters) -> list[Array]:
    p["equation"] = d.choice(*EQUATIONS)
    sizes = {label: d.int(1, 4) for label in "bhijkd"}
    return [d.floats([sizes[label] for label in term]) for term in EQUATIONS[p["equation"]].split()]


def inverse(d: Draw, p: Parameters) -> list[Array]:
    x = d.floats((*d.shape((0, 3)), 2, 2), -1, 1)
    return [x + 3 * np.eye(2, dtype=FLOAT)]


def lstm(d: Draw, p: Parameters) -> list[Array]:
    steps, batch, width = d.shape((3, 3))
    hidden, count = p["hidden_size"], 2 if p["direction"] == 2 else 1
    p[OUTPUTS] = d.choice(1, 2, 3)
    shapes = ((steps, batch, width), (count, 4 * hidden, width), (count, 4 * hidden, hidden), (count, 8 * hidden))
    return [d.floats(shape, -1, 1) for shape in shapes]


def hdr_guide(d: Draw, p: Parameters) -> list[Array]:
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


def upsample(d: Draw, p: Parameters) -> list[Array]:
    p["scale_h"], p["scale_w"] = d.choice(0.5, 1.0, 1.5, 2.0, 3.0), d.choice(0.5, 1.0, 2.0, 2.5)
    n, c, h, w = d.shape((4, 4))
    p["size"] = d.choice(None, None, HW(d.int(1, 9), d.int(1, 9)))
    return [d.floats((n, c, h + 1, w + 1))]


def grid_sample(d: Draw, p: Parameters) -> list[Array]:
    n, c, h, w = d.shape((4, 4))
    return [d.floats((n, c, h + 1, w + 1)), d.smooth((n, d.int(1, 4), d.int(1, 4), 2), -1.2, 1.2)]


def roi_align(d: Draw, p: Parameters) -> list[Array]:
    """The average: the maximum is refused on OpenVINO, and recorded."""
    p["mode"], p["spatial_scale"] = 1, d.choice(0.25, 0.5, 1.0)
    p["output_height"], p["output_width"], p["sampling_ratio"] = d.int(1, 3), d.int(1, 3), d.int(0, 2)
    n, c, h, w = d.shape((4, 4), 3)
    corner = d.smooth((d.int(1, 4), 2), 0, 4)
    rois = np.concatenate([corner, corner + d.smooth(corner.shape, 1, 6)], axis=1)
    return [d.floats((n, c, h + 3, w + 3)), rois, d.ints([len(rois)], 0, n - 1)]


# ---- detection ----


def _corners(d: Draw, *dims: int) -> Array:
    low = d.smooth((*dims, 2))
    return np.concatenate([low, low + d.smooth((*dims, 2), 0.1, 0.6)], axis=-1)


def suppression(d: Draw, p: Parameters) -> list[Array]:
    images, boxes, classes = d.int(1, 2), d.int(1, 6), d.int(1, 3)
    p["center_point_box"] = 0
    p["max_output_boxes_per_class"] = type(p["max_output_boxes_per_class"])(d.int(0, 6))
    p["iou_threshold"], p["score_threshold"] = d.choice(0.0, 0.25, 0.5), d.choice(0.0, 0.25)
    return [_corners(d, images, boxes), d.smooth((images, classes, boxes))]


def prior_box(d: Draw, p: Parameters) -> list[Array]:
    p["min_sizes"] = tuple(float(d.int(2, 20)) for _ in range(d.int(1, 2)))
    p["max_sizes"] = tuple(m + d.int(1, 20) for m in p["min_sizes"]) if d.bool() else ()
    p["aspect_ratios"] = d.choice((1.0,), (1.0, 2.0), (1.0, 2.0, 0.5))
    p["variances"] = d.choice((0.125,), (0.125, 0.125, 0.25, 0.25))
    p["img_w"], p["img_h"] = d.choice((0, 0), (40, 30))
    p["step_w"], p["step_h"] = d.choice((0, 0), (8, 10))
    p["offset"] = 0.5
    n, c, h, w = d.shape((4, 4))
    return [d.floats((n, c, h, w)), d.floats((n, 3, d.int(8, 20), d.int(8, 20)))]


def detection_output(d: Draw, p: Parameters) -> list[Array]:
    images, priors, classes = d.int(1, 2), d.int(1, 6), d.int(2, 4)
    p["num_classes"], p["background_label_id"] = classes, 0
    p["nms_threshold"], p["confidence_threshold"], p["eta"] = d.choice(0.25, 0.5), d.choice(0.0, 0.25), 1.0
    p["nms_top_k"], p["keep_top_k"] = d.choice(-1, 3), d.int(1, 8)
    each = 1 if p["share_location"] else classes
    variances = np.full((1, 1, priors * 4), 0.125, FLOAT)
    prior = np.concatenate([_corners(d, priors).reshape(1, 1, -1), variances], axis=1)
    return [d.smooth((images, priors * 4 * each), -1, 1), d.smooth((images, priors * classes)), prior]


def detection_post_process(d: Draw, p: Parameters) -> list[Array]:
    count, classes = d.int(1, 6), d.int(1, 3)
    p["num_classes"], p["max_classes_per_detection"], p["use_regular_nms"] = classes, 1, 0
    p["nms_score_threshold"], p["nms_iou_threshold"] = d.choice(0.0, 0.25), d.choice(0.25, 0.5)
    for name in ("y_scale", "x_scale", "h_scale", "w_scale"):
        p[name] = d.choice(1.0, 5.0, 10.0)
    p["anchors"] = stored(d.smooth((count, 4), 0.25, 1.0))
    p[OUTPUTS] = 4
    return [d.smooth((1, 4, count), -1, 1), d.smooth((1, classes + 1, count))]


def _same(layer: Any, *operands: Array) -> list[Array]:
    return [operands[0] for _ in layer.outputs]


RECIPES: dict[str, Recipe] = {
    **{name: Recipe(any_type, ref.unary, examples=5) for name in ref.FUNCTIONS},
    **{name: reduction(name) for name in ref.REDUCTIONS},
    **{
        name: Recipe(arithmetic, binary_reference, constants=(0, 1, 2))
        for name in ("Add", "Sub", "Mul", "Maximum", "Minimum", "SquaredDifference")
    },
    "And": Recipe(logic, binary_reference, constants=(0, 1, 2)),
    "ArgMaxOrMin": Recipe(arg_max_or_min, ref.arg_max_or_min),
    "BatchNormCxx": Recipe(batch_norm, ref.affine),
    "BiasAdd": Recipe(bias_add, ref.affine),
    "BitShift": Recipe(bit_shift, bits),
    "Cast": Recipe(
        cast, lambda layer, x: np.trunc(x).astype(CAST[layer.to]) if layer.to in (2, 3, 5) else x.astype(FLOAT)
    ),
    "Clip": Recipe(clip, ref.clip),
    "Concat": Recipe(concat, lambda layer, *xs: np.concatenate(xs, axis=layer.axis), constants=(0, 1, 2, 3)),
    "ConstantOfShape": Recipe(constant_of_shape, lambda layer, shape: np.full(tuple(shape), layer.value.array()[0])),
    "Convolution": Recipe(convolution, ref.convolution, examples=25),
    "Convolution1D": Recipe(convolution, ref.convolution, examples=15),
    "Convolution3D": Recipe(convolution, ref.convolution, examples=12),
    "Deconvolution": Recipe(deconvolution, ref.deconvolution, examples=20),
    "DetectionOutput": Recipe(detection_output),
    "DetectionPostProcess": Recipe(detection_post_process),
    "Div": Recipe(division, binary_reference, constants=(0, 1, 2)),
    "Einsum": Recipe(einsum, ref.einsum, constants=(1,)),
    "Elu": Recipe(any_type, ref.elu),
    "Equal": Recipe(equality, ref.binary, constants=(1,)),
    "Expand": Recipe(expand, ref.expanded, constants=(1,)),
    "Flatten": Recipe(flatten, ref.flattened),
    "GELU": Recipe(floats, ref.gelu),
    "GLU": Recipe(glu, ref.glu),
    "Gather": Recipe(gather, ref.gathered, examples=12, constants=(0, 1)),
    "GatherND": Recipe(gather_nd, ref.gathered_nd, constants=(1,)),
    "Greater": Recipe(comparison, binary_reference, constants=(0, 1)),
    "GridSample": Recipe(grid_sample, examples=12, constants=(1,)),
    "GroupNorm": Recipe(group_norm, ref.group_norm, constants=(1, 2)),
    "HDRGuide": Recipe(hdr_guide, hdr),
    "HardSigmoid": Recipe(any_type, ref.hard_sigmoid),
    "HardSwish": Recipe(hard_swish, ref.hard_swish),
    "Histogram": Recipe(histogram, ref.histogram),
    "InnerProduct": Recipe(inner_product, ref.inner_product, examples=12),
    "InstBatchNormCxx": Recipe(instance_norm, ref.instance_norm),
    "Inverse": Recipe(inverse, lambda layer, x: np.linalg.inv(x)),
    "LRN": Recipe(lrn, ref.lrn),
    "LSTMONNX": Recipe(lstm, ref.lstm, constants=(1, 2, 3)),
    "LayerNorm": Recipe(layer_norm, ref.layer_norm, constants=(1, 2)),
    "Less": Recipe(comparison, binary_reference, constants=(0, 1)),
    "LogSoftmax": Recipe(softmax, ref.log_softmax),
    "MatMul": Recipe(mat_mul, product, examples=15, constants=(0, 1)),
    "NonMaxSuppression": Recipe(suppression, ref.suppressed),
    "NonZero": Recipe(any_type, lambda layer, x: np.array(np.nonzero(x), INT)),
    "Normalize": Recipe(normalize, ref.normalize),
    "Not": Recipe(any_type, lambda layer, x: (x == 0).astype(x.dtype)),
    "OneHot": Recipe(one_hot, ref.one_hot),
    "PReLU": Recipe(prelu, ref.prelu),
    "Pad": Recipe(pad, ref.padded),
    "PadV2": Recipe(pad_v2, ref.padded, constants=(1,)),
    "Permute": Recipe(permute, ref.permuted),
    "PixelShuffle": Recipe(pixel_shuffle, ref.pixel_shuffled),
    "Pooling": Recipe(pooling, ref.pooling, examples=25),
    "Pooling1D": Recipe(pooling, ref.pooling, examples=15),
    "Pooling3D": Recipe(pooling, ref.pooling, examples=12),
    "Power": Recipe(power, ref.power, examples=12),
    "PriorBox": Recipe(prior_box),
    "Range": Recipe(number_range, ranged),
    "Reformat": Recipe(
        reformat,
        lambda layer, *xs: [np.trunc(x).astype(INT) if layer.destination == 3 else x.astype(FLOAT) for x in xs],
    ),
    "Reorg": Recipe(reorg, ref.reorganised),
    "Reshape": Recipe(reshape, reshaped, examples=12, constants=(1,)),
    "RoiAlign": Recipe(roi_align),
    "Scale": Recipe(scale, ref.affine),
    "Scatter": Recipe(scatter, ref.scattered),
    "ScatterElements": Recipe(scatter, ref.scattered, constants=(1,)),
    "ScatterND": Recipe(scatter_nd, ref.scattered_nd, constants=(1,)),
    "Selu": Recipe(any_type, ref.selu),
    "Shape": Recipe(any_type, lambda layer, x: np.array(x.shape, INT)),
    "ShuffleChannel": Recipe(shuffle_channel, ref.shuffled),
    "SignedMul": Recipe(signed_mul, ref.signed_mul),
    "Size": Recipe(any_type, lambda layer, x: np.array([x.size], INT)),
    "Softmax": Recipe(softmax, ref.softmax),
    "Split": Recipe(split, _same),
    "SplitV": Recipe(split_v, ref.split),
    "Squeeze": Recipe(squeeze, squeezed),
    "StridedSlice": Recipe(strided_slice, ref.sliced, examples=12),
    "StridedSliceV2": Recipe(strided_slice_v2, ref.sliced_axes, examples=12, constants=(1, 2)),
    "Tile": Recipe(tile, ref.tiled, constants=(1,)),
    "TopK": Recipe(top_k, ref.top_k, constants=(1,)),
    "Unsqueeze": Recipe(unsqueeze, unsqueezed),
    "Upsample": Recipe(upsample, examples=20),
    "Where": Recipe(where, lambda layer, a, b, condition: np.where(condition != 0, a, b), constants=(0, 1, 2)),
}

NOT_DRIVEN = {
    "Const": "it takes no input that could vary; the translation of constants is tested by its own",
    "ROIPooling": "TNN has no code for it, so that nobody says what it computes",
}
"""Declared layers without a recipe, and why."""
