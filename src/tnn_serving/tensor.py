"""TNN's stored tensors: element types, raw buffers, and the scales of int8 blobs.

In: bytes of a model file, or arrays.  Out: arrays in the type they are computed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from tnn_serving.display import dims_text
from tnn_serving.errors import FormatError

PROTO_V1 = 0xFABC0002
PROTO_V2 = 0xFABC0004
"""Version numbers ("magic") of proto files, model files and raw buffers."""

SCALE_SUFFIX = "_scale_data_"
"""The scale of int8 blob ``b`` is stored under the name ``b_scale_data_``."""

DYNAMIC_RANGE_SUFFIX = "_dynamic_range_quant_scale"
"""The scale of an int8 constant ``c`` is the constant ``c_dynamic_range_quant_scale``."""


class DataType(IntEnum):
    """TNN's numbers for element types, as proto and model files have them."""

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
"""How an element of each type is stored in a file; bfp16 is the upper half of a float32."""

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
    """A raw buffer of the model file; ``data`` is a view of the file until it is converted.

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

    def __repr__(self) -> str:
        """The type and the dims, or the number of elements where there are no dims."""
        what = dims_text(self.dims) if self.dims else f"{self.size} values"
        return f"Tensor({self.dtype.name.lower()} {what})"

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
