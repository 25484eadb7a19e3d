"""A TNN network as plain data: what the two files say, and nothing about how it runs.

In: what ``formats`` reads or a program builds.  Out: what ``formats`` writes, ``translate`` translates and
``inspect`` shows.  A graph holds declared layers, so this module is above :mod:`tnn_serving.layers`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from tnn_serving.display import collapsed, dims_text, few, lines, page, several, table, tally
from tnn_serving.layers.base import Layer
from tnn_serving.nearest import did_you_mean
from tnn_serving.tensor import PROTO_V2, BlobScale, DataType, Tensor


@dataclass(frozen=True, slots=True)
class Input:
    """A network input: its default dims, and its type (``None`` in version 1, which has none: float)."""

    name: str
    dims: tuple[int, ...]
    dtype: DataType | None = None


@dataclass(slots=True)
class EntryHeader:
    """Header of a model-file entry. ``type`` is ``None`` in the old form, where only the number tells it."""

    name: str
    number: int
    type: str | None


Payload = dict[str, "Tensor | int | str"]
"""The fields of a layer's entry that are there, by their declared names."""


@dataclass(slots=True)
class Entry:
    """One entry of the model file, as it was read.

    Attributes:
        header: how the entry names itself.
        layer: the layer that it filled.
        orphan: its content, where it belongs to no layer: none has its name, or a later entry of that name counts.
    """

    header: EntryHeader
    layer: Layer | None = None
    orphan: Payload | BlobScale | None = None


@dataclass(slots=True)
class LayerText:
    """A piece of the proto behind the header: its bytes, and its layer, unless it is empty (as the last piece is).

    ``line`` is what the writer would have written for the layer when it was read: as long as it would write the same,
    the piece stays as it is.
    """

    piece: bytes
    layer: Layer | None = None
    line: str = ""


@dataclass(slots=True)
class ProtoText:
    """The proto as it was read, so that what has not changed is written back byte for byte.

    ``segments`` are the five header pieces between commas, ``names`` the blobs that the layers had.
    """

    segments: tuple[bytes, ...]
    names: tuple[str, ...]
    layers: tuple[LayerText, ...]


@dataclass(slots=True)
class ModelBytes:
    """Order and oddities of the model file as it was read.

    Attributes:
        magic: version number at its start, if there is one.
        count_bits: upper bits of the entry count, which TNN ignores.
        entries: in file order.
        trailer: word and count before the constants, if they are there.
        constants: names in file order, each with its tensor if a later one of that name counts.
        stray: bytes at the end, which are ignored.
        empty: the file has no bytes at all.
    """

    magic: int | None = PROTO_V2
    count_bits: int = 0
    entries: list[Entry] = field(default_factory=list)
    trailer: tuple[int, int] | None = None
    constants: list[tuple[str, Tensor | None]] = field(default_factory=list)
    stray: bytes = b""
    empty: bool = False


@dataclass(slots=True, repr=False)
class Graph:
    """A network: inputs, outputs, layers in execution order, constants and int8 blob scales.

    Attributes:
        inputs: in file order; TNN itself knows them in byte order of their names.
        outputs: blob names in file order.
        layers: declared layers, or :class:`~tnn_serving.layers.base.Reserved` ones that cannot run.
        constants: named tensors that layers take as inputs.
        scales: of int8 blobs, by blob name.
        blobs: the blob list of the proto, which is ignored; ``None`` means "as the writer would list them".
        version: of the proto, :data:`PROTO_V1` or :data:`PROTO_V2`.
        source: what to call this network in messages.
        encoding: of the names in the files.
    """

    inputs: list[Input]
    outputs: list[str]
    layers: list[Layer]
    constants: dict[str, Tensor] = field(default_factory=dict)
    scales: dict[str, BlobScale] = field(default_factory=dict)
    blobs: list[str] | None = None
    version: int = PROTO_V2
    source: str = "graph"
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    proto_text: ProtoText | None = None
    model_bytes: ModelBytes | None = None

    def __repr__(self) -> str:
        return lines(
            self._title(),
            inputs=few([f"{item.name} {_type(item)} {dims_text(item.dims)}" for item in self.inputs]),
            outputs=few(self.outputs),
            layers=few(tally(layer.type for layer in self.layers)),
        )

    def _repr_html_(self) -> str:
        """Inputs, outputs and layers as tables, for a notebook."""
        ends = [("input", item.name, _type(item), dims_text(item.dims)) for item in self.inputs]
        ends += [("output", name, "", "") for name in self.outputs]
        rows = [
            (index, layer.type, layer.name, ", ".join(layer.inputs), ", ".join(layer.outputs), _stored(layer))
            for index, layer in enumerate(self.layers)
        ]
        layers = table(("", "type", "name", "inputs", "outputs", "weights"), rows)
        kinds = few(tally(layer.type for layer in self.layers))
        return page(self._title(), table(("", "name", "type", "dims"), ends), collapsed(f"layers: {kinds}", layers))

    def _title(self) -> str:
        return f"TNN network {self.source}, {several(len(self.layers), 'layer')}"

    def layer(self, name: str) -> Layer:
        """The layer of that name. Raises KeyError, which says what may be meant."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        hint = did_you_mean(name, (layer.name for layer in self.layers))
        raise KeyError(f"there is no layer `{name}`" + (f": {hint}" if hint else ""))

    def blob_names(self) -> list[str]:
        """Distinct inputs and outputs of all layers in byte order, as TNN's writer lists them."""
        names = {name for layer in self.layers for name in (*layer.inputs, *layer.outputs)}
        return sorted(names, key=lambda name: name.encode(self.encoding, "replace"))

    def consumers(self, blob: str) -> Iterator[Layer]:
        """Layers that read ``blob``, in file order."""
        return (layer for layer in self.layers if blob in layer.inputs)

    @property
    def quantized(self) -> bool:
        """True if a layer is marked int8."""
        return any(layer.quantized for layer in self.layers)

    def fingerprint(self) -> str:
        """SHA-256 over everything that decides what the network computes, as hex."""
        digest = hashlib.sha256(repr([(i.name, i.dims, i.dtype) for i in self.inputs]).encode())
        digest.update(repr(self.outputs).encode())
        for layer in self.layers:
            digest.update(repr((layer.type, layer.name, layer.inputs, layer.outputs, layer.tokens())).encode())
            for _, tensor in layer.weights():
                digest.update(repr((tensor.dtype, tensor.dims)).encode())
                digest.update(tensor.data)
        for name, tensor in sorted(self.constants.items()):
            digest.update(repr((name, tensor.dtype, tensor.dims)).encode())
            digest.update(tensor.data)
        for name, scale in sorted(self.scales.items()):
            digest.update(name.encode() + scale.scales().tobytes() + scale.zero_points().tobytes())
        return digest.hexdigest()


def _type(item: Input) -> str:
    return "float" if item.dtype is None else item.dtype.name.lower()


def _stored(layer: Layer) -> str:
    return ", ".join(f"{spec.name} {dims_text(tensor.dims) or tensor.size}" for spec, tensor in layer.weights())
