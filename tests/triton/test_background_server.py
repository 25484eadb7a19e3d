"""A temporary server, and the temporary repository that it serves."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.end_to_end.models import BROKEN, NO_WEIGHTS, RELU, write_model
from tnn_serving.client.connection import connect
from tnn_serving.errors import FormatError, ServerError
from tnn_serving.triton.background_server import BackgroundServer, SingleModelRepository


def seen(folder: Path) -> set[str]:
    """Files below a folder, through links."""
    return {
        os.path.relpath(Path(base) / name, folder)
        for base, _, names in os.walk(folder, followlinks=True)
        for name in names
    }


FILES = {"1/proto.tnnproto", "1/model.tnnmodel"}


def test_a_model_folder_is_served_whole(tmp_path: Path) -> None:
    model = write_model(tmp_path, "relu", config="max_batch_size: 0\n")
    write_model(tmp_path, "relu", version=2)
    with SingleModelRepository(model) as one:
        assert one.name == "relu"
        assert seen(one.repository / "relu") == FILES | {"2/proto.tnnproto", "2/model.tnnmodel", "config.pbtxt"}
    assert not one.repository.exists()
    assert seen(model)


def test_a_version_is_served_without_the_others_but_with_the_configuration(tmp_path: Path) -> None:
    model = write_model(tmp_path, "relu", config="max_batch_size: 0\n")
    write_model(tmp_path, "relu", version=2)
    with SingleModelRepository(model / "1") as one:
        assert (one.name, seen(one.repository / "relu")) == ("relu", FILES | {"config.pbtxt"})


def test_a_folder_of_another_layout(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "relu") / "1"
    other = folder.rename(tmp_path / "exported")
    with SingleModelRepository(other) as one:
        assert (one.name, seen(one.repository / "exported")) == ("exported", FILES)


def test_a_proto_with_its_weights(tmp_path: Path) -> None:
    (tmp_path / "net.tnnproto").write_bytes(RELU)
    (tmp_path / "net.tnnmodel").write_bytes(NO_WEIGHTS)
    with SingleModelRepository(tmp_path / "net.tnnproto") as one:
        assert (one.name, seen(one.repository / "net")) == ("net", FILES)
    (tmp_path / "net.tnnmodel").unlink()
    with SingleModelRepository(tmp_path / "net.tnnproto") as one:  # its layers need no weights
        assert len(seen(one.repository / "net")) == len(FILES) - 1


def test_an_onnx_file_with_tensors_beside_it(tmp_path: Path) -> None:
    weights = onnx.numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "w"], ["y"])],
        "add",
        [value("x", onnx.TensorProto.FLOAT, [1, 4])],
        [value("y", onnx.TensorProto.FLOAT, [1, 4])],
        [weights],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    with SingleModelRepository(tmp_path / "net.onnx") as one:
        assert seen(one.repository / "net") == {"1/model.onnx", "1/net.data"}


def test_files_that_are_not_models(tmp_path: Path) -> None:
    (tmp_path / "net.txt").write_bytes(RELU)
    with pytest.raises(FormatError, match="is no model file by its name"):
        SingleModelRepository(tmp_path / "net.txt")


def test_a_server_serves_and_ends(installed: None, tmp_path: Path) -> None:
    write_model(tmp_path, "relu")
    with BackgroundServer(tmp_path) as server:
        pid = server.pid
        for url in (server.http_url, server.grpc_url):
            with connect(url) as connection:
                assert connection.ready_models() == ["relu"]
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_model_that_cannot_be_served_says_why(installed: None, tmp_path: Path) -> None:
    write_model(tmp_path, "broken", proto=BROKEN)
    with pytest.raises(ServerError, match="NoSuchLayer"):
        BackgroundServer(tmp_path)
