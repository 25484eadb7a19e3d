"""Broken files: each defect of the format's table is refused, with its place, or taken as the table says.

The numbers in the ids are the rows of that table. Rows 10, 20, 37, 38 and 39 are no errors: test_proto.py and
test_model.py hold them. Row 45 is about requests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest

from tests.formats.tnn.handmade import (
    MODEL,
    PROTO,
    V1,
    V2,
    entry,
    floats,
    i32,
    int8s,
    int32s,
    model,
    proto,
    raw,
    text,
    u32,
)
from tnn_serving.errors import FormatError, ProtoError, ShapeError, TnnError, UnsupportedLayer, WeightsError
from tnn_serving.formats.tnn import read_model
from tnn_serving.translate.graph import translate

RELU = proto("ReLU r 1 1 x y")
MUL = proto("Mul m 1 1 x y 1")
CONV = proto("Convolution c 1 1 x y 1 2 1 1 1 1 1 0 0 0 -1 1 1 0")
CONV_HEAD = text("c") + i32(0) + int8s(1, 2, dims=(1, 2, 1, 1))


@dataclass(frozen=True)
class Broken:
    """A pair of files and words that the message must hold, in this order."""

    row: str
    error: type[TnnError]
    says: str
    proto: bytes = RELU
    model: bytes | None = None

    def __str__(self) -> str:
        return self.row


def inputs(line: str, magic: int = V2) -> bytes:
    return proto("ReLU r 1 1 x y", inputs=line, magic=magic)


def mul(payload: bytes) -> bytes:
    return model(entry(42, "Mul", "m", payload))


def cut(count: int) -> bytes:
    return MODEL[:count]


TEXT = [
    Broken("1 empty", ProtoError, "^proto: an empty file, not a .tnnproto", b""),
    Broken("1 only quotes", ProtoError, "proto file is empty", b'""\n"\n'),
    Broken("1 only blanks", ProtoError, "proto file is empty", b' \r\n\t"'),
    Broken("2 four lines", ProtoError, "proto is truncated.*at least 5 header lines.*3 commas", PROTO[:52]),
    Broken("2 one word", ProtoError, "proto is truncated", b"hello"),
    Broken("2 NUL byte", ProtoError, "a NUL byte.*text in UTF-8.*at byte 25", PROTO.replace(b"4 1 1", b"4\0001 1")),
    Broken(
        "3 version missing",
        ProtoError,
        "not a supported .tnnproto.*4206624770 or 4206624772 .*3 words",
        PROTO.replace(b" 4206624772", b""),
    ),
    Broken(
        "3 other version",
        ProtoError,
        "not a supported .tnnproto.*'4206624771'",
        PROTO.replace(b"4206624772", b"4206624771"),
    ),
    Broken(
        "3 double space", ProtoError, "not a supported .tnnproto.*single spaces", PROTO.replace(b"1 3 1", b"1 3  1")
    ),
    Broken("4 no dims", ProtoError, "input line.*entry 0 is incomplete", inputs("x", V1)),
    Broken("4 trailing colon", ProtoError, "input line.*entry 1 is incomplete", inputs("x 1 2 : ", V1)),
    Broken("4 trailing colon v2", ProtoError, "input line.*entry 1 is incomplete", inputs("x 1 2 0 : ")),
    Broken("4 colon first", ProtoError, "input line.*entry 0 is incomplete", inputs(": x 1 2 0")),
    Broken("5 rank too large", ProtoError, "input line, input `x`: rank says 5.*5 dims", inputs("x 5 1 2 2 2")),
    Broken("5 huge rank", ProtoError, "input `x`: rank says 2147483647", inputs("x 2147483647 1 2 2 2")),
    Broken("6 no dim", ProtoError, "input `x`.*name, rank, 4 dims, data type.*'x 4 1 2 2 0'", inputs("x 4 1 2 2 0")),
    Broken("6 no dim but the type", ProtoError, "input `x`.*name, rank, 1 dims, data type", inputs("x 1 0")),
    Broken("6 no dim of two inputs", ProtoError, "input `b`.*name, rank, 2 dims", inputs("a 2 1 2 : b 2 1 0")),
    Broken("6 extra word", ProtoError, "input `x`.*name, rank, 2 dims, data type", inputs("x 2 1 2 0 0")),
    Broken("6 unknown data type", ProtoError, "input `x`: unknown data type.*0 to 6.*7", inputs("x 2 1 2 7")),
    Broken("6 version 1 line", ProtoError, "input `x`.*name, rank, 1 dims, data type", inputs("x 1 3 4 4")),
    Broken("7 word for a dim", ProtoError, "input `x`: dim is not a number.*'h'", inputs("x 2 1 h 0")),
    Broken("7 negative dim", ProtoError, "input `x`: dim is not a number.*'-1'", inputs("x 2 1 -1 0")),
    Broken("7 double space", ProtoError, "input `x`: dim is not a number.*single spaces.*''", inputs("x 2 1  3 0")),
    Broken("7 double space v1", ProtoError, "input `x`: dim is not a number", inputs("x 1  3", V1)),
    Broken("7 too large", ProtoError, "input `x`: dim is not a number.*2147483648", inputs("x 2147483648", V1)),
    Broken("7 thousands of digits", ProtoError, "input `x`: dim is not a number", inputs("x " + "9" * 5000, V1)),
    Broken("7 other digits", ProtoError, "input `x`: dim is not a number", inputs("x ٣", V1)),
    Broken("8 input twice", ProtoError, "input line, input `x`.*twice", inputs("x 1 2 : x 3", V1)),
    Broken("9 no outputs", ProtoError, "no outputs.*line 4", proto("ReLU r 1 1 x y", outputs=" ")),
    Broken(
        "15 one word",
        ProtoError,
        "layer segment 0 is incomplete.*type, name.*'ReLU'",
        RELU.replace(b"ReLU r 1 1 x y", b"ReLU"),
    ),
    Broken("15 three words", ProtoError, "layer segment 0 is incomplete", RELU.replace(b"ReLU r 1 1 x y", b"ReLU r 1")),
    Broken(
        "15 blobs missing",
        ProtoError,
        r"layer 0 `r` \(ReLU\): declares 1 inputs and 2 outputs.*3 blob names.*2 words",
        RELU.replace(b"1 1 x y", b"1 2 x y"),
    ),
    Broken(
        "15 huge count",
        ProtoError,
        "layer 0 `r`.*declares 999999999 inputs",
        RELU.replace(b"1 1 x y", b"999999999 1 x y"),
    ),
    Broken(
        "16 count not a number",
        ProtoError,
        "layer 0 `r`.*number of inputs is not a number.*'x'",
        RELU.replace(b"1 1 x y", b"x 1 1 y"),
    ),
    Broken(
        "16 negative count", ProtoError, "layer 0 `r`.*number of outputs.*'-1'", RELU.replace(b"1 1 x y", b"1 -1 x y")
    ),
    Broken(
        "16 long count", ProtoError, "layer 0 `r`.*number of inputs", RELU.replace(b"1 1 x y", b"1" * 5000 + b" 1 x y")
    ),
    Broken(
        "17 parameter missing",
        ProtoError,
        r"layer 1 `f` \(Flatten\), parameter `axis`: parameter `axis` is missing",
        proto("ReLU r 1 1 x m", "Flatten f 1 1 m y"),
    ),
    Broken(
        "17 second of four",
        ProtoError,
        r"`i` \(InnerProduct\), parameter `has_bias`",
        proto("InnerProduct i 1 1 x y 3"),
    ),
    Broken(
        "17 list",
        ProtoError,
        r"`p` \(Permute\), parameter `orders`.*too short.*4 values.*2 tokens",
        proto("Permute p 1 1 x y 4 0 1"),
    ),
    Broken(
        "17 huge list", ProtoError, r"parameter `slices`.*too short.*2147483647", proto("SplitV s 1 1 x y 0 2147483647")
    ),
    Broken(
        "17 not a number",
        ProtoError,
        r"`s` \(Softmax\), parameter `axis`: parameter is not an integer.*'one'",
        proto("Softmax s 1 1 x y one"),
    ),
    Broken("17 thousands of digits", ProtoError, "parameter `axis`", proto("Softmax s 1 1 x y " + "9" * 5000)),
    Broken("17 not a float", ProtoError, "parameter `alpha`.*not a number.*'0x10'", proto("Elu e 1 1 x y 0x10")),
    Broken("17 33 bits", ProtoError, "parameter `axis`.*32 bits.*2147483648", proto("Softmax s 1 1 x y 2147483648")),
    Broken(
        "18 Reshape without dims", ProtoError, r"`r` \(Reshape\), parameter `shape`", proto("Reshape r 1 1 x y 0 4")
    ),
    Broken(
        "18 Reshape with -1 dims",
        ProtoError,
        r"`r` \(Reshape\), parameter `shape`.*negative",
        proto("Reshape r 1 1 x y 0 4 -1"),
    ),
    Broken(
        "18 StridedSlice",
        ProtoError,
        r"`s` \(StridedSlice\), parameter `ends`",
        proto("StridedSlice s 1 1 x y 2 0 0 2 1"),
    ),
    Broken(
        "19 comma missing",
        ProtoError,
        "layers are missing.*2 layers.*1 .*comma",
        PROTO.replace(b'0 ,"\n"Mul', b'0 "\n"Mul'),
    ),
    Broken("19 cut off", ProtoError, "layers are missing.*2 layers.*1", PROTO[:106]),
    Broken(
        "21 tab in the type",
        ProtoError,
        r"layer segment 0.*unknown type.*'ReLU.tr'.*tab is not a separator",
        RELU.replace(b"ReLU r", b"ReLU\tr"),
    ),
    Broken(
        "21 tab behind the name", ProtoError, "tab is not a separator", RELU.replace(b"ReLU r 1 1", b"ReLU r\t1\t1")
    ),
]

BINARY = [
    Broken("23 empty", WeightsError, "^model: an empty file, not a .tnnmodel", MUL, b""),
    Broken("24 one byte", WeightsError, "model file is truncated.*1 bytes", RELU, b"\1"),
    Broken("24 three bytes", WeightsError, "model file is truncated", RELU, MODEL[:3]),
    Broken("24 magic only", WeightsError, "model file is truncated.*entry count", RELU, u32(V2)),
    Broken("24 half a count", WeightsError, "model file is truncated", RELU, u32(V2) + b"\0\0"),
    Broken("25 many entries", WeightsError, "not a .tnnmodel.*byte 4.*9999.*10000", RELU, u32(V2) + i32(10000)),
    Broken("25 negative", WeightsError, "not a .tnnmodel.*-1", RELU, u32(V2) + i32(-1)),
    Broken("25 other file", WeightsError, "not a .tnnmodel", RELU, b"PK\3\4" + bytes(50)),
    Broken(
        "26 last buffer",
        WeightsError,
        r"entry 1 `mul` \(Mul\).*truncated at byte 165, in field `element`.*8 bytes.*4 left",
        PROTO,
        cut(169),
    ),
    Broken("26 last byte", WeightsError, "entry 1 `mul`.*field `element`.*7 left", PROTO, cut(172)),
    Broken("27 dims", WeightsError, r"entry 0 `conv` \(Convolution\).*truncated.*field `filter`", PROTO, cut(0x41)),
    Broken("27 header", WeightsError, "entry 1 at byte 115.*truncated", PROTO, cut(0x75)),
    Broken(
        "27 name",
        WeightsError,
        "entry 1 at byte 115.*string length at byte 126, in the name.*0 to 2.*3",
        PROTO,
        cut(0x84),
    ),
    Broken("27 between", WeightsError, "entry 1 at byte 115.*truncated", PROTO, cut(0x73)),
    Broken(
        "28 negative length",
        WeightsError,
        "entry 0 at byte 8.*corrupt string length at byte 12.*-1",
        RELU,
        model(i32(1, -1)),
    ),
    Broken(
        "28 huge length", WeightsError, "corrupt string length at byte 12.*2147483647", RELU, model(i32(1, 2**31 - 1))
    ),
    Broken(
        "28 label",
        WeightsError,
        "`c`.*corrupt string length.*field `label`",
        CONV,
        model(entry(1, "Convolution", "c", i32(-5))),
    ),
    Broken(
        "29 huge buffer",
        WeightsError,
        "`m`.*truncated.*field `element`.*2147483644 bytes.*4 left",
        MUL,
        mul(u32(V1) + i32(0, 2**31 - 4) + bytes(4)),
    ),
    Broken(
        "30 negative buffer",
        WeightsError,
        "`m`.*negative buffer length at byte 24, in field `element`.*-4",
        MUL,
        mul(u32(V2) + i32(0, -4)),
    ),
    Broken(
        "31 buffer magic",
        WeightsError,
        "`m`.*corrupt buffer at byte 24, in field `element`.*0x3",
        MUL,
        mul(u32(3) + i32(0, 0)),
    ),
    Broken(
        "32 negative rank", WeightsError, "`m`.*corrupt rank.*0 to 16.*-1", MUL, mul(u32(V2) + i32(0, 4, -1) + bytes(4))
    ),
    Broken("32 huge rank", WeightsError, "`m`.*corrupt rank.*17", MUL, mul(u32(V2) + i32(0, 4, 17) + bytes(99))),
    Broken(
        "32 rank beyond the end",
        WeightsError,
        "`m`.*truncated.*field `element`.*64 bytes",
        MUL,
        mul(u32(V2) + i32(0, 4, 16) + bytes(60)),
    ),
    Broken(
        "32 negative dim", WeightsError, "`m`.*negative dim.*-1", MUL, mul(u32(V2) + i32(0, 4, 2, -1, -1) + bytes(4))
    ),
    Broken(
        "33 dims and length",
        WeightsError,
        "`m`.*does not fit.*2, 2.*of float.*8 bytes",
        MUL,
        mul(floats(1, 2, dims=(2, 2))),
    ),
    Broken("33 dims that overflow", WeightsError, "`m`.*does not fit", MUL, mul(floats(1, dims=(2**31 - 1,) * 16))),
    Broken(
        "33 half an element",
        WeightsError,
        "`m`.*does not fit.*whole elements of float.*3 bytes",
        MUL,
        mul(raw(b"abc", 0, None, V1)),
    ),
    Broken(
        "34 data type", WeightsError, "`m`.*unknown data type.*field `element`.*0 to 6.*7", MUL, mul(raw(bytes(4), 7))
    ),
    Broken("34 auto", WeightsError, "`m`.*unknown data type.*-1", MUL, mul(raw(bytes(4), -1))),
    Broken(
        "35 not a scale",
        WeightsError,
        "`c`.*bad quantisation block.*field `scale`.*int32",
        CONV,
        model(entry(1, "Convolution", "c", CONV_HEAD + int32s(1))),
    ),
    Broken(
        "35 empty",
        WeightsError,
        "`c`.*bad quantisation block",
        CONV,
        model(entry(1, "Convolution", "c", CONV_HEAD + raw(b"", 2) + floats(1))),
    ),
    Broken(
        "35 zero points without scale",
        WeightsError,
        "`c`.*bad quantisation block.*int8",
        CONV,
        model(entry(1, "Convolution", "c", CONV_HEAD + int8s(0) + int8s(0))),
    ),
    Broken(
        "35 number of zero points",
        WeightsError,
        "`c`.*bad quantisation block.*1 zero points.*2",
        CONV,
        model(entry(1, "Convolution", "c", CONV_HEAD + int8s(0, 0) + floats(1))),
    ),
    Broken(
        "35 blob scale",
        WeightsError,
        r"`x_scale_data_` \(BlobScale\).*bad quantisation block",
        RELU,
        model(entry(600, "BlobScale", "x_scale_data_", int32s(1) + int32s(0))),
    ),
    Broken(
        "35 zero points of a product",
        WeightsError,
        "`p`.*bad quantisation block",
        proto("MatMul p 1 1 x y 1"),
        model(entry(105, "MatMul", "p", int8s(1, 2, dims=(2, 1)) + int8s(0) + floats(1))),
    ),
    Broken(
        "36 type without weights",
        WeightsError,
        "entry 0 `r` .*type `ReLU` has no weights",
        RELU,
        model(entry(5, "ReLU", "r")),
    ),
    Broken(
        "36 type that cannot run",
        WeightsError,
        "entry 0 `r`.*type `Dropout` has no weights",
        RELU,
        model(entry(11, "Dropout", "r")),
    ),
    Broken(
        "36 negative number",
        WeightsError,
        "entry 0 at byte 8.*type number.*0 to 10000.*-1",
        RELU,
        model(entry(-1, "Mul", "r")),
    ),
    Broken("36 large number", WeightsError, "entry 0.*type number.*10001", RELU, model(entry(10001, "Mul", "r"))),
    Broken(
        "36 unknown old-form number",
        WeightsError,
        "entry 0.*unknown entry type.*number 999, `r`",
        RELU,
        model(entry(999, None, "r")),
    ),
    Broken(
        "36 old form without number",
        WeightsError,
        "entry 0.*unknown entry type.*number 0",
        RELU,
        model(entry(0, None, "r")),
    ),
    Broken(
        "36 old form without weights",
        WeightsError,
        r"entry 0 `r` \(ReLU\): type `ReLU` has no weights",
        RELU,
        model(entry(5, None, "r")),
    ),
    Broken(
        "36 another type",
        WeightsError,
        r"entry 0 `m` \(Add\).*another type.*Mul \(42\).*Add \(38\)",
        MUL,
        model(entry(38, "Add", "m", floats(1))),
    ),
    Broken("40 four bytes", WeightsError, "trailing data at byte 173.*0 more bytes", PROTO, MODEL + b"abcd"),
    Broken("40 seven bytes", WeightsError, "trailing data at byte 173", PROTO, MODEL + b"abcdefg"),
    Broken("40 text", WeightsError, "trailing data at byte 173.*no constant map", PROTO, MODEL + b"abcdefghijklm"),
    Broken(
        "40 huge count",
        WeightsError,
        "trailing data.*at most 1 constants.*2147483647",
        RELU,
        model() + u32(V2) + i32(2**31 - 1) + bytes(20),
    ),
    Broken(
        "40 constant cut",
        WeightsError,
        "constant 0, `k`.*truncated.*the data.*8 bytes.*7 left",
        RELU,
        model(constants={"k": floats(1, 2, dims=(2,))})[:-1],
    ),
    Broken(
        "40 second constant",
        WeightsError,
        "constant 1: corrupt string length",
        RELU,
        model() + u32(V2) + i32(2) + text("k") + floats(1) + i32(90) + bytes(12),
    ),
]


@pytest.mark.parametrize("case", [*TEXT, *BINARY], ids=str)
def test_refused_with_its_place(case: Broken) -> None:
    with pytest.raises(FormatError) as caught:
        read_model(case.proto, case.model)
    assert type(caught.value) is case.error
    assert caught.value.where
    assert re.search(case.says, str(caught.value), re.DOTALL), str(caught.value)


ADD_TWICE = proto("Add a 2 1 x late m -1", "ReLU r 1 1 x late", outputs="m late ")
WEIGHTED = proto("InnerProduct i 1 1 x y 3 1 0 1", inputs="x 2 1 4 0 ")

NETWORKS = [
    Broken("11 output of nobody", ShapeError, "output `z` is not produced", proto("ReLU r 1 1 x y", outputs="z ")),
    Broken(
        "13 unknown type",
        UnsupportedLayer,
        r"layer 1 `n` \(Nonsense\): type `Nonsense` is unknown",
        proto("ReLU r 1 1 x m", "Nonsense n 1 1 m y"),
    ),
    Broken(
        "14 type without code",
        UnsupportedLayer,
        r"layer 0 `d` \(Dropout\): type `Dropout` cannot be executed",
        proto("Dropout d 1 1 x y"),
    ),
    Broken("22 nobody's blob", ShapeError, "layer 0 `r`.*input `q` is not available", proto("ReLU r 1 1 q y")),
    Broken("22 consumer first", ShapeError, "layer 0 `a`.*input `late` is not available", ADD_TWICE),
    Broken("41 no entry", WeightsError, r"layer 0 `m` \(Mul\).*model file", MUL, model()),
    Broken("41 no product weights", WeightsError, r"layer 0 `i` \(InnerProduct\).*model file", WEIGHTED, model()),
    Broken("44 another network", WeightsError, "layer 0 `m`.*different networks", MUL, MODEL),
    Broken(
        "42 filter",
        WeightsError,
        r"layer 0 `c`.*2.*3",
        CONV,
        model(entry(1, "Convolution", "c", text("c") + i32(0) + floats(1, 2, 3))),
    ),
    Broken(
        "42 product",
        WeightsError,
        "layer 0 `i`.*12.*11",
        WEIGHTED,
        model(entry(19, "InnerProduct", "i", text("i") + raw(np.zeros(11, "<f4")) + floats(1, 2, 3))),
    ),
    Broken(
        "42 bias",
        WeightsError,
        "layer 0 `i`.*3.*2",
        WEIGHTED,
        model(entry(19, "InnerProduct", "i", text("i") + raw(np.zeros(12, "<f4")) + floats(1, 2))),
    ),
    Broken(
        "43 blob scale missing",
        WeightsError,
        "layer 0 `r`.*scale.*blob `y`",
        proto("QuantizedReLU r 1 1 x y"),
        model(entry(600, "BlobScale", "x_scale_data_", floats(1) + int32s(0))),
    ),
]


@pytest.mark.parametrize("case", NETWORKS, ids=str)
def test_readable_network_that_cannot_run(case: Broken) -> None:
    graph = read_model(case.proto, case.model)
    with pytest.raises(TnnError) as caught:
        translate(graph)
    assert type(caught.value) is case.error
    assert caught.value.where
    assert re.search(case.says, str(caught.value), re.DOTALL), str(caught.value)
