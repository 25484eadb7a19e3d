"""Bytes of the .tnnmodel: bounded reading of numbers, strings and raw buffers, and their writing."""

from __future__ import annotations

import math
import struct

from tnn_serving.emit.limits import MAX_RANK
from tnn_serving.errors import FormatError, WeightsError
from tnn_serving.tensor import PROTO_V1, PROTO_V2, STORAGE, DataType, Tensor

TENSOR_MAX_BYTES = 2**31 - 1
"""Lengths are signed 32-bit numbers."""

EMPTY = Tensor(DataType.FLOAT, None, memoryview(b""))
"""A buffer without data: it has no dims, and whatever its type number says, it counts as float."""


class ByteReader:
    """Reads a model file front to back; nothing is copied and no size is believed before it is checked."""

    def __init__(self, data: memoryview, encoding: str = "utf-8") -> None:
        self.data = data
        self.encoding = encoding
        self.at = 0

    @property
    def left(self) -> int:
        """Bytes that have not been read."""
        return len(self.data) - self.at

    def take(self, count: int, what: str) -> memoryview:
        """The next ``count`` bytes as a view. Raises WeightsError at the end of the file."""
        if count > self.left:
            raise WeightsError(
                f"model is truncated at byte {self.at}, in {what}", expected=f"{count} bytes", found=f"{self.left} left"
            )
        start = self.at
        self.at += count
        return self.data[start : self.at]

    def int32(self, what: str) -> int:
        """A little-endian signed 32-bit integer."""
        return int(struct.unpack("<i", self.take(4, what))[0])

    def uint32(self, what: str) -> int:
        """A little-endian unsigned 32-bit integer."""
        return int(struct.unpack("<I", self.take(4, what))[0])

    def byte(self, what: str) -> int:
        """One byte."""
        return self.take(1, what)[0]

    def text(self, what: str) -> str:
        """A string: its length as int32, then the bytes. Raises WeightsError for a length that cannot be.

        Bytes that the encoding does not have become lone surrogates, which :class:`ByteWriter` turns back.
        """
        start = self.at
        length = self.int32(what)
        if length < 0 or length > self.left:
            raise WeightsError(
                f"corrupt string length at byte {start}, in {what}", expected=f"0 to {self.left}", found=length
            )
        return bytes(self.take(length, what)).decode(self.encoding, "surrogateescape")

    def tensor(self, what: str) -> Tensor:
        """A raw buffer. Raises WeightsError unless magic, type, length and dims agree with each other."""
        start = self.at
        version = self.uint32(what)
        if version not in (PROTO_V1, PROTO_V2):
            raise WeightsError(
                f"corrupt buffer at byte {start}, in {what}",
                expected=f"{PROTO_V1:#x} or {PROTO_V2:#x}",
                found=f"{version:#x}",
            )
        number, length = self.int32(what), self.int32(what)
        try:
            dtype = DataType(number)
        except ValueError:
            raise WeightsError(
                f"unknown data type at byte {start}, in {what}", expected="0 to 6", found=number
            ) from None
        if length < 0:
            raise WeightsError(f"negative buffer length at byte {start}, in {what}", found=length)
        if length == 0:
            return Tensor(dtype, None, EMPTY.data, version)
        dims = self._dims(what) if version == PROTO_V2 else None
        item = STORAGE[dtype].itemsize
        if length % item or (dims and math.prod(dims) * item != length):
            shape = f"dims {list(dims)}" if dims else "whole elements"
            raise WeightsError(
                f"buffer length at byte {start} does not fit, in {what}",
                expected=f"{shape} of {dtype.name.lower()}",
                found=f"{length} bytes",
            )
        return Tensor(dtype, dims, self.take(length, what), version)

    def _dims(self, what: str) -> tuple[int, ...]:
        start = self.at
        rank = self.int32(what)
        if not 0 <= rank <= MAX_RANK:
            raise WeightsError(f"corrupt rank at byte {start}, in {what}", expected=f"0 to {MAX_RANK}", found=rank)
        dims = struct.unpack(f"<{rank}i", self.take(4 * rank, what))
        if any(dim < 0 for dim in dims):
            raise WeightsError(f"negative dim at byte {start}, in {what}", found=list(dims))
        return tuple(dims)


def shown(name: str) -> str:
    """A name from a model file as a message may carry it: printable, and not too long."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name[:80])


class ByteWriter:
    """Collects the bytes of a model file."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self.encoding = encoding
        self._parts: list[bytes | memoryview] = []

    def int32(self, value: int) -> None:
        """A little-endian signed 32-bit integer."""
        self._parts.append(struct.pack("<i", value))

    def uint32(self, value: int) -> None:
        """A little-endian unsigned 32-bit integer."""
        self._parts.append(struct.pack("<I", value))

    def byte(self, value: int) -> None:
        """One byte."""
        self._parts.append(bytes((value,)))

    def text(self, value: str) -> None:
        """A string with its length before it. Raises FormatError for what the encoding does not have."""
        try:
            data = value.encode(self.encoding, "surrogateescape")
        except UnicodeEncodeError:
            raise FormatError(f"name `{shown(value)}` cannot be written", expected=f"text in {self.encoding}") from None
        self.int32(len(data))
        self._parts.append(data)

    def tensor(self, tensor: Tensor, *, version: int | None = None) -> None:
        """A raw buffer, in its own version or in another. Raises FormatError for more than 2 GiB."""
        if len(tensor.data) > TENSOR_MAX_BYTES:
            raise FormatError(
                "a buffer is too large", expected=f"at most {TENSOR_MAX_BYTES} bytes", found=len(tensor.data)
            )
        magic = tensor.version if version is None else version
        self.uint32(magic)
        self.int32(tensor.dtype)
        self.int32(len(tensor.data))
        if not len(tensor.data):
            return
        if magic == PROTO_V2:
            dims = tensor.dims or ()
            self._parts.append(struct.pack(f"<i{len(dims)}i", len(dims), *dims))
        self._parts.append(tensor.data)

    def raw(self, data: bytes) -> None:
        """Bytes as they stand."""
        self._parts.append(data)

    def getvalue(self) -> bytes:
        """All of it."""
        return b"".join(self._parts)
