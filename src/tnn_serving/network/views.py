"""What a network shows of itself, whatever files it came from: its layers and stored tensors as plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Sizes = Sequence[int | None] | None
"""Dims of a value; ``None`` for one that is not known, or for all of them."""

OPERANDS: dict[str, int] = {
    "Conv": 1,
    "ConvInteger": 1,
    "ConvTranspose": 1,
    "Gemm": 1,
    "MatMul": 1,
    "MatMulInteger": 1,
    "QLinearConv": 3,
    "QLinearMatMul": 3,
}
"""ONNX operators that multiply and accumulate, each with the place of its second operand."""


@dataclass(frozen=True, slots=True)
class WeightView:
    """A stored tensor; ``dims`` is ``None`` where the file keeps none."""

    name: str
    dtype: str
    dims: list[int] | None
    elements: int


@dataclass(frozen=True, slots=True)
class LayerView:
    """A layer of TNN's, or a node of an ONNX model.

    Attributes:
        output_dims: of each output at the shapes asked for; ``None`` where they are not known.
        parameters: by TNN's names, or a node's attributes.
        weights: the stored tensors that are this layer's alone.
        macs: multiply-accumulates at the shapes asked for; ``None`` where no shapes were.
        problem: why it cannot run.
    """

    index: int
    type: str
    name: str
    inputs: list[str]
    outputs: list[str]
    output_dims: list[list[int | None] | None]
    parameters: dict[str, Any] = field(default_factory=dict)
    weights: list[WeightView] = field(default_factory=list)
    macs: int | None = None
    problem: str | None = None

    @property
    def elements(self) -> int:
        """Number of stored weights."""
        return sum(weight.elements for weight in self.weights)


def macs(operator: str, x: Sizes, w: Sizes, y: Sizes, *, transposed: bool = False) -> int:
    """Multiply-accumulates of an ONNX operator; 0 for one that has none, or whose dims are not known.

    Args:
        x, w, y: dims of the first and second operand and of the output.
        transposed: Gemm takes its first operand transposed.
    """
    if operator not in OPERANDS or any(dims is None or None in dims for dims in (x, w, y)):
        return 0
    first, second, result = ([size or 0 for size in dims or ()] for dims in (x, w, y))
    if operator == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    if operator.endswith(("Conv", "ConvInteger")):
        return math.prod(result) * math.prod(second[1:])
    return math.prod(result) * first[0 if transposed else -1]
