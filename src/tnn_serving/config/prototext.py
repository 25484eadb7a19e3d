"""The places of a protobuf text's fields, so that one value can be changed and every other byte kept.

What a text *means* is for protobuf's own parser to say; this one only finds where its fields are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tnn_serving.errors import ConfigError

_TOKEN = re.compile(
    r"""(?P<blank> \s+ | \#[^\n]* )
      | (?P<string> "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' )
      | (?P<mark> [{}<>\[\]:,;] )
      | (?P<word> [^\s\#"'{}<>\[\]:,;]+ )""",
    re.VERBOSE | re.DOTALL,
)

_CLOSING = {"{": "}", "<": ">"}


def top_level_fields(text: str) -> set[str]:
    """The names of the fields that a text sets at its top level; also of a text that protobuf refuses."""
    fields = set()
    depth = 0
    word = None
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "blank":
            continue
        mark = token["mark"]
        if word and depth == 0 and mark in (":", "[", *_CLOSING):
            fields.add(word)
        if mark in ("[", *_CLOSING):
            depth += 1
        elif mark in ("]", *_CLOSING.values()):
            depth -= 1
        word = token["word"]
    return fields


@dataclass(frozen=True, slots=True)
class TextValue:
    """A value from ``start`` to ``end``, braces included.

    Attributes:
        fields: of a message; ``None`` of a scalar.
        pieces: starts and ends of a scalar's tokens, since several adjacent strings are one.
    """

    start: int
    end: int
    fields: tuple[Field, ...] | None = None
    pieces: tuple[tuple[int, int], ...] = ()

    def all(self, name: str) -> list[TextValue]:
        """The values of the fields of a name, in order."""
        return [value for field in self.fields or () if field.name == name for value in field.values]


@dataclass(frozen=True, slots=True)
class Field:
    """A field with its value, or the several of a list."""

    name: str
    values: tuple[TextValue, ...]


def locate(text: str) -> TextValue:
    """The fields of a text that protobuf takes, with their places. Raises ConfigError for one that it refuses."""
    tokens = _Tokens(text)
    fields = tuple(_fields(tokens, None))
    return TextValue(0, len(text), fields)


@dataclass(slots=True)
class _Token:
    kind: str
    text: str
    start: int
    end: int


class _Tokens:
    """The tokens of a text, without blanks and comments, and a position among them."""

    def __init__(self, text: str) -> None:
        self._list = []
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise _unexpected(text[at : at + 10])
            at = match.end()
            if match.lastgroup != "blank":
                self._list.append(_Token(str(match.lastgroup), match[0], match.start(), at))
        self._next = 0

    @property
    def ahead(self) -> _Token | None:
        """The next token, without moving on."""
        return self._list[self._next] if self._next < len(self._list) else None

    def take(self, *wanted: str) -> _Token | None:
        """The next token if it is one of these marks (any token if none are named); otherwise ``None``."""
        token = self.ahead
        if token is None or (wanted and (token.kind != "mark" or token.text not in wanted)):
            return None
        self._next += 1
        return token

    def need(self, *wanted: str) -> _Token:
        """As :meth:`take`. Raises ConfigError."""
        token = self.take(*wanted)
        if token is None:
            raise _unexpected(self.ahead.text if self.ahead else "the end")
        return token


def _fields(tokens: _Tokens, closing: str | None) -> Iterator[Field]:
    while (token := tokens.ahead) is not None and token.text != closing:
        tokens.need()
        if token.kind != "word":
            raise _unexpected(token.text)
        tokens.take(":")
        yield Field(token.text, tuple(_values(tokens)))
        tokens.take(",", ";")


def _values(tokens: _Tokens) -> Iterator[TextValue]:
    if tokens.take("[") is None:
        yield _value(tokens)
        return
    while tokens.take("]") is None:
        yield _value(tokens)
        tokens.take(",")


def _value(tokens: _Tokens) -> TextValue:
    first = tokens.need()
    if first.text in _CLOSING and first.kind == "mark":
        fields = tuple(_fields(tokens, _CLOSING[first.text]))
        return TextValue(first.start, tokens.need(_CLOSING[first.text]).end, fields)
    if first.kind == "mark":
        raise _unexpected(first.text)
    pieces = [first]
    while first.kind == "string" and (ahead := tokens.ahead) is not None and ahead.kind == "string":
        pieces.append(tokens.need())
    return TextValue(first.start, pieces[-1].end, pieces=tuple((piece.start, piece.end) for piece in pieces))


def _unexpected(found: str) -> ConfigError:
    return ConfigError("config.pbtxt cannot be read", found=f"`{found}` where a field or value should be")
