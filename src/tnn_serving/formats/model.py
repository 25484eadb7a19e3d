"""The .tnnmodel binary: an entry for each layer with weights, int8 blob scales, and the constant map.

Entries have no length, so each is read by the declaration of its type: the fields of the layer class in order.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np

from tnn_serving.errors import WeightsError, located
from tnn_serving.formats.tensor import ByteReader, ByteWriter
from tnn_serving.graph import (
    PROTO_V1,
    PROTO_V2,
    SCALE_SUFFIX,
    BlobScale,
    DataType,
    Entry,
    EntryHeader,
    Graph,
    ModelBytes,
    Tensor,
)
from tnn_serving.layers.base import Layer, Reserved, Stored, declaration, is_known, type_number, type_of_number

log = logging.getLogger(__name__)

SCALE_TYPE = "BlobScale"
SCALE_NUMBER = 600
MAX_ENTRIES = 10_000
MAX_NUMBER = 10_000
COUNT_MASK = 0x1FFFFFFF
LEAST_CONSTANT = 16
"""Bytes of the smallest constant: an empty name and an empty buffer."""


def read_weights(graph: Graph, data: memoryview) -> None:
    """Fills the layers, scales and constants of ``graph`` from the bytes of a model file, as views of ``data``.

    Raises:
        WeightsError: the bytes are no model file, are cut off, or do not belong to this proto.
    """
    if not len(data) and not any(layer.payload for layer in graph.layers):
        graph.model_bytes = ModelBytes(None, [], None, (), empty=True)
        return
    if len(data) < 4:
        raise WeightsError("model file is truncated" if len(data) else "model file is empty")
    reader = ByteReader(data)
    magic: int | None = reader.uint32("the version")
    if magic not in (PROTO_V1, PROTO_V2):
        magic, reader.at = None, 0
    if reader.left < 4:
        raise WeightsError("model file is truncated", expected="an entry count after the version")
    raw = reader.uint32("the entry count")
    count = raw & COUNT_MASK
    if raw & 0x80000000 and count or count >= MAX_ENTRIES or (raw ^ count) & ~0xE0000000:
        raise WeightsError("not a .tnnmodel", expected=f"fewer than {MAX_ENTRIES} entries", found=raw)
    loader = _Loader(graph, reader)
    entries = [loader.entry(index) for index in range(count)]
    trailer, constants = _read_constants(graph, reader)
    graph.model_bytes = ModelBytes(
        magic, entries, trailer, constants, raw & ~COUNT_MASK & 0xFFFFFFFF, bytes(reader.data[reader.at :])
    )
    weighted = [entry for entry in entries if not isinstance(entry.content, BlobScale)]
    if weighted and not any(layer.stored for layer in graph.layers):
        log.warning("no entry of the model file belongs to a layer of the proto: they may be of different networks")


def _decoded(raw: bytes, graph: Graph) -> str:
    """A name in the encoding of the proto; one that does not decode belongs to no layer of it anyway."""
    try:
        return raw.decode(graph.encoding)
    except UnicodeDecodeError:
        return raw.decode("latin-1")


class _Loader:
    def __init__(self, graph: Graph, reader: ByteReader) -> None:
        self.graph = graph
        self.reader = reader
        self.layers = {layer.name: layer for layer in graph.layers}
        self.seen: set[str] = set()

    def entry(self, index: int) -> Entry:
        with located(f"byte {self.reader.at}", f"entry {index}"):
            header = self._header()
        with located(f"entry {index} `{header.name}` ({header.type or header.number})"):
            if header.name in self.seen:
                log.warning("entry `%s` stands twice in the model file; the last one counts", header.name)
            self.seen.add(header.name)
            kind = header.type or type_of_number(header.number) or ""
            if kind == SCALE_TYPE or (header.type is None and header.number == SCALE_NUMBER):
                return Entry(header, self._scale(header.name))
            return Entry(header, self._layer(header.name, kind))

    def _header(self) -> EntryHeader:
        start = self.reader.at
        number = self.reader.int32("the type number")
        if not 0 <= number <= MAX_NUMBER:
            raise WeightsError("type number is out of range", expected=f"0 to {MAX_NUMBER}", found=number)
        first = self._text("the type")
        if is_known(first) or first == SCALE_TYPE:
            return EntryHeader(self._text("the name"), number, first)
        if number == SCALE_NUMBER or (number and type_of_number(number)):
            return EntryHeader(first, number, None)
        raise WeightsError(
            f"unknown entry type at byte {start}", found=f"number {number}, {first[:40]!r}", hint="is this a .tnnmodel?"
        )

    def _text(self, what: str) -> str:
        return _decoded(self.reader.text(what), self.graph)

    def _scale(self, name: str) -> BlobScale:
        first = self.reader.tensor("the scale")
        if first.dtype is DataType.INT8:
            scale, zero_point = self.reader.tensor("the scale"), first
        else:
            scale, zero_point = first, None
        if scale.dtype is not DataType.FLOAT:
            raise WeightsError("bad quantisation block", expected="float scales", found=scale.dtype.name.lower())
        if zero_point is not None and zero_point.size != scale.size:
            raise WeightsError("bad quantisation block", expected=f"{scale.size} zero points", found=zero_point.size)
        made = BlobScale(scale, zero_point, self.reader.tensor("the bias"))
        self.graph.scales[name.removesuffix(SCALE_SUFFIX)] = made
        return made

    def _layer(self, name: str, kind: str) -> Layer:
        layer = self.layers.get(name)
        number = type_number(kind)
        if layer is None or layer.stored or isinstance(layer, Reserved):
            layer = _holder(kind, name)
        elif layer.number != number:
            raise WeightsError(
                "entry is of another type than the layer", expected=f"{layer.type} ({layer.number})", found=f"{kind} ({number})"
            )
        if isinstance(layer, Reserved) or not layer.entry_allowed:
            raise WeightsError(f"type `{kind}` has no weights", expected="an entry of a type that has")
        duplicate = self.layers.get(name)
        _read_payload(self.reader, layer)
        if duplicate is not None and duplicate is not layer and duplicate.stored:
            for spec in layer.payload:
                setattr(duplicate, spec.name, getattr(layer, spec.name))
        return layer


def _holder(kind: str, name: str) -> Layer:
    """Keeps the payload of an entry without a layer; its parameters are made up and never used."""
    cls = declaration(kind)
    if cls is Reserved:
        return Reserved(name=name, type=kind)
    holder = cls.__new__(cls)
    holder.name, holder.type, holder.inputs, holder.outputs, holder.surplus = name, kind, (), (), ()
    holder.stored = False
    for spec in cls.payload:
        setattr(holder, spec.name, None)
    return holder


def _read_payload(reader: ByteReader, layer: Layer) -> None:
    for spec in layer.payload:
        what = f"field `{spec.name}`"
        if not _follows(layer, spec):
            continue
        if spec.form == "text":
            setattr(layer, spec.name, reader.text(what).decode("utf-8", "surrogateescape"))
        elif spec.form == "flag":
            setattr(layer, spec.name, reader.int32(what))
        elif spec.form == "byte":
            setattr(layer, spec.name, reader.byte(what))
        elif spec.form == "tensor":
            setattr(layer, spec.name, _read_tensor(reader, layer, spec, what))
    layer.stored = True


def _read_tensor(reader: ByteReader, layer: Layer, spec: Stored, what: str) -> Tensor:
    tensor = reader.tensor(what)
    if spec.zero_points and tensor.dtype is DataType.INT8 and tensor.size:
        setattr(layer, spec.zero_points, tensor)
        tensor = reader.tensor(what)
    if spec.when_int8 and (tensor.dtype is not DataType.FLOAT or not tensor.size):
        raise WeightsError(
            "bad quantisation block", expected="float scales", found=f"{tensor.size} values of {tensor.dtype.name.lower()}"
        )
    return tensor


def _follows(layer: Layer, spec: Stored) -> bool:
    if spec.form == "beside":
        return False
    if spec.when is not None:
        return bool(getattr(layer, spec.when))
    if spec.when_int8 is not None:
        of = getattr(layer, spec.when_int8)
        return of is not None and of.dtype is DataType.INT8 and of.size > 0
    return True


def _read_constants(graph: Graph, reader: ByteReader) -> tuple[int | None, tuple[str, ...]]:
    if reader.left < 4:
        return None, ()
    trailer = reader.uint32("the constants")
    if reader.left < 4:
        raise WeightsError("trailing data", expected="a number of constants", found=f"{reader.left} bytes")
    count = reader.int32("the number of constants")
    if count > 0 and count * LEAST_CONSTANT > reader.left:
        raise WeightsError(
            "trailing data is no constant map", expected=f"at most {reader.left // LEAST_CONSTANT} constants", found=count
        )
    order = []
    for index in range(max(count, 0)):
        with located(f"constant {index}"):
            name = _decoded(reader.text("the name"), graph)
            with located(f"`{name}`"):
                graph.constants[name] = reader.tensor("the data")
        order.append(name)
    return trailer, tuple(order)


def write_weights(graph: Graph, *, canonical: bool = False) -> bytes:
    """The model file of a graph, in the order and form it was read in, or as TNN's packer writes it.

    Args:
        canonical: write version 2 throughout, and keep nothing of the file that was read.
    """
    writer = ByteWriter()
    kept = None if canonical else graph.model_bytes
    if kept is not None and kept.empty:
        return b""
    entries = list(_kept_entries(graph, kept) if kept else _canonical_entries(graph))
    if kept is None:
        writer.uint32(PROTO_V2)
        writer.uint32(len(entries))
    else:
        if kept.magic is not None:
            writer.uint32(kept.magic)
        writer.uint32(len(entries) | kept.count_bits)
    version = PROTO_V2 if kept is None else None
    for entry in entries:
        _write_entry(writer, entry, graph, version)
    if kept is not None:
        known = set(kept.constants)
        order = [name for name in kept.constants if name in graph.constants]
        order += sorted(set(graph.constants) - known, key=lambda name: name.encode(graph.encoding))
        if kept.trailer is not None or order:
            _write_constants(writer, graph, kept.trailer or PROTO_V2, order, version)
        writer.raw(kept.stray)
    elif graph.constants:
        order = sorted(graph.constants, key=lambda name: name.encode(graph.encoding))
        _write_constants(writer, graph, PROTO_V2, order, version)
    return writer.getvalue()


def _write_constants(writer: ByteWriter, graph: Graph, word: int, order: list[str], version: int | None) -> None:
    writer.uint32(word)
    writer.int32(len(order))
    for name in order:
        writer.text(name.encode(graph.encoding))
        writer.tensor(graph.constants[name], version=version)


def _kept_entries(graph: Graph, kept: ModelBytes) -> Iterator[Entry]:
    layers = {id(layer) for layer in graph.layers}
    names = {layer.name for layer in graph.layers}
    written: set[int] = set()
    for entry in kept.entries:
        content = entry.content
        if isinstance(content, BlobScale):
            blob = entry.header.name.removesuffix(SCALE_SUFFIX)
            if blob not in graph.scales:
                continue
        elif content.inputs and id(content) not in layers and content.name not in names:
            continue
        written.add(id(content))
        yield entry
    for entry in _canonical_entries(graph):
        if id(entry.content) not in written:
            yield entry


def _canonical_entries(graph: Graph) -> Iterator[Entry]:
    """Entries in the packer's order: scales of a marked layer's inputs, its weights, scales of its outputs."""
    scaled: set[str] = set()

    def scales(blobs: tuple[str, ...]) -> Iterator[Entry]:
        for blob in blobs:
            if blob in graph.scales and blob not in scaled:
                scaled.add(blob)
                yield Entry(EntryHeader(blob + SCALE_SUFFIX, SCALE_NUMBER, SCALE_TYPE), graph.scales[blob])

    for layer in graph.layers:
        if layer.quantized:
            yield from scales(layer.inputs)
        if any(True for _ in layer.weights()):
            yield Entry(EntryHeader(layer.name, layer.number, layer.type), layer)
        if layer.quantized:
            yield from scales(layer.outputs)


def _write_entry(writer: ByteWriter, entry: Entry, graph: Graph, version: int | None) -> None:
    header = entry.header
    writer.int32(header.number)
    if header.type is not None:
        writer.text(header.type.encode(graph.encoding))
    writer.text(header.name.encode(graph.encoding))
    content = entry.content
    if isinstance(content, BlobScale):
        _write_scale(writer, content, version)
        return
    for spec in content.payload:
        value = getattr(content, spec.name)
        if spec.form == "text":
            text = content.name if value is None or version is not None else value
            writer.text(text.encode("utf-8", "surrogateescape"))
        elif spec.form in ("flag", "byte"):
            follows = any(s.when == spec.name and isinstance(getattr(content, s.name), Tensor) for s in content.payload)
            number = int(follows) if value is None else value
            writer.int32(number) if spec.form == "flag" else writer.byte(number)
        elif spec.form == "tensor":
            _write_tensor(writer, content, spec, value, version)


def _write_tensor(writer: ByteWriter, layer: Layer, spec: Stored, value: Tensor | None, version: int | None) -> None:
    if spec.when is not None and not isinstance(value, Tensor):
        return
    if spec.when_int8 is not None:
        if not _follows(layer, spec):
            return
        points = getattr(layer, spec.zero_points) if spec.zero_points else None
        if points is None and version is not None and layer.quantized and value is not None:
            points = Tensor(DataType.INT8, (), memoryview(bytes(value.size)))
        if points is not None:
            writer.tensor(points, version=version)
    if value is None:
        value = Tensor(DataType.FLOAT, None, memoryview(b""), PROTO_V2)
    writer.tensor(value, version=version)


def _write_scale(writer: ByteWriter, scale: BlobScale, version: int | None) -> None:
    points = scale.zero_point
    if points is None and version is not None:
        points = Tensor(DataType.INT8, (), memoryview(bytes(scale.scale.size)))
    if points is not None:
        writer.tensor(points, version=version)
    writer.tensor(scale.scale, version=version)
    bias = scale.bias
    if bias is None:
        bias = Tensor.of(np.zeros(scale.scale.size, np.int32), dims=())
    writer.tensor(bias, version=version)
