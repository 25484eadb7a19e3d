"""Parameters of a layer: how the tokens behind the blob names are declared, read and written."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tnn_serving.errors import ProtoError

log = logging.getLogger(__name__)

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
FLOAT32_LOWEST = float(np.finfo(np.float32).min)
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


class Int64(int):
    """A parameter of 64 bits; all others have 32."""


class CBool(int):
    """A parameter that TNN keeps as a C++ bool: every number other than 0 is 1."""

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

    What C's ``atoi`` and ``atof`` would silently misread is refused. A decimal number where an integer is expected is
    truncated as they do, with a warning. A ``bool`` is true for exactly 1. Raises ProtoError.
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


def spell(value: float | str, *, exact: bool = False) -> str:
    """A parameter as TNN's writer prints it: floats with 6 significant digits.

    Args:
        exact: floats with as many digits as it takes to read them back.
    """
    if isinstance(value, float):
        text = f"{np.float32(value):g}"
        return text if not exact or np.isnan(value) or np.float32(text) == np.float32(value) else str(np.float32(value))
    return str(int(value)) if isinstance(value, bool) else str(value)


REQUIRED: Any = object()

SHORT_LIST = 64
"""Longest list whose missing end is filled in; a larger count means a broken file."""


@dataclasses.dataclass(frozen=True, slots=True)
class Parameter:
    """What is declared of one parameter: its sentence, its default, and how its tokens are laid out.

    Attributes:
        doc: one sentence for the reference.
        default: value of a missing token; ``REQUIRED`` if TNN reads the token unchecked.
        form: "one", "group" (HW or DHW), "counted" (``n`` and then ``n * per`` values), "rest" (all that are
            left) or "pair" (two tokens or none).
        values: meaning of each value, where they are few.
        written: text that TNN's writer always emits, for tokens that TNN ignores.
        ge: smallest valid value, for generated tests and documentation.
        per: values per count of a counted list.
        missing: value of the members that a counted list announces and lacks; ``None`` refuses such a list.
        spread: a later member of a group that is missing or -1 takes the first one's value.
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
        """Reads this parameter's tokens. Raises ProtoError if a required one is missing or misspelt."""
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
        exact = not canonical
        if canonical and self.written is not None:
            return self.written.split()
        if self.form == "one":
            return [spell(self.kind(value), exact=exact)]
        if self.form == "counted":
            return [str(len(value) // self.per), *(spell(self.kind(v), exact=exact) for v in value)]
        if self.form == "pair" and value is None:
            return []
        return [spell(self.kind(v), exact=exact) for v in (reversed(value) if canonical and self.backwards else value)]


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
    """A list that starts with its count, with ``per`` values per count."""
    return _parameter(Parameter(doc, default, "counted", per=per, missing=missing, negative_is_empty=negative_is_empty))


def rest(doc: str) -> Any:
    """A list without a count: every token that is left."""
    return _parameter(Parameter(doc, (), "rest"))


def pair(doc: str) -> Any:
    """Two tokens or none: :class:`HW` or ``None``."""
    return _parameter(Parameter(doc, None, "pair"))


def _parameter(spec: Parameter) -> Any:
    if spec.default is REQUIRED:
        return dataclasses.field(metadata={"tnn": spec})
    return dataclasses.field(default=spec.default, metadata={"tnn": spec})
