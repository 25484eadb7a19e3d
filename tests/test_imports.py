"""What importing a module costs: the command line and the server import no more than they use."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

import tnn_serving
from tests.imports import COMPILING, COMPUTING, LATER, imports_of, imports_of_command
from tnn_serving.cli.app import COMMANDS

pytestmark = pytest.mark.slow

SOURCE = Path(tnn_serving.__file__).parent

ROOMS = ("config", "pictures", "engines")
"""Packages of which everything is light, but for what an engine runs in."""

LIGHT = (
    "tnn_serving.admission",
    "tnn_serving.analysis",
    "tnn_serving.engines.onnxruntime.engine",
    "tnn_serving.engines.openvino.engine",
    "tnn_serving.network.analyse",
    "tnn_serving.network.base",
    "tnn_serving.network.formats",
    "tnn_serving.network.int8",
    "tnn_serving.network.views",
    "tnn_serving.prepare.configuring",
    "tnn_serving.prepare.loaded",
    "tnn_serving.prepare.model_version",
    "tnn_serving.prepare.opened",
    "tnn_serving.prepare.preparation",
    "tnn_serving.prepare.prepared",
    "tnn_serving.prepare.side_files",
    "tnn_serving.prepare.warming",
    "tnn_serving.repository",
    "tnn_serving.serving.observer",
    "tnn_serving.serving.parallel",
    "tnn_serving.serving.pictures",
    "tnn_serving.serving.servable",
    "tnn_serving.serving.tensors",
    "tnn_serving.serving.workers",
    "tnn_serving.session",
    "tnn_serving.triton.backend.bridge",
    "tnn_serving.triton.backend.contract",
    "tnn_serving.triton.backend.errors",
    "tnn_serving.triton.backend.failures",
    "tnn_serving.triton.backend.memory",
    "tnn_serving.triton.backend.metrics",
)
"""Further modules that serving a prepared network needs."""


def in_rooms() -> list[str]:
    found = (path for room in ROOMS for path in (SOURCE / room).glob("*.py") if path.stem != "__init__")
    return sorted(f"tnn_serving.{path.parent.name}.{path.stem}" for path in found)


@pytest.mark.parametrize("module", [*in_rooms(), *LIGHT])
def test_serving_a_prepared_network_imports_nothing_that_makes_one(module: str) -> None:
    assert imports_of(module, COMPILING) == []


@pytest.mark.parametrize(
    "module", ["openvino.executable", "openvino.plugin", "openvino.restoring", "onnxruntime.session"]
)
def test_running_a_compiled_network_imports_its_engine_and_no_onnx(module: str) -> None:
    engines = {"openvino", "onnxruntime"}
    assert imports_of(f"tnn_serving.engines.{module}", [name for name in COMPILING if name not in engines]) == []


MODULES_OF_COMMANDS = sorted({listed.module for listed in COMMANDS.values()})


@pytest.mark.parametrize("module", ["tnn_serving", "tnn_serving.triton.supervise", *MODULES_OF_COMMANDS])
def test_the_command_line_imports_what_a_command_needs_when_it_runs(module: str) -> None:
    assert imports_of(module, COMPUTING) == []


def test_the_package_imports_what_is_used_of_it() -> None:
    assert imports_of("tnn_serving", [*COMPUTING, *LATER, "typer", "tnn_serving.model", "tnn_serving.formats"]) == []


def test_version_and_help_import_nothing_that_computes_or_draws() -> None:
    assert imports_of_command(["--version"], [*COMPUTING, *LATER]) == []
    assert imports_of_command(["serve", "--help"], [*COMPUTING, "rich", "prometheus_client"]) == []
    assert imports_of_command(["--help"], [*COMPUTING, "prometheus_client"]) == []


def test_a_server_is_started_before_anything_computes(installed: None, repository: Path) -> None:
    """Its ports are looked at last: here, one is in use."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = ["serve", str(repository), f"--http-port={taken.getsockname()[1]}"]
        later = ["prometheus_client", "tnn_serving.shield.front", "tnn_serving.engines", "tnn_serving.check"]
        assert imports_of_command(words, [*COMPUTING, *later], code=1) == []


def test_a_command_imports_no_other_one() -> None:
    assert imports_of("tnn_serving.cli.app", MODULES_OF_COMMANDS) == []


def test_pillow_is_imported_for_encoded_pictures_only() -> None:
    assert imports_of("tnn_serving.serving.pictures", ["PIL", "nanoarrow"]) == []


def test_an_import_is_reported_with_what_asked_for_it() -> None:
    (first, *_) = imports_of("tnn_serving.model", ["onnx"])
    assert first.startswith("imported: onnx < tnn_serving.")
    assert first.endswith(" < tnn_serving.model < __main__")
