"""`check` and `sign`: what they print, and how they end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

import tnn_serving as ts
from tests.end_to_end.models import BROKEN, RELU, write_model
from tests.networks import CONVOLUTION, network
from tests.program import run
from tnn_serving.tensor import Tensor


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    graph = network({"x": (1, 3, 8, 8)}, [*CONVOLUTION, "Sigmoid s 1 1 y z"], ["z"])
    layer = graph.layer("c")
    layer.filter = Tensor.of(layer.need("filter").array().reshape(4, 3, 3, 3))  # type: ignore[attr-defined]
    ts.write_model(graph, folder / "net.tnnproto", folder / "net.tnnmodel")
    return folder


def test_export_writes_checked_onnx(model: Path, tmp_path: Path) -> None:
    told = run("export", model, "-o", tmp_path / "net.onnx")
    assert told.returncode == 0, told.stderr
    onnx.checker.check_model(onnx.load(tmp_path / "net.onnx"), full_check=True)
    assert told.stdout == ""


CHECK_KEYS = {
    "": {"models", "skipped", "errors", "warnings"},
    "model": {"name", "repository", "kind", "versions", "findings"},
    "version": {
        "version", "served", "files", "layers", "inputs", "outputs", "engine", "batch", "memory", "completed",
        "findings",
    },
    "file": {"name", "bytes", "sha256"},
    "tensor": {"name", "datatype", "dims"},
    "memory": {"stored_bytes", "weights_bytes", "activations_bytes"},
    "finding": {"severity", "where", "problem", "expected", "found", "hint"},
}  # fmt: skip


@pytest.mark.slow
def test_check_as_table_and_as_json(tmp_path: Path) -> None:
    write_model(tmp_path, "good")
    write_model(tmp_path, "bad", proto=BROKEN)
    write_model(tmp_path, "warned", config='parameters [{ key: "scael" value: { string_value: "1" } }]')
    table = run("check", tmp_path)
    assert table.returncode == 1
    assert "error: bad, version 1, layer 0 `r` (NoSuchLayer): type `NoSuchLayer` is unknown" in table.stdout
    assert "warning: warned, config.pbtxt: parameter `scael`" in table.stdout
    assert "3 models, 1 error, 1 warning" in table.stdout
    assert table.stderr == ""
    told = run("check", tmp_path, "--json")
    assert told.returncode == 1
    data = json.loads(told.stdout)
    good = next(model for model in data["models"] if model["name"] == "good")
    bad = next(model for model in data["models"] if model["name"] == "bad")
    found = {
        "": data,
        "model": good,
        "version": good["versions"][0],
        "file": good["versions"][0]["files"][0],
        "tensor": good["versions"][0]["inputs"][0],
        "memory": good["versions"][0]["memory"],
        "finding": bad["versions"][0]["findings"][0],
    }
    assert {what: set(value) for what, value in found.items()} == CHECK_KEYS
    assert (data["errors"], data["warnings"]) == (1, 1)
    shutil.rmtree(tmp_path / "bad")
    assert run("check", tmp_path).returncode == 0
    assert run("check", tmp_path, "--backend-config", "require-manifest=true").returncode == 1
    assert run("check", tmp_path, "--backend-config", "nonsense").returncode == 2


def test_check_prints_no_control_characters(tmp_path: Path) -> None:
    write_model(tmp_path, "bell\a\x1b[31m", proto=RELU.replace(b"ReLU r", b"No\x1b[2JSuch r"))
    told = run("check", tmp_path)
    assert told.returncode == 1
    assert "\x1b" not in told.stdout + told.stderr
    assert "\a" not in told.stdout + told.stderr


@pytest.mark.slow
def test_sign_and_check(tmp_path: Path) -> None:
    model = write_model(tmp_path, "net")
    assert run("sign", model).returncode == 0
    assert run("check", tmp_path).returncode == 0
    (model / "1" / "model.tnnmodel").write_bytes(bytes(8))
    told = run("check", tmp_path)
    assert told.returncode == 1
    assert "file `1/model.tnnmodel` has changed" in told.stdout
    absent = run("sign", tmp_path / "absent")
    assert absent.returncode == 1
    assert "no such folder" in absent.stderr
