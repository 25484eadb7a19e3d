"""An ONNX network as plain nodes, with what is known of each value: types, dims, and constants that are folded.

Two walks are made at once, as :class:`tnn_serving.emit.builder.Builder` makes them: at the default shapes, which decide
ranks and checks, and at any shape, which decides what may be written down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
import onnx
from onnx import inliner, numpy_helper, version_converter

from tnn_serving.conversion.functions import Definition, as_proto, attribute_value, definition
from tnn_serving.emit.inference import OPSET, Dims, Inferred, Known, evaluate, infer, is_small
from tnn_serving.emit.limits import SAMPLE_LIMIT
from tnn_serving.errors import FormatError, LimitError, ShapeError, UnsupportedLayer, located
from tnn_serving.formats.onnx import graphs_of, names_taken, skeleton
from tnn_serving.layers.pattern import OnnxNode, OnnxValue
from tnn_serving.layers.weights import NARROWED
from tnn_serving.tensor import TNN_TYPE

FOLD_LIMIT = 1 << 20
"""Largest constant, in elements, that folding makes out of smaller ones."""

LIKE_ITS_INPUT = "GroupNormalization"
"""An operator that ONNX's inference says nothing of."""

RANDOM_OPERATORS = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


class Origin:
    """An ONNX network in the making of a TNN one.

    Attributes:
        inputs: what the network takes.
        outputs: names of what it gives.
        notes: what holds at the default dims only.
        nodes: in an order in which they can be computed.
        aliases: by an output's name, another value that it is the same as.
    """

    def __init__(self, model: onnx.ModelProto, dims: Mapping[str, Sequence[int]], outputs: Sequence[str] = ()) -> None:
        self.nodes: list[OnnxNode] = []
        self.place = ""
        self.notes: list[str] = []
        self._names: set[str] = set()
        self._read_names: set[str] = set()
        self.opsets: dict[str, int] = {}
        self.scope: dict[str, OnnxValue] = {}
        stored = {item.name: item for item in model.graph.initializer}
        for name, tensor in stored.items():
            self.scope[name] = self._stored(name, numpy_helper.to_array(tensor))
        graph = upgraded(model).graph
        self.opset = OPSET if _opset(model) < OPSET else _opset(model)
        self._names.update(name for node in graph.node for name in node.output)
        unknown = set(dims) - {item.name for item in graph.input if item.name not in stored}
        if unknown:
            raise ShapeError(f"there is no input `{min(unknown)}`", expected=", ".join(i.name for i in graph.input))
        self.inputs = [self._input(item, dims) for item in graph.input if item.name not in stored]
        self.outputs = list(outputs) or [item.name for item in graph.output]
        self._walk(_needed(graph, self.outputs))
        for name in self.outputs:
            self._name_output(name)

    # ---- reading ----

    def _stored(self, name: str, array: np.ndarray) -> OnnxValue:
        self._names.add(name)
        return OnnxValue(name, array.dtype, array.shape, array.shape, array, True)

    def _input(self, item: onnx.ValueInfoProto, given: Mapping[str, Sequence[int]]) -> OnnxValue:
        with located(f"input `{item.name}`"):
            if not item.type.HasField("tensor_type") or not item.type.tensor_type.HasField("shape"):
                raise UnsupportedLayer("TNN takes tensors of a known rank", found=item.type.WhichOneof("value"))
            kind = item.type.tensor_type
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
            known = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
            free = tuple(1 if axis == 0 and size is None else size for axis, size in enumerate(known))
            chosen: Dims = tuple(int(size) for size in given[item.name]) if item.name in given else free
            if len(chosen) != len(known) or any(size is None or size < 1 for size in chosen):
                raise ShapeError(
                    "default dims are needed",
                    expected=f"{len(known)} positive numbers",
                    found=[size or dim.dim_param or "?" for size, dim in zip(known, kind.shape.dim, strict=True)],
                    hint=f"--dims {item.name}=1x3x224x224 gives them; free sizes stay free",
                )
            if any(size is not None and size != want for size, want in zip(known, chosen, strict=True)):
                known = tuple(size if size == want else None for size, want in zip(known, chosen, strict=True))
            _check_type(dtype)
        self._names.add(item.name)
        made = OnnxValue(item.name, dtype, chosen, known)
        self.scope[item.name] = made
        return made

    def _walk(self, nodes: Sequence[onnx.NodeProto]) -> None:
        for proto in nodes:
            self.place = f"ONNX node `{proto.name or proto.output[0]}` ({proto.op_type})"
            with located(self.place):
                self._read(proto, self.opset)

    def _read(self, proto: onnx.NodeProto, opset: int) -> None:
        """Adds a node, or what it stands for, and gives its outputs their names."""
        if proto.op_type == "If" and not proto.domain:
            self._branch(proto, opset)
            return
        if proto.domain not in ("", "ai.onnx"):
            raise UnsupportedLayer(
                f"operators of `{proto.domain}` cannot be converted",
                hint="export the network with ONNX's own operators, without a runtime's fusions",
            )
        if any(True for _ in graphs_of(proto)):
            raise UnsupportedLayer(
                "TNN has no control flow that data decides", hint="export the network with the steps unrolled"
            )
        inputs = [self._found(name) if name else None for name in proto.input]
        attributes = {item.name: attribute_value(item) for item in proto.attribute}
        names = [self.fresh(name) if name in self._read_names else name for name in proto.output]
        self._read_names.update(names)
        made = self.add(proto.op_type, inputs, names, attributes, opset)
        self.scope.update({name: value for name, value in zip(proto.output, made, strict=True) if name})

    def _found(self, name: str) -> OnnxValue:
        if name not in self.scope:
            raise FormatError(f"value `{name}` is not computed before it is read")
        return self.scope[name]

    def _branch(self, proto: onnx.NodeProto, opset: int) -> None:
        condition = self._found(proto.input[0])
        if condition.sample is None:
            raise UnsupportedLayer(
                "TNN has no branches that data decides", hint="export the network with the condition fixed"
            )
        if not condition.constant:
            self.notes.append(f"{self.place}: the branch is that of the default dims")
        wanted = "then_branch" if condition.sample.reshape(-1)[0] else "else_branch"
        graph = next(item.g for item in proto.attribute if item.name == wanted)
        outer = dict(self.scope)
        for tensor in graph.initializer:
            self.scope[tensor.name] = self._stored(tensor.name, numpy_helper.to_array(tensor))
        for node in graph.node:
            self._read(node, opset)
        found = [self.scope[item.name] for item in graph.output]
        self.scope = {**outer, **dict(zip(proto.output, found, strict=True))}

    def inline(self, function: Definition, node: OnnxNode) -> list[OnnxValue]:
        """Adds the nodes of a function in the place of a node; returns the function's outputs."""
        outer, self.scope = self.scope, {}
        given = zip(function.body.input, node.inputs, strict=False)
        self.scope.update({name: value for name, value in given if value is not None})
        try:
            for proto in function.nodes(node):
                self._read(proto, function.opset)
            return [self.scope[name] for name in function.body.output if name in self.scope]
        finally:
            self.scope = outer

    def _name_output(self, name: str) -> None:
        """Lets an output be computed under its own name, where it is another value's alias."""
        value = self.scope.get(name)
        if value is None:
            raise ShapeError(
                f"there is no value `{name}`", hint="--outputs takes names of values, which inspect lists as outputs"
            )
        if value.name == name:
            return
        if value.producer is not None and value.name not in self.outputs:
            self._rename(value, name)
        else:
            self.scope[name] = self.add("Identity", [value], [name], {}, self.opset, kept=True)[0]

    def _rename(self, value: OnnxValue, name: str) -> None:
        value.name = name

    # ---- building ----

    @overload
    def op(self, op_type: str, *inputs: OnnxValue | None, outputs: int, **attributes: Any) -> list[OnnxValue]: ...
    @overload
    def op(self, op_type: str, *inputs: OnnxValue | None, **attributes: Any) -> OnnxValue: ...
    def op(self, op_type: str, *inputs: OnnxValue | None, outputs: int | None = None, **attributes: Any) -> Any:
        """Adds an operator of opset 21; ``None`` is an input left out. Returns its output (a list if asked for)."""
        given = {key: value for key, value in attributes.items() if value is not None}
        stem = next((value.name for value in inputs if value is not None), op_type)
        names = [self.fresh(f"{stem}.{op_type.lower()}") for _ in range(outputs or 1)]
        made = self.add(op_type, list(inputs), names, given, OPSET)
        return made if outputs is not None else made[0]

    def single(self, op_type: str, inputs: Sequence[OnnxValue | None], attributes: Mapping[str, Any]) -> OnnxValue:
        """:meth:`op` of one output, with attributes of any kind."""
        made: OnnxValue = self.op(op_type, *inputs, **attributes)
        return made

    def const(self, array: Any, dtype: Any = None) -> OnnxValue:
        """A constant; ints become int64, floats float32."""
        found = np.asarray(array, dtype)
        if dtype is None and found.dtype == np.float64:
            found = found.astype(np.float32)
        return self._stored(self.fresh("const"), found)

    def like(self, x: OnnxValue, number: float) -> OnnxValue:
        """A scalar of the type of ``x``."""
        return self.const(np.array(number, x.dtype))

    def ints(self, *numbers: int) -> OnnxValue:
        """A 1-D int64 constant."""
        return self.const(np.array(numbers, np.int64))

    def fresh(self, stem: str) -> str:
        """A name that nothing has."""
        name, count = stem, 1
        while name in self._names:
            count += 1
            name = f"{stem}{count}"
        self._names.add(name)
        return name

    def add(
        self,
        op_type: str,
        inputs: list[OnnxValue | None],
        names: Sequence[str],
        attributes: dict[str, Any],
        opset: int,
        *,
        kept: bool = False,
    ) -> list[OnnxValue]:
        """Adds a node with outputs of these names; or what it is the same as, a constant or an input.

        Args:
            kept: even if it changes nothing.

        Raises:
            ShapeError: the inputs do not fit the operator.
            UnsupportedLayer: a type that TNN does not have, or a shape that only data tell.
        """
        if not kept:
            if op_type == "Constant":
                return [self._stored(name, _constant(attributes)) for name in names]
            same = _same(op_type, inputs, attributes, len(names))
            if same is not None:
                return [same]
            sizes = _sizes(op_type, inputs, attributes)
            if sizes is not None:
                return [self._stored(names[0], sizes)]
        node = OnnxNode(op_type, inputs, [], attributes, self.place, opset)
        shown = [name or self.fresh(f"{op_type.lower()}.unused") for name in names]
        proto = as_proto(node, shown)
        operands = [value for value in inputs if value is not None]
        inferred, lasting = self._inferred(proto, operands, opset)
        if op_type == LIKE_ITS_INPUT:
            inferred = {name: Inferred(operands[0].dtype, operands[0].dims) for name in inferred}
            lasting = {name: Inferred(operands[0].dtype, operands[0].known) for name in inferred}
        if any(inferred[name].dims is None for name in shown) and (function := definition(node)) is not None:
            return self.inline(function, node)[: len(names)]
        if not kept and op_type not in RANDOM_OPERATORS and all(value.constant for value in operands):
            folded = _folded(proto, shown, operands, inferred, opset)
            if folded is not None:
                return [self._stored(name, array) for name, array in zip(shown, folded, strict=True)]
        samples = self._samples(proto, op_type, shown, operands, inferred, opset)
        used = [name for name in names if name]
        for k, name in enumerate(shown):
            dtype, dims = inferred[name]
            known = lasting[name].dims
            sample = None if samples is None else samples[k]
            if sample is not None:
                dims = sample.shape
            if dims is None:
                raise UnsupportedLayer(
                    f"the rank of `{name}` depends on data", hint="export the network with shapes that can be inferred"
                )
            if known is None or len(known) != len(dims):
                known = (None,) * len(dims)
            if names[k]:
                _check_type(dtype)
            self._names.add(name)
            node.outputs.append(OnnxValue(name, dtype, dims, known, sample, producer=node))
        while len(node.outputs) > max(1, len(used)) and not names[len(node.outputs) - 1]:
            node.outputs.pop()
        for value in operands:
            value.readers.append(node)
        self.nodes.append(node)
        made = {value.name: value for value in node.outputs}
        return [made.get(name, OnnxValue("", np.dtype(np.float32), (), ())) for name in shown]

    def remove(self, node: OnnxNode) -> None:
        """Takes a node's readings away: something else has its place."""
        for value in node.inputs:
            if value is not None and node in value.readers:
                value.readers.remove(node)

    @staticmethod
    def _inferred(
        proto: onnx.NodeProto, operands: Sequence[OnnxValue], opset: int
    ) -> tuple[dict[str, Inferred], dict[str, Inferred]]:
        try:
            at_default = [Known(v.name, v.dtype, v.dims, v.sample) for v in operands]
            at_any = [Known(v.name, v.dtype, v.known, v.sample if v.constant else None) for v in operands]
            found = infer(proto, at_default, opset)
            return found, infer(proto, at_any, opset)
        except onnx.defs.SchemaError as error:
            raise UnsupportedLayer("operator is unknown to ONNX", found=proto.op_type) from error
        except Exception as error:
            reason = str(error).removeprefix("[ShapeInferenceError] ").removeprefix("[TypeInferenceError] ")
            raise ShapeError(f"inputs do not fit ONNX {proto.op_type}", found=" ".join(reason.split())[:300]) from error

    @staticmethod
    def _samples(
        proto: onnx.NodeProto,
        op_type: str,
        names: Sequence[str],
        operands: Sequence[OnnxValue],
        inferred: Mapping[str, Inferred],
        opset: int,
    ) -> list[np.ndarray] | None:
        """The outputs at the default shapes, where the inputs are known and small."""
        if op_type == "Shape" and not proto.attribute:
            dims = operands[0].dims
            return None if None in dims else [np.array(dims, np.int64)]
        if not operands or any(v.sample is None or v.sample.size > SAMPLE_LIMIT for v in operands):
            return None
        known = [Known(v.name, v.dtype, v.dims, v.sample) for v in operands]
        if not is_small(op_type, known, inferred.values()):
            return None
        try:
            return evaluate(proto, names, {v.name: v.sample for v in operands if v.sample is not None}, opset)
        except Exception:  # the reference has no kernel for these operands: the value stays unknown
            return None


def upgraded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network without its large constants, its own functions inlined, in opset 21 or the newer one that it has.

    Raises UnsupportedLayer if ONNX's version converter does not bring it there.
    """
    made = skeleton(model)
    if made.functions:
        made = inliner.inline_local_functions(made)
    version = _opset(model)
    if version >= OPSET:
        return made
    try:
        return version_converter.convert_version(made, OPSET)
    except Exception as error:
        raise UnsupportedLayer(
            f"ONNX cannot bring the network from opset {version} to {OPSET}",
            found=" ".join(str(error).split())[:300],
            hint="export it with a newer opset",
        ) from error


def _needed(graph: onnx.GraphProto, outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that these outputs need, in their order."""
    names, found = set(outputs), []
    for node in reversed(graph.node):
        if not names.isdisjoint(node.output):
            names |= names_taken(node)
            found.append(node)
    return found[::-1]


def _opset(model: onnx.ModelProto) -> int:
    return next((int(item.version) for item in model.opset_import if item.domain in ("", "ai.onnx")), OPSET)


def _check_type(dtype: np.dtype) -> None:
    """Raises UnsupportedLayer for elements that TNN has no type for."""
    if dtype not in TNN_TYPE and dtype not in NARROWED:
        raise UnsupportedLayer(
            "TNN has no such element type",
            expected=", ".join(map(str, TNN_TYPE)),
            found="strings" if dtype.kind == "O" else dtype,
        )


def _constant(attributes: Mapping[str, Any]) -> np.ndarray:
    (name, value), *_ = attributes.items()
    if name == "value":
        return np.asarray(value)
    if name in ("value_float", "value_floats"):
        return np.array(value, np.float32)
    if name in ("value_int", "value_ints"):
        return np.array(value, np.int64)
    raise UnsupportedLayer("TNN has no such constant", found=name)


def _same(
    op_type: str, inputs: Sequence[OnnxValue | None], attributes: Mapping[str, Any], outputs: int
) -> OnnxValue | None:
    """The input that a node passes on, if it does nothing else."""
    x = inputs[0] if inputs else None
    if x is None or outputs != 1:
        return None
    if op_type == "Identity" or (op_type in ("Max", "Min", "Sum", "Mean", "Concat") and len(inputs) == 1):
        return x
    if op_type == "Dropout":
        mode = inputs[2] if len(inputs) > 2 else None
        return x if mode is None or (mode.constant and not mode.fixed().any()) else None
    return None


def _sizes(op_type: str, inputs: Sequence[OnnxValue | None], attributes: Mapping[str, Any]) -> np.ndarray | None:
    """Dims that hold at any shape: of Shape, or those that Gather takes out of one."""
    x = inputs[0] if inputs else None
    if op_type == "Shape" and x is not None:
        dims = x.known[attributes.get("start", 0) : attributes.get("end", x.rank)]
        return None if None in dims else np.array(dims, np.int64)
    if op_type != "Gather" or x is None or x.producer is None or x.producer.op_type != "Shape" or x.producer.attributes:
        return None
    places, whole = inputs[1], x.producer.need(0)
    if places is None or not places.constant:
        return None
    taken = [whole.known[int(place)] for place in places.fixed().reshape(-1)]
    return None if None in taken else np.array(taken, np.int64).reshape(places.dims)


def _folded(
    proto: onnx.NodeProto,
    names: Sequence[str],
    operands: Sequence[OnnxValue],
    inferred: Mapping[str, Inferred],
    opset: int,
) -> list[np.ndarray] | None:
    """The outputs of a node of constants; ``None`` if they are too large to be computed here, or cannot be."""
    most = max(FOLD_LIMIT, 4 * sum(v.fixed().size for v in operands))
    for found in inferred.values():
        if found.dims is not None and math.prod(size or 0 for size in found.dims) > most:
            raise LimitError("a constant is too large", expected=f"at most {most} elements", found=list(found.dims))
    try:
        return evaluate(proto, names, {v.name: v.fixed() for v in operands}, opset)
    except Exception:  # the reference has no kernel for these operands
        return None
