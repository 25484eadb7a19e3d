"""``load`` of the package: in this process, or prepared by a worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tnn_serving as ts
from tests.networks import CONVOLUTION, network
from tnn_serving.errors import ConfigError, FormatError, RequestError
from tnn_serving.model import Model
from tnn_serving.session import Session

pytestmark = pytest.mark.slow

GRAPH = network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"])
X = np.random.default_rng(0).standard_normal((2, 3, 9, 5)).astype(np.float32)


@pytest.fixture(params=["model folder", "version folder", "proto", "onnx"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A path that `load` takes."""
    version = tmp_path / "net" / "1"
    version.mkdir(parents=True)
    if request.param == "onnx":
        onnx.save(ts.to_onnx(GRAPH), version / "any.onnx")
        return version / "any.onnx"
    ts.write_model(GRAPH, version / "any.tnnproto", version / "any.tnnmodel")
    places = {"model folder": tmp_path / "net", "version folder": version, "proto": version / "any.tnnproto"}
    return places[request.param]


def test_what_a_worker_prepares_answers_alike(source: Path) -> None:
    made, wanted = ts.load(source, "openvino", prepare=True), ts.load(source, "openvino")
    assert isinstance(wanted, Model)
    assert not isinstance(made, Model)
    assert (made.engine, made.inputs, made.outputs) == (wanted.engine, wanted.inputs, wanted.outputs)
    np.testing.assert_array_equal(made.run({"x": X})["y"], wanted.run({"x": X})["y"])
    with pytest.raises(RequestError, match="`x`"):
        made.run({"x": X[0]})


def test_it_is_kept_in_the_cache(tmp_path: Path) -> None:
    ts.write_model(GRAPH, tmp_path / "net.tnnproto", tmp_path / "net.tnnmodel")
    first, second = (ts.load(tmp_path, prepare=True, threads=1, cache_dir=tmp_path / "cache") for _ in range(2))
    assert list((tmp_path / "cache" / "prepared").glob("*.json"))
    np.testing.assert_array_equal(first.run({"x": X})["y"], second.run({"x": X})["y"])


@pytest.mark.parametrize(
    ("options", "text"),
    [({"thread": 1}, "unknown option `thread`"), ({"profile": True}, "`profile` cannot be combined with prepare")],
)
def test_options_that_no_worker_takes(tmp_path: Path, options: dict[str, Any], text: str) -> None:
    ts.write_model(GRAPH, tmp_path / "net.tnnproto", tmp_path / "net.tnnmodel")
    with pytest.raises(ConfigError, match=text):
        ts.load(tmp_path, prepare=True, **options)


def test_sources_that_no_worker_takes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"only files can be prepared: expected a path"):
        ts.load(GRAPH, prepare=True)
    with pytest.raises(FormatError, match="no model"):
        ts.load(tmp_path, prepare=True)


def test_errors_name_the_file_that_was_given(tmp_path: Path) -> None:
    (tmp_path / "net.tnnproto").write_text("nothing")
    (tmp_path / "net.tnnmodel").write_bytes(b"")
    with pytest.raises(FormatError) as caught:
        ts.load(tmp_path, prepare=True)
    assert str(tmp_path / "net.tnnproto") in str(caught.value)


def test_both_are_sessions() -> None:
    assert issubclass(Model, Session)


def test_each_load_closes_its_own(tmp_path: Path) -> None:
    ts.write_model(GRAPH, tmp_path / "net.tnnproto", tmp_path / "net.tnnmodel")
    first, second = (ts.load(tmp_path, "onnxruntime", prepare=True) for _ in range(2))
    wanted = first.run(X)["y"]
    assert repr(first).startswith(f"PreparedSession {tmp_path / 'net.tnnproto'} on onnxruntime, f32")
    first.close()
    np.testing.assert_array_equal(second.run(X)["y"], wanted)
    with pytest.raises(RequestError, match="the model is closed"):
        first.run(X)
