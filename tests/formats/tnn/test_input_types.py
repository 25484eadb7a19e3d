"""Inputs of version 2 without a data type run as float32, whatever stands where the type would be."""

from __future__ import annotations

import numpy as np
import pytest

import tnn_serving as ts
from tests.formats.tnn.handmade import entry, floats, int32s, model, proto
from tnn_serving.engines import ENGINES

CODES = model(
    entry(600, "BlobScale", "x_scale_data_", floats(0.5) + int32s(0)),
    entry(600, "BlobScale", "y_scale_data_", floats(0.5) + int32s(0)),
)


def loaded(line: str, *layers: str, engine: str, weights: bytes = b"") -> ts.Model:
    return ts.load((proto(*layers, inputs=line), weights), engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "dims", [(1, 3, 4, 5), (1, 3, 4, 3), (1, 2, 2, 2), (1, 4, 6, 1), (2, 5), (6,), (1, 3, 224, 224)]
)
def test_float_network(dims: tuple[int, ...], engine: str) -> None:
    """TNN takes the last dim for the type, and its numbers 1 to 6 for half, int8 and so on."""
    words = " ".join(map(str, (len(dims), *dims)))
    x = np.random.default_rng(0).standard_normal(dims).astype(np.float32)
    without = loaded(f"x {words} ", "ReLU r 1 1 x y", engine=engine)
    assert [(spec.name, spec.dtype) for spec in without.inputs] == [("x", np.float32)]
    assert without.default_shapes == {"x": dims}
    typed = loaded(f"x {words} 0 ", "ReLU r 1 1 x y", engine=engine)
    np.testing.assert_array_equal(without.run({"x": x})["y"], typed.run({"x": x})["y"])
    np.testing.assert_array_equal(without.run({"x": x})["y"], np.maximum(x, 0))


@pytest.mark.parametrize("engine", ENGINES)
def test_int8_network(engine: str) -> None:
    x = np.array([-1.2, 0.3, 0.8, 99], np.float32).reshape(1, 4, 1, 1)
    without = loaded("x 4 1 4 1 1 ", "QuantizedReLU r 1 1 x y", engine=engine, weights=CODES)
    assert [spec.dtype for spec in (*without.inputs, *without.outputs)] == [np.float32, np.float32]
    assert without.run({"x": x})["y"].ravel().tolist() == [0, 0.5, 1, 63.5]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("line", ["data 2 3 2 : i 1 2 3 ", "i 1 2 3 : data 2 3 2 "])
def test_type_of_one_input_says_nothing_of_another(line: str, engine: str) -> None:
    network = loaded(line, "Gather g 2 1 data i y 0 0 0", engine=engine)
    assert {spec.name: spec.dtype for spec in network.inputs} == {"data": np.float32, "i": np.int32}
    data = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert network.run({"data": data, "i": np.array([2, 0], np.int32)})["y"].tolist() == [[4, 5], [0, 1]]
