"""Results of a benchmark: tables of rows, and targets, as JSON, on a terminal and in Markdown."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from machine import Machine, this_machine

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """A target for a figure.

    Attributes:
        what: a description of the figure.
        wanted: the limit.
        measured: the figure.
        at_least: whether the limit is a minimum or a maximum.
    """

    what: str
    wanted: float
    measured: float
    at_least: bool

    @property
    def met(self) -> bool:
        """Whether the figure is within the limit."""
        return self.measured >= self.wanted if self.at_least else self.measured <= self.wanted

    def cells(self) -> list[str]:
        """The row of a table: what, wanted, measured, met or missed."""
        sign = "at least" if self.at_least else "at most"
        return [self.what, f"{sign} {number(self.wanted)}", number(self.measured), "met" if self.met else "**missed**"]


@dataclass(slots=True)
class Result:
    """The results of one run of a benchmark."""

    program: str
    machine: Machine
    settings: Mapping[str, Any]
    tables: dict[str, list[Row]] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)

    @classmethod
    def of(cls, program: str, arguments: argparse.Namespace) -> Result:
        """An empty result of a program that was started with these arguments."""
        settings = {key: value for key, value in vars(arguments).items() if key not in LEFT_OUT and _is_plain(value)}
        return cls(program, this_machine(), settings)

    def add(self, table: str, row: Any) -> None:
        """Adds a row, a dataclass, to the table of that title."""
        self.tables.setdefault(table, []).append(asdict(row))

    def finish(self, arguments: argparse.Namespace) -> None:
        """Prints tables and targets; writes the file of ``--json``."""
        show(self)
        if arguments.json is not None:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


LEFT_OUT = ("json", "zoo", "environments", "command")
"""Arguments that are paths, not settings of the measurement."""


def _is_plain(value: object) -> bool:
    return isinstance(value, int | float | str | list | tuple)


def read(path: Path) -> Result:
    """A result that a benchmark has written."""
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts["machine"] = Machine(**{**facts["machine"], "features": tuple(facts["machine"]["features"])})
    facts["targets"] = [Target(**target) for target in facts["targets"]]
    return Result(**{key: facts[key] for key in (item.name for item in fields(Result))})


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option ``--json``."""
    parser.add_argument("--json", type=Path, metavar="OUT", help="write machine, settings, tables and targets here")


def integers(text: str) -> list[int]:
    """``1,4,16`` as numbers, for options."""
    return [int(word) for word in text.split(",")]


def words(text: str) -> list[str]:
    """``tiny,squeezenet`` as words, for options."""
    return text.split(",")


def number(value: object) -> str:
    """A number with about three significant digits and a thousands separator; words unchanged."""
    if not isinstance(value, float):
        return (
            ""
            if value is None
            else f"{value:,}"
            if isinstance(value, int) and not isinstance(value, bool)
            else str(value)
        )
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"


def heading(key: str) -> str:
    """A column's title: the name of the field, its unit last."""
    for suffix, unit in (("_rate", "/s"), ("_ms", ", ms"), ("_us", ", us"), ("_mb", ", MB"), ("_s", ", s")):
        if key.endswith(suffix):
            return key.removesuffix(suffix).replace("_", " ") + unit
    return key.replace("_", " ")


def show(result: Result) -> None:
    """Prints everything, the machine first."""
    console = Console(width=None if Console().is_terminal else 180, highlight=False)
    console.print(str(result.machine), style="dim")
    for title, rows in result.tables.items():
        if rows:
            console.print(
                _table(title, [heading(key) for key in rows[0]], [list(map(number, r.values())) for r in rows])
            )
    if result.targets:
        cells = [target.cells() for target in result.targets]
        console.print(_table("targets", ["target", "wanted", "measured", ""], cells))


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*head, title=title, title_justify="left", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table
