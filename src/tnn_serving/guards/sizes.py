"""Operands that decide the dims of an output: what is right, and what is taken in place of what is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx

from tnn_serving.guards.checks import FARTHEST
from tnn_serving.guards.facts import GraphFacts
from tnn_serving.guards.nodes import NodeList

NOT_NEGATIVE, POSITIVE = "at least 0", "more than 0"


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition in the graph.

    Attributes:
        good: whether it is met, as a vector of one bool.
        entries: of the guard, each a vector of one int64.
        expected: what is right, for a sentence.
        instead: operands that any operator of the kind takes, by number.
        right: what is taken of those that are good, if not the operands themselves.
    """

    good: str
    entries: tuple[str, str, str, str]
    expected: str
    instead: Mapping[int, str]
    right: Mapping[int, str] = field(default_factory=dict)


def condition_of(node: onnx.NodeProto, operand: int, facts: GraphFacts, made: NodeList, limit: int) -> Condition | None:
    """What must be true of a node's sizes, computed in ``made``; ``None`` where it cannot be computed beforehand.

    Args:
        operand: the one that decides.
        limit: elements that an output has to be below.
    """
    if node.op_type == "Reshape":
        return _reshapes(node, facts, made)
    if node.op_type == "Split":
        return _splits(node, facts, made)
    if node.op_type == "Slice":
        return _steps(node, made)
    if node.op_type == "RoiAlign":
        return _regions(node, made)
    elements = _elements(node, operand, facts, made)
    if elements is None:
        return None
    count, least, above = elements
    largest = int(np.float32(limit))
    enough = made.op("Less", made.op("Abs", count), made.floats([largest]))
    positive = made.op("Less", made.floats([above]), least)
    low = made.floats([0 if above < 0 else 1])
    least = made.op("Min", made.op("Where", positive, low, made.op("Floor", finite(made, least))), low)
    count = finite(made, made.op("Abs", finite(made, count)))
    entries = (made.as_int64(least), made.as_int64(low), made.as_int64(count), made.ints([largest - 1]))
    instead = {}
    for k in _deciding(node):
        default = np.dtype(np.float32 if k == 2 and node.op_type == "Resize" else np.int64)
        kind = facts.dtype(node.input[k]) or default
        harmless = node.op_type != "Pad" and (node.op_type, k) != ("Range", 0)
        instead[k] = made.constant(np.array(harmless, kind))
    right = {}
    if node.op_type == "Range":  # OpenVINO counts backwards as if it were forwards
        start, stop, step = node.input
        steps = made.op("Mul", made.op("Sub", stop, start), made.op("Sign", step))
        zero = made.constant(np.array(0, facts.dtype(start) or np.int64))
        right[1] = made.op("Where", made.op("Less", steps, zero), start, stop)
    expected = NOT_NEGATIVE if above < 0 else POSITIVE
    return Condition(made.op("And", enough, positive), entries, expected, instead, right)


def finite(made: NodeList, number: str, dtype: np.dtype | None = None) -> str:
    """A number; one that is larger than any size in place of those beyond it and of NaN."""
    farthest = made.constant(np.array(FARTHEST, dtype or np.float32))
    return made.op("Where", made.op("Less", made.op("Abs", number), farthest), number, farthest)


def _deciding(node: onnx.NodeProto) -> list[int]:
    """The operands that decide together."""
    if node.op_type == "Range":
        return [0, 1, 2]
    if node.op_type == "Resize" and len(node.input) > 2:
        return [k for k in (2, 3) if k < len(node.input) and node.input[k]]
    return [0] if node.op_type == "ConstantOfShape" else [1]


def _elements(node: onnx.NodeProto, operand: int, facts: GraphFacts, made: NodeList) -> tuple[str, str, float] | None:
    """The elements of the output, the least of the numbers that decide them, and what this must be more than: the first
    two as vectors of one float32."""
    size = made.flat(made.as_float(node.input[operand]))
    kind = node.op_type
    if kind == "Range":
        start, stop, step = (made.flat(made.as_float(name)) for name in node.input)
        return made.op("Div", made.op("Sub", stop, start), step), made.op("Abs", step), 0
    if kind == "OneHot":
        return made.op("Mul", _all(made, _shape(made, node.input[0])), size), size, 0.5
    if kind == "ConstantOfShape":
        return _all(made, size), _least(made, size), -0.5
    shape, dims = _shape(made, node.input[0]), facts.dims(node.input[0])
    if kind == "Tile":
        return made.op("Mul", _all(made, shape), _all(made, size)), _least(made, size), -0.5
    if dims is None:
        return None
    if kind == "Expand":
        wanted = facts.dims(node.input[1])
        if not wanted or not isinstance(wanted[0], int):
            return None
        rank = max(len(dims), wanted[0])
        have, want = (
            made.op("Concat", made.floats([1] * (rank - own)), value, axis=0) if own < rank else value
            for own, value in ((len(dims), shape), (wanted[0], size))
        )
        # A dim can become another one only where it is 1.
        other = made.op("Mul", made.op("Sub", have, made.floats([1])), made.op("Sub", want, made.floats([1])))
        other = made.op("Mul", made.op("Abs", other), made.op("Abs", made.op("Sub", have, want)))
        least = made.op("Concat", size, made.op("Neg", other), axis=0)
        return _all(made, made.op("Max", have, want)), _least(made, least), -0.5
    axes = _axes(node, facts, len(dims))
    if axes is None:
        return None
    if kind == "Pad":
        spread = np.zeros((2 * len(axes), len(dims)), np.float32)
        for k, axis in enumerate(axes):
            spread[[k, k + len(axes)], axis] = 1
        added = made.op("MatMul", made.op("Reshape", size, made.ints([1, -1])), made.constant(spread))
        padded = made.op("Add", shape, made.flat(added))
        least = _least(made, padded)
        if any(item.name == "mode" and item.s == b"reflect" for item in node.attribute):
            column = made.op("Reshape", shape, made.ints([-1, 1]))
            own = made.flat(made.op("MatMul", made.constant(spread), column))
            least = _least(
                made, made.op("Concat", least, made.op("Sub", made.op("Sub", own, size), made.floats([1])), axis=0)
            )
        return _all(made, padded), least, -0.5
    # Resize and Upsample: factors, or sizes of all axes or some.
    if kind == "Upsample" or operand != 3:
        return made.op("Mul", _all(made, shape), _all(made, size)), _least(made, size), 0
    count = _all(made, size)
    others = [axis for axis in range(len(dims)) if axis not in axes]
    if others:
        count = made.op("Mul", count, _all(made, made.op("Gather", shape, made.ints(others), axis=0)))
    return count, _least(made, size), 0.5


def _reshapes(node: onnx.NodeProto, facts: GraphFacts, made: NodeList) -> Condition | None:
    """A shape has as many elements as the data, and at most one dim of -1. 0 means the data's own dim."""
    dims, wanted = (facts.dims(name) for name in node.input[:2])
    if dims is None or not wanted or not isinstance(wanted[0], int):
        return None
    shape, rank = made.op("Shape", node.input[0]), wanted[0]
    given = made.as_int64(node.input[1])
    if not any(item.name == "allowzero" and item.i for item in node.attribute):
        own = made.op("Gather", shape, made.ints(range(min(rank, len(dims)))), axis=0)
        if rank > len(dims):
            own = made.op("Concat", own, made.ints([0] * (rank - len(dims))), axis=0)
        given = made.op("Where", made.op("Equal", given, made.ints([0])), own, given)
    is_free = made.op("Equal", given, made.ints([-1]))
    numbers = made.as_float(made.op("Where", is_free, made.ints([1]), given))
    asked, have = _all(made, numbers), _all(made, made.as_float(shape))
    free = made.op("Sub", made.floats([rank]), _sum(made, made.as_float(made.op("Not", is_free)), rank))
    share = made.op("Div", have, made.op("Max", asked, made.floats([1])))
    divides = made.op("And", _same(made, made.op("Floor", share), share), made.op("Less", made.floats([0]), asked))
    none_free = made.op("Less", free, made.floats([0.5]))
    equal = made.op("And", none_free, _same(made, asked, have))
    fits = made.op("Or", equal, made.op("And", made.op("Not", none_free), divides))
    few = made.op("Less", free, made.floats([1.5]))
    positive = made.op("Less", made.floats([-0.5]), _least(made, numbers))
    good = made.op("And", made.op("And", fits, few), positive)
    expected = "a shape of as many elements as the data has, at most one dim of them -1"
    instead = {1: made.ints([-1, *[1] * (rank - 1)])}
    return Condition(good, _mark(made, good, asked), expected, instead)


def _splits(node: onnx.NodeProto, facts: GraphFacts, made: NodeList) -> Condition | None:
    """Parts are not negative, and add up to the axis."""
    axis = next((int(item.i) for item in node.attribute if item.name == "axis"), 0)
    count = len(node.output)
    size = made.op("Gather", made.op("Shape", node.input[0]), made.ints([axis]), axis=0)
    parts, whole = made.as_float(node.input[1]), made.as_float(size)
    asked = _sum(made, parts, count)
    positive = made.op("Less", made.floats([-0.5]), _least(made, parts))
    good = made.op("And", _same(made, asked, whole), positive)
    share = made.op("Div", size, made.ints([count]))
    first = made.op("Sub", size, made.op("Mul", share, made.ints([count - 1])))
    even = made.op("Concat", first, *[share] * (count - 1), axis=0)
    return Condition(good, _mark(made, good, asked), "parts that add up to the size of the axis", {1: even})


def _steps(node: onnx.NodeProto, made: NodeList) -> Condition:
    """Steps are not 0."""
    least = _least(made, made.op("Abs", made.as_float(node.input[4])))
    good = made.op("Less", made.floats([0.5]), least)
    return Condition(good, _mark(made, good, least), "steps other than 0", {4: made.ints([1])})


def _regions(node: onnx.NodeProto, made: NodeList) -> Condition:
    """Corners are numbers, and no larger than any picture."""
    corners = made.flat(made.as_float(node.input[1]))
    most = made.op(
        "ReduceMax", made.op("Concat", finite(made, made.op("Abs", corners)), made.floats([0]), axis=0), keepdims=1
    )
    good = made.op("Less", most, made.floats([FARTHEST]))
    return Condition(good, _mark(made, good, most), "numbers within 32 bits", {1: made.floats([0])})


def _mark(made: NodeList, good: str, asked: str) -> tuple[str, str, str, str]:
    """Entries that show what was asked for where it is not good."""
    shown = made.as_int64(finite(made, asked))
    low = made.op("Add", shown, made.as_int64(made.op("Not", good)))
    return shown, low, made.ints([0]), made.ints([0])


def _axes(node: onnx.NodeProto, facts: GraphFacts, rank: int) -> list[int] | None:
    """The axes that sizes are given for."""
    written = next((list(item.ints) for item in node.attribute if item.name == "axes"), None)
    if node.op_type == "Pad" and len(node.input) > 3 and node.input[3]:
        value = facts.value(node.input[3])
        if value is None:
            return None
        written = value.ravel().tolist()
    return list(range(rank)) if written is None else [axis % rank for axis in written]


def _same(made: NodeList, one: str, other: str) -> str:
    """Whether two whole numbers of float32 are equal; older sets of operators compare integers only."""
    return made.op("Less", made.op("Abs", made.op("Sub", one, other)), made.floats([0.5]))


def _shape(made: NodeList, value: str) -> str:
    return made.as_float(made.op("Shape", value))


def _all(made: NodeList, values: str) -> str:
    """The product of a vector, as a vector of one."""
    return made.op("ReduceProd", made.op("Concat", values, made.floats([1]), axis=0), keepdims=1)


def _least(made: NodeList, values: str) -> str:
    """The least of a vector and 1, as a vector of one."""
    return made.op("ReduceMin", made.op("Concat", values, made.floats([1]), axis=0), keepdims=1)


def _sum(made: NodeList, values: str, count: int) -> str:
    """The sum of a vector of so many, as a vector of one."""
    row, column = made.op("Reshape", values, made.ints([1, count])), made.constant(np.ones((count, 1), np.float32))
    return made.flat(made.op("MatMul", row, column))
