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

from tnn_serving.errors import ProtoError, located
from tnn_serving.graph import PROTO_V1, PROTO_V2, SCALE_SUFFIX, DataType, Graph, Input, ProtoText
from tnn_serving.layers.base import Layer, make

log = logging.getLogger(__name__)

HEADER_SEGMENTS = 5
_WHITE = bytes(range(33))
_NUMBERS = re.compile(r"\d+")

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
    if not data.strip(_WHITE + b'"'):
        raise ProtoError("proto file is empty")
    if b"\0" in data:
        raise ProtoError("proto holds a NUL byte", expected="text in UTF-8", hint="UTF-16 files cannot be read")
    pieces = data.split(b",")
    if len(pieces) < HEADER_SEGMENTS + 1:
        raise ProtoError(
            "proto is truncated", expected="at least 5 header lines ending with a comma", found=f"{len(pieces) - 1} lines"
        )
    encoding = _encoding(data)
    texts = [_text(piece, encoding) for piece in pieces]
    header = _read_header(texts[:HEADER_SEGMENTS])
    layers: list[Layer] = []
    kept: list[tuple[bytes, Layer | None]] = []
    for piece, text in zip(pieces[HEADER_SEGMENTS:], texts[HEADER_SEGMENTS:], strict=True):
        layer = _read_layer(text, len(layers)) if text else None
        kept.append((piece, layer))
        if layer is not None:
            layers.append(layer)
    _check_count(header.count, len(layers))
    return Graph(
        inputs=header.inputs,
        outputs=header.outputs,
        layers=layers,
        blobs=header.blobs,
        version=header.version,
        encoding=encoding,
        proto_text=ProtoText(tuple(pieces[:HEADER_SEGMENTS]), tuple(kept)),
    )


def _encoding(data: bytes) -> Encoding:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def _text(piece: bytes, encoding: Encoding) -> str:
    stripped = piece.replace(b'"', b"").replace(b"\n", b"").strip(_WHITE)
    return stripped.removeprefix(b"\xef\xbb\xbf").decode(encoding)


def _read_header(texts: Sequence[str]) -> _Header:
    first = texts[0].split(" ")
    number = first[3] if len(first) > 3 else ""
    if number not in (str(PROTO_V1), str(PROTO_V2)):
        raise ProtoError(
            "not a supported .tnnproto: wrong version number",
            expected=f"{PROTO_V1} or {PROTO_V2} as the fourth word of line 1, single spaces between",
            found=repr(number) if number else f"{len(first)} words",
        )
    version = int(number)
    with located("input line"):
        inputs = _read_inputs(texts[1], version)
    outputs = _split(texts[3])
    if not outputs:
        raise ProtoError("no outputs", expected="at least one name in line 4")
    count = int(texts[4]) if _NUMBERS.fullmatch(texts[4]) else None
    return _Header(version, inputs, _split(texts[2]), outputs, count)


def _split(text: str) -> list[str]:
    return [name for name in text.split(" ") if name]


def _read_inputs(text: str, version: int) -> list[Input]:
    if not text:
        return []
    found: list[Input] = []
    for position, part in enumerate(text.split(":")):
        tokens = part.strip(_WHITE.decode("latin-1")).split(" ")
        if len(tokens) < 2:
            raise ProtoError(f"entry {position} is incomplete", expected="a name and its dims", found=repr(part.strip()))
        name = tokens[0]
        with located(f"input `{name}`"):
            item = _input_v2(name, tokens) if version == PROTO_V2 else Input(name, _dims(tokens[1:]))
        if any(item.name == other.name for other in found):
            raise ProtoError(f"input `{name}` is declared twice")
        found.append(item)
    return found


def _input_v2(name: str, tokens: list[str]) -> Input:
    numbers = _dims(tokens[1:])
    rank = numbers[0]
    if rank > len(numbers) - 1:
        raise ProtoError("rank does not fit the dims", expected=f"{rank} dims", found=f"{len(numbers) - 1}")
    if len(numbers) != rank + 2:
        raise ProtoError(
            "wrong number of words", expected=f"name, rank, {rank} dims, data type", found=" ".join(tokens)
        )
    try:
        kind = DataType(numbers[-1])
    except ValueError:
        raise ProtoError("unknown data type", expected="0 to 6", found=numbers[-1]) from None
    return Input(name, numbers[1:-1], kind)


def _dims(tokens: Sequence[str]) -> tuple[int, ...]:
    for text in tokens:
        if not _NUMBERS.fullmatch(text) or int(text) >= 2**31:
            raise ProtoError("dim is not a number", expected="digits, single spaces between", found=repr(text))
    return tuple(int(text) for text in tokens)


def _read_layer(text: str, index: int) -> Layer:
    tokens = _split(text)
    if "\t" in tokens[0] or len(tokens) < 4:
        raise ProtoError(
            f"layer segment {index} is incomplete",
            expected="type, name, number of inputs, number of outputs",
            found=repr(text[:80]),
            hint="tab is not a separator" if "\t" in text else None,
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
        if SCALE_SUFFIX in name:
            raise ProtoError(f"a layer name must not hold `{SCALE_SUFFIX}`, which marks blob scales")
        blobs = tokens[4 : 4 + n_in + n_out]
        return make(kind, name, blobs[:n_in], blobs[n_in:], tokens[4 + n_in + n_out :])


def _count(word: str, what: str) -> int:
    if not _NUMBERS.fullmatch(word) or len(word) > 9:
        raise ProtoError(f"number of {what} is not a number", found=repr(word))
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


def write_proto(graph: Graph, *, canonical: bool = False) -> bytes:
    """The proto of a graph: what was read and not changed as it was, the rest as TNN's packer writes it.

    Args:
        canonical: write everything as the packer would, version 2, and keep nothing of the file that was read.
    """
    encoding = graph.encoding
    fresh = _canonical_header(graph)
    if canonical or graph.proto_text is None:
        lines = [*fresh, *(_canonical_layer(layer) for layer in graph.layers)]
        return "".join(f'"{line},"\n' for line in lines).encode(encoding)
    kept = graph.proto_text
    texts = [_text(piece, encoding) for piece in kept.segments]
    read = _read_header(texts)
    known = sum(layer is not None for _, layer in kept.layers)
    same = (
        read.version == graph.version,
        read.inputs == graph.inputs,
        graph.blobs is not None and read.blobs == graph.blobs,
        read.outputs == graph.outputs,
        known == len(graph.layers),
    )
    pieces = [
        old if same[k] else _fresh_piece(fresh[k], first=k == 0, encoding=encoding) for k, old in enumerate(kept.segments)
    ]
    pieces += _layer_pieces(graph, kept)
    return b",".join(pieces)


def _layer_pieces(graph: Graph, kept: ProtoText) -> list[bytes]:
    """Old text of unchanged layers in place, empty segments before the layer they stood before."""
    before: dict[int, list[bytes]] = {}
    text_of: dict[int, bytes] = {}
    waiting: list[bytes] = []
    for piece, layer in kept.layers:
        if layer is None:
            waiting.append(piece)
        else:
            text_of[id(layer)] = piece
            before[id(layer)] = waiting
            waiting = []
    pieces: list[bytes] = []
    for layer in graph.layers:
        pieces += before.get(id(layer), [])
        old = text_of.get(id(layer))
        if old is not None and _same_layer(_read_layer(_text(old, graph.encoding), 0), layer):
            pieces.append(old)
        else:
            pieces.append(_fresh_piece(_canonical_layer(layer), first=False, encoding=graph.encoding))
    return pieces + waiting


def _same_layer(a: Layer, b: Layer) -> bool:
    place = (a.type, a.name, a.inputs, a.outputs) == (b.type, b.name, b.inputs, b.outputs)
    return place and type(a) is type(b) and a.tokens() == b.tokens()


def _fresh_piece(line: str, *, first: bool, encoding: Encoding) -> bytes:
    return (f'"{line}' if first else f'"\n"{line}').encode(encoding)


def _canonical_header(graph: Graph) -> list[str]:
    encoding = graph.encoding
    blobs = graph.blob_names()
    inputs = sorted(graph.inputs, key=lambda item: item.name.encode(encoding))
    outputs = sorted(set(graph.outputs), key=lambda name: name.encode(encoding))
    parts = [f"{i.name} {len(i.dims)} {''.join(f'{d} ' for d in i.dims)}{int(i.dtype or 0)} " for i in inputs]
    return [
        f"1 {len(blobs)} 1 {PROTO_V2} ",
        ": ".join(parts),
        " " + "".join(f"{name} " for name in blobs),
        "".join(f"{name} " for name in outputs),
        f" {len(graph.layers)} ",
    ]


def _canonical_layer(layer: Layer) -> str:
    words = [layer.type, layer.name, str(len(layer.inputs)), str(len(layer.outputs)), *layer.inputs, *layer.outputs]
    return "".join(f"{word} " for word in [*words, *layer.tokens()])
