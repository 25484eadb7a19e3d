"""The text file: every spelling that TNN takes for the same network, what it takes differently, and what is kept."""

from __future__ import annotations

import pytest

from tests.formats.tnn.compare import differences
from tests.formats.tnn.handmade import PROTO, PROTO_1, V1, V2, proto
from tnn_serving.errors import FormatError, ProtoError
from tnn_serving.formats.tnn.proto import MAX_SEGMENTS, read_proto, write_proto
from tnn_serving.graph import Graph, Input
from tnn_serving.layers.registry import declaration, make
from tnn_serving.tensor import PROTO_V1, PROTO_V2, DataType

RELU = proto("ReLU r 1 1 x y")


def copied(data: bytes) -> Graph:
    """Reads, checks that writing gives the same bytes, and returns the graph."""
    graph = read_proto(data)
    assert write_proto(graph) == data
    return graph


# ---- bytes to segments ----

SAME = {
    "no quotes": PROTO.replace(b'"', b""),
    "one line": PROTO.replace(b"\n", b""),
    "one line without quotes": PROTO.replace(b"\n", b"").replace(b'"', b""),
    "CRLF": PROTO.replace(b"\n", b"\r\n"),
    "CR only": PROTO.replace(b"\n", b"\r"),
    "no final newline": PROTO[:-1],
    "no final comma": PROTO[:-3] + b'"\n',
    "no final quote": PROTO[:-2],
    "byte order mark": b"\xef\xbb\xbf" + PROTO,
    "quotes inside words": PROTO.replace(b"Convolution conv", b'Conv"olu"tion co"nv'),
    "newlines inside words": PROTO.replace(b"Convolution conv", b"Convo\nlution co\nnv"),
    "blanks around segments": PROTO.replace(b',"', b' \t ,"').replace(b'"C', b'" \t\r\x01 C'),
    "repeated spaces in a layer": PROTO.replace(b"Convolution conv 1 1", b"Convolution   conv 1  1"),
    "empty segments": PROTO.replace(b'"Mul', b' , ,"Mul') + b",,",
    "blank lines": PROTO.replace(b"\n", b"\n\n"),
    "no spaces before commas": PROTO.replace(b" ,", b","),
    "other numbers in line 1": PROTO.replace(b"1 3 1", b"9 0 x"),
    "words behind the version": PROTO.replace(b"4206624772 ,", b"4206624772 what ever ,"),
    "repeated outputs": PROTO.replace(b'"y ,"', b'"y  ,"'),
}


@pytest.mark.parametrize("data", SAME.values(), ids=SAME)
def test_spellings_of_one_network(data: bytes) -> None:
    graph = copied(data)
    assert differences(graph, read_proto(PROTO)) == []
    assert write_proto(graph, canonical=True) == PROTO


def test_comma_missing_between_layers_glues_them_together() -> None:
    data = proto("ReLU a 1 1 x m ", "ReLU b 1 1 m y").replace(b'm  ,"\n', b'm "\n')
    with pytest.raises(ProtoError, match=r"layers are missing.*comma"):
        read_proto(data)
    glued = copied(data.replace(b'" 2 ,"', b'" 1 ,"')).layers[0]
    assert glued.surplus == ("ReLU", "b", "1", "1", "m", "y")


def test_more_layers_than_declared(caplog: pytest.LogCaptureFixture) -> None:
    copied(proto("ReLU a 1 1 x m", "ReLU b 1 1 m y", count=1))
    assert "declares 1 layers, 2 found" in caplog.text


@pytest.mark.parametrize("count", ["", "many", "-1", "99999999999999999999999999999999999999999999"])
def test_layer_count_that_is_no_number(count: str, caplog: pytest.LogCaptureFixture) -> None:
    copied(RELU.replace(b'" 1 ,"', f'"{count} ,"'.encode()))
    assert "layer count" in caplog.text


@pytest.mark.parametrize("blobs", ["", " gone x ", " y  x"])
def test_nobody_reads_the_blob_list(blobs: str) -> None:
    graph = copied(proto("ReLU r 1 1 x y", blobs=blobs))
    assert graph.blobs == blobs.split()
    assert write_proto(graph, canonical=True) == RELU


def test_no_layers() -> None:
    assert copied(proto()).layers == []


def test_no_limit_on_the_length_of_a_segment() -> None:
    name = "n" * 10_000
    graph = copied(proto(f"Concat {name} 2 1 {name}a {name}b y 1"))
    assert graph.layers[0].inputs == (f"{name}a", f"{name}b")


def test_other_characters_are_ordinary() -> None:
    layer = copied(proto("Add it's/a#b:c 2 1 conv2_1/dw:0 #x y 1")).layers[0]
    assert (layer.name, layer.inputs) == ("it's/a#b:c", ("conv2_1/dw:0", "#x"))


def test_no_comments() -> None:
    assert copied(proto("# r 1 1 x y")).layers[0].type == "#"


def test_tab_is_part_of_a_name() -> None:
    assert copied(proto("ReLU r\t1 1 1 x y")).layers[0].name == "r\t1"


def test_file_of_commas() -> None:
    with pytest.raises(ProtoError, match="too large"):
        read_proto(b"," * (MAX_SEGMENTS + 1))


# ---- inputs and outputs ----

INPUTS = [
    (V1, "x 1 3 4 4 ", [Input("x", (1, 3, 4, 4))]),
    (V1, "x 1 3 : in1 5", [Input("x", (1, 3)), Input("in1", (5,))]),
    (V1, "x 0", [Input("x", (0,))]),
    (V1, "", []),
    (V2, "x 4 1 3 4 4 0 ", [Input("x", (1, 3, 4, 4), DataType.FLOAT)]),
    (V2, "b 2 1 128 3 : a 1 7 2 ", [Input("b", (1, 128), DataType.INT32), Input("a", (7,), DataType.INT8)]),
    (V2, "b 1 2 1:a 1 2 6", [Input("b", (2,), DataType.HALF), Input("a", (2,), DataType.UINT32)]),
    (V2, "x 0 0", [Input("x", (), DataType.FLOAT)]),
    (V2, " \t ", []),
    (V2, "x 1 007 0", [Input("x", (7,), DataType.FLOAT)]),
    (V2, "x 4 1 3 8 8 ", [Input("x", (1, 3, 8, 8))]),
    (V2, "x 4 0 3 8 8", [Input("x", (0, 3, 8, 8))]),
    (V2, "x 0 ", [Input("x", ())]),
    (V2, "x 1 2", [Input("x", (2,))]),
    (V2, "a 2 1 4 : b 2 1 4 3 ", [Input("a", (1, 4)), Input("b", (1, 4), DataType.INT32)]),
    (V2, "a 2 1 4 3:b 1 5", [Input("a", (1, 4), DataType.INT32), Input("b", (5,))]),
    (V2, "a 2 1 4 : b 0 : c 3 1 2 2", [Input("a", (1, 4)), Input("b", ()), Input("c", (1, 2, 2))]),
]


@pytest.mark.parametrize(("magic", "line", "want"), INPUTS)
def test_inputs(magic: int, line: str, want: list[Input]) -> None:
    assert copied(proto("ReLU r 1 1 x y", inputs=line, magic=magic)).inputs == want


@pytest.mark.parametrize(
    ("line", "warnings"),
    [
        ("x 4 1 3 8 8", ["input `x` has a rank and 4 dims but no data type: it is read as float32"]),
        ("x 0", ["input `x` has a rank and 0 dims but no data type: it is read as float32"]),
        (
            "x 2 1 3",
            [
                "input `x` has a rank and 2 dims but no data type: it is read as float32; "
                "if a dim is missing, 3 is the type int32"
            ],
        ),
        (
            "a 2 1 9 0 : b 1 9 : x 1 8",
            [f"input `{name}` has a rank and 1 dims but no data type: it is read as float32" for name in "bx"],
        ),
        ("x 4 1 3 8 8 0", []),
    ],
)
def test_input_without_a_type_is_reported(line: str, warnings: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """Once: the file is written back without another word."""
    copied(proto("ReLU r 1 1 x y", inputs=line))
    assert caplog.messages == warnings


def test_version_1_has_no_types_to_miss(caplog: pytest.LogCaptureFixture) -> None:
    copied(PROTO_1)
    assert caplog.messages == []


def test_missing_type_is_written_where_something_else_changes() -> None:
    graph = read_proto(proto("Add r 2 1 a b y -1", inputs="a 2 1 4 : b 2 1 4 0 "))
    assert write_proto(graph, canonical=True) == proto("Add r 2 1 a b y -1", inputs="a 2 1 4 0 : b 2 1 4 0 ")
    graph.inputs[1] = Input("b", (1, 5), DataType.FLOAT)
    assert write_proto(graph) == proto("Add r 2 1 a b y -1", inputs="a 2 1 4 0 : b 2 1 5 0 ")
    graph.outputs.append("a")
    graph.inputs[1] = Input("b", (1, 4), DataType.FLOAT)
    assert write_proto(graph) == proto("Add r 2 1 a b y -1", inputs="a 2 1 4 : b 2 1 4 0 ", outputs="a y ")


@pytest.mark.parametrize(
    ("line", "want"), [("y ", ["y"]), ("y x", ["y", "x"]), ("y  x ", ["y", "x"]), ("y y", ["y", "y"])]
)
def test_outputs(line: str, want: list[str]) -> None:
    assert copied(proto("ReLU r 1 1 x y", outputs=line)).outputs == want


# ---- layers ----


def test_layer_parts() -> None:
    layer = copied(proto("Concat c 2 1 a b y 2 9 z")).layers[0]
    assert (layer.type, layer.name, layer.inputs, layer.outputs) == ("Concat", "c", ("a", "b"), ("y",))
    assert (layer.axis, layer.surplus) == (2, ("9", "z"))


def test_fraction_in_the_place_of_an_integer_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    assert copied(proto("Softmax s 1 1 x y 1.9")).layers[0].axis == 1
    assert "1.9" in caplog.text


def test_unknown_type_is_read_and_kept() -> None:
    layer = copied(proto("Nonsense n 1 1 x y 1 two 3.0")).layers[0]
    assert (layer.type, layer.surplus) == ("Nonsense", ("1", "two", "3.0"))


def test_layer_name_twice_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    copied(proto("ReLU r 1 1 x m", "ReLU r 1 1 m y"))
    assert "`r` is used twice" in caplog.text


# ---- changes ----


def changed(old: bytes, new: bytes) -> dict[int, bytes]:
    """Segments of ``new`` that are not those of ``old``, by number, without quotes and line ends."""
    before, after = old.split(b","), new.split(b",")
    assert len(before) == len(after)
    return {k: b.strip(b'"\n') for k, (a, b) in enumerate(zip(before, after, strict=True)) if a != b}


CRLF = PROTO.replace(b"\n", b"\r\n").replace(b" 1 1 c y 1", b"  1 1 c y  01 surplus")


@pytest.mark.parametrize("data", [PROTO, CRLF, SAME["one line without quotes"], SAME["no final comma"]])
class TestChanges:
    """Only the segments that say what was changed are written anew, and reading them gives the changed graph."""

    @pytest.fixture
    def graph(self, data: bytes) -> Graph:
        return read_proto(data)

    def test_parameter(self, data: bytes, graph: Graph) -> None:
        graph.layer("conv").group = 7
        new = write_proto(graph)
        assert changed(data, new) == {5: b"Convolution conv 1 1 x c 7 1 2 1 1 1 1 0 0 1 -1 1 1 0 "}
        assert differences(read_proto(new), graph) == []

    def test_surplus_tokens_stay(self, data: bytes, graph: Graph) -> None:
        layer = graph.layer("mul")
        layer.weight_input_index = 0
        surplus = b"surplus " if layer.surplus else b""
        assert changed(data, write_proto(graph)) == {6: b"Mul mul 1 1 c y 0 " + surplus}

    def test_layer_name(self, data: bytes, graph: Graph) -> None:
        graph.layer("conv").name = "other"
        assert list(changed(data, write_proto(graph))) == [5]

    def test_blob_name(self, data: bytes, graph: Graph) -> None:
        graph.layer("conv").outputs = graph.layer("mul").inputs = ("d",)
        new = write_proto(graph)
        assert changed(data, new)[2] == b" d x y "
        assert set(changed(data, new)) - {0} == {2, 5, 6}
        again = read_proto(new)
        assert differences(again, graph) == []
        assert again.blobs == ["d", "x", "y"]

    def test_output(self, data: bytes, graph: Graph) -> None:
        graph.outputs.append("c")
        assert changed(data, write_proto(graph)) == {3: b"c y "}

    def test_input(self, data: bytes, graph: Graph) -> None:
        graph.inputs[0] = Input("x", (1, 1, 5, 5), DataType.FLOAT)
        assert changed(data, write_proto(graph)) == {1: b"x 4 1 1 5 5 0 "}

    def test_blob_list(self, data: bytes, graph: Graph) -> None:
        graph.blobs = []
        new = write_proto(graph)
        assert list(changed(data, new)) == [0, 2]
        assert read_proto(new).blobs == []

    def test_removed_layer(self, data: bytes, graph: Graph) -> None:
        del graph.layers[1]
        graph.outputs = ["c"]
        new = write_proto(graph)
        assert new.split(b",")[5] == data.split(b",")[5]
        again = read_proto(new)
        assert differences(again, graph) == []
        assert again.blobs == ["c", "x"]

    def test_all_layers_removed(self, data: bytes, graph: Graph) -> None:
        graph.layers.clear()
        assert read_proto(write_proto(graph)).layers == []

    def test_added_layer(self, data: bytes, graph: Graph) -> None:
        graph.layers.insert(1, declaration("ReLU")(name="r", inputs=("c",), outputs=("c",)))
        new = write_proto(graph).split(b",")
        old = data.split(b",")
        assert (new[5], new[7:]) == (old[5], old[6:])
        assert new[6].strip(b'"\n') == b"ReLU r 1 1 c c "
        assert differences(read_proto(b",".join(new)), graph) == []

    def test_appended_layer(self, data: bytes, graph: Graph) -> None:
        graph.layers.append(declaration("Clip")(name="r", inputs=("y",), outputs=("z",), min=-1.0, max=0.5))
        again = read_proto(write_proto(graph))
        assert differences(again, graph) == []

    def test_swapped_layers(self, data: bytes, graph: Graph) -> None:
        graph.layers.reverse()
        new = write_proto(graph).split(b",")
        old = data.split(b",")
        assert sorted(piece.strip(b'"\r\n') for piece in new) == sorted(piece.strip(b'"\r\n') for piece in old)

    def test_version(self, data: bytes, graph: Graph) -> None:
        graph.version = PROTO_V1
        new = write_proto(graph)
        assert changed(data, new) == {0: b"1 3 1 4206624770 ", 1: b"x 1 1 2 2 "}
        assert read_proto(new).version == PROTO_V1


def test_inputs_of_a_version_1_file_stay_version_1() -> None:
    graph = read_proto(PROTO_1)
    graph.inputs[0] = Input("x", (1, 1, 9, 9))
    assert changed(PROTO_1, write_proto(graph)) == {1: b"x 1 1 9 9 "}
    graph.inputs[0] = Input("x", (1, 1, 9, 9), DataType.INT32)
    with pytest.raises(FormatError, match="version 1 cannot say"):
        write_proto(graph)
    graph.version = PROTO_V2
    assert read_proto(write_proto(graph)).inputs == graph.inputs


# ---- what cannot be written ----


@pytest.mark.parametrize("name", ["", "a b", "a,b", 'a"b', "a\nb", "a\t", "\tb", "a\0b"])
@pytest.mark.parametrize("place", ["name", "inputs", "outputs"])
def test_names_with_separators_are_refused(name: str, place: str) -> None:
    graph = read_proto(RELU)
    setattr(graph.layers[0], place, name if place == "name" else (name,))
    with pytest.raises(FormatError, match="cannot be written"):
        write_proto(graph)


@pytest.mark.parametrize("name", ["a:b", "a b", ""])
def test_input_names_with_separators_are_refused(name: str) -> None:
    graph = read_proto(RELU)
    graph.inputs = [Input(name, (1,))]
    with pytest.raises(FormatError):
        write_proto(graph)


def test_name_that_latin_1_does_not_have() -> None:
    graph = read_proto(RELU.replace(b" r ", b" \xe9 "))
    assert (graph.encoding, graph.layers[0].name) == ("latin-1", "é")
    graph.layers[0].name = "層"
    with pytest.raises(FormatError, match="latin-1"):
        write_proto(graph)


# ---- tokens: short, full and overlong lines of each layout, and what TNN's packer makes of them ----

TOKENS = [
    ("Convolution", "", "0 0 0 0 0 0 0 0 0 0 0 1 1 0"),
    ("Convolution", "1 2 3 4 5 6 7 8 9 1 -1 2 3", "1 2 3 4 5 6 7 8 9 1 -1 2 3 0"),
    ("QuantizedConvolution", "1 2 3 4 5 6 7 8 9 1 -1 2 3 256 9", "1 2 3 4 5 6 7 8 9 1 -1 2 3 256"),
    ("Deconvolution", "2 4", "2 4 0 0 0 0 0 0 0 0 0 1 1 0"),
    ("Convolution1D", "1 2 3 4 5 6 7 1", "1 2 3 4 5 6 7 1 0 1 0"),
    ("Convolution3D", "1 2 3 1 2 3 4 5 6 7 8 9 1 -1", "1 2 3 1 2 3 4 5 6 7 8 9 1 -1 1 1 1 0"),
    ("Pooling", "", "0 0 0 0 0 0 0 -1 -1 0 0 0 0 0"),
    ("Pooling", "1 2 3 4 5 6 7 2 -1 1 0", "1 2 3 4 5 6 7 2 2 1 0 0 0 0"),
    ("Pooling_nhwc", "1 2 3 4 5 6 7 2", "1 2 3 4 5 6 7 2 2 0 0 0 0 0"),
    ("QuantizedPooling", "1 0 0 1 1 0 0 -1 -1 0 1 1 3 5", "1 0 0 1 1 0 0 -1 -1 0 1 1 5 3"),
    ("Pooling1D", "", "0 0 0 0 -1 -1 0 0"),
    ("Pooling3D", "1 2 3 4 5 6 7 8 9 10 3 -1", "1 2 3 4 5 6 7 8 9 10 3 3 3 0 0"),
    ("InnerProduct", "10 1 0 1 7", "10 1 0 1"),
    ("Softmax", "", "1"),
    ("SoftmaxCaffe", "-1", "-1"),
    ("LogSoftmax", "", "1"),
    ("Concat", "", "1"),
    ("GLU", "", "-1"),
    ("Reshape", "0 4 2 3 -1", "0 4 2 3 -1 0"),
    ("Reshape", "0 -1 3 5", "0 -1 3 5 0 0 0"),
    ("QuantizedReshape", "0 4 0 1", "0 4 0 1"),
    ("Flatten", "1", "1"),
    ("Permute", "3 0 2 1", "3 0 2 1"),
    ("Scale", "1 1 1", "1 1 1"),
    ("LRN", "0.0001 0.75 1 5", "0.0001 0.75 1 5"),
    ("PReLU", "", "0 0"),
    ("PReLU", "1 2", "1 0"),
    ("PReLU_nhwc", "2 1", "0 1"),
    ("Add", "", "1"),
    ("Sub", "-1", "-1"),
    ("SquaredDifference", "0", "0"),
    ("MatMul", "", "-1"),
    ("Gather", "", "0 0 1"),
    ("Gather", "2 5 0", "2 1 0"),
    ("GatherND", "", "0"),
    ("InstBatchNormCxx", "3", "3 1e-05"),
    ("GroupNorm", "", "0 1e-05"),
    ("LayerNorm", "2 0.00001", "2 1e-05"),
    ("Normalize", "", "0 1e-12 1 1 2"),
    ("Pad", "", "0 0 " + "-2147483648 " * 6 + "0 0"),
    ("Pad", "7 8 1 2 3 4 0 0 1 0.5", "0 0 1 2 3 4 0 0 1 0.5"),
    ("PadV2", "", "0 0 0"),
    ("PadV2", "2 1 2 3 4 1", "2 1 2 3 4 1 0"),
    ("PadV2", "-2 1 0.5", "0 1 0.5"),
    ("StridedSlice", "2 0 0 1 5 1 1", "2 0 0 1 5 1 1"),
    ("StridedSliceV2", "1 0 1 5 1 -1 1 2", "1 0 1 5 1 -1 1 2"),
    ("SplitV", "", "0 0"),
    ("SplitV", "1 3 2", "1 3 2 0 0"),
    ("Squeeze", "2 0", "2 0 0"),
    ("Unsqueeze", "", "0"),
    ("Expand", "2 3 4", "2 3 4"),
    ("Tile", "1 2 3", "1 2 3"),
    ("Repeat", "", ""),
    ("ReduceSum", "1 0 -1", "1 0 -1"),
    ("Reduce_Sum", "0", "0"),
    ("ArgMaxOrMin", "", "0 0 1 0"),
    ("TopK", "", "-1 1 1 -1"),
    ("Upsample", "1 2 2.5", "1 2 2.5 0"),
    ("Upsample", "2 0 0 1 5 6", "2 0 0 1 5 6"),
    ("Upsample", "2 0 0 1 5", "2 0 0 1"),
    ("ShuffleChannel", "", "1"),
    ("PixelShuffle", "2", "2"),
    ("Reorg", "2 1 9 1", "2 1 0 1"),
    ("Power", "", "1 1 0"),
    ("Clip", "", "0 0"),
    ("Clip", "-3.4028235e38 inf", "-3.40282e+38 inf"),
    ("Elu", "", "1"),
    ("Selu", "", "1.67326 1.0507"),
    ("HardSigmoid", "", "1 0"),
    ("HardSwish", "0.16666667", "0.166667 0"),
    ("SignedMul", "1 2 nan", "1 2 nan"),
    ("Cast", "", "0"),
    ("Reformat", "2", "2 0"),
    ("Reformat", "99 -1", "0 0"),
    ("OneHot", "", "-1 -1 0 1"),
    ("BitShift", "", "0 0"),
    ("Histogram", "", "0"),
    ("GridSample", "", "2 0 0"),
    ("RoiAlign", "", "1 0 0 0 0"),
    ("ROIPooling", "1 0.0625 7 8", "1 0.0625 7 8 7 8"),
    ("ROIPooling", "1 0.0625 7 8 9", "1 0.0625 7 8 7 8 9"),
    ("NonMaxSuppression", "1 9223372036854775807 0.5", "1 9223372036854775807 0.5 0"),
    ("Scatter", "", "0"),
    ("ScatterElements", "", "0 0"),
    ("LSTMONNX", "", "0 0 0"),
    ("Einsum", "ij;jk->ik", "ij;jk->ik"),
    ("Const", "2 3 4", "2 3 4"),
    ("Const", "", "0"),
    ("PriorBox", "1 2.5 0 1 2 1 0.1 2 1 2 8 9 4 5 0.5", "1 2.5 0 1 0 1 0.1 2 1 2 8 9 4 5 0.5"),
    ("DetectionOutput", "3 2 0 -1", "3 1 0 1 0 0 0 0 0 0"),
    ("DetectionPostProcess", "10 1 100 0 0.5", "10 1 100 0 0.5 0 0 0 0 0 0 0 0 0"),
    ("Sigmoid", "1 2", ""),
    ("ReLU", "1", ""),
    ("Equal", "-1", ""),
    ("BatchNormCxx", "", ""),
    ("Dropout", "1 2 3", ""),
    ("Nonsense", "1 two", ""),
]


@pytest.mark.parametrize(("kind", "tokens", "want"), TOKENS)
def test_tokens_as_the_packer_writes_them(kind: str, tokens: str, want: str) -> None:
    graph = copied(proto(f"{kind} n 1 1 x y {tokens}"))
    written = write_proto(graph, canonical=True)
    assert written == proto(f"{kind} n 1 1 x y {want}".rstrip())


def test_einsum_without_equation_gets_an_extra_space() -> None:
    assert b'"Einsum n 1 1 x y  ,"' in write_proto(read_proto(proto("Einsum n 1 1 x y")), canonical=True)


@pytest.mark.parametrize(("kind", "tokens"), [row[:2] for row in TOKENS])
def test_tokens_written_anew_say_the_same(kind: str, tokens: str) -> None:
    # Without the packer's quirks: what it turns around or drops stays as it is.
    layer = make(kind, "n", ("x",), ("y",), tokens.split())
    again = make(kind, "n", ("x",), ("y",), [word for word in layer.tokens() if word])
    assert again.tokens() == layer.tokens()
    exact = [spec.name for spec in layer.parameters if spec.kind is not float]
    assert [getattr(again, name) for name in exact] == [getattr(layer, name) for name in exact]
