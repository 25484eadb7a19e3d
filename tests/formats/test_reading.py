"""Reading a file once: what it is and how large it is are known before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tnn_serving.emit.limits import Limits
from tnn_serving.errors import ConfigError, FormatError, LimitError
from tnn_serving.formats.reading import FileKind, chunks, opened, read_file

TERABYTE = 1 << 40
SMALL = FileKind("a note", ConfigError, 10, "write less")
ANY = FileKind("anything")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    return path


def test_a_file_within_its_limits(file: Path) -> None:
    assert read_file(file, SMALL, Limits(memory_bytes=10)) == b"0123456789"
    assert b"".join(chunks(file, SMALL)) == b"0123456789"


def test_the_apparent_size_counts(file: Path) -> None:
    os.truncate(file, TERABYTE)
    with pytest.raises(ConfigError) as caught:
        read_file(file, SMALL)
    expected = f"file is too large for a note: expected at most 10 bytes, found {TERABYTE} bytes (write less)"
    assert str(caught.value) == expected
    with pytest.raises(ConfigError):
        next(chunks(file, SMALL))


def test_the_memory_for_the_model_counts(file: Path) -> None:
    with pytest.raises(LimitError, match=r"larger than the memory for the model: expected at most 9 bytes"):
        read_file(file, SMALL, Limits(memory_bytes=9))


def test_more_than_there_is_memory(file: Path) -> None:
    os.truncate(file, TERABYTE)
    with pytest.raises(LimitError, match=r"larger than the memory there is: found 1\.1e\+03 GB"):
        read_file(file, ANY)


def test_what_is_appended_is_not_read(file: Path) -> None:
    with opened(file, SMALL) as (stream, size):
        with file.open("ab") as more:
            more.truncate(TERABYTE)
        assert stream.read(size) == b"0123456789"
    file.write_bytes(b"0123456789")
    pieces = chunks(file, ANY)
    first = next(pieces)
    with file.open("ab") as more:
        more.truncate(TERABYTE)
    assert first + b"".join(pieces) == b"0123456789"


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_what_is_no_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        os.mknod(path, 0o140600)
    with pytest.raises(ConfigError, match="not a regular file"):
        read_file(path, SMALL)


def test_a_pipe_that_was_a_file_a_moment_ago(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = os.stat(file)
    file.unlink()
    os.mkfifo(file)
    monkeypatch.setattr(os, "stat", lambda path: facts)
    with pytest.raises(ConfigError, match="not a regular file"):
        read_file(file, SMALL)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory"):
        read_file(tmp_path / "absent", SMALL)
    with pytest.raises(FormatError, match="cannot be read: Is a directory"):
        read_file(tmp_path, ANY)
