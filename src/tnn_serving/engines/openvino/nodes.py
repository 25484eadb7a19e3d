"""Nodes of an OpenVINO network: what feeds and reads them, which are codes of int8 layers, how one replaces another."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.op import if_op, loop, tensor_iterator
from openvino.utils import replace_node

_MOVING = {"Concat", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that only move or choose codes."""


def source(node: ov.Node) -> ov.Node:
    """The node behind the first input."""
    return node.input_value(0).get_node()


def readers_of(node: ov.Node) -> list[ov.Node]:
    """The nodes that read the first output."""
    return [target.get_node() for target in node.output(0).get_target_inputs()]


def folded(value: ov.Output) -> np.ndarray | None:
    """What a constant, or dequantised constant, amounts to, as float64; ``None`` for what depends on an input."""
    node = value.get_node()
    kind = node.get_type_name()
    if kind == "Constant":
        return np.array(node.get_data(), np.float64)
    if kind not in ("Convert", "Multiply", "Reshape", "Subtract"):
        return None
    operands = [folded(entry) for entry in node.input_values()]
    first, second = operands[0], operands[-1]
    if first is None or second is None:
        return None
    if kind == "Multiply":
        return np.asarray(first * second)
    if kind == "Subtract":
        return np.asarray(first - second)
    return first.reshape(second.astype(np.int64)) if kind == "Reshape" else first


def is_float(node: ov.Node) -> bool:
    """A conversion to float32: where computing with codes begins."""
    return bool(node.get_type_name() == "Convert" and node.get_element_type() == ov.Type.f32)


def makes_codes(node: ov.Node) -> bool:
    """A conversion of numbers to int8."""
    return bool(
        node.get_type_name() == "Convert"
        and node.get_element_type() == ov.Type.i8
        and node.get_input_element_type(0) == ov.Type.f32
    )


def moves_codes(node: ov.Node) -> bool:
    """An operator that only moves or chooses int8 codes."""
    return bool(node.get_type_name() in _MOVING and node.get_output_element_type(0) == ov.Type.i8)


def moved(node: ov.Node) -> list[ov.Node]:
    """Where the codes come from that :func:`moves_codes` moves."""
    operands = [value.get_node() for value in node.input_values()]
    return operands if node.get_type_name() == "Concat" else operands[:1]


def in_agreement(nodes: dict[str, ov.Node], fits: Callable[[ov.Node, set[str]], bool]) -> set[str]:
    """The largest set of names whose nodes all fit to the others in it."""
    kept = set(nodes)
    while wrong := {name for name in kept if not fits(nodes[name], kept)}:
        kept -= wrong
    return kept


def replace(node: ov.Node, made: ov.Node) -> None:
    """Puts another node into the place of one, with its name."""
    made.set_friendly_name(node.get_friendly_name())
    replace_node(node, made)


def keep_apart(operand: ov.Input) -> None:
    """Puts an operator before an input, so that the plugin does not join those on both sides of it: a maximum,
    which changes no number, and which convolutions, reductions and joined products do not take in."""
    value = operand.get_source_output()
    dtype = value.get_element_type().to_dtype()
    lowest = np.iinfo(dtype).min if value.get_element_type().is_integral() else -np.inf
    operand.replace_source_output(ops.maximum(value, ops.constant(np.array(lowest, dtype))).output(0))


def bodies(network: ov.Model) -> Iterator[ov.Model]:
    """The networks inside the loops and branches of one, and inside those."""
    for node in network.get_ordered_ops():
        inner: list[ov.Model] = []
        if isinstance(node, if_op):
            inner = [node.get_then_body(), node.get_else_body()]
        elif isinstance(node, loop):
            inner = [node.get_function()]
        elif isinstance(node, tensor_iterator):
            inner = [node.get_body()]
        for body in inner:
            yield body
            yield from bodies(body)
