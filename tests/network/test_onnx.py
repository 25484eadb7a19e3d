"""ONNX models on the same road as TNN's: read, checked, with pixels in front, batched, run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tnn_serving as ts
from tnn_serving.config.model_config import ModelConfig
from tnn_serving.errors import FormatError, RequestError, UnsupportedLayer
from tnn_serving.model import Model
from tnn_serving.network.formats import open_network
from tnn_serving.pictures.conversion import PictureInput
from tnn_serving.serving.servable import Servable

W = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)


def write(
    folder: Path,
    nodes: list[onnx.NodeProto] | None = None,
    dims: tuple[int | str, ...] = ("n", 3, "h", "w"),
    *,
    opset: int = 17,
    kind: int = TensorProto.FLOAT,
) -> Path:
    """A convolution, or other nodes, from ``x`` to ``y``; the weights are listed as an input too."""
    made = nodes or [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"], name="second"),
    ]
    graph = helper.make_graph(
        made,
        "g",
        [
            helper.make_tensor_value_info("x", kind, dims),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, W.shape),
        ],
        [helper.make_tensor_value_info("y", kind, [None] * len(dims))],
        [numpy_helper.from_array(W, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def reference(x: np.ndarray) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    return np.maximum(np.einsum("nchwij,ocij->nohw", windows, W), 0)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "auto"])
def test_a_model_runs_at_any_size(tmp_path: Path, engine: str) -> None:
    model = ts.load(write(tmp_path), engine)
    assert [(s.name, s.shape) for s in model.inputs] == [("x", (None, 3, None, None))]
    for shape in ((1, 3, 8, 8), (2, 3, 5, 9)):
        x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        np.testing.assert_allclose(model.run({"x": x})["y"], reference(x), rtol=1e-4, atol=1e-4)
        assert set(model.run({"x": x}, outputs=["c", "y"])) == {"c", "y"}


def test_a_folder_with_one_is_a_source(tmp_path: Path) -> None:
    write(tmp_path)
    assert ts.load(tmp_path).network.source == str(tmp_path / "model.onnx")


def test_pixels_go_in_front(tmp_path: Path) -> None:
    picture = PictureInput(scale=(0.5, 0.25, 2.0), bias=(1.0, -2.0, 3.0), reverse_channel=True)
    model = Model.of(open_network(write(tmp_path)), pictures={"x": picture})
    assert [(s.name, s.dtype, s.shape) for s in model.inputs] == [("x", np.uint8, (None, None, None, 3))]
    pixels = np.random.default_rng(2).integers(0, 256, (1, 6, 7, 3)).astype(np.uint8)
    blob = pixels[..., ::-1].astype(np.float32) * np.float32([0.5, 0.25, 2]) + np.float32([1, -2, 3])
    wanted = reference(blob.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(model.run({"x": pixels})["y"], wanted, rtol=1e-4, atol=1e-2)


def test_shapes_that_do_not_fit_name_the_node(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MaxPool", ["x"], ["a"], name="halve", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Resize", ["a", "", "two"], ["b"], name="double", mode="nearest"),
        helper.make_node("Add", ["x", "b"], ["y"], name="meet"),
    ]
    two = helper.make_node("Constant", [], ["two"], value_floats=[1.0, 1.0, 2.0, 2.0])
    model = ts.load(write(tmp_path, [two, *nodes]))
    assert model.run({"x": np.zeros((1, 3, 16, 16), np.float32)})["y"].shape == (1, 3, 16, 16)
    with pytest.raises(RequestError, match="meet"):
        model.run({"x": np.zeros((1, 3, 15, 16), np.float32)})
    with pytest.raises(RequestError, match="another shape"):
        model.run({"x": np.zeros((1, 4, 16, 16), np.float32)})


def test_batches_are_completed_where_rows_stay_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    write(tmp_path / "apart" / "1")
    assert Servable.open(tmp_path / "apart", ModelConfig(), version=1).config.max_batch_size > 1
    write(tmp_path / "mixed" / "1", [helper.make_node("Softmax", ["x"], ["y"], name="over rows", axis=0)])
    assert Servable.open(tmp_path / "mixed", ModelConfig(), version=1).config.max_batch_size == 0
    assert "over rows" in caplog.text
    write(tmp_path / "fixed" / "1", dims=(1, 3, 8, 8))
    fixed = Servable.open(tmp_path / "fixed", ModelConfig(), version=1)
    assert fixed.config.input[0].dims == (1, 3, 8, 8)


def test_free_dims_may_be_spelled_minus_one(tmp_path: Path) -> None:
    model = ts.load(write(tmp_path, dims=(-1, 3, -1, -1)))
    assert model.inputs[0].shape == (None, 3, None, None)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"no protobuf")
    with pytest.raises(FormatError, match=r"model\.onnx: a text file, not an ONNX model"):
        ts.load(file)
    with pytest.raises(FormatError, match="cannot be read"):
        ts.load(tmp_path / "none.onnx")
    write(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], dims=("n",), kind=TensorProto.STRING)
    with pytest.raises(UnsupportedLayer, match="input `x` is a tensor of strings, which is not supported"):
        ts.load(file)


def test_two_models_in_a_folder_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "m.tnnproto").write_text("")
    with pytest.raises(FormatError, match="two models"):
        ts.load(tmp_path)
    (tmp_path / "m.tnnproto").unlink()
    (tmp_path / "model.onnx").rename(tmp_path / "a.onnx")
    (tmp_path / "b.onnx").write_bytes(b"")
    with pytest.raises(FormatError, match="several models"):
        ts.load(tmp_path)
