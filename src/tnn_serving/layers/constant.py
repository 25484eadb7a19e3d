"""The layer that is a constant."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.errors import ShapeError
from tnn_serving.layers.base import Layer
from tnn_serving.layers.draw import Draw
from tnn_serving.layers.operands import Operand
from tnn_serving.layers.parameters import counted
from tnn_serving.layers.registry import layer
from tnn_serving.layers.weights import buffer
from tnn_serving.tensor import Tensor


@layer(100, "Const")
class Const(Layer):
    """A stored tensor.

    ONNX: an initializer.
    TNN differs: reads the layer and cannot run it; constants belong in the constant map of the model file.
    """

    results = (Operand("y", doc="the dims, type of the weight"),)

    dims: tuple[int, ...] = counted("dims of the tensor", default=())

    weight: Tensor | None = buffer("[dims]")

    def random_weights(self, draw: Draw, inputs: Sequence[Value]) -> dict[str, Tensor | int]:
        """Numbers around 0."""
        self._check()
        return {"weight": draw.around("weight", math.prod(self.dims), 0.0)}

    def _check(self) -> None:
        if any(size < 0 for size in self.dims):
            raise ShapeError("dims must not be negative", found=list(self.dims))

    def to_onnx(self, g: Builder) -> Value:
        """See the class. Raises ShapeError for negative dims, WeightsError if the stored elements do not fill them."""
        self._check()
        stored = self.need("weight")
        return g.const(stored, dims=self.dims or stored.shape)
