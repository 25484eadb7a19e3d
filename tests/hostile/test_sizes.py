"""Files and networks that are larger than any memory: each is refused before it is read, or before it is made.

The files are sparse, 1 TB each: what reads one does not end, or ends its process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
import tritonclient.grpc
import tritonclient.http
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from tests.end_to_end.models import write_model
from tests.hostile.conftest import Target
from tests.onnx_models import model
from tests.servers import ask, load, wait_for

TERABYTE = 1 << 40

LABELS = 'output [{ name: "y" label_filename: "labels.txt" }]\n'
LIMITED = 'parameters [{ key: "memory_limit_bytes" value: { string_value: "100MB" } }]\n'


def sparse(path: Path, size: int = TERABYTE) -> Path:
    """A file of zeros that takes no room on the disk."""
    with path.open("ab") as file:
        file.truncate(size)
    return path


def warmup(dims: str, data: str) -> str:
    """Configuration of a request before the model is ready, with an input [1, 3, HEIGHT, WIDTH]."""
    value = f"data_type: TYPE_FP32 dims: [ 1, 3, {dims} ] {data}"
    return f'model_warmup [{{ name: "w" batch_size: 1 inputs {{ key: "x" value {{ {value} }} }} }}]\n'


def onnx_with_data(folder: Path, size: int, length: int | None, dims: list[int]) -> None:
    """A model y = x + w whose weights are in a file of this size."""
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    entries = {"location": "w.bin", **({} if length is None else {"length": str(length)})}
    weights.external_data.extend(onnx.StringStringEntryProto(key=key, value=value) for key, value in entries.items())
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *dims]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(made.SerializeToString())
    sparse(folder / "w.bin", size)


def only_onnx(version: Path) -> Path:
    """The version folder without the files of the TNN model."""
    for file in version.iterdir():
        file.unlink()
    return version


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "proto": (lambda folder: sparse(folder / "1" / "proto.tnnproto"), "proto.tnnproto.*too large for a proto"),
    "weights": (lambda folder: sparse(folder / "1" / "model.tnnmodel"), "model.tnnmodel.*larger than the memory"),
    "weights of 5 GB": (
        lambda folder: sparse(folder / "1" / "model.tnnmodel", 5 * 10**9),
        "model.tnnmodel.*larger than the memory.*at most 105 MB.*found 5 GB.*memory_limit_bytes",
    ),
    "onnx": (lambda folder: sparse(only_onnx(folder / "1") / "model.onnx"), "model.onnx.*larger than the memory"),
    "external data": (
        lambda folder: onnx_with_data(only_onnx(folder / "1"), TERABYTE, None, [4]),
        "model.onnx.*files are larger than the memory",
    ),
    "a part of external data": (
        lambda folder: onnx_with_data(only_onnx(folder / "1"), TERABYTE, 16, [4]),
        "model.onnx.*files are larger than the memory",
    ),
    "recorded case": (lambda folder: sparse(folder / "1" / "check.npz"), "check.npz.*larger than the memory"),
    "manifest": (lambda folder: sparse(folder / "SHA256SUMS"), "SHA256SUMS.*too large for a manifest"),
    "labels": (
        lambda folder: sparse(folder / "labels.txt"),
        "too large for a label file.*at most 16777216",
    ),
    "labels of 1 GB": (lambda folder: sparse(folder / "labels.txt", 1 << 30), "labels.txt.*too large for a label file"),
    "link in place of labels": (
        lambda folder: (folder / "labels.txt").symlink_to(sparse(folder / "1" / "other")),
        "labels.txt.*too large for a label file",
    ),
    "pipe in place of labels": (lambda folder: os.mkfifo(folder / "labels.txt"), "labels.txt.*not a regular file"),
    "device in place of labels": (
        lambda folder: (folder / "labels.txt").symlink_to("/dev/zero"),
        "labels.txt.*not a regular file",
    ),
    "warm-up": (
        lambda folder: (folder / "config.pbtxt").write_text(LIMITED + warmup("100000, 100000", "zero_data: true")),
        "model_warmup `w`, input `x`: a tensor is too large",
    ),
    "warm-up file": (
        lambda folder: (
            (folder / "config.pbtxt").write_text(LIMITED + warmup("4, 4", 'input_data_file: "x"')),
            (folder / "warmup").mkdir(),
            sparse(folder / "warmup" / "x"),
        ),
        "model_warmup `w`, input `x`: the file is larger than the memory",
    ),
    "no labels": (lambda folder: None, "labels.txt.*cannot be read: No such file"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_too_large_are_not_read(target: Target, name: str) -> None:
    make, said = FILES[name]
    folder = write_model(target.repository, name.replace(" ", "_"), config=LIMITED)
    make(folder)
    if "labels" in name:
        (folder / "config.pbtxt").write_text(LIMITED + LABELS)
    found = target.refusal(folder.name)
    assert re.search(f"(?s){said}", found), found
    target.assert_well()


@pytest.mark.parametrize("kind", ["sparse", "pipe", "device"])
def test_a_configuration_that_triton_must_not_read(target: Target, kind: str) -> None:
    """Triton reads it before any backend is asked, so that the supervisor takes the model out of its sight."""
    folder = write_model(target.repository, f"config_{kind}", config='backend: "tnn"\n')
    shown = Path(target.running.overlay.locations[0]) / folder.name
    wait_for(shown.exists, "the overlay shows the model")
    config = folder / "config.pbtxt"
    whole = config.read_bytes()
    if kind == "sparse":
        sparse(config)
    else:
        config.unlink()
        os.mkfifo(config) if kind == "pipe" else config.symlink_to("/dev/zero")
    wait_for(lambda: not shown.is_dir(), "the overlay hides the model")
    reason = {one.folder.name: one.reason for one in target.running.overlay.refused}[folder.name]
    assert ("too large for a config.pbtxt" if kind == "sparse" else "not a regular file") in reason
    with target.running.http() as client, pytest.raises(InferenceServerException):
        client.load_model(folder.name)
    target.assert_well()
    config.unlink()
    config.write_bytes(whole)
    with target.running.http() as client:
        load(client, folder.name)
        assert client.is_model_ready(folder.name)
    target.assert_well()


GIGABYTE = 'parameters [{ key: "memory_limit_bytes" value: { string_value: "1GB" } }]\n'
NETWORKS: dict[str, tuple[list[int | str], str]] = {
    "wide row": (["n", 2**31], ""),
    "wide row of 1 GB": (["n", 2**28], ""),
    "wide row by configuration": (
        ["n", "w"],
        'input [{ name: "x" data_type: TYPE_FP32 dims: [ -1, 268435456 ] }]\n',
    ),
    "wide batch": (
        ["n", 1000],
        "max_batch_size: 1000000\ndynamic_batching { preferred_batch_size: [ 1000000 ] }\n",
    ),
}


def write_onnx(target: Target, name: str, model: onnx.ModelProto, config: str) -> str:
    folder = target.repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "config.pbtxt").write_text(config)
    return name


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_are_too_large_are_not_made(target: Target, name: str) -> None:
    dims, config = NETWORKS[name]
    made = model([helper.make_node("Relu", ["x"], ["y"])], {"x": dims}, {"y": dims})
    before = psutil.Process(target.pid).memory_info().rss
    found = target.refusal(write_onnx(target, name.replace(" ", "_"), made, GIGABYTE + config))
    assert re.search("too large|too much memory", found), found
    target.assert_well()
    assert psutil.Process(target.pid).memory_info().rss - before < 300e6


def test_a_row_as_large_as_half_the_memory_is_served_alone(target: Target) -> None:
    dims = ["n", 2**21]
    made = model([helper.make_node("Relu", ["x"], ["y"])], {"x": dims}, {"y": dims})
    config = "max_batch_size: 4\n" + GIGABYTE.replace("1GB", "20MB")
    name = write_onnx(target, "half", made, config)
    with target.running.http() as client:
        load(client, name)
    x = np.linspace(-1, 1, 2**21, dtype=np.float32)[None]
    with target.running.grpc() as client:
        y = ask((tritonclient.grpc, client), name, x).as_numpy("y")
        np.testing.assert_array_equal(y, np.maximum(x, 0))
        with pytest.raises(InferenceServerException, match=r"too large|too much memory"):
            ask((tritonclient.grpc, client), name, np.repeat(x, 2, axis=0))
    target.assert_well()


@pytest.mark.parametrize("kind", ["BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E5M2", "FLOAT4E2M1", "INT4", "UINT4", "COMPLEX64"])
def test_element_types_that_are_not_served(target: Target, kind: str) -> None:
    number = TensorProto.DataType.Value(kind)
    tensors = [helper.make_tensor_value_info(name, number, [1, 4]) for name in "xy"]
    made = model([helper.make_node("Identity", ["x"], ["y"])], tensors[:1], tensors[1:], opsets={"": 23}, ir=11)
    found = target.refusal(write_onnx(target, f"of_{kind.lower()}", made, ""))
    assert f"input `x` is a tensor of {kind.lower()}, which is not supported" in found
    target.assert_well()


def test_such_types_inside_are_served(target: Target) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["b"], ["c"], to=TensorProto.FLOAT8E4M3FN),
        helper.make_node("Cast", ["c"], ["d"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["b", "d"], ["y"], axis=1),
    ]
    made = model(nodes, {"x": ["n", 4]}, {"y": ["n", 8]}, opsets={"": 19}, ir=9)
    name = write_onnx(target, "bfloat16_inside", made, "")
    with target.running.http() as client:
        load(client, name)
        x = np.array([[0.478, -1, 2, 100]], np.float32)
        y = ask((tritonclient.http, client), name, x).as_numpy("y")
    np.testing.assert_array_equal(y, np.array([[0.478515625, -1, 2, 100, 0.46875, -1, 2, 96]], np.float32))
    target.assert_well()
