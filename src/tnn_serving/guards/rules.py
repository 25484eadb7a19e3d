"""Operands of ONNX's operators that must be in a range, and those that decide how large an output is.

Source: the operators' definitions in ONNX. Where they leave a value open, it is refused if engines disagree about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

MOST_TRIPS = 1 << 24
"""Iterations that a request may ask of one loop."""

ANY_LOW = -(1 << 31)
"""A lower limit for what may be as small as it likes."""


@dataclass(frozen=True, slots=True)
class Extent:
    """A number that limits follow from.

    Attributes:
        operand: whose dims it is taken from.
        axis: which of them; ``None`` for how many there are.
    """

    operand: int
    axis: int | None


Line = tuple[int, int]
"""A limit in terms of an extent: factor and offset."""


@dataclass(frozen=True, slots=True)
class Range:
    """Values that an operand may have.

    Attributes:
        operand: its number.
        extent: what the limits follow from; ``None`` where they are numbers.
        low, high: the limits, both allowed.
        column: index along the last axis of the operand, for tuples of indices; ``None`` for all of it.
        judged: an engine refuses stored values out of range when it compiles.
    """

    operand: int
    extent: Extent | None
    low: Line
    high: Line
    column: int | None = None
    judged: bool = False


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), default)


def _index(operand: int, extent: Extent, column: int | None = None) -> Range:
    """An index that counts from the end where it is negative."""
    return Range(operand, extent, (-1, 0), (1, -1), column)


def _along_axis(node: onnx.NodeProto, depth: int | None) -> Iterable[Range]:
    return [_index(1, Extent(0, _attribute(node, "axis", 0)))]


def _tuples(node: onnx.NodeProto, depth: int | None) -> Iterable[Range] | None:
    if depth is None:
        return None
    first = _attribute(node, "batch_dims", 0)
    return [_index(1, Extent(0, first + k), k) for k in range(depth)]


def _axes(operand: int) -> RangesOf:
    return lambda node, depth: [Range(operand, Extent(0, None), (-1, 0), (1, -1), judged=True)]


def _lengths(operand: int, axis: int, attribute: str | None = None) -> RangesOf:
    def ranges(node: onnx.NodeProto, depth: int | None) -> Iterable[Range]:
        place = axis if attribute is None else _attribute(node, attribute, axis)
        return [Range(operand, Extent(0, place), (0, 0), (1, 0))]

    return ranges


def _unsqueezed(node: onnx.NodeProto, depth: int | None) -> Iterable[Range] | None:
    """Axes of the result, which has as many more."""
    if depth is None:
        return None
    return [Range(1, Extent(0, None), (-1, -depth), (1, depth - 1), judged=True)]


def _recurrent(node: onnx.NodeProto, depth: int | None) -> Iterable[Range]:
    return [Range(4, Extent(0, 1 if _attribute(node, "layout", 0) else 0), (0, 0), (1, 0))]


RangesOf = Callable[["onnx.NodeProto", "int | None"], "Iterable[Range] | None"]
"""The ranges of a node, given the last dim of its second operand; ``None`` where they depend on that, and it is not
known."""

RANGES: Mapping[str, RangesOf] = {
    "CumSum": _axes(1),
    "Gather": _along_axis,
    "GatherElements": _along_axis,
    "GatherND": _tuples,
    "GRU": _recurrent,
    "LSTM": _recurrent,
    "Loop": lambda node, depth: [Range(0, None, (0, ANY_LOW), (0, MOST_TRIPS))],
    "ReverseSequence": _lengths(1, 0, "time_axis"),
    "RNN": _recurrent,
    "RoiAlign": lambda node, depth: [Range(2, Extent(0, 0), (0, 0), (1, -1))],
    "Scatter": _along_axis,
    "ScatterElements": _along_axis,
    "ScatterND": _tuples,
    "Slice": _axes(3),
    "Split": _lengths(1, 0, "axis"),
    "Squeeze": _axes(1),
    "TopK": _lengths(1, -1, "axis"),
    "Unsqueeze": _unsqueezed,
    **{
        f"Reduce{kind}": _axes(1)
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    },
}
"""Operators with operands that must be in a range."""

SIZES: Mapping[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Resize": (2, 3),
    "Tile": (1,),
    "Upsample": (1,),
}
"""Operators whose output is as large as the values of operands say, and which these are."""
