"""Writes reference/cli.md, the reference of the command line, from the program's own commands.

python docs/generate_cli.py            write it
python docs/generate_cli.py --check    exit with 1 if it is not up to date
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import typer

from generated import run
from tnn_serving.cli.app import PROGRAM, make_app
from tnn_serving.cli.help import prose_and_examples, rows, usage

PAGE = Path(__file__).parent / "reference" / "cli.md"

# typer's own commands have no public type: some releases build on click, others carry a copy of it.
Command = Any

HEAD = """\
<!-- Written by docs/generate_cli.py from the commands of the program: do not edit. -->

# Command line

Every command of `tnn-serving` with its arguments and options, as `tnn-serving COMMAND --help` shows them. Exit codes
and the keys of `--json` are on the page of [what is stable](stability.md#command-line). Completion for your shell:
`tnn-serving --install-completion`.
"""


def page() -> str:
    """The whole reference: commands in the groups, and the order, of ``tnn-serving --help``."""
    return "\n".join([HEAD, *_contents(), *_commands()]).rstrip() + "\n"


def panels() -> list[tuple[str, list[tuple[str, Command]]]]:
    """Commands by the panel of the help text that they are shown in; a group of commands gives one for each."""
    root = typer.main.get_command(make_app())
    found = [(command.rich_help_panel, leaf) for name, command in subcommands(root) for leaf in leaves(name, command)]
    order = list(dict.fromkeys(panel for panel, _ in found))
    found.sort(key=lambda pair: order.index(pair[0]))
    return [(panel, [leaf for _, leaf in pairs]) for panel, pairs in groupby(found, key=lambda pair: pair[0])]


def subcommands(group: Command) -> Iterator[tuple[str, Command]]:
    context = typer.Context(group, info_name=PROGRAM)
    for name in group.list_commands(context):
        yield name, group.get_command(context, name)


def leaves(name: str, command: Command) -> Iterator[tuple[str, Command]]:
    """The commands of a group by their whole names, or the command itself."""
    if not hasattr(command, "list_commands"):
        yield name, command
        return
    for below, sub in subcommands(command):
        yield from leaves(f"{name} {below}", sub)


def _contents() -> Iterator[str]:
    for panel, commands in panels():
        links = ", ".join(f"[{name}](#{name.replace(' ', '-')})" for name, _ in commands)
        yield f"- {panel}: {links}"
    yield ""


def _commands() -> Iterator[str]:
    for panel, commands in panels():
        yield from (f"## {panel}", "")
        for name, command in commands:
            yield from _command(name, command)


def _command(name: str, command: Command) -> Iterator[str]:
    context = typer.Context(command, info_name=name)
    text, examples = prose_and_examples(command)
    line = " ".join([PROGRAM, name, usage(command, context)])
    yield from (f"### {name}", "", "```text", line, "```", "", text, "")
    if examples:
        yield from ("```sh", *examples, "```", "")
    told = [(names, meaning) for _, names, meaning in rows(command, context) if "--help" not in names]
    if told:
        yield from ("| argument or option | meaning |", "|---|---|")
        yield from (f"| `{one_line(names)}` | {prose(meaning)} |" for names, meaning in told)
        yield ""


def prose(text: str) -> str:
    return one_line(text).replace("<", "\\<")


def one_line(text: str) -> str:
    """Text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(run(__doc__, PAGE, lambda _: page()))
