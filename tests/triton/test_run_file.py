"""Commands without an address find the servers of this user on this machine, and no others."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer

from tests.servers import wait_for
from tnn_serving.cli.pictures import _local
from tnn_serving.triton.run_file import RunningServer, announced, run_folder, running_servers

SERVER = RunningServer("http://127.0.0.1:9000", "grpc://127.0.0.1:9001", ("models",))

OTHER = """
import sys, time
from tnn_serving.triton.run_file import RunningServer, announced
with announced(RunningServer(f"http://127.0.0.1:{sys.argv[1]}", None, ("more",))):
    print("there", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "tnn-serving"


@contextmanager
def other(port: int) -> Iterator[subprocess.Popen[str]]:
    """A process that announces a server on a port, and is killed at the end."""
    command = [sys.executable, "-c", OTHER, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_server_is_found_while_it_runs(folder: Path) -> None:
    assert running_servers() == []
    with announced(SERVER):
        assert running_servers() == [SERVER]
        assert _local(None) == "http://127.0.0.1:9000"
        assert _local("grpc") == "grpc://127.0.0.1:9001"
        (file,) = folder.iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()
    assert _local(None) is None


def test_what_a_killed_server_leaves_is_ignored_and_removed(folder: Path) -> None:
    with other(9000) as process:
        assert [server.http for server in running_servers()] == ["http://127.0.0.1:9000"]
    assert [file.name for file in folder.iterdir()] == [f"{process.pid}.json"]
    wait_for(lambda: running_servers() == [], "the lock of a dead process is free")
    assert list(folder.iterdir()) == []


def test_several_servers_are_named() -> None:
    with other(9100), announced(SERVER):
        with pytest.raises(typer.BadParameter, match="several servers run on this machine") as raised:
            _local(None)
        assert "http://127.0.0.1:9000 serves models" in raised.value.message
        assert "http://127.0.0.1:9100 serves more" in raised.value.message
        assert _local("grpc") == "grpc://127.0.0.1:9001"  # the only one


def test_of_several_servers_the_usual_port_is_the_default() -> None:
    with other(8000), announced(SERVER):
        assert _local(None) is None


def test_files_of_others_do_not_count(folder: Path) -> None:
    with announced(SERVER):
        folder.chmod(0o777)
        assert running_servers() == []
        folder.chmod(0o700)
        (file,) = folder.iterdir()
        (folder / "1.json").symlink_to(file)
        (folder / "2.json").mkdir()
        assert running_servers() == [SERVER]


def test_a_folder_that_cannot_be_used_keeps_no_server_from_running(folder: Path) -> None:
    folder.write_text("")
    with announced(SERVER):
        assert running_servers() == []


def test_without_a_runtime_folder_a_private_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert run_folder().name == f"tnn-serving.{os.geteuid()}"
    with announced(SERVER):
        assert SERVER in running_servers()
        assert stat.S_IMODE(run_folder().stat().st_mode) == 0o700
