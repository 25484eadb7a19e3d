"""Which form int8 layers take, and what the forms compute."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import tnn_serving as ts
from tests.networks import network
from tnn_serving.choices import Int8Choice
from tnn_serving.emit.int8 import Form
from tnn_serving.engines import ENGINES
from tnn_serving.engines.cpu import Cpu
from tnn_serving.errors import WeightsError
from tnn_serving.graph import Graph
from tnn_serving.model import Model
from tnn_serving.network.int8 import decide
from tnn_serving.network.tnn import TnnNetwork
from tnn_serving.tensor import Tensor

VNNI = frozenset({"avx2", "avx512f", "avx512_vnni"})
AMX = VNNI | {"amx_int8", "amx_bf16"}

LAYERS = [
    "QuantizedConvolution c 1 1 x a 1 3 8 3 3 1 1 1 1 1 -1 1 1 0",
    "QuantizedReLU r 1 1 a b",
    "QuantizedConvolution d 1 1 b e 1 8 8 1 1 1 1 0 0 1 -1 1 1 0",
    "QuantizedAdd s 2 1 e b y -1",
]
"""With both of TNN's fusions: convolution and ReLU, 1x1 convolution and addition."""


@pytest.fixture(scope="module")
def graph() -> Graph:
    return network({"x": (1, 3, 12, 12)}, LAYERS, ["y"])


@pytest.mark.parametrize(
    ("flags", "limit", "engine", "choice", "form"),
    [
        (VNNI, "", "openvino", "auto", Form.FAST_S8),
        (VNNI, "", "onnxruntime", "auto", Form.FAST_U8),
        (VNNI, "AVX2", "openvino", "auto", Form.EXACT),
        (frozenset({"avx2"}), "", "openvino", "auto", Form.EXACT),
        (frozenset({"avx2"}), "", "onnxruntime", "auto", Form.EXACT),
        (AMX, "", "openvino", "auto", Form.EXACT),
        (AMX, "AVX512_CORE_FP16", "openvino", "auto", Form.FAST_S8),
        (AMX, "", "onnxruntime", "auto", Form.FAST_U8),
        (VNNI, "", "openvino", "exact", Form.EXACT),
        (frozenset(), "", "openvino", "fast", Form.FAST_S8),
    ],
)
def test_the_form_follows_processor_and_engine(
    graph: Graph, flags: frozenset[str], limit: str, engine: str, choice: Int8Choice, form: Form
) -> None:
    decision = decide(graph, ENGINES[engine], choice, Cpu.of(flags, {"ONEDNN_MAX_CPU_ISA": limit} if limit else {}))
    assert decision.form is form
    assert decision.reason


def test_weight_zero_points_are_exact() -> None:
    graph = network({"x": (1, 3, 12, 12)}, LAYERS, ["y"])
    graph.layer("c").zero_point = Tensor.of(np.ones(8, np.int8))  # type: ignore[attr-defined]
    assert decide(graph, ENGINES["openvino"], "auto", Cpu.of(VNNI, {})).form is Form.EXACT


def test_a_model_says_which_form_it_took(graph: Graph) -> None:
    model = Model.of(TnnNetwork(graph), engine="openvino", cpu=Cpu.of(frozenset(), {}))
    assert model.int8 is not None
    assert model.int8.form is Form.EXACT
    assert "VNNI" in model.int8.reason


def reference(graph: Graph, x: np.ndarray) -> np.ndarray:
    """The codes of ``y``, by TNN's formulas in numpy; ``x`` are codes [N, 3, H, W]."""
    f32 = np.float32

    def rounded(v: np.ndarray) -> np.ndarray:
        half = np.where(v >= 0, f32(0.5), f32(-0.5))
        return np.trunc(np.clip(v + half, -128, 127)).astype(np.int64)

    c, d = graph.layer("c"), graph.layer("d")
    scales = {name: scale.scales()[0] for name, scale in graph.scales.items()}
    w = c.need("filter").array().reshape(8, 3, 3, 3).astype(np.int64)
    padded = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    n, _, h, wide = x.shape
    total = np.zeros((n, 8, h, wide), np.int64)
    for i, j in product(range(3), range(3)):
        total += np.einsum("oc,nchw->nohw", w[:, :, i, j], padded[:, :, i : i + h, j : j + wide])
    total += c.need("bias").array().astype(np.int64)[:, None, None]
    m = (c.need("scale").array() / scales["b"]).astype(f32)[:, None, None]
    b = rounded(np.maximum(total.astype(f32) * m, 0))
    second = np.einsum("oc,nchw->nohw", d.need("filter").array().reshape(8, 8).astype(np.int64), b)
    second += d.need("bias").array().astype(np.int64)[:, None, None]
    m = (d.need("scale").array() / scales["y"]).astype(f32)[:, None, None]
    added = b.astype(f32) * f32(scales["b"] / scales["y"])
    return rounded(second.astype(f32) * m + added).astype(np.int8)


@pytest.mark.parametrize("engine", ENGINES)
def test_exact_codes_are_those_of_the_formulas(graph: Graph, engine: str) -> None:
    x = np.random.default_rng(0).integers(-128, 128, (2, 3, 9, 7)).astype(np.int8)
    got = ts.load(graph, engine, int8="exact", raw_int8=True).run({"x": x})["y"]
    assert got.dtype == np.int8
    np.testing.assert_array_equal(got, reference(graph, x))


@pytest.mark.needs_vnni
@pytest.mark.parametrize("engine", ENGINES)
def test_fast_codes_are_within_one_step_a_layer(graph: Graph, engine: str) -> None:
    x = np.random.default_rng(0).integers(-128, 128, (2, 3, 9, 7)).astype(np.int8)
    got = ts.load(graph, engine, int8="fast", raw_int8=True).run({"x": x})["y"]
    steps = np.abs(got.astype(int) - reference(graph, x).astype(int))
    assert steps.max() <= 2
    assert (steps > 0).mean() < 0.02


@pytest.mark.parametrize("engine", ENGINES)
def test_the_border_is_real_numbers(graph: Graph, engine: str) -> None:
    codes = np.random.default_rng(0).integers(-128, 128, (1, 3, 12, 12)).astype(np.int8)
    raw = ts.load(graph, engine, int8="exact", raw_int8=True)
    real = ts.load(graph, engine, int8="exact")
    assert [s.dtype for s in (*raw.inputs, *raw.outputs)] == [np.int8, np.int8]
    assert [s.dtype for s in (*real.inputs, *real.outputs)] == [np.float32, np.float32]
    step = graph.scales["y"].scales()[0]
    x = codes.astype(np.float32) * graph.scales["x"].scales()[0]
    np.testing.assert_array_equal(real.run({"x": x})["y"], raw.run({"x": codes})["y"].astype(np.float32) * step)


@pytest.mark.parametrize("engine", ENGINES)
def test_merged_blobs_can_be_asked_for_without_changing_the_answer(graph: Graph, engine: str) -> None:
    codes = np.random.default_rng(1).integers(-128, 128, (1, 3, 12, 12)).astype(np.int8)
    model = ts.load(graph, engine, int8="exact", raw_int8=True)
    everything = model.run({"x": codes}, outputs=["a", "b", "e", "y"])
    np.testing.assert_array_equal(everything["y"], model.run({"x": codes})["y"])
    np.testing.assert_array_equal(everything["b"], np.maximum(everything["a"], 0))
    assert everything["e"].dtype == np.int8


def bilinear(x: np.ndarray, size: tuple[int, int], align: bool) -> np.ndarray:
    """Float32 x [N, C, H, W] resized as TNN does: positions in float64 or float32, sums in float32, rows first."""
    f32 = np.float32
    for axis, out in ((3, size[1]), (2, size[0])):
        n, index = x.shape[axis], np.arange(out)
        if align:
            at = f32((n - 1) / max(out - 1, 1)) * index.astype(f32)
        else:
            ratio = f32(n / out) if out > 1 else f32(0)
            at = np.clip((np.float64(ratio) * (index + 0.5) - 0.5).astype(f32), 0, n - 1)
        low = at.astype(np.int64)
        share = (at - low.astype(f32)).reshape((-1,) if axis == 3 else (-1, 1))
        first, second = np.take(x, low, axis), np.take(x, np.minimum(low + 1, n - 1), axis)
        x = (f32(1) - share) * first + share * second
    return x


@pytest.mark.slow
@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("engine", ENGINES)
def test_bilinear_codes_are_those_of_the_formulas(engine: str, align: int) -> None:
    """With one scale for both blobs many values lie halfway between two codes."""
    random = np.random.default_rng(0)
    for size in ((12, 14), (9, 21), (24, 28), (17, 5), (1, 1), (6, 7)):
        layer = f"QuantizedUpsample u 1 1 x y 2 0 0 {align} {size[0]} {size[1]}"
        graph = network({"x": (1, 5, 6, 7)}, [layer], ["y"])
        step = np.float32(0.05)
        for scale in graph.scales.values():
            scale.scale = Tensor.of(np.array([step]))
        model = ts.load(graph, engine, int8="exact", raw_int8=True)
        for shape in ((1, 5, 6, 7), (3, 5, 6, 7), (2, 5, 4, 8)):
            x = random.integers(-128, 128, shape).astype(np.int8)
            v = bilinear(x.astype(np.float32) * step, size, bool(align)) / step
            want = np.clip(np.trunc(v + np.where(v < 0, np.float32(-0.5), np.float32(0.5))), -128, 127)
            where = f"{shape} to {size}"
            np.testing.assert_array_equal(model.run({"x": x})["y"], want.astype(np.int8), err_msg=where)
            fixed = model.shape_caches()[0].general.at({"x": shape})
            if fixed is not None:
                np.testing.assert_array_equal(fixed.run({"x": x})["y"], want.astype(np.int8), err_msg=f"fixed, {where}")


@pytest.mark.parametrize("engine", ENGINES)
def test_division_by_the_scale_is_rounded_as_ieee_says(engine: str) -> None:
    graph = network({"x": (1, 4, 64, 64)}, ["QuantizedReLU r 1 1 x y"], ["y"])
    for scale in graph.scales.values():
        scale.scale = Tensor.of(np.array([0.04], np.float32))
    x = (np.arange(4 * 64 * 64, dtype=np.float32).reshape(1, 4, 64, 64) * np.float32(0.0005)).astype(np.float32)
    quotient = x / np.float32(0.04)
    wanted = np.trunc(np.clip(quotient + np.float32(0.5), 0, 127)) * np.float32(0.04)
    np.testing.assert_array_equal(ts.load(graph, engine, int8="exact").run({"x": x})["y"], wanted.astype(np.float32))


def test_fast_form_runs_int8_kernels_on_openvino(graph: Graph) -> None:
    model = ts.load(graph, "openvino", int8="fast")
    runtime = model._executable(tuple(graph.outputs), ()).general._compilation.compiled.get_runtime_model()  # type: ignore[attr-defined]
    kinds = Counter(
        op.get_rt_info()["runtimePrecision"].astype(str)
        for op in runtime.get_ordered_ops()
        if op.get_rt_info()["layerType"].astype(str) == "Convolution"
    )
    assert set(kinds) <= {"i8", "u8"}
    assert sum(kinds.values()) == 2


def test_a_missing_blob_scale_is_named(graph: Graph) -> None:
    broken = network({"x": (1, 3, 12, 12)}, LAYERS, ["y"])
    del broken.scales["y"]
    with pytest.raises(WeightsError, match="scale of int8 blob `y` is missing"):
        ts.load(broken)


@pytest.mark.slow
def test_auto_is_exact_where_onednn_may_not_use_vnni(graph: Graph, tmp_path: Path) -> None:
    """In a process of its own: the limit counts from the first compilation on."""
    ts.write_model(graph, tmp_path / "m.tnnproto", tmp_path / "m.tnnmodel")
    codes = np.random.default_rng(0).integers(-128, 128, (1, 3, 12, 12)).astype(np.int8)
    np.save(tmp_path / "x.npy", codes)
    code = """
import sys, numpy as np, tnn_serving as ts
folder = sys.argv[1]
model = ts.load(folder, "openvino", raw_int8=True)
np.save(f"{folder}/y.npy", model.run({"x": np.load(f"{folder}/x.npy")})["y"])
print(model.int8.form.value)
"""
    told = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.stdout.strip() == "exact", told.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), reference(graph, codes))
