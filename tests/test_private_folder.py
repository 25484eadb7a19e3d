"""Folders of one process: closed to others, gone with it, and removed by the next one if it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tnn_serving.private_folder import LOCK, PREFIX, PrivateFolder

HOLD = """
import sys
from tnn_serving.private_folder import PrivateFolder
folder = PrivateFolder()
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_it_is_its_users_own_and_goes_when_it_is_closed(temporary: Path) -> None:
    folder = PrivateFolder()
    assert folder.path.stat().st_mode & 0o777 == 0o700
    (folder.path / "file").write_text("")
    folder.close()
    folder.close()
    assert not list(temporary.iterdir())


def test_those_of_the_killed_are_removed_and_those_of_the_living_stay() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        held = Path(process.stdout.readline().strip())
        first = PrivateFolder()
        assert held.is_dir()
        process.send_signal(signal.SIGKILL)
        process.wait()
        second = PrivateFolder()
        assert not held.exists()
        assert first.path.is_dir()
        first.close()
        second.close()


def test_what_is_not_ours_stays(temporary: Path) -> None:
    other = temporary / f"{PREFIX}other"
    other.mkdir()
    trap = temporary / f"{PREFIX}trap"
    trap.mkdir()
    (trap / LOCK).symlink_to("/etc/hostname")
    pipe = temporary / f"{PREFIX}pipe"
    pipe.mkdir()
    os.mkfifo(pipe / "other")
    PrivateFolder().close()
    assert {path.name for path in temporary.iterdir()} == {other.name, trap.name, pipe.name}
