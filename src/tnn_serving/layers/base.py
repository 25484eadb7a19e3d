"""The base class of the layers: one declaration per TNN type.

A declaration is one dataclass. ``operands`` and ``results`` are what it reads and writes, the fields of
:mod:`~tnn_serving.layers.parameters` are its tokens, those of :mod:`~tnn_serving.layers.weights` its entry in the model
file, ``to_onnx`` is its meaning, and ``made_from`` with ``from_onnx`` is what it is made from. Reader, writer,
``inspect``, the generated reference and the converter walk these declarations; none of them knows a layer by name.
"""

from __future__ import annotations

import dataclasses
import logging
import reprlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TypeVar

from typing_extensions import Self, dataclass_transform

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.emit.int8 import Absorbed, Codes, Int8, Operands, Scale
from tnn_serving.errors import ShapeError, UnsupportedLayer, WeightsError, located
from tnn_serving.layers.draw import Draw
from tnn_serving.layers.operands import Operand, check_like, count_range
from tnn_serving.layers.parameters import Cursor, Parameter
from tnn_serving.layers.pattern import Match, OnnxValue
from tnn_serving.layers.weights import Stored
from tnn_serving.tensor import Tensor

log = logging.getLogger(__name__)

FURTHER = Operand("further", ignored=True)
"""An input behind the declared ones."""


T = TypeVar("T")


def _without_trailing(inputs: Sequence[T | None]) -> list[T | None]:
    """Inputs up to the last one that is read."""
    found = list(inputs)
    while found and found[-1] is None:
        found.pop()
    return found


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(dataclasses.field,))
class _Declared:
    """Gives type checkers the constructor that :func:`~tnn_serving.layers.registry.layer` makes."""


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class Layer(_Declared):
    """A layer of a network: its place in the graph, its parameters and its weights.

    Attributes:
        name: key of the layer's weights in the model file.
        inputs, outputs: blob or constant names.
        type: the type name as written in the proto; its prefix carries the int8 and dynamic-range marks.
        surplus: tokens behind the declared ones, kept for the writer.
        stored: True once an entry of a model file has filled the weights.

    Declared per class:
        types, number: TNN's names, the usual one first, and TNN's number.
        operands, results: what its inputs and outputs are.
        counts_inputs: TNN refuses more inputs than the declared ones, which it ignores for all other types.
        entry_allowed: False if the model file may not mention the type.
        activation_code: the code of an activation that TNN fuses into a convolution before it; 0 for other layers.
        adds: it is an addition, which TNN fuses into a pointwise int8 convolution before it.
        multiplies_weights: it is a product with stored weights: a convolution or a matrix product.
        reads_dims_only: its outputs depend on the dims of its inputs alone.
        made_from: the patterns of ONNX operators that it is made from; see :mod:`~tnn_serving.layers.pattern`.
    """

    types: ClassVar[tuple[str, ...]] = ()
    number: ClassVar[int] = -1
    operands: ClassVar[tuple[Operand, ...]] = ()
    results: ClassVar[tuple[Operand, ...]] = ()
    parameters: ClassVar[tuple[Parameter, ...]] = ()
    payload: ClassVar[tuple[Stored, ...]] = ()
    counts_inputs: ClassVar[bool] = False
    entry_allowed: ClassVar[bool] = True
    activation_code: ClassVar[int] = 0
    adds: ClassVar[bool] = False
    multiplies_weights: ClassVar[bool] = False
    reads_dims_only: ClassVar[bool] = False
    made_from: ClassVar[tuple[str, ...]] = ()

    name: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    type: str = ""
    surplus: tuple[str, ...] = ()
    stored: bool = False
    _warned: set[str] = dataclasses.field(default_factory=set, init=False, repr=False)

    def __post_init__(self) -> None:
        self.type = self.type or self.types[0]

    def __repr__(self) -> str:
        names = [f"name={self.name!r}", f"inputs={list(self.inputs)}", f"outputs={list(self.outputs)}"]
        values = [f"{spec.name}={reprlib.repr(getattr(self, spec.name))}" for spec in self.parameters]
        weights = [f"{spec.name}={tensor!r}" for spec, tensor in self.weights()]
        return f"{self.type}({', '.join([*names, *values, *weights])})"

    @property
    def quantized(self) -> bool:
        """The type name marks the layer int8."""
        return self.type.startswith("Quantized")

    @property
    def dynamic_range(self) -> bool:
        """The type name marks int8 weights with float arithmetic."""
        return self.type.startswith("DynamicRangeQuantized")

    def place(self) -> str:
        """How messages name this layer."""
        return f"layer `{self.name}` ({self.type})"

    def warn(self, text: str) -> None:
        """Logs a warning about this layer, once however often the network is translated."""
        if text not in self._warned:
            self._warned.add(text)
            log.warning("%s: %s", self.place(), text)

    # ---- parameters and weights ----

    @classmethod
    def read_tokens(cls, tokens: Sequence[str]) -> dict[str, Any]:
        """Constructor arguments from the tokens behind the blob names. Raises ProtoError."""
        cursor = Cursor(tokens)
        values = {}
        for spec in cls.parameters:
            with located(f"parameter `{spec.name}`"):
                values[spec.name] = spec.read(cursor)
        values["surplus"] = cursor.rest()
        return values

    def tokens(self, *, canonical: bool = False) -> list[str]:
        """The parameter tokens, so that reading them gives this layer again; surplus ones behind them.

        Args:
            canonical: as TNN's writer lays them out, with its quirks and without surplus ones.
        """
        written = [
            text for spec in self.parameters for text in spec.write(getattr(self, spec.name), canonical=canonical)
        ]
        return written if canonical else [*written, *self.surplus]

    def weights(self) -> Iterator[tuple[Stored, Tensor]]:
        """The declared buffers that are present, in file order."""
        for spec in self.payload:
            found = getattr(self, spec.name)
            if isinstance(found, Tensor):
                yield spec, found

    def need(self, field: str) -> Tensor:
        """The weight of that name. Raises WeightsError if the model file has none."""
        found = getattr(self, field)
        if not isinstance(found, Tensor):
            raise WeightsError(
                f"no `{field}` in the model file",
                expected=next(s.doc for s in self.payload if s.name == field),
                hint="proto and model may belong to different networks",
            )
        return found

    def random_weights(self, draw: Draw, inputs: Sequence[Value]) -> dict[str, Tensor | int]:
        """Weights for a network that comes without any, by field name; empty if their size is not known.

        Args:
            draw: the numbers.
            inputs: the operands, whose dims decide sizes.
        """
        return {}

    # ---- inputs and outputs ----

    @classmethod
    def input_range(cls) -> tuple[int, int | None]:
        """The least and the largest number of inputs; ``None`` for any number."""
        return count_range(cls.operands, open_end=not cls.counts_inputs)

    @classmethod
    def output_range(cls) -> tuple[int, int | None]:
        """The least and the largest number of outputs; ``None`` for any number."""
        return count_range(cls.results, open_end=False)

    def check_counts(self) -> None:
        """Raises ShapeError for a number of inputs or outputs that the type does not have."""
        for what, names, (least, most), declared in (
            ("inputs", self.inputs, self.input_range(), self.operands),
            ("outputs", self.outputs, self.output_range(), self.results),
        ):
            if len(names) < least or (most is not None and len(names) > most):
                wanted = str(least) if least == most else f"{least} or more" if most is None else f"{least} to {most}"
                called = ", ".join(operand.name for operand in declared)
                raise ShapeError(f"wrong number of {what}", expected=f"{wanted} ({called})", found=len(names))

    def roles(self) -> tuple[Operand, ...]:
        """What each of :attr:`inputs` is, in their order. Raises ShapeError if that cannot be said."""
        given = self.operands[: len(self.inputs)]
        behind = len(self.inputs) - len(given)
        if behind and self.operands and self.operands[-1].repeated:
            return (*given, *[self.operands[-1]] * behind)
        return (*given, *[FURTHER] * behind)

    def check_inputs(self, inputs: Sequence[Value | None], *, codes: bool = False) -> None:
        """Raises ShapeError or UnsupportedLayer unless shapes and element types fit the declaration.

        Args:
            inputs: a value per input; ``None`` for an input that is ignored, or that a parameter replaces.
            codes: blobs are int8 codes, whose element type is the chosen form's affair.
        """
        seen: dict[str, Value] = {}
        for blob, operand, value in zip(self.inputs, self.roles(), inputs, strict=True):
            if operand is FURTHER:
                self.warn(f"input `{blob}` is ignored, as by TNN")
            if operand.ignored or value is None:
                continue
            if not codes:
                operand.check_type(blob, value)
                if operand.like in seen:
                    check_like(blob, operand, value, seen[operand.like])
            operand.check_shape(blob, value.dims)
            seen.setdefault(operand.name, value)

    # ---- meaning ----

    def emit(self, g: Builder, inputs: Sequence[Value | None]) -> list[Value]:
        """Emits the layer: one value per output.

        Args:
            inputs: as in :meth:`check_inputs`, which they have passed.

        Raises:
            UnsupportedLayer: TNN cannot run it either, or the number of outputs does not fit.
            ShapeError: an input has a shape that does not fit.
            WeightsError: weights are missing or do not fit.
        """
        made = self.to_onnx(g, *_without_trailing(inputs))
        values = [made] if isinstance(made, Value) else list(made)
        if len(values) != len(self.outputs):
            raise UnsupportedLayer("number of outputs differs", expected=len(values), found=len(self.outputs))
        return values

    def emit_int8(
        self, a: Int8, inputs: Sequence[Codes | Value | None], out: Scale, absorbed: Absorbed | None = None
    ) -> Codes:
        """Emits a layer that is marked int8.

        Args:
            a: the arithmetic, in the form that was chosen.
            inputs: blobs as codes, constants such as sizes as values; ``None`` as in :meth:`check_inputs`.
            out: scale of the output.
            absorbed: an addition that was fused into the layer.

        Raises:
            UnsupportedLayer: the type has no int8 form, or data is a constant.
            ShapeError: an input has a shape that does not fit.
            WeightsError: weights are missing or do not fit.
        """
        for blob, role, item in zip(self.inputs, self.roles(), inputs, strict=True):
            if isinstance(item, Value) and not role.replaces:
                raise UnsupportedLayer("an int8 layer reads blobs, not constants", found=f"constant `{blob}`")
        given = _without_trailing(inputs)
        codes = tuple(item for item in given if isinstance(item, Codes))
        others = tuple(item for item in given if item is None or isinstance(item, Value))
        return self.to_onnx_int8(a, Operands(codes, others, absorbed), out)

    def to_onnx(self, g: Builder, *inputs: Any, **_: Any) -> Value | Sequence[Value]:
        """The meaning in ONNX operators: one value per output. Layers name the inputs they take.

        Raises UnsupportedLayer for what TNN cannot run either, ShapeError for inputs that do not fit.
        """
        raise UnsupportedLayer(
            f"type `{self.type}` has no translation", hint="docs/reference/layers.md lists what can be executed"
        )

    def to_onnx_int8(self, a: Int8, inputs: Operands, out: Scale) -> Codes:
        """What the layer does on int8 codes, where its type is marked ``Quantized``.

        Args:
            a: the arithmetic, in the form that was chosen.
            inputs: the operands.
            out: scale of the output.
        """
        raise UnsupportedLayer(
            f"type `{self.type}` has no int8 form", hint="docs/reference/layers.md lists what can be executed in int8"
        )

    # ---- from ONNX ----

    @classmethod
    def from_onnx(cls, m: Match) -> Self | None:
        """The layer that computes one of the patterns of :attr:`made_from`; ``None`` if this one is not its meaning.

        By default, the words of the pattern are the inputs, and there are no parameters.

        Args:
            m: the pattern that was found.

        Raises:
            UnsupportedLayer: the type has no form for these operands or attributes.
        """
        return cls.made(m, *(value for value in m.values.values() if value is not None), *m.rest)

    @classmethod
    def made(cls, m: Match, *inputs: OnnxValue, **fields: Any) -> Self:
        """The layer in place of a pattern.

        Args:
            m: the pattern, whose outputs the layer has.
            inputs: what it reads; a constant belongs in the constant map.
            fields: parameters and weights. What says that a weight follows is set.
        """
        outputs = tuple(value.name for value in m.root.outputs)
        made = cls(name=outputs[0], inputs=tuple(value.name for value in inputs), outputs=outputs, **fields)
        for spec in cls.payload:
            if spec.form == "text":
                setattr(made, spec.name, made.name)
            elif spec.form in ("flag", "byte"):
                follows = [other.name for other in cls.payload if other.when == spec.name]
                setattr(made, spec.name, int(any(getattr(made, name) is not None for name in follows)))
        made.stored = any(isinstance(getattr(made, spec.name), Tensor) for spec in cls.payload)
        return made

    # ---- what a network may change about it ----

    @property
    def fused_activation(self) -> int:
        """Code of the activation that it applies to its output; 0 for none."""
        return 0

    @property
    def takes_activation(self) -> bool:
        """TNN fuses an activation that follows into it."""
        return False

    @property
    def takes_addition(self) -> bool:
        """TNN fuses an addition that follows into it."""
        return False

    def fused(self, activation: int, outputs: tuple[str, ...]) -> Self:
        """A copy that applies this activation and writes the outputs of what was fused into it."""
        return dataclasses.replace(self, outputs=outputs)

    def with_free_batch(self, inputs: Sequence[Value | None], batch: int) -> Layer | None:
        """The same layer without a literal batch; ``None`` if it has none, or no form without it.

        Args:
            inputs: the operands at the default shapes; the first holds the batch.
            batch: size of the batch at the default shapes.
        """
        return None


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class Reserved(Layer):
    """A type that TNN knows only by name, or not at all: read, inspected and written back, never executed."""

    operands = (Operand("x", repeated=True),)
    results = (Operand("y", repeated=True),)

    known: bool = True

    def to_onnx(self, g: Builder, *inputs: Value) -> Value:
        """Refuses."""
        raise UnsupportedLayer(
            f"type `{self.type}` cannot be executed" if self.known else f"type `{self.type}` is unknown",
            found="a name that TNN reserves but has no code for" if self.known else None,
            hint="docs/reference/layers.md lists what can be executed",
        )
