"""The ``tnn-serving`` program. It imports the module of the command that runs, and all of them only for the help."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated

import typer

from tnn_serving.cli.help import Command, CommandGroup
from tnn_serving.cli.output import errors_shown
from tnn_serving.version import VERSION

PROGRAM = "tnn-serving"
COMPLETE_VARIABLE = "_TNN_SERVING_COMPLETE"
"""Set by the shell's completion; typer makes the name of the program's."""

PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True}


@dataclass(frozen=True, slots=True)
class Listed:
    """Where a command is, and under which heading the help lists it.

    Attributes:
        module: with a function of the command's name, ``_`` in place of ``-``, or with a group of that name.
        panel: the heading.
        is_group: the command has commands of its own.
        passes_flags: options that it does not know are handed on.
    """

    module: str
    panel: str
    is_group: bool = False
    passes_flags: bool = False


COMMANDS = {
    "serve": Listed("tnn_serving.cli.serve", "Serve", passes_flags=True),
    "install-server": Listed("tnn_serving.cli.serve", "Serve"),
    "check": Listed("tnn_serving.cli.check", "Serve"),
    "prepare": Listed("tnn_serving.cli.check", "Serve"),
    "sign": Listed("tnn_serving.cli.check", "Serve"),
    "gateway": Listed("tnn_serving.cli.gateway", "Serve", is_group=True),
    "backend": Listed("tnn_serving.cli.backend", "Serve", is_group=True),
    "demo": Listed("tnn_serving.cli.demo", "Serve", is_group=True),
    "classify": Listed("tnn_serving.cli.pictures", "Query a server"),
    "detect": Listed("tnn_serving.cli.pictures", "Query a server"),
    "request": Listed("tnn_serving.cli.pictures", "Query a server"),
    "bench": Listed("tnn_serving.cli.bench", "Measure"),
    "tune": Listed("tnn_serving.cli.tune", "Measure"),
    "soak": Listed("tnn_serving.cli.soak", "Measure"),
    "inspect": Listed("tnn_serving.cli.model", "Inspect a model"),
    "compare": Listed("tnn_serving.cli.model", "Inspect a model"),
    "export": Listed("tnn_serving.cli.model", "Inspect a model"),
    "convert": Listed("tnn_serving.cli.convert", "Make a model"),
}
"""All commands, in the order of the help."""


def make_app(names: Collection[str] | None = None) -> typer.Typer:
    """The program with these commands; with all of them if left out."""
    app = typer.Typer(
        cls=CommandGroup,
        no_args_is_help=True,
        add_completion=names is None or _completing() is not None,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Serve TNN models with Triton on CPU, and inspect them.",
    )
    app.callback()(_root)
    for name in COMMANDS if names is None else names:
        listed = COMMANDS[name]
        found = getattr(import_module(listed.module), name.replace("-", "_"))
        if listed.is_group:
            app.add_typer(found, name=name, cls=CommandGroup, rich_help_panel=listed.panel)
        else:
            settings = PASS_THROUGH if listed.passes_flags else {}
            app.command(name, cls=Command, rich_help_panel=listed.panel, context_settings=settings)(found)
    return app


def _version(show: bool) -> None:
    if show:
        typer.echo(f"tnn-serving {VERSION}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def _completing() -> list[str] | None:
    """The words of the command line that a shell wants to complete; ``None`` if none does."""
    if COMPLETE_VARIABLE not in os.environ:
        return None
    # zsh and fish set the first, bash the second.
    text = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS") or ""
    return text.split()[1:]


def _needed(words: list[str]) -> Collection[str] | None:
    """The commands that a command line needs; ``None`` for all, which the help and unknown names need."""
    if words[:1] == ["--version"]:
        return ()
    return words[:1] if words and words[0] in COMMANDS else None


def main() -> None:
    """Entry point. A TnnError becomes a message and exit code 1, wrong usage a line and exit code 2."""
    completing = _completing()
    words = sys.argv[1:] if completing is None else completing
    with errors_shown():
        code = make_app(_needed(words))(prog_name=PROGRAM, standalone_mode=False)
    raise SystemExit(code or 0)
