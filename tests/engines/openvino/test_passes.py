"""The table of changes: each is needed where it should be, leaves nothing to change, and changes no answer."""

from __future__ import annotations

import numpy as np
import onnx
import openvino as ov
import pytest

from tests.engines.openvino.models import answers, model
from tnn_serving.engines import Options
from tnn_serving.engines.openvino.passes import PASSES, Pass, apply

RANDOM = np.random.default_rng(0)
PICTURE = RANDOM.standard_normal((5, 1, 4, 3)).astype(np.float32)
CODES = RANDOM.integers(-128, 128, (2, 16, 6, 6)).astype(np.int8)
FILTERS = RANDOM.integers(-63, 64, (16, 16, 1, 1)).astype(np.int8)

ROUNDED = """
    negative = Less (x, zero)
    half = Where (negative, less_half, one_half)
    sum = Add (x, half)
    limited = Clip (sum, low, high)
    codes = Cast <to = 3> (limited)
"""
HALVES = {
    "zero": np.float32(0),
    "one_half": np.float32(0.5),
    "less_half": np.float32(-0.5),
    "low": np.float32(-128),
    "high": np.float32(127),
}

SAMPLES: dict[str, tuple[onnx.ModelProto, dict[str, np.ndarray]]] = {
    "keep_ties_in_order": (
        model("g (float[n, 64] x) => (float[n, 5] v, int64[n, 5] y) { v, y = TopK (x, k) }", k=np.array([5])),
        {"x": np.tile(np.float32([1, 2, 2, 0]), (3, 16))},
    ),
    "keep_infinity": (
        model(
            """g (float[2, 4] x) => (bool[2, 1] y)
            { m = ReduceMax (x, axis) y = Equal (m, low) }""",
            axis=np.array([1]),
            low=np.float32(-np.inf),
        ),
        {"x": np.float32([[-np.inf] * 4, [1, -np.inf, 2, 3]])},
    ),
    "truncate_divisions": (
        model(
            """g (int32[n, 3] x) => (int32[n, 1] y)
            { sum = ReduceSum <keepdims = 1> (x, axis) y = Div (sum, three) }""",
            axis=np.array([1]),
            three=np.array([3], np.int32),
        ),
        {"x": np.int32([[1, 2, 2], [-1, -2, -2], [0, 0, 2]])},
    ),
    "widen_single_channels": (
        model(
            "g (float[n, 1, h, w] x) => (float[n, 8, a, b] y) { y = Conv <strides = [1, 2]> (x, f) }",
            f=RANDOM.standard_normal((8, 1, 3, 3)).astype(np.float32),
        ),
        {"x": PICTURE},
    ),
    "leave_out_padding": (
        model(
            """g (float[n, 1, h, w] x) => (float[n, 1, a, b] y)
            { y = MaxPool <kernel_shape = [1, 1], strides = [2, 3], ceil_mode = 1> (x) }"""
        ),
        {"x": RANDOM.standard_normal((2, 1, 4, 5)).astype(np.float32)},
    ),
    "take_one_at_least": (
        model("g (float[2, 5] x, int64[1] k) => (float[2, m] y, int64[2, m] z) { y, z = TopK (x, k) }"),
        {"x": np.ones((2, 5), np.float32), "k": np.array([0])},
    ),
    "tile_in_turn": (
        model("g (float[2, 3, 4, 5] x, int64[4] r) => (float[a, b, c, d] y) { y = Tile (x, r) }"),
        {"x": RANDOM.standard_normal((2, 3, 4, 5)).astype(np.float32), "r": np.array([7, 6, 4, 2])},
    ),
    "keep_at_threshold": (
        model(
            """g (float[1, 3, 4] boxes, float[1, 1, 3] scores, float[1] overlap) => (int64[n, 3] y)
            { y = NonMaxSuppression (boxes, scores, most, overlap, least) }""",
            most=np.array([5]),
            least=np.float32([0]),
        ),
        {
            "boxes": np.float32([[[0, 0, 1, 1], [0, 0, 1, 0.5], [5, 5, 6, 6]]]),
            "scores": np.float32([[[0.9, 0.8, 0.7]]]),
            "overlap": np.float32([0.5]),
        },
    ),
    "codes_as_floats": (
        model(
            f"""g (float[n, 4, h, w] x) => (float[n, 4, a, b] y)
            {{ {ROUNDED} y = Cast <to = 1> (codes) }}""",
            **HALVES,
        ),
        {"x": (RANDOM.standard_normal((1, 4, 8, 8)) * 90).astype(np.float32)},
    ),
    "keep_divisions": (
        model(
            "g (float[n, 4] x) => (float[n, 4] y) { a = Relu (x) y = Div (a, d) }",
            d=np.float32([0.12, 0.04, 3.0, 7e-3]),
        ),
        {"x": RANDOM.standard_normal((50, 4)).astype(np.float32)},
    ),
    "keep_products": (
        model(
            "g (float[n, 4] x) => (float[n, 4] y) { p = Mul (x, a) y = Add (p, b) }",
            a=np.float32([0.12, 0.04, 3.0, 7e-3]),
            b=np.float32([1.1, 2.2, 3.3, 4.4]),
        ),
        {"x": RANDOM.standard_normal((50, 4)).astype(np.float32)},
    ),
    "quantise_rounded": (
        model(f"g (float[n, 4, h, w] x) => (int8[n, 4, a, b] codes) {{ {ROUNDED} }}", **HALVES),
        {"x": (RANDOM.standard_normal((1, 4, 8, 8)) * 90).astype(np.float32)},
    ),
    "unsigned_codes": (
        model(
            """g (int8[n, 16, h, w] x) => (float[n, 16, a, b] y)
            {
                f = DequantizeLinear (x, one, none)
                w = DequantizeLinear (filters, step, none)
                c = Conv (f, w)
                q = QuantizeLinear (c, one, none)
                d = DequantizeLinear (q, one, none)
                y = Conv (d, w)
            }""",
            one=np.float32(1),
            none=np.int8(0),
            filters=FILTERS,
            step=np.float32(2**-9),
        ),
        {"x": CODES},
    ),
    "cut_chains": (
        model(
            "g (float[n, 4, h, w] x) => (float[n, 4, a, b] y) { v0 = Conv (x, w) "
            + " ".join(f"v{k + 1} = Relu (v{k})" for k in range(40))
            + " y = Identity (v40) }",
            w=RANDOM.standard_normal((4, 4, 1, 1)).astype(np.float32),
        ),
        {"x": RANDOM.standard_normal((1, 4, 8, 8)).astype(np.float32)},
    ),
}
"""For each change a model that needs it, and inputs on which it would show."""


def read(made: onnx.ModelProto) -> ov.Model:
    return ov.Core().read_model(made.SerializeToString())


def options_of(step: Pass) -> Options:
    return next(one for one in (Options(), Options(exact_codes=True)) if step.when(one))


def test_each_change_has_a_sample() -> None:
    assert SAMPLES.keys() == {step.name for step in PASSES}


@pytest.mark.parametrize("step", PASSES, ids=lambda step: step.name)
def test_a_change_is_needed_once(step: Pass) -> None:
    network = read(SAMPLES[step.name][0])
    assert step.needed(network)
    step.change(network)
    network.validate_nodes_and_infer_types()
    assert not step.needed(network)


@pytest.mark.parametrize("step", PASSES, ids=lambda step: step.name)
def test_nothing_is_left_to_change_behind_all_of_them(step: Pass) -> None:
    network, options = read(SAMPLES[step.name][0]), options_of(step)
    apply(network, options)
    assert not [one.name for one in PASSES if one.when(options) and one.needed(network)]


@pytest.mark.parametrize("step", PASSES, ids=lambda step: step.name)
def test_with_it_the_answer_is_onnx_runtimes(step: Pass) -> None:
    made, feeds = SAMPLES[step.name]
    got = answers(made, feeds, exact_codes=options_of(step).exact_codes)
    for name, wanted in got["onnxruntime"].items():
        exact = step.name not in ("widen_single_channels", "cut_chains", "unsigned_codes")
        np.testing.assert_allclose(got["openvino"][name], wanted, rtol=0 if exact else 1e-4, atol=0 if exact else 1e-4)


def test_what_a_change_needs_is_made_before_it() -> None:
    order = [step.change for step in PASSES]
    for place, step in enumerate(PASSES):
        assert all(order.index(earlier) < place for earlier in step.after)
        assert bool(step.after) == bool(step.why)


def test_networks_inside_branches_are_changed_as_well() -> None:
    branch = "g (float[2, 3, 4, 5] x, int64[4] r, bool c) => (float[a, b, e, f] y) { y = If (c) <%s, %s> }"
    made = model(
        branch
        % (
            "then_branch = t () => (float[h, i, j, k] p) { p = Tile (x, r) }",
            "else_branch = s () => (float[l, m, n, o] q) { q = Identity (x) }",
        )
    )
    feeds = {**SAMPLES["tile_in_turn"][1], "c": np.array(True)}
    got = answers(made, feeds)
    np.testing.assert_array_equal(got["openvino"]["y"], got["onnxruntime"]["y"])
