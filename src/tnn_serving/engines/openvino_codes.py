"""Int8 codes in the types that OpenVINO's CPU kernels are fastest with.

Its AVX-512 convolutions want unsigned inputs. Signed codes are given to them as ``code + 128``: one more step behind
every convolution, and a correction in every next one. Both can be spared, and the codes stay the same:

- Behind a ReLU codes are 0 ... 127, the same as unsigned bytes; what is left to do is to stop at 127.
- Elsewhere the 128 is added with the bias, and taken out again with the bias of the next convolution, if that has no
  padding: then its share is the same for every output, 128 times the sum of the filter.
"""

from __future__ import annotations

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.utils import replace_node

SHIFT = 128
"""What unsigned codes have more than signed ones."""

_MOVING = {"Concat", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that only move or choose codes."""


def unsigned_codes(network: ov.Model) -> None:
    """Makes quantisations to int8 give uint8 where convolutions gain from it, in place."""
    quantisations = [node for node in network.get_ordered_ops() if _quantises(node)]
    positive = _positive(network, quantisations)
    for node in quantisations:
        if node.get_friendly_name() in positive:
            _make_unsigned(node)
        elif all(map(_is_float, _readers(node))) and any(_unpadded(reader) is not None for reader in _readers(node)):
            _make_shifted(node)
    if quantisations:
        network.validate_nodes_and_infer_types()


# ---- what is found ----


def _quantises(node: ov.Node) -> bool:
    """QuantizeLinear to int8 without zero point, as OpenVINO reads it: FakeQuantize to -128 ... 127, Convert."""
    if node.get_type_name() != "Convert" or node.get_element_type() != ov.Type.i8:
        return False
    limits = _source(node)
    if limits.get_type_name() != "FakeQuantize":
        return False
    low, high, out_low, out_high = (_constant(limits.input_value(k)) for k in range(1, 5))
    if low is None or high is None or out_low is None or out_high is None or low.size != 1:
        return False
    return bool((out_low == -SHIFT).all() and (out_high == SHIFT - 1).all() and low < 0 < high)


def _positive(network: ov.Model, quantisations: list[ov.Node]) -> set[str]:
    """Names of quantisations whose codes are never negative, and meet only others such until somebody reads them.

    Codes that are joined must be of one type, so one signed operand keeps the others signed.
    """
    nodes = {node.get_friendly_name(): node for node in quantisations if _from_relu(node) or _recoded(node) is not None}
    names = set(nodes)
    nodes |= {node.get_friendly_name(): node for node in network.get_ordered_ops() if _moves_codes(node)}
    kept = set(nodes)
    while True:
        wrong = {name for name in kept if not _fits(nodes[name], kept)}
        if not wrong:
            return kept & names
        kept -= wrong


def _fits(node: ov.Node, kept: set[str]) -> bool:
    """What the codes come from and where they go is unsigned too."""
    if not all(_is_float(reader) or reader.get_friendly_name() in kept for reader in _readers(node)):
        return False
    if _moves_codes(node):
        inputs = node.input_values() if node.get_type_name() == "Concat" else [node.input_value(0)]
        return all(value.get_node().get_friendly_name() in kept for value in inputs)
    origin = _recoded(node)
    return origin is None or origin.get_friendly_name() in kept


def _moves_codes(node: ov.Node) -> bool:
    return bool(node.get_type_name() in _MOVING and node.get_output_element_type(0) == ov.Type.i8)


def _from_relu(node: ov.Node) -> bool:
    return bool(_source(_source(node)).get_type_name() == "Relu")


def _recoded(node: ov.Node) -> ov.Node | None:
    """The codes that a quantisation gets, dequantised and perhaps pooled; ``None`` if it gets something else."""
    x = _source(_source(node))
    if x.get_type_name() == "MaxPool":
        x = _source(x)
    return _dequantised(x)


def _dequantised(node: ov.Node) -> ov.Node | None:
    """The codes behind DequantizeLinear without zero point: Convert, Subtract, Multiply."""
    if node.get_type_name() != "Multiply" or _constant(node.input_value(1)) is None:
        return None
    shifted = _source(node)
    if shifted.get_type_name() != "Subtract" or not _is_float(_source(shifted)):
        return None
    zero = _constant(shifted.input_value(1))
    return _source(_source(shifted)) if zero is not None and not zero.any() else None


def _unpadded(reader: ov.Node) -> tuple[ov.Node, np.ndarray] | None:
    """The convolution that alone reads these codes, and sums of its filters, if all outputs see whole windows."""
    node = reader
    for wanted in ("Subtract", "Multiply", "Convolution"):
        readers = _readers(node)
        if len(readers) != 1 or readers[0].get_type_name() != wanted:
            return None
        node = readers[0]
    scale, filters = _constant(_source(node).input_value(1)), _constant(node.input_value(1))
    attributes = node.get_attributes()
    if scale is None or filters is None or any((*attributes["pads_begin"], *attributes["pads_end"])):
        return None
    return node, (filters.astype(np.float64) * scale).sum(axis=tuple(range(1, filters.ndim)))


# ---- what is made ----


def _make_unsigned(node: ov.Node) -> None:
    """Codes from 0 to 127 as uint8. At 0 the conversion itself stops."""
    limits = _source(node)
    step = _step(limits)
    x = limits.input_value(0)
    if x.get_node().get_type_name() == "Relu" or not _within(node):
        if x.get_node().get_type_name() == "Relu":
            x = x.get_node().input_value(0)
        x = ops.clamp(x, 0.0, float(step * (SHIFT - 1))).output(0)
        # A clamp right in front is merged into the quantisation, which then rounds and stops in steps of its own. The
        # second one stops nothing, is merged instead, and changes no step.
        x = ops.clamp(x, float(step * 1e-6), float(step * 300)).output(0)
    replace_node(node, _quantised(x, step))


def _make_shifted(node: ov.Node) -> None:
    """``code + 128`` as uint8."""
    limits = _source(node)
    step = _step(limits)
    shifted = ops.add(limits.input_value(0), ops.constant(np.float32(step * SHIFT)))
    made = _quantised(shifted.output(0), step)
    for reader in _readers(node):
        found = _unpadded(reader)
        if found is None:
            target = reader.output(0).get_target_inputs()
            back = ops.subtract(reader, ops.constant(np.float32(SHIFT)))
            for entry in target:
                entry.replace_source_output(back.output(0))
        else:
            convolution, sums = found
            share = (-SHIFT * sums).astype(np.float32).reshape(1, -1, *(1,) * (len(convolution.get_output_partial_shape(0)) - 2))
            targets = convolution.output(0).get_target_inputs()
            whole = ops.add(convolution, ops.constant(share))
            for entry in targets:
                entry.replace_source_output(whole.output(0))
    replace_node(node, made)


def _quantised(x: ov.Output, step: np.float32) -> ov.Node:
    top = 2 * SHIFT - 1
    low, high = ops.constant(np.float32(0)), ops.constant(np.float32(top))
    limits = ops.fake_quantize(x, low, ops.constant(np.float32(top * step)), low, high, 2 * SHIFT)
    return ops.convert(limits, "u8")


def _within(node: ov.Node) -> bool:
    """Codes that are quantised again cannot come out larger than 127."""
    x = _source(_source(node))
    scaled = _source(x) if x.get_type_name() == "MaxPool" else x
    scale = _constant(scaled.input_value(1))
    return scale is not None and bool((scale <= _step(_source(node))).all())


def _step(limits: ov.Node) -> np.float32:
    """The number that one code stands for."""
    high = _constant(limits.input_value(2))
    assert high is not None
    return np.float32(high.ravel()[0] / (SHIFT - 1))


# ---- the graph ----


def _source(node: ov.Node) -> ov.Node:
    return node.input_value(0).get_node()


def _readers(node: ov.Node) -> list[ov.Node]:
    return [target.get_node() for target in node.output(0).get_target_inputs()]


def _is_float(node: ov.Node) -> bool:
    """A conversion to float32: where computing with codes begins."""
    return bool(node.get_type_name() == "Convert" and node.get_element_type() == ov.Type.f32)


def _constant(value: ov.Output) -> np.ndarray | None:
    """What a constant, or dequantised constant, amounts to, as float64; ``None`` for what depends on an input."""
    node = value.get_node()
    kind = node.get_type_name()
    if kind == "Constant":
        return np.array(node.get_data(), np.float64)
    if kind not in ("Convert", "Multiply", "Reshape", "Subtract"):
        return None
    operands = [_constant(entry) for entry in node.input_values()]
    first, second = operands[0], operands[-1]
    if first is None or second is None:
        return None
    if kind == "Multiply":
        return np.asarray(first * second)
    if kind == "Subtract":
        return np.asarray(first - second)
    return first.reshape(second.astype(np.int64)) if kind == "Reshape" else first
