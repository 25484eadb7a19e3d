"""Inputs to try a model with: values that it is likely to take, for each way in which an input decides a size."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import tnn_serving as ts
from tests.engines.openvino.models import model
from tnn_serving.engines import ENGINES, Options
from tnn_serving.engines.trial import ATTEMPTS, LARGE, LENGTH, TrialInputs

X = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
PICTURE = np.random.default_rng(0).standard_normal((1, 2, 4, 4)).astype(np.float32)

SIZED = {
    "Reshape, result known": ("float[2, 3] x, int64[2] s) => (float[3, 2] y) { y = Reshape (x, s) }", {"s": [3, 2]}),
    "Reshape": ("float[2, 3] x, int64[2] s) => (float[a, b] y) { y = Reshape (x, s) }", {"s": [-1, 1]}),
    "Expand": ("float[2, 3] x, int64[2] s) => (float[a, b] y) { y = Expand (x, s) }", {"s": [2, 3]}),
    "Slice": (
        """float[2, 3] x, int64[2] b, int64[2] e, int64[2] a, int64[2] k) => (float[c, d] y)
        { y = Slice (x, b, e, a, k) }""",
        {"b": [0, 0], "e": [LARGE, LARGE], "a": [0, 1], "k": [1, 1]},
    ),
    "Tile, result known": ("float[2, 3] x, int64[2] r) => (float[6, 3] y) { y = Tile (x, r) }", {"r": [3, 1]}),
    "Tile": ("float[2, 3] x, int64[2] r) => (float[a, b] y) { y = Tile (x, r) }", {"r": [2, 2]}),
    "Range": (
        "float[2, 3] x, int64 b, int64 e, int64 d) => (int64[n] y) { y = Range (b, e, d) }",
        {"b": 0, "e": LENGTH, "d": 1},
    ),
    "Pad": ("float[2, 3] x, int64[4] p) => (float[a, b] y) { y = Pad (x, p) }", {"p": [1, 1, 1, 1]}),
    "TopK": ("float[2, 3] x, int64[1] k) => (float[2, a] y, int64[2, a] i) { y, i = TopK (x, k) }", {"k": [2]}),
    "Split": (
        "float[2, 3] x, int64[2] s) => (float[2, a] y, float[2, b] z) { y, z = Split <axis = 1> (x, s) }",
        {"s": [2, 1]},
    ),
    "ConstantOfShape": ("float[2, 3] x, int64[2] s) => (float[a, b] y) { y = ConstantOfShape (s) }", {"s": [2, 2]}),
    "through other operators": (
        """float[2, 3] x, int32 h) => (float[a, b] y) <int64[1] one = {1}, int64[1] axis = {0}>
        { l = Cast <to = 7> (h) u = Unsqueeze (l, axis) s = Concat <axis = 0> (u, one) y = ConstantOfShape (s) }""",
        {"h": 2},
    ),
    "inside a branch": (
        """float[2, 3] x, bool c, int64[1] k) => (float[2, a] y)
        { y = If (c) <then_branch = t () => (float[2, b] p) { p, i = TopK (x, k) },
                      else_branch = e () => (float[2, d] q) { q = Identity (x) }> }""",
        {"k": [2]},
    ),
}


def trial(text: str, **feeds: np.ndarray) -> TrialInputs:
    made = model(f"g ({text}")
    for item in made.graph.input:
        dims = [dim.dim_value for dim in item.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type)
        feeds.setdefault(item.name, np.zeros(dims, dtype))
    return TrialInputs(made, feeds)


@pytest.mark.parametrize("name", SIZED)
def test_what_decides_a_size_has_a_value_that_fits(name: str) -> None:
    text, wanted = SIZED[name]
    found = trial(text, x=X)
    assert found.sized.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_array_equal(found.sized[key], value)
    made = model(f"g ({text}")
    first = next(iter(found))
    assert ENGINES["onnxruntime"].compile(made, Options()).run(first)


@pytest.mark.parametrize(
    ("text", "name", "wanted"),
    [
        ("float[1, 2, 4, 4] x, float[4] k) => (float[a, b, c, d] y) { y = Resize (x, , k) }", "k", [1, 1, 2, 2]),
        ("float[1, 2, 4, 4] x, int64[4] k) => (float[a, b, c, d] y) { y = Resize (x, , , k) }", "k", [1, 2, 8, 8]),
        ("float[1, 2, 4, 4] x, int64[4] k) => (float[1, 2, 3, 5] y) { y = Resize (x, , , k) }", "k", [1, 2, 3, 5]),
    ],
)
def test_a_picture_is_resized_on_its_last_axes(text: str, name: str, wanted: list[float]) -> None:
    np.testing.assert_array_equal(trial(text, x=PICTURE).sized[name], wanted)


def test_indices_are_within_the_data() -> None:
    found = trial("float[2, 3] x, int64[50] i) => (float[2, 50] y) { y = Gather <axis = 1> (x, i) }", x=X)
    assert set(found.sized["i"].tolist()) == {0, 1, 2}


def test_integers_without_a_role_differ_by_attempt() -> None:
    text = "int64[40] n, int64[40] d) => (int64[40] y) { y = Div (n, d) }"
    tried = [one["d"] for one in trial(text)]
    assert len(tried) == ATTEMPTS
    assert tried[0].min() > 0  # a divisor
    assert set(tried[1].tolist()) == {0, 1}
    assert not tried[-1].any()


def test_pixels_take_any_value() -> None:
    text = "uint8[9999] p) => (float[9999] y) { y = Cast <to = 1> (p) }"
    first = next(iter(trial(text, p=np.zeros(9999, np.uint8))))
    assert set(first["p"].tolist()) == set(range(256))


def test_numbers_without_a_role_stay() -> None:
    """Data that is multiplied by something is no size, though sizes are multiplied, too."""
    data = np.ones((20, 20), np.float32)
    found = trial("float[20, 20] x, float[20, 20] z) => (float[20, 20] y) { y = Mul (x, z) }", x=data, z=data)
    assert not found.sized
    assert all(one["x"] is data for one in found)


def test_a_model_measures_with_these_inputs() -> None:
    made = ts.load(model("g (float[n, 3] x, int64[1] k) => (float[n, a] y, int64[n, a] i) { y, i = TopK (x, k) }"))
    assert made.samples()["k"].tolist() == [2]
    assert made.run(made.samples())["y"].shape == (1, 2)
