"""Sums of model folders: what is compared, what is refused, and that sha256sum agrees."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.models import RELU, write_model
from tnn_serving.config.model_config import ModelConfig
from tnn_serving.errors import ConfigError, FormatError
from tnn_serving.prepare.manifest import MANIFEST, check_manifest, read_manifest, sign, verify
from tnn_serving.serving.servable import Servable


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = write_model(tmp_path, "net", config="max_batch_size: 2\n")
    write_model(tmp_path, "net", version=2)
    (folder / "labels.txt").write_text("one\n")
    (folder / "1" / "with space.txt").write_text("x")
    return folder


def problems(folder: Path, version: int | None = None) -> list[str]:
    return [error.problem for error in verify(folder, version=version)]


def test_sha256sum_takes_what_sign_writes(model: Path) -> None:
    path = sign(model)
    done = subprocess.run(["sha256sum", "--check", "--strict", MANIFEST], cwd=model, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == len(path.read_text().splitlines()) == 7
    assert problems(model) == []
    sign(model)
    assert MANIFEST not in read_manifest(path)


def test_sign_takes_what_sha256sum_writes(model: Path) -> None:
    names = sorted(path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file())
    sums = subprocess.run(["sha256sum", "--binary", *names], cwd=model, capture_output=True, check=True).stdout
    (model / MANIFEST).write_bytes(sums)
    assert problems(model) == []


def test_each_difference_is_named(model: Path) -> None:
    sign(model)
    (model / "1" / "proto.tnnproto").write_bytes(RELU.replace(b"8 8", b"8 9"))
    (model / "labels.txt").unlink()
    (model / "2" / "more.bin").write_bytes(b"")
    assert problems(model) == [
        "file `1/proto.tnnproto` has changed",
        f"file `2/more.bin` is not in {MANIFEST}",
        "file `labels.txt` is missing",
    ]
    assert problems(model, 2) == [f"file `2/more.bin` is not in {MANIFEST}", "file `labels.txt` is missing"]


def test_a_configuration_as_serve_completes_it_counts_as_the_signed_one(model: Path) -> None:
    sign(model)
    config = model / "config.pbtxt"
    config.write_bytes(config.read_bytes() + b'\nbackend: "tnn"\n')
    assert problems(model) == []
    config.write_bytes(b"max_batch_size: 3\n" + b'\nbackend: "tnn"\n')
    assert problems(model) == ["file `config.pbtxt` has changed"]
    config.unlink()
    sign(model)
    config.write_bytes(b'backend: "tnn"\n')
    assert problems(model) == []
    config.write_bytes(b'backend: "tnn"\nmax_batch_size: 3\n')
    assert problems(model) == [f"file `config.pbtxt` is not in {MANIFEST}"]


@pytest.mark.parametrize(
    "text",
    [
        b"hello\n",
        b"0" * 64 + b" x\n",
        b"0" * 64 + b"  /etc/passwd\n",
        b"0" * 64 + b"  1/../../x\n",
        b"\xff\xfe",
        b"\0" * 99,
    ],
)
def test_manifests_that_are_none(model: Path, text: bytes) -> None:
    (model / MANIFEST).write_bytes(text)
    with pytest.raises(FormatError, match=MANIFEST):
        verify(model)


def test_folders_that_cannot_be_signed(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such folder"):
        sign(tmp_path / "absent")
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "again").symlink_to(tmp_path / "loop")
    with pytest.raises(FormatError, match="nested too deeply"):
        sign(tmp_path / "loop")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "proto.tnnproto")
    with pytest.raises(FormatError, match="not a regular file"):
        sign(tmp_path / "pipe")
    (tmp_path / "name").mkdir()
    (tmp_path / "name" / "a\nb").write_text("")
    with pytest.raises(FormatError, match="cannot hold the name"):
        sign(tmp_path / "name")


def test_a_manifest_that_is_a_link_to_nothing(model: Path) -> None:
    (model / MANIFEST).symlink_to("absent")
    with pytest.raises(FormatError, match="cannot be read"):
        check_manifest(model, version=1, required=False)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text + text.splitlines()[0] + "\n", "is a second sum of file"),
        (lambda text: text + f"{'0' * 64}  ./{text.splitlines()[0][66:]}\n", "is a second sum of file"),
        (lambda text: text.replace("\n", "\r\n"), "line 1 ends with a carriage return"),
    ],
)
def test_manifests_that_mean_two_things(model: Path, change: Callable[[str], str], problem: str) -> None:
    sign(model)
    text = (model / MANIFEST).read_text()
    (model / MANIFEST).write_bytes(change(text).encode())
    with pytest.raises(FormatError, match=problem):
        check_manifest(model, version=1, required=False)


@pytest.mark.parametrize("name", ["1/libtriton_tnn.so", "libtriton_tnn.so", "1/other.so.3"])
def test_code_is_neither_signed_nor_loaded(model: Path, name: str) -> None:
    sign(model)
    (model / name).write_bytes(b"\x7fELF")
    with pytest.raises(ConfigError, match=f"file `{name}` is a shared library"):
        sign(model)
    with pytest.raises(ConfigError, match=f"file `{name}` is a shared library"):
        Servable.open(model, ModelConfig(), version=1)


def test_loading_compares(model: Path) -> None:
    check_manifest(model, version=1, required=False)
    with pytest.raises(FormatError, match="require_manifest"):
        Servable.open(model, ModelConfig(), version=1, options={"require-manifest": "true"})
    sign(model)
    Servable.open(model, ModelConfig(), version=1, options={"require-manifest": "true"}).close()
    (model / "1" / "model.tnnmodel").write_bytes(bytes(8))
    with pytest.raises(FormatError, match=r"model `net`, version 1: file `1/model\.tnnmodel` has changed"):
        Servable.open(model, ModelConfig(), version=1)


def test_a_model_folder_cannot_take_back_what_the_operator_says(model: Path) -> None:
    config = ModelConfig(parameters={"require_manifest": "false"})
    Servable.open(model, config, version=1).close()
    with pytest.raises(FormatError, match="require_manifest"):
        Servable.open(model, config, version=1, options={"require_manifest": "true"})
