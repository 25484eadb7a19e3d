"""Puts the backend into a Triton that somebody else starts, such as one in a container.

Triton looks for ``BACKENDS/tnn/libtriton_tnn.so``. The library learns from the file ``python.conf`` beside it which
Python to start, since there is no launcher of ours that would put it into the environment.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tnn_serving.errors import ConfigError, ServerError
from tnn_serving.triton.launch import BACKEND_LIBRARY
from tnn_serving.version import VERSION

BACKEND = "tnn"
SETTINGS = "python.conf"
SIGN = "# Written by `tnn-serving backend install`"
"""How the settings begin: a folder with them is ours."""

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
"""What a Python is asked: whether it can serve, and for its shared library."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python with this package.

    Attributes:
        executable: as in ``<venv>/bin/python``; links are not followed, since that would lead out of the environment.
        libpython: its shared library.
    """

    executable: Path
    libpython: Path

    @property
    def settings(self) -> str:
        """Content of ``python.conf``."""
        return f"{SIGN} {VERSION}\nTNN_LIBPYTHON={self.libpython}\nTNN_PYTHON={self.executable}\n"


def find_interpreter(python: str = sys.executable) -> Interpreter:
    """A Python that can serve, asked in a process of its own as a server would see it.

    Args:
        python: its path, or a name to look for on PATH.

    Raises:
        ServerError: there is none, this package can't be imported there or is of another version, or the Python has no
            shared library.
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
    """Puts library and settings into ``backends/tnn``; an earlier installation is replaced.

    Args:
        backends: a Triton's backend directory.
        interpreter: what the backend is to start.

    Returns:
        The folder.

    Raises:
        ConfigError: there is no such directory, it is no backend directory, or its ``tnn`` holds files that are not
            ours.
        ServerError: the library has not been built.
    """
    folder = _folder(backends)
    if not BACKEND_LIBRARY.is_file():
        raise ServerError("the Triton backend has not been built", expected=BACKEND_LIBRARY)
    try:
        folder.mkdir(exist_ok=True)
        # A server that runs keeps the file that it has open. The settings come first: they sign the folder as ours.
        _write(folder / SETTINGS, interpreter.settings.encode())
        _write(folder / BACKEND_LIBRARY.name, BACKEND_LIBRARY.read_bytes())
    except OSError as error:
        raise ConfigError(f"{folder} can't be written: {error.strerror}") from error
    return folder


def uninstall(backends: Path) -> Path:
    """Removes what :func:`install` put there.

    Raises:
        ConfigError: nothing of ours is there, or other files are.
    """
    folder = _folder(backends)
    if not folder.exists():
        raise ConfigError("the backend is not installed there", expected=folder, found="nothing")
    try:
        for name in (BACKEND_LIBRARY.name, SETTINGS):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
    except OSError as error:
        raise ConfigError(f"{folder} can't be removed: {error.strerror}") from error
    return folder


def _folder(backends: Path) -> Path:
    """The backend's folder, when nothing of others is in it."""
    backends = backends.absolute()
    if not backends.is_dir():
        raise ConfigError("no such backend directory", expected="a folder of backends", found=backends)
    if (backends / "bin" / "tritonserver").exists():
        raise ConfigError("this is where Triton is, not its backends", found=backends, hint=f"give {backends}/backends")
    folder = backends / BACKEND
    if not folder.exists() and not folder.is_symlink():
        return folder
    if folder.is_symlink() or not folder.is_dir():
        raise ConfigError(f"{folder} is in the way", expected="a folder", found="a link or a file")
    foreign = {entry.name for entry in folder.iterdir()}
    if _is_ours(folder):
        foreign -= {SETTINGS, BACKEND_LIBRARY.name}
    if foreign:
        raise ConfigError(
            f"{folder} holds files that are not ours",
            expected=f"{BACKEND_LIBRARY.name} and {SETTINGS} of an earlier installation, or nothing",
            found=", ".join(sorted(foreign)),
            hint="another backend has this name; move the folder away first",
        )
    return folder


def _is_ours(folder: Path) -> bool:
    settings = folder / SETTINGS
    return settings.is_file() and settings.read_bytes().startswith(SIGN.encode())


def _write(file: Path, content: bytes) -> None:
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        fresh.write_bytes(content)
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)
