"""The program itself: version and help."""

from __future__ import annotations

import subprocess

import tnn_serving as ts
from tests.program import command, run


def test_version_and_help() -> None:
    process = subprocess.run(command("--version"), capture_output=True, text=True, timeout=120, check=True)
    assert process.stdout == f"tnn-serving {ts.__version__}\n"
    assert process.stderr == ""
    for name in (
        "serve",
        "install-server",
        "classify",
        "detect",
        "request",
        "bench",
        "tune",
        "inspect",
        "compare",
        "export",
    ):
        told = run(name, "--help")
        assert told.returncode == 0
        assert "Example" in told.stdout, name
