"""Output of all commands: data to stdout, messages to stderr, errors to exit codes.

``stdout`` and ``stderr`` are made when they are first used: `--version` and the start of a server do without rich.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tnn_serving.errors import TnnError, UsageError
from tnn_serving.nearest import did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    stdout: Console
    stderr: Console

EXIT_BAD = 1
"""The model, the answer or the server is bad."""

EXIT_USAGE = 2
"""The command line is wrong."""

EXIT_INTERRUPTED = 130

USAGE_ERRORS: tuple[type[Exception], ...] = (UsageError, typer.BadParameter.__mro__[2])
"""Ours; and typer's, whose base class is click's or a copy of it."""

RED = "bold red"

PIPE_WIDTH = 240
"""Columns for a file or a pipe: wide enough not to truncate names."""

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def __getattr__(name: str) -> Console:
    if name not in ("stdout", "stderr"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _console(name)


@cache
def _console(name: str) -> Console:
    from rich.console import Console

    fits = name == "stderr" or sys.stdout.isatty()
    return Console(stderr=name == "stderr", soft_wrap=True, width=None if fits else PIPE_WIDTH)


def say(text: str, *, label: str = "", style: str = "") -> None:
    """Prints to stderr, with a label in a style or all of it in the style."""
    from rich.text import Text

    head = Text(f"{label}: ", style=style) if label else Text()
    _console("stderr").print(head + Text(text, style="" if label else style), highlight=False)


def note(text: str) -> None:
    """Prints something to know to stderr."""
    say(text, label="note", style="yellow")


def print_json(value: Any) -> None:
    """Prints a dataclass, list or dict as JSON."""
    json.dump(value, sys.stdout, default=_plain, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    import numpy as np

    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)


def printable(text: str) -> str:
    """``text`` without control characters except line feeds: names come from files, and the text goes to a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


@contextmanager
def errors_shown() -> Iterator[None]:
    """Turns a TnnError into a message and an exit code."""
    try:
        yield
    except USAGE_ERRORS as error:
        _show_usage_error(error)
        raise SystemExit(EXIT_USAGE) from None
    except TnnError as error:
        say(printable(error.headline()), label="error", style=RED)
        for label, fact in (("expected", error.expected), ("found", error.found)):
            if fact is not None:
                say(f"  {label + ':':9} {printable(str(fact))}")
        if error.hint:
            say("")
            say(error.hint, label="hint", style="bold")
        raise SystemExit(EXIT_BAD) from None
    except (KeyboardInterrupt, typer.Abort):
        raise SystemExit(EXIT_INTERRUPTED) from None


def _show_usage_error(error: Any) -> None:
    """One line: what is wrong, what may be meant, and where the help is."""
    if isinstance(error, UsageError):
        text, command = str(error), ""
    else:
        text = " ".join(error.format_message().split()).replace("Value error, ", "")
        command = getattr(error.ctx, "command_path", "")
        if "\n" in error.format_message().strip():  # the help itself, where a command needs words and has none
            error.show()
            return
        option = getattr(error, "option_name", None)
        if option and error.message.startswith("No such option") and error.ctx is not None:
            known = [name for one in error.ctx.command.get_params(error.ctx) for name in one.opts]
            hint = did_you_mean(option, known)
            text = f"no such option {option}" + (f": {hint}" if hint else "")
    where = f" (see {command} --help)" if command else ""
    say(f"{printable(text)}{where}", label="error", style=RED)
