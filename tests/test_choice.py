"""Which engine and precision run a network, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tnn_serving as ts
from tests.networks import CONVOLUTION, network
from tnn_serving.choice import Candidate, choose
from tnn_serving.emit.int8 import Form
from tnn_serving.engines import ENGINES, Engine, Options, TensorSpec
from tnn_serving.engines.base import Precision
from tnn_serving.engines.cpu import Cpu
from tnn_serving.engines.shapes import NO_SHAPES, ShapeCache
from tnn_serving.errors import ConfigError
from tnn_serving.model import Model
from tnn_serving.network.base import Variant
from tnn_serving.network.int8 import Decision
from tnn_serving.network.tnn import TnnNetwork

X = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
CPU = Cpu(vnni=True, amx_int8=False, bf16=True)


def graph(size: int = 8) -> TnnNetwork:
    return TnnNetwork(network({"x": (1, 3, size, size)}, CONVOLUTION, ["y"]))


def test_auto_takes_the_engine_that_was_measured_to_be_faster() -> None:
    model = Model.of(graph())
    assert model.choice.engine in ENGINES
    assert model.engine == model.choice.engine
    assert all(name in model.choice.reason for name in ENGINES)


def test_an_engine_that_is_asked_for_is_not_measured() -> None:
    assert ts.load(graph().graph, "onnxruntime").choice.reason == "asked for"


def test_the_only_engine_that_can_is_taken() -> None:
    layers = ["RoiAlign r 3 1 x b i y 0 2 2 1 1.0"]  # mode 0: maximum, which OpenVINO computes otherwise
    model = ts.load(network({"x": (1, 2, 8, 8), "b": (1, 4), "i": (1,)}, layers, ["y"]))
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


def test_unknown_precisions_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown precision"):
        ts.load(graph().graph, precision="f16")


def test_engines_that_disagree_are_reported_and_the_one_by_the_book_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    networks = {
        "openvino": graph(),
        "onnxruntime": TnnNetwork(network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"], seed=1)),
    }

    def compile(engine: Engine, precision: Precision) -> Candidate:
        made = networks[engine.name].translate(Variant(("y",))).proto()
        spec = TensorSpec("x", np.dtype(np.float32), (None, 3, None, None))
        return Candidate(ShapeCache(engine.compile(made, Options()), [spec], NO_SHAPES, 0), Decision(Form.EXACT, ""))

    _, choice = choose(list(ENGINES.values()), "f32", compile, {"x": X}, CPU)
    assert choice.engine == "onnxruntime"
    assert "differ" in choice.reason
    assert "engines disagree" in caplog.text
