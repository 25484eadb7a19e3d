"""Convolutions and their transposes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import Self

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.emit.int8 import Codes, Form, Int8, Operands, Scale, Weights
from tnn_serving.errors import ShapeError, UnsupportedLayer, WeightsError
from tnn_serving.layers.base import Layer
from tnn_serving.layers.draw import Draw
from tnn_serving.layers.operands import FLOAT, Operand
from tnn_serving.layers.parameters import DHW, HW, token
from tnn_serving.layers.pattern import Match
from tnn_serving.layers.registry import family, layer
from tnn_serving.layers.weights import beside, buffer, entry_label, flag, int8_scale, kept
from tnn_serving.layers.window import PAD_TYPES, OnnxWindow, check_extent, onnx_window, window
from tnn_serving.tensor import DataType, Tensor

NONE, RELU, RELU6, SWISH = 0, 1, 2, 256
ACTIVATIONS = {NONE: "none", RELU: "ReLU", RELU6: "ReLU6", SWISH: "x * sigmoid(x)"}
TRANSPOSED_PAD_TYPES = {**PAD_TYPES, 2: "FULL", 3: "SAME with output padding"}


def activated(g: Builder, x: Value, code: int) -> Value:
    """The activation that TNN fuses into a convolution, by its code."""
    if code == NONE:
        return x
    if code == RELU:
        return g.op("Relu", x)
    if code == RELU6:
        return g.op("Clip", x, g.const(0.0), g.const(6.0))
    if code == SWISH:
        return g.op("Mul", x, g.op("Sigmoid", x))
    raise UnsupportedLayer("fused activation is unknown", expected=ACTIVATIONS, found=code)


@family
class Grouped(Layer):
    """A convolution along any number of axes, of channels in groups, with a fused activation."""

    multiplies_weights = True

    group: int = token("channel groups", default=0, ge=1)
    input_channel: int = token("input channels; ignored by TNN", default=0)
    output_channel: int = token("C_out, all groups together", default=0, ge=1)

    label: str | None = entry_label()
    stored_bias: int | None = flag("1 if a bias is stored", parameter="has_bias")

    if TYPE_CHECKING:  # each member declares these at their place in the token order
        has_bias: int
        activation: int

    @property
    def fused_activation(self) -> int:
        """See the base class."""
        return self.activation

    @classmethod
    def convolving(cls, m: Match, axes: int, channel_axis: int = 0) -> Self | None:
        """The layer of a convolution along that many axes; ``None`` for one along others.

        Args:
            m: of Conv or ConvTranspose, maybe with a BatchNormalization behind it.
            channel_axis: the axis of the filters that the output channels are on.
        """
        node = m.nodes[-1]
        x, w = m["x"], m["w"]
        if x.rank != axes + 2:
            return None
        filters, group = w.fixed().astype(np.float32), int(node.attributes.get("group", 1))
        given = m.get("b")
        bias = None if given is None else given.fixed().astype(np.float32)
        outputs = filters.shape[channel_axis] * (group if channel_axis else 1)
        if m.has("BatchNormalization"):
            scale, shift = batch_norm(m)
            if scale.size != outputs:
                raise WeightsError("batch normalisation does not fit", expected=f"{outputs} values", found=scale.size)
            filters, bias = _scaled(filters, scale, group, channel_axis), scaled_bias(bias, scale, shift)
        return cls.made(
            m,
            x,
            group=group,
            input_channel=filters.shape[1] if not channel_axis else filters.shape[0] // group,
            output_channel=outputs,
            has_bias=int(bias is not None),
            filter=kept(filters),
            bias=None if bias is None else kept(bias),
            **cls.window_fields(onnx_window(node, filters.shape[2:])),
        )

    @classmethod
    def window_fields(cls, window: OnnxWindow) -> dict[str, Any]:
        """Kernel, stride, padding and dilation as parameters. Raises UnsupportedLayer for pads that it cannot say."""
        pads = window.even_pads()
        group = HW if len(pads) == 2 else DHW
        return {
            "kernel": group(*window.kernel),
            "stride": group(*window.stride),
            "pad": group(*pads),
            "pad_type": window.pad_type,
            "dilation": group(*window.dilation),
        }

    def filter_dims(self, x: Value) -> tuple[int, ...]:
        """Dims of the filters for this input. Raises ShapeError if the groups do not fit it."""
        raise NotImplementedError

    def channels(self, x: Value) -> int:
        """Channels of ``x`` [N, C, ...]. Raises ShapeError unless the groups divide them and those of the output."""
        count, outputs = x.dim(1), self.output_channel
        if self.group < 1 or count % self.group or outputs < 1 or outputs % self.group:
            raise ShapeError(
                "groups do not divide the channels", found=f"{self.group} groups, {count} channels in, {outputs} out"
            )
        return count

    def random_weights(self, draw: Draw, inputs: Sequence[Value]) -> dict[str, Tensor | int]:
        """Filters, and a bias if the layer adds one."""
        bias = self.output_channel if self.has_bias else 0
        made = draw.product("filter", self.filter_dims(inputs[0]), quantized=self.quantized, bias=bias)
        return {**made, "stored_bias": 1} if self.has_bias else made


@layer(
    1,
    "Convolution",
    "Convolution_nhwc",
    "QuantizedConvolution",
    "QuantizedConvolution_nhwc",
    "DynamicRangeQuantizedConvolution",
)
class Convolution(Grouped):
    """2-D convolution (cross-correlation, as ONNX ``Conv``) with a fused activation; depthwise if group = channels.

    ONNX: Conv, then Relu, Clip(0, 6) or Sigmoid + Mul.
    TNN differs: a negative begin pad of SAME or VALID crops, so that the first window starts inside the input;
        with dilation_h != dilation_w the plain CPU device uses dilation_h twice (a defect: both are honoured here).
    """

    operands = (Operand("x", "[N, C, H, W]", FLOAT),)
    results = (Operand("y", "[N, C_out, H', W']", FLOAT),)
    made_from = ("Conv(x, w, b?)", "BatchNormalization(Conv(x, w, b?), gamma, beta, mean, variance)")

    kernel: HW = token("kernel size", default=HW(0, 0), ge=1)
    stride: HW = token("step", default=HW(0, 0), ge=1)
    pad: HW = token("zeros on both sides", default=HW(0, 0), ge=0)
    has_bias: int = token("1 if the bias is added", default=0)
    pad_type: int = token("how the padding is given", default=0, values=PAD_TYPES)
    dilation: HW = token("dilation", default=HW(1, 1), ge=1)
    activation: int = token("fused activation", default=0, values=ACTIVATIONS)

    filter: Tensor | None = buffer("[C_out, C/group, kernel.h, kernel.w]")
    bias: Tensor | None = buffer("[C_out]", when="stored_bias")
    zero_point: Tensor | None = beside("[1] or [C_out] int8")
    scale: Tensor | None = int8_scale(
        "filter", "[1] or [C_out]; for int8 layers the input scale is in it", zero_points="zero_point"
    )

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """With stored filters; a batch normalisation behind it becomes part of them."""
        return cls.convolving(m, 2)

    @property
    def takes_activation(self) -> bool:
        """An int8 convolution without an activation does."""
        return self.quantized and not self.activation

    @property
    def takes_addition(self) -> bool:
        """A pointwise int8 convolution does; TNN loses the addition behind a ReLU6."""
        pointwise = self.kernel == (1, 1) and self.stride == (1, 1) and self.pad == (0, 0) and self.group == 1
        return self.quantized and pointwise and self.activation != RELU6

    def fused(self, activation: int, outputs: tuple[str, ...]) -> Self:
        """See the base class."""
        return dataclasses.replace(self, activation=activation, outputs=outputs)

    def filter_dims(self, x: Value) -> tuple[int, ...]:
        """See the base class."""
        return (self.output_channel, self.channels(x) // self.group, *self.kernel)

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        shape = self.filter_dims(x)
        filters = float_weight(g, self.need("filter"), self.scale, dims=shape)
        bias = g.const(self.bias, np.float32, dims=shape[:1]) if self.has_bias and self.bias else None
        return activated(g, check_extent(self._convolved(g, x, filters, bias, self.stride)), self.activation)

    def to_onnx_int8(self, a: Int8, inputs: Operands, out: Scale) -> Codes:
        """The bias counts whenever one is stored; an activation of 256 is ignored, as TNN does in int8."""
        (x,) = inputs.codes
        shape = self.filter_dims(x.value)
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

        code = self.activation if self.activation in (RELU, RELU6) else NONE
        return a.linear(x, weights, out, apply=convolved, move=move, activation=code, absorbed=inputs.absorbed)

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
class Convolution1D(Grouped):
    """1-D convolution (cross-correlation, as ONNX ``Conv``) with a fused activation.

    ONNX: Conv, then Relu, Clip(0, 6) or Sigmoid + Mul.
    TNN differs: the end pad precedes the begin pad; SAME and VALID compute output size and pads as if dilation
        were 1; a negative begin pad crops.
    """

    operands = (Operand("x", "[N, C, L]", FLOAT),)
    results = (Operand("y", "[N, C_out, L']", FLOAT),)
    made_from = ("Conv(x, w, b?)", "BatchNormalization(Conv(x, w, b?), gamma, beta, mean, variance)")

    kernel: int = token("kernel size", default=0, ge=1)
    stride: int = token("step", default=0, ge=1)
    pad_end: int = token("zeros behind", default=0, ge=0)
    pad_begin: int = token("zeros in front", default=0, ge=0)
    has_bias: int = token("1 if the bias is added", default=0)
    pad_type: int = token("how the padding is given", default=0, values=PAD_TYPES)
    dilation: int = token("dilation", default=1, ge=1)
    activation: int = token("fused activation", default=0, values=ACTIVATIONS)

    filter: Tensor | None = buffer("[C_out, C/group, kernel]")
    bias: Tensor | None = buffer("[C_out]", when="stored_bias")

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """With stored filters; a batch normalisation behind it becomes part of them."""
        return cls.convolving(m, 1)

    def filter_dims(self, x: Value) -> tuple[int, ...]:
        """See the base class."""
        return (self.output_channel, self.channels(x) // self.group, self.kernel)

    @classmethod
    def window_fields(cls, window: OnnxWindow) -> dict[str, Any]:
        """Each of the two pads is a parameter of its own."""
        return {
            "kernel": window.kernel[0],
            "stride": window.stride[0],
            "pad_begin": window.begins[0],
            "pad_end": window.ends[0],
            "pad_type": window.pad_type,
            "dilation": window.dilation[0],
        }

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        shape = self.filter_dims(x)
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
class Convolution3D(Grouped):
    """3-D convolution (cross-correlation, as ONNX ``Conv``) with a fused activation.

    ONNX: Conv, then Relu, Clip(0, 6) or Sigmoid + Mul.
    TNN differs: a negative begin pad of SAME or VALID crops.
    """

    operands = (Operand("x", "[N, C, D, H, W]", FLOAT),)
    results = (Operand("y", "[N, C_out, D', H', W']", FLOAT),)
    made_from = ("Conv(x, w, b?)", "BatchNormalization(Conv(x, w, b?), gamma, beta, mean, variance)")

    kernel: DHW = token("kernel size", default=DHW(0, 0, 0), ge=1)
    stride: DHW = token("step", default=DHW(0, 0, 0), ge=1)
    pad: DHW = token("zeros on both sides", default=DHW(0, 0, 0), ge=0)
    has_bias: int = token("1 if the bias is added", default=0)
    pad_type: int = token("how the padding is given", default=0, values=PAD_TYPES)
    dilation: DHW = token("dilation", default=DHW(1, 1, 1), ge=1)
    activation: int = token("fused activation", default=0, values=ACTIVATIONS)

    filter: Tensor | None = buffer("[C_out, C/group, kernel.d, kernel.h, kernel.w]")
    bias: Tensor | None = buffer("[C_out]", when="stored_bias")

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """With stored filters; a batch normalisation behind it becomes part of them."""
        return cls.convolving(m, 3)

    def filter_dims(self, x: Value) -> tuple[int, ...]:
        """See the base class."""
        return (self.output_channel, self.channels(x) // self.group, *self.kernel)

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        shape = self.filter_dims(x)
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
class Deconvolution(Grouped):
    """2-D transposed convolution (as ONNX ``ConvTranspose``) with a fused activation.

    ONNX: ConvTranspose, then Relu, Clip(0, 6) or Sigmoid + Mul.
    TNN differs: the plain CPU device drops taps where neither of stride and dilation divides the other, and reads
        outside the weights for strides that exceed the kernel by 2 and more (defects: the sum is computed here).
    """

    operands = (Operand("x", "[N, C, H, W]", FLOAT),)
    results = (
        Operand(
            "y",
            "[N, C_out, H', W']",
            FLOAT,
            doc="per axis with size n, effective kernel ke and stride s: explicit pads p give s*(n-1)+ke-2p; SAME and "
            "its twin with output padding n*s; VALID n*s+max(ke-s, 0); FULL n*s-(s+ke-2)",
        ),
    )
    made_from = ("ConvTranspose(x, w, b?)", "BatchNormalization(ConvTranspose(x, w, b?), gamma, beta, mean, variance)")

    kernel: HW = token("kernel size", default=HW(0, 0), ge=1)
    stride: HW = token("step", default=HW(0, 0), ge=1)
    pad: HW = token("crop on both sides", default=HW(0, 0), ge=0)
    has_bias: int = token("1 if the bias is added", default=0)
    pad_type: int = token("how the padding is given", default=0, values=TRANSPOSED_PAD_TYPES)
    dilation: HW = token("dilation", default=HW(1, 1), ge=1)
    activation: int = token("fused activation", default=0, values=ACTIVATIONS)

    filter: Tensor | None = buffer("[C, C_out/group, kernel.h, kernel.w]; the group is the leading part of C")
    bias: Tensor | None = buffer("[C_out]", when="stored_bias")
    zero_point: Tensor | None = beside("[1] or [C_out] int8; not executed")
    scale: Tensor | None = int8_scale("filter", "[1] or [C_out]; not executed", zero_points="zero_point")

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """With stored filters; a batch normalisation behind it becomes part of them."""
        node = m.node("ConvTranspose")
        if node.attributes.get("output_shape") or node.attributes.get("auto_pad") == "SAME_LOWER":
            return None
        if any(node.attributes.get("output_padding", ())):
            raise UnsupportedLayer(
                "TNN has no output padding of its own choice",
                found=f"output_padding {node.attributes['output_padding']}",
            )
        return cls.convolving(m, 2, channel_axis=1)

    def filter_dims(self, x: Value) -> tuple[int, ...]:
        """See the base class."""
        return (self.channels(x), self.output_channel // self.group, *self.kernel)

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        shape = self.filter_dims(x)
        if any(k < 1 for k in self.kernel) or any(s < 1 for s in self.stride) or any(d < 1 for d in self.dilation):
            raise ShapeError(
                "kernel, stride and dilation must be at least 1",
                found=f"kernel {tuple(self.kernel)}, stride {tuple(self.stride)}, dilation {tuple(self.dilation)}",
            )
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


def batch_norm(m: Match) -> tuple[np.ndarray, np.ndarray]:
    """float64 scale and shift [C] of gamma * (x - mean) / sqrt(variance + epsilon) + beta."""
    node = m.node("BatchNormalization")
    if node.attributes.get("training_mode", 0):
        raise UnsupportedLayer("batch normalisation is in training mode", hint="export the network for inference")
    gamma, beta, mean, variance = (m[word].fixed().astype(np.float64) for word in ("gamma", "beta", "mean", "variance"))
    scale = gamma / np.sqrt(variance + float(node.attributes.get("epsilon", 1e-5)))
    return scale, beta - mean * scale


def _scaled(filters: np.ndarray, scale: np.ndarray, group: int, channel_axis: int) -> np.ndarray:
    """float32 filters with each output channel times its scale."""
    inner = (1,) * (filters.ndim - 2)
    if not channel_axis:
        return np.asarray(filters * scale.reshape(-1, 1, *inner), np.float32)
    parts = filters.reshape(group, -1, *filters.shape[1:]) * scale.reshape(group, 1, -1, *inner)
    return np.asarray(parts.reshape(filters.shape), np.float32)


def scaled_bias(bias: np.ndarray | None, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """float32 ``scale * bias + shift``."""
    return (shift if bias is None else shift + bias * scale).astype(np.float32)


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
