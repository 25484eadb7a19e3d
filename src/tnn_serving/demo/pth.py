"""PyTorch state dicts in the legacy format (not a zip archive), read without PyTorch.

The file consists of five pickles (magic number, protocol version, system information, the state dict with references to
storages, the list of storage keys), followed by an int64 element count and the raw elements for each key in that order,
all little-endian. The unpickler accepts tensors, storages and ordered dicts, and calls nothing else.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tnn_serving.errors import FormatError

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001

STORAGE_TYPES: dict[str, np.dtype] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}

OPCODES = frozenset(
    {"PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
    | {"BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"}
    | {"EMPTY_DICT", "SETITEM", "SETITEMS", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"}
    | {"GLOBAL", "REDUCE", "BUILD", "BINPERSID"}
)
"""The opcodes in PyTorch's pickles (protocol 2)."""

MAX_MEMO = 1 << 20
"""Largest memo index: an unpickler allocates memory for all indices up to the largest one."""

UNREADABLE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
    UnicodeError,
    DeprecationWarning,  # where warnings are errors: a backslash in a name
)
"""Exceptions of the unpickler for invalid bytes."""


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype
    elements: int


class _TensorRef(NamedTuple):
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Rebuild(NamedTuple):
    """Stand-in for PyTorch's functions. Immutable, like every object that a pickle can reach: a pickle can set
    attributes."""

    tensor: bool

    def __call__(self, *arguments: Any) -> Any:
        return _TensorRef(*arguments[:4]) if self.tensor else arguments[0]


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(tensor=True),
    ("torch._utils", "_rebuild_parameter"): _Rebuild(tensor=False),
    **{("torch", name): dtype for name, dtype in STORAGE_TYPES.items()},
}
"""All names that a file may refer to."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = ALLOWED.get((module, name))
        if allowed is None:
            raise FormatError(
                "state dict refers to something other than tensors",
                expected=", ".join(f"{m}.{n}" for m, n in ALLOWED),
                found=f"{module}.{name}",
            )
        return allowed

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise FormatError("state dict refers to something other than a storage", found=repr(pid)[:80])
        _, dtype, key, _, count, *_ = pid
        if not isinstance(dtype, np.dtype) or not isinstance(key, str) or not isinstance(count, int) or count < 0:
            raise FormatError("invalid description of a storage", found=repr(pid)[:80])
        return _Storage(key, dtype, count)


def read_state_dict(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of the state dict by name.

    Raises:
        FormatError: another kind of file, content other than tensors, or storages of the wrong size.
    """
    if data[:4] == b"PK\x03\x04":
        raise FormatError("state dict is a zip archive", expected="the legacy format of PyTorch before 1.6")
    file = io.BytesIO(data)
    magic, version, system, state, keys = (_unpickle(file, what) for what in _PARTS)
    if magic != MAGIC_NUMBER or version != PROTOCOL_VERSION:
        raise FormatError("not a PyTorch state dict", expected=f"version {PROTOCOL_VERSION}", found=repr(version)[:40])
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise FormatError("state dict was written on a big-endian machine")
    if not isinstance(state, dict) or not isinstance(keys, list):
        raise FormatError("file contains no state dict", found=type(state).__name__)
    tensors = {name: value for name, value in state.items() if isinstance(value, _TensorRef)}
    if len(tensors) != len(state) or not all(isinstance(name, str) for name in state):
        raise FormatError("state dict contains something other than named tensors")
    known = {ref.storage.key: ref.storage for ref in tensors.values() if isinstance(ref.storage, _Storage)}
    storages = _read_storages(data, file.tell(), keys, known)
    return {name: _view(name, ref, storages) for name, ref in tensors.items()}


_PARTS = ("magic number", "version", "system information", "state dict", "storage keys")


def _unpickle(file: io.BytesIO, what: str) -> Any:
    try:
        start = file.tell()
        for opcode, argument, at in pickletools.genops(file):
            if opcode.name not in OPCODES:
                raise FormatError(f"{what} contains a forbidden opcode", found=f"{opcode.name}, byte {at}")
            if opcode.name.endswith("BINPUT") and isinstance(argument, int) and argument > MAX_MEMO:
                raise FormatError(f"{what} cannot be read", expected=f"at most {MAX_MEMO} objects", found=argument)
        file.seek(start)
        return _Unpickler(file, encoding="utf-8").load()
    except UNREADABLE as error:
        raise FormatError(f"{what} cannot be read", found=f"{type(error).__name__}: {error}") from error


def _read_storages(data: bytes, start: int, keys: Sequence[Any], known: dict[str, _Storage]) -> dict[str, np.ndarray]:
    storages: dict[str, np.ndarray] = {}
    at = start
    for key in keys:
        storage = known.get(key) if isinstance(key, str) else None
        if storage is None:
            raise FormatError("a storage belongs to no tensor", found=repr(key)[:80])
        header = data[at : at + 8]
        count = int.from_bytes(header, "little", signed=True)
        size = storage.elements * storage.dtype.itemsize
        if len(header) < 8 or count != storage.elements or at + 8 + size > len(data):
            raise FormatError(
                f"storage `{key}` does not fit, byte {at}",
                expected=f"{storage.elements} elements of {storage.dtype}",
                found=f"count {count}, {max(len(data) - at - 8, 0)} bytes left",
            )
        storages[key] = np.frombuffer(data, storage.dtype, storage.elements, at + 8)
        at += 8 + size
    return storages


def _view(name: str, ref: _TensorRef, storages: dict[str, np.ndarray]) -> np.ndarray:
    """The tensor as a read-only view of its storage; all of ``ref`` is checked."""
    flat = storages.get(ref.storage.key) if isinstance(ref.storage, _Storage) else None
    if flat is None:
        raise FormatError(f"tensor `{name}` has no storage")
    sizes, steps = _whole_numbers(ref.size), _whole_numbers(ref.stride)
    offset = ref.offset if isinstance(ref.offset, int) and ref.offset >= 0 else flat.size
    last = offset + sum((n - 1) * step for n, step in zip(sizes, steps, strict=False))
    count = math.prod(sizes)
    if len(sizes) != len(steps) or count > flat.size or (count and last >= flat.size):
        raise FormatError(
            f"tensor `{name}` extends beyond its storage",
            expected=f"within {flat.size} elements",
            found=f"{count}, up to {last}",
        )
    if not count:
        return np.empty(sizes, flat.dtype)
    strides = [step * flat.itemsize for step in steps]
    return np.lib.stride_tricks.as_strided(flat[offset:], sizes, strides, writeable=False)


def _whole_numbers(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple) or not all(isinstance(v, int) and v >= 0 for v in value):
        raise FormatError("a size or stride is not a tuple of non-negative integers", found=repr(value)[:80])
    return value
