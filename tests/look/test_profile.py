"""Time by layer: every layer is there, whatever the engine made of it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import tnn_serving as ts
from tests.networks import network
from tests.program import run
from tnn_serving.engines import NodeTime
from tnn_serving.errors import EngineError
from tnn_serving.graph import Graph
from tnn_serving.look.profile import LayerTime, Profile, by_layer, profile
from tnn_serving.network.formats import open_network

LAYERS = [
    "Convolution first/conv 1 1 x a 1 3 16 3 3 1 1 1 1 1 -1 1 1 0",
    "ReLU first/relu 1 1 a b",
    "Pooling pool 1 1 b c 0 2 2 2 2 0 0 -1 -1 -1 1",
    "Convolution second 1 1 c d 1 16 16 3 3 1 1 1 1 1 -1 1 1 0",
    "Sigmoid gate 1 1 d e",
    "HardSwish swish 1 1 d f 0.166667 0.5",
    "Add sum 2 1 e f y",
]
ENGINES = ["openvino", "onnxruntime"]


@pytest.fixture(scope="module")
def graph() -> Graph:
    return network({"x": (1, 3, 32, 32)}, LAYERS, ["y"])


@pytest.mark.parametrize("engine", ENGINES)
def test_every_layer_is_listed_in_order_with_its_kernels(graph: Graph, engine: str) -> None:
    found = profile(graph, engine, shapes={"x": (2, 3, 128, 96)}, runs=3)
    assert (found.engine, found.runs, found.shapes) == (engine, 3, {"x": [2, 3, 128, 96]})
    own = [row for row in found.layers if row.index is not None]
    assert [(row.index, row.layer, row.type) for row in own] == [
        (index, layer.name, layer.type) for index, layer in enumerate(graph.layers)
    ]
    assert sum(row.time_ms for row in found.layers) == pytest.approx(found.total_ms)
    assert sum(row.share for row in found.layers) == pytest.approx(1)
    assert found.wall_ms > 0
    rows = {row.layer: row for row in own}
    for name in ("first/conv", "pool", "second"):
        assert rows[name].time_ms > 0
        assert rows[name].kernels
        assert rows[name].merged_into is None
    assert any("Conv" in kernel for kernel in rows["first/conv"].kernels)
    # Both engines compute the ReLU inside the convolution before it.
    assert (rows["first/relu"].time_ms, rows["first/relu"].merged_into) == (0, "first/conv")


@pytest.mark.parametrize("engine", ENGINES)
def test_time_is_asked_for_when_loading(graph: Graph, engine: str) -> None:
    inputs = {"x": np.zeros((1, 3, 32, 32), np.float32)}
    with pytest.raises(EngineError, match="profile=True"):
        ts.load(graph, engine).profile(inputs, 1)


def test_onnx_runtime_gives_its_record_once_and_removes_it(
    graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = ts.load(graph, "onnxruntime", profile=True)
    inputs = {"x": np.zeros((1, 3, 32, 32), np.float32)}
    assert list(tmp_path.iterdir())
    assert model.profile(inputs, 2)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(EngineError, match="once"):
        model.profile(inputs, 2)


def test_names_of_nodes_lead_to_layers(graph: Graph) -> None:
    nodes = [
        NodeTime("n0", ("first/conv/Conv", "b", "unknown"), "Conv k", 0.002),
        NodeTime("n1", ("first/conv/Conv_1_out",), "Conv k", 0.001),
        NodeTime("n2", ("first",), "Conv k", 0.5),  # the name of no layer
        NodeTime("n6", ("gate",), "Sigmoid", 0.0),
        NodeTime("n3", ("y", "swish/HardSwish"), "Eltwise k", 0.001),
        NodeTime("n4", (), "Reorder r", 0.001),
        NodeTime("n5", ("e",), "Sigmoid", 0.0),
    ]
    rows = {(row.layer, row.type): row for row in by_layer(open_network(graph).layers(), nodes)}
    conv = rows["first/conv", "Convolution"]
    assert (conv.time_ms, conv.kernels) == (pytest.approx(3), ["Conv k"])
    assert rows["first/relu", "ReLU"].merged_into == "first/conv"
    assert rows["swish", "HardSwish"].merged_into == "sum"
    assert rows["gate", "Sigmoid"] == LayerTime(4, "gate", "Sigmoid", 0.0, 0.0, [], None)
    assert rows["", "Reorder"].time_ms == pytest.approx(1)
    assert rows["", "Conv"].time_ms == pytest.approx(500)


def test_bench_layers(graph: Graph, tmp_path: Path) -> None:
    ts.write_model(graph, tmp_path / "net.tnnproto", tmp_path / "net.tnnmodel")
    told = run("bench", tmp_path, "--layers", "--runs", 2, "--json")
    assert told.returncode == 0, told.stderr
    data = json.loads(told.stdout)
    assert list(data) == [field.name for field in fields(Profile)]
    assert list(data["layers"][0]) == [field.name for field in fields(LayerTime)]
    assert [row["layer"] for row in data["layers"]][: len(LAYERS)] == [layer.name for layer in graph.layers]
    np.savez(tmp_path / "data.npz", **{"in.x": np.ones((1, 3, 8, 8), np.float32), "out.y": np.ones(1)})
    options = ("--runs", 2, "--engine", "onnxruntime", "--sort", "order", "--data", tmp_path / "data.npz")
    table = run("bench", tmp_path / "net.tnnproto", "--layers", *options).stdout
    assert "on onnxruntime, x [1, 3, 8, 8]" in table
    assert "in first/conv" in table
    rows = [line.split()[1] for line in table.splitlines()[2:9]]
    assert rows == [layer.name for layer in graph.layers]
