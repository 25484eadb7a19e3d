"""How many elements an operator's output has, as nodes that compute it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from tnn_serving.guards.facts import Facts
from tnn_serving.guards.nodes import NodeList


@dataclass(frozen=True, slots=True)
class Elements:
    """What a size amounts to.

    Attributes:
        count: the elements, as a vector of one float32.
        least: the least of the numbers that decide it, in the same form.
        above: what that must be greater than.
    """

    count: str
    least: str
    above: float = -0.5


def harmless(node: onnx.NodeProto, operand: int) -> int:
    """A size that any operator takes."""
    return int(node.op_type != "Pad" and (node.op_type, operand) != ("Range", 0))


def elements_of(node: onnx.NodeProto, operand: int, facts: Facts, made: NodeList) -> Elements | None:
    """The elements of a node's output, computed in ``made``; ``None`` where they cannot be computed beforehand.

    Args:
        operand: the one that decides about them.
    """
    size = made.as_float(node.input[operand])
    kind = node.op_type
    if kind == "Range":
        start, stop, step = (made.flat(made.as_float(name)) for name in node.input)
        count = made.op("Div", made.op("Sub", stop, start), step)
        return Elements(count, made.op("Abs", step), 0)
    if kind == "OneHot":
        depth = made.flat(size)
        return Elements(made.op("Mul", _all(made, _shape(made, node.input[0])), depth), depth, 0.5)
    if kind == "ConstantOfShape":
        return Elements(_all(made, size), _least(made, size))
    shape = _shape(made, node.input[0])
    if kind == "Tile":
        return Elements(made.op("Mul", _all(made, shape), _all(made, size)), _least(made, size))
    if kind == "Expand":
        dims, wanted = (facts.dims(name) for name in node.input[:2])
        if dims is None or not wanted or not isinstance(wanted[0], int):
            return None
        rank = max(len(dims), wanted[0])
        have, want = (
            made.op("Concat", made.floats([1] * (rank - own)), value, axis=0) if own < rank else value
            for own, value in ((len(dims), shape), (wanted[0], size))
        )
        return Elements(_all(made, made.op("Max", have, want)), _least(made, size))
    dims = facts.dims(node.input[0])
    if dims is None:
        return None
    axes = _axes(node, facts, len(dims))
    if axes is None:
        return None
    if kind == "Pad":
        spread = np.zeros((2 * len(axes), len(dims)), np.float32)
        for k, axis in enumerate(axes):
            spread[[k, k + len(axes)], axis] = 1
        added = made.op("MatMul", made.op("Reshape", size, made.ints([1, -1])), made.constant(spread))
        padded = made.op("Add", shape, made.flat(added))
        return Elements(_all(made, padded), _least(made, padded))
    # Resize and Upsample: factors for all axes or some, or sizes of these.
    if kind == "Upsample" or operand == 2:
        return Elements(made.op("Mul", _all(made, shape), _all(made, size)), _least(made, size), 0)
    count = _all(made, size)
    others = [axis for axis in range(len(dims)) if axis not in axes]
    if others:
        count = made.op("Mul", count, _all(made, made.op("Gather", shape, made.ints(others), axis=0)))
    return Elements(count, _least(made, size))


def _axes(node: onnx.NodeProto, facts: Facts, rank: int) -> list[int] | None:
    """The axes that sizes are given for."""
    written = next((list(item.ints) for item in node.attribute if item.name == "axes"), None)
    if node.op_type == "Pad" and len(node.input) > 3 and node.input[3]:
        value = facts.value(node.input[3])
        if value is None:
            return None
        written = value.ravel().tolist()
    return list(range(rank)) if written is None else [axis % rank for axis in written]


def _shape(made: NodeList, value: str) -> str:
    return made.as_float(made.op("Shape", value))


def _all(made: NodeList, values: str) -> str:
    """The product of a vector, as a vector."""
    return made.op("ReduceProd", made.op("Concat", values, made.floats([1]), axis=0), keepdims=1)


def _least(made: NodeList, values: str) -> str:
    """The least of a vector, at most as many as engines can count."""
    return made.op("ReduceMin", made.op("Concat", values, made.floats([1]), axis=0), keepdims=1)
