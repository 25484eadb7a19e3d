"""How a setting is declared: once, as a field of a frozen record, with everything that follows from it.

The record's equality and hash, the settings that models are shared by, what stored measurements depend on, the reader
of ``config.pbtxt``, ``check`` and the table in the documents walk these declarations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tnn_serving.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
R = TypeVar("R", bound="DataclassInstance")

Operators = Literal["", "wins", "only"]


class Reach(Enum):
    """Who gets a setting."""

    ENGINE = "the engine, in its Options"
    MODEL = "the model: it decides what is compiled, or how much of it is kept"
    SERVING = "loading and serving alone: models that differ in it share one compiled network"


@dataclass(frozen=True, slots=True)
class Setting:
    """A parameter of ``config.pbtxt``.

    Attributes:
        key: its name there.
        default: its text where it is left out.
        read: gives its value; raises ValueError or ConfigError.
        doc: what it means, as a part of a sentence.
        reach: who gets it.
        measured: stored measurements depend on it. Of those that reach the engine, its Options decide.
        operators: the server's command line "wins" over a model's own value, or is the "only" place for it.
        per_input: it may be written ``<input>.<key>`` for one input, or ``<key>`` for all picture inputs.
        name: of the record's field.
    """

    key: str
    default: str
    read: Callable[[str], Any]
    doc: str
    reach: Reach
    measured: bool
    operators: Operators
    per_input: bool = False
    name: str = ""

    def value(self, text: str, written: str = "") -> Any:
        """The value of a text. ``written`` is the key as it is written. Raises ConfigError."""
        try:
            return self.read(text)
        except (ValueError, ConfigError) as error:
            raise ConfigError(
                f"parameter `{written or self.key}` cannot be read", expected=self.doc, found=text
            ) from error


def setting(
    default: str,
    read: Callable[[str], T],
    doc: str,
    *,
    key: str = "",
    reach: Reach = Reach.MODEL,
    measured: bool = True,
    operators: Operators = "",
) -> T:
    """Declares a field of a record as a setting, see :class:`Setting`. ``key`` is the field's name if left out."""
    declaration = Setting(key, default, read, doc, reach, measured, operators)
    made: T = field(default_factory=lambda: read(default), metadata={"setting": declaration})
    return made


def per_input(record: type) -> Any:
    """Declares a field of (input, record) pairs: the settings of ``record``, for each picture input."""
    return field(default=(), metadata={"per_input": record})


def settings_in(record: type) -> Iterator[Setting]:
    """The settings of a record in their order, those per input included."""
    for one in fields(record):
        found: Setting | None = one.metadata.get("setting")
        if found is not None:
            yield replace(found, key=found.key or one.name, name=one.name)
        elif "per_input" in one.metadata:
            yield from (replace(each, per_input=True) for each in settings_in(one.metadata["per_input"]))


def own(record: type) -> Iterator[Setting]:
    """The settings of a record itself."""
    return (one for one in settings_in(record) if not one.per_input)


def without(record: R, *reaches: Reach) -> R:
    """A record in which all settings of these reaches have their defaults."""
    defaults = type(record)()
    return replace(
        record, **{one.name: getattr(defaults, one.name) for one in own(type(record)) if one.reach in reaches}
    )
