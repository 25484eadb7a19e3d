"""Layers of picture enhancement networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.layers.base import Layer
from tnn_serving.layers.draw import Draw
from tnn_serving.layers.operands import FLOAT, Operand
from tnn_serving.layers.registry import layer
from tnn_serving.layers.weights import buffer
from tnn_serving.tensor import Tensor


@layer(302, "HDRGuide")
class HDRGuide(Layer):
    """Guide map of HDRNet: a colour matrix, a curve for each channel, their weighted sum, clipped to 0...1.

    p = ccm * rgb + ccm_bias; g[c] = sum over i of slopes[c, i] * max(p[c] - shifts[c, i], 0);
    y = projection * g + projection_bias.

    ONNX: three Conv 1 x 1 (colours; shifts, one group a channel; slopes times projection), Relu, Clip(0, 1).
    """

    operands = (Operand("x", "[N, 3, H, W]", FLOAT),)
    results = (Operand("y", "[N, 1, H, W]", FLOAT),)

    ccm_weight: Tensor | None = buffer("[3, 3], row-major")
    ccm_bias: Tensor | None = buffer("[3]")
    shifts: Tensor | None = buffer("[3, 4]")
    slopes: Tensor | None = buffer("[3, 4]")
    projection_weight: Tensor | None = buffer("[3]")
    projection_bias: Tensor | None = buffer("[1]")

    def random_weights(self, draw: Draw, inputs: Sequence[Value]) -> dict[str, Tensor | int]:
        """Every buffer, around 0."""
        sizes = {"ccm_weight": 9, "ccm_bias": 3, "shifts": 12, "slopes": 12, "projection_weight": 3}
        return {field: draw.around(field, size, 0.0) for field, size in (sizes | {"projection_bias": 1}).items()}

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        ccm = g.const(self.need("ccm_weight"), np.float32, dims=(3, 3, 1, 1))
        shifts = g.const(self.need("shifts"), np.float32, dims=(12,)).fixed()
        slopes = g.const(self.need("slopes"), np.float32, dims=(3, 4)).fixed()
        projection = g.const(self.need("projection_weight"), np.float32, dims=(3, 1)).fixed()
        y = g.op("Conv", x, ccm, g.const(self.need("ccm_bias"), np.float32, dims=(3,)))
        y = g.op("Conv", y, g.const(np.ones((12, 1, 1, 1), np.float32)), g.const(-shifts), group=3)
        mix = g.const(projection * slopes, dims=(1, 12, 1, 1))
        y = g.op("Conv", g.op("Relu", y), mix, g.const(self.need("projection_bias"), np.float32, dims=(1,)))
        return g.op("Clip", y, g.const(0.0), g.const(1.0))
