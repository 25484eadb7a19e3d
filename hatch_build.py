"""Build hook: compiles the Triton backend ``libtriton_tnn.so``, and ``load_guard.so``, which ``serve`` loads into
tritonserver, when a wheel or an editable install is made.

The C sources need no headers of Triton or Python and are linked to neither, so one build serves every Python. The
system's C compiler is used when there is one; otherwise zig's, which comes from PyPI as a build dependency. zig links
against glibc 2.17's symbols, so what it builds is tagged manylinux; what the system's compiler builds is good for this
machine and its like. ``TNN_SERVING_COMPILER=zig`` (or ``cc``) in the environment decides otherwise; release wheels are
built with zig.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ZIG_REQUIREMENT = "ziglang>=0.13"
SOURCES = Path("src/tnn_serving/triton/backend")
# Triton wants <backend directory>/<backend>/libtriton_<backend>.so, and a real file: it refuses links to the outside.
LIBRARY = Path("src/tnn_serving/triton/backends/tnn/libtriton_tnn.so")
GUARD = Path("src/tnn_serving/triton/guard/load_guard.so")
# The language and the warnings, one flag per line; clangd reads this file too. Only the tests make warnings errors: a
# newer compiler, with warnings that this code has not met, must not stop an installation.
COMPILE_FLAGS = SOURCES / "compile_flags.txt"
FLAGS = ["-shared", "-fPIC", "-O2", "-fvisibility=hidden", "-s"]
# nodelete: Triton unloads a backend that failed to start, but Python's threads and those that end later still need it.
LINKS = ["-Wl,-z,nodelete", "-lpthread", "-ldl"]


class BackendBuildHook(BuildHookInterface):
    """Compiles the backend; on other systems than Linux, where no tritonserver runs, the package comes without it."""

    def dependencies(self) -> list[str]:
        """Packages the build needs: zig, when there is no C compiler."""
        return [ZIG_REQUIREMENT] if on_linux() and compiler() == "zig" else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles when needed and tells hatchling the wheel's tag. ``version`` is "standard" or "editable"."""
        if not on_linux():
            self.app.display_warning("no Linux: built without the Triton backend")
            return
        root = Path(self.root)
        # A wheel's tag says which compiler built the library, so only an editable install may reuse an older one.
        if version != "editable" or is_stale(root):
            compile_backend(root)
        build_data["artifacts"] += [f"/{LIBRARY}", f"/{GUARD}"]
        build_data["pure_python"] = False
        system = "manylinux_2_17" if compiler() == "zig" else "linux"
        build_data["tag"] = f"py3-none-{system}_{platform.machine()}"


def on_linux() -> bool:
    return sys.platform == "linux"


def compiler() -> str:
    """Which compiler builds the library: "cc" or "zig"."""
    return os.environ.get("TNN_SERVING_COMPILER") or ("cc" if shutil.which("cc") else "zig")


def sources(root: Path, library: Path) -> list[Path]:
    folder = root / (SOURCES if library == LIBRARY else library.parent)
    return sorted([*folder.glob("*.c"), *(root / SOURCES).glob("*.h")])


def is_stale(root: Path) -> bool:
    """Whether a library is missing or older than a source or this file."""
    return any(_is_stale(root, library) for library in (LIBRARY, GUARD))


def _is_stale(root: Path, library: Path) -> bool:
    inputs = [*sources(root, library), root / COMPILE_FLAGS, Path(__file__)]
    built = root / library
    return not built.exists() or built.stat().st_mtime < max(path.stat().st_mtime for path in inputs)


def compile_backend(root: Path) -> None:
    """Compiles both libraries; a running server keeps the files it has open."""
    for library in (LIBRARY, GUARD):
        _compile(root, library)


def _compile(root: Path, library: Path) -> None:
    built = root / library
    built.parent.mkdir(parents=True, exist_ok=True)
    fresh = built.with_suffix(".so.new")
    if compiler() == "zig":
        command = [sys.executable, "-m", "ziglang", "cc", "-target", f"{platform.machine()}-linux-gnu.2.17"]
    else:
        command = ["cc"]
    units = [str(path) for path in sources(root, library) if path.suffix == ".c"]
    try:
        subprocess.run([*command, f"@{root / COMPILE_FLAGS}", *FLAGS, "-o", str(fresh), *units, *LINKS], check=True)
        fresh.replace(built)
    finally:
        fresh.unlink(missing_ok=True)


if __name__ == "__main__":  # `python hatch_build.py`: compile after a change to the C sources
    compile_backend(Path(__file__).parent)
