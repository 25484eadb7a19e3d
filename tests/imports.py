"""What a fresh Python process imports, with the chain of modules that asked for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection
from importlib.metadata import packages_distributions

WATCH = """
import sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if any(name == one or name.startswith(one + ".") for one in WATCHED):
            chain, frame = [name], sys._getframe(1)
            while frame is not None:
                asking = frame.f_globals.get("__name__", "")
                if asking != chain[-1] and "importlib" not in asking:
                    chain.append(asking)
                frame = frame.f_back
            print("imported:", " < ".join(chain), file=sys.stderr, flush=True)
        return None

sys.meta_path.insert(0, Watch())
"""

COMPILING = ("onnx", "onnx_ir", "sympy", "openvino", "onnxruntime", "tnn_serving.layers", "tnn_serving.translate")
"""What translation and compilation import."""

LATER = ("rich", "prometheus_client", "pydantic")
"""What is only needed to show something, to measure, or to read the words of a command."""

COMPUTING = (*COMPILING, "numpy", "google.protobuf", "grpc", "tritonclient", "PIL", "nanoarrow", "msgspec", "psutil")
"""What a process can do without that neither computes nor sends requests."""


def watched(names: Collection[str], program: str) -> str:
    """A program that reports to stderr each import of a module named here, or of one inside it."""
    installed = packages_distributions()
    missing = [name for name in names if name.split(".")[0] not in {*installed, "tnn_serving"}]
    assert not missing, f"renamed or not needed any more: {missing}"
    return f"WATCHED = {tuple(names)!r}\n{WATCH}\n{program}\n"


def reported(stderr: str) -> list[str]:
    """The imports in the output of a watched program."""
    return [line for line in stderr.splitlines() if line.startswith("imported:")]


def imports_of_command(words: Collection[str], names: Collection[str], *, code: int = 0) -> list[str]:
    """Those of some modules that the program imports with a command line, until it ends with a code."""
    program = f"import sys; sys.argv = {['tnn-serving', *words]!r}\nfrom tnn_serving.cli.app import main\nmain()"
    command = [sys.executable, "-c", watched(names, program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    return reported(done.stderr)


def imports_of(module: str, names: Collection[str]) -> list[str]:
    """Those of some modules that importing a module in a fresh interpreter imports."""
    command = [sys.executable, "-c", watched(names, f"import {module}")]
    return reported(subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stderr)
