"""The demo models on a real server, asked by the client and by the commands."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.program import run
from tests.recordings import SHARED
from tests.servers import Running, start
from tnn_serving.client.classify import classify
from tnn_serving.client.connection import Connection, connect
from tnn_serving.client.detect import detect
from tnn_serving.client.pixels import read_picture
from tnn_serving.demo.labels import imagenet_labels
from tnn_serving.errors import RequestError
from tnn_serving.pictures.decode import decode
from tnn_serving.pictures.resize import resize

PICTURES = SHARED / "pics"
ORIGINAL = SHARED / "models" / "original_repository"

FACES = {
    "test.jpg": [(221, 282), (343, 234), (446, 306), (593, 283), (790, 317)],
    "test_face.jpg": [(74, 90), (114, 81), (146, 93), (202, 81), (265, 86)],
}
"""Middles of all faces, from left to right, as a person sees them."""

ULTRA_LIGHT = """
backend: "tnn"
input [ { name: "input" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] } ]
parameters [
  { key: "scale" value: { string_value: "0.0078125" } },
  { key: "bias" value: { string_value: "-0.9921875" } }
]
"""
"""The face detector of 2020, with the pre-processing that its backend had built in."""

FIXED_SIZE = """
backend: "tnn"
input [ { name: "input.1" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] } ]
parameters [ { key: "resize" value: { string_value: "64,96" } } ]
"""
"""The demo's face detector, which brings every picture to 64 rows of 96 pixels."""


@pytest.fixture(scope="module")
def demo(installed: None, demo_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with the demo models, and with a copy of the classifier that decodes the pictures itself."""
    if not PICTURES.is_dir():
        pytest.skip("no pictures beside the checkout")
    repository = tmp_path_factory.mktemp("demo")
    shutil.copytree(demo_models, repository, dirs_exist_ok=True)
    decoding = repository / "decoding"
    shutil.copytree(repository / "classification", decoding)
    config = (decoding / "config.pbtxt").read_text()
    config = config.replace('"classification"', '"decoding"').replace("TYPE_UINT8", "TYPE_STRING")
    config = config.replace("    format: FORMAT_NHWC\n", "")  # of pixels alone
    (decoding / "config.pbtxt").write_text(config.replace("dims: [ -1, -1, 3 ]", "dims: [ 1 ]"))
    shutil.copytree(repository / "face_detection" / "1", repository / "fixed_size" / "1")
    (repository / "fixed_size" / "config.pbtxt").write_text(FIXED_SIZE)
    if ORIGINAL.is_dir():
        shutil.copytree(ORIGINAL / "tnn_face_detection" / "1", repository / "ultra_light" / "1")
        (repository / "ultra_light" / "config.pbtxt").write_text(ULTRA_LIGHT)
    running = start([repository])
    assert running.ready, f"{running.outcome}\n" + "\n".join(running.log[-50:])
    yield running
    assert running.finish() == 0
    running.overlay.close()


@pytest.fixture(params=["http", "grpc"])
def connection(demo: Running, request: pytest.FixtureRequest) -> Iterator[Connection]:
    url = demo.http_url if request.param == "http" else demo.grpc_url
    with connect(url, request.param) as opened:
        yield opened


@pytest.mark.parametrize("model", ["classification", "decoding", "picture_label"])
@pytest.mark.parametrize(
    ("picture", "label", "probability"),
    [
        ("cat.jpg", "tabby, tabby cat", 0.47),
        ("dog.png", "golden retriever", 0.95),
        ("car.png", "recreational vehicle, RV, R.V.", 0.92),
        ("tiger_cat.jpg", "tiger cat", 0.58),
    ],
)
def test_classification(connection: Connection, model: str, picture: str, label: str, probability: float) -> None:
    got = classify(connection, connection.model(model), read_picture(PICTURES / picture), top=3)
    assert len(got) == 3
    assert got[0].label == label
    assert got[0].probability == pytest.approx(probability, abs=0.01)
    assert got[0].probability > got[1].probability > got[2].probability


@pytest.mark.parametrize("picture", FACES)
def test_every_face_is_found_and_nothing_else(connection: Connection, picture: str) -> None:
    pixels = read_picture(PICTURES / picture)
    faces = sorted(detect(connection, connection.model("face_detection"), pixels), key=lambda face: face.box[0])
    middles = [((f.box[0] + f.box[2]) / 2, (f.box[1] + f.box[3]) / 2) for f in faces]
    np.testing.assert_allclose(middles, FACES[picture], atol=4)
    for face in faces:
        assert face.score > 0.8
        (left_eye, right_eye, nose, left_mouth, right_mouth) = face.landmarks
        assert left_eye[0] < nose[0] + 2
        assert left_eye[0] < right_eye[0]
        assert left_mouth[0] < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_boxes_are_in_the_pixels_of_the_picture_however_it_was_sent(connection: Connection) -> None:
    pixels = read_picture(PICTURES / "test.jpg")[:, :1000]
    model = connection.model("face_detection")
    whole = detect(connection, model, pixels)
    shrunk = detect(connection, model, pixels, max_side=500)
    assert len(whole) == len(shrunk) == 5
    for order in (0, 1):
        middles = [sorted((f.box[order] + f.box[order + 2]) / 2 for f in faces) for faces in (whole, shrunk)]
        np.testing.assert_allclose(middles[0], middles[1], atol=6)


def test_a_picture_without_faces(connection: Connection) -> None:
    assert detect(connection, connection.model("face_detection"), read_picture(PICTURES / "cat_120.jpg")) == []


@pytest.mark.skipif(not ORIGINAL.is_dir(), reason="the 2020 model repository is not beside the checkout")
def test_another_family_of_face_detectors(connection: Connection) -> None:
    pixels = read_picture(PICTURES / "test_face.jpg")
    faces = detect(connection, connection.model("ultra_light"), pixels)
    assert len(faces) == 5
    middles = sorted(((f.box[0] + f.box[2]) / 2, (f.box[1] + f.box[3]) / 2) for f in faces)
    np.testing.assert_allclose(middles, FACES["test_face.jpg"], atol=4)


def test_the_server_resizes_to_height_and_width(connection: Connection) -> None:
    model = connection.model("fixed_size")
    pixels = read_picture(PICTURES / "test.jpg")
    answer = connection.infer(model, {"input.1": pixels})
    resized = connection.infer(connection.model("face_detection"), {"input.1": resize(pixels, 64, 96)})
    assert answer["537"].shape == (1, 1, 16, 24)
    np.testing.assert_allclose(answer["537"], resized["537"], atol=1e-5)


def test_a_missing_model_is_named_with_those_that_are_there(connection: Connection) -> None:
    with pytest.raises(RequestError, match="no model `nope` ready") as caught:
        connection.model("nope")
    assert "face_detection" in str(caught.value.expected)


def test_models_of_another_kind_are_refused(connection: Connection) -> None:
    pixels = read_picture(PICTURES / "cat.jpg")
    with pytest.raises(RequestError, match="is not a classifier"):
        classify(connection, connection.model("face_detection"), pixels)
    with pytest.raises(RequestError, match="not a known face detector"):
        detect(connection, connection.model("classification"), pixels)


def test_classify_command(demo: Running) -> None:
    done = run("classify", str(PICTURES / "cat.jpg"), str(PICTURES / "dog.png"), "--url", demo.http_url, "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert [set(result) for result in results] == [{"image", "model", "predictions"}] * 2
    assert set(results[0]["predictions"][0]) == {"label", "index", "probability", "score"}
    assert [len(result["predictions"]) for result in results] == [5, 5]
    assert [result["predictions"][0]["index"] for result in results] == [281, 207]
    table = run("classify", str(PICTURES / "dog.png"), "--url", f"grpc://{demo.grpc_url}", "--top", "1")
    assert "golden retriever" in table.stdout
    assert table.stderr == ""


def test_detect_command(demo: Running, tmp_path: Path) -> None:
    out = tmp_path / "faces.png"
    done = run("detect", str(PICTURES / "test.jpg"), "--url", demo.http_url, "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"image", "model", "width", "height", "faces"}
    assert set(found["faces"][0]) == {"score", "box", "landmarks"}
    assert (found["width"], found["height"], len(found["faces"])) == (1024, 768, 5)
    drawn, plain = decode(out.read_bytes()), read_picture(PICTURES / "test.jpg")
    changed = (drawn != plain).any(axis=-1)
    for face in found["faces"]:
        x1, y1, x2, y2 = (round(v) for v in face["box"])
        assert changed[y1 : y2 + 1, x1].mean() > 0.9
        assert changed[y2, x1 : x2 + 1].mean() > 0.9
    assert changed.mean() < 0.05
    assert str(out) in done.stderr


def test_request_command_makes_a_body_that_the_server_takes(demo: Running) -> None:
    done = run("request", str(PICTURES / "cat.jpg"), "--url", demo.http_url)
    assert done.returncode == 0, done.stderr
    answer = post(demo, "classification", done.stdout)
    assert int(np.argmax(answer["outputs"][0]["data"])) == 281
    files = run("request", str(PICTURES / "cat.jpg"), "--url", demo.http_url, "--model", "picture_label")
    assert files.returncode == 0, files.stderr
    answer = post(demo, "picture_label", files.stdout)
    assert int(np.argmax(answer["outputs"][0]["data"])) == 281
    swapped = run("request", str(PICTURES / "cat.jpg"), "--input", "data", "--resize", "16x8", "--order", "bgr")
    assert swapped.returncode == 0, swapped.stderr
    tensor = json.loads(swapped.stdout)["inputs"][0]
    assert (tensor["name"], tensor["shape"]) == ("data", [16, 8, 3])


def post(demo: Running, model: str, body: str) -> Any:
    address = f"http://{demo.http_url}/v2/models/{model}/infer"
    with urllib.request.urlopen(urllib.request.Request(address, body.encode()), timeout=30) as answer:
        return json.load(answer)


BAD = {
    "model": (["classify", "cat.jpg", "--model", "nope"], 1, "no model `nope` ready"),
    "not a picture": (["classify", "synset.txt"], 1, "not a picture"),
    "ending": (["detect", "cat.jpg", "--out", "x.gif"], 2, "--out"),
    "no file": (["classify", "missing.jpg"], 2, "missing.jpg"),
    "no image": (["classify"], 2, "IMAGE"),
    "scheme": (["classify", "cat.jpg", "--url", "ftp://x"], 2, "--url"),
    "size": (["request", "cat.jpg", "--resize", "0x3"], 2, "--resize"),
}


@pytest.mark.parametrize("what", BAD)
def test_exit_codes(demo: Running, what: str) -> None:
    arguments, code, message = BAD[what]
    words = [str(PICTURES / word) if word.endswith((".jpg", ".txt")) else word for word in arguments]
    done = run(*words, *(["--url", demo.http_url] if "--url" not in words and arguments != ["classify"] else []))
    assert done.returncode == code, done.stderr
    assert message in done.stderr.replace("\n", "")
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_labels_are_the_ones_that_were_fetched(demo: Running) -> None:
    from tnn_serving.cache import cache_folder
    from tnn_serving.demo.labels import TIMM_WHEEL
    from tnn_serving.demo.wheels import fetch

    with connect(demo.http_url) as connection:
        everything = classify(
            connection, connection.model("classification"), read_picture(PICTURES / "cat.jpg"), top=1000
        )
    labels = imagenet_labels(fetch(TIMM_WHEEL, cache_folder()))
    assert [p.label for p in sorted(everything, key=lambda p: p.index)] == labels
    assert sum(p.probability for p in everything) == pytest.approx(1)
