"""Commands that inspect a model: their output and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tnn_serving as ts
from tests.networks import CONVOLUTION, network
from tests.program import run
from tnn_serving.tensor import Tensor

SUMMARY_KEYS = {
    "source", "proto_version", "inputs", "outputs", "layers", "constants", "int8_blobs", "parameters", "weight_bytes",
    "macs", "problem", "int8", "types",
}  # fmt: skip

LAYER_KEYS = {
    "index", "type", "name", "inputs", "outputs", "output_dims", "parameters", "weights", "macs", "problem",
}  # fmt: skip

DIFFERENCE_KEYS = {
    "index", "layer", "type", "blob", "shape", "max_abs", "relative", "cosine", "worst", "value", "reference", "equal",
    "problem",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    graph = network({"x": (1, 3, 8, 8)}, [*CONVOLUTION, "Sigmoid s 1 1 y z"], ["z"])
    layer = graph.layer("c")
    layer.filter = Tensor.of(layer.need("filter").array().reshape(4, 3, 3, 3))  # type: ignore[attr-defined]
    ts.write_model(graph, folder / "net.tnnproto", folder / "net.tnnmodel")
    return folder


def test_inspect_as_table_and_as_json(model: Path) -> None:
    table = run("inspect", model)
    assert table.returncode == 0, table.stderr
    assert "1 x 4 x 8 x 8" in table.stdout
    assert "2 layers, 112 parameters" in table.stdout
    data = json.loads(run("inspect", model, "--json").stdout)
    assert set(data) == SUMMARY_KEYS
    assert set(data["layers"][0]) == LAYER_KEYS
    assert data["macs"] == data["layers"][0]["macs"] == 3 * 3 * 3 * 4 * 8 * 8
    assert data["inputs"][0]["free"] == [True, False, True, True]
    assert data["layers"][0]["parameters"]["kernel"] == [3, 3]
    assert data["layers"][0]["weights"][0] == {
        "name": "filter",
        "dtype": "float",
        "dims": [4, 3, 3, 3],
        "elements": 108,
    }


def test_inspect_at_another_size_and_one_layer(model: Path) -> None:
    data = json.loads(run("inspect", model, "--json", "--shape", "x=2x3x5x6").stdout)
    assert data["outputs"][0]["dims"] == [2, 4, 5, 6]
    layer = run("inspect", model, "--layer", "c").stdout
    assert "108 values of float (4 x 3 x 3 x 3)" in layer
    assert "activation" in layer


def test_a_model_that_cannot_run_is_described_with_the_reason(tmp_path: Path) -> None:
    proto = tmp_path / "net.tnnproto"
    proto.write_bytes(b'"1 2 1 4206624770 ,"\n"x 1 3 8 8 ,"\n" x y ,"\n"y ,"\n" 1 ,"\n"Dropout d 1 1 x y 0.5 ,"\n')
    told = run("inspect", proto)
    assert told.returncode == 1
    assert "type `Dropout` cannot be executed" in told.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["inspect", "nowhere"], 1, "cannot be read"),
        (["inspect", "{model}", "--shape", "x"], 2, "expected NAME=1x3x224x224"),
        (["inspect", "{model}", "--layer", "C"], 2, "did you mean `c`?"),
        (["inspect", "{model}", "--layer", "q"], 2, "no layer"),
        (["inspect"], 2, "Missing argument"),
        (["compare", "{model}", "--against", "nowhere.npz"], 1, "nowhere.npz: cannot be read"),
        (["compare", "{model}", "--engines", "tensorrt"], 1, "unknown engine"),
        (["export", "{model}", "-o", "/nowhere/x.onnx"], 1, "cannot write"),
        (["fly"], 2, "No such command"),
    ],
)
def test_errors_say_what_and_end_with_their_code(model: Path, arguments: list[str], code: int, said: str) -> None:
    told = run(*(a.format(model=model) for a in arguments))
    assert told.returncode == code
    assert said in told.stderr
    assert "Traceback" not in told.stderr
    assert told.stdout == ""


def test_compare_finds_engines_equal(model: Path) -> None:
    told = run("compare", model, "--json")
    assert told.returncode == 0, told.stderr
    data = json.loads(told.stdout)
    assert data["first"] is None
    assert [row["blob"] for row in data["blobs"]] == ["y", "z"]
    assert set(data["blobs"][0]) == DIFFERENCE_KEYS


def test_compare_names_the_first_layer_that_differs(model: Path, tmp_path: Path) -> None:
    loaded = ts.load(model)
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    blobs = loaded.run({"x": x}, outputs=["y", "z"])
    blobs["z"][0, 2, 3, 4] += 1
    np.savez(tmp_path / "recording.npz", **{"in.x": x}, **{f"out.{name}": value for name, value in blobs.items()})
    told = run("compare", model, "--against", tmp_path / "recording.npz")
    assert told.returncode == 1
    assert "differs first at layer 1 `s` (Sigmoid), blob `z`" in " ".join(told.stdout.split())
    assert "at [0, 2, 3, 4]" in " ".join(told.stdout.split())


def test_compare_with_another_model(model: Path, tmp_path: Path) -> None:
    graph = ts.read_model(model)
    graph.layer("c").activation = 2  # type: ignore[attr-defined]
    ts.write_model(graph, tmp_path / "other.tnnproto", tmp_path / "other.tnnmodel")
    same = run("compare", model, tmp_path, "--blob", "y")
    assert same.returncode == 0, same.stdout
    graph.layer("c").has_bias = 0  # type: ignore[attr-defined]
    ts.write_model(graph, tmp_path / "other.tnnproto", tmp_path / "other.tnnmodel")
    other = run("compare", model, tmp_path, "--json")
    assert other.returncode == 1
    assert json.loads(other.stdout)["first"]["layer"] == "c"
