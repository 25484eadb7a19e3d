"""A small typed layer over the ONNX IR: operators in, values with known rank, type and default dims out.

Every operator is inferred by ONNX's own rules at the network's default shapes the moment it is added, so a layer that
does not fit is refused by name, and shape arithmetic is known without running anything. The dims of a value are those
at the default shapes: they decide ranks and checks, and must never be written into the graph where TNN recomputes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import onnx
import onnx_ir as ir

from tnn_serving.emit.inference import (
    COMPUTED_LIMIT,
    Dims,
    Known,
    evaluate,
    infer,
    is_small,
    result_dims,
)
from tnn_serving.emit.limits import SAMPLE_LIMIT, UNLIMITED, Limits
from tnn_serving.errors import LimitError, ShapeError, WeightsError, located
from tnn_serving.tensor import Tensor

LAYER_KEY = "tnn.layer"
"""Metadata of each node: the TNN layer that it was made for."""

SIZE_OPERANDS: dict[str, tuple[int, ...]] = {
    "Expand": (1,),
    "Tile": (1,),
    "Reshape": (1,),
    "Pad": (1,),
    "OneHot": (1,),
    "Resize": (2, 3),
    "Range": (0, 1, 2),
}
"""Operators whose output is as large as the value of an operand says."""


class Value:
    """A tensor of the ONNX graph under construction.

    Attributes:
        dtype: element type.
        dims: dims at the network's default shapes; ``None`` where they depend on data.
        known: dims that hold at any shape; ``None`` where the caller's shapes decide.
        sample: the value at the default shapes, for constants and for small results of shape arithmetic.
        constant: True if ``sample`` holds at any shape.
    """

    __slots__ = ("constant", "dims", "dtype", "ir", "known", "sample")

    def __init__(
        self,
        value: ir.Value,
        dtype: np.dtype,
        dims: Dims,
        sample: np.ndarray | None = None,
        constant: bool = False,
        known: Dims | None = None,
    ) -> None:
        self.ir = value
        self.dtype = dtype
        self.dims = dims
        self.known = dims if known is None else known
        self.sample = sample
        self.constant = constant

    @property
    def rank(self) -> int:
        """Number of dims; the same at any shape."""
        return len(self.dims)

    def dim(self, axis: int) -> int:
        """The size of an axis at the default shapes. Raises ShapeError if it depends on data."""
        size = self.dims[axis]
        if size is None:
            raise ShapeError(f"axis {axis} of blob `{self.ir.name}` depends on data")
        return size

    def axis(self, axis: int) -> int:
        """An axis counted from the front. Raises ShapeError if there is none such."""
        if not -self.rank <= axis < self.rank:
            raise ShapeError("axis is out of range", expected=f"{-self.rank} to {self.rank - 1}", found=axis)
        return axis % self.rank

    def fixed(self) -> np.ndarray:
        """The value of a constant. Raises ShapeError for a value that is computed at run time."""
        if not self.constant or self.sample is None:
            raise ShapeError(f"blob `{self.ir.name}` must be a constant")
        return self.sample

    def __repr__(self) -> str:
        return f"Value({self.ir.name}, {self.dtype}, {list(self.dims)})"


class Builder:
    """Collects the nodes and initializers of one ONNX graph.

    Attributes:
        scope: the layer that nodes are made for.
        fixed: sizes (value, axis, size) that were written into the graph, which holds at no other size then.
        sizing: values of unknown content that decide how large something is.
    """

    def __init__(self, limits: Limits = UNLIMITED) -> None:
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self.scope = ""
        self.fixed: list[tuple[str, int, int]] = []
        self.sizing: list[ir.Value] = []
        self.limits = limits
        self._input_bytes = 0
        self._bytes: dict[ir.Value, int] = {}
        self._names: dict[str, int] = {}
        self._shared: dict[tuple[str, tuple[int, ...], bytes], Value] = {}

    def check_made(self, count: int) -> None:
        """Raises LimitError for a constant that a layer makes up from its parameters and that would be too large."""
        if count > COMPUTED_LIMIT:
            raise LimitError("a parameter is too large", expected=f"at most {COMPUTED_LIMIT}", found=count)

    # ---- values ----

    def input(
        self,
        name: str,
        dtype: np.dtype,
        dims: Sequence[int],
        symbols: Sequence[int | str],
        sample: np.ndarray | None = None,
    ) -> Value:
        """A graph input with its default dims, the dims (numbers and names) that the model declares, and its content
        where that is known. Raises LimitError for one that is too large."""
        with located(f"input `{name}`"):
            self._input_bytes += self.limits.check_tensor(dims, np.dtype(dtype))
        value = ir.Value(name=name, type=ir.TensorType(ir.DataType.from_numpy(dtype)), shape=ir.Shape(symbols))
        self._names.setdefault(name, 0)
        known = tuple(symbol if isinstance(symbol, int) else None for symbol in symbols)
        return Value(value, np.dtype(dtype), tuple(dims), sample, known=known)

    def const(
        self,
        source: Tensor | np.ndarray | np.generic | float | Sequence[int] | Sequence[float],
        dtype: Any = None,
        *,
        dims: Sequence[int] | None = None,
        name: str | None = None,
    ) -> Value:
        """An initializer. Half and bfp16 weights become float32, the rest stay views of the file.

        Args:
            source: a stored tensor, an array, a number, or a list of numbers (ints become int64).
            dtype: converts to it if given.
            dims: the shape it must have; -1 is not allowed.
            name: used as it is; otherwise made from the layer's name.

        Raises:
            WeightsError: ``source`` has another number of elements than ``dims``.
        """
        array = source.shaped() if isinstance(source, Tensor) else np.asarray(source)
        if dtype is not None:
            array = array.astype(dtype, copy=False)
        elif array.dtype == np.float64:
            array = array.astype(np.float32)
        if dims is not None:
            if array.size != math.prod(dims):
                shape = " x ".join(map(str, dims)) or "1"
                raise WeightsError(
                    "weights do not fit the layer",
                    expected=f"{math.prod(dims)} values ({shape})",
                    found=f"{array.size} values",
                    hint="proto and model may come from different exports",
                )
            array = array.reshape(tuple(dims))
        small = array.size <= 64 and name is None
        key = (array.dtype.str, array.shape, array.tobytes() if small else b"")
        if small and key in self._shared:
            return self._shared[key]
        label = name or self._unique(f"{self.scope}/const" if self.scope else "const")
        if name:
            self._names.setdefault(name, 0)
        value = ir.Value(
            name=label,
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            shape=ir.Shape(array.shape),
            const_value=ir.Tensor(array, name=label),
        )
        self.initializers[label] = value
        made = Value(value, array.dtype, array.shape, array, constant=True)
        if small:
            self._shared[key] = made
        return made

    def ints(self, *numbers: int) -> Value:
        """A 1-D int64 constant, as shape operands want it."""
        return self.const(np.array(numbers, np.int64))

    # ---- operators ----

    @overload
    def op(self, op_type: str, *inputs: Value | None, outputs: int, **attributes: Any) -> list[Value]: ...
    @overload
    def op(self, op_type: str, *inputs: Value | None, **attributes: Any) -> Value: ...
    def op(self, op_type: str, *inputs: Value | None, outputs: int | None = None, **attributes: Any) -> Any:
        """Adds an ONNX operator; ``None`` is an input left out. Returns its output (a list if asked for).

        Raises:
            ShapeError: ONNX's own inference says that the inputs do not fit.
            LimitError: the output is too large, or the time for loading is over.
        """
        self.limits.check_time()
        given = {key: value for key, value in attributes.items() if value is not None}
        label = self._unique(f"{self.scope}/{op_type}" if self.scope else op_type)
        count = outputs or 1
        names = [f"{label}_out{k}" if count > 1 else f"{label}_out" for k in range(count)]
        node = ir.node(
            op_type,
            _without_trailing([None if value is None else value.ir for value in inputs]),
            given,
            outputs=[ir.Value(name=name) for name in names],
            name=label,
            metadata_props={LAYER_KEY: self.scope} if self.scope else None,
        )
        if op_type in ("Conv", "MaxPool", "AveragePool"):
            _check_window(inputs, given)
        made = self._inferred(node, op_type, inputs, names)
        self.nodes.append(node)
        return made if outputs is not None else made[0]

    def _inferred(self, node: ir.Node, op_type: str, inputs: Sequence[Value | None], names: list[str]) -> list[Value]:
        proto = ir.serde.serialize_node(node)
        operands = [value for value in inputs if value is not None]
        known_operands = [Known(v.ir.name or "", v.dtype, v.dims, v.sample) for v in operands]
        try:
            inferred = infer(proto, known_operands)
            lasting = inferred
            if any(v.known != v.dims or (v.sample is not None and not v.constant) for v in operands):
                lasting = infer(
                    proto,
                    [Known(v.ir.name or "", v.dtype, v.known, v.sample if v.constant else None) for v in operands],
                )
        except Exception as error:
            reason = str(error).removeprefix("[ShapeInferenceError] ").removeprefix("[TypeInferenceError] ")
            raise ShapeError(f"inputs do not fit ONNX {op_type}", expected=reason, found=_seen(operands)) from error
        for found in inferred.values():
            self._check_size(op_type, inputs, result_dims(op_type, known_operands, found), found.dtype)
        small = is_small(op_type, known_operands, inferred.values())
        try:
            samples = self._samples(proto, op_type, inputs, names) if small else None
        except Exception as error:
            raise ShapeError(f"inputs do not fit ONNX {op_type}", expected=str(error), found=_seen(operands)) from error
        constant = samples is not None and all(v is None or v.constant for v in inputs)
        made = []
        for k, name in enumerate(names):
            dtype, dims = inferred[name].dtype, inferred[name].dims or ()
            sample = None if samples is None else samples[k]
            if sample is not None:
                dims = sample.shape
            known = lasting[name].dims or ()
            if len(known) != len(dims):
                known = dims if constant else (None,) * len(dims)
            output = node.outputs[k]
            output.type = ir.TensorType(ir.DataType.from_numpy(dtype))
            output.shape = ir.Shape(known)
            self._bytes[output] = self.limits.check_tensor(dims, dtype)
            made.append(Value(output, dtype, dims, sample, constant, known))
        if op_type == "Reshape":
            _check_reshape(inputs[0], made[0])
        return made

    def _check_size(self, op_type: str, inputs: Sequence[Value | None], dims: Dims | None, dtype: np.dtype) -> None:
        """Checks an output before it is computed; notes the operand that decides about dims that are not known yet.

        Raises LimitError if it is too large.
        """
        if dims is not None and None not in dims:
            self.limits.check_tensor(dims, dtype)
            return
        self.sizing += [
            operand.ir
            for k in SIZE_OPERANDS.get(op_type, ())
            if k < len(inputs) and (operand := inputs[k]) is not None and operand.sample is None
        ]

    def memory(self) -> tuple[int, int]:
        """Estimated bytes of the weights as the engine gets them, and of the activations alive at one time.

        Counted in file order at the dims that were translated: a tensor lives from the operator that makes it to its
        last reader, inputs throughout. Engines share memory better where they can, and need working space besides.
        """
        last = {value: k for k, node in enumerate(self.nodes) for value in node.inputs if value is not None}
        ending: dict[int, int] = {}
        alive = most = self._input_bytes
        for k, node in enumerate(self.nodes):
            for value in node.outputs:
                size = self._bytes.get(value, 0)
                alive += size
                end = last.get(value)
                if end is not None:
                    ending[end] = ending.get(end, 0) + size
            most = max(most, alive)
            alive -= ending.pop(k, 0)
        constants = (value.const_value for value in self.initializers.values() if value in last)
        return sum(constant.nbytes for constant in constants if constant is not None), most

    @staticmethod
    def _samples(
        proto: onnx.NodeProto, op_type: str, inputs: Sequence[Value | None], names: list[str]
    ) -> list[np.ndarray] | None:
        """The outputs at the default shapes, where the inputs are known and small."""
        if op_type == "Shape" and inputs[0] is not None and not proto.attribute:
            dims = inputs[0].dims
            return None if None in dims else [np.array(dims, np.int64)]
        feeds: dict[str, np.ndarray] = {}
        for value in inputs:
            if value is None:
                continue
            if value.sample is None or value.sample.size > SAMPLE_LIMIT:
                return None
            feeds[value.ir.name or ""] = value.sample
        if not feeds:
            return None
        return evaluate(proto, names, feeds)

    # ---- short words for what layers say often ----

    def shape(self, x: Value) -> Value:
        """The dims of ``x`` as int64 [rank]."""
        return self.op("Shape", x)

    def size(self, x: Value, axis: int) -> Value:
        """One dim of ``x`` as int64 [1]: read at run time, a constant where it is the same at any shape."""
        lasting = x.known[x.axis(axis)]
        if lasting is not None:
            return self.ints(lasting)
        return self.op("Gather", self.shape(x), self.ints(x.axis(axis)), axis=0)

    def fix(self, x: Value, axis: int) -> int:
        """The default size of an axis, for the few layers that no ONNX form lets follow it; :attr:`fixed` lists them.

        Raises ShapeError if the size depends on data.
        """
        axis = x.axis(axis)
        self.fixed.append((x.ir.name or "", axis, x.dim(axis)))
        return x.dim(axis)

    def cast(self, x: Value, dtype: Any) -> Value:
        """``x`` as another type; a cast that undoes an int64 -> int32 one is left out."""
        wanted = np.dtype(dtype)
        if x.dtype == wanted:
            return x
        producer = x.ir.producer()
        if wanted == np.int64 and x.dtype == np.int32 and producer is not None and producer.op_type == "Cast":
            source = producer.inputs[0]
            if source is not None and source.dtype == ir.DataType.INT64:
                sample = None if x.sample is None else x.sample.astype(wanted)
                return Value(source, wanted, x.dims, sample, x.constant, x.known)
        return self.op("Cast", x, to=onnx.helper.np_dtype_to_tensor_dtype(wanted))

    def reshape(self, x: Value, *shape: int) -> Value:
        """``x`` in a literal shape; 0 keeps a dim, -1 is inferred."""
        return self.op("Reshape", x, self.ints(*shape))

    def per_channel(self, source: Tensor | np.ndarray, x: Value, *, axis: int = 1) -> Value:
        """Weights that broadcast along one axis of ``x``: one value, or as many as the axis has.

        Raises WeightsError for any other number of values.
        """
        values = source.array() if isinstance(source, Tensor) else np.asarray(source).reshape(-1)
        if values.size == 1:
            return self.const(values.reshape(()))
        axis = x.axis(axis)
        return self.const(values, dims=(x.dim(axis), *(1,) * (x.rank - axis - 1)))

    def _unique(self, name: str) -> str:
        seen = self._names.get(name)
        self._names[name] = 0 if seen is None else seen + 1
        return name if seen is None else self._unique(f"{name}_{seen + 1}")

    def claim(self, name: str) -> None:
        """Keeps a blob name from being used for anything else."""
        self._names.setdefault(name, 0)


def _seen(operands: Sequence[Value]) -> str:
    """Types and dims of some values."""
    return ", ".join(f"{value.dtype}{list(value.dims)}" for value in operands)


def _without_trailing(values: list[ir.Value | None]) -> list[ir.Value | None]:
    """Inputs up to the last one given: OpenVINO does not compile some operators with an empty name at the end."""
    while values and values[-1] is None:
        values.pop()
    return values


def _check_window(inputs: Sequence[Value | None], attributes: dict[str, Any]) -> None:
    """A window must find a place on each axis. ONNX's inference divides toward zero and sees one place too many."""
    x, filters = inputs[0], inputs[1] if len(inputs) > 1 else None
    if x is None:
        return
    kernel = attributes["kernel_shape"] if filters is None else [filters.dim(k) for k in range(2, filters.rank)]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, attributes.get("dilations", [1] * len(kernel)), strict=True)]
    pads = attributes.get("pads", [0] * (2 * len(kernel)))
    same = str(attributes.get("auto_pad", "")).startswith("SAME")
    for k, window in enumerate(reach):
        size = x.dims[2 + k]
        if size is not None and size + pads[k] + pads[k + len(kernel)] < (1 if same else window):
            raise ShapeError(
                "the window does not fit into the input",
                expected=f"at least {window - pads[k] - pads[k + len(kernel)]} on axis {2 + k}",
                found=list(x.dims),
            )


def _check_reshape(x: Value | None, y: Value) -> None:
    """ONNX's inference accepts a literal shape of another size; an engine would refuse it only at run time."""
    if x is None or None in x.dims or None in y.dims:
        return
    have, want = math.prod(d or 0 for d in x.dims), math.prod(d or 0 for d in y.dims)
    if have != want:
        raise ShapeError(
            "elements do not fit the new shape", expected=f"{want} ({list(y.dims)})", found=f"{have} ({list(x.dims)})"
        )
