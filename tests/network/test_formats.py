"""One way from a source to a network, whatever the format; and what a further format takes."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import tnn_serving as ts
from tests.networks import CONVOLUTION, network
from tests.onnx_models import convolution, model, random, reference, write
from tnn_serving.check.model import check_model
from tnn_serving.emit.limits import Limits
from tnn_serving.errors import ConfigError, FormatError, LimitError
from tnn_serving.look.summary import summarize
from tnn_serving.network import formats
from tnn_serving.network.base import Network
from tnn_serving.network.formats import model_files, open_network
from tnn_serving.network.tnn import TnnNetwork
from tnn_serving.repository import is_ours
from tnn_serving.triton.background_server import SingleModelRepository
from tnn_serving.triton.overlay import config_of

SOURCES = Path(ts.__file__).parent
X = random(1, 3, 8, 8)


def tnn_repository(folder: Path) -> Path:
    for number in ("1", "2"):
        place = folder / "tnn" / number
        place.mkdir(parents=True)
        graph = network({"x": (int(number), 3, 8, 8)}, CONVOLUTION, ["y"])
        ts.write_model(graph, place / "net.tnnproto", place / "net.tnnmodel")
    return folder / "tnn"


def onnx_repository(folder: Path) -> Path:
    write(convolution((1, 3, 8, 8)), folder / "onnx" / "1")
    write(convolution((2, 3, 8, 8)), folder / "onnx" / "10")
    write(convolution((3, 3, 8, 8)), folder / "onnx" / "9")
    return folder / "onnx"


TNN: dict[str, Callable[[Path], Any]] = {
    "model folder": lambda folder: folder,
    "its name": str,
    "version folder": lambda folder: folder / "2",
    "proto": lambda folder: folder / "2" / "net.tnnproto",
    "pair of paths": lambda folder: (folder / "2" / "net.tnnproto", folder / "2" / "net.tnnmodel"),
    "pair of bytes": lambda folder: tuple((folder / "2" / f"net.tnn{s}").read_bytes() for s in ("proto", "model")),
    "graph": lambda folder: ts.read_model(folder / "2"),
    "network": lambda folder: TnnNetwork(ts.read_model(folder / "2")),
}
ONNX: dict[str, Callable[[Path], Any]] = {
    "model folder": lambda folder: folder,
    "its name": str,
    "version folder": lambda folder: folder / "10",
    "file": lambda folder: folder / "10" / "model.onnx",
    "bytes": lambda folder: (folder / "10" / "model.onnx").read_bytes(),
    "message": lambda folder: onnx.load(folder / "10" / "model.onnx"),
    "network": lambda folder: open_network(folder / "10" / "model.onnx"),
}


@pytest.mark.parametrize("form", TNN)
def test_sources_of_a_tnn_model(tmp_path: Path, form: str) -> None:
    source = TNN[form](tnn_repository(tmp_path))
    assert open_network(source).default_shapes == {"x": (2, 3, 8, 8)}
    assert ts.load(source, "onnxruntime").run({"x": X})["y"].shape == (1, 4, 8, 8)
    assert [item.name for item in ts.to_onnx(source).graph.output] == ["y"]


@pytest.mark.parametrize("form", ONNX)
def test_sources_of_an_onnx_model(tmp_path: Path, form: str) -> None:
    source = ONNX[form](onnx_repository(tmp_path))
    assert open_network(source).default_shapes == {"x": (2, 3, 8, 8)}
    x = random(2, 3, 8, 8)
    wanted = reference(convolution((2, 3, 8, 8)), {"x": x})["y"]
    np.testing.assert_allclose(ts.load(source, "onnxruntime").run({"x": x})["y"], wanted, rtol=1e-5, atol=1e-6)


def test_an_exported_onnx_model_is_the_one_that_is_served() -> None:
    made = ts.to_onnx(convolution(), int8="fast")
    onnx.checker.check_model(made, full_check=True)
    (x,) = made.graph.input
    names = [dim.dim_param or dim.dim_value for dim in x.type.tensor_type.shape.dim]
    assert names == ["x.dim0", 3, "x.dim2", "x.dim3"]
    assert [node.name for node in made.graph.node] == ["Conv_0", "Relu_1", "Sigmoid_2"]
    feeds = {"x": random(2, 3, 5, 6)}
    np.testing.assert_array_equal(reference(made, feeds)["y"], reference(convolution(), feeds)["y"])
    with pytest.raises(ConfigError, match="unknown int8 form"):
        ts.to_onnx(convolution(), int8="slow")


def test_the_files_of_a_model(tmp_path: Path) -> None:
    tnn, onnx_model = tnn_repository(tmp_path), onnx_repository(tmp_path)
    assert [file.name for file in model_files(tnn)] == ["net.tnnproto", "net.tnnmodel"]
    assert model_files(tnn / "1" / "net.tnnproto") == (tnn / "1" / "net.tnnproto", tnn / "1" / "net.tnnmodel")
    assert model_files(onnx_model) == (onnx_model / "10" / "model.onnx",)


def test_tensors_in_files_of_their_own_belong_to_the_model(tmp_path: Path) -> None:
    made = model([helper.make_node("Mul", ["x", "w"], ["y"])], {"x": [2, 4]}, {"y": [2, 4]}, {"w": random(2, 4)})
    (tmp_path / "m" / "1").mkdir(parents=True)
    file = tmp_path / "m" / "1" / "net.onnx"
    onnx.save(made, file, save_as_external_data=True, location="net.data", size_threshold=0)
    assert [found.name for found in model_files(tmp_path / "m")] == ["net.onnx", "net.data"]
    checked, _ = check_model(tmp_path / "m", {})
    assert [found.name for found in checked.versions[0].files] == ["net.onnx", "net.data"]
    x = random(2, 4, seed=1)
    with SingleModelRepository(file) as one:  # behind links, as the server gets it
        answer = ts.load(one.repository / one.name, "onnxruntime").run({"x": x})
    np.testing.assert_allclose(answer["y"], x * random(2, 4), rtol=1e-6)
    (tmp_path / "m" / "1" / "net.data").unlink()
    with pytest.raises(FormatError, match=r"net\.data"):
        ts.load(file)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], r"no model in .*proto\.tnnproto and model\.tnnmodel.*model\.onnx.*nothing"),
        (["notes.txt"], r"no model in .*found notes\.txt"),
        (["a.onnx", "b.onnx"], r"several models in .*rename a\.onnx to model\.onnx"),
        (["a.onnx", "a.tnnproto"], r"two models in .*found a\.tnnproto, a\.onnx"),
        ([".hidden.onnx"], "its name begins with a dot"),
    ],
)
def test_folders_that_hold_no_single_model(tmp_path: Path, files: list[str], said: str) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(FormatError, match=said):
        open_network(tmp_path)


@pytest.mark.parametrize("repository", [tnn_repository, onnx_repository])
def test_files_larger_than_the_memory_for_the_model_are_not_read(
    repository: Callable[[Path], Path], tmp_path: Path
) -> None:
    newest = model_files(repository(tmp_path))[-1]
    os.truncate(newest, 1 << 40)  # sparse: it takes no room on the disk
    with pytest.raises(LimitError, match="larger than the memory for the model") as raised:
        open_network(newest.parent, Limits(memory_bytes=1e9))
    assert raised.value.expected == "at most 1 GB"


def test_what_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="nowhere: cannot be read"):
        open_network(tmp_path / "nowhere")
    (tmp_path / "weights.pt").write_bytes(b"")
    with pytest.raises(FormatError, match=r"no model file by its name: expected \.tnnproto or \.tnnmodel or \.onnx"):
        open_network(tmp_path / "weights.pt")
    for other in (42, bytearray(b"onnx"), None):
        with pytest.raises(ConfigError, match="no source of a model"):
            open_network(other)  # type: ignore[arg-type]


# ---- a further format ----


class Lines:
    """A format of one text file: the dims of an input, and a factor per line. As a third party would write it."""

    name = "Lines"
    suffixes = (".lines",)
    usual = ("model.lines",)
    modules = ()

    def files(self, place: Path) -> tuple[Path, ...]:
        return tuple(place.glob("*.lines")) if place.is_dir() else (place,)

    def takes(self, source: object) -> bool:
        return isinstance(source, dict)

    def open(self, source: Any, limits: Limits) -> Network:
        told = source if isinstance(source, dict) else json.loads(self.files(source)[0].read_text())
        nodes, stored = [], {}
        for k, factor in enumerate(told["factors"]):
            stored[f"f{k}"] = np.array([factor], np.float32)
            nodes.append(helper.make_node("Mul", [f"v{k}" if k else "x", f"f{k}"], [f"v{k + 1}"]))
        return formats.FORMATS[1].open(model(nodes, {"x": told["dims"]}, {f"v{len(nodes)}": None}, stored), limits)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A model folder of a format that is registered with one line."""
    monkeypatch.setattr(formats, "FORMATS", [*formats.FORMATS, Lines()])
    (tmp_path / "scaled" / "1").mkdir(parents=True)
    (tmp_path / "scaled" / "1" / "any.lines").write_text('{"dims": ["n", 2], "factors": [2, 3]}')
    return tmp_path / "scaled"


def test_a_third_format_is_a_package_and_a_line(lines: Path) -> None:
    x = np.float32([[1, 2]])
    for source in (lines, lines / "1", lines / "1" / "any.lines", {"dims": [1, 2], "factors": [6]}):
        (answer,) = ts.load(source, "onnxruntime").run({"x": x}).values()
        assert answer.tolist() == [[6, 12]]
    assert [layer.type for layer in summarize(open_network(lines)).layers] == ["Mul", "Mul"]
    assert is_ours(lines)
    assert config_of(lines) == b'backend: "tnn"\n'
    checked, _ = check_model(lines, {})
    (version,) = checked.versions
    assert ([file.name for file in version.files], version.layers, version.findings) == (["any.lines"], 2, [])
    with SingleModelRepository(lines / "1" / "any.lines") as one:
        assert one.name == "any"
        assert [file.name for file in (one.repository / "any" / "1").iterdir()] == ["model.lines"]
    shutil.copy(lines / "1" / "any.lines", lines / "1" / "other.onnx")
    with pytest.raises(FormatError, match="two models"):
        open_network(lines)


def test_without_its_line_a_format_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "scaled" / "1").mkdir(parents=True)
    (tmp_path / "scaled" / "1" / "any.lines").write_text("{}")
    assert not is_ours(tmp_path / "scaled")
    with pytest.raises(FormatError, match="no model"):
        open_network(tmp_path / "scaled")


FILE_NAME = re.compile(r"(?!ai\.onnx$)[\w./*-]*\.(onnx|tnnproto|tnnmodel)", re.IGNORECASE)
"""``ai.onnx`` is a set of operators."""

ELSEWHERE = {
    "engines/onnxruntime/profile.py": "ONNX Runtime writes its optimised model there",
    "demo/centerface.py": "the name of a file in a package that is downloaded",
}
"""Where a name of a model file may be written besides the formats and their table."""


def named_files(path: Path) -> list[str]:
    """Strings of a module that are the name or suffix of a model file."""
    constants = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Constant)]
    return [node.value for node in constants if isinstance(node.value, str) and FILE_NAME.fullmatch(node.value)]


def test_nothing_else_knows_which_files_make_a_model() -> None:
    modules = {str(path.relative_to(SOURCES)): named_files(path) for path in SOURCES.rglob("*.py")}
    found = {name for name, names in modules.items() if names}
    allowed = {name for name in found if name.startswith("formats/")} | {"network/formats.py"}
    assert found - allowed == set(ELSEWHERE)


def test_the_message_of_a_caller_stays_as_it_is() -> None:
    made = convolution()
    before = made.SerializeToString(deterministic=True)
    assert open_network(made).layers()[0].name == "Conv_0"
    assert made.SerializeToString(deterministic=True) == before
