"""Truth values: 0 and 1 in int8."""

from __future__ import annotations

import numpy as np

from tnn_serving.conversion.lowering.rules import lowers
from tnn_serving.conversion.origin import Origin
from tnn_serving.layers.pattern import OnnxNode, OnnxValue


@lowers("GreaterOrEqual", "LessOrEqual")
def _not_the_other(s: Origin, n: OnnxNode) -> OnnxValue:
    """What is not less is greater or equal, unless it is NaN."""
    a, b = n.need(0), n.need(1)
    opposite = "Greater" if n.op_type == "GreaterOrEqual" else "Less"
    return s.op("Or", s.op(opposite, a, b), s.op("Equal", a, b))


@lowers("Or")
def _either(s: Origin, n: OnnxNode) -> OnnxValue:
    """Not both not."""
    return s.op("Not", s.op("And", s.op("Not", n.need(0)), s.op("Not", n.need(1))))


@lowers("Xor")
def _one_of_two(s: Origin, n: OnnxNode) -> OnnxValue:
    """Not equal."""
    return s.op("Not", s.op("Equal", n.need(0), n.need(1)))


@lowers("Cast")
def _truth(s: Origin, n: OnnxNode) -> OnnxValue | None:
    """Whether a number is not 0."""
    x = n.need(0)
    if n.outputs[0].dtype != np.bool_ or x.dtype == np.bool_:
        return None
    return s.op("Not", s.op("Equal", x, s.like(x, 0)))
