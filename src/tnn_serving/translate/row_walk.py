"""Whether an ONNX model keeps the rows of a batch apart: a walk that follows the batch axis, without running anything.

Each operator is inferred by ONNX's own rules at several numbers of rows; what its dims do not show is in
:mod:`~tnn_serving.translate.row_rules`. Nothing here knows TNN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from tnn_serving.emit.inference import Dims, Inferred, Known, evaluate, infer, is_small
from tnn_serving.emit.limits import SAMPLE_LIMIT
from tnn_serving.translate.row_rules import MIXING, RANDOM, RULES
from tnn_serving.translate.rows import COUNTS, BatchAxis, Call, MixedRows, RowLayout, Tracked, Unbatched, scaled_axes

BATCH = BatchAxis()
"""The rows on the first axis, one after the other."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why rows do not stay apart.

    Attributes:
        what: the predicate of a sentence about the node, or a whole sentence if there is none.
        node: the operator that mixes them.
        moved: the operator that put the rows where ``node`` mixes them, if it is another one.
    """

    what: str
    node: ir.Node | None = None
    moved: ir.Node | None = None

    def __str__(self) -> str:
        if self.node is None:
            return self.what
        text = f"node `{self.node.name}` ({self.node.op_type}) {self.what}"
        return text if self.moved is None else f"{text}; node `{self.moved.name}` ({self.moved.op_type}) put them there"


@dataclass(slots=True)
class _Reached:
    """A value on the way.

    Attributes:
        operand: what is known of it; of one that mixes rows the dims, for an operator that reads its shape.
        obstacle: why it mixes rows.
        moved: the node that last moved its rows away from the first axis.
    """

    operand: Tracked | None
    obstacle: Obstacle | None = None
    moved: ir.Node | None = None


def rows_stay_apart(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> Obstacle | None:
    """Why the rows of a batch depend on each other, ``None`` if they do not.

    Apart means: for any number of rows, each output has as many, and row i of it is what the model answers to row i of
    its inputs alone.

    Args:
        model: of opset 11 to 21; operators of other domains count as mixing.
        shapes: dims of each graph input that is fed; the first one is the batch, whatever its size here.
    """
    opset = model.graph.opset_imports.get("", 0)
    followed: dict[ir.Value, _Reached] = {}
    for value in model.graph.inputs:
        sizes = shapes.get(value.name or "")
        if sizes is None:
            continue
        if not sizes:
            return Obstacle(f"input `{value.name}` has no axis for a batch")
        dims = tuple((count, *sizes[1:]) for count in COUNTS)
        followed[value] = _Reached(Tracked(_dtype(value), dims, (None,) * len(COUNTS), BATCH))
    for value in model.graph.initializers.values():
        if value not in followed:
            followed[value] = _Reached(_constant(value))
    for node in _needed(model):
        for output, found in zip(node.outputs, _after(node, opset, followed), strict=True):
            followed[output] = found
    for value in model.graph.outputs:
        obstacle = _unfit(value, followed.get(value))
        if obstacle is not None:
            return obstacle
    return None


def _unfit(value: ir.Value, found: _Reached | None) -> Obstacle | None:
    """Why an output is no batch."""
    if found is not None and found.obstacle is not None:
        return found.obstacle
    if found is None or found.operand is None:
        return Obstacle(f"no node produces the output `{value.name}`")
    layout = found.operand.layout
    if layout is Unbatched.SAME:
        return Obstacle(f"output `{value.name}` is the same for all rows, and has no row for each")
    if layout is Unbatched.COUNT:
        return Obstacle(f"output `{value.name}` depends on the number of rows")
    if layout == BATCH:
        return None
    assert isinstance(layout, BatchAxis)
    if layout.axis:
        what = f"puts the rows on axis {layout.axis} of output `{value.name}`"
    else:
        what = f"gives {layout.before * layout.behind} rows of output `{value.name}` for each row"
    return Obstacle(what, found.moved)


def _dtype(value: ir.Value) -> np.dtype:
    if value.dtype is None:
        raise ValueError(f"value `{value.name}` has no type")
    return value.dtype.numpy()


def _constant(value: ir.Value) -> Tracked:
    stored = value.const_value
    if stored is None:
        raise ValueError(f"initializer `{value.name}` has no value")
    sizes = tuple(int(size) for size in stored.shape.numpy())
    sample = stored.numpy() if stored.size <= SAMPLE_LIMIT else None
    return Tracked(stored.dtype.numpy(), (sizes,) * len(COUNTS), (sample,) * len(COUNTS), Unbatched.SAME)


def _needed(model: ir.Model) -> Iterator[ir.Node]:
    """Nodes that an output depends on, in order."""
    wanted = set(model.graph.outputs)
    needed = []
    for node in reversed(model.graph):
        if wanted.isdisjoint(node.outputs):
            continue
        needed.append(node)
        wanted.update(value for value in node.inputs if value is not None)
    return reversed(needed)


def _after(node: ir.Node, opset: int, followed: Mapping[ir.Value, _Reached]) -> list[_Reached]:
    """The outputs of a node."""
    given = [None if value is None else followed.get(value) for value in node.inputs]
    moved = next((found.moved for found in given if found is not None and found.moved is not None), None)
    operands = tuple(None if found is None else found.operand for found in given)
    if node.op_type in ("Shape", "Size"):
        measured = _measured(node, operands[0])
        if measured is not None:
            return [_Reached(measured)]
    obstacle = next((found.obstacle for found in given if found is not None and found.obstacle is not None), None)
    if obstacle is None and any(value is not None and value not in followed for value in node.inputs):
        obstacle = Obstacle("takes a value that comes from nowhere", node)
    if any(found is not None and found.operand is None for found in given):
        return [_Reached(None, obstacle)] * len(node.outputs)
    try:
        outputs = _outputs(node, opset, operands)
    except MixedRows as mixes:
        return [_Reached(None, obstacle or Obstacle(str(mixes), node, moved))] * len(node.outputs)
    if obstacle is not None:
        return [_Reached(output, obstacle) for output in outputs]
    try:
        layouts = _layouts(node, opset, operands, outputs)
    except MixedRows as mixes:
        return [_Reached(output, Obstacle(str(mixes), node, moved)) for output in outputs]
    answers = []
    for output, layout in zip(outputs, layouts, strict=True):
        wrong = layout if isinstance(layout, MixedRows) else _contradiction(output, layout)
        if isinstance(wrong, MixedRows) or isinstance(layout, MixedRows):
            answers.append(_Reached(output, Obstacle(str(wrong), node, moved)))
            continue
        arrived = [operand.layout for operand in operands if operand is not None]
        mover = node if isinstance(layout, BatchAxis) and layout != BATCH and layout not in arrived else moved
        made = Tracked(output.dtype, output.dims, output.samples, layout)
        answers.append(_Reached(made, moved=None if layout == BATCH else mover))
    return answers


def _measured(node: ir.Node, x: Tracked | None) -> Tracked | None:
    """Dims of a value, or their product, which are known even where the value itself is not."""
    if x is None or any(dims is None or None in dims for dims in x.dims):
        return None
    first, last = node.attributes.get_int("start", 0), node.attributes.get_int("end", None)
    samples = tuple(
        np.array(dims[first:last], np.int64)
        if node.op_type == "Shape"
        else np.array(np.prod(dims, dtype=np.int64), np.int64)
        for dims in x.whole_dims()
    )
    return Tracked(np.dtype(np.int64), tuple(sample.shape for sample in samples), samples, _layout_of(samples))


def _outputs(node: ir.Node, opset: int, operands: Sequence[Tracked | None]) -> list[Tracked]:
    """What ONNX infers of the outputs at each number of rows. Raises MixedRows where it refuses one."""
    if node.domain not in ("", "ai.onnx"):
        raise MixedRows(f"is an operator of domain {node.domain}, whose meaning is not known")
    if any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    ):
        raise MixedRows("runs a graph of its own, which is not looked into")
    if node.op_type in RANDOM:
        raise MixedRows("answers at random")
    proto = ir.serde.serialize_node(node)
    found: list[list[tuple[Inferred, np.ndarray | None]]] = []
    for k, count in enumerate(COUNTS):
        if k and all(operand is None or _same_at(operand, k) for operand in operands):
            found.append(found[0])
        else:
            found.append(_at(node, proto, opset, operands, k, count))
    made = []
    for index in range(len(node.outputs)):
        inferred = [at[index] for at in found]
        samples = tuple(sample for _, sample in inferred)
        dims = tuple(kind.dims for kind, _ in inferred)
        made.append(Tracked(inferred[0][0].dtype, dims, samples, Unbatched.SAME))
    return made


def _same_at(operand: Tracked, k: int) -> bool:
    """The k-th number of rows makes no difference to what is known of a value."""
    return operand.dims[k] == operand.dims[0] and (
        operand.samples[k] is operand.samples[0] or operand.layout is Unbatched.SAME
    )


def _at(
    node: ir.Node, proto: onnx.NodeProto, opset: int, operands: Sequence[Tracked | None], k: int, count: int
) -> list[tuple[Inferred, np.ndarray | None]]:
    """Type, dims and value of each output at one number of rows."""
    known: dict[str, Known] = {}
    for value, operand in zip(node.inputs, operands, strict=True):
        if value is not None and operand is not None:
            dims = operand.dims[k]
            if dims is None:
                raise MixedRows("takes a value whose rank is not known")
            known[value.name or ""] = Known(value.name or "", operand.dtype, dims, operand.samples[k])
    try:
        inferred = infer(proto, list(known.values()), opset)
    except Exception as error:
        reason = str(error).removeprefix("[ShapeInferenceError] ").removeprefix("[TypeInferenceError] ")
        seen = ", ".join(str(list(operand.dims)) for operand in known.values())
        raise MixedRows(f"does not take {count} row{'s' * (count > 1)}: {reason} ({seen})") from error
    samples: list[np.ndarray | None] = [None] * len(node.outputs)
    if known or node.op_type == "Constant":
        feeds = {name: operand.sample for name, operand in known.items() if operand.sample is not None}
        fits = all(sample.size <= SAMPLE_LIMIT for sample in feeds.values())
        if len(feeds) == len(known) and fits and is_small(node.op_type, [*known.values()], inferred.values()):
            names = [value.name or "" for value in node.outputs]
            try:
                samples = [*evaluate(proto, names, feeds, opset)]
            except Exception as error:
                raise MixedRows(f"cannot be computed on its constants: {error}") from error
    answers = []
    for value, sample in zip(node.outputs, samples, strict=True):
        # An output that is left out has no name.
        kind = inferred.get(value.name or "", Inferred(np.dtype(np.float32), ()) if not value.name else None)
        if kind is None:
            raise MixedRows("has an output that ONNX cannot infer")
        answers.append((kind if sample is None else Inferred(sample.dtype, sample.shape), sample))
    return answers


def _layouts(
    node: ir.Node, opset: int, operands: Sequence[Tracked | None], outputs: Sequence[Tracked]
) -> list[RowLayout | MixedRows]:
    """Where the rows of each output are. Raises MixedRows if they do not stay apart."""
    if all(sample is not None for output in outputs for sample in output.samples):
        return [_layout_of([sample for sample in output.samples if sample is not None]) for output in outputs]
    if all(operand is None or operand.layout is Unbatched.SAME for operand in operands):
        return [Unbatched.SAME] * len(outputs)
    if node.op_type in MIXING:
        raise MixedRows(MIXING[node.op_type])
    if node.op_type not in RULES:
        raise MixedRows("is an operator that is not known to keep rows apart")
    layouts = RULES[node.op_type](Call(node, opset, tuple(operands), tuple(outputs)))
    return [layouts] * len(outputs) if isinstance(layouts, (BatchAxis, Unbatched)) else list(layouts)


def _layout_of(samples: Sequence[np.ndarray]) -> RowLayout:
    """Whether a value that follows from shapes has rows: pieces of an axis that are all alike."""
    first = samples[0]
    if all(np.array_equal(sample, first) for sample in samples):
        return Unbatched.SAME
    scaling = scaled_axes([sample.shape for sample in samples])
    if scaling is None or len(scaling) != 1:
        return Unbatched.COUNT
    (axis,) = scaling
    alike = all(
        np.array_equal(piece, first)
        for sample, count in zip(samples, COUNTS, strict=True)
        for piece in np.split(sample, count, axis)
    )
    return BatchAxis(axis, 1, first.shape[axis]) if alike else Unbatched.COUNT


def _contradiction(output: Tracked, layout: RowLayout) -> MixedRows | None:
    """Dims that are not those of the rule: the second opinion on every step."""
    sizes: list[Dims] = [dims for dims in output.dims if dims is not None]
    if len(sizes) != len(COUNTS):
        return MixedRows("gives a value whose rank is not known")
    if layout is Unbatched.COUNT:
        return None
    for dims, count in zip(sizes, COUNTS, strict=True):
        for axis, size in enumerate(dims):
            wanted = sizes[0][axis]
            if isinstance(layout, BatchAxis) and axis == layout.axis:
                wanted = layout.before * count * layout.behind
            if size != wanted:
                found = ", ".join("any" if size is None else str(size) for size in dims)
                return MixedRows(f"gives [{found}] for {count} rows")
    return None
