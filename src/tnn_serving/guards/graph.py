"""Puts guards into an ONNX model.

An operand that must be in a range is one of four things:

- a stored value, whose range is checked here, or in each inference where it depends on the shape of an input;
- an input, or an input in another shape or type: it is checked before the inference, and costs nothing in the graph;
- computed: the graph limits it to the range, so that an engine never sees another value, and tells what it was;
- inside a loop, a branch or a function: left to engines that refuse what is out of range.

Sizes that a request's values decide are kept from asking for more elements than there is memory for in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from tnn_serving.emit.limits import MAX_ELEMENTS
from tnn_serving.errors import EngineError
from tnn_serving.formats.onnx import graphs_of, nodes_within
from tnn_serving.guards.checks import ENTRIES, FARTHEST, GUARDS, Checks, GraphCheck, InputCheck, Limit, out_of_range
from tnn_serving.guards.executable import Guarded
from tnn_serving.guards.facts import GraphFacts, Source
from tnn_serving.guards.nodes import NodeList
from tnn_serving.guards.rules import (
    ANY_INTEGER,
    AXES,
    CONDITIONS,
    DIVISIONS,
    INDICES,
    NOT_OF_A_REQUEST,
    RANGES,
    REFUSED_BY_ONE,
    STORED,
    Line,
    Span,
    deciding,
)
from tnn_serving.guards.sizes import condition_of, finite

INT32_LIMITS = np.iinfo(np.int32)

TRAPPING = (np.dtype(np.int32), np.dtype(np.int64))
"""Types whose divisions are the processor's own: smaller ones are divided as int32, unsigned ones have no -1."""

LEAST_OPSET = 9
"""The first set of operators with Where, and with comparisons of integers."""


def guard(model: onnx.ModelProto, memory_bytes: float) -> Guarded:
    """A model with its guards, which are put into it: ``model`` itself is changed.

    Args:
        memory_bytes: what the network may need at one shape.

    Raises EngineError for stored indices that are out of range.
    """
    kinds = {node.op_type for node in nodes_within(model.graph)}
    kinds |= {node.op_type for function in model.functions for node in function.node}
    if not any(map(deciding, kinds)):
        return Guarded(model)
    return _Guarding(model, memory_bytes).guarded()


@dataclass(frozen=True, slots=True)
class _Computed:
    """A limit that only the graph knows.

    Attributes:
        size: the value that it follows from, an int64 without dims.
        line: how.
    """

    size: str
    line: Line


class _Guarding:
    """One model that gets its guards."""

    def __init__(self, model: onnx.ModelProto, memory_bytes: float) -> None:
        self._model = model
        self._facts = GraphFacts(model)
        self._memory_bytes = memory_bytes
        opset = next((item.version for item in model.opset_import if not item.domain), 0)
        self._can_compute = opset >= LEAST_OPSET
        self._made = NodeList()
        self._before: dict[InputCheck, None] = {}
        self._behind: list[GraphCheck] = []
        self._entries: list[str] = []
        self._unguarded = ""
        self._saturated: set[str] = set()

    def guarded(self) -> Guarded:
        """Goes over the nodes that the outputs need, in order."""
        graph, made = self._model.graph, self._made
        for function in self._model.functions:
            self._leave(function.node)
        for node in graph.node:
            if any(name in self._facts.live for name in node.output):  # some engines would run the others as well
                for inner in graphs_of(node):
                    self._leave(nodes_within(inner))
                self._guard(node)
                made.nodes.append(node)
        if self._entries:
            joined = made.op("Concat", *self._entries, axis=0)
            high, low = made.ints([INT32_LIMITS.max]), made.ints([INT32_LIMITS.min])
            limited = made.limited(joined, low, high)
            made.nodes.append(onnx.helper.make_node("Cast", [limited], [GUARDS], name=GUARDS, to=TensorProto.INT32))
            count = ENTRIES * len(self._behind)
            graph.output.append(onnx.helper.make_tensor_value_info(GUARDS, TensorProto.INT32, [count]))
        nodes = list(made.nodes)
        if len(nodes) != len(graph.node) or made.initializers:
            del graph.node[:]
            graph.node.extend(nodes)
            graph.initializer.extend(made.initializers)
        return Guarded(self._model, Checks(tuple(self._before), tuple(self._behind), self._unguarded))

    def _leave(self, nodes: Iterable[onnx.NodeProto]) -> None:
        """Nodes that do not get guards: engines may have to refuse what is out of range."""
        inner = list(nodes)
        stored = {name for node in inner if node.op_type == "Constant" for name in node.output}
        stored |= {item.name for node in inner for graph in graphs_of(node) for item in graph.initializer}
        for node in inner:
            if node.op_type in DIVISIONS:  # whether of integers is not known here
                continue
            for name in _operands(node, deciding(node.op_type)).values():
                if name not in stored and self._facts.value(name) is None:
                    if node.op_type in STORED or node.op_type in NOT_OF_A_REQUEST:
                        raise _not_stored(node, name, "a stored value")
                    self._leave_alone(node)

    def _leave_alone(self, node: onnx.NodeProto) -> None:
        self._unguarded = self._unguarded or _title(node)

    def _guard(self, node: onnx.NodeProto) -> None:
        kind = node.op_type
        if kind in AXES:
            for name in _operands(node, {AXES[kind]}).values():
                if self._facts.source(name) is not Source.STORED:
                    self._leave_alone(node)
        self._refuse(node)
        if kind in DIVISIONS:
            self._divide(node)
        if kind in RANGES:
            second = self._facts.dims(node.input[1]) if len(node.input) > 1 else None
            depth = second[-1] if second else None
            ranges = RANGES[kind](node, depth if isinstance(depth, int) else None)
            if ranges is None:
                self._leave_alone(node)
            else:
                self._keep_in_range(node, list(ranges))
        for name in _operands(node, set(ANY_INTEGER.get(kind, ()))).values():
            self._saturate(node, name)
        if kind in CONDITIONS:
            self._keep_small(node)

    def _refuse(self, node: onnx.NodeProto) -> None:
        """Raises EngineError for a node that no engine may run, and leaves one alone that some may."""
        kind = node.op_type
        for name in _operands(node, set(STORED.get(kind, ()))).values():
            if self._facts.source(name) is not Source.STORED:
                raise _not_stored(node, name, "a stored value")
        for name in _operands(node, set(NOT_OF_A_REQUEST.get(kind, ()))).values():
            if self._facts.source(name) is Source.VALUES:
                raise _not_stored(node, name, "a stored value, or one that follows from the shapes of inputs")
        for name in _operands(node, set(REFUSED_BY_ONE.get(kind, ()))).values():
            if self._facts.source(name) is Source.VALUES:
                self._leave_alone(node)

    # ---- divisions ----

    def _divide(self, node: onnx.NodeProto) -> None:
        """Keeps -1 and 0 from the divisor of integers."""
        made, (number, divisor) = self._made, node.input
        dtype = self._facts.dtype(node.output[0]) or self._facts.dtype(divisor) or self._facts.dtype(number)
        given = self._facts.value(divisor)
        if given is not None and not ((given == 0) | (given == -1)).any():
            return
        if dtype not in TRAPPING:  # or not known, behind operators that are not ONNX's own
            return
        if Source.VALUES not in map(self._facts.source, node.input):
            return
        if not self._can_compute:
            expected = f"version {LEAST_OPSET} of ONNX's operators, or a newer one"
            raise EngineError(
                f"{_title(node)} divides integers of a request, which is not supported", expected=expected
            )
        zero, one = (made.constant(np.array(value, dtype)) for value in (0, 1))
        is_zero = made.op("Equal", divisor, zero)
        flags = made.flat(made.op("Where", is_zero, made.ints([0]), made.ints([1])))
        least = made.op("ReduceMin", made.op("Concat", flags, made.ints([1]), axis=0), keepdims=1)
        self._entries += [least, made.ints([1]), least, made.ints([1])]
        self._behind.append(GraphCheck(divisor, _title(node), "not 0"))
        is_minus_one = made.op("Equal", divisor, made.constant(np.array(-1, dtype)))
        node.input[1] = made.op("Where", made.op("Or", is_zero, is_minus_one), one, divisor)
        # What a division by -1 gives, where the divisor is 1 in its place: the opposite, or no remainder.
        output = node.output[0]
        quotient = made.op(node.op_type, *node.input)
        made.nodes[-1].attribute.extend(node.attribute)
        instead = zero if node.op_type == "Mod" else made.op("Sub", zero, number)
        node.op_type, node.input[:] = "Where", [is_minus_one, instead, quotient]
        del node.attribute[:]
        node.output[:] = [output]

    # ---- ranges ----

    def _keep_in_range(self, node: onnx.NodeProto, ranges: list[Span]) -> None:
        """Takes the ranges of one operand: several are for the columns of tuples."""
        operand = INDICES.get(node.op_type, 1)
        name = _operands(node, {operand}).get(operand)
        if name is None or not ranges:
            return
        if ranges[0].extent is None and self._facts.source(name) is not Source.VALUES:
            return
        limits = [(self._limit(node, item, item.low), self._limit(node, item, item.high)) for item in ranges]
        if all(self._check_outside(node, name, item, pair) for item, pair in zip(ranges, limits, strict=True)):
            return
        if not self._can_compute:
            self._leave_alone(node)
            return
        made = self._made
        self._saturate(node, name)
        values = made.as_int64(name)
        edges = [(self._as_value(low), self._as_value(high)) for low, high in limits]
        for item, (low, high) in zip(ranges, edges, strict=True):
            column = values
            if item.column is not None:
                column = made.op("Gather", values, made.ints([item.column]), axis=-1)
            flat = made.flat(column)
            least = made.op("ReduceMin", made.op("Concat", flat, low, axis=0), keepdims=1)
            most = made.op("ReduceMax", made.op("Concat", flat, high, axis=0), keepdims=1)
            self._entries += [least, low, most, high]
            self._behind.append(GraphCheck(name, _title(node)))
        if len(edges) > 1 or ranges[0].column is not None:
            low, high = (made.op("Concat", *(edge[k] for edge in edges), axis=0) for k in (0, 1))
        else:  # without dims, so that an index without dims stays one
            low, high = (made.op("Reshape", edge, made.ints([])) for edge in edges[0])
        kept = made.limited(values, low, high)
        kind = self._facts.kind(name) or (TensorProto.INT32 if operand == 4 else TensorProto.INT64)
        node.input[operand] = made.op("Cast", kept, to=kind)

    def _limit(self, node: onnx.NodeProto, item: Span, line: Line) -> Limit | _Computed:
        factor, offset = line
        if item.extent is None or not factor:
            return Limit(offset)
        name = node.input[item.extent.operand]
        dims = self._facts.dims(name)
        axis = item.extent.axis
        if dims is not None and -len(dims) <= axis < len(dims):
            dim = dims[axis]
            place = self._facts.place(dim)
            if isinstance(dim, int):
                return Limit(factor * dim + offset)
            if place is not None:
                return Limit(offset, factor, place.input, place.axis)
        shape = self._made.op("Shape", name)
        return _Computed(self._made.op("Gather", shape, self._made.constant(np.array(axis, np.int64)), axis=0), line)

    def _as_value(self, limit: Limit | _Computed) -> str:
        """A limit in the graph, as a vector of one int64."""
        made = self._made
        if isinstance(limit, Limit) and not limit.factor:
            return made.ints([limit.offset])
        if isinstance(limit, Limit):
            shape = made.op("Shape", limit.input)
            size = made.op("Gather", shape, made.constant(np.array(limit.axis, np.int64)), axis=0)
            limit = _Computed(size, (limit.factor, limit.offset))
        factor, offset = limit.line
        size = made.flat(limit.size)
        return made.op("Add", made.op("Mul", size, made.ints([factor])), made.ints([offset]))

    def _check_outside(
        self, node: onnx.NodeProto, name: str, item: Span, limits: tuple[Limit | _Computed, Limit | _Computed]
    ) -> bool:
        """Whether a range can be checked without the graph; then it is, or is going to be."""
        low, high = limits
        if isinstance(low, _Computed) or isinstance(high, _Computed):
            return False
        value = self._facts.value(name)
        if value is None:
            given = self._facts.moved_input(name) if item.column is None else None
            if given is not None:
                self._before[InputCheck(given, _title(node), low, high)] = None
            return given is not None
        column = value if item.column is None else value[..., item.column]
        if not column.size:
            return True
        stored = int(column.min()), int(column.max())
        if low.factor or high.factor:
            self._before[InputCheck(name, _title(node), low, high, stored)] = None
        elif stored[0] < low.offset or stored[1] > high.offset:
            wrong = stored[0] if stored[0] < low.offset else stored[1]
            error = out_of_range(name, _title(node), (low.offset, high.offset), wrong)
            raise EngineError(error.problem, expected=error.expected, found=error.found)
        return True

    def _saturate(self, node: onnx.NodeProto, name: str) -> None:
        """Makes numbers that no index can be the same on every engine: those beyond 32 bits, which some cut, are
        refused; those that become integers, and NaN, are one large number then."""
        for given in self._facts.wide_inputs(name):
            self._before[InputCheck(given, _title(node), Limit(INT32_LIMITS.min), Limit(INT32_LIMITS.max))] = None
        for cast in self._facts.rounded(name):
            if cast.output[0] not in self._saturated:
                self._saturated.add(cast.output[0])
                with self._made.before(cast):
                    double = self._facts.dtype(cast.input[0]) == np.float64
                    number = cast.input[0] if double else self._made.as_float(cast.input[0])
                    cast.input[0] = finite(self._made, number, np.dtype(np.float64 if double else np.float32))

    # ---- sizes ----

    def _keep_small(self, node: onnx.NodeProto) -> None:
        operands = CONDITIONS[node.op_type] if len(node.input) > 2 or node.op_type != "Resize" else (1,)
        given = _operands(node, set(operands))
        deciding = [k for k, name in given.items() if self._facts.source(name) is Source.VALUES]
        if not deciding:
            return
        name = node.input[deciding[-1]]
        for k in deciding:
            self._saturate(node, node.input[k])
        dtype = self._facts.dtype(node.output[0]) or np.dtype(np.float32)
        limit = min(MAX_ELEMENTS, FARTHEST, int(min(self._memory_bytes, 1 << 62)) // dtype.itemsize)
        made = self._made
        condition = condition_of(node, deciding[-1], self._facts, made, limit) if self._can_compute else None
        if condition is None:
            self._leave_alone(node)
            return
        self._entries += condition.entries
        self._behind.append(GraphCheck(name, _title(node), condition.expected))
        good = made.op("Reshape", condition.good, made.ints([]))
        for k, instead in condition.instead.items():
            node.input[k] = made.op("Where", good, condition.right.get(k, node.input[k]), instead)


def _operands(node: onnx.NodeProto, numbers: set[int]) -> dict[int, str]:
    """The operands with these numbers that a node has."""
    return {k: node.input[k] for k in sorted(numbers) if k < len(node.input) and node.input[k]}


def _not_stored(node: onnx.NodeProto, name: str, expected: str) -> EngineError:
    return EngineError(f"{_title(node)} takes `{name}` from a request, which is not supported", expected=expected)


def _title(node: onnx.NodeProto) -> str:
    return f"node `{node.name or node.output[0]}` ({node.op_type})"
