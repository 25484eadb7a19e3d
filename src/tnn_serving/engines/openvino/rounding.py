"""Rounding of halves away from zero to int8 codes, in operators that OpenVINO joins with those before them.

ONNX cannot round so; networks write it with Where, Add, Clip and a Cast that cuts off. OpenVINO has an operator for it,
which becomes part of the convolution in front. A conversion to int8 never does; with free shapes it is computed element
by element.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from tnn_serving.engines.openvino.nodes import (
    folded,
    in_agreement,
    is_float,
    keep_apart,
    makes_codes,
    moved,
    moves_codes,
    readers_of,
    replace,
    source,
)

LOWEST, HIGHEST = -128, 127

NO_PRODUCT = "nonconvertable_divide_0"
"""OpenVINO's mark of divisions that stay divisions."""


def has_codes_between_floats(network: ov.Model) -> bool:
    """Whether codes are moved, or rounded to, between layers that compute in float32."""
    return any(moves_codes(node) or _rounded(node) is not None for node in _between_floats(network))


def codes_as_floats(network: ov.Model) -> None:
    """Carries the codes between layers that compute in float32 as float32; each is the same number.

    For the exact form of int8 networks. Codes that have other readers stay int8.
    """
    for node in _between_floats(network):
        if makes_codes(node):
            replace(node, _rounded(node) or ops.convert(ops.convert(node.input_value(0), "i8"), "f32"))


def converts_rounded(node: ov.Node) -> bool:
    """A conversion of rounded numbers to int8."""
    return makes_codes(node) and _rounded(node) is not None


def quantise_rounded(network: ov.Model) -> None:
    """Makes such conversions quantisations, as int8 kernels want them."""
    for node in network.get_ordered_ops():
        rounded = _rounded(node) if makes_codes(node) else None
        if rounded is not None:
            low, high = (ops.constant(np.float32(limit)) for limit in (LOWEST, HIGHEST))
            steps = HIGHEST - LOWEST + 1
            replace(node, ops.convert(ops.fake_quantize(rounded, low, high, low, high, steps), "i8"))


def may_become_product(node: ov.Node) -> bool:
    """A division of float32 that OpenVINO may replace.

    By a constant, or what becomes one with fixed shapes, OpenVINO would multiply by the reciprocal, and be one unit in
    the last place off for one quotient in four. Where the quotient is rounded to a code next, that is another code.
    """
    return bool(
        node.get_type_name() == "Divide"
        and node.get_element_type() == ov.Type.f32
        and NO_PRODUCT not in node.get_rt_info()
    )


def keep_divisions(network: ov.Model) -> None:
    """Has divisions computed as divisions."""
    for node in filter(may_become_product, network.get_ordered_ops()):
        node.get_rt_info()[NO_PRODUCT] = True
        if source(node).get_type_name() != "Parameter":
            # Marked or not, a division is made a multiplication by convolutions that it is joined with, and by other
            # operators. They join no maximum.
            keep_apart(node.input(0))


def adds_product(node: ov.Node) -> bool:
    """A sum or difference of float32 with a product: kernels for both would round once."""
    return bool(
        node.get_type_name() in ("Add", "Subtract")
        and node.get_element_type() == ov.Type.f32
        and any(value.get_node().get_type_name() == "Multiply" for value in node.input_values())
    )


def keep_products(network: ov.Model) -> None:
    """Has products rounded before they are added to something."""
    for node in filter(adds_product, network.get_ordered_ops()):
        for operand in node.inputs():
            if operand.get_source_output().get_node().get_type_name() == "Multiply":
                keep_apart(operand)


def _between_floats(network: ov.Model) -> list[ov.Node]:
    """Nodes that make and move codes which are only computed with as float32."""
    nodes = {
        node.get_friendly_name(): node for node in network.get_ordered_ops() if makes_codes(node) or moves_codes(node)
    }
    agreed = in_agreement(nodes, _is_computed_with)
    return [node for name, node in nodes.items() if name in agreed]


def _is_computed_with(node: ov.Node, kept: set[str]) -> bool:
    """Readers of these codes take them as float32 or are themselves among ``kept``; what is moved comes from there."""
    if moves_codes(node) and not all(origin.get_friendly_name() in kept for origin in moved(node)):
        return False
    return all(is_float(reader) or reader.get_friendly_name() in kept for reader in readers_of(node))


def _rounded(node: ov.Node) -> ov.Node | None:
    """What a conversion to int8 makes of its input, as float32, if the input is ``number + half`` within limits.

    Limits are whole numbers, so it makes no difference whether they are kept before or after the rest is cut off.
    """
    value = node.input_value(0)
    limits: list[Callable[[ov.Node], ov.Node]] = []
    while (limit := _limit(value.get_node())) is not None:
        value, apply = limit
        limits.append(apply)
    number = _number(value.get_node())
    if number is None or not limits:
        return None
    rounded = ops.round(number, "half_away_from_zero")
    for apply in reversed(limits):
        rounded = apply(rounded)
    return rounded


def _limit(node: ov.Node) -> tuple[ov.Output, Callable[[ov.Node], ov.Node]] | None:
    """The operand of a minimum or maximum with whole numbers, and how to do the same to another value."""
    make = {"Minimum": ops.minimum, "Maximum": ops.maximum}.get(node.get_type_name())
    if make is None:
        return None
    first, second = node.input_values()
    for bound, operand in ((first, second), (second, first)):
        values = folded(bound)
        if values is not None and np.array_equal(values, np.rint(values)):
            return operand, partial(make, bound)
    return None


def _number(node: ov.Node) -> ov.Output | None:
    """``v`` of ``v + 0.5`` for ``v`` from 0 up, or ``v + (v < 0 ? -0.5 : 0.5)``."""
    if node.get_type_name() != "Add":
        return None
    first, second = node.input_values()
    for number, half in ((first, second), (second, first)):
        if _is_half(half.get_node(), number):
            return number
    return None


def _is_half(node: ov.Node, number: ov.Output) -> bool:
    alone = folded(node.output(0))
    if alone is not None:
        return bool((alone == 0.5).all())
    if node.get_type_name() != "Select" or source(node).get_type_name() != "Less":
        return False
    negative, zero = source(node).input_values()
    halves = [folded(node.input_value(k)) for k in (1, 2)]
    wanted = zip([folded(zero), *halves], (0, -0.5, 0.5), strict=True)
    return negative == number and all(value is not None and bool((value == want).all()) for value, want in wanted)
