"""The table of the layer types: how a class enters it, and what is known of a type name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, get_type_hints

from tnn_serving.layers.base import Layer, Reserved
from tnn_serving.layers.parameters import DHW, HW, Parameter
from tnn_serving.layers.weights import Stored
from tnn_serving.tensor import Tensor

_BY_TYPE: dict[str, type[Layer]] = {}
_BY_NUMBER: dict[int, str] = {}
_RESERVED: dict[str, int] = {}

L = TypeVar("L", bound=Layer)


def family(cls: type[L]) -> type[L]:
    """Declares a base class of several layer types that share operands, parameters or weights."""
    return dataclasses.dataclass(kw_only=True, eq=False, repr=False)(cls)


def layer(number: int, *types: str, entry: bool = True) -> Callable[[type[L]], type[L]]:
    """Declares a layer class.

    Args:
        number: TNN's type number, as model-file entries carry it.
        types: type names, the usual one first, with the ``Quantized...`` and ``DynamicRangeQuantized...`` spellings.
        entry: False if TNN has no parameter reader for the type, so that its model file may not mention it.
    """

    def declare(cls: type[L]) -> type[L]:
        hints = get_type_hints(cls, localns={"Tensor": Tensor})
        made = dataclasses.dataclass(kw_only=True, eq=False, repr=False)(cls)
        parameters, payload = [], []
        for field in dataclasses.fields(made):
            spec = field.metadata.get("tnn")
            if isinstance(spec, Parameter):
                parameters.append(_typed(spec, field.name, hints[field.name]))
            elif isinstance(spec, Stored):
                payload.append(dataclasses.replace(spec, name=field.name))
        made.types, made.number, made.entry_allowed = types, number, entry
        made.parameters, made.payload = tuple(parameters), tuple(payload)
        for name in types:
            if name in _BY_TYPE:
                raise ValueError(f"layer type {name} is declared twice")
            _BY_TYPE[name] = made
        _BY_NUMBER.setdefault(number, types[0])
        return made

    return declare


def derive(
    base: type[L], number: int, *types: str, doc: str, module: str, entry: bool = True, **attributes: object
) -> type[L]:
    """Declares a member of a family that differs from it in nothing but class attributes.

    Args:
        base: the family.
        number, types, entry: as :func:`layer`.
        doc: docstring of the class.
        module: name of the module that the class belongs to.
        attributes: class attributes.
    """
    return layer(number, *types, entry=entry)(
        type(types[0], (base,), {"__doc__": doc, "__module__": module, **attributes})
    )


def contract(doc: str, *, onnx: str, differs: str = "") -> str:
    """The docstring of a layer class: what it computes, and its labelled paragraphs."""
    return "\n".join([doc, "", f"ONNX: {onnx}", *([f"TNN differs: {differs}"] if differs else [])])


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
