"""Fills a template in YAML: ``$name`` becomes a value, in a form that people can read and change."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

LINE = 120
"""What fits on a line of this length is on one line."""

_NAME = re.compile(r"^(?P<head> *(?:- )*)(?P<text>[^$\n]*)\$(?P<name>\w+)(?P<end>.*)$", re.MULTILINE)


def filled(template: str, values: Mapping[str, Any]) -> str:
    """The template with its values. Lines that begin with ``#`` stay as they are.

    Raises:
        KeyError: a value is missing.
    """

    def line(match: re.Match[str]) -> str:
        head, text, name, end = match.group("head", "text", "name", "end")
        if text.startswith("#"):
            return match.group()
        before = f"{head}{text}"
        if end:  # inside of a line
            return before + flow(values[name]) + filled(end, values)
        return before.rstrip() + block(values[name], len(head) + 2, len(before))

    return _NAME.sub(line, template)


def block(value: Any, indent: int, column: int) -> str:
    """What follows ``key:`` or ``-`` in YAML: the value on the same line if it fits, else on lines of its own.

    Args:
        indent: of those lines.
        column: where the value would begin on the same line.
    """
    pad = "\n" + " " * indent
    if isinstance(value, str) and "\n" in value:
        return " |" + "".join(pad + text if text else "\n" for text in value.splitlines())
    line = flow(value)
    if not isinstance(value, dict | list) or not value or (column + len(line) < LINE and not _has_text(value)):
        return " " + line
    if isinstance(value, dict):
        return "".join(
            f"{pad}{_key(key)}:{block(one, indent + 2, indent + len(key) + 2)}" for key, one in value.items()
        )
    return "".join(f"{pad}-{_item(one, indent)}" for one in value)


def _item(value: Any, indent: int) -> str:
    text = block(value, indent + 2, indent + 2)
    return " " + text.lstrip() if isinstance(value, dict) else text  # its first key is on the line of the dash


def flow(value: Any) -> str:
    """The value on one line: JSON, with plain keys."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(key)}: {flow(one)}' for key, one in value.items())} }}" if value else "{}"
    if isinstance(value, list):
        return f"[ {', '.join(map(flow, value))} ]" if value else "[]"
    return json.dumps(value, ensure_ascii=False)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[a-z_]\w*", key) else json.dumps(key, ensure_ascii=False)


def _has_text(value: Any) -> bool:
    """Whether it contains a text of several lines, which needs a block."""
    if isinstance(value, dict):
        return any(map(_has_text, value.values()))
    if isinstance(value, list):
        return any(map(_has_text, value))
    return isinstance(value, str) and "\n" in value
