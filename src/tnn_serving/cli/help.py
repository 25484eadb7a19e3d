"""The help of the commands: plain text that fits the terminal's width, with examples that can be pasted."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator
from typing import Any

from typer.core import TyperCommand, TyperGroup

# typer's own classes have no public types: some releases build on click, others carry a copy of it.
_Context = Any
_Formatter = Any
_Parameter = Any

WIDEST = 100
"""Columns that the help uses at most."""

BESIDE_FROM = 80
"""Columns from which on a meaning is beside the name; on narrower terminals, it is below."""

NAMES_WIDTH = 34
"""Columns for names, where meanings are beside them."""

EXAMPLES = "Examples:\n"
VALUES = {"int": "N", "float": "N", "str": "TEXT", "path": "PATH", "Path": "PATH", "bool": ""}
"""What typer calls the type of a value, and what the help calls it."""


class Command(TyperCommand):
    """A command with this help."""

    def format_help(self, ctx: _Context, formatter: _Formatter) -> None:
        """Writes the help."""
        formatter.write("\n".join(_pages(self, ctx)))


class CommandGroup(TyperGroup):
    """A group of commands with this help."""

    def format_help(self, ctx: _Context, formatter: _Formatter) -> None:
        """Writes the help."""
        formatter.write("\n".join(_pages(self, ctx)))


def usage(command: Any, ctx: _Context) -> str:
    """The arguments of a command line, such as ``[OPTIONS] MODEL [OTHER]``."""
    names = ["[OPTIONS]"]
    for one in command.params:
        if one.param_type_name == "argument":
            names.append(argument(one) if one.required else f"[{argument(one)}]")
    return " ".join([*names, "COMMAND [ARGUMENTS]"] if hasattr(command, "list_commands") else names)


def argument(one: _Parameter) -> str:
    """How the help calls an argument."""
    return str(one.metavar or one.name.upper())


def prose_and_examples(command: Any) -> tuple[str, list[str]]:
    """What a command's docstring says, and the lines of its examples."""
    text, _, examples = inspect.cleandoc(command.help or "").partition(EXAMPLES)
    return text.strip(), [line.strip() for line in examples.splitlines() if line.strip()]


def rows(command: Any, ctx: _Context) -> Iterator[tuple[str, str, str]]:
    """Title of the section, names and meaning of each argument and option."""
    for one in command.get_params(ctx):
        record = one.get_help_record(ctx)
        if record is None:
            continue
        names, meaning = record
        if one.param_type_name == "argument":
            yield "Arguments", argument(one), meaning
        else:
            yield getattr(one, "rich_help_panel", None) or "Options", _with_values(names), meaning


def _with_values(names: str) -> str:
    """Names of an option with words for its value: ``--shape <list[str]>`` is ``--shape TEXT``."""
    found = re.sub(r"<(?:list\[)?(\w+)\]?(?: range)?>", lambda match: VALUES.get(match[1], match[1].upper()), names)
    return re.sub(r"<([\w|-]+)>", r"\1", found).strip()


def _pages(command: Any, ctx: _Context) -> Iterator[str]:
    width = min(shutil.get_terminal_size().columns, WIDEST)
    yield from textwrap.wrap(f"Usage: {ctx.command_path} {usage(command, ctx)}", width, subsequent_indent="  ")
    prose, examples = prose_and_examples(command)
    for paragraph in prose.split("\n\n"):
        yield ""
        yield from textwrap.wrap(" ".join(paragraph.split()), width)
    if examples:
        yield from ("", "Examples:")
        for line in examples:
            yield from _pasted(line, width)
    sections: dict[str, list[tuple[str, str]]] = {}
    for title, names, meaning in rows(command, ctx):
        sections.setdefault(title, []).append((names, meaning))
    if hasattr(command, "list_commands"):
        for name in command.list_commands(ctx):
            one = command.get_command(ctx, name)
            title = getattr(one, "rich_help_panel", None) or "Commands"
            sections.setdefault(title, []).append((name, prose_and_examples(one)[0].split("\n\n")[0]))
    for title, entries in sections.items():
        yield from ("", f"{title}:")
        yield from _entries(entries, width)
    yield ""


def _pasted(line: str, width: int) -> Iterator[str]:
    """A command line, continued as a shell continues it."""
    parts = textwrap.wrap(line, width - 6, break_long_words=False, break_on_hyphens=False)
    for k, part in enumerate(parts):
        yield ("  " if k == 0 else "    ") + part + (" \\" if k + 1 < len(parts) else "")


def _entries(entries: list[tuple[str, str]], width: int) -> Iterator[str]:
    beside = width >= BESIDE_FROM
    column = min(max(len(names) for names, _ in entries) + 4, NAMES_WIDTH) if beside else 6
    for names, meaning in entries:
        lines = textwrap.wrap(" ".join(meaning.split()), width - column)
        first = f"  {names}"
        if beside and len(first) + 2 <= column and lines:
            first = first.ljust(column) + lines.pop(0)
        yield first
        yield from (" " * column + line for line in lines)
