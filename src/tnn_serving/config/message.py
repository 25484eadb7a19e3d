"""Typed records of protobuf messages in JSON form, which keep the fields that they do not declare.

A record is read from JSON and written back as the same JSON: a field is written only where the JSON that the record was
read from does not already say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

from typing_extensions import Self

T = TypeVar("T")
M = TypeVar("M", bound="Message")


@dataclass(frozen=True, slots=True)
class Message:
    """A message: a subclass declares the fields that it uses with :func:`entry` and its like, by their JSON names.

    Attributes:
        source: the JSON that it was read from, with all its fields.
    """

    source: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False, kw_only=True)

    @classmethod
    def read(cls, json: Mapping[str, Any]) -> Self:
        """The record of a message in JSON form."""
        values = {one.name: one.metadata["read"](json[one.name]) for one in _declared(cls) if one.name in json}
        return cls(**values, source=json)

    def to_json(self) -> dict[str, Any]:
        """The message in JSON form: what was read, with the fields that have changed since."""
        before = self.read(self.source)
        made = dict(self.source)
        for one in _declared(type(self)):
            value = getattr(self, one.name)
            if value == getattr(before, one.name):
                continue
            if value is None:
                del made[one.name]
            else:
                made[one.name] = one.metadata["write"](value)
        return made


def _declared(kind: type[Message]) -> list[Field[Any]]:
    return [one for one in fields(kind) if one.metadata]


def entry(read: Callable[[Any], T], default: T, write: Callable[[T], object] = lambda value: value) -> T:
    """A field, with how its value is read from JSON and written to it; ``default`` where the JSON lacks it."""
    made: T = field(default_factory=lambda: default, metadata={"read": read, "write": write})
    return made


def integers() -> tuple[int, ...]:
    """A field of integers; protobuf writes those of 64 bits as text."""
    return entry(read_integers, (), list)


def read_integers(values: Iterable[int | str]) -> tuple[int, ...]:
    """Integers as numbers or as text."""
    return tuple(int(value) for value in values)


def message(kind: type[M]) -> M | None:
    """A field that holds a message, ``None`` where it is absent."""
    return entry(kind.read, None, _written)


def messages(kind: type[M]) -> tuple[M, ...]:
    """A field that holds a list of messages."""
    return entry(lambda values: tuple(kind.read(value) for value in values), (), lambda all: [m.to_json() for m in all])


def _written(value: Message | None) -> object:
    return None if value is None else value.to_json()
