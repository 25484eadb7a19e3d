"""Int8 codes in the type that OpenVINO's CPU kernels are fastest with.

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

from tnn_serving.engines.openvino.nodes import (
    folded,
    in_agreement,
    is_float,
    makes_codes,
    moved,
    moves_codes,
    readers_of,
    replace,
    source,
)

SHIFT = 128
"""What unsigned codes have more than signed ones."""


def has_signed_codes(network: ov.Model) -> bool:
    """Whether there are quantisations to int8 that convolutions gain from as uint8."""
    quantisations = [node for node in network.get_ordered_ops() if _quantises(node)]
    return bool(_positive(network, quantisations)) or any(map(_gains_from_shift, quantisations))


def unsigned_codes(network: ov.Model) -> None:
    """Makes such quantisations give uint8."""
    quantisations = [node for node in network.get_ordered_ops() if _quantises(node)]
    positive = _positive(network, quantisations)
    for node in quantisations:
        if node.get_friendly_name() in positive:
            _make_unsigned(node)
        elif _gains_from_shift(node):
            _make_shifted(node)


# ---- what is found ----


def _quantises(node: ov.Node) -> bool:
    """QuantizeLinear to int8 without zero point, as OpenVINO reads it: FakeQuantize to -128 ... 127, Convert."""
    if not makes_codes(node):
        return False
    limits = source(node)
    if limits.get_type_name() != "FakeQuantize":
        return False
    high, out_low, out_high = (folded(limits.input_value(k)) for k in (2, 3, 4))
    if high is None or out_low is None or out_high is None or high.size != 1:
        return False
    return bool(high > 0 and (out_low == -SHIFT).all() and (out_high == SHIFT - 1).all())


def _positive(network: ov.Model, quantisations: list[ov.Node]) -> set[str]:
    """Names of quantisations whose codes are never negative, and meet only such codes until they are computed with.

    Codes that are joined must be of one type, so one signed operand keeps the others signed.
    """
    nodes = {node.get_friendly_name(): node for node in quantisations if _from_relu(node) or _recoded(node) is not None}
    names = set(nodes)
    nodes |= {node.get_friendly_name(): node for node in network.get_ordered_ops() if moves_codes(node)}
    return in_agreement(nodes, _fits) & names


def _gains_from_shift(node: ov.Node) -> bool:
    """Codes that are only computed with, a convolution without padding among their readers."""
    readers = readers_of(node)
    return all(map(is_float, readers)) and any(_whole_windows(reader) is not None for reader in readers)


def _fits(node: ov.Node, kept: set[str]) -> bool:
    """Where the codes come from and where they go is among ``kept``, or computes in float32."""
    if not all(is_float(reader) or reader.get_friendly_name() in kept for reader in readers_of(node)):
        return False
    origins = moved(node) if moves_codes(node) else [_recoded(node)]
    return all(origin is None or origin.get_friendly_name() in kept for origin in origins)


def _from_relu(node: ov.Node) -> bool:
    activation = source(source(node))
    return activation.get_type_name() == "Relu" and len(readers_of(activation)) == 1


def _recoded(node: ov.Node) -> ov.Node | None:
    """The codes that a quantisation to the same or larger steps gets, dequantised and perhaps pooled; else ``None``."""
    x = source(source(node))
    if x.get_type_name() == "MaxPool":
        x = source(x)
    codes = _dequantised(x)
    if codes is None:
        return None
    scale = folded(x.input_value(1))
    return codes if scale is not None and bool((scale <= _step(source(node))).all()) else None


def _dequantised(node: ov.Node) -> ov.Node | None:
    """The codes behind DequantizeLinear without zero point, as OpenVINO reads it: Convert, Subtract, Multiply."""
    if node.get_type_name() != "Multiply" or folded(node.input_value(1)) is None:
        return None
    shifted = source(node)
    if shifted.get_type_name() != "Subtract" or not is_float(source(shifted)):
        return None
    zero = folded(shifted.input_value(1))
    return source(source(shifted)) if zero is not None and not zero.any() else None


def _whole_windows(reader: ov.Node) -> tuple[ov.Node, np.ndarray] | None:
    """The convolution without padding that alone reads these codes, and the sum of each of its filters."""
    node = reader
    for wanted in ("Subtract", "Multiply", "Convolution"):
        (node, *others) = readers_of(node) or [node]
        if others or node.get_type_name() != wanted:
            return None
    dequantised, filters = source(node), folded(node.input_value(1))
    attributes = node.get_attributes()
    padded = any((*attributes["pads_begin"], *attributes["pads_end"])) or attributes["auto_pad"] != "explicit"
    scale = folded(dequantised.input_value(1))
    if padded or scale is None or filters is None or _dequantised(dequantised) is None:
        return None
    return node, (filters * scale).sum(axis=tuple(range(1, filters.ndim)))


# ---- what is made ----


def _make_unsigned(node: ov.Node) -> None:
    """Codes from 0 to 127 as uint8. At 0 the conversion saturates."""
    limits = source(node)
    step = _step(limits)
    x = limits.input_value(0)
    if _recoded(node) is None:
        x = ops.clamp(x.get_node().input_value(0), 0.0, step * (SHIFT - 1)).output(0)
        # The plugin merges a clamp right in front into the quantisation, and then rounds and stops in steps of its own.
        # This one, which changes no code, is merged instead and leaves the other alone.
        x = ops.clamp(x, step * 1e-6, step * 3 * SHIFT).output(0)
    replace(node, _quantised(x, step))


def _make_shifted(node: ov.Node) -> None:
    """``code + 128`` as uint8."""
    limits = source(node)
    step = _step(limits)
    for reader in readers_of(node):
        found = _whole_windows(reader)
        if found is not None:
            convolution, sums = found
            axes = len(convolution.get_output_partial_shape(0)) - 2
            _subtract_behind(convolution, (SHIFT * sums).reshape(1, -1, *(1,) * axes))
        else:
            _subtract_behind(reader, np.array(SHIFT))
    shifted = ops.add(limits.input_value(0), ops.constant(np.float32(step * SHIFT)))
    replace(node, _quantised(shifted.output(0), step))


def _quantised(x: ov.Output, step: float) -> ov.Node:
    top = 2 * SHIFT - 1
    low, high = ops.constant(np.float32(0)), ops.constant(np.float32(top))
    limits = ops.fake_quantize(x, low, ops.constant(np.float32(top * step)), low, high, 2 * SHIFT)
    return ops.convert(limits, "u8")


def _step(limits: ov.Node) -> float:
    """The number that is one step of the codes."""
    high = folded(limits.input_value(2))
    return float("nan") if high is None else float(high.ravel()[0]) / (SHIFT - 1)


def _subtract_behind(node: ov.Node, value: np.ndarray) -> None:
    """Who reads ``node`` then reads it less ``value``; a subtraction of zero that is there already takes it over."""
    readers = readers_of(node)
    constant = ops.constant(value.astype(np.float32))
    if len(readers) == 1 and readers[0].get_type_name() == "Subtract":
        zero = folded(readers[0].input_value(1))
        if zero is not None and not zero.any():
            readers[0].input(1).replace_source_output(constant.output(0))
            return
    targets = node.output(0).get_target_inputs()
    less = ops.subtract(node, constant)
    for target in targets:
        target.replace_source_output(less.output(0))
