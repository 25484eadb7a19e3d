"""Every command that takes a model takes an ONNX model."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.test_model import LAYER_KEYS, SUMMARY_KEYS
from tests.onnx_models import convolution, random, reference, write
from tests.program import run
from tnn_serving.look.profile import LayerTime, Profile

NAMES = ["Conv_0", "Relu_1", "Sigmoid_2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with one version."""
    folder = tmp_path_factory.mktemp("repository") / "net"
    write(convolution(("n", 3, 8, 8)), folder / "1")
    return folder


@pytest.mark.parametrize("place", ["", "1", "1/model.onnx"])
def test_inspect(model: Path, place: str) -> None:
    told = run("inspect", model / place, "--json")
    assert told.returncode == 0, told.stderr
    data = json.loads(told.stdout)
    assert set(data) == SUMMARY_KEYS
    assert all(set(layer) == LAYER_KEYS for layer in data["layers"])
    assert [layer["name"] for layer in data["layers"]] == NAMES
    assert data["inputs"] == [
        {"name": "x", "dtype": "float32", "dims": [1, 3, 8, 8], "free": [True, False, False, False]}
    ]
    assert data["layers"][0]["weights"][0] == {"name": "w", "dtype": "float", "dims": [4, 3, 3, 3], "elements": 108}
    assert (data["macs"], data["parameters"], data["weight_bytes"]) == (4 * 64 * 27, 112, 448)
    assert data["proto_version"] == "IR 8, opset 17"
    assert data["types"] == {"Conv": 1, "Relu": 1, "Sigmoid": 1}


def test_inspect_as_table_and_one_layer(model: Path) -> None:
    table = run("inspect", model, "--shape", "x=2x3x8x8").stdout
    assert "version IR 8, opset 17" in table
    assert "2* x 3 x 8 x 8" in table
    assert "3 layers, 112 parameters in 448B" in table
    assert "108 values of float (4 x 3 x 3 x 3)" in run("inspect", model, "--layer", "Conv_0").stdout
    assert run("inspect", model, "--shape", "z=1").stderr.startswith("error: there is no input `z`")


def test_export_and_compare(model: Path, tmp_path: Path) -> None:
    told = run("export", model, "-o", tmp_path / "net.onnx")
    assert (told.returncode, told.stderr) == (0, f"written: {tmp_path / 'net.onnx'} (3 nodes)\n")
    made = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(made, full_check=True)
    x = random(2, 3, 8, 8)
    np.testing.assert_array_equal(reference(made, {"x": x})["y"], reference(convolution(), {"x": x})["y"])
    for words in ([], ["--engines", "onnxruntime"], [tmp_path / "net.onnx"]):
        told = run("compare", model, *words)
        assert told.returncode == 0, told.stderr
        assert "3 blobs, all within 0.001 of their largest value" in told.stdout


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_bench_layers(model: Path, engine: str) -> None:
    told = run("bench", model, "--layers", "--runs", 2, "--engine", engine, "--json", "--shape", "x=2x3x8x8")
    assert told.returncode == 0, told.stderr
    data = json.loads(told.stdout)
    assert list(data) == [field.name for field in fields(Profile)]
    assert list(data["layers"][0]) == [field.name for field in fields(LayerTime)]
    assert (data["engine"], data["shapes"]) == (engine, {"x": [2, 3, 8, 8]})
    assert [row["layer"] for row in data["layers"]][:3] == NAMES
    conv = data["layers"][0]
    assert conv["time_ms"] > 0
    assert any("Conv" in kernel for kernel in conv["kernels"])
