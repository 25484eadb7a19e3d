"""The .tnnmodel binary: an entry for each layer with weights, int8 blob scales, and the constant map.

Entries have no length, so each is read by the declaration of its type: the fields of the layer class in order.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator

from tnn_serving.errors import FormatError, WeightsError, located
from tnn_serving.formats.tnn.payload import (
    canonical_payload,
    fill,
    read_blob_scale,
    read_payload,
    stored_payload,
    write_blob_scale,
    write_payload,
    write_tensor,
)
from tnn_serving.formats.tnn.tensor import ByteReader, ByteWriter, shown
from tnn_serving.graph import Entry, EntryHeader, Graph, ModelBytes, Payload
from tnn_serving.layers.base import Layer, Reserved
from tnn_serving.layers.registry import declaration, is_known, type_number, type_of_number
from tnn_serving.tensor import PROTO_V1, PROTO_V2, SCALE_SUFFIX, BlobScale, Tensor

log = logging.getLogger(__name__)

SCALE_TYPE = "BlobScale"
SCALE_NUMBER = 600
MAX_ENTRIES = 10_000
MAX_NUMBER = 10_000
COUNT_MASK = 0x1FFFFFFF
"""TNN keeps the low 29 bits of the entry count."""
LEAST_CONSTANT = 16
"""Bytes of the smallest constant: an empty name and an empty buffer."""


def read_weights(graph: Graph, data: memoryview) -> None:
    """Fills the layers, scales and constants of ``graph`` from the bytes of a model file, as views of ``data``.

    Raises:
        WeightsError: the bytes are no model file, are cut off, or do not belong to this proto.
    """
    if not len(data) and not any(needs_entry(layer) for layer in graph.layers):
        graph.model_bytes = ModelBytes(None, empty=True)
        return
    if len(data) < 4:
        raise WeightsError("model file is truncated", expected="an entry count", found=f"{len(data)} bytes")
    reader = ByteReader(data, graph.encoding)
    magic: int | None = reader.uint32("the version")
    if magic not in (PROTO_V1, PROTO_V2):
        magic, reader.at = None, 0
    if reader.left < 4:
        raise WeightsError("model file is truncated", expected="an entry count after the version", found="nothing")
    kept = ModelBytes(magic)
    count = _read_count(reader, kept)
    loader = _Loader(graph, reader)
    for index in range(count):
        kept.entries.append(loader.entry(index))
    _read_constants(graph, reader, kept)
    kept.stray = bytes(reader.data[reader.at :])
    holds_nothing = not kept.entries and not kept.constants
    if holds_nothing and kept.stray and any(needs_entry(layer) for layer in graph.layers):
        raise WeightsError("no entries in the model file", found=f"{len(kept.stray)} bytes that TNN ignores")
    graph.model_bytes = kept
    if kept.entries and all(entry.orphan is not None for entry in kept.entries):
        log.warning("no entry of the model file belongs to a layer of the proto: they may be of different networks")


def needs_entry(layer: Layer) -> bool:
    """A layer that cannot run without an entry: it has a buffer that always follows, and no further input instead."""
    always = any(spec.form == "tensor" and spec.when is None and spec.when_int8 is None for spec in layer.payload)
    return always and len(layer.inputs) <= layer.input_range()[0]


def _read_count(reader: ByteReader, kept: ModelBytes) -> int:
    start = reader.at
    raw = reader.int32("the entry count")
    count = raw & COUNT_MASK
    if count >= MAX_ENTRIES:
        raise WeightsError(
            f"not a .tnnmodel: entry count at byte {start}", expected=f"at most {MAX_ENTRIES - 1}", found=raw
        )
    kept.count_bits = raw & ~COUNT_MASK & 0xFFFFFFFF
    return count


class _Loader:
    def __init__(self, graph: Graph, reader: ByteReader) -> None:
        self.graph = graph
        self.reader = reader
        self.layers: dict[str, list[Layer]] = defaultdict(list)
        self.latest: dict[str, tuple[Entry, Payload | BlobScale]] = {}
        for layer in graph.layers:
            self.layers[layer.name].append(layer)

    def entry(self, index: int) -> Entry:
        with located(f"entry {index} at byte {self.reader.at}"):
            header = self._header()
        kind = header.type or (SCALE_TYPE if header.number == SCALE_NUMBER else type_of_number(header.number) or "")
        with located(f"entry {index} `{shown(header.name)}` ({kind})"):
            entry, content = self._scale(header) if kind == SCALE_TYPE else self._layer(header, kind)
        if header.name in self.latest:
            log.warning("entry `%s` is twice in the model file; the last one counts", shown(header.name))
            earlier, its_content = self.latest[header.name]
            earlier.orphan = its_content
        self.latest[header.name] = entry, content
        if entry.orphan is not None:
            log.debug("entry `%s` belongs to nothing in the proto", shown(header.name))
        return entry

    def _header(self) -> EntryHeader:
        start = self.reader.at
        number = self.reader.int32("the type number")
        if not 0 <= number <= MAX_NUMBER:
            raise WeightsError(f"type number at byte {start}", expected=f"0 to {MAX_NUMBER}", found=number)
        first = self.reader.text("the type")
        if is_known(first) or first == SCALE_TYPE:
            return EntryHeader(self.reader.text("the name"), number, first)
        if number == SCALE_NUMBER or (number and type_of_number(number)):
            return EntryHeader(first, number, None)
        raise WeightsError(
            f"unknown entry type at byte {start}",
            expected="the name or the number of a layer type",
            found=f"number {number}, `{shown(first)}`",
            hint="is this a .tnnmodel?",
        )

    def _scale(self, header: EntryHeader) -> tuple[Entry, BlobScale]:
        scale = read_blob_scale(self.reader)
        if not header.name.endswith(SCALE_SUFFIX):
            return Entry(header, orphan=scale), scale
        self.graph.scales[header.name.removesuffix(SCALE_SUFFIX)] = scale
        return Entry(header), scale

    def _layer(self, header: EntryHeader, kind: str) -> tuple[Entry, Payload]:
        cls, number = declaration(kind), type_number(kind)
        if cls is Reserved or not cls.entry_allowed:
            raise WeightsError(f"type `{kind}` has no weights", expected="an entry of a type that has")
        namesakes = self.layers.get(header.name, [])
        owners = [layer for layer in namesakes if layer.number == number]
        other = next((layer for layer in namesakes if layer.payload), None)
        if not owners and other is not None:
            raise WeightsError(
                "entry is of another type than the layer",
                expected=f"{other.type} ({other.number})",
                found=f"{kind} ({number})",
                hint="proto and model may belong to different networks",
            )
        payload = read_payload(self.reader, cls.payload)
        for layer in owners:
            fill(layer, payload)
        if owners:
            return Entry(header, owners[0]), payload
        return Entry(header, orphan=payload), payload


def _read_constants(graph: Graph, reader: ByteReader, kept: ModelBytes) -> None:
    if reader.left < 4:
        return
    start = reader.at
    word = reader.uint32("the constants")
    if reader.left < 4:
        raise WeightsError(
            f"trailing data at byte {start}", expected="a number of constants", found=f"{reader.left} more bytes"
        )
    count = reader.int32("the number of constants")
    if count > 0 and count * LEAST_CONSTANT > reader.left:
        raise WeightsError(
            f"trailing data at byte {start} is no constant map",
            expected=f"at most {reader.left // LEAST_CONSTANT} constants",
            found=count,
        )
    kept.trailer = word, count
    place: dict[str, int] = {}
    for index in range(count):
        with located(f"constant {index}"):
            name = reader.text("the name")
            with located(f"`{shown(name)}`"):
                tensor = reader.tensor("the data")
        if name in place:
            log.warning("constant `%s` is twice in the model file; the last one counts", shown(name))
            kept.constants[place[name]] = name, graph.constants[name]
        place[name] = index
        graph.constants[name] = tensor
        kept.constants.append((name, None))


def write_weights(graph: Graph, *, canonical: bool = False) -> bytes:
    """The model file of a graph, in the order and form it was read in, or as TNN's packer writes it.

    Args:
        canonical: write exactly what the packer writes, version 2 throughout, keeping nothing of the file that was
            read. It leaves out what it does not know of: see docs/reference/formats.md.

    Raises:
        FormatError: the graph cannot be said in this format.
    """
    writer = ByteWriter(graph.encoding)
    if canonical or graph.model_bytes is None:
        kept, version = ModelBytes(), PROTO_V2
    else:
        kept, version = graph.model_bytes, None
    entries = list(_canonical_entries(graph) if canonical else _entries(graph, kept))
    constants = list(_constants(graph, kept))
    if kept.empty and not entries and not constants:
        return b""
    if len(entries) >= MAX_ENTRIES:
        raise FormatError("too many entries for a .tnnmodel", expected=f"at most {MAX_ENTRIES - 1}", found=len(entries))
    if version is not None:
        _check_names(entries)
    if kept.magic is not None:
        writer.uint32(kept.magic)
    writer.uint32(len(entries) | kept.count_bits)
    for entry in entries:
        _write_entry(writer, entry, graph, version, canonical)
    if kept.trailer is not None or constants:
        word, count = kept.trailer or (PROTO_V2, 0)
        writer.uint32(word)
        writer.int32(len(constants) or min(count, 0))
        for name, tensor in constants:
            writer.text(name)
            write_tensor(writer, tensor, version=version, canonical=canonical)
    writer.raw(kept.stray)
    return writer.getvalue()


def _constants(graph: Graph, kept: ModelBytes) -> Iterator[tuple[str, Tensor]]:
    """Constants in the order of the file; new ones behind them in byte order, as the packer sorts them."""
    for name, replaced in kept.constants:
        if replaced is not None:
            yield name, replaced
        elif name in graph.constants:
            yield name, graph.constants[name]
    new = set(graph.constants) - {name for name, _ in kept.constants}
    yield from ((name, graph.constants[name]) for name in sorted(new, key=lambda name: _bytes(name, graph)))


def _bytes(name: str, graph: Graph) -> bytes:
    return name.encode(graph.encoding, "surrogateescape")


def _entries(graph: Graph, kept: ModelBytes) -> Iterator[Entry]:
    """Entries in the order of the file, without those of layers and scales that are gone; new ones behind them."""
    _check_shared(graph)
    present = {id(layer) for layer in graph.layers}
    by_key = {(layer.name, layer.number): layer for layer in reversed(graph.layers)}
    done: set[tuple[str, int] | str] = set()
    for entry in kept.entries:
        header, layer = entry.header, entry.layer
        if entry.orphan is not None:
            yield entry
        elif layer is not None:
            if id(layer) in present:
                header = EntryHeader(layer.name, header.number, header.type)
            current = by_key.get((header.name, layer.number))
            if current is not None and (current.name, current.number) not in done:
                done.add((current.name, current.number))
                yield Entry(header, current)
        elif header.name.removesuffix(SCALE_SUFFIX) in graph.scales:
            done.add(header.name)
            yield entry
    for entry in (*_canonical_entries(graph), *_unmarked_scales(graph)):
        key = entry.header.name if entry.layer is None else (entry.layer.name, entry.layer.number)
        if key not in done:
            done.add(key)
            yield entry


def _check_shared(graph: Graph) -> None:
    """Raises FormatError if layers of one name hold different weights: the file has one entry for all of them."""
    first: dict[tuple[str, int], Layer] = {}
    for layer in graph.layers:
        if not layer.payload:
            continue
        other = first.setdefault((layer.name, layer.number), layer)
        if other is not layer and stored_payload(layer) != stored_payload(other):
            raise FormatError(f"two layers named `{layer.name}` hold different weights", expected="a name for each")


def _check_names(entries: list[Entry]) -> None:
    """Raises FormatError for a layer that TNN would take for the scale of a blob."""
    for entry in entries:
        if entry.layer is not None and SCALE_SUFFIX in entry.header.name:
            raise FormatError(f"a layer with weights must not be named `{entry.header.name}`", found=SCALE_SUFFIX)


def _canonical_entries(graph: Graph) -> Iterator[Entry]:
    """Entries in the packer's order: scales of a marked layer's inputs, its weights, scales of its outputs."""
    scaled: set[str] = set()

    def scales(blobs: tuple[str, ...]) -> Iterator[Entry]:
        for blob in blobs:
            if blob in graph.scales and blob not in scaled:
                scaled.add(blob)
                yield _scale_entry(blob)

    for layer in graph.layers:
        if layer.quantized:
            yield from scales(layer.inputs)
        if layer.payload and (layer.stored or any(True for _ in layer.weights())):
            yield Entry(EntryHeader(layer.name, layer.number, layer.type), layer)
        if layer.quantized:
            yield from scales(layer.outputs)


def _unmarked_scales(graph: Graph) -> Iterator[Entry]:
    """Scales that the packer would drop, since no layer at their blob is marked int8."""
    return (_scale_entry(blob) for blob in graph.scales)


def _scale_entry(blob: str) -> Entry:
    return Entry(EntryHeader(blob + SCALE_SUFFIX, SCALE_NUMBER, SCALE_TYPE))


def _write_entry(writer: ByteWriter, entry: Entry, graph: Graph, version: int | None, canonical: bool) -> None:
    header = entry.header
    writer.int32(header.number)
    if header.type is not None:
        writer.text(header.type)
    writer.text(header.name)
    content = entry.orphan
    if content is None and entry.layer is None:
        content = graph.scales[header.name.removesuffix(SCALE_SUFFIX)]
    if isinstance(content, BlobScale):
        write_blob_scale(writer, content, version=version, canonical=canonical)
    elif entry.layer is not None and content is None:
        payload = canonical_payload(entry.layer) if canonical else stored_payload(entry.layer)
        write_payload(writer, entry.layer.payload, payload, version=version, canonical=canonical)
    elif content is not None:
        fields = declaration(header.type or type_of_number(header.number) or "").payload
        write_payload(writer, fields, content, version=version)
