"""Maximum and average pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import Self

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.emit.int8 import Codes, Int8, Operands, Scale
from tnn_serving.errors import ShapeError, UnsupportedLayer
from tnn_serving.layers.base import Layer
from tnn_serving.layers.operands import FLOAT, Operand
from tnn_serving.layers.parameters import DHW, FLOAT32_LOWEST, HW, token
from tnn_serving.layers.pattern import Match
from tnn_serving.layers.registry import layer
from tnn_serving.layers.window import EXPLICIT, PAD_TYPES, SAME, VALID, check_extent, check_filled, onnx_window

POOL_TYPES = {0: "maximum", 1: "average"}


class Axis(NamedTuple):
    """One spatial axis of a pooling: position in the input, window size (0: the whole axis), step, pad."""

    axis: int
    kernel: int
    stride: int
    pad: int


def pooled(g: Builder, x: Value, average: bool, axes: Sequence[Axis], pad_type: int, ceil: bool) -> Value:
    """Pooling with TNN's padding: the average counts elements of the input only, SAME is ONNX's SAME_UPPER.

    Whole axes become reductions, which hold at any size. Raises ShapeError and UnsupportedLayer.
    """
    check_filled(x)
    axes = _fixed(g, x, axes, pad_type)
    if not any(a.kernel for a in axes):
        return g.op("GlobalAveragePool" if average else "GlobalMaxPool", x)
    x, axes = _reduced(g, x, average, axes)
    kernel = [a.kernel for a in axes]
    stride = [a.stride for a in axes]
    if pad_type == SAME:
        if all(k >= n for k, n in zip(kernel, stride, strict=True)):
            return _pool(g, x, average, kernel, stride, auto_pad="SAME_UPPER")
        # ONNX Runtime's pooling refuses SAME_UPPER where the last window ends before the input does.
        sizes = [_same(g, x, a) for a in axes]
        begins = [g.op("Div", g.op("Max", total, g.ints(0)), g.ints(2)) for _, total in sizes]
        return placed(g, x, average, axes, [out for out, _ in sizes], begins)
    if pad_type == VALID:
        return _pool(g, x, average, kernel, stride)
    pads = [a.pad for a in axes]
    if any(p < 0 or p >= k for p, k in zip(pads, kernel, strict=True)):
        outs = [_out(g, x, a, ceil) for a in axes]
        return placed(g, x, average, axes, outs, [g.ints(p) for p in pads])
    y = _pool(g, x, average, kernel, stride, pads=[*pads, *pads], ceil_mode=int(ceil))
    hanging = [a for a in axes if ceil and a.stride > a.kernel - a.pad]
    return _with_hanging(g, x, y, hanging) if hanging else y


def pooling_fields(m: Match, axes: int) -> dict[str, Any] | None:
    """The parameters of an ONNX pooling of this many axes; ``None`` for one of others.

    Raises UnsupportedLayer for pads that are not even or that count, for dilation, and for the places of the maxima.
    """
    x, node = m["x"], m.root
    if x.rank != axes + 2:
        return None
    if not x.is_float:
        raise UnsupportedLayer("TNN pools floats only", found=x.dtype)
    if len(node.outputs) > 1:
        raise UnsupportedLayer("TNN does not say where the maxima are", found=f"output `{node.outputs[1].name}`")
    pool_type = int("Average" in node.op_type)
    if node.op_type.startswith("Global"):
        return {
            "pool_type": pool_type,
            "kernel": _sizes_as_tokens((0,) * axes),
            "stride": _sizes_as_tokens((1,) * axes),
            "pad_type": EXPLICIT,
        }
    window = onnx_window(node, node.attributes["kernel_shape"])
    pads, ceil = window.even_pads(), node.attributes.get("ceil_mode", 0)
    if any(step != 1 for step in window.dilation):
        raise UnsupportedLayer("TNN pools without dilation", found=f"dilations {list(window.dilation)}")
    if pool_type and node.attributes.get("count_include_pad", 0) and (any(pads) or window.pad_type == SAME):
        raise UnsupportedLayer("TNN does not count pads", found="count_include_pad 1")
    if ceil and any(step > k - pad for step, k, pad in zip(window.stride, window.kernel, pads, strict=True)):
        raise UnsupportedLayer("TNN keeps windows that are wholly in the pads", found=f"strides {list(window.stride)}")
    if window.pad_type == SAME and axes != 2:
        raise UnsupportedLayer("TNN pads SAME of this many axes otherwise", found=f"{axes} axes")
    return {
        "pool_type": pool_type,
        "kernel": _sizes_as_tokens(window.kernel),
        "stride": _sizes_as_tokens(window.stride),
        "pad": _sizes_as_tokens(pads),
        "pad_type": window.pad_type,
        "ceil_mode": int(ceil),
    }


def _sizes_as_tokens(sizes: Sequence[int]) -> int | HW | DHW:
    """Sizes of one, two or three axes as a layer of so many has them."""
    if len(sizes) == 1:
        return sizes[0]
    return HW(*sizes) if len(sizes) == 2 else DHW(*sizes)


def _fixed(g: Builder, x: Value, axes: Sequence[Axis], pad_type: int) -> list[Axis]:
    """The axes, checked. A whole axis that is padded takes the default size: no form of it holds at any size."""
    if pad_type not in PAD_TYPES:
        raise UnsupportedLayer("padding type is not supported", expected=PAD_TYPES, found=pad_type)
    if any(a.stride < 1 or a.kernel < 0 for a in axes):
        raise ShapeError(
            "stride must be at least 1, kernel at least 0",
            found=f"kernel {[a.kernel for a in axes]}, stride {[a.stride for a in axes]}",
        )
    padded = [not a.kernel and (pad_type == SAME or (pad_type == EXPLICIT and a.pad != 0)) for a in axes]
    return [a._replace(kernel=g.fix(x, a.axis)) if bad else a for a, bad in zip(axes, padded, strict=True)]


def _reduced(g: Builder, x: Value, average: bool, axes: Sequence[Axis]) -> tuple[Value, list[Axis]]:
    """Whole axes reduced to 1, and pooling parameters that leave them alone."""
    whole = [a.axis for a in axes if not a.kernel]
    if whole:
        x = g.op("ReduceMean" if average else "ReduceMax", x, g.ints(*whole), keepdims=1)
    return x, [a if a.kernel else Axis(a.axis, 1, 1, 0) for a in axes]


def _pool(
    g: Builder, x: Value, average: bool, kernel: Sequence[int], stride: Sequence[int], **padding: str | int | list[int]
) -> Value:
    return g.op("AveragePool" if average else "MaxPool", x, kernel_shape=list(kernel), strides=list(stride), **padding)


def _out(g: Builder, x: Value, a: Axis, ceil: bool) -> Value:
    """Number of windows on an axis with explicit pads, int64 [1]."""
    room = g.op("Add", g.size(x, a.axis), g.ints(2 * a.pad - a.kernel + (a.stride - 1 if ceil else 0)))
    return g.op("Add", g.op("Div", room, g.ints(a.stride)), g.ints(1))


def _same(g: Builder, x: Value, a: Axis) -> tuple[Value, Value]:
    """Number of windows ceil(n/s) of an axis, and how much longer than the input they are together; int64 [1]."""
    n = g.size(x, a.axis)
    out = g.op("Div", g.op("Add", n, g.ints(a.stride - 1)), g.ints(a.stride))
    return out, g.op("Sub", g.op("Add", g.op("Mul", out, g.ints(a.stride)), g.ints(a.kernel - a.stride)), n)


def _with_hanging(g: Builder, x: Value, y: Value, axes: Sequence[Axis]) -> Value:
    """``y`` with zeros for windows wholly in the end padding, which ceil mode can make.

    ONNX Runtime leaves them out, OpenVINO fills them with -FLT_MAX, TNN has 0.
    """
    valid, missing = [], []
    for a in axes:
        out = _out(g, x, a, True)
        reach = g.op("Add", g.size(x, a.axis), g.ints(a.pad + a.stride - 1))
        inside = g.op("Min", out, g.op("Div", reach, g.ints(a.stride)))
        valid.append(inside)
        missing.append(g.op("Sub", out, inside))
    order = g.ints(*(a.axis for a in axes))
    zeros = g.ints(*(0 for _ in axes))
    cut = g.op("Slice", y, zeros, g.op("Concat", *valid, axis=0), order)
    return g.op("Pad", cut, g.op("Concat", zeros, *missing, axis=0), None, order)


def placed(
    g: Builder, x: Value, average: bool, axes: Sequence[Axis], outs: Sequence[Value], begins: Sequence[Value]
) -> Value:
    """Pooling with ``outs`` windows per axis, the first of which starts ``begins`` before the input.

    For what ONNX's padding cannot express: pads as large as the window, pads that depend on the size, negative ones.
    A window wholly outside the input gives 0.

    Args:
        outs, begins: int64 [1] per axis.
    """
    zero, one = g.ints(0), g.ints(1)
    starts, ends, fronts, backs = [], [], [], []
    for a, out, begin in zip(axes, outs, begins, strict=True):
        n = g.size(x, a.axis)
        last = g.op("Add", g.op("Mul", g.op("Sub", out, one), g.ints(a.stride)), g.ints(a.kernel))
        behind = g.op("Sub", g.op("Sub", last, begin), n)
        starts.append(g.op("Max", g.op("Sub", zero, begin), zero))
        fronts.append(g.op("Max", begin, zero))
        ends.append(g.op("Sub", n, g.op("Max", g.op("Sub", zero, behind), zero)))
        backs.append(g.op("Max", behind, zero))
    order = g.ints(*(a.axis for a in axes))
    pads = g.op("Concat", *fronts, *backs, axis=0)
    cut = g.op("Slice", x, g.op("Concat", *starts, axis=0), g.op("Concat", *ends, axis=0), order)
    kernel, stride = [a.kernel for a in axes], [a.stride for a in axes]
    if not average:
        y = _pool(g, g.op("Pad", cut, pads, g.const(FLOAT32_LOWEST), order), False, kernel, stride)
        return g.op("Where", g.op("Equal", y, g.const(FLOAT32_LOWEST)), g.const(0.0), y)
    ones = g.op("Expand", g.const(1.0), g.shape(cut))
    total = _pool(g, g.op("Pad", cut, pads, None, order), True, kernel, stride)
    share = _pool(g, g.op("Pad", ones, pads, None, order), True, kernel, stride)
    some = g.op("Greater", share, g.const(0.0))
    return g.op("Div", total, g.op("Where", some, share, g.const(1.0)))


def adaptive(g: Builder, x: Value, average: bool, out: HW) -> Value:
    """Pooling to a fixed size: window o of n elements covers floor(o*n/out) to ceil((o+1)*n/out).

    Averages are two products with averaging matrices made from the size at run time, maxima two masked maxima.
    """
    check_filled(x)
    if out.h < 1 or out.w < 1:
        raise ShapeError("adaptive output size must be at least 1", found=tuple(out))
    if out == (1, 1):
        return g.op("GlobalAveragePool" if average else "GlobalMaxPool", x)
    rows, columns = _cover(g, x, 2, out.h), _cover(g, x, 3, out.w)
    if average:
        weights = [
            g.op("Div", part, g.op("ReduceSum", part, g.ints(1), keepdims=1))
            for part in (g.cast(rows, np.float32), g.cast(columns, np.float32))
        ]
        return g.op("MatMul", g.op("MatMul", weights[0], x), g.op("Transpose", weights[1], perm=[1, 0]))
    lowest = g.const(FLOAT32_LOWEST)
    by_row = g.op("Where", g.op("Unsqueeze", rows, g.ints(2)), g.op("Unsqueeze", x, g.ints(2)), lowest)
    tall = g.op("ReduceMax", by_row, g.ints(3), keepdims=0)
    by_column = g.op("Where", columns, g.op("Unsqueeze", tall, g.ints(3)), lowest)
    return g.op("ReduceMax", by_column, g.ints(4), keepdims=0)


def _cover(g: Builder, x: Value, axis: int, out: int) -> Value:
    """bool [out, n]: which elements of an axis each window of an adaptive pooling covers."""
    n = g.size(x, axis)
    count = g.ints(out)
    g.check_made(out)
    first = g.const(np.arange(out, dtype=np.int64).reshape(-1, 1))
    start = g.op("Div", g.op("Mul", first, n), count)
    end = g.op("Div", g.op("Add", g.op("Mul", g.op("Add", first, g.ints(1)), n), g.ints(out - 1)), count)
    index = g.op("Range", g.const(np.int64(0)), g.op("Squeeze", n), g.const(np.int64(1)))
    return g.op("And", g.op("GreaterOrEqual", index, start), g.op("Less", index, end))


def window_sizes(g: Builder, x: Value, kernel: Sequence[int], index: Sequence[int]) -> list[int]:
    """Kernel sizes with 0 for a whole axis; ``index`` names input axes whose size replaces a kernel size.

    An index of another axis than its own fixes that size.
    """
    sizes = []
    for place, (size, source) in enumerate(zip(kernel, index, strict=True)):
        if source == -1:
            sizes.append(size)
        elif x.axis(source) == 2 + place:
            sizes.append(0)
        else:
            sizes.append(g.fix(x, source))
    return sizes


@layer(4, "Pooling", "Pooling_nhwc", "Pooling_split_CC", "QuantizedPooling")
class Pooling(Layer):
    """2-D maximum or average over windows; the average counts elements of the input only.

    ONNX: MaxPool or AveragePool; GlobalMaxPool or GlobalAveragePool for whole axes; MatMul with averaging matrices
        for adaptive ones.
    TNN differs: windows wholly in the padding give 0, and ceil mode keeps them; the plain CPU device shifts VALID
        windows by half of what is left over, and SAME ones where the kernel is much smaller than the stride, and has
        no adaptive maximum (defects: the usual meaning applies here).
    """

    operands = (Operand("x", "[N, C, H, W]", FLOAT),)
    results = (
        Operand(
            "y",
            "[N, C, H', W']",
            FLOAT,
            doc="explicit pads: (n+2p-k)/s + 1, rounded up in ceil mode; SAME: ceil(n/s); VALID: ceil((n-k+1)/s); "
            "adaptive: as given",
        ),
    )
    made_from = ("MaxPool(x)", "AveragePool(x)", "GlobalMaxPool(x)", "GlobalAveragePool(x)")

    pool_type: int = token("what is taken of a window", default=0, values=POOL_TYPES)
    kernel: HW = token("window size; 0 is the whole axis", default=HW(0, 0), ge=0)
    stride: HW = token("step", default=HW(0, 0), ge=1)
    pad: HW = token("pad on both sides", default=HW(0, 0), ge=0)
    kernel_index: HW = token("input axis whose size is the kernel, or -1", default=HW(-1, -1), spread=True)
    pad_type: int = token("how the padding is given", default=0, values=PAD_TYPES)
    ceil_mode: int = token("1 rounds the output size up", default=0)
    is_adaptive_pool: int = token("1 pools to the output size", default=0)
    output: HW = token("output size of adaptive pooling", default=HW(0, 0), backwards=True)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """See :func:`pooling_fields`."""
        found = pooling_fields(m, 2)
        if found is None:
            return None
        if found["kernel"] == HW(0, 0):  # as TNN's own converter writes it
            found["output"] = HW(-1, -1)
        return cls.made(m, m["x"], **found)

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        average = self.pool_type != 0
        if self.is_adaptive_pool:
            return adaptive(g, x, average, self.output)
        sizes = window_sizes(g, x, self.kernel, self.kernel_index)
        axes = [Axis(2 + k, *axis) for k, axis in enumerate(zip(sizes, self.stride, self.pad, strict=True))]
        return check_extent(pooled(g, x, average, axes, self.pad_type, self.ceil_mode == 1))

    def to_onnx_int8(self, a: Int8, inputs: Operands, out: Scale) -> Codes:
        """On the codes: TNN ignores the scales. The maximum starts at -127, the average is truncated toward zero."""
        (x,) = inputs.codes
        g = a.g
        if self.pool_type == 0 and a.form.fast:
            inside = a.dequantised(x.value, np.float32(1), np.float32(0))
            return Codes(a.coded(self.to_onnx(g, inside), np.float32(1), np.float32(0)), out)
        pooled_codes = self.to_onnx(g, a.plain(x))
        if self.pool_type == 0:
            return Codes(a.pack(g.op("Max", pooled_codes, g.const(np.float32(-127)))), out)
        # The average of n integers is at least 1/n from the next integer: this much more never reaches it.
        nudged = g.op("Mul", pooled_codes, g.const(np.float32(1 + 2**-20)))
        return Codes(a.pack(nudged), out)


@layer(204, "Pooling1D")
class Pooling1D(Layer):
    """1-D maximum or average over windows; the average counts elements of the input only.

    ONNX: MaxPool or AveragePool, GlobalMaxPool or GlobalAveragePool for the whole axis.
    TNN differs: the begin pad of SAME is ceil(t/stride) of the total t; windows wholly in the padding give 0.
    """

    operands = (Operand("x", "[N, C, L]", FLOAT),)
    results = (Operand("y", "[N, C, L']", FLOAT, doc="as Pooling, but SAME rounds down without ceil mode"),)
    made_from = ("MaxPool(x)", "AveragePool(x)", "GlobalMaxPool(x)", "GlobalAveragePool(x)")

    pool_type: int = token("what is taken of a window", default=0, values=POOL_TYPES)
    kernel: int = token("window size; 0 is the whole axis", default=0, ge=0)
    stride: int = token("step", default=0, ge=1)
    pad: int = token("pad on both sides", default=0, ge=0)
    unused_index: int = token("ignored by TNN", default=-1)
    kernel_index: int = token("input axis whose size is the kernel, or -1", default=-1)
    pad_type: int = token("how the padding is given", default=0, values=PAD_TYPES)
    ceil_mode: int = token("1 rounds the output size up", default=0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """See :func:`pooling_fields`."""
        found = pooling_fields(m, 1)
        return None if found is None else cls.made(m, m["x"], **found)

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        sizes = window_sizes(g, x, [self.kernel], [self.kernel_index])
        axes = [Axis(2, sizes[0], self.stride, self.pad)]
        y = old_pooled(g, x, self.pool_type != 0, axes, self.pad_type, self.ceil_mode == 1, self.stride)
        return check_extent(y)


@layer(202, "Pooling3D")
class Pooling3D(Layer):
    """3-D maximum or average over windows; the average counts elements of the input only.

    ONNX: MaxPool or AveragePool, GlobalMaxPool or GlobalAveragePool for whole axes.
    TNN differs: the begin pad of SAME and VALID is ceil(t/stride.h) of the total t on every axis; windows wholly in
        the padding give 0.
    """

    operands = (Operand("x", "[N, C, D, H, W]", FLOAT),)
    results = (Operand("y", "[N, C, D', H', W']", FLOAT, doc="as Pooling1D on each axis"),)
    made_from = ("MaxPool(x)", "AveragePool(x)", "GlobalMaxPool(x)", "GlobalAveragePool(x)")

    pool_type: int = token("what is taken of a window", default=0, values=POOL_TYPES)
    kernel: DHW = token("window size; 0 is the whole axis", default=DHW(0, 0, 0), ge=0)
    stride: DHW = token("step", default=DHW(0, 0, 0), ge=1)
    pad: DHW = token("pad on both sides", default=DHW(0, 0, 0), ge=0)
    kernel_index: DHW = token("input axis whose size is the kernel, or -1", default=DHW(-1, -1, -1), spread=True)
    pad_type: int = token("how the padding is given", default=0, values=PAD_TYPES)
    ceil_mode: int = token("1 rounds the output size up", default=0)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """See :func:`pooling_fields`."""
        found = pooling_fields(m, 3)
        return None if found is None else cls.made(m, m["x"], **found)

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        sizes = window_sizes(g, x, self.kernel, self.kernel_index)
        axes = [Axis(2 + k, *axis) for k, axis in enumerate(zip(sizes, self.stride, self.pad, strict=True))]
        y = old_pooled(g, x, self.pool_type != 0, axes, self.pad_type, self.ceil_mode == 1, self.stride.h)
        return check_extent(y)


def old_pooled(
    g: Builder, x: Value, average: bool, axes: Sequence[Axis], pad_type: int, ceil: bool, divisor: int
) -> Value:
    """Pooling as TNN's 1-D and 3-D layers do it: SAME and VALID put ceil(total/divisor) in front."""
    check_filled(x)
    if pad_type not in (SAME, VALID):
        return pooled(g, x, average, axes, pad_type, ceil)
    x, axes = _reduced(g, x, average, _fixed(g, x, axes, pad_type))
    outs, begins, simple = [], [], pad_type == VALID
    for a in axes:
        n = g.size(x, a.axis)
        starts = n if pad_type == SAME else g.op("Sub", n, g.ints(a.kernel - 1))
        up = pad_type == VALID or ceil
        out = g.op("Div", g.op("Add", starts, g.ints(a.stride - 1)) if up else starts, g.ints(a.stride))
        total = g.op(
            "Sub", g.op("Add", g.op("Mul", g.op("Sub", out, g.ints(1)), g.ints(a.stride)), g.ints(a.kernel)), n
        )
        outs.append(out)
        begins.append(_ceil_div(g, total, divisor))
        simple = simple and a.stride <= divisor
    # VALID leaves 0 >= total > -stride: there is no pad in front unless the divisor is another axis' stride.
    if simple:
        return pooled(g, x, average, axes, VALID, ceil)
    return placed(g, x, average, axes, outs, begins)


def _ceil_div(g: Builder, x: Value, divisor: int) -> Value:
    """x / divisor rounded up, for int64 of either sign; both engines divide toward zero."""
    positive = g.op("Div", g.op("Add", g.op("Max", x, g.ints(0)), g.ints(divisor - 1)), g.ints(divisor))
    negative = g.op("Div", g.op("Min", x, g.ints(0)), g.ints(divisor))
    return g.op("Add", positive, negative)
