"""Which files of a folder make a model: hidden files, copies, suffixes in upper case, and what messages say."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

import numpy as np
import pytest

import tnn_serving as ts
from tests.formats.test_content import onnx_bytes
from tests.formats.tnn.handmade import MODEL, PROTO, X, Y, proto
from tnn_serving.check.repository import check
from tnn_serving.errors import FormatError, ServerError
from tnn_serving.formats.candidates import copies, has_suffix
from tnn_serving.formats.onnx import onnx_file
from tnn_serving.formats.tnn.files import tnn_files
from tnn_serving.random_weights import network_name
from tnn_serving.repository import check_repository, is_ours, model_folders
from tnn_serving.triton.background_server import SingleModelRepository
from tnn_serving.triton.overlay import Overlay

APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(60)
RELU = proto("ReLU r 1 1 x y")


def put(folder: Path, *names: str) -> None:
    """Files with what their names promise; hidden ones with what macOS puts into them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        suffix = Path(name.lower()).suffix
        content = {".tnnproto": PROTO, ".tnnmodel": MODEL, ".onnx": onnx_bytes()}.get(suffix, b"text")
        (folder / name).write_bytes(APPLE_DOUBLE if name.startswith(".") else content)


def refusal(folder: Path) -> FormatError:
    """The error of loading a folder."""
    with pytest.raises(FormatError) as caught:
        ts.load(folder, engine="onnxruntime")
    return caught.value


# ---- upper case ----

SPELLINGS = ["tnnproto", "TNNPROTO", "TnnProto"], ["tnnmodel", "TNNMODEL", "TnnModel"]


@pytest.mark.parametrize(("first", "second"), list(itertools.product(*SPELLINGS)))
@pytest.mark.parametrize("names", [("proto", "model"), ("PROTO", "Model"), ("NET", "NET"), ("net", "weights")])
def test_suffixes_in_any_case(tmp_path: Path, names: tuple[str, str], first: str, second: str) -> None:
    put(tmp_path, f"{names[0]}.{first}", f"{names[1]}.{second}", "README.TXT")
    assert np.array_equal(ts.load(tmp_path, engine="onnxruntime").run({"x": X})["y"], Y)
    assert ts.read_model(tmp_path).source == str(tmp_path / f"{names[0]}.{first}")


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("NET.TNNPROTO", "NET.TNNMODEL"),
        ("net.TNNPROTO", "net.tnnmodel"),
        ("net.tnnproto", "net.TNNMODEL"),
        ("Net.tnnproto", "NET.tnnmodel"),
        ("PROTO.TNNPROTO", "MODEL.TNNMODEL"),
    ],
)
def test_weights_beside_a_proto(tmp_path: Path, name: str, beside: str) -> None:
    put(tmp_path, name, beside, "other.tnnmodel", "._net.tnnmodel")
    assert ts.read_model(tmp_path / name).layer("mul").stored
    with SingleModelRepository(tmp_path / name) as served:
        version = served.repository / served.name / "1"
        assert tnn_files(version) == (version / "proto.tnnproto", version / "model.tnnmodel")
        assert (version / "model.tnnmodel").resolve() == (tmp_path / beside).resolve()


def test_exact_case_is_taken_first(tmp_path: Path) -> None:
    put(tmp_path, "PROTO.TNNPROTO", "proto.tnnproto", "model.tnnmodel", "Model.tnnmodel")
    assert tnn_files(tmp_path) == (tmp_path / "proto.tnnproto", tmp_path / "model.tnnmodel")


def test_cases_between_which_nothing_decides(tmp_path: Path) -> None:
    put(tmp_path, "PROTO.tnnproto", "Proto.tnnproto", "model.tnnmodel")
    assert refusal(tmp_path).found == "PROTO.tnnproto, Proto.tnnproto, model.tnnmodel"


@pytest.mark.parametrize("name", ["model.onnx", "MODEL.ONNX", "Net.OnnX"])
def test_onnx_in_any_case(tmp_path: Path, name: str) -> None:
    put(tmp_path, name, "._other.onnx")
    assert onnx_file(tmp_path) == tmp_path / name
    for source in (tmp_path, tmp_path / name):
        assert ts.load(source, engine="onnxruntime").run({"x": np.full((1, 4), -1, np.float32)})["y"].tolist() == [
            [0.0] * 4
        ]


def test_names_of_networks() -> None:
    assert network_name("models/bench_NET.TNNPROTO") == network_name("models/NET.tnnproto") == "NET"


@pytest.mark.parametrize("names", [("NET.TNNPROTO", "NET.TNNMODEL"), ("Net.OnnX",)])
def test_repository_with_upper_case(tmp_path: Path, names: tuple[str, ...]) -> None:
    put(tmp_path / "net" / "1", *names)
    assert is_ours(tmp_path / "net")
    checked = check([tmp_path])
    assert not checked.errors, checked
    assert [file.name for file in checked.models[0].versions[0].files] == list(names)
    with Overlay([str(tmp_path)]) as overlay:
        assert Path(overlay.locations[0], "net", "config.pbtxt").read_bytes() == b'backend: "tnn"\n'
    with pytest.raises(ServerError, match="is a model, not a repository"):
        check_repository(tmp_path / "net")
    with pytest.raises(ServerError, match="holds a model's files itself"):
        check_repository(tmp_path / "net" / "1")


# ---- hidden files ----


@pytest.mark.parametrize("hidden", ["._{}", ".{}", "._{}.swp", ".#{}"])
@pytest.mark.parametrize(
    "names", [("net.tnnproto", "net.tnnmodel"), ("proto.tnnproto", "model.tnnmodel"), ("net.onnx",)]
)
@pytest.mark.slow
def test_hidden_files_are_ignored(tmp_path: Path, names: tuple[str, ...], hidden: str) -> None:
    folder = tmp_path / "net" / "1"
    put(folder, *names, *(hidden.format(name) for name in names), ".DS_Store")
    for path in (folder, tmp_path / "net") if len(names) == 2 else (folder,):
        ts.load(path, engine="onnxruntime")
    assert not check([tmp_path]).errors


def test_only_hidden_files(tmp_path: Path) -> None:
    put(tmp_path / "net" / "1", "._net.tnnproto", "._net.tnnmodel")
    error = refusal(tmp_path / "net" / "1")
    assert error.problem == f"no model in {tmp_path / 'net' / '1'}"
    assert error.found == "._net.tnnmodel, ._net.tnnproto"
    assert error.hint == "`._net.tnnmodel` is ignored: its name begins with a dot"
    assert not is_ours(tmp_path / "net")
    check_repository(tmp_path / "net" / "1")  # no model's files as far as a repository goes


def test_hidden_file_that_is_named_outright_is_read(tmp_path: Path) -> None:
    (tmp_path / ".net.tnnproto").write_bytes(PROTO)
    (tmp_path / ".net.tnnmodel").write_bytes(MODEL)
    assert ts.read_model(tmp_path / ".net.tnnproto").layer("mul").stored
    put(tmp_path, "._net.tnnproto")
    with pytest.raises(FormatError, match=r"metadata that macOS keeps.*not a \.tnnproto"):
        ts.read_model(tmp_path / "._net.tnnproto")


def test_folder_of_mac_metadata_is_no_model(tmp_path: Path) -> None:
    put(tmp_path / "net" / "1", "net.tnnproto", "net.tnnmodel")
    put(tmp_path / "__MACOSX" / "1", "._net.tnnproto")
    assert model_folders(tmp_path) == ([tmp_path / "net"], [])


@pytest.mark.parametrize("name", ["net.tnnproto", "net.tnnmodel", "net.onnx"])
def test_folder_in_the_place_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "net.tnnproto").write_bytes(RELU)
    if name != "net.tnnmodel":
        (tmp_path / "net.tnnproto").unlink()
    (tmp_path / name).mkdir()
    assert refusal(tmp_path).problem == "cannot be read: Is a directory"


# ---- copies and several models ----

COPIES = [
    "net (copy)", "net (another copy)", "net (3rd copy)", "net (copy 2)", "net (1)", "net(2)", "net copy", "net copy 2",
    "net - Copy", "net - Copy (2)", "Copy of net", "NET (COPY)", "net_copy", "net-backup", "net.bak", "net_old",
    "net - 副本", "net - 副本 (2)", "net副本", "net的副本", "net\uff08副本\uff09", "复件 net", "net (copy) (copy)",
]  # fmt: skip


@pytest.mark.parametrize("copy", COPIES)
@pytest.mark.parametrize("suffix", [".tnnproto", ".tnnmodel", ".onnx"])
def test_copy_is_named_as_the_cause(tmp_path: Path, copy: str, suffix: str) -> None:
    names = ["net.onnx"] if suffix == ".onnx" else ["net.tnnproto", "net.tnnmodel"]
    put(tmp_path, *names, copy + suffix)
    error = refusal(tmp_path)
    assert error.problem == f"several models in {tmp_path}"
    assert error.found is not None
    assert copy + suffix in str(error.found)
    taken, usual = ("net.onnx", "model.onnx") if suffix == ".onnx" else (
        "net.tnnproto and net.tnnmodel", "proto.tnnproto and model.tnnmodel"
    )  # fmt: skip
    assert error.hint == (
        f"`{copy}{suffix}` looks like a copy of `net{suffix}`: remove it, "
        f"or rename {taken} to {usual}, which are taken before others"
    )


def test_copies_of_both_files(tmp_path: Path) -> None:
    put(tmp_path, "net.tnnproto", "net.tnnmodel", "net (1).tnnproto", "net (1).tnnmodel")
    assert refusal(tmp_path).hint == (
        "`net (1).tnnproto` looks like a copy of `net.tnnproto`: remove it; "
        "`net (1).tnnmodel` looks like a copy of `net.tnnmodel`: remove it, "
        "or rename net.tnnproto and net.tnnmodel to proto.tnnproto and model.tnnmodel, which are taken before others"
    )


def test_copy_beside_the_usual_names_is_no_matter(tmp_path: Path) -> None:
    put(tmp_path, "proto.tnnproto", "model.tnnmodel", "proto (copy).tnnproto", "model (1).tnnmodel")
    assert tnn_files(tmp_path) == (tmp_path / "proto.tnnproto", tmp_path / "model.tnnmodel")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["net.tnnproto", "net (copy).tnnproto"], [("net (copy).tnnproto", "net.tnnproto")]),
        (["net (1).onnx", "net (2).onnx"], [("net (2).onnx", "net (1).onnx")]),
        (["net.tnnproto", "net (copy).tnnmodel"], []),
        (["net.onnx", "net2.onnx", "net_2.onnx", "net-1.onnx", "copycat.onnx", "copy.onnx", "(1).onnx"], []),
    ],
)
def test_copies(names: list[str], found: list[tuple[str, str]]) -> None:
    assert [(copy.name, first.name) for copy, first in copies(map(Path, names))] == found


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["a.tnnproto", "b.tnnproto", "b.tnnmodel"], "b.tnnproto and b.tnnmodel"),
        (["a.tnnproto", "a.tnnmodel", "b.tnnproto", "b.tnnmodel"], "a.tnnproto and a.tnnmodel"),
        (["A.tnnproto", "a.TNNMODEL", "b.tnnmodel"], "A.tnnproto and a.TNNMODEL"),
        (["a.tnnproto", "b.tnnmodel", "c.tnnmodel"], "the files of one model"),
        (["b.tnnproto", "proto.tnnproto", "c.tnnmodel"], "the files of one model"),
    ],
)
def test_several_models_and_which_would_be_taken(tmp_path: Path, names: list[str], taken: str) -> None:
    put(tmp_path, *names)
    error = refusal(tmp_path)
    protos = [name for name in names if "proto" in name.lower()]
    assert error.found == ", ".join([*protos, *(name for name in names if name not in protos)])
    assert error.hint == f"rename {taken} to proto.tnnproto and model.tnnmodel, which are taken before others"
    (tmp_path / "proto.tnnproto").write_bytes(PROTO)
    (tmp_path / "model.tnnmodel").write_bytes(MODEL)
    assert np.array_equal(ts.load(tmp_path, engine="onnxruntime").run({"x": X})["y"], Y)


def test_two_formats(tmp_path: Path) -> None:
    put(tmp_path, "net.TNNPROTO", "net.tnnmodel", "net.ONNX")
    assert refusal(tmp_path).problem == f"two models in {tmp_path}"


# ---- nothing, and what looks like a model ----


@pytest.mark.parametrize(
    ("names", "found", "hint"),
    [
        ([], "nothing", None),
        (
            ["a.tnnmodel"],
            "a.tnnmodel",
            "the .tnnproto that belongs to `a.tnnmodel` is missing: copy both files of the pair",
        ),
        (["a.tnnproto"], "a.tnnproto", "layer `conv` (Convolution) needs weights, and there is no .tnnmodel"),
        (["net.tnnproto.txt"], "net.tnnproto.txt", "rename `net.tnnproto.txt` to `net.tnnproto`"),
        (["NET.TNNMODEL.part"], "NET.TNNMODEL.part", "rename `NET.TNNMODEL.part` to `NET.TNNMODEL`"),
        (["net.zip", "readme.txt"], "net.zip, readme.txt", "unpack `net.zip`"),
        (["net.tar.gz"], "net.tar.gz", "unpack `net.tar.gz`"),
        (["net.tnnmodel.gz"], "net.tnnmodel.gz", "unpack `net.tnnmodel.gz`"),
        ([f"{k}.txt" for k in range(20)], "0.txt, 1.txt, 10.txt.* and 12 more", None),
    ],
)
def test_folder_without_a_model(tmp_path: Path, names: list[str], found: str, hint: str | None) -> None:
    put(tmp_path, *names)
    error = refusal(tmp_path)
    assert error.problem == f"no model in {tmp_path}"
    wanted = "proto.tnnproto and model.tnnmodel, or one *.tnnproto and one *.tnnmodel"
    others = (
        "" if any(name.endswith((".tnnproto", ".tnnmodel")) for name in names) else "; or model.onnx, or one *.onnx"
    )
    assert error.expected == wanted + others
    assert re.fullmatch(found, str(error.found))
    assert error.hint == hint


def test_names_that_are_no_text(tmp_path: Path) -> None:
    for name in (b"a\xff.tnnproto", b"b\n.tnnproto", b"a\xff.tnnmodel"):
        (tmp_path / os.fsdecode(name)).write_bytes(PROTO)
    error = refusal(tmp_path)
    assert error.found == r"a\udcff.tnnproto, b\n.tnnproto, a\udcff.tnnmodel"
    assert r"rename a\udcff.tnnproto and a\udcff.tnnmodel to" in str(error)


def test_network_without_weights_needs_no_model_file(tmp_path: Path) -> None:
    folder = tmp_path / "net" / "1"
    folder.mkdir(parents=True)
    (folder / "net.tnnproto").write_bytes(RELU)
    assert ts.read_model(folder).model_bytes is None
    assert (
        ts.load(folder, engine="onnxruntime").run({"x": -X.repeat(2, 1)})["y"].tolist()
        == np.zeros((1, 2, 2, 2)).tolist()
    )
    checked = check([tmp_path])
    assert not checked.errors
    assert [file.name for file in checked.models[0].versions[0].files] == ["net.tnnproto"]


@pytest.mark.parametrize(
    ("name", "has"),
    [("a.onnx", True), ("A.ONNX", True), (".a.onnx", False), (".onnx", False), ("onnx", False), ("a.onnx.txt", False)],
)
def test_has_suffix(name: str, has: bool) -> None:
    assert has_suffix(f"folder.onnx/{name}", ".tnnproto", ".onnx") is has
