"""Installing the backend into another Triton's backend directory, without changing other files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tnn_serving.errors import ConfigError, ServerError
from tnn_serving.triton.install import Interpreter, find_interpreter, install, uninstall
from tnn_serving.triton.launch import BACKEND_LIBRARY, find_libpython
from tnn_serving.version import VERSION

pytestmark = pytest.mark.skipif(not BACKEND_LIBRARY.is_file(), reason="the backend library has not been built")

SOME = Interpreter(Path("/some where/bin/python"), Path("/lib/libpython3.99.so.1.0"))


@pytest.fixture
def backends(tmp_path: Path) -> Path:
    """A Triton's backend directory with another backend in it."""
    (tmp_path / "backends" / "onnxruntime").mkdir(parents=True)
    return tmp_path / "backends"


def test_library_and_settings_are_installed(backends: Path) -> None:
    folder = install(backends, SOME)
    assert folder == backends / "tnn"
    assert sorted(os.listdir(folder)) == ["libtriton_tnn.so", "python.conf"]
    assert (folder / "libtriton_tnn.so").read_bytes() == BACKEND_LIBRARY.read_bytes()
    assert (folder / "python.conf").read_text().splitlines()[1:] == [
        "TNN_LIBPYTHON=/lib/libpython3.99.so.1.0",
        "TNN_PYTHON=/some where/bin/python",
    ]


def test_an_earlier_installation_is_replaced(backends: Path) -> None:
    folder = install(backends, SOME)
    (folder / "libtriton_tnn.so").write_bytes(b"older")
    other = Interpreter(Path("/other/bin/python"), SOME.libpython)
    install(backends, other)
    assert (folder / "libtriton_tnn.so").read_bytes() == BACKEND_LIBRARY.read_bytes()
    assert (folder / "python.conf").read_text() == other.settings


def test_uninstalling_leaves_nothing_and_touches_nothing_else(backends: Path) -> None:
    install(backends, SOME)
    uninstall(backends)
    assert os.listdir(backends) == ["onnxruntime"]
    with pytest.raises(ConfigError, match="is not installed there"):
        uninstall(backends)


@pytest.mark.parametrize("names", [["libtriton_tnn.so"], ["python.conf"], ["model.py", "libtriton_tnn.so"]])
def test_files_of_others_are_not_changed(backends: Path, names: list[str]) -> None:
    (backends / "tnn").mkdir()
    for name in names:
        (backends / "tnn" / name).write_text("theirs")
    for attempt in (lambda: install(backends, SOME), lambda: uninstall(backends)):
        with pytest.raises(ConfigError, match="files that are not ours") as raised:
            attempt()
        assert raised.value.found == ", ".join(sorted(names))
    assert {path.read_text() for path in (backends / "tnn").iterdir()} == {"theirs"}


def test_files_added_to_our_folder_are_kept(backends: Path) -> None:
    folder = install(backends, SOME)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not ours") as raised:
        uninstall(backends)
    assert raised.value.found == "notes.txt"
    assert (folder / "libtriton_tnn.so").exists()


def test_wrong_directories_are_named(backends: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such backend directory"):
        install(tmp_path / "missing", SOME)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tritonserver").touch()
    with pytest.raises(ConfigError) as raised:
        install(tmp_path, SOME)
    assert raised.value.hint == f"give {tmp_path}/backends"
    (backends / "tnn").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="is in the way"):
        install(backends, SOME)


@pytest.mark.slow
def test_this_python_can_serve() -> None:
    found = find_interpreter()
    assert found == Interpreter(Path(sys.executable), find_libpython())
    assert found.settings.startswith(f"# Written by `tnn-serving backend install` {VERSION}\n")


def test_a_python_that_can_not_serve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="no such Python"):
        find_interpreter(str(tmp_path / "python"))
    # The same Python without its packages.
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(ServerError, match="can't serve models") as raised:
        find_interpreter(str(bare))
    assert "tnn_serving" in str(raised.value.found)
    assert f"{bare} -m pip install tnn_serving-{VERSION}-*.whl" in str(raised.value.hint)
