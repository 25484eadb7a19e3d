"""Reductions over axes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tnn_serving.errors import UnsupportedLayer
from tnn_serving.layers.base import Layer, layer, rest, token

if TYPE_CHECKING:
    from tnn_serving.translate.builder import Builder, Value


@dataclasses.dataclass(kw_only=True, eq=False)
class Reduce(Layer):
    """Takes some axes, or all, down to one element each, and keeps or drops them."""

    operator: ClassVar[str]

    keep_dims: int = token("0 drops the reduced axes, anything else keeps them with size 1")
    axes: tuple[int, ...] = rest("axes to reduce, negative ones from the end; all if there are none")

    def to_onnx(self, g: Builder, x: Value) -> Value:
        """See the class. Raises ShapeError for axes that x has not, UnsupportedLayer for types other than these two."""
        if x.dtype not in (np.float32, np.int32):
            raise UnsupportedLayer("element type is not supported", expected="float32 or int32", found=x.dtype)
        axes = sorted({x.axis(axis) for axis in self.axes}) or list(range(x.rank))
        compute = self.on_floats if x.dtype == np.float32 else self.on_integers
        y = compute(g, x, axes)
        return y if self.keep_dims else g.op("Squeeze", y, g.ints(*axes))

    def on_floats(self, g: Builder, x: Value, axes: list[int]) -> Value:
        """The reduction of float32 elements; the axes rise and stay."""
        return over(g, self.operator, x, axes)

    def on_integers(self, g: Builder, x: Value, axes: list[int]) -> Value:
        """The reduction of int32 elements; the axes rise and stay."""
        return over(g, self.operator, x, axes)
