"""What a model folder must not contain, and what counts as code in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.end_to_end.models import write_model
from tnn_serving.errors import ConfigError, FormatError, TnnError
from tnn_serving.own_files import (
    LABELS_MAX_BYTES,
    MAX_DEPTH,
    check_own_files,
    entries,
    folder_refusals,
    foreign_backend,
    read_declaration,
)

LABELLED = 'output [{ name: "y" label_filename: "labels.txt" }]'


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path, "net")


def problems(model: Path) -> list[str]:
    return [str(problem) for problem in folder_refusals(model)]


@pytest.mark.parametrize(
    "name",
    ["1/libtriton_tnn.so", "libtriton_tnn.so", "1/libtriton_x.so.2", "1/below/x.so", "2/x.so", "warmup/a.so.1.2"],
)
def test_libraries_are_named_wherever_they_are(model: Path, name: str) -> None:
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_text("")
    assert problems(model) == [
        f"file `{name}` is a shared library, which Triton may load (remove it from the model folder)"
    ]


def test_a_link_counts_by_its_name(model: Path) -> None:
    (model / "1" / "libtriton_tnn.so").symlink_to("/usr/lib/anything")
    assert "`1/libtriton_tnn.so`" in problems(model)[0]


@pytest.mark.parametrize("name", ["1/model.so.onnx", "1/also", "so", "1/a.sox"])
def test_what_only_looks_like_one(model: Path, name: str) -> None:
    (model / name).write_text("")
    assert problems(model) == []


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ('runtime: "x.bin"', "`runtime` names a library"),
        ('backend: "tnn" runtime: ""', "`runtime` names a library"),
        ('model_repository_agents { agents [{ name: "x" }] }', "`model_repository_agents` names libraries"),
        ('model_operations { op_library_filename: ["x"] }', "`model_operations` names libraries"),
    ],
)
def test_fields_that_bring_code(model: Path, config: str, problem: str) -> None:
    (model / "config.pbtxt").write_text(config)
    assert problem in problems(model)[0]


@pytest.mark.parametrize(
    ("config", "backend"),
    [
        ("", None),
        ('backend: "tnn"', None),
        ("backend: 'tnn' # python", None),
        ('platform: "ensemble"', None),
        ("ensemble_scheduling { }", None),
        ('backend: "python"', "python"),
        ('platform: "pytorch_libtorch"', "pytorch_libtorch"),
        ('backend: "tnn" platform: "x"', "x"),
        ('backend: "../../x" ', "../../x"),
        ('backend: "TNN"', "TNN"),
        ('backend : "x" max_batch_size: 4', "x"),
        ('# backend: "tnn"\nbackend: "x"', "x"),
        ('"backend: tnn" backend: "x"', ConfigError),
        ('backend: "tn" "n"', ConfigError),
        (r'backend: "\164nn"', ConfigError),
        ('backend: "tnn" backend: "x"', ConfigError),
        ('backend: "tnn', ConfigError),
        ("a {" * 20_000, ConfigError),
    ],
)
def test_whose_model_it_is(model: Path, config: str, backend: str | type[TnnError] | None) -> None:
    if isinstance(backend, type):
        with pytest.raises(backend):
            read_declaration(config.encode())
    else:
        assert foreign_backend(model, read_declaration(config.encode())) == backend


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ('platform: "onnxruntime_onnx"', "its model.onnx is served here: take that line out of config.pbtxt"),
        ('backend: "onnxruntime"', "its model.onnx is served here: take that line out of config.pbtxt"),
        ('backend: "openvino"', "export the network as ONNX.* in place of model.xml"),
        ('platform: "tensorflow_savedmodel"', "tf2onnx"),
        ('backend: "pytorch"', "torch.onnx.export"),
        ('backend: "python"', "--allow-backend python"),
    ],
)
def test_how_a_model_of_another_backend_is_taken_over(model: Path, line: str, hint: str) -> None:
    (model / "config.pbtxt").write_text(line)
    with pytest.raises(ConfigError, match=rf"it is a model of `.*`: expected backend: \"tnn\" \(.*{hint}"):
        check_own_files(model)


def test_a_folder_without_our_files_and_a_backend(tmp_path: Path) -> None:
    (tmp_path / "torch" / "1").mkdir(parents=True)
    (tmp_path / "torch" / "1" / "model.pt").write_text("")
    with pytest.raises(ConfigError, match="it names no backend, and has no model files of this one"):
        check_own_files(tmp_path / "torch")


def test_allowed_backends_may_bring_code(model: Path) -> None:
    (model / "config.pbtxt").write_text('backend: "python"')
    (model / "1" / "helper.so").write_text("")
    with pytest.raises(ConfigError, match="--allow-backend python"):
        check_own_files(model)
    check_own_files(model, allowed=["python"])


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("file", None),
        ("link inside", None),
        ("missing", None),  # the backend says so
        ("link outside", "it is a link out of the model folder"),
        ("folder outside", "it is a link out of the model folder"),
        ("huge", "file is too large for a label file"),
        ("pipe", "not a regular file"),
        ("device", "not a regular file"),
        ("above", "label_filename is outside of the model folder"),
        ("absolute", "label_filename is outside of the model folder"),
    ],
)
def test_label_files(model: Path, tmp_path: Path, kind: str, problem: str | None) -> None:
    name, file = "labels.txt", model / "labels.txt"
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "labels.txt").write_text("secret\n")
    if kind == "file":
        file.write_text("cat\n")
    elif kind == "link inside":
        (model / "kept").write_text("cat\n")
        file.symlink_to("kept")
    elif kind == "link outside":
        file.symlink_to("../outside/labels.txt")
    elif kind == "folder outside":
        name = "names/labels.txt"
        (model / "names").symlink_to(tmp_path / "outside")
    elif kind == "huge":
        with file.open("wb") as sparse:
            sparse.truncate(LABELS_MAX_BYTES + 1)
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "above":
        name = "../outside/labels.txt"
    elif kind == "absolute":
        name = str(tmp_path / "outside" / "labels.txt")
    (model / "config.pbtxt").write_text(LABELLED.replace("labels.txt", name))
    found = problems(model)
    assert len(found) == (problem is not None)
    assert problem is None or problem in found[0]


def test_a_link_to_itself_is_a_file_like_any_other(model: Path) -> None:
    (model / "1" / "loop").symlink_to("loop")
    assert ("1/loop", model / "1" / "loop", False) in list(entries(model))
    assert problems(model) == []


def test_folders_without_end(model: Path) -> None:
    (model / "1" / "again").symlink_to(model)
    with pytest.raises(FormatError, match="nested too deeply"):
        list(entries(model))
    (model / "1" / "again").unlink()
    deep = model.joinpath(*["x"] * (MAX_DEPTH - 1))
    deep.mkdir(parents=True)
    (deep / "file").write_text("")
    assert f"{'x/' * (MAX_DEPTH - 1)}file" in [name for name, _, _ in entries(model)]
