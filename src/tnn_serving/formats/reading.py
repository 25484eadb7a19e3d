"""Reading the files of a folder that others may write to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tnn_serving.errors import FormatError


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raises FormatError for what waits for ever or never ends when it is read: a pipe, a device."""
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise FormatError("not a regular file", expected="a file, or a link to one")


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
                stat = os.stat(entry.path) if os.path.exists(entry.path) else entry.stat(follow_symlinks=False)
                found[entry.name] = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise FormatError(f"{folder} cannot be read: {error.strerror}") from error
    return found
