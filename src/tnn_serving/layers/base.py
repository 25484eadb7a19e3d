"""How a layer is declared: its TNN type names, parameters in token order, weights in file order, meaning.

A declaration is one dataclass. :func:`token` fields are parameters, :func:`buffer` and its relatives are the
payload of the model-file entry, ``to_onnx`` is the meaning. Reader, writer, ``inspect``, the generated reference
and the converter all walk these fields; none of them knows a layer by name.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, get_type_hints

import numpy as np
from typing_extensions import dataclass_transform

from tnn_serving.emit.builder import Builder, Value
from tnn_serving.emit.int8 import Codes, Int8, Operands, Scale
from tnn_serving.errors import ProtoError, UnsupportedLayer, WeightsError, located
from tnn_serving.tensor import Tensor

log = logging.getLogger(__name__)

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


class Int64(int):
    """A parameter that TNN reads with 64 bits; all others have 32."""


class CBool(int):
    """A parameter that TNN keeps as a C++ bool: every number but 0 is 1."""

    def __new__(cls, value: int = 0) -> CBool:
        return super().__new__(cls, value != 0)


class HW(NamedTuple):
    """A pair of height and width, in the order of the text."""

    h: int = 0
    w: int = 0


class DHW(NamedTuple):
    """Depth, height and width, in the order of the text."""

    d: int = 0
    h: int = 0
    w: int = 0


class Cursor:
    """The parameter tokens of one layer line, read one by one."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tokens
        self._at = 0

    @property
    def left(self) -> int:
        """How many tokens are left."""
        return len(self._tokens) - self._at

    def next(self, kind: type) -> Any:
        """The next token as int, float or str; ``None`` if there is none.

        Integers are read as TNN does, but what ``atoi`` would misread is refused.
        """
        if not self.left:
            return None
        text = self._tokens[self._at]
        self._at += 1
        return parse(text, kind)

    def rest(self) -> tuple[str, ...]:
        """Everything left; the cursor is then at the end."""
        left = tuple(self._tokens[self._at :])
        self._at = len(self._tokens)
        return left


_INTEGER = re.compile(r"[+-]?[0-9]{1,40}")
_DECIMAL = re.compile(r"[+-]?([0-9]{1,40}\.[0-9]*|\.[0-9]+)")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(inf|infinity|nan)", re.IGNORECASE)


def parse(text: str, kind: type) -> Any:
    """One token as ``int`` (32 bit), ``Int64``, ``float`` (narrowed to float32), ``bool``, ``CBool`` or ``str``.

    What C's ``atoi`` and ``atof`` would silently misread is refused; a decimal number in the place of an integer is
    cut off as they do, with a warning. A ``bool`` is true for exactly 1. Raises ProtoError.
    """
    if kind is str:
        return text
    if kind is float:
        if not _FLOAT.fullmatch(text):
            raise ProtoError("parameter is not a number", found=repr(text))
        with np.errstate(over="ignore"):
            return float(np.float32(float(text)))
    if _DECIMAL.fullmatch(text):
        log.warning("a parameter that must be an integer is %s; its fraction is cut off", text)
        text = text.partition(".")[0]
        text = text if text.strip("+-") else "0"
    if not _INTEGER.fullmatch(text):
        raise ProtoError("parameter is not an integer", found=repr(text[:80]))
    number = int(text)
    least, most, bits = (INT64_MIN, INT64_MAX, 64) if kind is Int64 else (INT32_MIN, INT32_MAX, 32)
    if not least <= number <= most:
        raise ProtoError(f"integer does not fit {bits} bits", found=text)
    if kind is bool:
        return number == 1
    return CBool(number) if kind is CBool else number


def spell(value: float | str) -> str:
    """A parameter as TNN's writer prints it: floats with 6 significant digits."""
    if isinstance(value, float):
        return f"{np.float32(value):g}"
    return str(int(value)) if isinstance(value, bool) else str(value)


REQUIRED: Any = object()

SHORT_LIST = 64
"""Longest list whose missing end is filled in; a count beyond it is taken for a broken file."""


@dataclasses.dataclass(frozen=True, slots=True)
class Parameter:
    """What is declared of one parameter: its sentence, its default, and how its tokens are laid out.

    Attributes:
        doc: one sentence.
        default: value of a missing token; ``REQUIRED`` if TNN reads the token without looking.
        form: "one", "group" (HW or DHW), "counted" (``n`` and then ``n * per`` values), "rest" (all that are
            left) or "pair" (both tokens or neither).
        values: meaning of each value, where they are few.
        written: text that TNN's writer always emits, for tokens that nobody reads.
        ge: smallest value that makes sense, for generated tests and documentation.
        per: values per count of a counted list.
        missing: what members that a counted list announces and does not have are read as; ``None`` refuses them.
        spread: a missing or -1 later member of a group takes the first one's value.
        backwards: TNN's writer puts the last member of a group first, though its reader does not.
        negative_is_empty: a negative count of a list means 0.
    """

    doc: str
    default: Any = REQUIRED
    form: str = "one"
    values: dict[int, str] | None = None
    written: str | None = None
    ge: float | None = None
    per: int = 1
    missing: int | None = None
    spread: bool = False
    backwards: bool = False
    negative_is_empty: bool = False
    name: str = ""
    kind: type = int
    group: type | None = None

    def read(self, cursor: Cursor) -> Any:
        """Takes this parameter's tokens. Raises ProtoError if a required one is missing or misspelt."""
        if self.form == "one":
            found = cursor.next(self.kind)
            return self._default() if found is None else found
        if self.form == "group":
            return self._read_group(cursor)
        if self.form == "rest":
            return tuple(parse(text, self.kind) for text in cursor.rest())
        if self.form == "pair":
            if cursor.left < 2:
                return None
            return HW(cursor.next(int), cursor.next(int))
        return self._read_counted(cursor)

    def _default(self) -> Any:
        if self.default is REQUIRED:
            raise ProtoError(f"parameter `{self.name}` is missing", expected=self.doc)
        return self.default

    def _read_group(self, cursor: Cursor) -> Any:
        assert self.group is not None
        width = len(self.group._fields)  # type: ignore[attr-defined]
        default = self.default if self.default is not REQUIRED else (None,) * width
        members: list[Any] = []
        for k in range(width):
            found = cursor.next(self.kind)
            if found is None:
                found = default[k]
            if self.spread and k and found == -1:
                found = members[0]
            if found is None:
                raise ProtoError(f"parameter `{self.name}` is missing", expected=self.doc)
            members.append(found)
        return self.group(*members)

    def _read_counted(self, cursor: Cursor) -> tuple[Any, ...]:
        count = cursor.next(int)
        if count is None:
            found = self._default()
            return tuple(found)
        if count < 0 and self.negative_is_empty:
            return ()
        if count < 0:
            raise ProtoError(f"count of `{self.name}` is negative", found=count)
        if cursor.left < count * self.per and (self.missing is None or count > SHORT_LIST):
            raise ProtoError(
                f"list `{self.name}` is too short", expected=f"{count * self.per} values", found=f"{cursor.left} tokens"
            )
        members = (cursor.next(self.kind) for _ in range(count * self.per))
        return tuple(self.missing if member is None else member for member in members)

    def write(self, value: Any, *, canonical: bool = False) -> list[str]:
        """The tokens of ``value``, as this class reads them, or with the quirks of TNN's writer."""
        if canonical and self.written is not None:
            return self.written.split()
        if self.form == "one":
            return [spell(self.kind(value))]
        if self.form == "counted":
            return [str(len(value) // self.per), *(spell(self.kind(v)) for v in value)]
        if self.form == "pair" and value is None:
            return []
        return [spell(self.kind(v)) for v in (reversed(value) if canonical and self.backwards else value)]


def token(
    doc: str,
    *,
    default: Any = REQUIRED,
    values: dict[int, str] | None = None,
    written: str | None = None,
    ge: float | None = None,
    spread: bool = False,
    backwards: bool = False,
) -> Any:
    """A parameter of one token, or of two or three when its type is :class:`HW` or :class:`DHW`."""
    return _parameter(Parameter(doc, default, "one", values, written, ge, spread=spread, backwards=backwards))


def counted(
    doc: str, *, default: Any = REQUIRED, per: int = 1, missing: int | None = None, negative_is_empty: bool = False
) -> Any:
    """A list that starts with its count (``per`` values for each counted one)."""
    return _parameter(Parameter(doc, default, "counted", per=per, missing=missing, negative_is_empty=negative_is_empty))


def rest(doc: str) -> Any:
    """A list without a count that takes every token left."""
    return _parameter(Parameter(doc, (), "rest"))


def pair(doc: str) -> Any:
    """Two tokens, both or neither: :class:`HW` or ``None``."""
    return _parameter(Parameter(doc, None, "pair"))


def _parameter(spec: Parameter) -> Any:
    if spec.default is REQUIRED:
        return dataclasses.field(metadata={"tnn": spec})
    return dataclasses.field(default=spec.default, metadata={"tnn": spec})


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """What is declared of one field of a layer's model-file entry.

    Attributes:
        doc: layout and meaning.
        form: "text" (a string), "flag" (int32), "byte" (1-byte bool) or "tensor" (a raw buffer).
        when: name of a flag field that says whether this one follows.
        when_int8: name of a tensor field; this one follows only if that tensor is int8.
        zero_points: the buffer may be preceded by int8 zero points, kept under this field name.
        may_be_empty: an empty buffer means "not there".
        parameter: the parameter that TNN's writer takes a flag from, whatever was stored.
        rewritten: what TNN's writer puts for a string: the layer's "name", what was "kept", or an "empty" one.
        zeros_like: TNN's reader makes zeros, as large as this field, of an empty buffer.
        needs_dims: TNN's writer leaves the buffer out if it has no dims.
    """

    doc: str
    form: str
    when: str | None = None
    when_int8: str | None = None
    zero_points: str | None = None
    may_be_empty: bool = False
    parameter: str | None = None
    rewritten: Literal["name", "kept", "empty"] = "name"
    zeros_like: str | None = None
    needs_dims: bool = False
    name: str = ""


def entry_label(rewritten: Literal["name", "kept", "empty"] = "name") -> Any:
    """The string at the start of an entry: usually the layer's name again; ignored, but kept for the writer."""
    return _stored(Stored("usually the layer's name again; nobody reads it", "text", rewritten=rewritten))


def flag(doc: str, *, byte: bool = False, parameter: str | None = None) -> Any:
    """A stored 0 or 1 that says whether a buffer follows; an int32, or one byte."""
    return _stored(Stored(doc, "byte" if byte else "flag", parameter=parameter))


def buffer(
    doc: str,
    *,
    when: str | None = None,
    may_be_empty: bool = False,
    zeros_like: str | None = None,
    needs_dims: bool = False,
) -> Any:
    """A raw buffer; ``doc`` gives its layout. With ``when``, it is there only if that flag is not 0."""
    return _stored(Stored(doc, "tensor", when, may_be_empty=may_be_empty, zeros_like=zeros_like, needs_dims=needs_dims))


def int8_scale(of: str, doc: str, *, zero_points: str | None = None) -> Any:
    """The float scale that follows an int8 buffer ``of``; with ``zero_points``, int8 ones may stand before it."""
    return _stored(Stored(doc, "tensor", when_int8=of, zero_points=zero_points))


def beside(doc: str) -> Any:
    """A buffer that another field's form brings along (the zero points of :func:`int8_scale`)."""
    return _stored(Stored(doc, "beside"))


def _stored(spec: Stored) -> Any:
    return dataclasses.field(default=None, metadata={"tnn": spec})


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(dataclasses.field,))
class _Declared:
    """Gives type checkers the constructor that :func:`layer` makes."""


@dataclasses.dataclass(kw_only=True, eq=False)
class Layer(_Declared):
    """A layer of a network: its place in the graph, its parameters and its weights.

    Attributes:
        name: key of the layer's weights in the model file.
        inputs, outputs: blob or constant names.
        type: the type name as it stands in the proto; its prefix carries the int8 and dynamic-range marks.
        surplus: tokens behind the declared ones, kept for the writer.
        stored: True once an entry of a model file has filled the weights.
    """

    types: ClassVar[tuple[str, ...]] = ()
    number: ClassVar[int] = -1
    arity_in: ClassVar[tuple[int, int | None]] = (1, 1)
    arity_out: ClassVar[tuple[int, int | None]] = (1, 1)
    parameters: ClassVar[tuple[Parameter, ...]] = ()
    payload: ClassVar[tuple[Stored, ...]] = ()
    entry_allowed: ClassVar[bool] = True

    name: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    type: str = ""
    surplus: tuple[str, ...] = ()
    stored: bool = False

    def __post_init__(self) -> None:
        self.type = self.type or self.types[0]

    @property
    def quantized(self) -> bool:
        """The type name marks the layer int8."""
        return self.type.startswith("Quantized")

    @property
    def dynamic_range(self) -> bool:
        """The type name marks int8 weights with float arithmetic."""
        return self.type.startswith("DynamicRangeQuantized")

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
        """Declared buffers that are there, in file order."""
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

    def place(self) -> str:
        """How messages name this layer."""
        return f"layer `{self.name}` ({self.type})"

    def to_onnx(self, g: Builder, *inputs: Any, **_: Any) -> Value | Sequence[Value]:
        """Says the meaning with ONNX operators: one value an output. Layers name the inputs they take.

        Raises UnsupportedLayer for what TNN cannot run either, ShapeError for inputs that do not fit.
        """
        raise UnsupportedLayer(
            f"type `{self.type}` has no translation", hint="docs/layers.md lists what can be executed"
        )

    def to_onnx_int8(self, a: Int8, inputs: Operands, out: Scale) -> Codes:
        """Says what the layer does on int8 codes, where its type is marked ``Quantized``.

        Args:
            a: the arithmetic, in the form that was chosen.
            inputs: the operands.
            out: scale of the output.
        """
        raise UnsupportedLayer(
            f"type `{self.type}` has no int8 form", hint="docs/layers.md lists what can be executed in int8"
        )


@dataclasses.dataclass(kw_only=True, eq=False)
class Reserved(Layer):
    """A type that TNN knows only by name, or not at all: read, inspected and written back, never executed."""

    known: bool = True

    def to_onnx(self, g: Builder, *inputs: Value) -> Value:
        """Refuses."""
        raise UnsupportedLayer(
            f"type `{self.type}` cannot be executed" if self.known else f"type `{self.type}` is unknown",
            found="a name that TNN reserves but has no code for" if self.known else None,
            hint="docs/layers.md lists what can be executed",
        )


def need_floats(*values: Value) -> None:
    """Raises UnsupportedLayer unless all values are float32."""
    for value in values:
        if value.dtype != np.float32:
            raise UnsupportedLayer("element type is not supported", expected="float32", found=value.dtype)


_BY_TYPE: dict[str, type[Layer]] = {}
_BY_NUMBER: dict[int, str] = {}
_RESERVED: dict[str, int] = {}

L = TypeVar("L", bound=Layer)


def family(cls: type[L]) -> type[L]:
    """Declares a base class of several layer types that share parameters or weights."""
    return dataclasses.dataclass(kw_only=True, eq=False)(cls)


def layer(
    number: int,
    *types: str,
    inputs: int | tuple[int, int | None] = 1,
    outputs: int | tuple[int, int | None] = 1,
    entry: bool = True,
) -> Callable[[type[L]], type[L]]:
    """Declares a layer class.

    Args:
        number: TNN's type number, as model-file entries carry it.
        types: type names, the usual one first, with the ``Quantized...`` and ``DynamicRangeQuantized...`` spellings.
        inputs, outputs: how many blobs: a number or (least, most), ``None`` for "any number".
        entry: False if TNN has no parameter reader for the type, so that its model file may not mention it.
    """

    def declare(cls: type[L]) -> type[L]:
        hints = get_type_hints(cls, localns={"Tensor": Tensor})
        made = dataclasses.dataclass(kw_only=True, eq=False)(cls)
        parameters, payload = [], []
        for field in dataclasses.fields(made):
            spec = field.metadata.get("tnn")
            if isinstance(spec, Parameter):
                parameters.append(_typed(spec, field.name, hints[field.name]))
            elif isinstance(spec, Stored):
                payload.append(dataclasses.replace(spec, name=field.name))
        made.types, made.number = types, number
        made.arity_in = (inputs, inputs) if isinstance(inputs, int) else inputs
        made.arity_out = (outputs, outputs) if isinstance(outputs, int) else outputs
        made.parameters, made.payload, made.entry_allowed = tuple(parameters), tuple(payload), entry
        for name in types:
            if name in _BY_TYPE:
                raise ValueError(f"layer type {name} is declared twice")
            _BY_TYPE[name] = made
        _BY_NUMBER.setdefault(number, types[0])
        return made

    return declare


def _typed(spec: Parameter, name: str, hint: Any) -> Parameter:
    if hint in (HW, DHW):
        return dataclasses.replace(spec, name=name, group=hint, form="group")
    arguments: tuple[Any, ...] = getattr(hint, "__args__", ())
    kind = arguments[0] if spec.form in ("counted", "rest") else hint if isinstance(hint, type) else int
    return dataclasses.replace(spec, name=name, kind=kind)


def reserve(table: dict[str, int]) -> None:
    """Registers names that TNN knows but cannot execute, with their numbers."""
    _RESERVED.update(table)
    for name, number in table.items():
        _BY_NUMBER.setdefault(number, name)


def declaration(name: str) -> type[Layer]:
    """The class declared for a type name; :class:`Reserved` for names without one."""
    return _BY_TYPE.get(name, Reserved)


def declared() -> dict[str, type[Layer]]:
    """All declared type names with their classes."""
    return dict(_BY_TYPE)


def reserved() -> dict[str, int]:
    """All type names that TNN knows without having code for them, with their numbers."""
    return dict(_RESERVED)


def is_known(name: str) -> bool:
    """True for the type names that TNN accepts in a proto or a model file."""
    return name in _BY_TYPE or name in _RESERVED


def type_number(name: str) -> int:
    """TNN's number of a known type name."""
    return _RESERVED[name] if name in _RESERVED else _BY_TYPE[name].number


def type_of_number(number: int) -> str | None:
    """The type name that an entry without one means, or ``None``."""
    return _BY_NUMBER.get(number)


def make(kind: str, name: str, inputs: Sequence[str], outputs: Sequence[str], tokens: Sequence[str]) -> Layer:
    """A layer from the parts of its line. Raises ProtoError for parameters that cannot be read."""
    cls = declaration(kind)
    common: dict[str, Any] = {"name": name, "inputs": tuple(inputs), "outputs": tuple(outputs), "type": kind}
    if cls is Reserved:
        return Reserved(**common, surplus=tuple(tokens), known=is_known(kind))
    return cls(**common, **cls.read_tokens(tokens))
