"""Servers that ``serve`` has started for this user on this machine, for commands that are given no address.

Each has a file, ``PID.json``, that its supervisor keeps locked: the lock is free once the process is gone, however it
ended, so that what a killed one leaves behind is known and removed. Only files of this user count, of mode 0600, in a
folder of mode 0700.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

RUN_FILE_SUFFIX = ".json"
MAX_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server of this user.

    Attributes:
        http, grpc: its addresses with their schemes; ``None`` for an endpoint that it does not have.
        repositories: what it serves, as it was given.
    """

    http: str | None
    grpc: str | None
    repositories: tuple[str, ...]


def run_folder() -> Path:
    """``$XDG_RUNTIME_DIR/tnn-serving`` (XDG Base Directory Specification), or a folder of this user in the system's
    temporary one."""
    base = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    return base / "tnn-serving" if base.is_absolute() else Path(tempfile.gettempdir(), f"tnn-serving.{os.geteuid()}")


@contextmanager
def announced(server: RunningServer) -> Iterator[None]:
    """Lets :func:`running_servers` find a server of this process inside the block.

    A user whose folder cannot be written, or is not the user's own, is served all the same.
    """
    folder = run_folder()
    file, lock = folder / f"{os.getpid()}{RUN_FILE_SUFFIX}", -1
    try:
        with suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _is_own(folder):
                fresh = file.with_suffix(".new")
                fresh.unlink(missing_ok=True)
                lock = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
                fcntl.flock(lock, fcntl.LOCK_EX)
                os.write(lock, json.dumps(asdict(server)).encode())
                fresh.rename(file)  # locked before it can be found
        yield
    finally:
        if lock >= 0:
            with suppress(OSError):  # the folder may be another server's as well
                file.unlink(missing_ok=True)
                folder.rmdir()
            os.close(lock)


def running_servers() -> list[RunningServer]:
    """The servers of this user, those that were started first before others. Removes what dead ones have left."""
    folder = run_folder()
    found: list[tuple[float, RunningServer]] = []
    if not (folder.is_dir() and _is_own(folder)):
        return []
    for file in folder.glob(f"*{RUN_FILE_SUFFIX}"):
        with suppress(OSError, ValueError, TypeError, KeyError):
            handle = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if _is_free(handle):
                    file.unlink()
                    continue
                facts = os.fstat(handle)
                if stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid():
                    text = json.loads(os.read(handle, MAX_BYTES))
                    server = RunningServer(text["http"], text["grpc"], tuple(map(str, text["repositories"])))
                    found.append((facts.st_mtime, server))
            finally:
                os.close(handle)
    return [server for _, server in sorted(found, key=lambda item: item[0])]


def _is_own(folder: Path) -> bool:
    facts = folder.lstat()
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o022


def _is_free(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
