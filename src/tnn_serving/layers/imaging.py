"""Layers of picture enhancement networks."""

from __future__ import annotations

import numpy as np

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.errors import ShapeError
from tnn_serving.layers.base import Layer, buffer, layer, need_floats
from tnn_serving.tensor import Tensor


@layer(302, "HDRGuide")
class HDRGuide(Layer):
    """Guide map of HDRNet: a colour matrix, a curve for each channel, their weighted sum, clipped to 0...1.

    p = ccm * rgb + ccm_bias; g[c] = sum over i of slopes[c, i] * max(p[c] - shifts[c, i], 0);
    y = projection * g + projection_bias.

    Inputs: x [N, 3, H, W] float32.
    Outputs: y [N, 1, H, W] float32.
    ONNX: three Conv 1 x 1 (colours; shifts, one group a channel; slopes times projection), Relu, Clip(0, 1).
    """

    ccm_weight: Tensor | None = buffer("[3, 3], row-major")
    ccm_bias: Tensor | None = buffer("[3]")
    shifts: Tensor | None = buffer("[3, 4]")
    slopes: Tensor | None = buffer("[3, 4]")
    projection_weight: Tensor | None = buffer("[3]")
    projection_bias: Tensor | None = buffer("[1]")

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class."""
        need_floats(x)
        if x.rank != 4 or x.dims[1] != 3:
            raise ShapeError("the input must have three channels", expected="[N, 3, H, W]", found=list(x.dims))
        ccm = g.const(self.need("ccm_weight"), np.float32, dims=(3, 3, 1, 1))
        shifts = g.const(self.need("shifts"), np.float32, dims=(12,)).fixed()
        slopes = g.const(self.need("slopes"), np.float32, dims=(3, 4)).fixed()
        projection = g.const(self.need("projection_weight"), np.float32, dims=(3, 1)).fixed()
        y = g.op("Conv", x, ccm, g.const(self.need("ccm_bias"), np.float32, dims=(3,)))
        y = g.op("Conv", y, g.const(np.ones((12, 1, 1, 1), np.float32)), g.const(-shifts), group=3)
        mix = g.const(projection * slopes, dims=(1, 12, 1, 1))
        y = g.op("Conv", g.op("Relu", y), mix, g.const(self.need("projection_bias"), np.float32, dims=(1,)))
        return g.op("Clip", y, g.const(0.0), g.const(1.0))
