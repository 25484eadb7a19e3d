"""Looking at repositories without a server: all that is wrong, not only the first."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

import pytest
from onnx import helper

import tnn_serving as ts
from tests import onnx_models
from tests.end_to_end.models import BROKEN, write_model
from tests.networks import CONVOLUTION, network
from tnn_serving.check.report import Checked, CheckedModel
from tnn_serving.check.repository import check
from tnn_serving.errors import ServerError
from tnn_serving.prepare.manifest import sign

pytestmark = pytest.mark.slow

MANY_UNSUPPORTED = (
    b'"1 2 1 4206624770 ,"\n"x 1 3 8 8 ,"\n" x y ,"\n"y ,"\n" 5 ,"\nFoo a 1 1 x a ,ReLU b 1 1 a b ,Bar c 1 1 b c ,'
    b"Dropout d 1 1 x y ,Permute p 1 1 x q 2 0 0 ,"
)

WARM_UP = (
    'name: "w" batch_size: 1 inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 1, 3, 8, 8 ] zero_data: true } }'
)


def one(repository: Path, **options: str) -> CheckedModel:
    (model,) = check([repository], options).models
    return model


def problems(model: CheckedModel, severity: str = "error") -> list[str]:
    return [f"{f.where}: {f.problem}" for _, f in model.everything() if f.severity == severity]


def test_a_good_model_has_everything_said_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "net" / "1"
    folder.mkdir(parents=True)
    ts.write_model(network({"x": (2, 3, 8, 8)}, CONVOLUTION, ["y"]), folder / "a.tnnproto", folder / "a.tnnmodel")
    model = one(tmp_path)
    (version,) = model.versions
    assert problems(model) == problems(model, "warning") == []
    assert [(t.name, t.datatype, t.dims) for t in version.inputs] == [("x", "FP32", [-1, 3, -1, -1])]
    assert [(t.name, t.dims) for t in version.outputs] == [("y", [-1, 4, -1, -1])]
    assert version.engine in ("openvino", "onnxruntime")
    assert version.batch == "rows are independent"
    assert version.completed == [
        "max_batch_size: 64",
        "dynamic_batching",
        "input `x`: TYPE_FP32, dims [3, -1, -1]",
        "output `y`: TYPE_FP32, dims [4, -1, -1]",
    ]
    assert version.memory is not None
    weights = 4 * (4 * 3 * 3 * 3 + 4)
    assert weights <= version.memory.weights_bytes <= weights + 64
    # Convolution and activation, one read while the other is written, and the name given to it.
    x, y = (4 * 2 * channels * 8 * 8 for channels in (3, 4))
    assert x + 2 * y <= version.memory.activations_bytes <= x + 3 * y
    assert [file.name for file in version.files] == ["a.tnnproto", "a.tnnmodel"]
    assert version.memory.stored_bytes == sum(path.stat().st_size for path in folder.iterdir())


X = 'name: "x" data_type:'


@pytest.mark.parametrize(
    ("config", "sent"),
    [
        ("max_batch_size: 8", [-1, -1, -1, -1]),
        (f"max_batch_size: 8 input {{ {X} TYPE_FP32 dims: [ 3, 8, 8 ] }}", [-1, 3, 8, 8]),
        (f"max_batch_size: 0 input {{ {X} TYPE_FP32 dims: [ -1, 3, 8, 8 ] }}", [-1, 3, 8, 8]),
        (f"max_batch_size: 0 input {{ {X} TYPE_UINT8 dims: [ -1, -1, 3 ] }}", [-1, -1, 3]),
        (f"max_batch_size: 4 input {{ {X} TYPE_STRING dims: [ 1 ] }}", [-1, 1]),
    ],
)
def test_dims_are_those_that_clients_send(tmp_path: Path, config: str, sent: list[int]) -> None:
    write_model(tmp_path, "net", config=config)
    (version,) = one(tmp_path).versions
    assert [tensor.dims for tensor in version.inputs] == [sent]


@pytest.mark.parametrize("written", [False, True])
def test_pixels_as_they_are_are_warned_of_unless_the_scale_is_written(tmp_path: Path, written: bool) -> None:
    scale = 'parameters { key: "scale" value { string_value: "1" } }' if written else ""
    write_model(tmp_path, "net", config=f"max_batch_size: 0 input {{ {X} TYPE_UINT8 dims: [ -1, -1, 3 ] }} {scale}")
    found = problems(one(tmp_path), "warning")
    assert ["the network gets pixels 0 to 255" in text for text in found] == ([] if written else [True])


def test_every_layer_at_fault_is_named(tmp_path: Path) -> None:
    write_model(tmp_path, "net", proto=MANY_UNSUPPORTED)
    assert problems(one(tmp_path)) == [
        "layer 0 `a` (Foo): type `Foo` is unknown",
        "layer 2 `c` (Bar): type `Bar` is unknown",
        "layer 3 `d` (Dropout): type `Dropout` cannot be executed",
        "layer 4 `p` (Permute): orders must be different axes",
    ]


def test_every_contradiction_is_named(tmp_path: Path) -> None:
    write_model(
        tmp_path,
        "net",
        config="""max_batch_size: 8
input [{ name: "x" data_type: TYPE_INT32 dims: [3] }, { name: "q" data_type: TYPE_FP32 dims: [1] }]
output [{ name: "y" data_type: TYPE_INT8 dims: [4, 4] }, { name: "z" data_type: TYPE_FP32 dims: [1] }]
parameters [
  { key: "engin" value: { string_value: "openvino" } }, { key: "engine" value: { string_value: "abacus" } },
  { key: "NUM_STREAMS" value: { string_value: "a" } }, { key: "int8" value: { string_value: "some" } } ]
instance_group [{ kind: KIND_GPU }]
""",
    )
    model = one(tmp_path)
    errors = problems(model)
    for text in (
        "parameter `NUM_STREAMS` cannot be read",
        "unknown engine",
        "parameter `int8` cannot be read",
        "input `x`: data type differs",
        "input `x`: dims do not fit",
        "input `q`: the network has no such input",
        "output `y`: data type differs",
        "output `z`: the network has no such blob",
        "instance_group: models run on the CPU",
    ):
        assert sum(text in error for error in errors) == 1, (text, errors)
    assert len(errors) == 9
    assert [text for text in problems(model, "warning") if "did you mean `engine`" in text]
    (both,) = (f for _, f in model.everything() if "data type" in f.problem and "`x`" in f.where)
    assert (both.expected, both.found) == ("TYPE_FP32", "TYPE_INT32")


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ("max_batch_size: {", "cannot be read"),
        ("max_batchsize: 3", "cannot be read"),
        ("x {" * 5000, "cannot be read"),
        ("ensemble_scheduling { step { model_name: '\xff' } }", "is for ensembles"),
        ("max_batch_size: -1", "negative"),
        ('name: "other"', "name differs"),
        ("version_policy { specific { versions: [ 4 ] } }", "no version is left"),
        ('parameters [{ key: "memory_limit_bytes" value: { string_value: "1.4kB" } }]', "too much memory"),
        ('parameters [{ key: "memory_limit_bytes" value: { string_value: "much" } }]', "cannot be read"),
        ('parameters [{ key: "cache_dir" value: { string_value: "/tmp" } }]', "is not allowed in config.pbtxt"),
        ('output [{ name: "y" label_filename: "/etc/passwd" }]', "outside of the model folder"),
        ('output [{ name: "y" label_filename: "absent" }]', "does not exist"),
        ('input [{ name: "x" dims: [ 24 ] reshape { shape: [ 3, 9 ] } }]', "differ in the number of elements"),
        ('output [{ name: "y" dims: [ 4 ] is_shape_tensor: true }]', "is_shape_tensor is for TensorRT"),
        (f"max_batch_size: 1 model_warmup {{ {WARM_UP} }}", "model_warmup `w`: input `x` has other dims"),
        ('model_warmup { name: "w" batch_size: 1 }', "model_warmup `w`: input `x` is missing"),
        (
            "sequence_batching { control_input { name: 'x' control { int32_false_true: [ 0, 1 ] } } }",
            "control_input `x`",
        ),
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, config: str, error: str) -> None:
    write_model(tmp_path, "net").joinpath("config.pbtxt").write_bytes(config.encode("latin-1"))
    assert [text for text in problems(one(tmp_path)) if error in text]


@pytest.mark.parametrize(
    ("config", "warning"),
    [
        ("version_policy { specific { versions: [ 1, 4 ] } }", "names version 4"),
        ('output [{ name: "y" label_filename: "labels" }]', "is short"),
        ('parameters [{ key: "scael" value: { string_value: "1" } }]', "did you mean `scale`"),
    ],
)
def test_configurations_that_are_warned_of(tmp_path: Path, config: str, warning: str) -> None:
    folder = tmp_path / "net" / "1"
    folder.mkdir(parents=True)
    ts.write_model(network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"]), folder / "a.tnnproto", folder / "a.tnnmodel")
    (tmp_path / "net" / "labels").write_text("one\n")
    (tmp_path / "net" / "config.pbtxt").write_text(config)
    model = one(tmp_path)
    assert not problems(model)
    assert [text for text in problems(model, "warning") if warning in text]


LABELLED = 'output [{ name: "y" label_filename: "labels" }]'
WARMED = """model_warmup [{ name: "w" batch_size: 1 inputs {
    key: "x" value { data_type: TYPE_FP32 dims: [ 1, 3, 100000, 100000 ] zero_data: true } } }]"""


@pytest.mark.parametrize(
    ("file", "config", "problem"),
    [
        ("config.pbtxt", "", "file is too large for a config.pbtxt"),
        ("labels", LABELLED, "file is too large for a label file"),
        ("SHA256SUMS", "", "file is too large for a manifest"),
        ("1/check.npz", "", "the file is larger than the memory for the model"),
        ("1/a.tnnproto", "", "file is too large for a proto"),
        ("1/a.tnnmodel", "", "the file is larger than the memory for the model"),
        ("other", WARMED, "a tensor is too large"),
    ],
)
def test_files_of_a_terabyte_are_not_read(tmp_path: Path, file: str, config: str, problem: str) -> None:
    folder = tmp_path / "net" / "1"
    folder.mkdir(parents=True)
    ts.write_model(network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"]), folder / "a.tnnproto", folder / "a.tnnmodel")
    (tmp_path / "net" / "config.pbtxt").write_text(config)
    with (tmp_path / "net" / file).open("ab") as sparse:
        sparse.truncate(1 << 40)
    assert any(text.endswith(problem) for text in problems(one(tmp_path)))


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("file", ["config.pbtxt", "labels", "SHA256SUMS", "1/check.npz", "1/a.tnnmodel"])
def test_files_that_are_none(tmp_path: Path, kind: str, file: str) -> None:
    folder = tmp_path / "net" / "1"
    folder.mkdir(parents=True)
    ts.write_model(network({"x": (1, 3, 8, 8)}, CONVOLUTION, ["y"]), folder / "a.tnnproto", folder / "a.tnnmodel")
    (tmp_path / "net" / "labels").write_text("class\n")
    (tmp_path / "net" / "config.pbtxt").write_text(LABELLED if file == "labels" else "")
    path = tmp_path / "net" / file
    path.unlink(missing_ok=True)
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    assert any(text.endswith("not a regular file") for text in problems(one(tmp_path)))


def test_versions_that_are_not_served_are_only_warned_of(tmp_path: Path) -> None:
    write_model(tmp_path, "net", proto=BROKEN)
    write_model(tmp_path, "net", version=2)
    model = one(tmp_path)
    assert not problems(model)
    assert [text for text in problems(model, "warning") if "NoSuchLayer" in text]
    assert [version.served for version in model.versions] == [False, True]


def test_a_batch_that_the_network_does_not_take(tmp_path: Path) -> None:
    folder = tmp_path / "net" / "1"
    folder.mkdir(parents=True)
    graph = network({"x": (2, 3)}, ["Reshape r 1 1 x y 0 2 2 3 2 0"], ["y"])
    ts.write_model(graph, folder / "a.tnnproto", folder / "a.tnnmodel")
    (tmp_path / "net" / "config.pbtxt").write_text("max_batch_size: 4")
    model = one(tmp_path)
    assert "`r`" in model.versions[0].batch
    assert [text for text in problems(model, "warning") if "max_batch_size is 4" in text]


def test_a_scalar_is_shown_as_clients_see_it(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["x", "gain"], ["y"]), helper.make_node("ReduceSum", ["y"], ["sum"], keepdims=0)]
    made = onnx_models.model(nodes, {"x": ["n", 4], "gain": []}, {"y": ["n", 4], "sum": []})
    onnx_models.write(made, tmp_path / "net" / "1")
    model = one(tmp_path)
    (version,) = model.versions
    assert problems(model) == problems(model, "warning") == []
    assert [(t.name, t.dims) for t in (*version.inputs, *version.outputs)] == [
        ("x", [-1, 4]),
        ("gain", [1]),
        ("y", [-1, 4]),
        ("sum", [1]),
    ]
    assert "input `gain`: TYPE_FP32, dims [1]" in version.completed


def test_names_kinds_and_repositories(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for repository in (first, second):
        write_model(repository, "double")
    write_model(first, "new\nline")
    write_model(first, "python", config='backend: "python"')
    (first / "nothing" / "1").mkdir(parents=True)
    (first / "folder").mkdir()
    found = check([first, second])
    models = {model.name: model for model in found.models}
    assert models["python"].kind == "python"
    assert not models["python"].count("error")
    assert models["nothing"].count("error") == models["double"].count("error") == 1
    assert "gRPC only" in problems(models["new\nline"], "warning")[0]
    assert [line for line in found.skipped if "no version folder" in line]
    with pytest.raises(ServerError, match="no model repository"):
        check([tmp_path / "absent"])


def test_manifest_is_checked_in_all_versions(tmp_path: Path) -> None:
    model = write_model(tmp_path, "net")
    write_model(tmp_path, "net", version=2)
    assert problems(one(tmp_path, require_manifest="true")) == [
        "SHA256SUMS: missing, and `require_manifest` demands one"
    ]
    sign(model)
    assert problems(one(tmp_path, require_manifest="true")) == []
    (model / "1" / "proto.tnnproto").write_bytes(BROKEN)
    assert problems(one(tmp_path)) == ["SHA256SUMS: file `1/proto.tnnproto` has changed"]


def test_what_the_report_has(tmp_path: Path) -> None:
    write_model(tmp_path, "net")
    found = check([tmp_path])
    assert isinstance(found, Checked)
    assert [f.name for f in fields(found)] == ["models", "skipped", "errors", "warnings"]
