"""The layer that is a constant."""

from __future__ import annotations

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.layers.base import Layer, buffer, counted, layer
from tnn_serving.tensor import Tensor


@layer(100, "Const", inputs=0)
class Const(Layer):
    """A stored tensor.

    Inputs: none.
    Outputs: y [dims] of the weight's type.
    ONNX: an initializer.
    TNN differs: reads the layer and cannot run it; constants belong into the constant map of the model file.
    """

    dims: tuple[int, ...] = counted("dims of the tensor", default=())

    weight: Tensor | None = buffer("[dims]")

    def to_onnx(self, g: Builder) -> Value:
        """See the class. Raises WeightsError if the stored elements do not fill the dims."""
        stored = self.need("weight")
        return g.const(stored, dims=self.dims or stored.shape)
