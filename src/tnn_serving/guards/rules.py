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

Line = tuple[int, int]
"""A limit in terms of an extent: factor and offset."""


@dataclass(frozen=True, slots=True)
class AxisSize:
    """A number that limits follow from.

    Attributes:
        operand: whose dims it is taken from.
        axis: which of them.
    """

    operand: int
    axis: int


@dataclass(frozen=True, slots=True)
class Span:
    """Values that an operand may have.

    Attributes:
        extent: what the limits follow from; ``None`` where they are numbers.
        low, high: the limits, both allowed.
        column: index along the last axis of the operand, for tuples of indices; ``None`` for all of it.
    """

    extent: AxisSize | None
    low: Line
    high: Line
    column: int | None = None


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(item.i) for item in node.attribute if item.name == name), default)


def _index(extent: AxisSize, column: int | None = None) -> Span:
    """An index that counts from the end where it is negative."""
    return Span(extent, (-1, 0), (1, -1), column)


def _along_axis(node: onnx.NodeProto, depth: int | None) -> Iterable[Span]:
    return [_index(AxisSize(0, _attribute(node, "axis", 0)))]


def _tuples(node: onnx.NodeProto, depth: int | None) -> Iterable[Span] | None:
    if depth is None:
        return None
    first = _attribute(node, "batch_dims", 0)
    return [_index(AxisSize(0, first + k), k) for k in range(depth)]


def _lengths(attribute: str, default: int) -> RangesOf:
    def ranges(node: onnx.NodeProto, depth: int | None) -> Iterable[Span]:
        return [Span(AxisSize(0, _attribute(node, attribute, default)), (0, 0), (1, 0))]

    return ranges


def _recurrent(node: onnx.NodeProto, depth: int | None) -> Iterable[Span]:
    return [Span(AxisSize(0, 1 if _attribute(node, "layout", 0) else 0), (0, 0), (1, 0))]


RangesOf = Callable[["onnx.NodeProto", "int | None"], "Iterable[Span] | None"]
"""The ranges of a node, given the last dim of its second operand; ``None`` where they depend on that, and it is not
known."""

RANGES: Mapping[str, RangesOf] = {
    "Gather": _along_axis,
    "GatherElements": _along_axis,
    "GatherND": _tuples,
    "GRU": _recurrent,
    "LSTM": _recurrent,
    "Loop": lambda node, depth: [Span(None, (0, -(1 << 31)), (0, MOST_TRIPS))],
    "ReverseSequence": _lengths("time_axis", 0),
    "RNN": _recurrent,
    "RoiAlign": lambda node, depth: [Span(AxisSize(0, 0), (0, 0), (1, -1))],
    "Scatter": _along_axis,
    "ScatterElements": _along_axis,
    "ScatterND": _tuples,
    "TensorScatter": lambda node, depth: [Span(AxisSize(0, _attribute(node, "axis", -2)), (0, 0), (1, -1))],
    "TopK": _lengths("axis", -1),
}
"""Operators with an operand that must be in a range."""

INDICES: Mapping[str, int] = {"GRU": 4, "LSTM": 4, "Loop": 0, "RNN": 4, "RoiAlign": 2, "TensorScatter": 2}
"""The operand that :data:`RANGES` are for; 1 for all others."""

AXES: Mapping[str, int] = {
    "CumSum": 1,
    "Slice": 3,
    "Squeeze": 1,
    "Unsqueeze": 1,
    **{
        f"Reduce{kind}": 1
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    },
}
"""Operators with an operand that chooses axes. Even the number of dims of an output may follow from it: where it is no
stored value, there is no guard for it."""

REFUSED_BY_ONE: Mapping[str, tuple[int, ...]] = {
    "Dropout": (1,),
    "NegativeLogLikelihoodLoss": (1,),
    "SequenceAt": (1,),
    "SoftmaxCrossEntropyLoss": (1,),
    "SplitToSequence": (1,),
}
"""Operators with operands that have a range and no guard: engines that refuse what is out of range run them."""

STORED: Mapping[str, tuple[int, ...]] = {"Col2Im": (1, 2), "DFT": (1, 2), "STFT": (1, 3)}
"""Operators with lengths and axes that have to be stored values: a length of 0 ends the process, even one that follows
from the shape of an input."""

NOT_OF_A_REQUEST: Mapping[str, tuple[int, ...]] = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
}
"""Operators with sizes that have to be stored values or to follow from the shapes of inputs: from the values of a
request, they could ask for any amount of memory."""

DIVISIONS = ("Div", "Mod")
"""Of integers, the processor ends the process for the least one divided by -1, and for a division by 0."""

ANY_INTEGER: Mapping[str, tuple[int, ...]] = {
    "NonMaxSuppression": (2,),
    "OneHot": (0,),
    "Slice": (1, 2),
    "Trilu": (1,),
}
"""Operators with operands that may be any integers; those that engines cut are not the same ones any more."""

CONDITIONS: Mapping[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (2, 3),
    "RoiAlign": (1,),
    "Slice": (4,),
    "Split": (1,),
    "Tile": (1,),
    "Upsample": (1,),
}
"""Operators with operands that must meet a condition of their own, most of them because they decide the dims of the
output; and which operands these are."""


def deciding(kind: str) -> set[int]:
    """Operands of an operator that it does not take any value of; none for most operators."""
    found = {AXES[kind]} if kind in AXES else set()
    if kind in RANGES:
        found.add(INDICES.get(kind, 1))
    if kind in DIVISIONS:
        found.add(1)
    for others in (REFUSED_BY_ONE, STORED, NOT_OF_A_REQUEST, ANY_INTEGER, CONDITIONS):
        found |= set(others.get(kind, ()))
    return found
