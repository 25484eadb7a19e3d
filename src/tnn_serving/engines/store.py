"""Files that can be made again, in a folder that may be full, gone, or changed by others.

What is read is exactly what was written under that name, or nothing: each file begins with the SHA-256 of its name and
of the rest. Nothing that goes
wrong here is an error; what is missing is made again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

DIGEST_BYTES = 65
"""The hash in hex, and a line feed."""

CAPACITY_BYTES = 8 << 30
"""Most that the files of a folder may take together; the least recently used go first."""


class FileStore:
    """The files of one folder, which is made when something is first put there; with ``None`` nothing is stored."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, name: str) -> bytes | None:
        """The content of a file, if it is what was put there."""
        if self.folder is None:
            return None
        try:
            stored = _read(self.folder / name)
            with suppress(OSError):  # a folder that may only be read does as well
                os.utime(self.folder / name)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("%s cannot be read: %s", self.folder / name, error.strerror or error)
            return None
        content = stored[DIGEST_BYTES:]
        if stored[:DIGEST_BYTES] != _digest(name, content):
            log.warning("%s is damaged, and is made again", self.folder / name)
            return None
        return content

    def has(self, name: str) -> bool:
        """Whether there is a file of this name, whatever is in it."""
        return self.folder is not None and (self.folder / name).is_file()

    def remove(self, name: str) -> None:
        """Forgets a file. One that cannot be removed is logged."""
        if self.folder is not None:
            try:
                (self.folder / name).unlink(missing_ok=True)
            except OSError as error:
                log.warning("%s cannot be removed: %s", self.folder / name, error.strerror or error)

    def put(self, name: str, content: bytes) -> bool:
        """Stores a content in one step, and says whether it is stored. A full disk, or a folder that cannot be written
        to, is logged."""
        if self.folder is None:
            return False
        scratch: str | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, scratch = tempfile.mkstemp(dir=self.folder, prefix=".")
            with os.fdopen(handle, "wb") as file:
                file.write(_digest(name, content))
                file.write(content)
            os.replace(scratch, self.folder / name)
            self._make_room(self.folder)
        except OSError as error:
            log.warning("nothing can be stored in %s: %s", self.folder, error.strerror or error)
            if scratch is not None:
                with suppress(OSError):
                    os.unlink(scratch)
            return False
        return True

    @staticmethod
    def _make_room(folder: Path) -> None:
        found = []
        for file in folder.iterdir():
            with suppress(FileNotFoundError):  # another server may be making room here
                facts = file.stat()
                if stat.S_ISREG(facts.st_mode):
                    found.append((facts.st_mtime, facts.st_size, file))
        too_much = sum(size for _, size, _ in found) - CAPACITY_BYTES
        for _, size, file in sorted(found)[:-1]:
            if too_much <= 0:
                return
            file.unlink(missing_ok=True)
            too_much -= size


def _read(file: Path) -> bytes:
    """The content of a regular file; nothing of a pipe, which would wait for its other end, or a device."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as opened:
        return opened.read() if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""


def _digest(name: str, content: bytes) -> bytes:
    digest = hashlib.sha256(name.encode() + b"\0")
    digest.update(content)
    return digest.hexdigest().encode() + b"\n"
