"""Layout, selection and matrices."""

from __future__ import annotations

import math

import numpy as np

from tnn_serving.conversion.lowering.arithmetic import type_code
from tnn_serving.conversion.lowering.rules import lowers
from tnn_serving.conversion.origin import Origin
from tnn_serving.errors import UnsupportedLayer
from tnn_serving.layers.pattern import OnnxNode, OnnxValue

REDUCTIONS = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2")
MORE_REDUCTIONS = ("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare")


def known_dims(x: OnnxValue) -> tuple[int, ...]:
    """The dims, which are the same at any shape. Raises UnsupportedLayer if they are not."""
    if None in x.known:
        raise UnsupportedLayer(
            f"the dims of `{x.name}` must be fixed",
            found=list(x.known),
            hint="--dims with a model whose sizes are fixed",
        )
    return tuple(size for size in x.known if size is not None)


def same(s: Origin, x: OnnxValue) -> OnnxValue:
    """A value of its own that is the same as ``x``."""
    return s.add("Identity", [x], [s.fresh(f"{x.name}.same")], {}, s.opset, kept=True)[0]


@lowers("Gemm")
def _gemm(s: Origin, n: OnnxNode) -> OnnxValue:
    """A product, its factors, and a sum; weights that are stored take transposition and factor in."""
    a, b, c = n.need(0), n.need(1), n.input(2)
    alpha, beta = float(n.attributes.get("alpha", 1.0)), float(n.attributes.get("beta", 1.0))
    a = s.op("Transpose", a, perm=[1, 0]) if n.attributes.get("transA", 0) else a
    b = s.op("Transpose", b, perm=[1, 0]) if n.attributes.get("transB", 0) else b
    y = s.op("MatMul", a, b if alpha == 1.0 else s.op("Mul", b, s.like(b, alpha)))
    if c is None or beta == 0.0:
        return y
    return s.op("Add", y, c if beta == 1.0 else s.op("Mul", c, s.like(c, beta)))


@lowers("MatMul")
def _whole_product(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """Of whole numbers, in float32: exact up to 2^24."""
    a, b = n.need(0), n.need(1)
    if a.is_float:
        return None
    return s.op("Cast", s.op("MatMul", s.op("Cast", a, to=1), s.op("Cast", b, to=1)), to=type_code(a))


@lowers("Pad")
def _pad(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """Pads of some axes become pads of all; edges and wrapped elements are cut out and put beside."""
    x, mode, axes = n.need(0), n.attributes.get("mode", "constant"), n.input(3)
    given = n.need(1).numbers()
    places = range(x.rank) if axes is None else [x.axis(axis) for axis in axes.numbers()]
    begins, ends = [0] * x.rank, [0] * x.rank
    for place, begin, end in zip(places, given[: len(given) // 2], given[len(given) // 2 :], strict=True):
        begins[place], ends[place] = begin, end
    if mode in ("edge", "wrap") and min(*begins, *ends) >= 0:
        for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            x = _beside(s, x, axis, begin, end, mode) if begin or end else x
        return x if x is not n.need(0) else same(s, x)
    if axes is None and mode != "constant":
        return None
    value = n.input(2)
    if value is not None and (not value.constant or (not value.is_float and value.fixed().any())):
        return _filled(s, x, begins, ends, value)
    if axes is None:
        return None
    return s.op("Pad", x, s.ints(*begins, *ends), value, mode=mode)


def _beside(s: Origin, x: OnnxValue, axis: int, begin: int, end: int, mode: str) -> OnnxValue:
    at = s.ints(axis)
    size = known_dims(x)[axis] if mode == "wrap" else 0

    def cut(first: int, last: int) -> OnnxValue:
        return s.op("Slice", x, s.ints(first), s.ints(last), at)

    if mode == "edge":
        front, back = [cut(0, 1)] * begin, [cut(-1, 2**31 - 1)] * end
    else:
        front = [cut(size - begin, size)] if begin else []
        back = [cut(0, end)] if end else []
        if max(begin, end) > size:
            raise UnsupportedLayer("the pads are longer than the axis", found=f"{begin} and {end} of {size}")
    return s.op("Concat", *front, x, *back, axis=axis)


def _filled(s: Origin, x: OnnxValue, begins: list[int], ends: list[int], value: OnnxValue) -> OnnxValue:
    """Pieces of the value beside."""
    if min(*begins, *ends) < 0:
        raise UnsupportedLayer("pads that crop need a stored constant", found=f"{begins} and {ends}")
    for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        dims = list(known_dims(x))

        def piece(size: int, dims: list[int] = dims, axis: int = axis) -> list[OnnxValue]:
            return [s.op("Expand", value, s.ints(*dims[:axis], size, *dims[axis + 1 :]))] if size else []

        if begin or end:
            x = s.op("Concat", *piece(begin), x, *piece(end), axis=axis)
    return x


@lowers("GatherElements")
def _gather_elements(s: Origin, n: OnnxNode) -> OnnxValue:
    """Gather of the flat elements: a constant says where each index starts, and its step."""
    x, indices = n.need(0), n.need(1)
    axis = x.axis(n.attributes.get("axis", 0))
    dims, shape = known_dims(x), known_dims(indices)
    steps = [math.prod(dims[k + 1 :]) for k in range(x.rank)]
    grid = np.indices(shape, dtype=np.int64)
    start = sum((grid[k] * steps[k] for k in range(x.rank) if k != axis), np.zeros(shape, np.int64))
    wide = indices if indices.dtype == np.int64 else s.op("Cast", indices, to=7)
    below = s.op("Less", wide, s.const(np.int64(0)))
    wrapped = s.op("Where", below, s.op("Add", wide, s.const(np.int64(dims[axis]))), wide)
    place = s.op("Add", s.op("Mul", wrapped, s.const(np.int64(steps[axis]))), s.const(start))
    return s.op("Gather", s.op("Reshape", x, s.ints(-1)), place, axis=0)


@lowers("GatherND")
def _gather_nd(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """With batch dims: their indices in front of the others."""
    x, indices, batch = n.need(0), n.need(1), n.attributes.get("batch_dims", 0)
    if not batch:
        return None
    shape = known_dims(indices)
    grid = np.stack(list(np.indices(shape[:-1], dtype=np.int64)[:batch]), axis=-1)
    return s.op("GatherND", x, s.op("Concat", s.const(grid), indices, axis=-1))


@lowers("Trilu")
def _triangle(s: Origin, n: OnnxNode) -> OnnxValue:
    """Where a stored triangle is, and 0 elsewhere."""
    x, k = n.need(0), n.input(1)
    if None in x.known[-2:]:
        raise UnsupportedLayer("the last two dims must be fixed", found=list(x.known))
    rows, columns = (size or 0 for size in x.known[-2:])
    place, ones = 0 if k is None else int(k.scalar()), np.ones((rows, columns), np.bool_)
    kept = np.triu(ones, place) if n.attributes.get("upper", 1) else np.tril(ones, place)
    return s.op("Where", s.const(kept), x, s.like(x, 0))


@lowers("Size")
def _size(s: Origin, n: OnnxNode) -> OnnxValue:
    """The product of the dims."""
    return s.op("ReduceProd", s.op("Shape", n.need(0)), s.ints(0), keepdims=0)


@lowers("Shape")
def _shape(s: Origin, n: OnnxNode) -> OnnxValue:
    """Some of the dims."""
    x = n.need(0)
    first, last = n.attributes.get("start", 0), n.attributes.get("end", x.rank)
    return s.op("Slice", s.op("Shape", x), s.ints(first), s.ints(last), s.ints(0))


@lowers("Reshape")
def _scalar(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """To no dims at all; to a size of 0 there is no form."""
    x, entries = n.need(0), n.need(1)
    if not entries.constant or entries.fixed().size or not x.rank:
        return None
    return s.op("Squeeze", x, s.ints(*range(x.rank)))


@lowers("Flatten", "Expand", "Tile")
def _nothing(s: Origin, n: OnnxNode) -> None:
    """No form of its own."""
    return


@lowers(*REDUCTIONS, *MORE_REDUCTIONS)
def _reduction(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """Of no axes, the function of each element; of truth values, as whole numbers; of rounded ones, in float32."""
    x = n.need(0)
    axes = n.axes()
    if not axes and n.attributes.get("noop_with_empty_axes", 0):
        names = {"ReduceL1": "Abs", "ReduceL2": "Abs", "ReduceLogSum": "Log"}
        if n.op_type == "ReduceSumSquare":
            return s.op("Mul", x, x)
        return s.op(names[n.op_type], x) if n.op_type in names else same(s, x)
    given = {key: value for key, value in n.attributes.items() if key != "axes"}
    places = None if axes is None else s.ints(*axes)
    if x.dtype in (np.bool_, np.int8, np.uint8, np.int16, np.uint16) and n.op_type in ("ReduceMax", "ReduceMin"):
        return s.op("Cast", s.op(n.op_type, s.op("Cast", x, to=6), places, **given), to=type_code(x))
    if x.dtype in (np.int32, np.int64) and n.op_type != "ReduceMean":
        return s.op("Cast", s.op(n.op_type, s.op("Cast", x, to=1), places, **given), to=type_code(x))
    return None


@lowers("ArgMax", "ArgMin")
def _arg(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """Of whole numbers, as floats; the last one of several, from the back."""
    x = n.need(0)
    if not x.is_float:
        return s.single(n.op_type, [s.op("Cast", x, to=1)], n.attributes)
    if not n.attributes.get("select_last_index", 0):
        return None
    axis = x.axis(n.attributes.get("axis", 0))
    back = s.op("Slice", x, s.ints(-1), s.ints(-(2**31) + 1), s.ints(axis), s.ints(-1))
    found = s.op(n.op_type, back, axis=axis, keepdims=n.attributes.get("keepdims", 1))
    last = s.op("Gather", s.op("Shape", x), s.const(np.int64(axis)), axis=0)
    return s.op("Sub", s.op("Sub", last, s.const(np.int64(1))), found)


@lowers("Dropout")
def _dropout(s: Origin, n: OnnxNode) -> list[OnnxValue] | None:
    """Nothing is dropped, and the mask is full."""
    x, mode = n.need(0), n.input(2)
    if mode is not None and (not mode.constant or mode.fixed().any()):
        return None
    return [same(s, x), s.op("Expand", s.const(np.array(True)), s.op("Shape", x))]


@lowers("Hardmax")
def _hardmax(s: Origin, n: OnnxNode) -> OnnxValue:
    """1 at the first largest element of an axis."""
    x = n.need(0)
    axis = x.axis(n.attributes.get("axis", -1))
    if x.known[axis] is None:
        raise UnsupportedLayer("the size of the axis must be fixed", found=f"axis {axis}")
    best = s.op("ArgMax", x, axis=axis, keepdims=0)
    return s.op("OneHot", best, s.const(np.int64(x.known[axis] or 0)), s.const(np.array([0, 1], x.dtype)), axis=axis)


@lowers("OneHot")
def _one_hot(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """A depth of another type, or indices of one."""
    indices, depth, values = n.need(0), n.need(1), n.need(2)
    if not indices.is_float and not depth.is_float and values.dtype == np.float32:
        return None
    indices = indices if indices.dtype == np.int64 else s.op("Cast", indices, to=7)
    off, on = values.fixed().reshape(-1)
    wanted = s.const(np.array([off, on], np.float32))
    y = s.op("OneHot", indices, s.const(np.int64(depth.scalar())), wanted, axis=n.attributes.get("axis", -1))
    return y if values.dtype == np.float32 else s.op("Cast", y, to=type_code(values))


@lowers("EyeLike")
def _eye(s: Origin, n: OnnxNode) -> OnnxValue:
    """A stored matrix."""
    x = n.need(0)
    rows, columns = known_dims(x)
    return same(s, s.const(np.eye(rows, columns, n.attributes.get("k", 0), n.outputs[0].dtype)))


@lowers("Compress")
def _compress(s: Origin, n: OnnxNode) -> OnnxValue:
    """By a stored condition."""
    x, axis = n.need(0), n.attributes.get("axis")
    places = np.flatnonzero(n.need(1).fixed())
    flat = s.op("Reshape", x, s.ints(-1)) if axis is None else x
    return s.op("Gather", flat, s.const(places.astype(np.int64)), axis=axis or 0)


@lowers("LpNormalization")
def _normalised(s: Origin, n: OnnxNode) -> OnnxValue:
    """Divided by a norm, or by 1 where it is 0."""
    x = n.need(0)
    operator = "ReduceL1" if n.attributes.get("p", 2) == 1 else "ReduceL2"
    norm = s.op(operator, x, s.ints(n.attributes.get("axis", -1)), keepdims=1)
    return s.op("Div", x, s.op("Where", s.op("Equal", norm, s.like(x, 0)), s.like(x, 1), norm))


@lowers("Max", "Min")
def _extreme(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """Of small whole numbers, in 32 bits."""
    x = n.need(0)
    if x.dtype not in (np.int8, np.uint8, np.int16, np.uint16):
        return None
    wide = [s.op("Cast", value, to=6) for value in n.inputs if value is not None]
    return s.op("Cast", s.op(n.op_type, *wide), to=type_code(x))


@lowers("BatchNormalization")
def _batch_norm(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """Of statistics that are not stored, or of a vector."""
    if n.attributes.get("training_mode", 0) or len(n.outputs) > 1:
        return None
    x = n.need(0)
    column = s.ints(-1, *(1,) * (x.rank - 2))
    gamma, beta, mean, variance = (s.op("Reshape", n.need(k), column) for k in range(1, 5))
    root = s.op("Sqrt", s.op("Add", variance, s.like(variance, n.attributes.get("epsilon", 1e-5))))
    return s.op("Add", s.op("Mul", s.op("Div", s.op("Sub", x, mean), root), gamma), beta)


@lowers("InstanceNormalization")
def _instance_norm(s: Origin, n: OnnxNode) -> OnnxValue:
    """Of computed scale and bias."""
    x, scale, bias = n.need(0), n.need(1), n.need(2)
    axes, column = s.ints(*range(2, x.rank)), s.ints(-1, *(1,) * (x.rank - 2))
    centred = s.op("Sub", x, s.op("ReduceMean", x, axes, keepdims=1))
    variance = s.op("ReduceMean", s.op("Mul", centred, centred), axes, keepdims=1)
    root = s.op("Sqrt", s.op("Add", variance, s.like(x, n.attributes.get("epsilon", 1e-5))))
    y = s.op("Mul", s.op("Div", centred, root), s.op("Reshape", scale, column))
    return s.op("Add", y, s.op("Reshape", bias, column))


@lowers("Det")
def _determinant(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """Of 2 x 2 matrices."""
    x = n.need(0)
    if x.known[-2:] != (2, 2):
        return None
    a, b, c, d = (_element(s, x, row, column) for row in (0, 1) for column in (0, 1))
    return s.op("Sub", s.op("Mul", a, d), s.op("Mul", b, c))


def _element(s: Origin, x: OnnxValue, row: int, column: int) -> OnnxValue:
    taken = s.op("Gather", x, s.const(np.int64(row)), axis=x.rank - 2)
    return s.op("Gather", taken, s.const(np.int64(column)), axis=x.rank - 2)


@lowers("Scatter")
def _scatter(s: Origin, n: OnnxNode) -> OnnxValue:
    """Its newer name."""
    return s.op("ScatterElements", *n.inputs, axis=n.attributes.get("axis", 0))


@lowers("Range")
def _numbers(s: Origin, n: OnnxNode) -> None:
    """No form of its own."""
    return


@lowers("LRN")
def _response(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """Of an even number of channels: the sum of squares by a band matrix over the channels."""
    x, size = n.need(0), int(n.attributes["size"])
    channels = x.known[1]
    if channels is None:
        return None
    alpha, beta = float(n.attributes.get("alpha", 1e-4)), float(n.attributes.get("beta", 0.75))
    low, high = (size - 1) // 2, size - 1 - (size - 1) // 2
    far = np.arange(channels)[None, :] - np.arange(channels)[:, None]
    band = ((far >= -low) & (far <= high)).astype(np.float32) * (alpha / size)
    order = [0, *range(2, x.rank), 1]
    squares = s.op("Transpose", s.op("Mul", x, x), perm=order)
    sums = s.op("Transpose", s.op("MatMul", squares, s.const(band.T)), perm=[0, x.rank - 1, *range(1, x.rank - 1)])
    base = s.op("Add", sums, s.like(x, n.attributes.get("bias", 1.0)))
    return s.op("Div", x, s.op("Pow", base, s.like(x, beta)))
