"""Model files written with nothing but ``struct``, so that reader and writer are judged by something else."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

V1, V2 = 4206624770, 4206624772

PROTO = b"""\
"1 3 1 4206624772 ,"
"x 4 1 1 2 2 0 ,"
" c x y ,"
"y ,"
" 2 ,"
"Convolution conv 1 1 x c 1 1 2 1 1 1 1 0 0 1 -1 1 1 0 ,"
"Mul mul 1 1 c y 1 ,"
"""
"""The worked example of the format: a 1x1 convolution with 2 filters, and a product with a constant per channel."""

PROTO_1 = PROTO.replace(b"4206624772", b"4206624770").replace(b'"x 4 1 1 2 2 0 ,"', b'"x 1 1 2 2 ,"')
"""Its version 1 twin."""

MODEL = bytes.fromhex(
    """
    0400bcfa 02000000
    01000000 0b000000 436f6e766f6c7574696f6e 04000000 636f6e76
    04000000 636f6e76 01000000
    0400bcfa 00000000 08000000 04000000 02000000 01000000 01000000 01000000 0000803f 000000c0
    0400bcfa 00000000 08000000 01000000 02000000 0000003f 0000803e
    2a000000 03000000 4d756c 03000000 6d756c
    0400bcfa 00000000 08000000 04000000 01000000 02000000 01000000 01000000 00002041 0000c842
    """
)

X = np.array([1, 2, 3, 4], np.float32).reshape(1, 1, 2, 2)
Y = np.array([15, 25, 35, 45, -175, -375, -575, -775], np.float32).reshape(1, 2, 2, 2)


def i32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def text(value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return i32(len(data)) + data


def raw(data: np.ndarray | bytes, dtype: int = 0, dims: Sequence[int] | None = None, magic: int = V2) -> bytes:
    """A raw buffer; version 1 if ``magic`` says so, then without dims."""
    content = data if isinstance(data, bytes) else data.tobytes()
    head = u32(magic) + i32(dtype, len(content))
    if not content:
        return head
    return head + (i32(len(dims or ()), *(dims or ())) if magic == V2 else b"") + content


def floats(*values: float, dims: Sequence[int] | None = None, magic: int = V2) -> bytes:
    return raw(np.array(values, "<f4"), 0, dims, magic)


def int8s(*values: int, dims: Sequence[int] | None = None, magic: int = V2) -> bytes:
    return raw(np.array(values, "i1"), 2, dims, magic)


def int32s(*values: int, dims: Sequence[int] | None = None, magic: int = V2) -> bytes:
    return raw(np.array(values, "<i4"), 3, dims, magic)


def entry(number: int, kind: str | None, name: str | bytes, payload: bytes = b"") -> bytes:
    """An entry; without a type string in the old form."""
    return i32(number) + (text(kind) if kind is not None else b"") + text(name) + payload


def model(*entries: bytes, constants: dict[str, bytes] | None = None, magic: int | None = V2) -> bytes:
    """A model file, with a constant trailer if there are constants."""
    head = (u32(magic) if magic is not None else b"") + i32(len(entries))
    tail = b""
    if constants is not None:
        tail = u32(V2) + i32(len(constants)) + b"".join(text(name) + data for name, data in constants.items())
    return head + b"".join(entries) + tail


def model_1(*, magic: int | None = V1, old: bool = False) -> bytes:
    """The worked example with version 1 buffers; ``old``: numbers instead of type strings."""
    conv = text("conv") + i32(1) + floats(1, -2, magic=V1) + floats(0.5, 0.25, magic=V1)
    return model(
        entry(1 if old else 0, None if old else "Convolution", "conv", conv),
        entry(42 if old else 0, None if old else "Mul", "mul", floats(10, 100, magic=V1)),
        magic=magic,
    )


def proto(
    *layers: str,
    inputs: str = "x 4 1 2 2 2 0 ",
    outputs: str = "y ",
    magic: int = V2,
    blobs: str | None = None,
    count: int | None = None,
) -> bytes:
    """A proto in the usual form, one line for each layer."""
    names = sorted({name for line in layers for name in _blobs(line)})
    lines = [
        f"1 {len(names)} 1 {magic} ",
        inputs,
        " " + "".join(f"{name} " for name in names) if blobs is None else blobs,
        outputs,
        f" {len(layers) if count is None else count} ",
        *(f"{line} " for line in layers),
    ]
    return "".join(f'"{line},"\n' for line in lines).encode()


def _blobs(line: str) -> list[str]:
    words = line.split()
    return words[4 : 4 + int(words[2]) + int(words[3])]
