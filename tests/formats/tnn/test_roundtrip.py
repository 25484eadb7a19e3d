"""Every file at hand comes back byte for byte, and an edited graph changes nothing but what was edited."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.formats.tnn.compare import differences
from tests.recordings import SHARED, case_ids, cases, folders
from tnn_serving.errors import FormatError
from tnn_serving.formats.tnn import read_model, write_model
from tnn_serving.graph import Graph, Input
from tnn_serving.layers.parameters import HW
from tnn_serving.layers.registry import declaration
from tnn_serving.tensor import PROTO_V2, BlobScale, DataType, Tensor

needs_models = pytest.mark.skipif(not SHARED.is_dir(), reason="no whole networks of TNN beside this checkout")

PROTOS = sorted(SHARED.glob("models/**/*.tnnproto"))


def test_there_are_recordings() -> None:
    assert len(case_ids()) == 3521


@needs_models
def test_there_are_models() -> None:
    assert len(PROTOS) >= 25


@pytest.mark.slow
@pytest.mark.parametrize("folder", folders())
def test_recorded_cases(folder: str) -> None:
    for case in cases(folder):
        graph = read_model(case.proto, case.model)
        assert write_model(graph) == (case.proto, case.model), case
        assert differences(read_model(*write_model(graph)), graph) == [], case


@needs_models
@pytest.mark.parametrize("path", PROTOS, ids=lambda path: path.parent.name + "/" + path.name)
def test_models(path: Path, tmp_path: Path) -> None:
    graph = read_model(path)
    model = next((p for p in (path.with_suffix(".tnnmodel"), path.with_name("model.tnnmodel")) if p.is_file()), None)
    assert (graph.model_bytes is not None) is (model is not None)
    written = write_model(graph, tmp_path / "m.tnnproto", tmp_path / "m.tnnmodel")
    assert written[0] == path.read_bytes() == (tmp_path / "m.tnnproto").read_bytes()
    assert (tmp_path / "m.tnnmodel").read_bytes() == written[1]
    if model is not None:
        assert written[1] == model.read_bytes()
        assert differences(read_model(path.read_bytes(), model.read_bytes()), graph) == []
    else:
        assert len(written[1]) == 8


# ---- edits, on an int8 network with constants that a program builds ----


def tensor(*values: float, dtype: type[np.generic] = np.float32, dims: tuple[int, ...] | None = None) -> Tensor:
    return Tensor.of(np.array(values, dtype), dims=dims)


def network() -> Graph:
    """Quantised convolution, float convolution, a product with a stored and one with a named constant."""
    window = {"output_channel": 2, "group": 1, "kernel": HW(1, 1), "stride": HW(1, 1), "pad_type": -1}
    conv = declaration("Convolution")
    layers = [
        conv(
            type="QuantizedConvolution",
            name="q",
            inputs=("x",),
            outputs=("a",),
            **window,
            filter=tensor(1, 2, 3, 4, dtype=np.int8, dims=(2, 2, 1, 1)),
            scale=tensor(0.5, 0.25),
        ),
        conv(
            name="c",
            inputs=("a",),
            outputs=("b",),
            **window,
            has_bias=1,
            filter=tensor(1, 2, 3, 4, dims=(2, 2, 1, 1)),
            bias=tensor(5, 6),
        ),
        declaration("Mul")(name="m", inputs=("b",), outputs=("d",), element=tensor(7, 8, dims=(1, 2, 1, 1))),
        declaration("Mul")(name="n", inputs=("d", "k"), outputs=("y",), weight_input_index=-1),
    ]
    return Graph(
        [Input("x", (1, 2, 4, 4), DataType.FLOAT)],
        ["y"],
        layers,
        constants={"k": tensor(9, dims=()), "l": tensor(1, 2, dtype=np.int32)},
        scales={"x": BlobScale(tensor(0.1)), "a": BlobScale(tensor(0.2), tensor(1, dtype=np.int8))},
    )


@pytest.fixture
def files() -> tuple[bytes, bytes]:
    return write_model(network())


@pytest.fixture
def graph(files: tuple[bytes, bytes]) -> Graph:
    return read_model(*files)


def rewritten(graph: Graph) -> tuple[bytes, bytes]:
    """Writes, and checks that reading gives the same graph."""
    files = write_model(graph)
    assert differences(read_model(*files), graph) == []
    assert write_model(read_model(*files)) == files
    return files


def test_network_of_a_program(files: tuple[bytes, bytes], graph: Graph) -> None:
    want = network()
    want.layers[0].label = "q"
    want.layers[1].label = "c"
    for layer, flag in zip(want.layers[:2], (0, 1), strict=True):
        layer.stored_bias = flag
    for scale in want.scales.values():
        scale.bias = tensor(0, dtype=np.int32, dims=())
    assert differences(graph, want) == []
    assert rewritten(graph) == files


def test_changed_parameter_leaves_the_model_alone(files: tuple[bytes, bytes], graph: Graph) -> None:
    graph.layer("c").activation = 1
    proto, model = rewritten(graph)
    assert model == files[1]
    assert proto == files[0].replace(b"1 1 0 0 1 -1 1 1 0 ,", b"1 1 0 0 1 -1 1 1 1 ,")


def test_changed_weight_changes_its_bytes_only(files: tuple[bytes, bytes], graph: Graph) -> None:
    old = graph.layer("m").element
    graph.layer("m").element = tensor(70, 80, dims=(1, 2, 1, 1))
    proto, model = rewritten(graph)
    assert proto == files[0]
    assert model == files[1].replace(bytes(old.data), np.float32([70, 80]).tobytes())


def test_renamed_layer_keeps_its_weights(files: tuple[bytes, bytes], graph: Graph) -> None:
    graph.layer("m").name = "M"
    proto, model = rewritten(graph)
    assert proto == files[0].replace(b"Mul m ", b"Mul M ")
    assert model == files[1].replace(b"Mul\1\0\0\0m", b"Mul\1\0\0\0M")


def test_replaced_layer_takes_the_place_of_its_entry(files: tuple[bytes, bytes], graph: Graph) -> None:
    graph.layers[2] = dataclasses.replace(graph.layers[2], element=tensor(1, 2, dims=(1, 2, 1, 1)))
    proto, model = rewritten(graph)
    assert proto == files[0]
    assert model == files[1].replace(np.float32([7, 8]).tobytes(), np.float32([1, 2]).tobytes())


def test_removed_layer_takes_its_entry_along(files: tuple[bytes, bytes], graph: Graph) -> None:
    removed = graph.layers.pop(2)
    graph.layers[2].inputs = ("b", "k")
    _, model = rewritten(graph)
    assert removed.element is not None
    entry = files[1].index(b"\x2a\0\0\0\3\0\0\0Mul\1\0\0\0m")
    size = 4 + 7 + 5 + 12 + 4 + 16 + 8
    assert model[8:] == files[1][8:entry] + files[1][entry + size :]
    assert model[4] == files[1][4] - 1


def test_added_layer_is_appended(files: tuple[bytes, bytes], graph: Graph) -> None:
    scale = declaration("Scale")(
        name="s",
        inputs=("x",),
        outputs=("z",),
        axis=1,
        num_axes=1,
        bias_term=0,
        label="s",
        stored_bias=0,
        scale=tensor(1),
    )
    graph.layers.insert(0, scale)
    graph.layers[1].inputs = ("z",)
    graph.scales["z"] = graph.scales.pop("x")
    _, model = rewritten(graph)
    assert model[4] == files[1][4] + 1


def test_bias_that_comes_and_goes(graph: Graph) -> None:
    graph.layer("c").bias = None
    graph.layer("q").bias = tensor(1, 2, dtype=np.int32)
    written = read_model(*write_model(graph))
    assert (written.layer("c").bias, written.layer("c").stored_bias) == (None, 0)
    assert (written.layer("q").bias, written.layer("q").stored_bias) == (tensor(1, 2, dtype=np.int32), 1)


def test_float_weights_in_the_place_of_int8_ones(graph: Graph) -> None:
    graph.layer("q").filter = tensor(1, 2, 3, 4, dims=(2, 2, 1, 1))
    assert read_model(*write_model(graph)).layer("q").scale is None


def test_int8_weights_without_scale_are_refused(graph: Graph) -> None:
    graph.layer("q").scale = None
    with pytest.raises(FormatError, match=r"`q` .*needs its scale"):
        write_model(graph)


def test_constants_come_and_go(files: tuple[bytes, bytes], graph: Graph) -> None:
    del graph.constants["l"]
    graph.constants["z"] = tensor(1)
    graph.constants["b"] = tensor(2)
    proto, _ = rewritten(graph)
    assert proto == files[0]
    assert list(read_model(*write_model(graph)).constants) == ["k", "b", "z"]
    graph.constants.clear()
    assert read_model(*write_model(graph)).constants == {}


def test_scales_come_and_go(graph: Graph) -> None:
    del graph.scales["a"]
    graph.scales["b"] = BlobScale(tensor(3), None, tensor(0, dtype=np.int32))
    assert set(read_model(*rewritten(graph)).scales) == {"x", "b"}


def test_mark_of_a_layer_changes_the_proto_only(files: tuple[bytes, bytes], graph: Graph) -> None:
    graph.layer("c").type = "QuantizedConvolution"
    assert write_model(graph)[1] == files[1]


def test_deep_copy_shares_the_weights(files: tuple[bytes, bytes], graph: Graph) -> None:
    other = copy.deepcopy(graph)
    assert write_model(other) == files
    assert np.shares_memory(other.layer("c").filter.array(), graph.layer("c").filter.array())
    other.layer("c").name = "other"
    assert write_model(graph) == files
    assert rewritten(other) != files


def test_a_graph_without_its_files_is_written_anew(files: tuple[bytes, bytes], graph: Graph) -> None:
    graph.proto_text = graph.model_bytes = None
    graph.version = PROTO_V2
    assert write_model(graph) == files


def test_adaptive_pooling_is_not_turned_around_unless_canonical() -> None:
    layer = declaration("Pooling")(name="p", inputs=("x",), outputs=("y",), is_adaptive_pool=1, output=HW(3, 5))
    graph = Graph([Input("x", (1, 1, 9, 9))], ["y"], [layer])
    assert read_model(*write_model(graph)).layers[0].output == HW(3, 5)
    assert read_model(*write_model(graph, canonical=True)).layers[0].output == HW(5, 3)


def test_buffer_beyond_2_gib_is_refused(graph: Graph) -> None:
    graph.constants["k"] = Tensor(DataType.INT8, None, memoryview(np.lib.stride_tricks.as_strided(
        np.zeros(1, np.uint8), (2**31,), (0,))))  # fmt: skip
    with pytest.raises(FormatError, match="too large"):
        write_model(graph)


def test_too_many_entries_are_refused(graph: Graph) -> None:
    graph.layers = [
        declaration("Mul")(name=f"m{k}", inputs=("x",), outputs=("y",), element=tensor(1)) for k in range(10_000)
    ]
    with pytest.raises(FormatError, match="too many entries"):
        write_model(graph)


def test_layer_named_like_a_scale_is_refused(graph: Graph) -> None:
    graph.layer("m").name = "x_scale_data_"
    with pytest.raises(FormatError, match="x_scale_data_"):
        write_model(graph, canonical=True)
