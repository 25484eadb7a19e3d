"""The binary file against bytes made by hand: layout, versions, forms of entries, and what is kept of oddities."""

from __future__ import annotations

import logging
import mmap
from pathlib import Path

import numpy as np
import pytest

import tnn_serving as ts
from tests.formats.tnn.compare import differences
from tests.formats.tnn.handmade import (
    MODEL,
    PROTO,
    PROTO_1,
    V1,
    V2,
    X,
    Y,
    entry,
    floats,
    i32,
    int8s,
    int32s,
    model,
    model_1,
    proto,
    raw,
    text,
    u32,
)
from tnn_serving.errors import FormatError, WeightsError
from tnn_serving.formats.tnn import read_model, write_model
from tnn_serving.graph import Graph, Input
from tnn_serving.layers.parameters import HW
from tnn_serving.layers.registry import declaration
from tnn_serving.tensor import BlobScale, DataType, Tensor

RELU = proto("ReLU r 1 1 x y")
CONV_LINE = "{} c 1 1 x y 1 2 1 1 1 1 1 0 0 0 -1 1 1 0"
CONV = proto(CONV_LINE.format("Convolution"))
INT8_CONV = proto(CONV_LINE.format("QuantizedConvolution"))
FILTER = int8s(1, -2, dims=(1, 2, 1, 1))


CONV_PAYLOAD = text("c") + i32(0) + FILTER


def conv(*quant_block: bytes, kind: str = "Convolution") -> bytes:
    return model(entry(1, kind, "c", CONV_PAYLOAD + b"".join(quant_block)))


def copied(proto_bytes: bytes, model_bytes: bytes) -> Graph:
    """Reads, checks that writing gives the same bytes, and returns the graph."""
    graph = read_model(proto_bytes, model_bytes)
    assert write_model(graph) == (proto_bytes, model_bytes)
    return graph


# ---- the worked example ----


def test_worked_example() -> None:
    assert (len(PROTO), len(MODEL)) == (143, 173)
    graph = copied(PROTO, MODEL)
    assert write_model(graph, canonical=True) == (PROTO, MODEL)
    assert graph.inputs == [Input("x", (1, 1, 2, 2), DataType.FLOAT)]
    assert (graph.outputs, graph.blobs) == (["y"], ["c", "x", "y"])
    first, second = graph.layers
    assert (first.type, first.name, first.inputs, first.outputs) == ("Convolution", "conv", ("x",), ("c",))
    assert (first.group, first.output_channel, first.kernel, first.pad_type) == (1, 2, HW(1, 1), -1)
    assert first.filter.dims == (2, 1, 1, 1)
    np.testing.assert_array_equal(first.filter.shaped().ravel(), [1, -2])
    np.testing.assert_array_equal(first.bias.array(), [0.5, 0.25])
    assert (first.label, first.stored_bias) == ("conv", 1)
    np.testing.assert_array_equal(second.element.shaped(), np.array([10, 100], np.float32).reshape(1, 2, 1, 1))


def test_worked_example_from_a_program() -> None:
    convolution = declaration("Convolution")(
        name="conv",
        inputs=("x",),
        outputs=("c",),
        group=1,
        input_channel=1,
        output_channel=2,
        kernel=HW(1, 1),
        stride=HW(1, 1),
        has_bias=1,
        pad_type=-1,
        filter=Tensor.of(np.array([1, -2], np.float32).reshape(2, 1, 1, 1)),
        bias=Tensor.of(np.array([0.5, 0.25], np.float32)),
    )
    product = declaration("Mul")(
        name="mul",
        inputs=("c",),
        outputs=("y",),
        element=Tensor.of(np.array([10, 100], np.float32).reshape(1, 2, 1, 1)),
    )
    graph = Graph([Input("x", (1, 1, 2, 2), DataType.FLOAT)], ["y"], [convolution, product])
    assert write_model(graph) == (PROTO, MODEL)
    assert write_model(graph, canonical=True) == (PROTO, MODEL)


def test_version_1_twin() -> None:
    assert len(model_1()) == 125
    graph = copied(PROTO_1, model_1())
    assert graph.inputs == [Input("x", (1, 1, 2, 2))]
    assert [tensor.dims for layer in graph.layers for _, tensor in layer.weights()] == [None] * 3
    again = write_model(graph, canonical=True)
    assert again[0] == PROTO
    assert again[1] == model(
        entry(1, "Convolution", "conv", text("conv") + i32(1) + floats(1, -2, dims=()) + floats(0.5, 0.25, dims=())),
        entry(42, "Mul", "mul", floats(10, 100, dims=())),
    )


@pytest.mark.parametrize("magic", [V1, V2, None], ids=["v1", "v2", "no-magic"])
@pytest.mark.parametrize("old", [False, True], ids=["types", "numbers"])
@pytest.mark.parametrize("text_version", [PROTO, PROTO_1], ids=["proto-v2", "proto-v1"])
def test_each_version_is_judged_alone(magic: int | None, old: bool, text_version: bytes) -> None:
    graph = copied(text_version, model_1(magic=magic, old=old))
    np.testing.assert_array_equal(graph.layer("conv").filter.array(), [1, -2])
    np.testing.assert_array_equal(graph.layer("mul").element.array(), [10, 100])


@pytest.mark.parametrize("files", [(PROTO, MODEL), (PROTO_1, model_1()), (PROTO_1, model_1(magic=None, old=True))])
def test_worked_example_runs(files: tuple[bytes, bytes]) -> None:
    np.testing.assert_allclose(ts.load(files, "onnxruntime").run({"x": X})["y"], Y, rtol=1e-6)


# ---- entries ----


def test_old_entry_named_like_a_type_is_read_as_the_normal_form() -> None:
    # TNN takes the first string for the type as soon as it is one, so the name is missing and all else shifts.
    files = proto("Mul Add 1 1 x y 1"), model(entry(42, None, "Add", floats(2)))
    with pytest.raises(WeightsError, match="corrupt string length"):
        read_model(*files)
    graph = copied(proto("Mul Add 1 1 x y 1"), model(entry(42, "Mul", "Add", floats(2))))
    assert graph.layers[0].element.array() == [2]


def test_type_string_wins_over_number() -> None:
    graph = copied(proto("Mul m 1 1 x y 1"), model(entry(38, "Mul", "m", floats(2))))
    assert graph.layers[0].element.array() == [2]


def test_entry_type_may_lack_the_mark_of_the_proto() -> None:
    graph = copied(INT8_CONV, conv(int8s(3), floats(0.5)))
    assert graph.layers[0].type == "QuantizedConvolution"
    assert graph.layers[0].zero_point.array() == [3]


@pytest.mark.parametrize("bits", [0x20000000, 0x80000000, 0xE0000000])
def test_upper_bits_of_the_entry_count_do_not_count(bits: int) -> None:
    data = MODEL[:4] + u32(bits | 2) + MODEL[8:]
    assert copied(PROTO, data).layer("mul").stored


def test_entries_in_any_order() -> None:
    mul, convolution = entry(42, "Mul", "mul", floats(3, 4)), MODEL[8:0x73]
    graph = copied(PROTO, model(mul, convolution))
    np.testing.assert_array_equal(graph.layer("mul").element.array(), [3, 4])
    assert write_model(graph, canonical=True)[1][8:0x73] == convolution


def test_entries_of_nobody_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    foreign = entry(38, "Add", "other", floats(1)), entry(1, None, "z", CONV_PAYLOAD + floats(1))
    data = model(foreign[0], MODEL[8:0x73], MODEL[0x73:], foreign[1])
    graph = copied(PROTO, data)
    assert graph.layer("mul").stored
    assert not caplog.records
    assert write_model(graph, canonical=True) == (PROTO, MODEL)


def test_no_entry_of_any_layer_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    copied(RELU, model(entry(38, "Add", "other", floats(1))))
    assert "different networks" in caplog.text


def test_last_of_two_entries_counts(caplog: pytest.LogCaptureFixture) -> None:
    data = model(*(entry(42, "Mul", "m", floats(value)) for value in (1, 2, 3)))
    graph = copied(proto("Mul m 1 1 x y 1"), data)
    assert graph.layers[0].element.array() == [3]
    assert "twice" in caplog.text
    assert write_model(graph, canonical=True)[1] == model(entry(42, "Mul", "m", floats(3)))


def test_last_of_two_scales_counts() -> None:
    scales = [entry(600, "BlobScale", "x_scale_data_", floats(value) + int32s(0)) for value in (1, 2)]
    graph = copied(INT8_CONV, model(*scales))
    assert graph.scales["x"].scales() == [2]


def test_header_only_entry() -> None:
    graph = copied(proto("Sigmoid s 1 1 x y"), model(entry(23, "Sigmoid", "s")))
    assert write_model(graph, canonical=True)[1] == model()


def test_entry_of_a_layer_that_is_unknown() -> None:
    graph = copied(proto("Eltwise e 1 1 x y 1 2"), model(entry(38, "Add", "e", floats(1))))
    assert not graph.layers[0].stored


SHARED_NAME = proto("Mul m 1 1 x a 1", "ReLU m 1 1 a b", "Mul m 1 1 b y 1")


def test_layers_of_one_name_share_their_weights(caplog: pytest.LogCaptureFixture) -> None:
    one = entry(42, "Mul", "m", floats(2))
    graph = copied(SHARED_NAME, model(one))
    assert "share" in caplog.text
    assert graph.layers[0].element is graph.layers[2].element
    # TNN's packer writes the entry once for each of them.
    assert write_model(graph, canonical=True)[1] == model(one, one)


def test_layers_of_one_name_cannot_hold_different_weights() -> None:
    graph = read_model(SHARED_NAME, model(entry(42, "Mul", "m", floats(2))))
    graph.layers[2].element = Tensor.of(np.float32([3]))
    with pytest.raises(FormatError, match="`m` hold different weights"):
        write_model(graph)


# ---- buffers ----

VALUES = {
    DataType.FLOAT: np.array([1.5, -2, np.inf], "<f4"),
    DataType.HALF: np.array([1.5, -2, 65504], "<f2"),
    DataType.INT8: np.array([1, -128, 127], "i1"),
    DataType.INT32: np.array([1, -(2**31), 2**31 - 1], "<i4"),
    DataType.BFP16: np.array([0x3FC0, 0xC000, 0x7F80], "<u2"),
    DataType.INT64: np.array([1, -(2**63), 2**63 - 1], "<i8"),
    DataType.UINT32: np.array([1, 0, 2**32 - 1], "<u4"),
}


@pytest.mark.parametrize("dtype", DataType)
@pytest.mark.parametrize("magic", [V1, V2])
def test_each_data_type(dtype: DataType, magic: int) -> None:
    values = VALUES[dtype]
    graph = copied(RELU, model(constants={"k": raw(values, dtype, (3, 1), magic)}))
    tensor = graph.constants["k"]
    assert (tensor.dtype, tensor.size, tensor.dims) == (dtype, 3, (3, 1) if magic == V2 else None)
    want = {DataType.BFP16: np.float32([1.5, -2, np.inf]), DataType.HALF: values.astype(np.float32)}.get(dtype, values)
    assert tensor.array().dtype == want.dtype
    np.testing.assert_array_equal(tensor.array(), want)
    assert tensor.shaped().shape == ((3, 1) if magic == V2 else (3,))


@pytest.mark.parametrize("dtype", DataType)
def test_empty_buffer_keeps_its_type_number_in_a_copy(dtype: DataType) -> None:
    graph = copied(RELU, model(constants={"k": raw(b"", dtype)}))
    assert graph.constants["k"].array().size == 0
    assert write_model(graph, canonical=True)[1] == model(constants={"k": raw(b"", 0)})


def test_rank_0_means_flat_or_scalar() -> None:
    graph = copied(RELU, model(constants={"one": floats(7, dims=()), "two": floats(7, 8, dims=())}))
    assert graph.constants["one"].shaped().shape == ()
    assert graph.constants["two"].shaped().shape == (2,)
    assert graph.constants["two"].shape is None


def test_weights_are_views_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "m.tnnproto").write_bytes(PROTO)
    (tmp_path / "m.tnnmodel").write_bytes(MODEL)
    for graph, whole in (
        (read_model(PROTO, MODEL), MODEL),
        (mapped := read_model(tmp_path / "m.tnnproto"), mapped.layer("mul").element.data.obj),
    ):
        assert isinstance(whole, (bytes, mmap.mmap))
        for layer in graph.layers:
            for _, tensor in layer.weights():
                assert np.shares_memory(tensor.array(), np.frombuffer(whole, np.uint8))
                assert not tensor.array().flags.writeable
    assert isinstance(mapped.layer("mul").element.data.obj, mmap.mmap)


def test_a_model_may_replace_its_own_file(tmp_path: Path) -> None:
    files = tmp_path / "m.tnnproto", tmp_path / "m.tnnmodel"
    files[0].write_bytes(PROTO_1)
    files[1].write_bytes(model_1())
    graph = read_model(files[0])
    written = write_model(graph, *files, canonical=True)
    assert (files[0].read_bytes(), files[1].read_bytes()) == written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.tnnmodel", "m.tnnproto"]
    np.testing.assert_array_equal(graph.layer("conv").filter.array(), [1, -2])


# ---- int8 ----


def test_quant_block_forms() -> None:
    new = copied(INT8_CONV, conv(int8s(3), floats(0.5))).layers[0]
    assert (new.zero_point.array(), new.scale.array()) == ([3], [0.5])
    old = copied(INT8_CONV, conv(floats(0.5))).layers[0]
    assert old.zero_point is None
    assert old.scale.array() == [0.5]


@pytest.mark.parametrize("kind", ["Convolution", "QuantizedConvolution", "DynamicRangeQuantizedConvolution"])
def test_quant_block_follows_the_type_of_the_weight_not_the_mark(kind: str) -> None:
    line = proto(CONV_LINE.format(kind))
    assert copied(line, conv(floats(0.5), kind=kind)).layers[0].scale.array() == [0.5]
    plain = model(entry(1, kind, "c", text("c") + i32(0) + floats(1, 2, dims=(1, 2, 1, 1))))
    assert copied(line, plain).layers[0].scale is None


def test_blob_scale_forms() -> None:
    new = entry(600, "BlobScale", "x_scale_data_", int8s(3, 4) + floats(0.5, 1) + int32s(0, 0))
    old = entry(0, "BlobScale", "y_scale_data_", floats(2) + raw(b"", 3))
    bare = entry(600, None, "z_scale_data_", floats(1) + int32s(0))
    graph = copied(INT8_CONV, model(new, old, bare))
    assert set(graph.scales) == {"x", "y", "z"}
    np.testing.assert_array_equal(graph.scales["x"].zero_points(), [3, 4])
    np.testing.assert_array_equal(graph.scales["x"].scales(), [0.5, 1])
    assert graph.scales["y"].zero_point is None
    np.testing.assert_array_equal(graph.scales["y"].zero_points(), [0])


def test_blob_scale_of_another_name_is_nobodys() -> None:
    graph = copied(INT8_CONV, model(entry(600, "BlobScale", "x", floats(2) + int32s(0))))
    assert not graph.scales


def test_scale_of_an_unmarked_blob_is_written_unless_canonical() -> None:
    graph = read_model(RELU, model())
    graph.scales["x"] = BlobScale(Tensor.of(np.float32([2])))
    written = write_model(graph)
    assert read_model(*written).scales["x"].scales() == [2]
    assert write_model(graph, canonical=True)[1] == model()


# ---- end of the file ----


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"\1",
        b"\1\2\3",
        u32(V2) + i32(0),
        u32(V1) + i32(0),
        u32(0) + i32(0),
        u32(77) + i32(-5),
        u32(V2) + i32(0) + b"more",
        u32(V2) + i32(0) + bytes(100),
        u32(0) + i32(1) + text("k") + floats(1),
        u32(V2) + i32(1) + text("k") + floats(1) + b"stray",
        u32(V2) + i32(2) + text("z") + floats(1) + text("a") + int8s(),
        u32(V2) + i32(3) + text("k") + floats(1) + text("l") + floats(4) + text("k") + floats(2, 3, dims=(2,)),
    ],
    ids=lambda tail: tail.hex() or "nothing",
)
def test_trailer(tail: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        graph = copied(PROTO, MODEL + tail)
    if tail.count(text("k")) == 2:
        np.testing.assert_array_equal(graph.constants["k"].array(), [2, 3])
        assert "constant `k` is twice" in caplog.text


def test_empty_model_file_of_a_network_without_weights() -> None:
    graph = copied(RELU, b"")
    graph.constants["k"] = Tensor.of(np.float32([1]))
    assert read_model(RELU, write_model(graph)[1]).constants["k"].array() == [1]


@pytest.mark.parametrize("data", [i32(0), u32(V1) + i32(0), u32(V2) + i32(0), u32(V2) + u32(0xE0000000)])
def test_no_entries(data: bytes) -> None:
    copied(RELU, data)


# ---- names ----


@pytest.mark.parametrize("name", ["é".encode(), "é".encode("latin-1"), "層".encode(), b"conv2_1/dw:0", b"\xff\xfe"])
def test_names_are_bytes(name: bytes) -> None:
    text_bytes = proto("Mul LAYER 2 1 x CONST y").replace(b"LAYER", name).replace(b"CONST", name + b"k")
    data = u32(V2) + i32(1) + entry(42, "Mul", name, floats(2)) + u32(V2) + i32(1) + text(name + b"k") + floats(3)
    graph = copied(text_bytes, data)
    assert graph.layers[0].stored
    assert graph.constants[graph.layers[0].inputs[1]].array() == [3]
    assert differences(read_model(*write_model(graph, canonical=True)), graph) == []


def test_names_that_the_encoding_of_the_proto_does_not_have_are_kept() -> None:
    data = model(entry(42, "Mul", b"\xff\xfe", floats(1)), MODEL[8:0x73], MODEL[0x73:]) + u32(V2) + i32(1)
    graph = copied(PROTO, data + text(b"\xe9") + floats(1))
    assert len(graph.constants) == 1
