"""Reading the files of a folder that others may write to.

A file is opened once. It must be a regular one, and its size is known before any of it is read; what is appended
meanwhile is not read. The size is the apparent one: a sparse file takes as much memory as any other when it is read.
"""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tnn_serving.emit.limits import UNLIMITED, Limits, bytes_text
from tnn_serving.errors import FormatError, LimitError, TnnError

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FileKind:
    """A kind of file, and how large one may be.

    Attributes:
        name: with its article.
        error: raised for one that cannot be read or is too large.
        most_bytes: far above what such a file needs.
        advice: what to do about a larger one.
    """

    name: str
    error: type[TnnError] = FormatError
    most_bytes: float = math.inf
    advice: str | None = None

    def check(self, size: int) -> None:
        """Raises :attr:`error` for one that is too large."""
        if size > self.most_bytes:
            raise self.error(
                f"file is too large for {self.name}",
                expected=f"at most {self.most_bytes} bytes",
                found=f"{size} bytes",
                hint=self.advice,
            )


ANY_FILE = FileKind("a file")


def check_fits(what: str, size: int, limits: Limits) -> None:
    """Raises LimitError for files that are larger than the memory for the model, where they are read whole."""
    if size > limits.memory_bytes:
        raise LimitError(
            f"{what} larger than the memory for the model",
            expected=f"at most {bytes_text(limits.memory_bytes)}",
            found=bytes_text(size),
            hint="the parameter `memory_limit_bytes` allows more",
        )


@contextmanager
def opened(
    path: str | os.PathLike[str], kind: FileKind = ANY_FILE, limits: Limits = UNLIMITED
) -> Iterator[tuple[io.BufferedReader, int]]:
    """A file to be read, and its size.

    Raises:
        TnnError: of the kind's class: it is not a regular file, too large, or cannot be read, also later in the block.
        LimitError: it is larger than the memory that it may use.
    """
    try:
        # Opening a device may already do something; opening a pipe waits for its other end.
        _check_regular(os.stat(path), kind)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            facts = os.fstat(descriptor)
            _check_regular(facts, kind)
            check_fits("the file is", facts.st_size, limits)
            kind.check(facts.st_size)
            yield file, facts.st_size
    except OSError as error:
        raise kind.error(f"cannot be read: {error.strerror or error}") from error


def read_file(path: str | os.PathLike[str], kind: FileKind, limits: Limits = UNLIMITED) -> bytes:
    """The content of a file. Raises as :func:`opened`."""
    with opened(path, kind, limits) as (file, size):
        try:
            return file.read(size)
        except MemoryError:
            raise LimitError("the file is larger than the memory there is", found=bytes_text(size)) from None


def chunks(path: str | os.PathLike[str], kind: FileKind = ANY_FILE) -> Iterator[bytes]:
    """The content of a file piece by piece. Raises as :func:`opened`."""
    with opened(path, kind) as (file, left):
        while piece := file.read(min(left, CHUNK_BYTES)):
            yield piece
            left -= len(piece)


def _check_regular(facts: os.stat_result, kind: FileKind) -> None:
    """Raises for what waits for ever or never ends when it is read: a pipe, a device. A folder cannot be opened."""
    if not stat.S_ISREG(facts.st_mode) and not stat.S_ISDIR(facts.st_mode):
        raise kind.error("not a regular file", expected="a file, or a link to one")


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """For as long as the files of a folder are read: they must be the same ones, of the same size, at the end.

    Raises:
        FormatError: the folder was written to meanwhile, which also explains whatever error the reading gave.
    """
    before = _state(folder)
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    after = _state(folder)
    if after != before:
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        raise FormatError(
            f"files of {folder} changed while they were read",
            found=", ".join(changed),
            hint="copy a new version to another name and rename it into place when it is complete",
        ) from failure
    if failure is not None:
        raise failure


def _state(folder: Path) -> dict[str, tuple[int, ...]]:
    """What tells a file from another one, or from itself after it was written to."""
    found: dict[str, tuple[int, ...]] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                facts = os.stat(entry.path) if os.path.exists(entry.path) else entry.stat(follow_symlinks=False)
                found[entry.name] = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    except OSError as error:
        raise FormatError(f"{folder} cannot be read: {error.strerror}") from error
    return found
