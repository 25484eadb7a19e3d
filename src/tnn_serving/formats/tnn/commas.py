"""Where a .tnnproto lacks a comma: TNN glues the next line to the one before, and reads it as surplus words.

What is wrong then shows later and elsewhere, as a parameter that is a word or as a layer too few. Line ends have no
meaning in a proto, but nearly all protos have them: a segment that spans two lines shows where the comma was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

from tnn_serving.errors import ProtoError
from tnn_serving.layers.registry import is_known

HEAD = 4
"""Words that a layer begins with: type, name, number of inputs, number of outputs."""

LINE_SHOWN = 40
"""How many characters of a line a hint shows."""

_LINE_END = re.compile(r"\r\n|\r|\n")
_INSTEAD = ";\uff0c\uff1b\u3001"
"""What may be typed instead of a comma: a semicolon, and the full-width signs of a Chinese input method."""

_COUNT = re.compile(r"[0-9]{1,6}")
_GLUED = re.compile(r"([^A-Za-z_]+)([A-Za-z]\w*)")
"""A number, and a type that follows it without a space between."""


class _Part(NamedTuple):
    """A part of a segment: a line, counted from its first, or a layer within one."""

    line: int
    text: str
    layer: str | None

    def __str__(self) -> str:
        return self.layer or f"`{self.text[:LINE_SHOWN]}`"


def begins_layer(text: str) -> bool:
    """Whether a segment has what a layer begins with, at its start or behind other words: type, name, two counts."""
    words = _words(text)
    unknown = bool(words) and not words[0][0].isdigit() and _blobs(words, 0) is not None
    return unknown or any(_layer(words, at) for at in range(len(words)))


def missing_comma(pieces: Sequence[bytes], index: int, encoding: str, *, before_layer: bool = False) -> str | None:
    """Says what runs into what in a segment that lacks a comma, as a hint; ``None`` if it is one line.

    Args:
        pieces: the bytes of the proto between its commas.
        index: of the segment.
        encoding: of the proto.
        before_layer: only where a layer follows.
    """
    parts = list(_parts(pieces[index].decode(encoding)))
    if len(parts) < 2 or (before_layer and parts[1].layer is None):
        return None
    first, second = parts[:2]
    if first.line == second.line:
        return f"a comma is missing between {first} and {second}"
    line = 1 + sum(len(_LINE_END.findall(piece.decode(encoding))) for piece in pieces[:index])
    last = first.text[-1]
    ending = f"with `{last}`, which is no comma," if last in _INSTEAD else "without a comma"
    return f"line {line + first.line}, {first}, ends {ending} and runs into line {line + second.line}, {second}"


def _parts(segment: str) -> Iterator[_Part]:
    for line, text in enumerate(_LINE_END.split(segment)):
        words = _words(text)
        for start, end in pairwise([*_starts(words), len(words)]):
            yield _Part(line, " ".join(words[start:end]), _layer(words, start))


def _words(text: str) -> list[str]:
    """The words of a line; a number and the type of a layer that are glued together are two."""
    words: list[str] = []
    for word in text.replace('"', "").split():
        glued = _GLUED.fullmatch(word)
        words += glued.groups() if glued and is_known(glued[2]) else (word,)
    return words


def _starts(words: Sequence[str]) -> list[int]:
    """Where the first part of a line begins, and each layer behind it."""
    starts = [0] if words else []
    # A layer may be named like a type, and its blobs with numbers: none begins within what another one begins with.
    at = HEAD if _layer(words, 0) else 1
    while at < len(words):
        if _layer(words, at):
            starts.append(at)
        at += HEAD if starts[-1] == at else 1
    return starts


def _layer(words: Sequence[str], at: int) -> str | None:
    """The layer that begins at a word, if its type is known and, within a line, all its blobs follow."""
    blobs = _blobs(words, at)
    if blobs is None or not is_known(words[at]) or (at and blobs > len(words) - at - HEAD):
        return None
    return f"layer `{words[at + 1]}` ({words[at]})"


def _blobs(words: Sequence[str], at: int) -> int | None:
    """How many blobs a layer that begins at a word says it has; ``None`` where no such numbers are."""
    counts = words[at + 2 : at + HEAD]
    return sum(map(int, counts)) if len(counts) == 2 and all(map(_COUNT.fullmatch, counts)) else None


@contextmanager
def missing_comma_named(pieces: Sequence[bytes], segments: Iterable[int], encoding: str) -> Iterator[None]:
    """Gives a ProtoError that is raised inside the block the hint of the first segment that lacks a comma."""
    try:
        yield
    except ProtoError as error:
        hints = (missing_comma(pieces, index, encoding) for index in segments)
        error.hint = next(filter(None, hints), error.hint)
        raise
