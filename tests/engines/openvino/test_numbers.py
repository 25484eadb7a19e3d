"""Numbers that OpenVINO computes in another type: refused where that could show, and taken where it cannot."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import tnn_serving as ts
from tests.engines.openvino.models import answers, model
from tnn_serving.engines import ENGINES, Options
from tnn_serving.errors import EngineError, RequestError

pytestmark = pytest.mark.slow

EMBEDDING = np.arange(40, dtype=np.float32).reshape(10, 4)

REFUSED: dict[str, tuple[onnx.ModelProto, dict[str, np.ndarray]]] = {
    "a product of float64": (
        model("g (double[n] x) => (double[n] y) { y = Mul (x, x) }"),
        {"x": np.array([1e150, 1.1])},
    ),
    "float64 on the way": (
        model(
            """g (float[n] x) => (float[n] y) <double large = {1e200}, double small = {1e-200}>
            { d = Cast <to = 11> (x) l = Mul (d, large) s = Mul (l, small) y = Cast <to = 1> (s) }"""
        ),
        {"x": np.float32([1, 2])},
    ),
    "stored float64 computed ahead": (
        model(
            """g (float[n] x) => (float[n] y) <double a = {1e150}, double b = {1e299}>
            { c = Mul (a, a) d = Div (c, b) e = Cast <to = 1> (d) y = Add (x, e) }"""
        ),
        {"x": np.float32([1, 2])},
    ),
    "a float64 input made float32": (
        model("g (double[n] x) => (float[n] y) { y = Cast <to = 1> (x) }"),
        {"x": np.array([1e300, -np.inf, 1.5])},
    ),
    "int64 as it is": (model("g (int64[n] x) => (int64[n] y) { y = Identity (x) }"), {"x": np.array([2**40, -1])}),
    "a sum of int64": (
        model("g (int64[n] x) => (int64[n] y) <int64 one = {1}> { y = Add (x, one) }"),
        {"x": np.array([2**40, -(2**40), 2**31 - 1])},
    ),
    "a product of int32 as int64": (
        model("g (int32[n] x) => (int64[n] y) { l = Cast <to = 7> (x) y = Mul (l, l) }"),
        {"x": np.int32([100_000])},
    ),
    "float32 made int64": (
        model("g (float[n] x) => (int64[n] y) { y = Cast <to = 7> (x) }"),
        {"x": np.float32([1e12, -1.5])},
    ),
    "a hash": (
        model(
            """g (int64[n] x) => (float[n, 4] y) <int64 prime = {2654435761}, int64 rows = {10}>
            { p = Mul (x, prime) i = Mod (p, rows) y = Gather (w, i) }""",
            w=EMBEDDING,
        ),
        {"x": np.array([3, 12345])},
    ),
    "int64 in a branch": (
        model(
            """g (int64[n] x, bool c) => (int64[m] y)
            { y = If (c) <then_branch = t () => (int64[k] p) { p = Add (x, x) },
                          else_branch = e () => (int64[l] q) { q = Identity (x) }> }"""
        ),
        {"x": np.array([2**40]), "c": np.array(True)},
    ),
    "unsigned 32 bits": (
        model("g (uint32[n] x) => (uint32[n] y) <uint32 ten = {10}> { y = Div (x, ten) }"),
        {"x": np.uint32([2**32 - 1, 7])},
    ),
    "unsigned 64 bits": (
        model("g (uint64[n] x) => (uint64[n] y) <uint64 one = {1}> { y = Add (x, one) }"),
        {"x": np.uint64([2**63])},
    ),
    "8 bits that wrap around": (
        model("g (uint8[n] x) => (uint8[n] y) <uint8 k = {3}> { y = Mul (x, k) }"),
        {"x": np.uint8([200, 3])},
    ),
    "16 bits that wrap around": (
        model("g (int16[n] x) => (float[n] y) { p = Mul (x, x) y = Cast <to = 1> (p) }"),
        {"x": np.int16([300, 3])},
    ),
    "codes of 16 bits": (
        model(
            """g (float[n] x) => (uint16[n] y) <float step = {2}, uint16 zero = {3}>
            { y = QuantizeLinear (x, step, zero) }"""
        ),
        {"x": np.float32([0, 1, 3, 5, 70000, -9])},
    ),
}
"""Models, and inputs on which OpenVINO would be wrong."""

TAKEN: dict[str, tuple[onnx.ModelProto, dict[str, np.ndarray]]] = {
    "a stored float64": (
        model("g (float[n] x) => (float[n] y) <double a = {1.5}> { b = Cast <to = 1> (a) y = Add (x, b) }"),
        {"x": np.float32([1, 2])},
    ),
    "indices of an embedding": (
        model("g (int64[n] x) => (float[n, 4] y) { y = Gather (w, x) }", w=EMBEDDING),
        {"x": np.array([0, 9, 3])},
    ),
    "positions by a mask": (
        model(
            """g (int64[n] mask) => (float[n, 4] y) <int64 axis = {0}, int64 one = {1}>
            { c = CumSum (mask, axis) p = Sub (c, one) y = Gather (w, p) }""",
            w=EMBEDDING,
        ),
        {"mask": np.array([1, 1, 1])},
    ),
    "a mask made float32": (
        model("g (int64[n] x) => (float[n] y) <float one = {1}> { f = Cast <to = 1> (x) y = Sub (one, f) }"),
        {"x": np.array([0, 1, 2**40])},
    ),
    "the largest": (
        model("g (float[n, 4] x) => (int64[n, 1] y) { y = ArgMax <axis = 1> (x) }"),
        {"x": EMBEDDING},
    ),
    "sizes": (
        model(
            """g (float[n, 4] x) => (int64[2] y, int64 z) <int64 two = {2}>
            { s = Shape (x) y = Mul (s, two) z = Size (x) }"""
        ),
        {"x": EMBEDDING},
    ),
    "a part of the sizes": (
        model("g (float[n, 4] x) => (int64[1] y) { y = Shape <start = 1> (x) }"),
        {"x": EMBEDDING},
    ),
    "how many": (
        model("g (bool[n] x) => (int64 y) { l = Cast <to = 7> (x) y = ReduceSum <keepdims = 0> (l) }"),
        {"x": np.array([True, False, True])},
    ),
    "where": (
        model("g (float[n, 4] x) => (int64[2, m] y) <float five = {5}> { l = Greater (x, five) y = NonZero (l) }"),
        {"x": EMBEDDING},
    ),
    "to the end": (
        model(
            "g (float[n, 4] x) => (float[m, 4] y) { y = Slice (x, begin, end) }",
            begin=np.array([1]),
            end=np.array([2**63 - 1]),
        ),
        {"x": EMBEDDING},
    ),
    "pixels": (
        model("g (uint8[n] x) => (float[n] y) { f = Cast <to = 1> (x) y = Mul (f, f) }"),
        {"x": np.uint8([255, 3])},
    ),
    "codes of 8 bits": (
        model(
            """g (float[n] x) => (uint8[n] y) <float step = {2}, uint8 zero = {4}>
            { y = QuantizeLinear (x, step, zero) }"""
        ),
        {"x": np.float32([0, 1, 3, 5, 700, -90])},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_wrong_is_refused(name: str) -> None:
    made, _ = REFUSED[name]
    with pytest.raises(EngineError, match="OpenVINO computes"):
        ENGINES["openvino"].compile(made, Options())


@pytest.mark.parametrize("name", REFUSED)
def test_auto_answers_as_onnx_runtime(name: str) -> None:
    made, feeds = REFUSED[name]
    model = ts.load(made)
    assert model.engine == "onnxruntime"
    wanted = ENGINES["onnxruntime"].compile(made, Options()).run(feeds)
    np.testing.assert_array_equal(model.run(feeds)["y"], wanted["y"])


def test_beyond_float32() -> None:
    made, _ = REFUSED["a product of float64"]
    assert ts.load(made).run({"x": np.array([1e150])})["y"].tolist() == pytest.approx([1e300])


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_right_is_taken(name: str) -> None:
    got = answers(*TAKEN[name])
    for output, wanted in got["onnxruntime"].items():
        assert got["openvino"][output].dtype == wanted.dtype
        np.testing.assert_array_equal(got["openvino"][output], wanted)


@pytest.mark.parametrize("value", [2**31, 2**40, -(2**40), 2**63 - 1])
@pytest.mark.parametrize("name", ["indices of an embedding", "positions by a mask"])
def test_integers_beyond_int32_are_a_bad_request(name: str, value: int) -> None:
    made, feeds = TAKEN[name]
    (key,) = feeds
    executable = ENGINES["openvino"].compile(made, Options())
    with pytest.raises(RequestError, match=f"input `{key}` has integers that OpenVINO does not compute with"):
        executable.run({key: np.array([1, value])})
    np.testing.assert_array_equal(executable.run(feeds)["y"], answers(made, feeds)["onnxruntime"]["y"])


def test_unsigned_integers_are_compared_as_signed_ones() -> None:
    made = model("g (uint32[n] x) => (bool[n] y) <uint32 ten = {10}> { y = Less (x, ten) }")
    executable = ENGINES["openvino"].compile(made, Options())
    assert executable.run({"x": np.uint32([9, 10])})["y"].tolist() == [True, False]
    with pytest.raises(RequestError, match="0 to 2147483647, found 9 to 2147483648"):
        executable.run({"x": np.uint32([9, 2**31])})
