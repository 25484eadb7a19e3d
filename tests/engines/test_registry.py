"""Engines are found by name, each is imported when it is needed, and nothing outside their room knows one by name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import tnn_serving
from tests.engines.third_party.onnx_reference_engine import ReferenceEngine
from tnn_serving.engines import ENGINES, following_onnx
from tnn_serving.engines.registry import BUILT_IN, GROUP, Registry
from tnn_serving.errors import ConfigError, EngineError

SOURCES = Path(tnn_serving.__file__).parent
MODULE = "tests.engines.third_party.onnx_reference_engine"


def strings(file: Path) -> Iterator[tuple[int, str]]:
    """Line and text of the strings of a module, without docstrings."""
    tree = ast.parse(file.read_text())
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.lineno, node.value


def test_engines_are_named_in_their_own_room_only() -> None:
    names = re.compile("|".join(rf"\b{name}\b" for name in ENGINES))
    elsewhere = [file for file in SOURCES.rglob("*.py") if "engines" not in file.relative_to(SOURCES).parts]
    rooms = [file for file in elsewhere if file.name != "own_files.py"]  # it names backends of Triton
    assert len(rooms) > 100
    found = [f"{file}:{line}: {text}" for file in rooms for line, text in strings(file) if names.search(text)]
    assert not found
    own = (SOURCES / "engines").rglob("*.py")
    assert any(names.search(text) for file in own for _, text in strings(file))


LOAD = """
import sys
import tnn_serving as ts
from tests.networks import CONVOLUTION, network
from tnn_serving.engines import ENGINES
packages = {"openvino", "onnxruntime"}
assert not packages & set(sys.modules), "import tnn_serving"
assert all(engine.version() and engine.title for engine in ENGINES.values())
assert not packages & set(sys.modules), "asking engines what they can"
model = ts.load(network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"]), sys.argv[1])
model.run(model.samples())
print(*sorted(packages & set(sys.modules)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_is_imported_when_it_compiles_and_no_other_one(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOAD, name], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [name]


def test_names() -> None:
    assert list(ENGINES)[:2] == ["openvino", "onnxruntime"]
    assert [engine.name for engine in ENGINES.named("auto")] == list(ENGINES)
    assert [engine.name for engine in ENGINES.named("onnxruntime")] == ["onnxruntime"]
    with pytest.raises(ConfigError, match="auto, openvino, onnxruntime"):
        ENGINES.named("ort")


def test_the_engine_whose_meaning_is_onnx() -> None:
    trusted = following_onnx(ENGINES.values())
    assert trusted is not None
    assert trusted.name == "onnxruntime"
    assert following_onnx([ENGINES["openvino"]]) is None


def test_a_registered_engine_is_one_of_them() -> None:
    engines = Registry(BUILT_IN)
    engine = ReferenceEngine()
    engines.register(engine)
    assert engines["reference"] is engine
    assert list(engines)[-1] == "reference"
    assert engines.named("auto")[-1] is engine
    assert "reference" not in ENGINES
    with pytest.raises(ConfigError, match="there is an engine `reference` already"):
        engines.register(ReferenceEngine())


def found_in_packages(monkeypatch: pytest.MonkeyPatch, **points: str) -> Registry:
    """The engines where other packages have entry points."""
    made = [EntryPoint(name, value, GROUP) for name, value in points.items()]
    monkeypatch.setattr("tnn_serving.engines.registry.entry_points", lambda *, group: made if group == GROUP else [])
    return Registry(BUILT_IN)


def test_an_engine_of_another_package_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = found_in_packages(monkeypatch, reference=f"{MODULE}:ReferenceEngine")
    assert list(engines) == ["openvino", "onnxruntime", "reference"]
    assert isinstance(engines["reference"], ReferenceEngine)
    assert engines["reference"] is engines["reference"]


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("broken", "no_such_module:Engine", "cannot be imported from no_such_module:Engine"),
        ("broken", f"{MODULE}:NoSuchClass", "cannot be imported"),
        ("broken", f"{MODULE}:ReferenceEngine", "is not the engine `broken`"),
        ("broken", "builtins:dict", "is not the engine `broken`"),
    ],
)
def test_an_engine_that_cannot_be_imported_keeps_no_other_one_from_running(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str, value: str, problem: str
) -> None:
    engines = found_in_packages(monkeypatch, **{name: value})
    assert [engine.name for engine in engines.named("auto")] == ["openvino", "onnxruntime"]
    assert problem in caplog.text
    with pytest.raises(EngineError, match=re.escape(problem)):
        engines.named(name)


def test_no_package_replaces_an_engine(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    engines = found_in_packages(monkeypatch, openvino=f"{MODULE}:ReferenceEngine", auto=f"{MODULE}:ReferenceEngine")
    assert list(engines) == ["openvino", "onnxruntime"]
    assert engines["openvino"].title == "OpenVINO"
    assert "engine `openvino`" in caplog.text
    assert "engine `auto`" in caplog.text
