"""Which files make a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.formats.tnn.handmade import MODEL, PROTO, model, proto
from tnn_serving.errors import FormatError, ProtoError, WeightsError
from tnn_serving.formats.reading import unchanged
from tnn_serving.formats.tnn import read_model, write_model
from tnn_serving.formats.tnn.files import tnn_files


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(MODEL if name.endswith("model") else PROTO)


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["proto.tnnproto", "model.tnnmodel"], ("proto.tnnproto", "model.tnnmodel")),
        (["a.tnnproto", "b.tnnmodel"], ("a.tnnproto", "b.tnnmodel")),
        (["proto.tnnproto", "model.tnnmodel", "a.tnnproto", "b.tnnmodel"], ("proto.tnnproto", "model.tnnmodel")),
        (
            ["1/proto.tnnproto", "1/model.tnnmodel", "10/proto.tnnproto", "10/model.tnnmodel", "9/x", "config.pbtxt"],
            ("10/proto.tnnproto", "10/model.tnnmodel"),
        ),
    ],
)
def test_folder_with_a_model(tmp_path: Path, files: list[str], found: tuple[str, str]) -> None:
    put(tmp_path, *files)
    assert tnn_files(tmp_path) == (tmp_path / found[0], tmp_path / found[1])
    assert read_model(tmp_path).layer("mul").stored
    assert read_model(str(tmp_path)).source == str(tmp_path / found[0])


@pytest.mark.parametrize("files", [[], ["a.tnnproto"], ["a.tnnmodel"], ["v1/proto.tnnproto"]])
def test_folder_without_a_model(tmp_path: Path, files: list[str]) -> None:
    put(tmp_path, *files)
    with pytest.raises(FormatError, match=r"no model in .*proto\.tnnproto and model\.tnnmodel"):
        read_model(tmp_path)


@pytest.mark.parametrize(
    ("name", "beside"),
    [("a.tnnproto", "a.tnnmodel"), ("proto.tnnproto", "proto.tnnmodel"), ("proto.tnnproto", "model.tnnmodel")],
)
def test_model_beside_a_proto(tmp_path: Path, name: str, beside: str) -> None:
    put(tmp_path, name, beside, "other.tnnmodel")
    assert read_model(tmp_path / name).layer("mul").stored


def test_proto_alone(tmp_path: Path) -> None:
    put(tmp_path, "a.tnnproto", "b.tnnmodel")
    graph = read_model(tmp_path / "a.tnnproto")
    assert not graph.layer("mul").stored
    assert graph.model_bytes is None
    assert write_model(graph)[1] == model()
    assert read_model(tmp_path / "a.tnnproto", tmp_path / "b.tnnmodel").layer("mul").stored


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ProtoError, match=r"gone\.tnnproto: cannot be read"):
        read_model(tmp_path / "gone.tnnproto")
    with pytest.raises(WeightsError, match=r"gone\.tnnmodel: cannot be read"):
        read_model(PROTO, tmp_path / "gone.tnnmodel")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_model(PROTO, tmp_path)


def test_message_names_the_file(tmp_path: Path) -> None:
    put(tmp_path, "a.tnnproto", "a.tnnmodel")
    (tmp_path / "a.tnnmodel").write_bytes(MODEL[:100])
    with pytest.raises(WeightsError) as caught:
        read_model(tmp_path / "a.tnnproto")
    assert caught.value.where == (str(tmp_path / "a.tnnmodel"), "entry 0 `conv` (Convolution)")


def test_empty_file_is_mapped(tmp_path: Path) -> None:
    (tmp_path / "e.tnnmodel").touch()
    graph = read_model(proto("ReLU r 1 1 x y"), tmp_path / "e.tnnmodel")
    assert write_model(graph)[1] == b""


def test_writing_fails_without_a_trace(tmp_path: Path) -> None:
    graph = read_model(PROTO, MODEL)
    with pytest.raises(OSError, match="directory"):
        write_model(graph, tmp_path / "a.tnnproto", tmp_path / "none" / "a.tnnmodel")
    graph.layers[0].name = "a b"
    with pytest.raises(FormatError):
        write_model(graph, tmp_path / "b.tnnproto", tmp_path / "b.tnnmodel")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tnnproto"]


def test_file_that_is_too_large_for_a_proto(tmp_path: Path) -> None:
    with open(tmp_path / "big.tnnproto", "wb") as file:
        file.write(PROTO)
        file.truncate(1 << 40)
    with pytest.raises(ProtoError, match="too large"):
        read_model(tmp_path / "big.tnnproto")


def test_a_folder_that_stays_as_it_is_is_unchanged(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("nowhere")
    with unchanged(tmp_path):
        (tmp_path / "file").read_bytes()


def _append(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"x")


def _exchange(file: Path) -> None:
    (file.parent.parent / "other").write_bytes(file.read_bytes())
    (file.parent.parent / "other").rename(file)


@pytest.mark.parametrize("change", [_append, _exchange, Path.unlink], ids=["written", "replaced", "removed"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_change_while_a_folder_is_read_is_told(tmp_path: Path, change: Callable[[Path], None], fails: bool) -> None:
    """And explains whatever else went wrong."""
    folder = tmp_path / "1"
    folder.mkdir()
    (folder / "file").write_bytes(b"content")

    def read() -> None:
        with unchanged(folder):
            change(folder / "file")
            if fails:
                raise WeightsError("cut off")

    with pytest.raises(FormatError, match="changed while they were read") as told:
        read()
    assert told.value.found == "file"
    assert isinstance(told.value.__cause__, WeightsError) == fails


def test_other_errors_go_through(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cut off"), unchanged(tmp_path):
        raise WeightsError("cut off")


def test_weights_that_are_not_mapped_stay_when_the_file_is_cut(tmp_path: Path) -> None:
    for name, content in (("proto.tnnproto", PROTO), ("model.tnnmodel", MODEL)):
        (tmp_path / name).write_bytes(content)
    graph = read_model(tmp_path, mapped=False)
    with (tmp_path / "model.tnnmodel").open("r+b") as file:
        file.truncate(0)
    assert write_model(graph) == (PROTO, MODEL)
