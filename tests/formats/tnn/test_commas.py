"""A comma that is missing between two lines of a proto, or one too many: the message says between which."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import tnn_serving as ts
from tests.formats.tnn.handmade import PROTO, V1, V2, proto
from tnn_serving.check.repository import check
from tnn_serving.errors import ProtoError, TnnError
from tnn_serving.formats.tnn.proto import read_proto, write_proto

LINES = PROTO.decode().splitlines()
"""Lines 1 to 5 are the header, 6 and 7 the layers `conv` and `mul`."""


def without_comma(line: int, *, end: str = "\n", tail: str = '"', lines: list[str] = LINES) -> bytes:
    """The proto without the comma at the end of a line, which ``tail`` then ends."""
    joined = [text if k != line else text.removesuffix(' ,"') + tail for k, text in enumerate(lines, 1)]
    return "".join(text + end for text in joined).encode()


def hint_of(data: bytes) -> str:
    with pytest.raises(ProtoError) as caught:
        ts.read_model(data)
    assert caught.value.hint is not None
    return caught.value.hint


# ---- between layers: what the first one does with the words of the second ----

LAYERS = {
    "parameters complete": "Convolution a 1 1 x m 1 1 2 1 1 1 1 0 0 1 -1 1 1 0",
    "one parameter missing": "Convolution a 1 1 x m 1 1 2 1 1 1 1 0 0 1 -1 1 1",
    "most parameters missing": "Convolution a 1 1 x m 1",
    "required parameter missing": "Flatten a 1 1 x m",
    "no parameters": "ReLU a 1 1 x m",
    "a float": "Elu a 1 1 x m",
    "a word": "Einsum a 1 1 x m",
    "takes all": "Tile a 1 1 x m 1 1 2",
    "list too short": "Permute a 1 1 x m 4 0 1",
    "list complete": "Permute a 1 1 x m 4 0 1 2 3",
    "unknown type": "Nonsense a 1 1 x m 1 2",
    "reserved type": "Dropout a 1 1 x m",
    "an output too many": "ReLU a 1 2 x m",
    "int8": "QuantizedReLU a 1 1 x m",
}
SECOND = {
    "ReLU": "ReLU b 1 1 m y",
    "int8": "QuantizedAdd b 2 1 m m y -1",
    "lower case": "lstm_ctc b 1 1 m y",
    "numbers as names": "Add b 2 1 1 2 3 -1",
}
ENDS = {"LF": "\n", "CRLF": "\r\n", "CR": "\r", "blank line": "\n\n"}
TAILS = ['"', ' "', "", '\uff0c"', ' ;"']
"""What ends the line where the comma and the space in front of it were."""


def said_of(line: str) -> str:
    kind, name, *_ = line.split()
    known = kind != "Nonsense"
    return f"layer `{name}` ({kind})" if known else f"`{line[:40].strip()}`"


@pytest.mark.parametrize("first", LAYERS)
@pytest.mark.parametrize("second", SECOND)
def test_comma_missing_between_layers(first: str, second: str) -> None:
    lines = proto(LAYERS[first], SECOND[second]).decode().splitlines()
    for (end, line_end), tail in itertools.product(ENDS.items(), TAILS):
        mark = tail.strip(' "')
        ending = f"with `{mark}`, which is no comma," if mark else "without a comma"
        one, two = (11, 13) if end == "blank line" else (6, 7)
        a, b = said_of(LAYERS[first] + tail.rstrip('"')), said_of(SECOND[second])
        hint = hint_of(without_comma(6, lines=lines, end=line_end, tail=tail))
        assert hint == f"line {one}, {a}, ends {ending} and runs into line {two}, {b}"


@pytest.mark.parametrize("first", [name for name in LAYERS if name != "unknown type"])
@pytest.mark.parametrize("tail", ["", " "])
def test_comma_missing_in_a_file_of_one_line(first: str, tail: str) -> None:
    lines = proto(LAYERS[first], SECOND["ReLU"]).decode().splitlines()
    if not tail and not lines[5].split()[-2].lstrip("-").isdigit():
        tail = " "  # `mReLU` is the name of a blob; `0ReLU` is none
    hint = hint_of(without_comma(6, lines=lines, end="", tail=tail).replace(b'"', b""))
    assert hint == f"a comma is missing between {said_of(LAYERS[first])} and layer `b` (ReLU)"


@pytest.mark.parametrize("tail", ['"', ' "'])
def test_comma_missing_in_a_quoted_file_of_one_line(tail: str) -> None:
    said = "a comma is missing between layer `conv` (Convolution) and layer `mul` (Mul)"
    assert hint_of(without_comma(6, end="", tail=tail)) == said
    assert (
        hint_of(without_comma(5, end="", tail=tail)) == "a comma is missing between `2` and layer `conv` (Convolution)"
    )


def test_comma_missing_between_two_of_many() -> None:
    lines = proto(*(f"ReLU r{k} 1 1 b{k} b{k + 1}" for k in range(9)), inputs="b0 1 4 0 ", outputs="b9 ").decode()
    for line in range(6, 14):
        hint = hint_of(without_comma(line, lines=lines.splitlines()))
        one, two = (f"line {k}, layer `r{k - 6}` (ReLU)" for k in (line, line + 1))
        assert hint == f"{one}, ends without a comma and runs into {two}"


def test_count_that_agrees_leaves_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """TNN takes such a file, without the layer; it is copied as it is."""
    lines = proto("ReLU a 1 1 x y", "ReLU b 1 1 y z", count=1).decode().splitlines()
    data = without_comma(6, lines=lines)
    graph = read_proto(data)
    assert write_proto(graph) == data
    assert graph.layers[0].surplus == ("b", "1", "1", "y", "z")  # the type has become part of the blob's name
    assert caplog.messages == [
        "line 6, layer `a` (ReLU), ends without a comma and runs into line 7, layer `b` (ReLU), whose words are ignored"
    ]


@pytest.mark.parametrize("surplus", ["", "1 2 3", "Add 1 1 5", "word", "a b c d"])
def test_no_warning_of_other_surplus(surplus: str, caplog: pytest.LogCaptureFixture) -> None:
    assert read_proto(proto(f"ReLU a 1 1 x y {surplus}")).layers[0].surplus == tuple(surplus.split())
    assert caplog.messages == []


def test_layers_named_like_types_and_blobs_named_by_numbers() -> None:
    with pytest.raises(ProtoError) as caught:
        ts.read_model(proto("Softmax Add 1 1 1 2 one", inputs="1 1 4 0 ", outputs="2 "))
    assert caught.value.hint is None


def test_last_comma_may_be_missing() -> None:
    data = without_comma(7)
    assert write_proto(read_proto(data)) == data
    assert [layer.name for layer in read_proto(data).layers] == ["conv", "mul"]


# ---- in the header ----

HEADS = ["1 3 1 4206624772", "x 4 1 1 2 2 0", "c x y", "y", "2", "layer `conv` (Convolution)"]


@pytest.mark.parametrize("line", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("tail", ['"', ' "', "", '\uff0c"'])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_comma_missing_in_the_header(line: int, tail: str, end: str) -> None:
    hint = hint_of(without_comma(line, tail=tail, end=end))
    first, second = (text if text.startswith("layer") else f"`{text}`" for text in HEADS[line - 1 : line + 1])
    mark = "\uff0c" if "\uff0c" in tail else ""
    first = first[:-1] + mark + "`" if mark else first
    ending = f"with `{mark}`, which is no comma," if mark else "without a comma"
    assert hint == f"line {line}, {first}, ends {ending} and runs into line {line + 1}, {second}"


@pytest.mark.parametrize("line", [1, 2, 3, 4, 5])
def test_comma_missing_in_the_header_of_version_1(line: int) -> None:
    lines = proto("ReLU r 1 1 x y", inputs="x 1 2 ", magic=V1).decode().splitlines()
    assert f"line {line}, " in hint_of(without_comma(line, lines=lines))


@pytest.mark.parametrize("line", [3, 4, 5])
def test_comma_missing_in_the_header_without_inputs(line: int) -> None:
    lines = proto("ReLU r 1 1 x y", inputs="").decode().splitlines()
    assert f"line {line}, " in hint_of(without_comma(line, lines=lines))


@pytest.mark.parametrize("line", [1, 2, 3, 4, 5])
def test_comma_missing_in_a_header_of_one_line(line: int) -> None:
    with pytest.raises(ProtoError, match=r"a comma is missing|a comma ends the line|wrong version number"):
        ts.read_model(without_comma(line, end="", tail="").replace(b'"', b""))


def test_comma_missing_in_a_file_that_is_nothing_but_a_header() -> None:
    data = without_comma(4, lines=[*LINES[:5], "ReLU r 1 1 x y"])
    assert hint_of(data) == "line 4, `y`, ends without a comma and runs into line 5, `2`"


def test_header_lines_may_be_broken() -> None:
    """Line feeds have no meaning: only what cannot be read is explained by them."""
    data = PROTO.replace(b" c x y", b" c x\n y").replace(b"4206624772 ,", b"4206624772 \n,")
    assert write_proto(read_proto(data)) == data
    with pytest.raises(ProtoError, match="wrong version number") as caught:
        read_proto(data.replace(b"4206624772", b"4206624771"))
    assert caught.value.hint is None


# ---- between inputs ----


@pytest.mark.parametrize(
    ("line", "magic"),
    [
        ("a 1 4 0 b 1 4 0", V2),
        ("a 1 4 b 1 4", V1),
        ("a 1 4 0, b 1 4 0", V2),
        ("a 1 4\nb 1 4", V1),
        ("a 1 4 0 ; b 1 4 0", V2),
    ],
)
def test_colon_missing_between_inputs(line: str, magic: int) -> None:
    with pytest.raises(ProtoError, match=r"colon|comma|wrong number of words|dim is not a number"):
        ts.read_model(proto("Add r 2 1 a b y -1", inputs=line, magic=magic))


def test_word_among_dims_hints_at_the_colon() -> None:
    hint = hint_of(proto("Add r 2 1 a b y -1", inputs="a 1 4 0 b 1 4 0"))
    assert hint == "a colon separates inputs, a comma ends the line"


# ---- a comma too many ----


@pytest.mark.parametrize(
    "line",
    [
        "Convolution c 1 1 x y, 1 3 4 3 3 1 1 1 1 1 -1 1 1 0",
        "Convolution c 1 1 x y 1 3 4 3 3 1 1, 1 1 1 -1 1 1 0",
        "Elu e 1 1 x y 0,5",
        "ReLU, r 1 1 x y",
        "Concat c 2 1 x, x y 1",
    ],
)
def test_comma_too_many(line: str) -> None:
    data = "".join(f'"{text} ,"\n' for text in ["1 2 1 4206624772", "x 1 4 0", "x y", "y", "1", line]).encode()
    with pytest.raises(TnnError, match=r"comma|incomplete|blob names"):
        ts.read_model(data)


def test_comma_too_many_is_the_hint() -> None:
    data = PROTO.replace(b"x c 1 1 2", b"x c 1, 1 2")
    assert hint_of(data) == "each comma ends a layer: there may be one too many before"


# ---- quotes that an editor has put there ----


@pytest.mark.parametrize(("left", "right"), ["“”", "””", "„“", "«»", "\uff02\uff02", ("&quot;", "&quot;")])
def test_typographic_quotes(left: str, right: str) -> None:
    text = "".join(f"{left}{line[1:-1]}{right}\n" for line in LINES)
    with pytest.raises(ProtoError, match="typographic quotes") as caught:
        ts.read_model(text.encode())
    assert caught.value.hint == "get the file again, not its text"


@pytest.mark.parametrize("data", [PROTO.replace(b'"', b"'"), b"'" + PROTO])
def test_apostrophes_are_part_of_names(data: bytes) -> None:
    with pytest.raises(TnnError):
        ts.load((data, b""))


# ---- where it shows ----


@pytest.mark.slow
def test_message_of_load_and_check(tmp_path: Path) -> None:
    folder = tmp_path / "net" / "1"
    folder.mkdir(parents=True)
    data = without_comma(
        6, tail=' "', lines=proto(LAYERS["one parameter missing"], SECOND["ReLU"]).decode().splitlines()
    )
    (folder / "net.tnnproto").write_bytes(data)
    said = (
        f"{folder / 'net.tnnproto'}, layer 0 `a` (Convolution), parameter `activation`: parameter is not an integer: "
        "found 'ReLU' (line 6, layer `a` (Convolution), ends without a comma and runs into line 7, layer `b` (ReLU))"
    )
    with pytest.raises(ProtoError) as caught:
        ts.load(folder)
    assert str(caught.value) == said
    (finding,) = check([tmp_path]).models[0].versions[0].findings
    assert finding.hint == caught.value.hint


def test_cut_off_file_is_told_from_a_missing_comma() -> None:
    assert hint_of(PROTO[:106]) == "a comma may be missing at the end of a line, or the file is cut off"


def test_large_files() -> None:
    """The place of a comma is looked for in time that grows with the file, not with its square."""
    many = b"," * 30_000
    with pytest.raises(ProtoError, match="layers are missing"):
        read_proto(PROTO.replace(b'" 2 ,"', b'" 9 ,"') + many)
    with pytest.raises(ProtoError, match="not an integer"):
        read_proto(proto("Softmax s 1 1 x y " + "1a" * 1_000_000))
    with pytest.raises(ProtoError, match="layers are missing"):
        read_proto(proto("ReLU s 1 1 x y " + "Add 1 " * 30_000 + "x" * 1_000_000, count=2))
