"""The .tnnproto text: segments between commas, with all the freedom that TNN's reader allows.

Every ``"`` and LF is deleted, the rest is split at commas, and each piece is stripped: lines are only a convention.
Segments are: header, inputs, blob list, outputs, layer count, and one for each layer.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tnn_serving.errors import FormatError, ProtoError, located
from tnn_serving.formats.tnn.commas import begins_layer, missing_comma, missing_comma_named
from tnn_serving.graph import Graph, Input, LayerText, ProtoText
from tnn_serving.layers.base import Layer
from tnn_serving.layers.registry import make
from tnn_serving.tensor import PROTO_V1, PROTO_V2, DataType

log = logging.getLogger(__name__)

HEADER_SEGMENTS = 5
PROTO_MAX_BYTES = 16 << 20
MAX_SEGMENTS = 1 << 15
MAX_INPUTS = 1 << 10
MAX_WORDS = 1 << 16
"""Far above any proto (words are those of one layer): they keep a file from filling the memory, and from costing
hours where time grows with the square."""

_WHITE = bytes(range(33))
_BLANKS = _WHITE.decode("ascii")
_NUMBER = re.compile(r"[0-9]{1,40}")
_LINE_END = re.compile(rb"[\r\n]")
_TYPES = frozenset(DataType)
_TYPOGRAPHIC_QUOTES = ("“", "”", "„", "«", "\uff02", "&quot;")
_UNWRITABLE = re.compile(r'[\0\n ",]|^[\x00-\x20]|[\x00-\x20]\Z')

Encoding = Literal["utf-8", "latin-1"]


@dataclass(frozen=True, slots=True)
class _Header:
    version: int
    inputs: list[Input]
    blobs: list[str]
    outputs: list[str]
    count: int | None


def read_proto(data: bytes) -> Graph:
    """Reads a proto. The graph has no weights yet.

    Raises:
        ProtoError: the text is not a proto, is cut off, or says something that TNN would silently misread.
    """
    if len(data) > PROTO_MAX_BYTES or data.count(b",") > MAX_SEGMENTS:
        raise ProtoError(
            "file is too large for a proto",
            expected=f"at most {PROTO_MAX_BYTES} bytes and {MAX_SEGMENTS} commas",
            found=f"{len(data)} bytes",
        )
    if not data.strip(_WHITE + b'"'):
        raise ProtoError("proto file is empty")
    if b"\0" in data:
        raise ProtoError("proto contains a NUL byte", expected="text in UTF-8", found=f"one at byte {data.index(0)}")
    pieces = data.split(b",")
    encoding = _encoding(data)
    if len(pieces) < HEADER_SEGMENTS + 1:
        with missing_comma_named(pieces, range(len(pieces)), encoding):
            raise ProtoError(
                "proto is truncated",
                expected="at least 5 header lines ending with a comma",
                found=f"{len(pieces) - 1} commas behind {_text(pieces[0], encoding)[:40]!r}",
            )
    header = _read_header(pieces[:HEADER_SEGMENTS], encoding)
    _warn_of_types(header)
    layers: list[Layer] = []
    kept: list[LayerText] = []
    glued: list[int] = []
    for k, piece in enumerate(pieces[HEADER_SEGMENTS:], HEADER_SEGMENTS):
        text = _text(piece, encoding)
        if text:
            with missing_comma_named(pieces, [k], encoding):
                layers.append(_read_segment(text, len(layers)))
            kept.append(LayerText(piece, layers[-1], layer_line(layers[-1])))
            if layers[-1].surplus or _LINE_END.search(piece.strip(_WHITE + b'"')):
                glued.append(k)
        else:
            kept.append(LayerText(piece))
    with missing_comma_named(pieces, range(HEADER_SEGMENTS, len(pieces)), encoding):
        _check_count(header.count, len(layers))
    for hint in filter(None, (missing_comma(pieces, k, encoding, before_layer=True) for k in glued)):
        log.warning("%s, whose words are ignored", hint)
    _check_names(layers)
    graph = Graph(
        inputs=header.inputs,
        outputs=header.outputs,
        layers=layers,
        blobs=header.blobs,
        version=header.version,
        encoding=encoding,
    )
    graph.proto_text = ProtoText(tuple(pieces[:HEADER_SEGMENTS]), tuple(graph.blob_names()), tuple(kept))
    return graph


def _encoding(data: bytes) -> Encoding:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _text(piece: bytes, encoding: Encoding) -> str:
    return piece.replace(b'"', b"").replace(b"\n", b"").strip(_WHITE).decode(encoding)


def _read_header(pieces: Sequence[bytes], encoding: Encoding) -> _Header:
    texts = [_text(piece, encoding) for piece in pieces]
    if texts[0].startswith(_TYPOGRAPHIC_QUOTES):
        raise ProtoError(
            "typographic quotes", expected='`"`', found=repr(texts[0][:40]), hint="get the file again, not its text"
        )
    with missing_comma_named(pieces, [0], encoding):
        version = _read_version(texts[0])
    with missing_comma_named(pieces, [0, 1], encoding), located("input line"):
        inputs = _read_inputs(texts[1], version)
    outputs = _split(texts[3])
    with missing_comma_named(pieces, [0, 1, 3, 4, 2], encoding):
        if not outputs:
            raise ProtoError("no outputs", expected="at least one name in line 4")
        if begins_layer(texts[4]):
            raise ProtoError(
                "no layer count",
                expected="a number in line 5",
                found=repr(texts[4][:80]),
                hint="a comma is missing in the header",
            )
    count = int(texts[4]) if _NUMBER.fullmatch(texts[4]) else None
    return _Header(version, inputs, _split(texts[2]), outputs, count)


def _read_version(text: str) -> int:
    words = text.split(" ")
    number = words[3] if len(words) > 3 else ""
    if number not in (str(PROTO_V1), str(PROTO_V2)):
        raise ProtoError(
            "not a supported .tnnproto: wrong version number",
            expected=f"{PROTO_V1} or {PROTO_V2} as the fourth word of line 1, single spaces between",
            found=repr(number[:40]) if number else f"{len(words)} words",
        )
    return int(number)


def _warn_of_types(header: _Header) -> None:
    """Warns of inputs without a data type, where the version has one."""
    for item in header.inputs:
        if header.version == PROTO_V2 and item.dtype is None:
            last = item.dims[-1] if item.dims else -1
            other = f"; if a dim is missing, {last} is the type {DataType(last).name.lower()}" if last in _TYPES else ""
            what = f"{len(item.dims)} dims but no data type"
            log.warning("input `%s` has a rank and %s: it is read as float32%s", item.name, what, other)


def _split(text: str) -> list[str]:
    return [name for name in text.split(" ") if name]


def _read_inputs(text: str, version: int) -> list[Input]:
    if not text:
        return []
    found: dict[str, Input] = {}
    if text.count(":") >= MAX_INPUTS:
        raise ProtoError("too many inputs", expected=f"at most {MAX_INPUTS}", found=text.count(":") + 1)
    for position, part in enumerate(text.split(":")):
        tokens = part.strip(_BLANKS).split(" ")
        if len(tokens) < 2:
            raise ProtoError(f"entry {position} is incomplete", expected="a name and its dims", found=repr(part[:80]))
        name = tokens[0]
        with located(f"input `{name}`"):
            item = _input_v2(name, tokens) if version == PROTO_V2 else Input(name, _dims(tokens[1:]))
            if name in found:
                raise ProtoError("the input is declared twice")
        found[name] = item
    return list(found.values())


def _input_v2(name: str, tokens: list[str]) -> Input:
    """Rank, dims, data type; files of 2021 leave the data type out.

    The number of words tells that from a missing dim, except where the last one is 0: that is a type and no size.
    """
    rank, *numbers = _dims(tokens[1:])
    if rank > len(numbers):
        raise ProtoError(f"rank says {rank}", expected=f"{rank} dims and a data type", found=_words(tokens))
    if rank == len(numbers) and not (numbers and numbers[-1] == 0):
        return Input(name, tuple(numbers))
    if len(numbers) != rank + 1:
        raise ProtoError("wrong number of words", expected=f"name, rank, {rank} dims, data type", found=_words(tokens))
    try:
        kind = DataType(numbers[-1])
    except ValueError:
        raise ProtoError("unknown data type", expected="0 to 6", found=numbers[-1]) from None
    return Input(name, tuple(numbers[:-1]), kind)


def _words(tokens: list[str]) -> str:
    return repr(" ".join(tokens)[:80])


def _dims(tokens: Sequence[str]) -> tuple[int, ...]:
    for text in tokens:
        if not _NUMBER.fullmatch(text) or int(text) >= 2**31:
            hint = "a colon separates inputs, a comma ends the line" if text[:1].isalpha() else None
            raise ProtoError(
                "dim is not a number", expected="digits, single spaces between", found=repr(text[:40]), hint=hint
            )
    return tuple(int(text) for text in tokens)


def _read_segment(text: str, index: int) -> Layer:
    try:
        return _read_layer(text, index)
    except ProtoError as error:
        if "\t" in text:
            error.hint = "tab is not a separator"
        raise


def _read_layer(text: str, index: int) -> Layer:
    tokens = _split(text)
    if len(tokens) > MAX_WORDS:
        raise ProtoError(f"layer segment {index} is too long", expected=f"at most {MAX_WORDS} words", found=len(tokens))
    if "\t" in tokens[0]:
        raise ProtoError(f"layer segment {index} has an unknown type", found=repr(tokens[0][:80]))
    if len(tokens) < 4 or _NUMBER.fullmatch(tokens[0]):
        raise ProtoError(
            f"layer segment {index} is incomplete",
            expected="type, name, number of inputs, number of outputs",
            found=repr(text[:80]),
            hint="each comma ends a layer: there may be one too many before",
        )
    kind, name, *counts = tokens[:4]
    with located(f"layer {index} `{name}` ({kind})"):
        n_in, n_out = (_count(word, what) for word, what in zip(counts, ("inputs", "outputs"), strict=True))
        if len(tokens) < 4 + n_in + n_out:
            raise ProtoError(
                f"declares {n_in} inputs and {n_out} outputs",
                expected=f"{n_in + n_out} blob names",
                found=f"{len(tokens) - 4} words",
            )
        blobs = tokens[4 : 4 + n_in + n_out]
        return make(kind, name, blobs[:n_in], blobs[n_in:], tokens[4 + n_in + n_out :])


def _count(word: str, what: str) -> int:
    if not _NUMBER.fullmatch(word) or len(word) > 9:
        raise ProtoError(f"number of {what} is not a number", expected="digits", found=repr(word[:40]))
    return int(word)


def _check_count(declared: int | None, found: int) -> None:
    if declared is None:
        log.warning("the layer count is not a number; %d layers found", found)
    elif found < declared:
        raise ProtoError(
            "layers are missing",
            expected=f"{declared} layers, as line 5 declares",
            found=f"{found}",
            hint="a comma may be missing at the end of a line, or the file is cut off",
        )
    elif found > declared:
        log.warning("line 5 declares %d layers, %d found", declared, found)


def _check_names(layers: Sequence[Layer]) -> None:
    seen: set[str] = set()
    for layer in layers:
        if layer.name in seen:
            log.warning("layer name `%s` is used twice; layers of one name and type share their weights", layer.name)
        seen.add(layer.name)


def write_proto(graph: Graph, *, canonical: bool = False) -> bytes:
    """The proto of a graph: what was read and not changed as it was, the rest as TNN's packer lays it out.

    Args:
        canonical: write exactly what the packer writes, version 2, and keep nothing of the file that was read: no
            surplus tokens, and lists that the packer turns around are turned around.

    Raises:
        FormatError: a name holds a separator, or the version cannot say what the graph does.
    """
    kept = None if canonical else graph.proto_text
    if kept is None:
        header = _header(graph, PROTO_V2, graph.blob_names())
        lines = [*header, *(_checked_line(layer, canonical=canonical) for layer in graph.layers)]
        return _encoded("".join(f'"{line},"\n' for line in lines), graph)
    pieces = [*_header_pieces(graph, kept), *_layer_pieces(graph, kept)]
    return b",".join(pieces)


def _header_pieces(graph: Graph, kept: ProtoText) -> list[bytes]:
    read = _read_header(kept.segments, graph.encoding)
    same_blobs = read.blobs == graph.blobs and list(kept.names) == graph.blob_names()
    same_version = read.version == graph.version
    same = (
        same_version and same_blobs,
        same_version and read.inputs == graph.inputs,
        same_blobs,
        read.outputs == graph.outputs,
        sum(item.layer is not None for item in kept.layers) == len(graph.layers),
    )
    if all(same):
        return list(kept.segments)
    listed = graph.blobs if graph.blobs is not None and graph.blobs != read.blobs else graph.blob_names()
    fresh = _header(graph, graph.version, listed)
    return [
        old if same[k] else _encoded(f'"{fresh[k]}' if k == 0 else f'"\n"{fresh[k]}', graph)
        for k, old in enumerate(kept.segments)
    ]


def _layer_pieces(graph: Graph, kept: ProtoText) -> list[bytes]:
    """Old text of unchanged layers in place, empty segments before the layer they stood before."""
    before: dict[int, list[bytes]] = {}
    read: dict[int, LayerText] = {}
    waiting: list[bytes] = []
    for item in kept.layers:
        if item.layer is None:
            waiting.append(item.piece)
        else:
            read[id(item.layer)] = item
            before[id(item.layer)] = waiting
            waiting = []
    pieces: list[bytes] = []
    for layer in graph.layers:
        pieces += before.pop(id(layer), [])
        old = read.get(id(layer))
        if old is not None and old.line == layer_line(layer):
            pieces.append(old.piece)
        else:
            pieces.append(_encoded(f'"\n"{_checked_line(layer)}', graph))
    return pieces + waiting or [b'"\n']


def _header(graph: Graph, version: int, blobs: Sequence[str]) -> list[str]:
    """The five header lines; order and spaces are the packer's."""
    names = sorted({_checked(name) for name in graph.outputs}, key=lambda name: name.encode(graph.encoding, "replace"))
    inputs = sorted(graph.inputs, key=lambda item: item.name.encode(graph.encoding, "replace"))
    return [
        f"1 {len(blobs)} 1 {version} ",
        ": ".join(_input_line(item, version) for item in inputs),
        " " + "".join(f"{name} " for name in blobs),
        "".join(f"{name} " for name in names),
        f" {len(graph.layers)} ",
    ]


def _input_line(item: Input, version: int) -> str:
    if ":" in item.name:
        raise FormatError(f"input name `{item.name}` holds a colon, which separates inputs")
    dims = "".join(f"{dim} " for dim in item.dims)
    if version == PROTO_V2:
        return f"{_checked(item.name)} {len(item.dims)} {dims}{int(item.dtype or 0)} "
    if item.dtype not in (None, DataType.FLOAT):
        raise FormatError(
            f"input `{item.name}` has a type that version 1 cannot say",
            found=item.dtype.name.lower() if item.dtype is not None else None,
            hint="set the graph's version to PROTO_V2",
        )
    return f"{_checked(item.name)} {dims}"


def layer_line(layer: Layer, *, canonical: bool = False) -> str:
    """A layer's line without quotes and comma; ``canonical``: with the quirks of TNN's packer."""
    return "".join(f"{word} " for word in (*_words_of(layer), *layer.tokens(canonical=canonical)))


def _words_of(layer: Layer) -> list[str]:
    places = [str(len(layer.inputs)), str(len(layer.outputs)), *layer.inputs, *layer.outputs]
    return [layer.type, layer.name, *places]


def _checked_line(layer: Layer, *, canonical: bool = False) -> str:
    with located(layer.place()):
        for word in _words_of(layer):
            _checked(word)
    return layer_line(layer, canonical=canonical)


def _checked(name: str) -> str:
    if not name or _UNWRITABLE.search(name):
        raise FormatError(f"name {name!r} cannot be written", expected="a word without spaces, commas and quotes")
    return name


def _encoded(text: str, graph: Graph) -> bytes:
    try:
        return text.encode(graph.encoding)
    except UnicodeEncodeError as error:
        raise FormatError(
            "a name cannot be written",
            expected=f"text in {graph.encoding}, as the proto was read",
            found=repr(error.object[error.start : error.end]),
        ) from None
