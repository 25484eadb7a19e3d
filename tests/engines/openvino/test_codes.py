"""Unsigned codes inside OpenVINO: the same codes as before, and no signed ones where they can be spared."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import openvino as ov
import pytest
from onnx import parser

from tnn_serving.engines import ENGINES, Options
from tnn_serving.engines.openvino.codes import unsigned_codes

pytestmark = pytest.mark.slow

CHANNELS = 16

HEAD = """
    <ir_version: 10, opset_import: ["": 21]>
    g (int8[n, 16, h, w] x) => (RESULTS)
    <float one = {1}, int8 zero = {0}, int8[16] zeros = {0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}>
    {
"""

NETWORKS = {
    # Two layers behind a ReLU: the codes between them are unsigned, and stop at 127.
    "rectified": (
        """
        a = CONV3 (x)
        b = Relu (a)
        c = QuantizeLinear (b, one, zero)
        d = DEPTHWISE (c)
        e = Relu (d)
        f = QuantizeLinear (e, one, zero)
        y = DENSE (f)
        """,
        {"u8": 2},
    ),
    # Signed codes that a convolution without padding, one with it and an addition read.
    "signed": (
        """
        a = CONV3 (x)
        c = QuantizeLinear (a, one, zero)
        d = DENSE (c)
        e = CONV3 (c)
        f = Cast <to = 1> (c)
        g = Add (d, f)
        y = Add (g, e)
        """,
        {"u8": 1},
    ),
    "signed, padded only": (
        """
        a = CONV3 (x)
        c = QuantizeLinear (a, one, zero)
        y = CONV3 (c)
        """,
        {"i8": 1},
    ),
    # All joined codes are positive.
    "joined": (
        """
        a = CONV3 (x)
        b = Relu (a)
        c = QuantizeLinear (b, one, zero)
        d = DENSE (x)
        e = Relu (d)
        f = QuantizeLinear (e, one, zero)
        k = Concat <axis = 2> (c, f)
        l = DequantizeLinear (k, one, zero)
        m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (l)
        o = QuantizeLinear (m, one, zero)
        p = MaxPool <kernel_shape = [1, 1], strides = [2, 2]> (o)
        y = DENSE (p)
        """,
        {"u8": 3},
    ),
    # One of them is not, so none may change its type.
    "joined with signed": (
        """
        a = CONV3 (x)
        b = Relu (a)
        c = QuantizeLinear (b, one, zero)
        d = DENSE (x)
        f = QuantizeLinear (d, one, zero)
        k = Concat <axis = 1> (c, f)
        y = WIDE (k)
        """,
        {"i8": 2},
    ),
    # Codes that are brought to a larger step.
    "requantised": (
        """
        four = Constant <value_float = 4.0> ()
        a = CONV3 (x)
        b = Relu (a)
        c = QuantizeLinear (b, one, zero)
        d = DequantizeLinear (c, one, zero)
        f = QuantizeLinear (d, four, zero)
        y = DENSE (f)
        """,
        {"u8": 2},
    ),
    # Codes of the input that are chosen from.
    "chosen from the input": (
        """
        k = MaxPool <kernel_shape = [1, 1], strides = [2, 2]> (x)
        a = DENSE (k)
        b = Relu (a)
        c = QuantizeLinear (b, one, zero)
        y = DENSE (c)
        """,
        {"u8": 1},
    ),
    # Codes that are an output keep their type.
    "asked for": (
        """
        a = CONV3 (x)
        b = Relu (a)
        c = QuantizeLinear (b, one, zero)
        y = DENSE (c)
        """,
        {"i8": 1},
    ),
}
KINDS = {
    "CONV3": ((CHANNELS, CHANNELS, 3, 3), "pads = [1, 1, 1, 1]"),
    "DEPTHWISE": ((CHANNELS, 1, 3, 3), "pads = [1, 1, 1, 1], group = 16"),
    "DENSE": ((CHANNELS, CHANNELS, 1, 1), "pads = [0, 0, 0, 0]"),
    "WIDE": ((CHANNELS, 2 * CHANNELS, 1, 1), "pads = [0, 0, 0, 0]"),
}


SAFE = 64
"""Weights up to here: two products with codes fit into 16 bits, which is how processors without VNNI sum them."""


def network(name: str, largest: int = 127) -> onnx.ModelProto:
    """ONNX of a network of NETWORKS with weights up to ``largest``.

    All factors are powers of two, so that no engine rounds anywhere else.
    """
    text, _ = NETWORKS[name]
    rng = np.random.default_rng(7)
    lines, constants = [], {}
    for line in text.strip().splitlines():
        made, _, call = line.strip().partition(" = ")
        kind = call.split()[0]
        if kind not in KINDS:
            lines.append(line)
            continue
        shape, attributes = KINDS[kind]
        source = call.split("(")[1].strip(")")
        # Sums of about three times what codes can hold: they saturate on both sides.
        fan = int(np.prod(shape[1:]))
        spread = 0.55 * largest * np.sqrt(fan)
        factor = 2.0 ** -np.round(np.log2(spread / 3) + rng.integers(0, 2, CHANNELS))
        constants[f"{made}_w"] = (2 * rng.integers(-largest // 2, largest // 2 + 1, shape)).astype(np.int8)
        constants[f"{made}_m"] = factor.astype(np.float32)
        constants[f"{made}_b"] = (rng.integers(-9999, 9999, CHANNELS) * factor).astype(np.float32)
        lines += [
            f"{made}_x = DequantizeLinear ({source}, one, zero)",
            f"{made}_f = DequantizeLinear <axis = 0> ({made}_w, {made}_m, zeros)",
            f"{made} = Conv <{attributes}> ({made}_x, {made}_f, {made}_b)",
        ]
    results = "float[n, 16, h2, w2] y" + (", int8[n, 16, h3, w3] c" if name == "asked for" else "")
    made_model = parser.parse_model(HEAD.replace("RESULTS", results) + "\n".join(lines) + "\n}")
    made_model.graph.initializer.extend(onnx.numpy_helper.from_array(value, key) for key, value in constants.items())
    onnx.checker.check_model(made_model, full_check=True)
    return made_model


@pytest.mark.parametrize("name", NETWORKS)
def test_codes_are_unsigned_where_they_can_be(name: str) -> None:
    read = ov.Core().read_model(network(name).SerializeToString())
    before = read.get_ordered_ops()
    assert not [node for node in before if node.get_output_size() and node.get_output_element_type(0) == ov.Type.u8]
    unsigned_codes(read)
    read.validate_nodes_and_infer_types()
    quantised = [
        node
        for node in read.get_ordered_ops()
        if node.get_type_name() == "Convert" and node.input_value(0).get_node().get_type_name() == "FakeQuantize"
    ]
    assert Counter(node.get_element_type().get_type_name() for node in quantised) == NETWORKS[name][1]


@pytest.mark.parametrize("largest", [SAFE, pytest.param(127, marks=pytest.mark.needs_vnni)])
@pytest.mark.parametrize("shape", [(1, CHANNELS, 8, 8), (3, CHANNELS, 6, 10)])
@pytest.mark.parametrize("name", NETWORKS)
def test_results_are_equal(name: str, shape: tuple[int, ...], largest: int) -> None:
    made = network(name, largest)
    x = np.random.default_rng(1).integers(-128, 128, shape).astype(np.int8)
    got, wanted = (ENGINES[engine].compile(made, Options(threads=1)).run({"x": x}) for engine in ENGINES)
    assert got.keys() == wanted.keys()
    for key, value in wanted.items():
        assert value.dtype == got[key].dtype
        np.testing.assert_array_equal(got[key], value)
