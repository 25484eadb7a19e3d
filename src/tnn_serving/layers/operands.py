"""Operands and results of a layer: names, shapes and element types of the blobs that it reads and writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from tnn_serving.emit.builder import Value
from tnn_serving.emit.inference import Dims
from tnn_serving.errors import ShapeError, UnsupportedLayer
from tnn_serving.tensor import DYNAMIC_RANGE_SUFFIX

Types = tuple[np.dtype, ...]

FLOAT: Types = (np.dtype(np.float32),)
INT32: Types = (np.dtype(np.int32),)
INT8: Types = (np.dtype(np.int8),)
INTEGERS: Types = (*INT32, np.dtype(np.int64))
NUMBERS: Types = (*FLOAT, *INTEGERS)
ANY: Types = (*FLOAT, *INT32, *INT8, np.dtype(np.int64), np.dtype(np.uint32))
"""The element types of a blob: what a network input, a constant or a layer can have."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One form of a shape: entries at the front, any number of axes if it is ``open``, entries at the back.

    An entry is a size, or ``None`` for any.
    """

    front: tuple[int | None, ...]
    open: bool
    back: tuple[int | None, ...]

    @property
    def least_rank(self) -> int:
        """The smallest number of axes that fits."""
        return len(self.front) + len(self.back)

    def fits(self, dims: Dims) -> bool:
        """Whether these dims have the rank and the sizes; a dim that depends on data fits any size."""
        if len(dims) < self.least_rank or (not self.open and len(dims) > self.least_rank):
            return False
        ends = (*dims[: len(self.front)], *dims[len(dims) - len(self.back) :])
        wanted = (*self.front, *self.back)
        return all(want in (None, have) or have is None for want, have in zip(wanted, ends, strict=True))


ANY_SHAPE = Pattern((), True, ())


@cache
def patterns(shape: str) -> tuple[Pattern, ...]:
    """The forms that a declared shape allows: ``"[N, C, ...]"``, ``"[1, n, A] or [1, n, A, 1]"``, ``"as x"``.

    A number is a size; every other entry is the name of one; ``...`` is any number of axes. A shape "as" another
    operand's is not checked. Raises ValueError for a text of another form.
    """
    return (ANY_SHAPE,) if shape.startswith("as ") else tuple(_pattern(text) for text in shape.split(" or "))


def _pattern(text: str) -> Pattern:
    found = re.fullmatch(r"\[(.*)\]", text)
    if found is None:
        raise ValueError(f"not a shape: {text!r}")
    entries = found[1].split(", ") if found[1] else []
    if entries.count("...") > 1:
        raise ValueError(f"more than one `...`: {text!r}")
    open_ = "..." in entries
    place = entries.index("...") if open_ else len(entries)
    sizes = [int(entry) if entry.isdigit() else None for entry in entries]
    return Pattern(tuple(sizes[:place]), open_, tuple(sizes[place + 1 :]))


@dataclass(frozen=True, slots=True)
class Operand:
    """What is declared of one input or output of a layer.

    Attributes:
        name: as documentation and messages call it.
        shape: see :func:`patterns`.
        types: element types that it may have.
        doc: a phrase with what its shape and types do not show.
        like: the operand whose element type it has.
        optional: it may be left out.
        repeated: any number of these follow, also none; only the last one of a layer.
        ignored: TNN does not read it.
        replaces: parameters that it overrides. They apply where nothing produces a tensor of its name, as in TNN.
    """

    name: str
    shape: str = "[...]"
    types: Types = ANY
    doc: str = ""
    like: str | None = None
    optional: bool = False
    repeated: bool = False
    ignored: bool = False
    replaces: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        patterns(self.shape)

    def check_shape(self, blob: str, dims: Dims) -> None:
        """Raises ShapeError if the dims of an input do not fit."""
        if not any(pattern.fits(dims) for pattern in patterns(self.shape)):
            raise ShapeError(f"{_called(blob, self.name)} has another shape", expected=self.shape, found=list(dims))

    def check_type(self, blob: str, value: Value) -> None:
        """Raises UnsupportedLayer if the element type of an input is not one of :attr:`types`."""
        if value.dtype not in self.types:
            restorable = value.constant and value.dtype == np.int8 and self.types == FLOAT
            raise UnsupportedLayer(
                f"{_called(blob, self.name)} has an unsupported element type",
                expected=types_text(self.types),
                found=value.dtype,
                hint=f"the scale of int8 weights is a constant `{blob}{DYNAMIC_RANGE_SUFFIX}`" if restorable else None,
            )


X = Operand("x")
"""An input of any shape and type."""

LIKE_X = Operand("y", "as x", like="x")
"""An output of the shape and type of ``x``."""


def check_like(blob: str, operand: Operand, value: Value, other: Value) -> None:
    """Raises ShapeError if the element type of an input is not that of the operand that it must be like."""
    if value.dtype != other.dtype:
        raise ShapeError(
            f"{_called(blob, operand.name)} has another element type than `{operand.like}`",
            expected=other.dtype,
            found=value.dtype,
        )


def _called(blob: str, name: str) -> str:
    return f"input `{blob}`" if blob == name else f"input `{blob}` ({name})"


def types_text(types: Types) -> str:
    """Element types as a phrase: "float32, int32 or int8"."""
    names = [dtype.name for dtype in types]
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def count_range(operands: Sequence[Operand], *, open_end: bool) -> tuple[int, int | None]:
    """The least and the largest number of blobs; ``None`` for any number."""
    least = sum(not (operand.optional or operand.repeated) for operand in operands)
    unlimited = open_end or any(operand.repeated for operand in operands)
    return least, None if unlimited else len(operands)
