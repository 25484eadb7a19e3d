"""Damaged files are refused by name, or read and copied exactly; never anything else, and never at a high price."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.formats.tnn.handmade import (
    MODEL,
    PROTO,
    PROTO_1,
    V2,
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
from tnn_serving.errors import FormatError
from tnn_serving.formats.tnn import read_model, write_model

pytestmark = pytest.mark.slow

MAX_MEMORY_BYTES = 100 << 20
MAX_TIME_MS = 1000

MIXED_PROTO = proto(
    "QuantizedConvolution c 1 1 x a 1 2 1 1 1 1 1 0 0 1 -1 1 1 0",
    "QuantizedReLU r 1 1 a b",
    "InnerProduct i 1 1 b d 3 1 0 1",
    "Gather g 2 1 d k e 0 0 0",
    "ScatterND s 2 1 e k f",
    "SplitV v 1 2 f o p 1 2 1 1",
    "PriorBox q 2 1 o p t 1 2.5 0 1 0 1 0.1 2 1 2 8 9 4 5 0.5",
    "Upsample u 1 1 t z 1 2 2.5 0 7 8",
    "Tile w 1 1 z y 1 1 2",
    inputs="x 4 1 2 1 1 0 : h 2 1 1 3 ",
)
"""One of everything: lists, floats, several inputs."""

MIXED_MODEL = model(
    entry(600, "BlobScale", "x_scale_data_", int8s(3) + floats(0.5) + int32s(0)),
    entry(1, "QuantizedConvolution", "c", text("c") + i32(1) + int8s(1, 2) + int32s(7) + int8s(0) + floats(0.25)),
    entry(600, None, "a_scale_data_", floats(0.5) + raw(b"", 3)),
    entry(19, "InnerProduct", "i", text("i") + floats(1, 2, 3, dims=(3, 1)) + raw(b"", 0)),
    entry(305, "ScatterND", "s", b"\1" + int32s(0, dims=(1, 1)) + b"\0"),
    constants={"k": int32s(0, dims=(1,)), "h": floats(1, 2, 3, dims=(1, 3)), "e": raw(b"", 3)},
)

PAIRS = [
    (PROTO, MODEL),
    (PROTO_1, model_1()),
    (PROTO, model_1(magic=None, old=True)),
    (MIXED_PROTO, MIXED_MODEL),
]

NUMBERS = [0, 1, -1, 2, 15, 16, 17, 600, 9999, 10000, 2**15, 2**28, 2**29, 2**30, 2**31 - 1, -(2**31), V2 - 2**32]

WORDS = [
    "0", "-1", "1", "2147483647", "2147483648", "-2147483648", "9" * 30, "9" * 5000, "1e9", "1.9", "nan", "inf", "x",
    "", " ", "\t", ":", ",", '"', "\n", "\0", "é", "\ufeff",
    "Convolution", "QuantizedAdd", "Reshape", "Tile", "4206624770",
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """``data`` with up to three injuries: cut, flipped, spliced, a number or a word overwritten."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        to = draw(st.integers(at, min(len(data), at + 40)))
        match draw(st.sampled_from(["cut", "flip", "remove", "repeat", "insert", "number", "word"])):
            case "cut":
                data = data[:at]
            case "flip":
                data = data[:at] + bytes(b ^ draw(st.integers(1, 255)) for b in data[at : at + 1]) + data[at + 1 :]
            case "remove":
                data = data[:at] + data[to:]
            case "repeat":
                data = data[:to] + data[at:to] * draw(st.integers(1, 50)) + data[to:]
            case "insert":
                data = data[:at] + draw(st.binary(max_size=20)) + data[at:]
            case "number":
                data = data[:at] + struct.pack("<i", draw(st.sampled_from(NUMBERS))) + data[at + 4 :]
            case "word":
                data = data[:at] + draw(st.sampled_from(WORDS)).encode() + data[to:]
    return data


def refused_or_copied(proto_bytes: bytes, model_bytes: bytes | None) -> None:
    refusal = None
    tracemalloc.start()
    try:
        graph = read_model(proto_bytes, model_bytes)
        assert write_model(graph)[0] == proto_bytes
        assert model_bytes is None or write_model(graph)[1] == model_bytes
        written = write_model(graph, canonical=True)
        assert written[1][:4] == u32(V2)
    except FormatError as error:
        refusal = error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MAX_MEMORY_BYTES
    assert refusal is None or (refusal.where and str(refusal).encode("utf-8", "strict"))


lots = settings(deadline=MAX_TIME_MS, max_examples=400)


@lots
@given(st.sampled_from(PAIRS).flatmap(lambda pair: st.tuples(st.just(pair[0]), damaged(pair[1]))))
@example((PROTO, b""))
@example((PROTO, MODEL[:8] + i32(600, 2**31 - 1)))
@example((PROTO, MODEL + u32(V2) + i32(2**31 - 1) + bytes(64)))
def test_damaged_model(files: tuple[bytes, bytes]) -> None:
    refused_or_copied(*files)


@lots
@given(st.sampled_from(PAIRS).flatmap(lambda pair: st.tuples(damaged(pair[0]), st.just(pair[1]))))
@example((b"", MODEL))
@example((b"," * 100_000, MODEL))
@example((PROTO.replace(b"Mul mul 1 1", b"Mul mul 999999999 1"), MODEL))
@example((MIXED_PROTO.replace(b"0.1 2 1 2 8", b"0.1 2147483647 1 2 8"), MIXED_MODEL))
def test_damaged_proto(files: tuple[bytes, bytes]) -> None:
    refused_or_copied(*files)


@lots
@given(st.binary(max_size=300))
def test_any_bytes_as_a_model(data: bytes) -> None:
    refused_or_copied(PROTO, data)


@lots
@given(st.lists(st.sampled_from(WORDS) | st.text(max_size=8), max_size=40))
def test_any_words_as_a_proto(words: list[str]) -> None:
    refused_or_copied(" ".join(words).encode("utf-8", "replace"), None)


@lots
@given(
    st.sampled_from(
        ["Convolution", "Reshape", "Tile", "PriorBox", "SplitV", "Upsample", "Einsum", "NonMaxSuppression"]
    ),
    st.lists(st.sampled_from([word for word in WORDS if word.isprintable() and word.strip(' ,"')]), max_size=20),
)
def test_any_words_as_parameters(kind: str, words: list[str]) -> None:
    refused_or_copied(proto(f"{kind} n 1 1 x y " + " ".join(words)), model())


def test_undamaged_files_are_taken() -> None:
    for files in PAIRS:
        assert write_model(read_model(*files)) == files
