"""Converters from ONNX operators to TNN layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

from tnn_serving.convert.onnx_graph import OnnxGraph, attributes
from tnn_serving.errors import UnsupportedLayer, WeightsError
from tnn_serving.layers.activation import ReLU, Sigmoid
from tnn_serving.layers.base import Layer
from tnn_serving.layers.binary import Add
from tnn_serving.layers.convolution import Convolution, Deconvolution
from tnn_serving.layers.normalization import BatchNormCxx
from tnn_serving.layers.parameters import HW
from tnn_serving.tensor import Tensor

EXPLICIT = -1
"""TNN's pad_type for explicit padding."""

Converter = Callable[[OnnxGraph, onnx.NodeProto], Layer]
CONVERTERS: dict[str, Converter] = {}
"""The converter of a node to a layer, by operator name."""


def converts(operator: str) -> Callable[[Converter], Converter]:
    """Registers the converter of an ONNX operator."""

    def register(function: Converter) -> Converter:
        if operator in CONVERTERS:
            raise ValueError(f"operator {operator} has two converters")
        CONVERTERS[operator] = function
        return function

    return register


def fold_batch_norm(
    gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, variance: np.ndarray, epsilon: float
) -> tuple[np.ndarray, np.ndarray]:
    """float64 scale and bias [C] of ``gamma * (x - mean) / sqrt(variance + epsilon) + beta``."""
    scale = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    return scale, beta.astype(np.float64) - mean.astype(np.float64) * scale


def window_parameters(node: onnx.NodeProto) -> dict[str, Any]:
    """Kernel, stride, padding and dilation of a 2-D convolution as TNN's parameters.

    Raises:
        UnsupportedLayer: not 2-D, unequal padding on the two sides of an axis, or ``auto_pad``.
    """
    values = attributes(node)
    kernel = values.get("kernel_shape", [])
    if len(kernel) != 2:
        raise UnsupportedLayer("only 2-D windows can be converted", found=f"kernel {list(kernel)}")
    pads = values.get("pads", [0, 0, 0, 0])
    if values.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise UnsupportedLayer("padding that depends on the input's size cannot be converted", found=values["auto_pad"])
    if pads[:2] != pads[2:]:
        raise UnsupportedLayer("TNN pads both sides of an axis equally", found=f"pads {list(pads)}")
    return {
        "kernel": HW(*kernel),
        "stride": HW(*values.get("strides", (1, 1))),
        "pad": HW(*pads[:2]),
        "pad_type": EXPLICIT,
        "dilation": HW(*values.get("dilations", (1, 1))),
    }


@converts("Conv")
def conv(graph: OnnxGraph, node: onnx.NodeProto) -> Layer:
    """Convolution; a following batch normalisation is folded into the weights."""
    filters = _stored(graph, node, 1)
    group = int(attributes(node).get("group", 1))
    filters, bias, name = _folded(graph, node, filters, axis=0, count=filters.shape[0])
    layer = Convolution(
        name=name,
        inputs=(node.input[0],),
        outputs=(name,),
        group=group,
        input_channel=filters.shape[1],
        output_channel=filters.shape[0],
        has_bias=int(bias is not None),
        **window_parameters(node),
    )
    _store(layer, filters, bias)
    return layer


@converts("ConvTranspose")
def conv_transpose(graph: OnnxGraph, node: onnx.NodeProto) -> Layer:
    """Deconvolution; a following batch normalisation is folded into the weights."""
    filters = _stored(graph, node, 1)
    values = attributes(node)
    group = int(values.get("group", 1))
    if any(values.get("output_padding", [])) or values.get("output_shape"):
        raise UnsupportedLayer("output_padding and output_shape cannot be converted")
    outputs = filters.shape[1] * group
    if group > 1:
        # Moves the output channels of all groups to one axis, so that each has its own scale.
        filters = filters.reshape(group, -1, *filters.shape[1:])
        filters = np.moveaxis(filters, 0, 1).reshape(filters.shape[1], outputs, *filters.shape[3:])
    filters, bias, name = _folded(graph, node, filters, axis=1, count=outputs)
    if group > 1:
        filters = filters.reshape(filters.shape[0], group, outputs // group, *filters.shape[2:])
        filters = np.moveaxis(filters, 1, 0).reshape(-1, outputs // group, *filters.shape[3:])
    layer = Deconvolution(
        name=name,
        inputs=(node.input[0],),
        outputs=(name,),
        group=group,
        input_channel=filters.shape[0] // group,
        output_channel=outputs,
        has_bias=int(bias is not None),
        **window_parameters(node),
    )
    _store(layer, filters, bias)
    return layer


@converts("BatchNormalization")
def batch_normalization(graph: OnnxGraph, node: onnx.NodeProto) -> Layer:
    """BatchNormCxx, for a batch normalisation that no convolution includes."""
    scale, bias = _norm(graph, node)
    layer = BatchNormCxx(name=node.output[0], inputs=(node.input[0],), outputs=(node.output[0],))
    layer.scale, layer.bias = (Tensor.of(values.astype(np.float32)) for values in (scale, bias))
    layer.stored = True
    return layer


@converts("Relu")
def relu(graph: OnnxGraph, node: onnx.NodeProto) -> Layer:
    """ReLU."""
    return ReLU(name=node.output[0], inputs=(node.input[0],), outputs=(node.output[0],))


@converts("Sigmoid")
def sigmoid(graph: OnnxGraph, node: onnx.NodeProto) -> Layer:
    """Sigmoid."""
    return Sigmoid(name=node.output[0], inputs=(node.input[0],), outputs=(node.output[0],))


@converts("Add")
def add(graph: OnnxGraph, node: onnx.NodeProto) -> Layer:
    """Add of two computed blobs."""
    stored = [name for name in node.input if name in graph.constants]
    if stored:
        raise UnsupportedLayer("a stored operand cannot be converted", found=", ".join(stored))
    return Add(name=node.output[0], inputs=tuple(node.input), outputs=(node.output[0],), weight_input_index=-1)


def _stored(graph: OnnxGraph, node: onnx.NodeProto, index: int) -> np.ndarray:
    found = graph.constant(node, index)
    if found is None:
        raise WeightsError(f"input {index} is missing")
    return found


def _norm(graph: OnnxGraph, node: onnx.NodeProto) -> tuple[np.ndarray, np.ndarray]:
    gamma, beta, mean, variance = (_stored(graph, node, index) for index in range(1, 5))
    return fold_batch_norm(gamma, beta, mean, variance, float(attributes(node).get("epsilon", 1e-5)))


def _folded(
    graph: OnnxGraph, node: onnx.NodeProto, filters: np.ndarray, *, axis: int, count: int
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Filter and bias, including a batch normalisation after ``node``, and the name of the last value."""
    bias = graph.constant(node, 2)
    name = node.output[0]
    follower = graph.only_reader(name)
    if follower is None or follower.op_type != "BatchNormalization" or follower.input[0] != name:
        return filters, bias, name
    scale, shift = _norm(graph, follower)
    if scale.size != count:
        raise WeightsError("batch normalisation does not fit the channels", expected=count, found=scale.size)
    graph.absorb(follower)
    shape: Sequence[int] = [1] * axis + [count] + [1] * (filters.ndim - axis - 1)
    folded = (filters * scale.reshape(shape)).astype(np.float32)
    if bias is not None:
        shift = shift + bias * scale
    return folded, shift.astype(np.float32), follower.output[0]


def _store(layer: Convolution | Deconvolution, filters: np.ndarray, bias: np.ndarray | None) -> None:
    layer.label = layer.name
    layer.stored_bias = layer.has_bias
    layer.filter = Tensor.of(filters.astype(np.float32, copy=False))
    layer.bias = None if bias is None else Tensor.of(bias.astype(np.float32, copy=False))
    layer.stored = True
