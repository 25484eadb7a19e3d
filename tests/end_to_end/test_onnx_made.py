"""ONNX models of unusual kinds through the real server, and every command that needs one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.http
from onnx import helper

from tests.onnx_models import convolution, model, random, reference, write
from tests.program import run
from tests.servers import Running, ask, start
from tnn_serving.soak import soak

node = helper.make_node

MODELS: dict[str, tuple[onnx.ModelProto, str]] = {
    "fixed_batch": (
        model(
            [node("Reshape", ["x", "s"], ["r"]), node("MatMul", ["r", "w"], ["y"])],
            {"x": [1, 2, 3]},
            {"y": [1, 4]},
            {"s": np.array([1, 6]), "w": random(6, 4)},
        ),
        "max_batch_size: 8\n",
    ),
    "mixed_rows": (
        model([node("Softmax", ["x"], ["y"], axis=0)], {"x": [1, 6]}, {"y": [1, 6]}),
        "max_batch_size: 8\n",
    ),
    "old_initializer": (
        model(
            [node("Mul", ["x", "w"], ["y"])], {"x": [3, 2]}, {"y": [3, 2]}, {"w": random(3, 2)}, opsets={"": 7}, ir=3
        ),
        "",
    ),
    "contributed": (model([node("QuickGelu", ["x"], ["y"], domain="com.microsoft")], {"x": [1, 6]}, {"y": [1, 6]}), ""),
    "convolution": (convolution(), ""),
}


@pytest.fixture(scope="module")
def served(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Path]]:
    repository = tmp_path_factory.mktemp("made")
    for name, (made, config) in MODELS.items():
        write(made, repository / name / "1")
        if config:
            (repository / name / "config.pbtxt").write_text(config)
    running = start([repository])
    assert running.ready, f"{running.outcome}\n" + "\n".join(running.log[-50:])
    yield running, repository
    running.finish()
    running.overlay.close()


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_fixed_batch_is_free_where_the_configuration_asks(served: tuple[Running, Path], rows: int) -> None:
    running, _ = served
    x = random(rows, 2, 3)
    with running.http() as client:
        got = ask((tritonclient.http, client), "fixed_batch", x, "x").as_numpy("y")
    single = [reference(MODELS["fixed_batch"][0], {"x": x[k : k + 1]})["y"] for k in range(rows)]
    np.testing.assert_allclose(got, np.concatenate(single), rtol=1e-5, atol=1e-5)


def test_a_batch_that_cannot_be_freed_is_said_at_load(served: tuple[Running, Path]) -> None:
    running, _ = served
    said = "mixed_rows: max_batch_size is 8, but the network does not take another first dim"
    assert any(said in line for line in running.log)


@pytest.mark.parametrize("name", ["old_initializer", "contributed"])
def test_what_onnx_runtime_takes_is_served(served: tuple[Running, Path], name: str) -> None:
    running, _ = served
    made = MODELS[name][0]
    x = random(*(dim.dim_value for dim in made.graph.input[0].type.tensor_type.shape.dim))
    with running.http() as client:
        got = ask((tritonclient.http, client), name, x, "x").as_numpy("y")
    np.testing.assert_allclose(got, reference(made, {"x": x})["y"], rtol=1e-5, atol=1e-6)


def test_a_soak_of_onnx_models(served: tuple[Running, Path], tmp_path: Path) -> None:
    _, repository = served
    for name in ("convolution", "fixed_batch"):
        (tmp_path / name).symlink_to(repository / name)
    found = soak(tmp_path, requests=60, clients=2)
    assert found.failures == {}
    assert "convolution" in found.shapes  # the other one comes and goes
    assert found.answered > 0


@pytest.mark.parametrize("place", ["", "1/model.onnx"])
def test_bench_serves_an_onnx_model(served: tuple[Running, Path], place: str) -> None:
    _, repository = served
    quick = ("--window", 0.1, "--max-windows", 3, "--shape", "x=1x3x16x16")
    told = run("bench", repository / "convolution" / place, *quick, "--json")
    assert told.returncode == 0, told.stderr
    (level,) = json.loads(told.stdout)
    assert (level["model"], level["errors"]) == ("convolution", 0)
    assert level["requests"] > 0


def test_bench_takes_the_shapes_of_the_file(served: tuple[Running, Path]) -> None:
    _, repository = served
    told = run("bench", repository / "fixed_batch", "--window", 0.1, "--max-windows", 3, "--json", "--batch", 3)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)[0]["batch"] == 3
