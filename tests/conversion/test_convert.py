"""The whole way: files, what is tried of them, smaller weights, and bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.helper as oh
import pytest

import tnn_serving as ts
from tests.conversion.test_network import DIMS, NORM, graph_of, network, norm_node, values
from tnn_serving.conversion import check as checking
from tnn_serving.conversion import convert
from tnn_serving.errors import ConfigError, ConversionError, FormatError, RequestError, ShapeError
from tnn_serving.layers.activation import ReLU
from tnn_serving.layers.convolution import Convolution
from tnn_serving.layers.pattern import Match
from tnn_serving.tensor import DataType

SMALL = network(
    [
        oh.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        norm_node("c", "n"),
        oh.make_node("Relu", ["n"], ["r"]),
        oh.make_node("GlobalAveragePool", ["r"], ["p"]),
        oh.make_node("Flatten", ["p"], ["f"]),
        oh.make_node("Gemm", ["f", "k", "b"], ["y"], transB=1),
    ],
    {"w": values(6, 4, 3, 3), "k": values(5, 6), "b": values(5)} | NORM,
)


def test_files_are_written_and_load(tmp_path: Path) -> None:
    steps: list[str] = []
    made = convert(SMALL, tmp_path / "new" / "1", dims=DIMS, on_step=steps.append)
    assert sorted(path.name for path in (tmp_path / "new" / "1").iterdir()) == ["model.tnnmodel", "proto.tnnproto"]
    assert made.proto == tmp_path / "new" / "1" / "proto.tnnproto"
    x = values(*DIMS["x"])
    want = ts.load(SMALL, "onnxruntime").run({"x": x})["y"]
    got = ts.load(tmp_path / "new", "onnxruntime").run({"x": x})["y"]
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    assert steps == ["reading", "converting 6 nodes", "running both networks", "writing"]
    assert made.layers == {"Convolution": 1, "ReLU": 1, "Pooling": 1, "Flatten": 1, "InnerProduct": 1}
    assert made.operators["Conv"] == 1


def test_it_is_tried_at_two_sizes() -> None:
    found = convert(SMALL, dims=DIMS).check
    assert found is not None
    assert [run.shapes["x"] for run in found.tried] == [(1, 4, 9, 7), (2, 4, 18, 14)]
    assert found.untried is None
    assert max(run.largest for run in found.tried) <= checking.TOLERANCE


def test_given_inputs_are_used() -> None:
    found = convert(SMALL, dims=DIMS, inputs={"x": values(3, 4, 5, 5)}).check
    assert found is not None
    assert found.tried[0].shapes == {"x": (3, 4, 5, 5)}
    with pytest.raises(RequestError):
        convert(SMALL, dims=DIMS, inputs={"other": values(1)})


def test_a_wrong_layer_is_named_with_both_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(cls: type[ReLU], m: Match) -> Convolution | None:
        return Convolution.made(  # gives half of its input
            m,
            m["x"],
            group=6,
            output_channel=6,
            kernel=(1, 1),
            stride=(1, 1),
            pad_type=-1,
            filter=ts_half(),
        )

    monkeypatch.setattr(ReLU, "from_onnx", classmethod(wrong))
    with pytest.raises(ConversionError, match=r"differs first at `r`, ONNX node `Relu_2` \(Relu\)") as caught:
        convert(SMALL, tmp_path / "out", dims=DIMS)
    assert "as ONNX Runtime computes" in str(caught.value.expected)
    assert not (tmp_path / "out").exists()


def ts_half() -> object:
    from tnn_serving.layers.weights import kept

    return kept(np.full((6, 1, 1, 1), 0.5, np.float32))


def test_activations_go_into_convolutions() -> None:
    made = convert(SMALL, dims=DIMS, optimize=True)
    assert made.layers == {"Convolution": 1, "Pooling": 1, "Flatten": 1, "InnerProduct": 1}
    assert made.graph.layers[0].fused_activation == 1
    assert made.check is not None


@pytest.mark.parametrize(("option", "kind"), [("fp16", DataType.HALF), ("dynamic_range", DataType.INT8)])
def test_smaller_weights(option: str, kind: DataType, tmp_path: Path) -> None:
    made = convert(SMALL, tmp_path, dims=DIMS, fp16=option == "fp16", dynamic_range=option == "dynamic_range")
    assert made.loss is not None
    assert 0 < made.loss < 0.05
    assert made.proto is not None
    layer = ts.read_model(made.proto).layer("n")
    assert isinstance(layer, Convolution)
    assert layer.filter is not None
    assert layer.filter.dtype is kind
    assert layer.dynamic_range == (option == "dynamic_range")
    with pytest.raises(ConfigError):
        convert(SMALL, dims=DIMS, fp16=True, dynamic_range=True)


def test_a_network_can_be_cut() -> None:
    made = convert(SMALL, dims=DIMS, outputs=["r"])
    assert made.graph.outputs == ["r"]
    assert made.layers == {"Convolution": 1, "ReLU": 1}
    with pytest.raises(ShapeError, match="nowhere"):
        convert(SMALL, dims=DIMS, outputs=["nowhere"])


def test_fixed_dims_may_be_replaced() -> None:
    fixed = network([oh.make_node("Relu", ["x"], ["y"])], {}, dims=(1, 4, 9, 7))
    found = convert(fixed, dims={"x": (1, 4, 5, 7)}).check
    assert found is not None
    assert found.tried[0].shapes == {"x": (1, 4, 5, 7)}
    with pytest.raises(ShapeError, match="no input `z`"):
        convert(fixed, dims={"z": (1,)})


def test_external_data(tmp_path: Path) -> None:
    model = onnx.ModelProto.FromString(SMALL.SerializeToString())
    onnx.save(model, tmp_path / "n.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert convert(tmp_path / "n.onnx", dims=DIMS).layers["Convolution"] == 1
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(FormatError, match=r"weights\.bin"):
        convert(tmp_path / "n.onnx", dims=DIMS)


def test_nan_weights_are_kept() -> None:
    weights = values(6, 4, 3, 3)
    weights[0, 0, 0, 0] = np.nan
    model = network([oh.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3])], {"w": weights})
    found = convert(model, dims=DIMS)
    assert found.check is not None


def test_an_unwritable_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        convert(SMALL, tmp_path / "file" / "1", dims=DIMS)


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(step: str) -> None:
        if step == "writing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(SMALL, tmp_path, dims=DIMS, on_step=interrupted)
    assert list(tmp_path.iterdir()) == []


def test_types_that_tnn_does_not_have_are_noted() -> None:
    model = network(
        [
            oh.make_node("Cast", ["x"], ["d"], to=11),
            oh.make_node("Sqrt", ["d"], ["e"]),
            oh.make_node("Cast", ["e"], ["y"], to=1),
        ],
        {},
    )
    assert convert(model, dims=DIMS).notes == ["float64 is computed in float32"]
    assert len(graph_of(model, dims=DIMS).layers) >= 1
