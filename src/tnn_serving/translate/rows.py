"""The row layout of a value, which says where its batch axis is, and what a rule can ask of an operator's operands.

Every value is considered at several numbers of rows at once: what scales with all of them is the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import onnx_ir as ir

from tnn_serving.emit.inference import Dims

COUNTS = (1, 2, 3)
"""Numbers of rows at which operators are considered."""


class MixedRows(Exception):
    """An operator makes rows depend on each other; the text is the predicate of a sentence about it."""


@dataclass(frozen=True, slots=True)
class BatchAxis:
    """The axis that holds the rows, of size ``before * rows * behind``, in this order.

    A batch on its own axis has 1 before and behind it; [N, T, C] flattened to [N*T, C] has T behind.
    """

    axis: int = 0
    before: int = 1
    behind: int = 1


class Unbatched(Enum):
    """The layout of a value without a batch axis."""

    SAME = "the same, whatever the rows and their number"
    COUNT = "depends on the number of rows, not on what is in them"


RowLayout = BatchAxis | Unbatched


@dataclass(frozen=True, slots=True)
class Tracked:
    """A value at each of :data:`COUNTS`.

    Attributes:
        dtype: element type.
        dims: its dims; ``None`` where not even the rank is known.
        samples: its value, for small ones that follow from shapes and constants.
        layout: where its batch axis is.
    """

    dtype: np.dtype
    dims: tuple[Dims | None, ...]
    samples: tuple[np.ndarray | None, ...]
    layout: RowLayout

    @property
    def rank(self) -> int:
        """Number of dims. Raises MixedRows if it is not known."""
        ranks = {None if dims is None else len(dims) for dims in self.dims}
        rank = ranks.pop()
        if ranks or rank is None:
            raise MixedRows("takes a value whose rank is not known")
        return rank

    def axis(self, axis: int) -> int:
        """An axis counted from the front."""
        return axis % self.rank if self.rank else 0

    def size(self, axis: int) -> int | None:
        """The size of an axis if it is known and the same for any number of rows."""
        sizes = {None if dims is None else dims[axis] for dims in self.dims}
        return sizes.pop() if len(sizes) == 1 else None

    def whole_dims(self) -> list[tuple[int, ...]]:
        """All dims at each count. Raises MixedRows if one is not known."""
        whole = []
        for dims in self.dims:
            sizes = tuple(size for size in dims or (None,) if size is not None)
            if dims is None or len(sizes) != len(dims):
                raise MixedRows("takes or gives a value whose size depends on data")
            whole.append(sizes)
        return whole


@dataclass(frozen=True, slots=True)
class Call:
    """One operator with its operands, and its outputs as far as inference knows them."""

    node: ir.Node
    opset: int
    inputs: tuple[Tracked | None, ...]
    outputs: tuple[Tracked, ...]

    def given(self, index: int) -> Tracked | None:
        """An operand, ``None`` if it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def need(self, index: int) -> Tracked:
        """An operand that must be there."""
        found = self.given(index)
        if found is None:
            raise MixedRows(f"lacks operand {index}")
        return found

    def rows(self, index: int) -> BatchAxis | None:
        """The batch axis of an operand; ``None`` for one without. Raises MixedRows if it depends on their number."""
        operand = self.given(index)
        if operand is None or operand.layout is Unbatched.SAME:
            return None
        if isinstance(operand.layout, BatchAxis):
            return operand.layout
        raise MixedRows("computes with the number of rows")

    def only(self, *allowed: int) -> None:
        """Raises MixedRows if another operand than the allowed ones has rows or depends on their number."""
        for index in range(len(self.inputs)):
            if index not in allowed and self.rows(index) is not None:
                raise MixedRows(f"takes operand {index} from the rows")

    def known(self, index: int) -> list[np.ndarray] | None:
        """The value of a shape operand at each count; ``None`` if it is left out. Raises MixedRows if it is unknown."""
        operand = self.given(index)
        if operand is None:
            return None
        samples = [sample for sample in operand.samples if sample is not None]
        if len(samples) != len(COUNTS):
            raise MixedRows("takes sizes or places that depend on data")
        return samples

    def fixed(self, index: int) -> list[int] | None:
        """Like :meth:`known`, for one that is the same at any number of rows."""
        samples = self.known(index)
        if samples is None:
            return None
        if any(not np.array_equal(sample, samples[0]) for sample in samples):
            raise MixedRows("takes axes or places that depend on the number of rows")
        return [int(number) for number in samples[0].reshape(-1)]

    def number(self, name: str, default: int) -> int:
        """An attribute."""
        return int(self.node.attributes.get_int(name, default))

    def numbers(self, name: str) -> list[int] | None:
        """An attribute; ``None`` if it is left out."""
        found = self.node.attributes.get_ints(name, None)
        return None if found is None else [int(number) for number in found]

    def steady(self, index: int, place: int | None) -> None:
        """Raises MixedRows if entries of a shape operand, but the one at ``place``, depend on the number of rows."""
        for sample in self.known(index) or []:
            first = (self.known(index) or [])[0]
            if any(k != place and number != first[k] for k, number in enumerate(sample)):
                raise MixedRows("takes sizes or places from the number of rows")

    def text(self, name: str, default: str) -> str:
        """An attribute."""
        return str(self.node.attributes.get_string(name, default))


def apart(rows: BatchAxis | None, axes: Sequence[int]) -> None:
    """Raises MixedRows if one of the axes that an operator works along holds the rows."""
    if rows is not None and rows.axis in axes:
        raise MixedRows(f"works along axis {rows.axis}, which holds the rows")


def scaled_axes(dims: Sequence[tuple[int, ...]]) -> list[int] | None:
    """Axes whose size is proportional to the number of rows; ``None`` if another one depends on it otherwise."""
    first = dims[0]
    if any(len(sizes) != len(first) for sizes in dims):
        return None
    scaled = []
    for axis, size in enumerate(first):
        sizes = [at[axis] for at in dims]
        if sizes == [size * count for count in COUNTS] and size:
            scaled.append(axis)
        elif sizes != [size] * len(COUNTS):
            return None
    return scaled


def dims_by_rows(dims: Sequence[tuple[int, ...]]) -> str:
    """Dims per number of rows, for a message."""
    return ", ".join(f"{list(at)} for {count}" for at, count in zip(dims, COUNTS, strict=True))
