"""An engine of another package takes part in everything, found by its entry point and with nothing changed for it.

The package is a folder with a module and its metadata, as pip would leave them, in the PYTHONPATH of the processes that
are asked.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tnn_serving as ts
from tests.engines.openvino.models import model
from tests.engines.third_party import onnx_reference_engine, write_metadata
from tests.network.test_int8 import LAYERS as INT8_LAYERS
from tests.networks import network
from tnn_serving.client.connection import connect
from tnn_serving.engines import ENGINES
from tnn_serving.triton.background_server import BackgroundServer
from tnn_serving.tune import ModelPaths, TrialLoad
from tnn_serving.tune.space import Candidate, Space
from tnn_serving.tune.trials import TrialServer

pytestmark = pytest.mark.slow

NAME = onnx_reference_engine.ReferenceEngine.name
LAYERS = [
    "Convolution c 1 1 x a 1 3 4 3 3 1 1 1 1 1 -1 1 1 1",
    "Pooling p 1 1 a y 1 2 2 2 2 0 0 -1 -1 -1 0",
]
X = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the engine is installed in."""
    folder = tmp_path_factory.mktemp("site-packages")
    source = Path(onnx_reference_engine.__file__)
    shutil.copy(source, folder)
    write_metadata(folder, onnx_reference_engine.ReferenceEngine, source.stem)
    return folder


@pytest.fixture(scope="module")
def environment(package: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(package)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a network of TNN's, one with int8 layers, and one in ONNX."""
    repository = tmp_path_factory.mktemp("models")
    for name, layers in (("plain", LAYERS), ("int8", INT8_LAYERS)):
        version = repository / name / "1"
        version.mkdir(parents=True)
        graph = network({"x": (1, 3, 8, 8)}, layers, ["y"])
        ts.write_model(graph, version / "proto.tnnproto", version / "model.tnnmodel")
    version = repository / "onnx" / "1"
    version.mkdir(parents=True)
    onnx.save(model("g (float[n, 4] x) => (float[n, 4] y) { a = Relu (x) y = Softmax (a) }"), version / "model.onnx")
    return repository


def run(environment: dict[str, str], *arguments: object, code: int = 0) -> str:
    """Standard output of a command of ours, where the package is installed."""
    program = "from tnn_serving.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_this_process_does_not_know_it() -> None:
    assert NAME not in ENGINES


LOAD = """
import json, sys
import numpy as np
import tnn_serving as ts
model = ts.load(sys.argv[1], sys.argv[2])
answer = model.run(model.samples())
print(json.dumps([model.engine, model.choice.reason, {k: v.tolist() for k, v in answer.items()}]))
"""


def loaded(environment: dict[str, str], source: Path, engine: str) -> tuple[str, str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(source), engine],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    name, reason, answer = json.loads(done.stdout)
    return name, reason, answer


@pytest.mark.parametrize("name", ["plain", "int8", "onnx"])
def test_load(environment: dict[str, str], folder: Path, name: str) -> None:
    engine, reason, answer = loaded(environment, folder / name, NAME)
    assert (engine, reason) == (NAME, "asked for")
    here = ts.load(folder / name, "onnxruntime")
    wanted = here.run(here.samples())
    np.testing.assert_allclose(np.array(answer["y"]), wanted["y"], rtol=1e-4, atol=1e-5)


def test_auto(environment: dict[str, str], folder: Path) -> None:
    engine, reason, _ = loaded(environment, folder / "plain", "auto")
    assert engine in ENGINES
    assert re.search(rf"openvino [\d.e-]+ ms, onnxruntime [\d.e-]+ ms, {NAME} [\d.e-]+ ms", reason)


def test_inspect(environment: dict[str, str], folder: Path) -> None:
    found = json.loads(run(environment, "inspect", folder / "int8", "--json"))
    assert found["int8"].keys() == {*ENGINES, NAME}
    assert found["int8"][NAME] == "exact: ONNX reference evaluator has no int8 kernels"


def test_compare(environment: dict[str, str], folder: Path) -> None:
    found = json.loads(run(environment, "compare", folder / "plain", "--engines", f"openvino,{NAME}", "--json"))
    assert found["right"].endswith(f"on {NAME}")
    assert found["first"] is None
    assert {row["blob"] for row in found["blobs"]} == {"a", "y"}


def test_bench_layers_says_that_it_does_not_measure_nodes(environment: dict[str, str], folder: Path) -> None:
    arguments = ("bench", folder / "plain", "--layers", "--engine", NAME)
    program = "from tnn_serving.cli.app import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    assert f"{NAME} does not measure nodes" in done.stderr


def test_the_space_of_tune_has_what_it_says() -> None:
    space = Space(cores=4, engines=[*ENGINES.values(), onnx_reference_engine.ReferenceEngine()], bf16=True)
    labels = {str(candidate) for candidate in space.coarse()}
    assert {label for label in labels if label.startswith(NAME)} == {NAME}
    beside = {str(candidate) for candidate in space.neighbours(Candidate(engine=NAME))}
    assert beside == {f"{NAME}, 2 instances", *ENGINES}


def test_tune_measures_it(installed: None, package: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(package))
    with TrialServer(ModelPaths.of(folder / "plain"), "", TrialLoad()) as trials:
        trials.start()
        trial = trials.measure(Candidate(engine=NAME), 0.5)
    assert trial.problem is None
    assert trial.error < 1e-4
    assert [point.requests > 0 for point in trial.points] == [True]


def test_serving(installed: None, package: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("plain", "onnx"):
        served = shutil.copytree(folder / name, tmp_path / name)
        (served / "config.pbtxt").write_text(
            f'parameters [ {{ key: "engine" value: {{ string_value: "{NAME}" }} }} ]\n'
        )
    monkeypatch.setenv("PYTHONPATH", str(package))
    lines: list[str] = []
    with BackgroundServer(tmp_path, on_log=lines.append) as server, connect(server.http_url) as connection:
        for name, x in (("plain", X), ("onnx", X[0, 0, :, :4].copy())):
            answer = connection.infer(connection.model(name), {"x": x})
            wanted = ts.load(folder / name, "onnxruntime").run({"x": x})
            np.testing.assert_allclose(answer["y"], wanted["y"], rtol=1e-4, atol=1e-5)
    log = "\n".join(lines)
    assert f"plain runs on {NAME} (asked for)" in log
    assert f"onnx runs on {NAME} (asked for)" in log
