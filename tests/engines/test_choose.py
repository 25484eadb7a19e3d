"""Which engine and precision run a network, and the reasons given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

import tnn_serving as ts
from tests.engines.third_party.onnx_reference_engine import ReferenceEngine
from tests.networks import CONVOLUTION, network
from tnn_serving.engines import ENGINES, Engine, Options, TensorSpec
from tnn_serving.engines.base import Precision
from tnn_serving.engines.choose import Choice, EngineCandidate, choose, disagreement
from tnn_serving.engines.cpu import Cpu
from tnn_serving.engines.shapes import NO_SHAPES, ShapeCache
from tnn_serving.engines.trial import TrialInputs
from tnn_serving.errors import ConfigError
from tnn_serving.model import Model
from tnn_serving.network.base import Variant
from tnn_serving.network.tnn import TnnNetwork

X = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
CPU = Cpu(vnni=True, amx_int8=False, bf16=True)


def graph(size: int = 8, seed: int = 0) -> TnnNetwork:
    return TnnNetwork(network({"x": (1, 3, size, size)}, CONVOLUTION, ["y"], seed=seed))


def onnx_file(folder: Path, text: str, name: str = "model") -> Path:
    file = folder / f"{name}.onnx"
    onnx.save(parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]> {text}'), file)
    return file


def test_auto_takes_the_engine_that_was_measured_to_be_faster() -> None:
    model = Model.of(graph())
    assert model.choice.engine in ENGINES
    assert model.engine == model.choice.engine
    assert all(name in model.choice.reason for name in ENGINES)


def test_an_engine_that_is_asked_for_is_not_measured() -> None:
    assert ts.load(graph().graph, "onnxruntime").choice.reason == "asked for"


def test_the_only_engine_that_can_is_taken() -> None:
    layers = ["RoiAlign r 3 1 x b i y 0 2 2 1 1.0"]  # mode 0: maximum, which OpenVINO computes otherwise
    made = network({"x": (1, 2, 8, 8), "b": (1, 4)}, layers, ["y"], constants={"i": np.zeros(1, np.int32)})
    model = ts.load(made)
    assert model.engine == "onnxruntime"
    assert "the only one" in model.choice.reason


def test_what_was_measured_is_remembered(tmp_path: Path) -> None:
    first = Model.of(graph(), options=Options(cache_dir=tmp_path))
    second = Model.of(graph(), options=Options(cache_dir=tmp_path))
    assert second.choice.engine == first.choice.engine
    assert second.choice.reason == f"{first.choice.reason}, measured earlier"
    np.testing.assert_array_equal(first.run({"x": X})["y"], second.run({"x": X})["y"])
    other = Model.of(graph(), options=Options(cache_dir=tmp_path, threads=1))
    assert "earlier" not in other.choice.reason


@pytest.mark.parametrize("precision", ["bf16", "auto"])
def test_bf16_tells_its_gain_and_its_error(precision: str) -> None:
    model = Model.of(graph(64), engine="openvino", precision=precision, cpu=CPU)
    assert "bf16" in model.choice.reason
    assert "off" in model.choice.reason
    assert precision == "auto" or model.choice.precision == "bf16"


def test_bf16_is_not_tried_where_the_processor_lacks_it() -> None:
    model = Model.of(graph(), precision="auto", cpu=Cpu(vnni=True, amx_int8=False, bf16=False))
    assert model.choice.precision == "f32"
    assert "no bf16" in model.choice.reason


def test_bf16_is_not_tried_on_an_engine_that_was_not_asked_for() -> None:
    model = Model.of(graph(64), engine="onnxruntime", precision="auto", cpu=CPU)
    assert (model.engine, model.choice.precision) == ("onnxruntime", "f32")
    assert "ONNX Runtime has no bf16" in model.choice.reason


def test_unknown_precisions_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown precision"):
        ts.load(graph().graph, precision="f16")


def chosen(*networks: tuple[Engine, TnnNetwork]) -> Choice:
    """The choice between engines of which each runs a network of its own."""

    def compile(engine: Engine, precision: Precision) -> EngineCandidate:
        made = next(one for known, one in networks if known is engine).translate(Variant(("y",))).proto()
        spec = TensorSpec("x", np.dtype(np.float32), (None, 3, None, None))
        return EngineCandidate(ShapeCache(engine.compile(made, Options()), [spec], NO_SHAPES, 0))

    return choose([engine for engine, _ in networks], "f32", compile, [{"x": X}], CPU)[1]


def test_engines_that_disagree_are_reported_and_the_one_by_the_book_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    choice = chosen((ENGINES["openvino"], graph()), (ENGINES["onnxruntime"], graph(seed=1)))
    assert choice.engine == "onnxruntime"
    assert "differs" in choice.reason
    assert "engines disagree" in caplog.text


def test_an_engine_that_differs_does_not_keep_others_from_being_taken() -> None:
    """The third one is some hundred times slower than the other two."""
    choice = chosen(
        (ENGINES["openvino"], graph()), (ENGINES["onnxruntime"], graph()), (ReferenceEngine(), graph(seed=1))
    )
    assert choice.engine in ("openvino", "onnxruntime")
    assert "reference differs" in choice.reason
    assert "openvino differs" not in choice.reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        # Three elements are no multiple of five: whatever the second input, ONNX Runtime refuses it.
        (
            """g (float[n, 3] x, int64[1] s) => (float[a, b] y)
            <int64[1] five = {5}> { shape = Concat <axis = 0> (s, five) y = Reshape (x, shape) }""",
            "not compared",
        ),
        # No values: as many elements as x has above a bound that none is above.
        (
            """g (float[2, 3] x) => (int64[2, n] y)
            <float bound = {1000.0}> { above = Greater (x, bound) y = NonZero (above) }""",
            "no number in the outputs",
        ),
        # Each engine draws other numbers.
        ("g (float[2, 3] x) => (float[2, 3] y) { y = RandomUniformLike (x) }", "differs"),
        (
            """g (float[2, 3] x) => (int32[2, 3] y)
            <float thousand = {1000.0}> { r = RandomUniformLike (x) l = Mul (r, thousand) y = Cast <to = 6> (l) }""",
            "differs by inf",
        ),
        (
            """g (float[2, 3] x) => (bool[2, 3] y)
            <float half = {0.5}> { r = RandomUniformLike (x) y = Less (r, half) }""",
            "differs by inf",
        ),
    ],
    ids=["refused", "empty", "floats", "integers", "booleans"],
)
def test_where_nothing_was_compared_or_answers_differ_onnx_runtime_runs_the_model(
    tmp_path: Path, text: str, reason: str
) -> None:
    model = ts.load(onnx_file(tmp_path, text))
    assert model.engine == "onnxruntime"
    assert reason in model.choice.reason


NAN = np.array([1.0, np.nan], np.float32)


@pytest.mark.parametrize(
    ("value", "reference", "expected"),
    [
        (np.float32([1, 2]), np.float32([1, 2]), 0.0),
        (np.float32([1, 2.5]), np.float32([1, 2]), 0.25),
        (NAN, NAN, 0.0),
        (NAN, np.float32([1, 2]), np.inf),
        (np.float32([1, np.inf]), np.float32([1, np.inf]), 0.0),
        (np.float32([1, -np.inf]), np.float32([1, np.inf]), np.inf),
        (np.int64([2**40, 1]), np.int64([2**40, 1]), 0.0),
        (np.int64([2**53 + 1]), np.int64([2**53]), np.inf),
        (np.bool_([True]), np.bool_([False]), np.inf),
        (np.int32([1]), np.int64([1]), np.inf),
        (np.float32([[1]]), np.float32([1]), np.inf),
        (np.float32([]), np.float32([]), 0.0),
    ],
)
def test_disagreement(value: np.ndarray, reference: np.ndarray, expected: float) -> None:
    assert disagreement({"y": value}, {"y": reference}) == expected


def test_trial_inputs_are_refused_by_no_engine_that_takes_the_model(tmp_path: Path) -> None:
    text = """g (float[1, 2, 4, 4] x, int64[4] sizes) => (float[a, b, c, d] y)
        { y = Resize <mode = "linear"> (x, , , sizes) }"""
    model = ts.load(onnx_file(tmp_path, text))
    assert all(name in model.choice.reason for name in ENGINES)
    made = onnx.load(tmp_path / "model.onnx")
    trial = TrialInputs(made, {"x": X[:, :2, :4, :4], "sizes": np.zeros(4, np.int64)})
    np.testing.assert_array_equal(trial.sized["sizes"], [1, 2, 8, 8])
