"""Files that can be made again: how much of them is kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tnn_serving.engines import store
from tnn_serving.engines.store import DIGEST_BYTES, FileStore

SIZE = 1000


def test_what_was_not_used_for_longest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "CAPACITY_BYTES", 3 * (SIZE + DIGEST_BYTES))
    files = FileStore(tmp_path)
    for k, name in enumerate("abc"):
        files.put(name, bytes([k]) * SIZE)
        os.utime(tmp_path / name, (k, k))  # in the order of their making, however coarse the clock
    assert files.get("a") == bytes(SIZE)  # used, and the youngest now
    files.put("d", b"d" * SIZE)
    assert {file.name for file in tmp_path.iterdir()} == {"a", "c", "d"}


def test_the_newest_stays_however_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "CAPACITY_BYTES", 10)
    files = FileStore(tmp_path)
    (tmp_path / "measurements").mkdir()
    for name in "ab":
        files.put(name, b"x" * SIZE)
    assert {file.name for file in tmp_path.iterdir()} == {"measurements", "b"}
    assert files.get("b") == b"x" * SIZE


def test_entries_that_are_swapped_are_made_again(tmp_path: Path) -> None:
    """Each has its own name inside, so that another one with a right digest is no answer."""
    files = FileStore(tmp_path)
    for name in "ab":
        assert files.put(name, name.encode() * SIZE)
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "b").rename(tmp_path / "a")
    (tmp_path / "c").rename(tmp_path / "b")
    assert files.get("a") is None
    assert files.get("b") is None


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_entries_that_are_no_files_are_made_again(tmp_path: Path, kind: str) -> None:
    entry = tmp_path / "a"
    {"pipe": lambda: os.mkfifo(entry), "device": lambda: entry.symlink_to("/dev/zero"), "folder": entry.mkdir}[kind]()
    files = FileStore(tmp_path)
    assert files.get("a") is None
    assert files.put("a", b"x") == (kind != "folder")
    assert files.get("a") == (None if kind == "folder" else b"x")
