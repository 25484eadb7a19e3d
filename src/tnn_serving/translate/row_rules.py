"""For each ONNX operator: does it keep the rows of a batch apart, and on which axis are they afterwards?

A rule considers an operator at several numbers of rows at once and returns the row layout of its outputs, or raises
:class:`~tnn_serving.translate.rows.MixedRows`. An operator that is in no table is assumed to mix rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from string import ascii_letters

from tnn_serving.translate.rows import (
    BatchAxis,
    Call,
    MixedRows,
    RowLayout,
    Unbatched,
    apart,
    dims_by_rows,
    scaled_axes,
)

Rule = Callable[[Call], RowLayout | Sequence[RowLayout | MixedRows]]
"""The row layout of all outputs, or of each. Raises MixedRows."""

ENDLESS = 2**31 - 1
"""An end of a slice from here on is the end of the axis."""

RULES: dict[str, Rule] = {}

MIXING = {
    "NonZero": "finds positions among all rows at once",
    "Unique": "compares elements of all rows",
    "Compress": "chooses among all rows at once",
    "NonMaxSuppression": "lists boxes of all rows in one list",
    "DynamicQuantizeLinear": "takes one scale from all rows",
    "RoiAlign": "takes its regions from a list for all rows",
}
"""Operators whose answer for a row depends on the others, each with what it does."""

RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
"""Operators that answer differently each time, whatever they are given."""


def rule(operators: str) -> Callable[[Rule], Rule]:
    """Registers a function as the rule of some operators, named with blanks between."""

    def register(function: Rule) -> Rule:
        for operator in operators.split():
            if operator in RULES:
                raise ValueError(f"{operator} has two rules")
            RULES[operator] = function
        return function

    return register


@rule(
    """Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil Celu
    Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN
    LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink
    Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor"""
)
def elementwise(call: Call) -> RowLayout:
    """Element by element, operands broadcast as NumPy does."""
    rank = call.outputs[0].rank
    places = set()
    for index, operand in enumerate(call.inputs):
        rows = call.rows(index)
        if rows is not None and operand is not None:
            places.add(replace(rows, axis=rows.axis + rank - operand.rank))
    if len(places) > 1:
        raise MixedRows("pairs values that hold the rows on different axes")
    (place,) = places
    for index, operand in enumerate(call.inputs):
        if operand is not None and call.rows(index) is None:
            at = place.axis + operand.rank - rank
            if at >= 0 and operand.size(at) != 1:
                raise MixedRows(f"takes a constant of {operand.size(at)} rows")
    return place


@rule("CastLike")
def first_operand(call: Call) -> RowLayout:
    """As the first operand; of the second only the type counts."""
    return call.rows(0) or Unbatched.SAME


@rule("Dropout")
def dropout(call: Call) -> RowLayout:
    """Nothing, unless it trains."""
    training = call.known(2)
    if training is not None and any(sample.any() for sample in training):
        raise MixedRows("drops elements at random")
    return call.rows(0) or Unbatched.SAME


@rule("QuantizeLinear DequantizeLinear")
def quantize(call: Call) -> RowLayout:
    """Element by element; a list of scales has one per position of an axis."""
    call.only(0)
    rows, scale = call.rows(0), call.need(1)
    if scale.rank == 1 and scale.size(0) != 1:
        apart(rows, [call.need(0).axis(call.number("axis", 1))])
    elif scale.rank > 1:
        raise MixedRows("has a scale for each block")
    return rows or Unbatched.SAME


# ---- operators whose first axis is the batch by definition ----


@rule(
    """AveragePool BatchNormalization Conv ConvInteger ConvTranspose DeformConv DepthToSpace GlobalAveragePool
    GlobalLpPool GlobalMaxPool GroupNormalization InstanceNormalization LRN LpPool MaxPool QLinearConv
    SpaceToDepth"""
)
def items(call: Call) -> Sequence[RowLayout | MixedRows]:
    """Each item of axis 0 on its own."""
    call.only(*((0, 2, 4) if call.node.op_type == "DeformConv" else (0,)))
    rows = call.rows(0)
    if rows is None or rows.axis != 0:
        raise MixedRows("has the rows on another axis than the first, or in no operand but the weights")
    if any(call.rows(k) not in (None, rows) for k in range(len(call.inputs))):
        raise MixedRows("pairs values that hold the rows differently")
    if call.number("training_mode", 0):
        raise MixedRows("takes mean and variance of all rows")
    if call.node.op_type == "DeformConv" and any(call.rows(k) is None for k in (2, 4) if call.given(k) is not None):
        raise MixedRows("has offsets for one number of rows")
    # The indices that MaxPool gives beside its values count from the first row on.
    return [rows, *[MixedRows("numbers the elements of all rows")] * (len(call.outputs) - 1)]


@rule("GridSample")
def grid_sample(call: Call) -> RowLayout:
    """Pictures and grids, item by item."""
    if call.rows(0) != call.rows(1) or getattr(call.rows(0), "axis", None) != 0:
        raise MixedRows("pairs values that hold the rows differently")
    return call.need(0).layout


# ---- operators that work along axes ----


@rule("Softmax LogSoftmax Hardmax")
def softmax(call: Call) -> RowLayout:
    """Along one axis; before opset 13 along all axes from one on."""
    x, rows = call.need(0), call.rows(0)
    if call.opset < 13:
        apart(rows, range(x.axis(call.number("axis", 1)), x.rank))
    else:
        apart(rows, [x.axis(call.number("axis", -1))])
    return rows or Unbatched.SAME


@rule("LayerNormalization RMSNormalization")
def layer_normalization(call: Call) -> RowLayout:
    """Along all axes from one on."""
    call.only(0)
    x, rows = call.need(0), call.rows(0)
    apart(rows, range(x.axis(call.number("axis", -1)), x.rank))
    return rows or Unbatched.SAME


@rule("LpNormalization MeanVarianceNormalization")
def lp_normalization(call: Call) -> RowLayout:
    """Along one axis, or some."""
    x, rows = call.need(0), call.rows(0)
    axes = [call.number("axis", -1)] if call.node.op_type == "LpNormalization" else call.numbers("axes") or [0, 2, 3]
    apart(rows, [x.axis(axis) for axis in axes])
    return rows or Unbatched.SAME


@rule("CumSum")
def cumulative_sum(call: Call) -> RowLayout:
    """Along one axis."""
    call.only(0)
    x, rows = call.need(0), call.rows(0)
    apart(rows, [x.axis(axis) for axis in call.fixed(1) or [0]])
    return rows or Unbatched.SAME


@rule("TopK")
def top_k(call: Call) -> RowLayout:
    """Along one axis; places count along it too."""
    call.only(0)
    x, rows = call.need(0), call.rows(0)
    apart(rows, [x.axis(call.number("axis", -1))])
    return rows or Unbatched.SAME


@rule("Trilu Det")
def matrices(call: Call) -> RowLayout:
    """On each matrix of the last two axes."""
    call.only(0)
    x, rows = call.need(0), call.rows(0)
    apart(rows, [x.rank - 2, x.rank - 1])
    return rows or Unbatched.SAME


@rule(
    """ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare"""
)
def reduce(call: Call) -> RowLayout:
    """Along some axes, or all."""
    call.only(0)
    x, rows = call.need(0), call.rows(0)
    axes = call.numbers("axes") or call.fixed(1) or []
    if not axes and call.number("noop_with_empty_axes", 0):
        return rows or Unbatched.SAME
    return _without(rows, [x.axis(axis) for axis in axes] or list(range(x.rank)), call.number("keepdims", 1))


@rule("ArgMax ArgMin")
def arg_max(call: Call) -> RowLayout:
    """Along one axis."""
    x, rows = call.need(0), call.rows(0)
    return _without(rows, [x.axis(call.number("axis", 0))], call.number("keepdims", 1))


def _without(rows: BatchAxis | None, axes: Sequence[int], keep: int) -> RowLayout:
    apart(rows, axes)
    if rows is None:
        return Unbatched.SAME
    return rows if keep else replace(rows, axis=rows.axis - sum(axis < rows.axis for axis in axes))


@rule("Concat")
def concat(call: Call) -> RowLayout:
    """Behind each other, along one axis."""
    places = {call.rows(index) for index in range(len(call.inputs))}
    if len(places) > 1:
        raise MixedRows("joins values that hold the rows differently, or not at all")
    rows = places.pop()
    if len(call.inputs) > 1:
        apart(rows, [call.need(0).axis(call.number("axis", 0))])
    return rows or Unbatched.SAME


@rule("Split")
def split(call: Call) -> RowLayout:
    """In pieces, along one axis."""
    rows = call.rows(0)
    apart(rows, [call.need(0).axis(call.number("axis", 0))])
    return rows or Unbatched.SAME


@rule("Slice")
def slice_(call: Call) -> RowLayout:
    """A range of some axes; of the rows, all of them."""
    x, rows = call.need(0), call.rows(0)
    if rows is None:
        raise MixedRows("cuts by the rows or by their number")
    steps, starts, ends = call.fixed(4), call.known(1), call.known(2)
    axes = [x.axis(axis) for axis in call.fixed(3) or range(len(starts[0]) if starts else 0)]
    place = axes.index(rows.axis) if rows.axis in axes else None
    call.steady(1, place)
    call.steady(2, place)
    if place is None or starts is None or ends is None:
        return rows
    until = [int(sample[place]) for sample in ends]
    everything = all(end >= ENDLESS for end in until) or until == [dims[rows.axis] for dims in x.whole_dims()]
    if any(int(sample[place]) for sample in starts) or not everything or (steps and steps[place] != 1):
        raise MixedRows("takes a literal range of the axis that holds the rows")
    return rows


@rule("Pad")
def pad(call: Call) -> RowLayout:
    """More elements at the ends of some axes."""
    x, rows = call.need(0), call.rows(0)
    if call.rows(2) is not None or rows is None:
        raise MixedRows("pads with something of the rows")
    axes = [x.axis(axis) for axis in call.fixed(3) or range(x.rank)]
    call.steady(1, None)
    for pads in call.known(1) or []:
        if any(axis == rows.axis and (pads[k] or pads[k + len(axes)]) for k, axis in enumerate(axes)):
            raise MixedRows("adds elements to the axis that holds the rows")
    return rows


@rule("ReverseSequence")
def reverse_sequence(call: Call) -> RowLayout:
    """Along time, for each item."""
    call.only(0)
    rows = call.rows(0)
    apart(rows, [call.number("time_axis", 0), call.number("batch_axis", 1)])
    return rows or Unbatched.SAME


@rule("Resize")
def resize(call: Call) -> RowLayout:
    """Along the axes whose size changes."""
    x, rows = call.need(0), call.rows(0)
    if rows is None or call.rows(1) is not None:
        raise MixedRows("is sized by the rows or by their number")
    if call.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise MixedRows("crops by a literal region of all axes")
    if call.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise MixedRows("takes one scale for all axes")
    named = call.numbers("axes")
    axes = list(range(x.rank)) if named is None else [x.axis(axis) for axis in named]
    place = axes.index(rows.axis) if rows.axis in axes else None
    scales, sizes = call.given(2), call.given(3)
    call.steady(3 if sizes is not None else 2, place)
    if place is None:
        return rows
    if sizes is not None:
        wanted = [int(sample[place]) for sample in call.known(3) or []]
        same = wanted == [dims[rows.axis] for dims in x.whole_dims()]
    else:
        same = scales is not None and all(sample[place] == 1 for sample in call.known(2) or [])
    if not same:
        raise MixedRows("has a literal size for the axis that holds the rows")
    return rows


# ---- operators that move axes ----


@rule("Transpose")
def transpose(call: Call) -> RowLayout:
    """Axes in another order."""
    x, rows = call.need(0), call.rows(0)
    order = call.numbers("perm") or list(reversed(range(x.rank)))
    return Unbatched.SAME if rows is None else replace(rows, axis=order.index(rows.axis))


@rule("Reshape Flatten Squeeze Unsqueeze")
def reshape(call: Call) -> RowLayout:
    """Elements keep their order: rows stay apart if they are still whole pieces of it."""
    x, rows = call.need(0), call.rows(0)
    if rows is None:
        raise MixedRows("takes its sizes from the rows or from their number")
    before, after = x.whole_dims(), call.outputs[0].whole_dims()
    if any(math.prod(have) != math.prod(want) for have, want in zip(before, after, strict=True)):
        raise MixedRows(f"has literal sizes for one number of rows: {list(after[0])}")
    scaling = scaled_axes(after)
    if scaling is None or len(scaling) != 1:
        raise MixedRows(f"spreads the rows over several axes: {dims_by_rows(after)}")
    (axis,) = scaling
    # In memory order: elements before the rows, the rows, elements of a row.
    outer, left = math.prod(before[0][: rows.axis]) * rows.before, math.prod(after[0][:axis])
    if not left or outer % left or after[0][axis] % (outer // left):
        raise MixedRows("joins the rows with another axis, out of order")
    return BatchAxis(axis, outer // left, after[0][axis] // (outer // left))


@rule("Expand ConstantOfShape")
def expand(call: Call) -> RowLayout:
    """The same elements over and over: along an axis as long as the batch they are a row each."""
    x = call.given(0) if call.node.op_type == "Expand" else None
    scaling = scaled_axes(call.outputs[0].whole_dims())
    if scaling is None or len(scaling) > 1:
        raise MixedRows(f"spreads the rows over several axes: {dims_by_rows(call.outputs[0].whole_dims())}")
    rows = call.rows(0) if x is not None else None
    if x is None or rows is None:
        return BatchAxis(scaling[0], 1, call.outputs[0].whole_dims()[0][scaling[0]]) if scaling else Unbatched.SAME
    return replace(rows, axis=rows.axis + call.outputs[0].rank - x.rank)


@rule("Tile")
def tile(call: Call) -> RowLayout:
    """Axes one or several times behind each other."""
    rows, repeats, first = call.rows(0), call.known(1) or [], call.need(0).whole_dims()[0]
    growing = scaled_axes([tuple(map(int, sample)) for sample in repeats])
    if rows is not None:
        if growing != []:
            raise MixedRows("repeats by the number of rows")
        return replace(rows, before=rows.before * int(repeats[0][rows.axis]))
    if growing is None or len(growing) != 1:
        raise MixedRows("repeats by the number of rows")
    (axis,) = growing
    return BatchAxis(axis, 1, first[axis] * int(repeats[0][axis]))


# ---- operators that choose by index ----


@rule("Gather")
def gather(call: Call) -> RowLayout:
    """Slices of an axis by index."""
    x, index = call.need(0), call.need(1)
    axis = x.axis(call.number("axis", 0))
    rows, places = call.rows(0), call.rows(1)
    if rows is not None and places is not None:
        raise MixedRows("chooses by the rows among the rows")
    if places is not None:
        return replace(places, axis=places.axis + axis)
    apart(rows, [axis])
    if rows is None:
        return Unbatched.SAME
    return rows if rows.axis < axis else replace(rows, axis=rows.axis + index.rank - 1)


@rule("GatherElements ScatterElements")
def gather_elements(call: Call) -> RowLayout:
    """Element by element along one axis."""
    places = {call.rows(index) for index in range(len(call.inputs))}
    rows = places.pop()
    if places or rows is None:
        raise MixedRows("chooses among values that hold the rows differently, or not at all")
    apart(rows, [call.need(0).axis(call.number("axis", 0))])
    return rows


@rule("GatherND")
def gather_nd(call: Call) -> RowLayout:
    """Slices by index tuples."""
    x, index = call.need(0), call.need(1)
    rows, places, batch = call.rows(0), call.rows(1), call.number("batch_dims", 0)
    if rows is not None and places is not None:
        if rows != places or rows.axis >= batch:
            raise MixedRows("chooses by the rows among the rows")
        return rows
    if places is not None:
        if places.axis < batch or places.axis == index.rank - 1:
            raise MixedRows("takes a part of each index from another row")
        return places
    depth = index.size(index.rank - 1)
    if rows is None or depth is None:
        raise MixedRows("takes index tuples of unknown length")
    if rows.axis < batch + depth:
        raise MixedRows(f"chooses along axis {rows.axis}, which holds the rows")
    return replace(rows, axis=rows.axis - depth - batch + index.rank - 1) if x.rank else rows


@rule("ScatterND")
def scatter_nd(call: Call) -> RowLayout:
    """Slices written at index tuples that all rows share."""
    call.only(0, 2)
    x, index, updates = call.need(0), call.need(1), call.need(2)
    rows, written, depth = call.rows(0), call.rows(2), index.size(index.rank - 1)
    if rows is None or written is None or depth is None:
        raise MixedRows("writes into values that hold the rows differently, or not at all")
    moved = replace(written, axis=written.axis - updates.rank + x.rank)
    if rows.axis < depth or moved != rows:
        raise MixedRows("writes across the axis that holds the rows")
    return rows


@rule("OneHot")
def one_hot(call: Call) -> RowLayout:
    """An axis more."""
    call.only(0)
    rows, axis = call.rows(0), call.number("axis", -1)
    place = axis % (call.need(0).rank + 1)
    if rows is None:
        return Unbatched.SAME
    return replace(rows, axis=rows.axis + (place <= rows.axis))


# ---- products ----


@rule("MatMul MatMulInteger")
def matrix_product(call: Call) -> RowLayout:
    """NumPy's matmul."""
    call.only(0, 1)
    return _product(call, 0, 1)


@rule("QLinearMatMul")
def quantized_product(call: Call) -> RowLayout:
    """NumPy's matmul, on codes."""
    call.only(0, 3)
    return _product(call, 0, 3)


def _product(call: Call, left: int, right: int) -> RowLayout:
    a, b, rank = call.need(left), call.need(right), call.outputs[0].rank
    places = set()
    for rows, operand, other, summed, kept in (
        (call.rows(left), a, b, 1, 2),
        (call.rows(right), b, a, 2 if b.rank > 1 else 1, 1),
    ):
        if rows is None:
            continue
        behind = operand.rank - rows.axis
        if behind == summed:
            raise MixedRows("sums along the axis that holds the rows")
        if behind == kept:
            if call.rows(left) is not None and call.rows(right) is not None:
                raise MixedRows("multiplies each row with every other row")
            # A vector on the other side takes its axis of the result away.
            last = rank - (1 if other.rank == 1 else kept)
            places.add(replace(rows, axis=last))
        else:
            places.add(replace(rows, axis=rank - behind + (other.rank == 1)))
    if len(places) > 1:
        raise MixedRows("multiplies values that hold the rows on different axes")
    return places.pop()


@rule("Gemm")
def gemm(call: Call) -> RowLayout:
    """A product of two matrices, and something added."""
    left, right, added = call.rows(0), call.rows(1), call.rows(2)
    if left is not None and right is not None:
        raise MixedRows("multiplies each row with every other row")
    if left is not None:
        apart(left, [0 if call.number("transA", 0) else 1])
        place = replace(left, axis=0)
    elif right is not None:
        apart(right, [1 if call.number("transB", 0) else 0])
        place = replace(right, axis=1)
    else:
        raise MixedRows("has the rows in nothing but what is added")
    bias = call.given(2)
    if bias is None:
        return place
    moved = None if added is None else replace(added, axis=added.axis + 2 - bias.rank)
    at = place.axis - 2 + bias.rank
    if moved not in (None, place) or (added is None and at >= 0 and bias.size(at) != 1):
        raise MixedRows("adds something that holds the rows differently")
    return place


@rule("Einsum")
def einsum(call: Call) -> RowLayout:
    """Sums of products over labelled axes: one label is the batch."""
    equation = call.text("equation", "").replace(" ", "")
    terms, arrow, result = equation.partition("->")
    free = [letter for letter in ascii_letters if letter not in equation]
    ranks = [operand.rank for operand in call.inputs if operand is not None]
    parts = terms.split(",")
    extra = max((rank - len(term.replace("...", "")) for term, rank in zip(parts, ranks, strict=True)), default=0)
    dots = "".join(free[:extra])
    labels = []
    for term, rank in zip(parts, ranks, strict=True):
        missing = rank - len(term.replace("...", ""))
        labels.append(term.replace("...", dots[len(dots) - missing :] if missing else ""))
    if not arrow:
        letters = terms.replace("...", "").replace(",", "")
        result = ("..." if "..." in terms else "") + "".join(sorted(k for k in set(letters) if letters.count(k) == 1))
    result = result.replace("...", dots)
    found = set()
    for index, term in enumerate(labels):
        rows = call.rows(index)
        if rows is not None:
            found.add((term[rows.axis], rows.before, rows.behind))
    if len(found) != 1:
        raise MixedRows("pairs values that hold the rows on different axes")
    ((label, before, behind),) = found
    if label not in result:
        raise MixedRows("sums along the axis that holds the rows")
    if any(label in term and call.rows(index) is None for index, term in enumerate(labels)):
        raise MixedRows("pairs the rows with something that is the same for all")
    return BatchAxis(result.index(label), before, behind)


# ---- recurrent ----


@rule("LSTM GRU RNN")
def recurrent(call: Call) -> Sequence[RowLayout | MixedRows]:
    """Sequences side by side: the batch axis is 1, with ``layout`` 1 it is 0."""
    call.only(0, 4, 5, 6)
    axis = 0 if call.number("layout", 0) else 1
    rows = call.rows(0)
    if rows is None or rows.axis != axis:
        held = "no axis of its input" if rows is None else f"axis {rows.axis}"
        raise MixedRows(f"takes axis {axis} for the batch and axis {1 - axis} for time, but the rows are on {held}")
    for index, at in ((4, 0), (5, axis), (6, axis)):
        if call.given(index) is not None and call.rows(index) != replace(rows, axis=at):
            raise MixedRows("starts from a state, or to a length, that does not follow the rows")
    return [replace(rows, axis=at) for at in ((0, 0, 0) if axis == 0 else (2, 1, 1))][: len(call.outputs)]
