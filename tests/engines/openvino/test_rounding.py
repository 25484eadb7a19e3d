"""TNN's rounding inside OpenVINO: every number gives the same code as before, and none is int8 on the way."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import onnx
import openvino as ov
import pytest
from onnx import parser

from tnn_serving.engines import ENGINES, Options
from tnn_serving.engines.openvino.rounding import codes_as_floats, quantise_rounded

pytestmark = pytest.mark.slow

NETWORK = """
    <ir_version: 10, opset_import: ["": 21]>
    g (float[DIMS] x) => (float[a, 4, b, c] y, int8[d, 4, e, f] asked)
    <float zero = {0}, float half = {0.5}, float less_half = {-0.5}, float low = {-128}, float high = {127},
     float[1,4,1,1] six = {60, 6, 100, 31}, float one = {1}, float trifle = {1.0000001}, int8 none = {0}>
    {
        negative = Less (x, zero)
        signed_half = Where (negative, less_half, half)
        signed = Add (x, signed_half)
        signed_limited = Clip (signed, low, high)
        signed_codes = Cast <to = 3> (signed_limited)

        positive = Relu (x)
        raised = Add (positive, half)
        raised_limited = Clip (raised, zero, high)
        capped = Min (raised_limited, six)
        capped_codes = Cast <to = 3> (capped)

        signed_floats = Cast <to = 1> (signed_codes)
        pooled = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (signed_floats)
        grown = Mul (pooled, trifle)
        pooled_codes = Cast <to = 3> (grown)

        joined = Concat <axis = 2> (signed_codes, capped_codes)
        largest = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (joined)
        all_codes = Concat <axis = 2> (largest, pooled_codes)
        y = Cast <to = 1> (all_codes)

        asked = Cast <to = 3> (raised_limited)
    }
"""


def network(dims: str) -> onnx.ModelProto:
    made = parser.parse_model(NETWORK.replace("DIMS", dims))
    onnx.checker.check_model(made, full_check=True)
    return made


def numbers() -> np.ndarray:
    """Every half within the limits, its neighbours, values around and beyond them, all in float32 [1, 4, 64, 64]."""
    halves = (np.arange(-140, 140) + 0.5).astype(np.float32)
    neighbours = [np.nextafter(halves, np.float32(end)) for end in (-np.inf, np.inf)]
    special = np.array([0, -0.0, np.inf, -np.inf, 1e30, -1e30, 8388609, 0.49999997, -0.49999997], np.float32)
    x = np.random.default_rng(0).uniform(-140, 140, 4 * 64 * 64).astype(np.float32)
    first = np.concatenate([halves, *neighbours, special])
    x[: first.size] = first
    return np.random.default_rng(1).permutation(x).reshape(1, 4, 64, 64)


def read(dims: str) -> ov.Model:
    return ov.Core().read_model(network(dims).SerializeToString())


def conversions(network: ov.Model) -> list[str]:
    """Names of the conversions of float32 to int8."""
    return [
        node.get_friendly_name()
        for node in network.get_ordered_ops()
        if node.get_type_name() == "Convert" and node.get_element_type() == ov.Type.i8
    ]


def test_codes_that_are_computed_with_are_floats() -> None:
    """Only what is cut off without rounding, and what is an output, is converted."""
    made = read("n, 4, h, w")
    assert len(conversions(made)) == 4
    codes_as_floats(made)
    made.validate_nodes_and_infer_types()
    assert len(conversions(made)) == 2
    assert made.outputs[1].get_element_type() == ov.Type.i8
    assert [node.get_type_name() for node in made.get_ordered_ops()].count("Round") == 2


def test_rounded_numbers_are_quantised() -> None:
    made = read("n, 4, h, w")
    quantise_rounded(made)
    made.validate_nodes_and_infer_types()
    kinds = [node.get_type_name() for node in made.get_ordered_ops()]
    assert kinds.count("Round") == kinds.count("FakeQuantize") == 3
    assert "Select" not in kinds


@pytest.mark.parametrize("exact", [False, True], ids=["int8 kernels", "float32"])
@pytest.mark.parametrize("dims", ["n, 4, h, w", "1, 4, 64, 64"], ids=["free", "fixed"])
def test_every_number_gives_the_same_code(dims: str, exact: bool) -> None:
    x = numbers()
    got, wanted = (
        ENGINES[engine].compile(network(dims), Options(exact_codes=exact)).run({"x": x})
        for engine in ("openvino", "onnxruntime")
    )
    assert got["asked"].dtype == np.int8
    for name in wanted:
        np.testing.assert_array_equal(got[name], wanted[name])


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["SSE41", "AVX2", "AVX512_CORE"])
def test_so_it_is_with_other_instructions(isa: str) -> None:
    """oneDNN reads the limit once, so it needs a process of its own."""
    test = f"{__file__}::{test_every_number_gives_the_same_code.__name__}"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "float32", test],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": isa},
        capture_output=True,
        text=True,
    )
    assert "2 passed" in ran.stdout, ran.stdout + ran.stderr
