"""A TNN network as plain data: what the two files say, and nothing about how it runs.

In: what ``formats`` reads or a program builds.  Out: what ``formats`` writes, ``translate`` translates and
``inspect`` shows.  Imports nothing of the package but :mod:`tnn_serving.errors`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Literal

import numpy as np

from tnn_serving.errors import FormatError

if TYPE_CHECKING:
    from tnn_serving.layers.base import Layer

PROTO_V1 = 0xFABC0002
PROTO_V2 = 0xFABC0004
"""Version numbers ("magic") of proto files, model files and raw buffers."""

MAX_RANK = 16
"""More dims than any TNN tensor has: a longer list is garbage."""

SCALE_SUFFIX = "_scale_data_"
"""The scale of int8 blob ``b`` is stored under the name ``b_scale_data_``."""

DYNAMIC_RANGE_SUFFIX = "_dynamic_range_quant_scale"
"""The scale of an int8 constant ``c`` is the constant ``c_dynamic_range_quant_scale``."""


class DataType(IntEnum):
    """TNN's numbers for element types, as they stand in proto and model files."""

    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BFP16 = 4
    INT64 = 5
    UINT32 = 6


STORAGE: dict[DataType, np.dtype] = {
    DataType.FLOAT: np.dtype("<f4"),
    DataType.HALF: np.dtype("<f2"),
    DataType.INT8: np.dtype("i1"),
    DataType.INT32: np.dtype("<i4"),
    DataType.BFP16: np.dtype("<u2"),
    DataType.INT64: np.dtype("<i8"),
    DataType.UINT32: np.dtype("<u4"),
}
"""How an element of each type lies in a file; bfp16 is the upper half of a float32."""

COMPUTED: dict[DataType, np.dtype] = {
    kind: np.dtype(np.float32) if kind in (DataType.HALF, DataType.BFP16) else stored.newbyteorder("=")
    for kind, stored in STORAGE.items()
}
"""The type each one is computed in: half and bfp16 are storage only and become float32."""

TNN_TYPE: dict[np.dtype, DataType] = {
    np.dtype(np.float32): DataType.FLOAT,
    np.dtype(np.float16): DataType.HALF,
    np.dtype(np.int8): DataType.INT8,
    np.dtype(np.int32): DataType.INT32,
    np.dtype(np.int64): DataType.INT64,
    np.dtype(np.uint32): DataType.UINT32,
}
"""The inverse for arrays that a program brings."""


@dataclass(slots=True, eq=False)
class Tensor:
    """A raw buffer of the model file; ``data`` is a view of the file until somebody converts it.

    Attributes:
        dtype: element type as stored.
        dims: stored dims; ``None`` if the buffer has no dims list (version 1, or an empty buffer). An empty
            tuple means "flat or scalar": TNN's quantiser writes its buffers so.
        data: the elements, little-endian, C order.
        version: magic number of the buffer, :data:`PROTO_V1` or :data:`PROTO_V2`.
    """

    dtype: DataType
    dims: tuple[int, ...] | None
    data: memoryview
    version: int = PROTO_V2

    @classmethod
    def of(cls, array: np.ndarray, *, dims: tuple[int, ...] | None = None, version: int = PROTO_V2) -> Tensor:
        """A tensor holding ``array`` (float32, float16, int8, int32, int64 or uint32) with its shape."""
        kind = TNN_TYPE.get(array.dtype)
        if kind is None:
            known = ", ".join(str(t) for t in TNN_TYPE)
            raise FormatError("no TNN type for an array", expected=known, found=array.dtype)
        packed = np.asarray(array, order="C")
        shape = dims if dims is not None else packed.shape
        return cls(kind, None if version == PROTO_V1 else shape, packed.reshape(-1).view(np.uint8).data, version)

    @property
    def size(self) -> int:
        """Number of elements."""
        return len(self.data) // STORAGE[self.dtype].itemsize

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The dims if they describe the data, ``None`` where the user of the buffer must derive them."""
        return self.dims if self.dims else None

    def array(self) -> np.ndarray:
        """The flat elements in the type they are computed in: a read-only view, a copy for half and bfp16."""
        flat = np.frombuffer(self.data, STORAGE[self.dtype])
        if self.dtype is DataType.BFP16:
            return (flat.astype(np.uint32) << 16).view(np.float32)
        return flat.astype(np.float32) if self.dtype is DataType.HALF else flat

    def shaped(self) -> np.ndarray:
        """Like :meth:`array`, in the stored dims (flat where there are none; rank 0 for one element of none)."""
        flat = self.array()
        if self.dims:
            return flat.reshape(self.dims)
        return flat.reshape(()) if self.dims == () and flat.size == 1 else flat

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tensor):
            return NotImplemented
        mine, theirs = (self.dtype, self.dims, self.version), (other.dtype, other.dims, other.version)
        return mine == theirs and self.data == other.data

    def __deepcopy__(self, memo: dict[int, object]) -> Tensor:
        """Itself: nothing writes into a tensor, and its data may be a mapped file."""
        return self


@dataclass(slots=True)
class BlobScale:
    """How an int8 blob maps to real values: ``real = scale * (code - zero_point)``, per tensor or per channel.

    ``zero_point`` is ``None`` in the old form, which has none; ``bias`` is stored and never used.
    """

    scale: Tensor
    zero_point: Tensor | None = None
    bias: Tensor | None = None

    def scales(self) -> np.ndarray:
        """float32 [n], n = 1 or the channels at calibration."""
        return self.scale.array()

    def zero_points(self) -> np.ndarray:
        """int8 [n], zeros in the old form."""
        count = self.scale.size
        return np.zeros(count, np.int8) if self.zero_point is None else self.zero_point.array()


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
        orphan: what it holds, where that is nobody's: no layer has its name, or a later entry of that name counts.
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
    """The proto as it was read, so that what nobody changed is written back byte for byte.

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
        stray: bytes at the end that nobody reads.
        empty: the file has no bytes at all.
    """

    magic: int | None = PROTO_V2
    count_bits: int = 0
    entries: list[Entry] = field(default_factory=list)
    trailer: tuple[int, int] | None = None
    constants: list[tuple[str, Tensor | None]] = field(default_factory=list)
    stray: bytes = b""
    empty: bool = False


@dataclass(slots=True)
class Graph:
    """A network: inputs, outputs, layers in execution order, constants and int8 blob scales.

    Attributes:
        inputs: in file order; TNN itself knows them in byte order of their names.
        outputs: blob names in file order.
        layers: declared layers, or :class:`~tnn_serving.layers.base.Reserved` ones that cannot run.
        constants: named tensors that layers take as inputs.
        scales: of int8 blobs, by blob name.
        blobs: the blob list of the proto, which nobody reads; ``None`` means "as the writer would list them".
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

    def layer(self, name: str) -> Layer:
        """The layer of that name. Raises KeyError."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)

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
