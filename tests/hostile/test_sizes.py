"""Files that are larger than any memory: each is refused before it is read, by supervisor, backend and Triton alike.

They are sparse, 1 TB each: what reads one does not end, or ends its process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException

from tests.end_to_end.models import write_model
from tests.hostile.conftest import Target, assert_sentence
from tests.servers import load, wait_for

TERABYTE = 1 << 40

LABELS = 'output [{ name: "y" label_filename: "labels.txt" }]\n'
LIMITED = 'parameters [{ key: "memory_limit_bytes" value: { string_value: "100MB" } }]\n'


def sparse(path: Path, size: int = TERABYTE) -> Path:
    """A file of zeros that takes no room on the disk."""
    with path.open("ab") as file:
        file.truncate(size)
    return path


def refusal(target: Target, name: str) -> str:
    """What the server says of a new model in the repository."""
    wait_for(lambda: (Path(target.running.overlay.locations[0]) / name).exists(), f"the overlay shows {name}")
    with target.running.http() as client, pytest.raises(InferenceServerException) as caught:
        client.load_model(name)
    text = str(caught.value.message())
    assert_sentence(text)
    return text


def onnx_with_data(folder: Path, size: int, length: int | None, dims: list[int]) -> None:
    """A model y = x + w whose weights are in a file of this size."""
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    entries = {"location": "w.bin", **({} if length is None else {"length": str(length)})}
    weights.external_data.extend(onnx.StringStringEntryProto(key=key, value=value) for key, value in entries.items())
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *dims]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    sparse(folder / "w.bin", size)


def only_onnx(version: Path) -> Path:
    """The version folder without the files of the TNN model."""
    for file in version.iterdir():
        file.unlink()
    return version


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "proto": (lambda model: sparse(model / "1" / "proto.tnnproto"), "proto.tnnproto.*too large for a proto"),
    "weights": (lambda model: sparse(model / "1" / "model.tnnmodel"), "model.tnnmodel.*larger than the memory"),
    "weights of 5 GB": (
        lambda model: sparse(model / "1" / "model.tnnmodel", 5 * 10**9),
        "model.tnnmodel.*larger than the memory.*at most 105 MB.*found 5 GB.*memory_limit_bytes",
    ),
    "onnx": (lambda model: sparse(only_onnx(model / "1") / "model.onnx"), "model.onnx.*larger than the memory"),
    "external data": (
        lambda model: onnx_with_data(only_onnx(model / "1"), TERABYTE, None, [4]),
        "model.onnx.*files are larger than the memory",
    ),
    "a part of external data": (
        lambda model: onnx_with_data(only_onnx(model / "1"), TERABYTE, 16, [4]),
        "model.onnx.*files are larger than the memory",
    ),
    "recorded case": (lambda model: sparse(model / "1" / "check.npz"), "check.npz.*larger than the memory"),
    "manifest": (lambda model: sparse(model / "SHA256SUMS"), "SHA256SUMS.*too large for a manifest"),
    "labels": (lambda model: sparse(model / "labels.txt"), "labels.txt.*too large for a label file.*at most 16777216"),
    "labels of 1 GB": (lambda model: sparse(model / "labels.txt", 1 << 30), "labels.txt.*too large for a label file"),
    "link in place of labels": (
        lambda model: (model / "labels.txt").symlink_to(sparse(model / "1" / "other")),
        "labels.txt.*too large for a label file",
    ),
    "pipe in place of labels": (lambda model: os.mkfifo(model / "labels.txt"), "labels.txt.*not a regular file"),
    "device in place of labels": (
        lambda model: (model / "labels.txt").symlink_to("/dev/zero"),
        "labels.txt.*not a regular file",
    ),
    "no labels": (lambda model: None, "labels.txt.*cannot be read: No such file"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_too_large_are_not_read(target: Target, name: str) -> None:
    make, said = FILES[name]
    model = write_model(target.repository, name.replace(" ", "_"), config=LIMITED)
    make(model)
    if "labels" in name:
        (model / "config.pbtxt").write_text(LIMITED + LABELS)
    found = refusal(target, model.name)
    assert re.search(f"(?s){said}", found), found
    target.assert_well()


@pytest.mark.parametrize("kind", ["sparse", "pipe", "device"])
def test_a_configuration_that_triton_must_not_read(target: Target, kind: str) -> None:
    """Triton reads it before any backend is asked, so that the supervisor takes the model out of its sight."""
    model = write_model(target.repository, f"config_{kind}", config='backend: "tnn"\n')
    shown = Path(target.running.overlay.locations[0]) / model.name
    wait_for(shown.exists, "the overlay shows the model")
    config = model / "config.pbtxt"
    whole = config.read_bytes()
    if kind == "sparse":
        sparse(config)
    else:
        config.unlink()
        os.mkfifo(config) if kind == "pipe" else config.symlink_to("/dev/zero")
    wait_for(lambda: not shown.exists(), "the overlay hides the model")
    reason = {one.folder.name: one.reason for one in target.running.overlay.skipped}[model.name]
    assert ("too large for a config.pbtxt" if kind == "sparse" else "not a regular file") in reason
    with target.running.http() as client, pytest.raises(InferenceServerException):
        client.load_model(model.name)
    target.assert_well()
    config.unlink()
    config.write_bytes(whole)
    with target.running.http() as client:
        load(client, model.name)
        assert client.is_model_ready(model.name)
    target.assert_well()
