"""Installs the backend into a Triton that is started without this package's launcher, such as one in a container.

Triton looks for ``BACKENDS/tnn/libtriton_tnn.so``. As no launcher sets the environment, the library reads the Python to
start from the file ``python.conf`` beside it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tnn_serving.config.model_config import BACKEND
from tnn_serving.errors import ConfigError, ServerError
from tnn_serving.triton.launch import BACKEND_LIBRARY
from tnn_serving.version import VERSION

SETTINGS_FILE = "python.conf"
SIGNATURE = "# Written by `tnn-serving backend install`"
"""First line of the settings: marks a folder as ours."""

_PROBE = """
import json, sys
from tnn_serving.errors import TnnError
from tnn_serving.serving import servable
from tnn_serving.triton.launch import find_libpython
from tnn_serving.version import VERSION
try:
    print(json.dumps({"version": VERSION, "libpython": str(find_libpython())}))
except TnnError as error:
    sys.exit(str(error))
"""
"""Checks whether a Python can serve, and prints its shared library."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python with this package.

    Attributes:
        executable: as in ``<venv>/bin/python``; links are not resolved, since they lead out of the environment.
        libpython: its shared library.
    """

    executable: Path
    libpython: Path

    @property
    def settings(self) -> str:
        """Content of ``python.conf``."""
        return f"{SIGNATURE} {VERSION}\nTNN_LIBPYTHON={self.libpython}\nTNN_PYTHON={self.executable}\n"


def find_interpreter(python: str = sys.executable) -> Interpreter:
    """A Python that can serve, checked in a separate process.

    Args:
        python: its path, or a name on PATH.

    Raises:
        ServerError: there is no such Python, this package cannot be imported there or has another version, or the
            Python has no shared library.
    """
    found = shutil.which(python)
    if found is None:
        raise ServerError("no such Python", expected="an executable file", found=python)
    executable = Path(found).absolute()
    done = subprocess.run([str(executable), "-c", _PROBE], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError(
            f"{executable} can't serve models",
            found=(done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1],
            hint=f"install this package there: {executable} -m pip install tnn_serving-{VERSION}-*.whl",
        )
    answer = json.loads(done.stdout.splitlines()[-1])
    if answer["version"] != VERSION:
        raise ServerError(
            f"{executable} has another version of this package", expected=VERSION, found=answer["version"]
        )
    return Interpreter(executable, Path(answer["libpython"]))


def install(backends: Path, interpreter: Interpreter) -> Path:
    """Writes library and settings to ``backends/tnn``; an earlier installation is replaced.

    Args:
        backends: backend directory of a Triton.
        interpreter: the Python that the backend starts.

    Returns:
        The folder.

    Raises:
        ConfigError: there is no such directory, it is not a backend directory, or its ``tnn`` contains files that are
            not ours.
        ServerError: the library has not been built.
    """
    folder = _folder(backends)
    if not BACKEND_LIBRARY.is_file():
        raise ServerError("the Triton backend has not been built", expected=BACKEND_LIBRARY)
    try:
        folder.mkdir(exist_ok=True)
        # A running server keeps its open file. The settings are written first: they mark the folder as ours.
        _write(folder / SETTINGS_FILE, interpreter.settings.encode())
        _write(folder / BACKEND_LIBRARY.name, BACKEND_LIBRARY.read_bytes())
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}") from error
    return folder


def uninstall(backends: Path) -> Path:
    """Removes what :func:`install` has written.

    Raises:
        ConfigError: the backend is not installed there, or the folder contains other files.
    """
    folder = _folder(backends)
    if not folder.exists():
        raise ConfigError("the backend is not installed there", expected=folder, found="nothing")
    try:
        for name in (BACKEND_LIBRARY.name, SETTINGS_FILE):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
    except OSError as error:
        raise ConfigError(f"{folder} cannot be removed: {error.strerror}") from error
    return folder


def _folder(backends: Path) -> Path:
    """The backend's folder, if it contains no files of others."""
    backends = backends.absolute()
    if not backends.is_dir():
        raise ConfigError("no such backend directory", expected="a folder of backends", found=backends)
    if (backends / "bin" / "tritonserver").exists():
        raise ConfigError(
            "this is Triton's folder, not its backend directory", found=backends, hint=f"give {backends}/backends"
        )
    folder = backends / BACKEND
    if not folder.exists() and not folder.is_symlink():
        return folder
    if folder.is_symlink() or not folder.is_dir():
        raise ConfigError(f"{folder} is in the way", expected="a folder", found="a link or a file")
    foreign = {entry.name for entry in folder.iterdir()}
    if _is_ours(folder):
        foreign -= {SETTINGS_FILE, BACKEND_LIBRARY.name}
    if foreign:
        raise ConfigError(
            f"{folder} contains files that are not ours",
            expected=f"{BACKEND_LIBRARY.name} and {SETTINGS_FILE} of an earlier installation, or nothing",
            found=", ".join(sorted(foreign)),
            hint="another backend has this name; move the folder away first",
        )
    return folder


def _is_ours(folder: Path) -> bool:
    settings = folder / SETTINGS_FILE
    return settings.is_file() and settings.read_bytes().startswith(SIGNATURE.encode())


def _write(file: Path, content: bytes) -> None:
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        fresh.write_bytes(content)
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)
