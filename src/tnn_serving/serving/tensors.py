"""Tensors of requests and responses: Triton's type names and shapes over memory of the server or the engine."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from tnn_serving.config.datatypes import NUMPY_TYPE
from tnn_serving.errors import RequestError


@dataclass(slots=True)
class RequestTensor:
    """An input of a request: Triton's type name, shape, and its bytes in one piece."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: memoryview


@dataclass(slots=True)
class ResponseTensor:
    """An output of a response; ``data`` is C-contiguous and may be the engine's own memory."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: np.ndarray


def array_of(tensor: RequestTensor, datatype: str) -> np.ndarray:
    """The tensor's bytes as an array, in place.

    Args:
        datatype: Triton's name of the type it must have; any but BYTES.

    Raises:
        RequestError: type or byte count do not fit.
    """
    if tensor.datatype != datatype:
        raise RequestError("wrong type", expected=datatype, found=tensor.datatype)
    dtype = NUMPY_TYPE[datatype]
    count = math.prod(tensor.shape)
    if tensor.data.nbytes != count * dtype.itemsize:
        raise RequestError(
            "wrong number of bytes",
            expected=f"{count * dtype.itemsize} for {list(tensor.shape)}",
            found=tensor.data.nbytes,
        )
    return np.frombuffer(tensor.data, dtype).reshape(tensor.shape)


def elements(tensor: RequestTensor) -> Iterator[bytes]:
    """Copies of the elements of a BYTES tensor: each has its length before it, 4 bytes little-endian.

    Raises:
        RequestError: another type, or lengths that do not fit the bytes.
    """
    data, at = tensor.data, 0
    if tensor.datatype != "BYTES":
        raise RequestError("wrong type", expected="BYTES", found=tensor.datatype)
    while at < data.nbytes:
        if data.nbytes - at < 4:
            raise RequestError("BYTES tensor is cut off", found=f"{data.nbytes - at} bytes left")
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if length > data.nbytes - at:
            raise RequestError("BYTES tensor is cut off", expected=f"{length} bytes", found=f"{data.nbytes - at} left")
        yield bytes(data[at : at + length])
        at += length


def cut(tensor: RequestTensor, rows: Sequence[int]) -> list[RequestTensor]:
    """A tensor of gathered requests as those of each, in place. Raises RequestError for a BYTES tensor cut off."""
    if tensor.datatype == "BYTES":
        per_row = math.prod(tensor.shape[1:])
        sizes = [4 + len(element) for element in elements(tensor)]
        ends = [sum(sizes[: per_row * count]) for count in accumulate(rows)]
    else:
        row_bytes = tensor.data.nbytes // max(1, sum(rows))
        ends = [row_bytes * count for count in accumulate(rows)]
    starts = [0, *ends[:-1]]
    return [
        RequestTensor(tensor.name, tensor.datatype, (count, *tensor.shape[1:]), tensor.data[start:end])
        for count, start, end in zip(rows, starts, ends, strict=True)
    ]
