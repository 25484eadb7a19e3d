"""Convolutions and their transposes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.emit.int8 import Codes, Form, Int8, Operands, Scale, Weights
from tnn_serving.errors import ShapeError, UnsupportedLayer, WeightsError
from tnn_serving.layers.base import (
    DHW,
    HW,
    Layer,
    beside,
    buffer,
    entry_label,
    flag,
    int8_scale,
    layer,
    need_floats,
    token,
)
from tnn_serving.tensor import DataType, Tensor

ACTIVATIONS = {0: "none", 1: "ReLU", 2: "ReLU6", 256: "x * sigmoid(x)"}
PAD_TYPES = {-1: "explicit", 0: "SAME", 1: "VALID"}
TRANSPOSED_PAD_TYPES = {**PAD_TYPES, 2: "FULL", 3: "SAME with output padding"}


def activated(g: Builder, x: Value, code: int) -> Value:
    """The activation that TNN fuses into a convolution, by its code."""
    if code == 0:
        return x
    if code == 1:
        return g.op("Relu", x)
    if code == 2:
        return g.op("Clip", x, g.const(0.0), g.const(6.0))
    if code == 256:
        return g.op("Mul", x, g.op("Sigmoid", x))
    raise UnsupportedLayer("fused activation is unknown", expected=ACTIVATIONS, found=code)


def same_valid(
    g: Builder, x: Value, *, pad_type: int, kernel: Sequence[int], reach: Sequence[int], stride: Sequence[int]
) -> Value:
    """Pads and crops the spatial axes of ``x`` so that a convolution without padding gives TNN's SAME or VALID.

    Per axis with size n, kernel k and stride s: out = ceil(n/s) for SAME, ceil((n-k+1)/s) for VALID; the total
    t = (out-1)*s + k - n is split t/2 (toward zero) in front. A negative front crops: TNN's first window then
    starts inside the input, where TensorFlow's starts at 0. What is behind follows from the size of the output.

    Args:
        kernel: sizes that decide output and front.
        reach: sizes of the windows, dilation included.
    """
    axes = range(2, 2 + len(kernel))
    fronts, crops, ends, backs = [], [], [], []
    one = g.ints(1)
    for axis, k, ke, s in zip(axes, kernel, reach, stride, strict=True):
        n = g.size(x, axis)
        step = g.ints(s)
        starts = n if pad_type == 0 else g.op("Sub", n, g.ints(k - 1))
        out = g.op("Div", g.op("Add", starts, g.ints(s - 1)), step)
        last = g.op("Mul", g.op("Sub", out, one), step)
        span = g.op("Add", last, g.ints(ke))
        total = g.op("Sub", g.op("Add", last, g.ints(k)), n)
        zero = g.ints(0)
        front = g.op("Div", g.op("Max", total, zero), g.ints(2))
        crop = g.op("Div", g.op("Max", g.op("Sub", zero, total), zero), g.ints(2))
        back = g.op("Max", g.op("Sub", g.op("Sub", span, g.op("Sub", n, crop)), front), zero)
        fronts.append(front)
        crops.append(crop)
        ends.append(n)
        backs.append(back)
    order = g.ints(*axes)
    cropped = g.op("Slice", x, g.op("Concat", *crops, axis=0), g.op("Concat", *ends, axis=0), order)
    pads = g.op("Concat", *fronts, *backs, axis=0)
    return g.op("Pad", cropped, pads, None, order)


def window(
    g: Builder,
    x: Value,
    *,
    pad_type: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    undilated: bool = False,
) -> tuple[Value, dict[str, Any]]:
    """The input and the ONNX padding attributes that give a convolution TNN's padding, at any size of the input.

    Explicit pads, SAME at stride 1 and VALID at strides up to 2 need no shape arithmetic. SAME with a stride is
    ONNX's SAME_UPPER where its first window does not start inside the input; ONNX Runtime refuses that attribute
    with dilation, so such layers, and the cropping ones, compute their pads from the size.

    Args:
        pads: zeros before and behind, for each axis; only explicit padding looks at them.
        undilated: SAME and VALID reckon with the kernel as it stands, as TNN does for one axis.

    Raises UnsupportedLayer for pad types that TNN refuses, ShapeError for strides or kernels that make no sense.
    """
    if any(s < 1 for s in stride) or any(k < 1 for k in kernel) or any(d < 1 for d in dilation):
        raise ShapeError(
            "kernel, stride and dilation must be at least 1",
            found=f"kernel {tuple(kernel)}, stride {tuple(stride)}, dilation {tuple(dilation)}",
        )
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    counted = list(kernel) if undilated else reach
    if pad_type == -1:
        return x, {"pads": [*(front for front, _ in pads), *(back for _, back in pads)]}
    if pad_type == 0 and all(s == 1 for s in stride):
        fronts = [(k - 1) // 2 for k in counted]
        return x, {"pads": [*fronts, *(ke - 1 - front for ke, front in zip(reach, fronts, strict=True))]}
    if (
        pad_type == 0
        and all(d == 1 for d in dilation)
        and all(s - ke <= 1 for s, ke in zip(stride, reach, strict=True))
    ):
        return x, {"auto_pad": "SAME_UPPER"}
    none = [0] * len(reach)
    if pad_type == 1 and all(s <= 2 for s in stride):
        return x, {"pads": [*none, *(ke - k for ke, k in zip(reach, counted, strict=True))]}
    if pad_type in (0, 1):
        padded = same_valid(g, x, pad_type=pad_type, kernel=counted, reach=reach, stride=stride)
        return padded, {"pads": [*none, *none]}
    raise UnsupportedLayer("padding type is not supported", expected=PAD_TYPES, found=pad_type)


def check_extent(y: Value) -> Value:
    """The result of a window operator. Raises ShapeError if the window does not fit the input anywhere."""
    if any(size is not None and size < 1 for size in y.dims[2:]):
        raise ShapeError("window does not fit the input", expected="at least 1 on each axis", found=list(y.dims))
    return y


def check_groups(x: Value, group: int, outputs: int, axes: int) -> None:
    """Raises ShapeError unless ``x`` is [N, C] with ``axes`` more, and ``group`` divides C and ``outputs``."""
    if x.rank != 2 + axes:
        raise ShapeError("rank of the input differs", expected=f"{2 + axes} dims", found=list(x.dims))
    if group < 1 or x.dim(1) % group or outputs < 1 or outputs % group:
        raise ShapeError(
            "groups do not divide the channels", found=f"{group} groups, {x.dim(1)} channels in, {outputs} out"
        )


@layer(
    1,
    "Convolution",
    "Convolution_nhwc",
    "QuantizedConvolution",
    "QuantizedConvolution_nhwc",
    "DynamicRangeQuantizedConvolution",
)
class Convolution(Layer):
    """2-D convolution (cross-correlation, as ONNX ``Conv``) with a fused activation; depthwise if group = channels.

    Inputs: x [N, C, H, W] float32.
    Outputs: y [N, C_out, H', W'] float32.
    ONNX: Conv, then Relu, Clip(0, 6) or Sigmoid + Mul.
    TNN differs: a negative begin pad of SAME or VALID crops, so that the first window starts inside the input;
        with dilation_h != dilation_w the plain CPU device uses dilation_h twice (a defect: both are honoured here).
    """

    group: int = token("channel groups", default=0, ge=1)
    input_channel: int = token("channels per group; nobody reads it", default=0)
    output_channel: int = token("C_out, all groups together", default=0, ge=1)
    kernel: HW = token("kernel size", default=HW(0, 0), ge=1)
    stride: HW = token("step", default=HW(0, 0), ge=1)
    pad: HW = token("zeros on both sides", default=HW(0, 0), ge=0)
    has_bias: int = token("1 if the bias is added", default=0)
    pad_type: int = token("how the padding is given", default=0, values=PAD_TYPES)
    dilation: HW = token("dilation", default=HW(1, 1), ge=1)
    activation: int = token("fused activation", default=0, values=ACTIVATIONS)

    label: str | None = entry_label()
    stored_bias: int | None = flag("1 if a bias is stored", parameter="has_bias")
    filter: Tensor | None = buffer("[C_out, C/group, kernel.h, kernel.w]")
    bias: Tensor | None = buffer("[C_out]", when="stored_bias")
    zero_point: Tensor | None = beside("[1] or [C_out] int8")
    scale: Tensor | None = int8_scale(
        "filter", "[1] or [C_out]; for int8 layers the input scale is in it", zero_points="zero_point"
    )

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        need_floats(x)
        shape = self._filter_shape(x)
        filters = float_weight(g, self.need("filter"), self.scale, dims=shape)
        bias = g.const(self.bias, np.float32, dims=shape[:1]) if self.has_bias and self.bias else None
        return activated(g, check_extent(self._convolved(g, x, filters, bias, self.stride)), self.activation)

    def to_onnx_int8(self, a: Int8, inputs: Operands, out: Scale) -> Codes:
        """The bias counts whenever one is stored; an activation of 256 is ignored, as TNN does in int8."""
        (x,) = inputs.codes
        shape = self._filter_shape(x.value)
        weights = Weights.of(
            self.need("filter"),
            shape,
            scale=self.scale,
            zero=self.zero_point,
            bias=self.bias if self.stored_bias else None,
        )
        stride, move = self.stride, None
        if a.form is Form.FAST_S8 and self.kernel == (1, 1) and self.pad == (0, 0) and max(stride) > 1:
            # OpenVINO has no int8 kernel for a strided 1x1 convolution; subsampled codes give it a dense one.
            stride, move = HW(1, 1), self._subsampled(a.g)

        def convolved(v: Value, filters: Value, bias: Value | None) -> Value:
            return self._convolved(a.g, v, filters, bias, stride)

        code = self.activation if self.activation in (1, 2) else 0
        return a.linear(x, weights, out, apply=convolved, move=move, activation=code, absorbed=inputs.absorbed)

    def _filter_shape(self, x: Value) -> tuple[int, ...]:
        check_groups(x, self.group, self.output_channel, 2)
        return (self.output_channel, x.dim(1) // self.group, *self.kernel)

    def _subsampled(self, g: Builder) -> Callable[[Value], Value]:
        return lambda value: g.op("MaxPool", value, kernel_shape=[1, 1], strides=list(self.stride))

    def _convolved(self, g: Builder, x: Value, filters: Value, bias: Value | None, stride: HW) -> Value:
        y, padding = window(
            g,
            x,
            pad_type=self.pad_type,
            kernel=self.kernel,
            stride=stride,
            pads=[(p, p) for p in self.pad],
            dilation=self.dilation,
        )
        made: Value = g.op(
            "Conv",
            y,
            filters,
            bias,
            group=self.group,
            strides=list(stride),
            dilations=list(self.dilation),
            **padding,
        )
        return made


@layer(203, "Convolution1D")
class Convolution1D(Layer):
    """1-D convolution (cross-correlation, as ONNX ``Conv``) with a fused activation.

    Inputs: x [N, C, L] float32.
    Outputs: y [N, C_out, L'] float32.
    ONNX: Conv, then Relu, Clip(0, 6) or Sigmoid + Mul.
    TNN differs: the pad behind stands before the pad in front; SAME and VALID reckon output size and pads as if
        dilation were 1; a negative begin pad crops.
    """

    group: int = token("channel groups", default=0, ge=1)
    input_channel: int = token("channels per group; nobody reads it", default=0)
    output_channel: int = token("C_out, all groups together", default=0, ge=1)
    kernel: int = token("kernel size", default=0, ge=1)
    stride: int = token("step", default=0, ge=1)
    pad_end: int = token("zeros behind", default=0, ge=0)
    pad_begin: int = token("zeros in front", default=0, ge=0)
    has_bias: int = token("1 if the bias is added", default=0)
    pad_type: int = token("how the padding is given", default=0, values=PAD_TYPES)
    dilation: int = token("dilation", default=1, ge=1)
    activation: int = token("fused activation", default=0, values=ACTIVATIONS)

    label: str | None = entry_label()
    stored_bias: int | None = flag("1 if a bias is stored", parameter="has_bias")
    filter: Tensor | None = buffer("[C_out, C/group, kernel]")
    bias: Tensor | None = buffer("[C_out]", when="stored_bias")

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        need_floats(x)
        check_groups(x, self.group, self.output_channel, 1)
        shape = (self.output_channel, x.dim(1) // self.group, self.kernel)
        y, padding = window(
            g,
            x,
            pad_type=self.pad_type,
            kernel=[self.kernel],
            stride=[self.stride],
            pads=[(self.pad_begin, self.pad_end)],
            dilation=[self.dilation],
            undilated=True,
        )
        bias = g.const(self.bias, np.float32, dims=shape[:1]) if self.has_bias and self.bias else None
        filters = float_weight(g, self.need("filter"), None, dims=shape)
        y = g.op(
            "Conv", y, filters, bias, group=self.group, strides=[self.stride], dilations=[self.dilation], **padding
        )
        return activated(g, check_extent(y), self.activation)


@layer(201, "Convolution3D")
class Convolution3D(Layer):
    """3-D convolution (cross-correlation, as ONNX ``Conv``) with a fused activation.

    Inputs: x [N, C, D, H, W] float32.
    Outputs: y [N, C_out, D', H', W'] float32.
    ONNX: Conv, then Relu, Clip(0, 6) or Sigmoid + Mul.
    TNN differs: a negative begin pad of SAME or VALID crops.
    """

    group: int = token("channel groups", default=0, ge=1)
    input_channel: int = token("channels per group; nobody reads it", default=0)
    output_channel: int = token("C_out, all groups together", default=0, ge=1)
    kernel: DHW = token("kernel size", default=DHW(0, 0, 0), ge=1)
    stride: DHW = token("step", default=DHW(0, 0, 0), ge=1)
    pad: DHW = token("zeros on both sides", default=DHW(0, 0, 0), ge=0)
    has_bias: int = token("1 if the bias is added", default=0)
    pad_type: int = token("how the padding is given", default=0, values=PAD_TYPES)
    dilation: DHW = token("dilation", default=DHW(1, 1, 1), ge=1)
    activation: int = token("fused activation", default=0, values=ACTIVATIONS)

    label: str | None = entry_label()
    stored_bias: int | None = flag("1 if a bias is stored", parameter="has_bias")
    filter: Tensor | None = buffer("[C_out, C/group, kernel.d, kernel.h, kernel.w]")
    bias: Tensor | None = buffer("[C_out]", when="stored_bias")

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        need_floats(x)
        check_groups(x, self.group, self.output_channel, 3)
        shape = (self.output_channel, x.dim(1) // self.group, *self.kernel)
        y, padding = window(
            g,
            x,
            pad_type=self.pad_type,
            kernel=self.kernel,
            stride=self.stride,
            pads=[(p, p) for p in self.pad],
            dilation=self.dilation,
        )
        bias = g.const(self.bias, np.float32, dims=shape[:1]) if self.has_bias and self.bias else None
        filters = float_weight(g, self.need("filter"), None, dims=shape)
        y = g.op(
            "Conv",
            y,
            filters,
            bias,
            group=self.group,
            strides=list(self.stride),
            dilations=list(self.dilation),
            **padding,
        )
        return activated(g, check_extent(y), self.activation)


@layer(22, "Deconvolution")
class Deconvolution(Layer):
    """2-D transposed convolution (as ONNX ``ConvTranspose``) with a fused activation.

    Inputs: x [N, C, H, W] float32.
    Outputs: y [N, C_out, H', W'] float32. Per axis with size n, effective kernel ke and stride s: explicit pads p
        give s*(n-1)+ke-2p; SAME and its twin with output padding n*s; VALID n*s+max(ke-s, 0); FULL n*s-(s+ke-2).
    ONNX: ConvTranspose, then Relu, Clip(0, 6) or Sigmoid + Mul.
    TNN differs: the plain CPU device drops taps where neither of stride and dilation divides the other, and reads
        outside the weights for strides that exceed the kernel by 2 and more (defects: the sum is meant).
    """

    group: int = token("channel groups", default=0, ge=1)
    input_channel: int = token("input channels; nobody reads it", default=0)
    output_channel: int = token("C_out, all groups together", default=0, ge=1)
    kernel: HW = token("kernel size", default=HW(0, 0), ge=1)
    stride: HW = token("step", default=HW(0, 0), ge=1)
    pad: HW = token("crop on both sides", default=HW(0, 0), ge=0)
    has_bias: int = token("1 if the bias is added", default=0)
    pad_type: int = token("how the padding is given", default=0, values=TRANSPOSED_PAD_TYPES)
    dilation: HW = token("dilation", default=HW(1, 1), ge=1)
    activation: int = token("fused activation", default=0, values=ACTIVATIONS)

    label: str | None = entry_label()
    stored_bias: int | None = flag("1 if a bias is stored", parameter="has_bias")
    filter: Tensor | None = buffer("[C, C_out/group, kernel.h, kernel.w]; the group is the leading part of C")
    bias: Tensor | None = buffer("[C_out]", when="stored_bias")
    zero_point: Tensor | None = beside("[1] or [C_out] int8; nobody executes it")
    scale: Tensor | None = int8_scale("filter", "[1] or [C_out]; nobody executes it", zero_points="zero_point")

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        need_floats(x)
        check_groups(x, self.group, self.output_channel, 2)
        if any(k < 1 for k in self.kernel) or any(s < 1 for s in self.stride) or any(d < 1 for d in self.dilation):
            raise ShapeError(
                "kernel, stride and dilation must be at least 1",
                found=f"kernel {tuple(self.kernel)}, stride {tuple(self.stride)}, dilation {tuple(self.dilation)}",
            )
        shape = (x.dim(1), self.output_channel // self.group, *self.kernel)
        filters = float_weight(g, self.need("filter"), None, dims=shape)
        bias = g.const(self.bias, np.float32, dims=(self.output_channel,)) if self.has_bias and self.bias else None
        crops = [self._crop(*axis) for axis in zip(self.kernel, self.stride, self.pad, self.dilation, strict=True)]
        fronts, backs = [front for front, _ in crops], [back for _, back in crops]
        shifted = min(fronts) < 0
        y = g.op(
            "ConvTranspose",
            x,
            filters,
            None if shifted else bias,
            group=self.group,
            strides=list(self.stride),
            dilations=list(self.dilation),
            pads=[*(max(n, 0) for n in fronts), *(max(n, 0) for n in backs)],
            output_padding=None if shifted or min(backs) >= 0 else [max(-n, 0) for n in backs],
        )
        if shifted:
            y = g.op("Pad", y, g.ints(0, 0, *(max(-n, 0) for n in fronts), 0, 0, *(max(-n, 0) for n in backs)))
            if bias is not None:
                y = g.op("Add", y, g.reshape(bias, -1, 1, 1))
        return activated(g, check_extent(y), self.activation)

    def _crop(self, kernel: int, stride: int, pad: int, dilation: int) -> tuple[int, int]:
        """How much of the full sum is cut off in front and behind; negative where zeros are added."""
        reach = dilation * (kernel - 1) + 1
        over = reach - stride
        if self.pad_type == -1:
            return pad, pad
        if self.pad_type == 0:
            front = _half(over)
            return front, over - front
        if self.pad_type == 1:
            front = _half(min(over, 0))
            return front, min(over, 0) - front
        if self.pad_type == 2:
            return reach - 1, reach - 1
        if self.pad_type == 3:
            total = max(over, 0)
            front = total - total // 2
            return front, over - front
        raise UnsupportedLayer("padding type is not supported", expected=TRANSPOSED_PAD_TYPES, found=self.pad_type)


def _half(total: int) -> int:
    """Half of a number, toward zero as C divides."""
    return int(total / 2)


def float_weight(g: Builder, tensor: Tensor, scale: Tensor | None, *, dims: Sequence[int]) -> Value:
    """A weight in float32; an int8 one (dynamic range) times its scale: one, or one per row of the first axis.

    Raises WeightsError if weight or scale have another number of values, or an int8 weight has no scale.
    """
    if scale is None:
        if tensor.dtype is DataType.INT8:
            raise WeightsError("int8 weight without a scale", expected="a float weight")
        return g.const(tensor, np.float32, dims=dims)
    if scale.size not in (1, dims[0]):
        raise WeightsError("scale does not fit the weight", expected=f"1 or {dims[0]} values", found=scale.size)
    codes = g.const(tensor, dims=dims).fixed()
    scales = scale.array().reshape(-1, *(1,) * (len(dims) - 1))
    return g.const(codes.astype(np.float32) * scales)
