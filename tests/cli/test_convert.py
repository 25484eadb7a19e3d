"""``tnn-serving convert``: what it writes, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import pytest
from typer.testing import CliRunner

from tests.conversion.test_convert import SMALL
from tests.conversion.test_network import network
from tnn_serving.cli.app import make_app
from tnn_serving.errors import UnsupportedLayer

KEYS = {"operators", "layers", "notes", "check", "loss", "proto", "model"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(SMALL, path)
    return path


def test_it_says_what_it_made(source: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(make_app(), ["convert", str(source), "-o", str(tmp_path / "1"), "--dims", "x=1x4x9x7"])
    assert done.exit_code == 0, done.output
    assert "6 nodes -> 5 layers" in done.stdout
    assert "same answer at x 1 x 4 x 9 x 7" in done.stdout
    assert (tmp_path / "1" / "proto.tnnproto").is_file()


def test_json(source: Path, tmp_path: Path) -> None:
    inputs = tmp_path / "in.npz"
    np.savez(inputs, x=np.zeros((1, 4, 6, 6), np.float32))
    command = ["convert", str(source), "-o", str(tmp_path / "1"), "--dims", "x=1x4x9x7", "--inputs", str(inputs)]
    done = CliRunner().invoke(make_app(), [*command, "--optimize", "--fp16", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert set(found) == KEYS
    assert set(found["check"]) == {"tried", "untried"}
    assert found["check"]["tried"][0]["shapes"] == {"x": [1, 4, 6, 6]}
    assert "ReLU" not in found["layers"]


def test_nothing_is_written_for_what_is_refused(tmp_path: Path) -> None:
    source, output = tmp_path / "model.onnx", tmp_path / "1"
    onnx.save(network([oh.make_node("Bernoulli", ["x"], ["y"])], {}), source)
    done = CliRunner().invoke(make_app(), ["convert", str(source), "-o", str(output), "--dims", "x=1x4x9x7"])
    assert isinstance(done.exception, UnsupportedLayer)
    assert not output.exists()


def test_dims_of_another_form_are_wrong_usage(source: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(make_app(), ["convert", str(source), "-o", str(tmp_path), "--dims", "x"])
    assert done.exit_code == 2
    assert "--dims" in done.stderr
