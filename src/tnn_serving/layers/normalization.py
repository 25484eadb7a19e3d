"""Normalisations, and scale and bias per channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from typing_extensions import Self

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.errors import ShapeError, UnsupportedLayer, WeightsError
from tnn_serving.layers.base import Layer
from tnn_serving.layers.convolution import batch_norm
from tnn_serving.layers.draw import Draw
from tnn_serving.layers.operands import FLOAT, LIKE_X, Operand
from tnn_serving.layers.parameters import token
from tnn_serving.layers.pattern import Match
from tnn_serving.layers.registry import layer
from tnn_serving.layers.weights import buffer, entry_label, flag, kept
from tnn_serving.layers.window import check_filled
from tnn_serving.tensor import Tensor

NORMALIZED = Operand("x", "[N, C, ...]", FLOAT)


CENTRED = "Sub(x, ReduceMean(x, _?))"
NORMALISED = tuple(
    f"Div({CENTRED}, Sqrt(Add(ReduceMean({square}, _?), eps)))"
    for square in (f"Pow({CENTRED}, 2)", f"Mul({CENTRED}, {CENTRED})")
)
"""How exporters spell (x - mean) / sqrt(variance + eps)."""


def affine(g: Builder, x: Value, scale: Tensor, bias: Tensor | None) -> Value:
    """scale * x + bias along axis 1, with values per channel or one of each for all channels.

    Raises WeightsError if the numbers of values do not fit each other or the channels.
    """
    y = g.op("Mul", x, g.per_channel(scale, x))
    if bias is None or not bias.size:
        return y
    if bias.size != scale.size:
        raise WeightsError("bias does not fit the scale", expected=f"{scale.size} values", found=f"{bias.size} values")
    return g.op("Add", y, g.per_channel(bias, x)) if bias.array().any() else y


def scale_and_bias(draw: Draw, x: Value) -> dict[str, Tensor | int]:
    """A random scale near 1 and a bias near 0 per channel of ``x``."""
    return {"scale": draw.per_channel("scale", x, 1.0), "bias": draw.per_channel("bias", x, 0.0)}


@layer(2, "BatchNormCxx", "BatchNormalization", "BatchNormCxx_nhwc")
class BatchNormCxx(Layer):
    """scale * x + bias for each channel: a batch normalisation whose statistics are folded in.

    ONNX: Mul, Add.
    """

    operands = (NORMALIZED,)
    results = (LIKE_X,)
    made_from = ("BatchNormalization(x, gamma, beta, mean, variance)",)

    scale: Tensor | None = buffer("[C], or [1] for all channels")
    bias: Tensor | None = buffer("as scale; empty for zeros", may_be_empty=True, zeros_like="scale")

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """With stored statistics, which are folded."""
        if m["x"].rank < 2 or len(m.root.outputs) > 1:
            return None
        scale, bias = (values.astype(np.float32) for values in batch_norm(m))
        return cls.made(m, m["x"], scale=kept(scale), bias=kept(bias))

    def random_weights(self, draw: Draw, inputs: Sequence[Value]) -> dict[str, Tensor | int]:
        """Scale and bias per channel."""
        return scale_and_bias(draw, inputs[0])

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return affine(g, x, self.need("scale"), self.bias)


@layer(16, "Scale")
class Scale(Layer):
    """scale * x + bias for each channel.

    ONNX: Mul, Add.
    TNN differs: reads none of its parameters, as here: the channels are axis 1, and a stored bias counts.
    """

    operands = (NORMALIZED,)
    results = (LIKE_X,)

    axis: int = token("ignored by TNN: the channels are axis 1")
    num_axes: int = token("ignored by TNN")
    bias_term: int = token("ignored by TNN")

    label: str | None = entry_label()
    stored_bias: int | None = flag("1 if a bias is stored", parameter="bias_term")
    scale: Tensor | None = buffer("[C], or [1] for all channels")
    bias: Tensor | None = buffer("as scale", when="stored_bias")

    def random_weights(self, draw: Draw, inputs: Sequence[Value]) -> dict[str, Tensor | int]:
        """Scale and bias per channel."""
        return scale_and_bias(draw, inputs[0])

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return affine(g, x, self.need("scale"), self.bias)


@layer(54, "BiasAdd", "QuantizedBiasAdd", "QuantizedSum")
class BiasAdd(Layer):
    """x + bias for each channel.

    ONNX: Add.
    TNN differs: cannot run it from a file.
    """

    operands = (NORMALIZED,)
    results = (LIKE_X,)

    bias: Tensor | None = buffer("[C], or [1] for all channels")

    def random_weights(self, draw: Draw, inputs: Sequence[Value]) -> dict[str, Tensor | int]:
        """A bias per channel."""
        return {"bias": draw.per_channel("bias", inputs[0], 0.0)}

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        return g.op("Add", x, g.per_channel(self.need("bias"), x))


@layer(43, "InstBatchNormCxx")
class InstBatchNormCxx(Layer):
    """(x - mean) / sqrt(variance + eps) * scale + bias, with mean and variance of each channel of each item.

    ONNX: InstanceNormalization; the bias alone for [N, C], where every element is its own mean.
    """

    operands = (NORMALIZED,)
    results = (LIKE_X,)
    made_from = ("InstanceNormalization(x, scale, bias)",)

    channels: int = token("ignored by TNN", default=0)
    eps: float = token("added to the variance", default=1e-5)

    scale: Tensor | None = buffer("[C]")
    bias: Tensor | None = buffer("[C]; empty for zeros", may_be_empty=True, zeros_like="scale")

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """With stored scale and bias."""
        scale, bias = m["scale"].fixed(), m["bias"].fixed()
        eps = float(m.attribute("epsilon", 1e-5))
        return cls.made(m, m["x"], channels=scale.size, eps=eps, scale=kept(scale), bias=kept(bias))

    def random_weights(self, draw: Draw, inputs: Sequence[Value]) -> dict[str, Tensor | int]:
        """Scale and bias per channel."""
        return scale_and_bias(draw, inputs[0])

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        channels = (x.dim(1),)
        scale = g.const(self.need("scale"), dims=channels)
        stored = self.bias if self.bias is not None and self.bias.size else np.zeros(channels, np.float32)
        bias = g.const(stored, dims=channels)
        if x.rank == 2:
            return g.op("Add", g.op("Mul", x, g.const(0.0)), bias)
        return g.op("InstanceNormalization", x, scale, bias, epsilon=self.eps)


@layer(318, "GroupNorm")
class GroupNorm(Layer):
    """(x - mean) / sqrt(variance + eps) * scale + bias, with mean and variance of each group of channels of each item.

    ONNX: InstanceNormalization of [N, group, -1], Reshape, Mul, Add.
    """

    operands = (
        NORMALIZED,
        Operand("scale", types=FLOAT, doc="C values"),
        Operand("bias", types=FLOAT, doc="C values"),
    )
    results = (LIKE_X,)
    made_from = (
        "GroupNormalization(x, scale, bias)",
        "Add(Mul(Reshape(InstanceNormalization(Reshape(x, _), ones, zeros), _), scale), bias)",
    )

    group: int = token("groups of channels", default=0, ge=1)
    eps: float = token("added to the variance", default=1e-5)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """A node of its own, or groups that are normalised as channels, with scale and bias behind."""
        x, scale, bias = m["x"], m["scale"], m["bias"]
        channels = x.dims[1] if x.rank > 2 else None
        if m.root.op_type == "GroupNormalization":
            group = m.attribute("num_groups")
            return cls.made(m, x, scale, bias, group=group, eps=float(m.attribute("epsilon", 1e-5)))
        inner = m.node("InstanceNormalization")
        ones, zeros = m["ones"], m["zeros"]
        wide = inner.need(0).dims
        if channels is None or m.y.dims != x.dims or len(wide) != 3 or wide[0] != x.dims[0] or wide[1] != ones.dims[0]:
            return None
        if (
            not all(value.constant for value in (ones, zeros, scale, bias))
            or ones.fixed().min() != 1 != ones.fixed().max()
        ):
            return None
        column = (channels, *(1,) * (x.rank - 2))
        if zeros.fixed().any() or any((1,) * (x.rank - v.rank) + v.dims != (1, *column) for v in (scale, bias)):
            return None
        weights = [m.constant(name, m[name].fixed().reshape(-1)) for name in ("scale", "bias")]
        return cls.made(m, x, *weights, group=wide[1], eps=float(inner.attributes.get("epsilon", 1e-5)))

    def to_onnx(self, g: Builder, x: Value, scale: Value, bias: Value) -> Value:
        """See the class."""
        if self.group < 1 or x.dim(1) % self.group:
            raise ShapeError("channels cannot be grouped", expected=f"a divisor of {x.dim(1)}", found=self.group)
        g.check_made(self.group)
        ones = g.const(np.ones(self.group, np.float32))
        zeros = g.const(np.zeros(self.group, np.float32))
        grouped = g.op("InstanceNormalization", g.reshape(x, 0, self.group, -1), ones, zeros, epsilon=self.eps)
        y = g.op("Reshape", grouped, g.shape(x))
        column = (-1, *(1,) * (x.rank - 2))
        scale, bias = (v if v.rank == len(column) == 1 else g.reshape(v, *column) for v in (scale, bias))
        return g.op("Add", g.op("Mul", y, scale), bias)


@layer(326, "LayerNorm")
class LayerNorm(Layer):
    """(x - mean) / sqrt(variance + eps) * scale + bias, with mean and variance over the last axes.

    ONNX: LayerNormalization over as many axes as scale has; 0 * x + bias for a scale of one element.
    TNN differs: refuses a ``reduce_dims_size`` that is not the rank of scale, unless a Shape layer is in the network.
    """

    operands = (
        Operand("x", types=FLOAT),
        Operand("scale", types=FLOAT, doc="the last axes of x"),
        Operand("bias", "as scale", FLOAT),
    )
    results = (LIKE_X,)
    made_from = ("LayerNormalization(x, scale, bias?)", *(f"Add(Mul({core}, scale), bias)" for core in NORMALISED))

    reduce_dims_size: int = token("number of last axes; the rank of scale decides", default=0)
    eps: float = token("added to the variance", default=1e-5)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """A node of its own, or its arithmetic."""
        x, scale, bias = m["x"], m["scale"], m.get("bias")
        if m.root.op_type == "LayerNormalization":
            eps, first = float(m.attribute("epsilon", 1e-5)), x.axis(m.attribute("axis", -1))
            if len(m.root.outputs) > 1 or first + scale.rank != x.rank:
                return None
        else:
            eps, first = m["eps"].scalar(), x.rank - scale.rank
            means = [node.axes() for node in m.nodes if node.op_type == "ReduceMean"]
            last = list(range(first, x.rank))
            if any(axes is None or sorted(map(x.axis, axes)) != last for axes in means) or m.y.dims != x.dims:
                return None
        if x.dims[first:] != scale.dims or (bias is not None and bias.dims != scale.dims):
            return None
        if bias is None:
            bias = m.constant("bias", np.zeros([size or 0 for size in scale.dims], np.float32))
        return cls.made(m, x, scale, bias, reduce_dims_size=scale.rank, eps=eps)

    def to_onnx(self, g: Builder, x: Value, scale: Value, bias: Value) -> Value:
        """See the class."""
        last = x.dims[-scale.rank :] if scale.rank else ()
        fits = all(want in (None, have) for want, have in zip(last, scale.dims, strict=False))
        if not 0 < scale.rank <= x.rank or not fits or bias.dims != scale.dims:
            raise ShapeError(
                "scale and bias do not fit the last axes",
                expected=f"part of {list(x.dims)}",
                found=[scale.dims, bias.dims],
            )
        if all(size == 1 for size in scale.dims):
            # One element is its own mean; ONNX Runtime up to 1.23 refuses to normalise it.
            return g.op("Add", g.op("Mul", x, g.const(0.0)), bias)
        return g.op("LayerNormalization", x, scale, bias, axis=-scale.rank, epsilon=self.eps)


@layer(12, "LRN")
class LRN(Layer):
    """x / (bias + alpha / size * sum of the squares of the neighbouring channels) ^ beta.

    The sum covers the channel itself and (size - 1) / 2 channels, rounded down, on both sides.

    ONNX: the mean of the squares by AveragePool over the channels as an axis of depth; Pow, Div. Not ONNX's LRN:
        OpenVINO truncates its bias to a whole number and fails with size 5 where the channels are not known
        beforehand, ONNX Runtime up to 1.23 is wrong at the last channels.
    """

    operands = (Operand("x", "[N, C, H, W]", FLOAT),)
    results = (LIKE_X,)
    made_from = ("LRN(x)",)

    alpha: float = token("factor of the mean square")
    beta: float = token("exponent")
    bias: float = token("added to the mean square")
    size: int = token("channels in the mean", ge=1)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Over an odd number of channels: TNN counts one less of an even number."""
        size = int(m.attribute("size"))
        if m["x"].rank != 4 or not size % 2:
            raise UnsupportedLayer("TNN takes an odd number of channels, of NCHW", found=f"size {size}")
        alpha, beta, bias = m.attribute("alpha", 1e-4), m.attribute("beta", 0.75), m.attribute("bias", 1.0)
        return cls.made(m, m["x"], alpha=float(alpha), beta=float(beta), bias=float(bias), size=size)

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        check_filled(x)
        if self.size < 1:
            raise ShapeError("size is too small", expected="1 or more", found=self.size)
        reach = (self.size - 1) // 2
        window = 2 * reach + 1
        alpha = self.alpha * window / self.size
        depth = g.op("Unsqueeze", g.op("Mul", x, x), g.ints(1))
        if reach:
            # Padded apart: ONNX Runtime up to 1.23 averages wrongly over its own padding.
            depth = g.op("Pad", depth, g.ints(0, 0, reach, 0, 0, 0, 0, reach, 0, 0))
        mean = g.op("AveragePool", depth, kernel_shape=[window, 1, 1])
        base = g.op("Add", g.op("Mul", g.op("Squeeze", mean, g.ints(1)), g.const(alpha)), g.const(self.bias))
        return g.op("Div", x, g.op("Pow", base, g.const(self.beta)))


LEAST_NORM = 1e-12
"""TNN's least norm: that of a vector of zeros, which stays one."""

NORMS = {1: "sum of absolute values", 2: "Euclidean", 2**31 - 1: "maximum", -(2**31): "minimum"}


@layer(45, "Normalize")
class Normalize(Layer):
    """x divided by a norm over the channels.

    ONNX: ReduceL2 and Max with epsilon, or ReduceL1, ReduceMax or ReduceMin; Div.
    TNN differs: its plain CPU device adds the norms of earlier items of the batch for p = 1 and 2.
    """

    operands = (NORMALIZED,)
    results = (LIKE_X,)
    made_from = ("LpNormalization(x)",)

    across_spatial: int = token("must be 0", default=0)
    epsilon: float = token("least norm, for p = 2 only", default=1e-12)
    channel_shared: int = token("ignored by TNN", default=1)
    axis: int = token("must be 1", default=1)
    p: int = token("norm", default=2, values=NORMS)

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """Over the channels, Euclidean: TNN has no least norm for the others, where ONNX gives 0 for zeros."""
        x = m["x"]
        fits = x.rank >= 2 and x.axis(m.attribute("axis", -1)) == 1 and m.attribute("p", 2) == 2
        return cls.made(m, x, epsilon=LEAST_NORM) if fits else None

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class. Raises UnsupportedLayer for what TNN refuses: other axes, other norms, whole pictures."""
        reductions = dict(zip(NORMS, ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMin"), strict=True))
        if self.across_spatial or self.axis != 1 or self.p not in reductions:
            raise UnsupportedLayer(
                "normalisation is not supported",
                expected="across_spatial 0, axis 1 and p 1, 2, the largest or the smallest int32",
                found=f"across_spatial {self.across_spatial}, axis {self.axis}, p {self.p}",
            )
        norm = g.op(reductions[self.p], x, g.ints(1), keepdims=1)
        if self.p == 2:
            norm = g.op("Max", norm, g.const(self.epsilon))
        return g.op("Div", x, norm)
