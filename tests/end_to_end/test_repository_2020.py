"""The model repository of the 2020 example: as it stands, and with the configurations that say its pre-processing."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from tests.recordings import SHARED
from tests.servers import DEADLINE_S, Running, ask, wait_for

ORIGINAL = SHARED / "models" / "original_repository"
EXAMPLES = Path(__file__).parents[2] / "examples" / "repository_2020"

pytestmark = pytest.mark.skipif(not ORIGINAL.is_dir(), reason="the 2020 model repository is not beside this checkout")

INPUTS = {"tnn_classification": "data", "tnn_face_detection": "input"}
CASES = [("tnn_classification", "dog.png"), ("tnn_face_detection", "test_face.jpg")]


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(ORIGINAL / "recorded.npz") as data:
        return {name: data[name] for name in data.files}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each model twice: under its own name with our configuration, and as it stands under the name ``old_...``. One
    more, ``counted``, gets the requests of one test only."""
    folder = tmp_path_factory.mktemp("repository_2020")
    for name in INPUTS:
        shutil.copytree(ORIGINAL / name / "1", folder / name / "1")
        shutil.copy(EXAMPLES / name / "config.pbtxt", folder / name / "config.pbtxt")
        shutil.copytree(ORIGINAL / name / "1", folder / f"old_{name}" / "1")
        config = (ORIGINAL / name / "config.pbtxt").read_text()
        (folder / f"old_{name}" / "config.pbtxt").write_text(config.replace(f'"{name}"', f'"old_{name}"'))
    shutil.copytree(folder / "tnn_face_detection", folder / "counted")
    config = folder / "counted" / "config.pbtxt"
    config.write_text(config.read_text().replace("tnn_face_detection", "counted"))
    return folder


@pytest.fixture(scope="module")
def served(installed: None, repository: Path) -> Iterator[Running]:
    from tests.servers import start

    running = start([repository])
    yield running
    running.finish()
    running.overlay.close()


@pytest.fixture(params=["http", "grpc"])
def protocol(request: pytest.FixtureRequest, served: Running) -> Iterator[Any]:
    import tritonclient.grpc
    import tritonclient.http

    module = {"http": tritonclient.http, "grpc": tritonclient.grpc}[request.param]
    with getattr(served, request.param)() as client:
        yield module, client


def distance(got: np.ndarray, want: np.ndarray) -> float:
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / np.abs(want).max())


def blobs(recorded: dict[str, np.ndarray], case: str) -> dict[str, np.ndarray]:
    return {
        key.removeprefix(f"{case}.out."): value for key, value in recorded.items() if key.startswith(f"{case}.out.")
    }


@pytest.mark.parametrize(("model", "picture"), CASES)
def test_answers_are_the_recorded_ones(
    protocol: Any, recorded: dict[str, np.ndarray], model: str, picture: str
) -> None:
    case = f"{model}.{picture}"
    result = ask(protocol, model, recorded[f"{case}.pixels"], INPUTS[model])
    for name, want in blobs(recorded, case).items():
        assert distance(result.as_numpy(name), want) <= 1e-4


@pytest.mark.parametrize(("model", "picture"), CASES)
def test_the_json_form_of_2020(served: Running, recorded: dict[str, np.ndarray], model: str, picture: str) -> None:
    case = f"{model}.{picture}"
    pixels = recorded[f"{case}.pixels"]
    entry = {"name": INPUTS[model], "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.tolist()}
    address = f"http://{served.http_url}/v2/models/{model}/infer"
    with urllib.request.urlopen(address, json.dumps({"inputs": [entry]}).encode(), timeout=DEADLINE_S) as response:
        outputs = {item["name"]: item for item in json.load(response)["outputs"]}
    for name, want in blobs(recorded, case).items():
        got = np.array(outputs[name]["data"], np.float32).reshape(outputs[name]["shape"])
        assert distance(got, want) <= 1e-4


SIZES = {
    "tnn_classification": [(224, 224), (240, 320), (420, 260), (224, 224)],
    "tnn_face_detection": [(240, 320), (300, 200), (120, 120), (240, 320)],
}
OUTPUTS = {"tnn_classification": ["squeezenet0_flatten0_reshape0"], "tnn_face_detection": ["scores", "boxes"]}


@pytest.mark.parametrize("model", INPUTS)
def test_as_it_stands_it_serves_pictures_of_any_size(protocol: Any, model: str) -> None:
    """The first answer after a new size was wrong in 2020: it is the same as the second."""
    for height, width in SIZES[model]:
        pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
        first, again = (ask(protocol, f"old_{model}", pixels, INPUTS[model]) for _ in range(2))
        for name in OUTPUTS[model]:
            assert first.as_numpy(name).size
            np.testing.assert_array_equal(first.as_numpy(name), again.as_numpy(name))


def test_a_picture_too_small_for_the_network_is_refused_with_the_layer(protocol: Any) -> None:
    with pytest.raises(InferenceServerException, match="`squeezenet0_pool3_fwd`"):
        ask(protocol, "tnn_classification", np.zeros((120, 120, 3), np.uint8), "data")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda pixels: pixels.astype(np.float32), "data-type is 'FP32', but model"),
        (lambda pixels: pixels[..., :2], "unexpected shape for input 'input'"),
        (lambda pixels: pixels[..., 0], "unexpected shape for input 'input'"),
        (lambda pixels: pixels[:0], "picture is empty"),
    ],
)
def test_bad_pictures_are_refused_and_the_server_goes_on(
    protocol: Any, recorded: dict[str, np.ndarray], change: Callable[[np.ndarray], np.ndarray], said: str
) -> None:
    pixels = recorded["tnn_face_detection.test_face.jpg.pixels"]
    with pytest.raises(InferenceServerException) as error:
        ask(protocol, "tnn_face_detection", np.ascontiguousarray(change(pixels)), "input")
    assert said in str(error.value)
    ask(protocol, "tnn_face_detection", pixels, "input")


def test_metrics_count_the_requests(served: Running, recorded: dict[str, np.ndarray]) -> None:
    def count() -> float:
        endpoint = served.supervisor.launch.endpoint("metrics")
        assert endpoint is not None
        with urllib.request.urlopen(f"http://{endpoint[0]}:{endpoint[1]}/metrics", timeout=DEADLINE_S) as response:
            lines = response.read().decode().splitlines()
        wanted = 'nv_inference_request_success{model="counted",version="1"} '
        return float(next(line for line in lines if line.startswith(wanted)).removeprefix(wanted))

    import tritonclient.http

    assert count() == 0
    with served.http() as client:
        for _ in range(3):
            ask(
                (tritonclient.http, client),
                "counted",
                recorded["tnn_face_detection.test_face.jpg.pixels"],
                "input",
            )
    wait_for(lambda: count() >= 3, "all are counted: an answer is sent first")
    assert count() == 3
