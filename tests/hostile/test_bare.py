"""Commands where there is next to nothing: no home, no entry for the user, nothing writable but one folder, and
64 KB of shared memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.models import write_model
from tests.hostile.serve_once import serve_once

pytestmark = pytest.mark.slow

USER = 43210

PREPARE = f"""
set -e
mount -t tmpfs -o size=64k tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs "$1"
mount -o remount,bind,ro /
export TMPDIR="$1"
shift
exec unshare --user --map-user={USER} --map-group={USER} -- "$@"
"""

PROBE = """
import os, pwd, sys
assert os.getuid() == int(sys.argv[1])
assert "HOME" not in os.environ
try:
    pwd.getpwuid(os.getuid())
except KeyError:
    pass
else:
    raise SystemExit("the user has an entry")
try:
    open("/written", "w")
except OSError:
    pass
else:
    raise SystemExit("the root can be written to")
shared = os.statvfs("/dev/shm")
assert shared.f_blocks * shared.f_frsize == 65536
open(os.path.join(os.environ["TMPDIR"], "written"), "w").close()
"""


@pytest.fixture
def bare(tmp_path: Path) -> list[str]:
    """The command that runs another one so."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare (util-linux) is not installed")
    writable = tmp_path / "writable"
    writable.mkdir()
    namespaces = [unshare, "--user", "--map-root-user", "--mount"]
    command = ["env", "-u", "HOME", *namespaces, "sh", "-c", PREPARE, "sh", str(writable)]
    tried = subprocess.run(
        [*command, sys.executable, "-c", PROBE, str(USER)], capture_output=True, text=True, timeout=60
    )
    if tried.returncode:
        pytest.skip(f"such a place cannot be made here: {tried.stderr.strip()}")
    return command


def program(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("tnn-serving")), *arguments]


@pytest.mark.parametrize(
    "command",
    [
        ["--version"],
        ["check", "REPOSITORY"],
        ["prepare", "REPOSITORY"],
        ["inspect", "REPOSITORY/relu"],
        ["compare", "REPOSITORY/relu", "REPOSITORY/relu"],
        ["export", "REPOSITORY/relu", "-o", "WRITABLE/relu.onnx"],
        ["bench", "--layers", "REPOSITORY/relu"],
        ["install-server", "--dry-run"],
    ],
    ids=lambda command: command[0],
)
def test_commands(bare: list[str], tmp_path: Path, command: list[str]) -> None:
    write_model(tmp_path / "models", "relu")
    places = {"REPOSITORY": str(tmp_path / "models"), "WRITABLE": bare[-1]}
    arguments = list(command)
    for name, place in places.items():
        arguments = [part.replace(name, place) for part in arguments]
    done = subprocess.run([*bare, *program(*arguments)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Permission denied" not in done.stderr


def test_serving(installed: None, bare: list[str], tmp_path: Path) -> None:
    write_model(tmp_path / "models", "relu")
    done = subprocess.run([*bare, *serve_once(tmp_path / "models")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Permission denied" not in done.stdout
