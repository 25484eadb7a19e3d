"""Division by constants, correctly rounded, for OpenVINO.

OpenVINO turns ``x / s`` into ``x * (1 / s)``, which is one unit in the last place off in many cases; where the quotient
is rounded to an int8 code next, that is enough for another code. Each such division is replaced by the product and one
exact correction: with t = x * (1/s), the residual x - t * s is computed without error by Dekker's product, and
t + residual * (1/s) is the quotient.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.utils import replace_node

SPLITTER = np.float32(4097)
"""2^12 + 1: cuts a float32 into two halves of 12 bits (Veltkamp)."""

LARGEST = np.float32(1e30)
"""Beyond this the cutting would overflow; the plain product serves."""


def round_divisions(network: ov.Model) -> None:
    """Replaces every float32 division by a constant, in place."""
    for node in network.get_ordered_ops():
        if node.get_type_name() != "Divide" or node.get_element_type() != ov.Type.f32:
            continue
        divisor = node.input_value(1).get_node()
        if divisor.get_type_name() == "Constant":
            replace_node(node, _quotient(node.input_value(0), np.array(divisor.get_data(), np.float32)))


def _quotient(x: ov.Output, divisor: np.ndarray) -> ov.Node:
    with np.errstate(divide="ignore"):
        reciprocal = (np.float32(1) / divisor).astype(np.float32)
    high = (SPLITTER * divisor - (SPLITTER * divisor - divisor)).astype(np.float32)
    low = (divisor - high).astype(np.float32)
    t = ops.multiply(x, ops.constant(reciprocal))
    scaled = ops.multiply(t, ops.constant(SPLITTER))
    t_high = ops.subtract(scaled, ops.subtract(scaled, t))
    t_low = ops.subtract(t, t_high)
    product = ops.multiply(t, ops.constant(divisor))
    error = ops.subtract(ops.multiply(t_high, ops.constant(high)), product)
    error = ops.add(error, ops.multiply(t_high, ops.constant(low)))
    error = ops.add(error, ops.multiply(t_low, ops.constant(high)))
    error = ops.add(error, ops.multiply(t_low, ops.constant(low)))
    residual = ops.subtract(ops.subtract(x, product), error)
    corrected = ops.add(t, ops.multiply(residual, ops.constant(reciprocal)))
    return ops.select(ops.less(ops.abs(t), ops.constant(LARGEST)), corrected, t)
