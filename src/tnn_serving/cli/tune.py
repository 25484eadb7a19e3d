"""The command that finds the settings with which a model is served best here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, ProgressColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Table

from tnn_serving.cli.bench import positive_numbers
from tnn_serving.cli.model import parse_shapes
from tnn_serving.cli.output import EXIT_BAD, EXIT_INTERRUPTED, JsonFlag, print_json, stderr, stdout
from tnn_serving.engines.cpu import available_cores
from tnn_serving.errors import ConfigError
from tnn_serving.tune import Goal, Load, Place, Report, write
from tnn_serving.tune import tune as tuned
from tnn_serving.tune.goal import Kind
from tnn_serving.tune.page import page
from tnn_serving.tune.plot import plot
from tnn_serving.tune.report import Result
from tnn_serving.tune.space import Candidate

SHOWN = 10
"""So many candidates are in the table; all of them are in --json and --report."""

BUDGET = "120s"
UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
LEAST_S = 5.0


def tune(
    model: Annotated[
        Path,
        typer.Argument(
            exists=True, metavar="MODEL", help="A model folder (REPOSITORY/NAME), or a folder with a model's files."
        ),
    ],
    goal: Annotated[Kind, typer.Option(help="The lowest p50, or the most inferences a second.")] = "latency",
    p99: Annotated[
        float | None, typer.Option("--p99", min=0.001, metavar="MS", help="Bound of the 99th percentile of latency.")
    ] = None,
    budget: Annotated[str, typer.Option(metavar="TIME", help="For everything: 90s, 5m, 1h.")] = BUDGET,
    concurrency: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N...]",
            help="Requests in flight: levels to measure at. By default 1 for latency; 1, and 2 and 8 times the "
            "cores, for throughput.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="First dim of each input: inferences a request.")] = 1,
    shape: Annotated[list[str] | None, typer.Option(help="Input shape, as NAME=1x3x224x224; may be repeated.")] = None,
    data: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A picture, or an .npz with arrays by input name.")
    ] = None,
    seed: Annotated[int, typer.Option(help="For random inputs, where --data gives none.")] = 0,
    allow_bf16: Annotated[
        bool, typer.Option("--allow-bf16", help="Try bf16 too, where its answers are at most 1 % off.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Vary and replace what config.pbtxt says, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the change of config.pbtxt, write nothing.")] = False,
    output_config: Annotated[
        Path | None, typer.Option(dir_okay=False, metavar="PATH", help="Write there, instead of to the model's own.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(dir_okay=False, metavar="PATH", help="A page with plots (.html), or the plots alone (.svg)."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Find the settings with which a model is served best on this machine, and write them to its config.pbtxt.

    Engine, streams, threads, joined rows and instances are measured on a real server, the best ones against the default
    in turn. What config.pbtxt says already is kept. Ctrl-C shows what there is. Exit code 1 if nothing keeps --p99.

    Examples:

      tnn-serving tune models/face

      tnn-serving tune models/face --goal throughput --p99 50 --budget 5m --report face.html

      tnn-serving tune models/face --shape input=1x3x480x640 --dry-run

      tnn-serving tune exported/face --output-config config.pbtxt --json | jq '.chosen.parameters'
    """
    aim, budget_s = Goal(goal, p99), _seconds(budget)
    if report is not None and report.suffix not in (".html", ".svg"):
        raise typer.BadParameter(f"{report}: expected a name that ends in .html or .svg", param_hint="--report")
    load = Load(_levels(concurrency, goal), batch, parse_shapes(shape or []), data, seed)
    place = Place.of(model)
    target = output_config or place.config
    start = output_config if output_config is not None and output_config.exists() else place.config
    before = "" if start is None else write.read(start)
    with _TimeBar(budget_s) as bar:
        found, chosen = tuned(
            place,
            aim,
            load,
            budget_s=budget_s,
            text=before,
            allow_bf16=allow_bf16,
            force=force,
            on_trial=bar.trial,
        )
    evidence = found.evidence() if found.changed else ()
    if report is not None:
        after = write.with_settings(before, chosen, evidence, force=force)
        _write_report(report, found, _added(before, after) if found.changed else "")
    if json:
        print_json(found)
    else:
        _show(found)
    _tell(found)
    if _is_good(found):
        if start is not None:
            before = write.read(start)  # it may have been changed meanwhile, and must not be changed back
        after = write.with_settings(before, chosen, evidence, force=force)
        if after != before:
            if not found.changed:
                _note("what was tuned earlier is not clearly better than the default, and is taken out")
            _write(target, before, after, show_only=dry_run, to=stderr if json else stdout)
    if found.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if not found.met:
        raise typer.Exit(EXIT_BAD)


class _TimeBar:
    """How much of the budget is over and which candidate is measured, on a terminal."""

    def __init__(self, budget_s: float) -> None:
        # Twice a second: drawing takes the processor that is measured.
        self._progress = Progress(
            TextColumn("{task.description}"),
            _Elapsed(),
            TextColumn("{task.elapsed:.0f} of {task.total:.0f} s"),
            console=stderr,
            transient=True,
            refresh_per_second=2,
            disable=not stderr.is_terminal,
        )
        self._task = self._progress.add_task("starting the server", total=budget_s)
        self._count = 0

    def trial(self, candidate: Candidate) -> None:
        self._count += 1
        self._progress.update(self._task, description=f"{self._count}: {escape(str(candidate))}")

    def __enter__(self) -> _TimeBar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class _Elapsed(ProgressColumn):
    """A bar that grows with time, since only the time is known beforehand."""

    def render(self, task: Task) -> ProgressBar:
        total = task.total or 1.0
        return ProgressBar(total=total, completed=min(total, task.elapsed or 0.0), width=30)


# ---- what was asked ----


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    seconds = float(match[1]) * UNITS_S[match[2]] if match else 0.0
    if seconds < LEAST_S:
        raise typer.BadParameter(f"{text!r}: expected at least {LEAST_S:g}s, as 90s, 5m or 1h", param_hint="--budget")
    return seconds


def _levels(concurrency: str | None, goal: Kind) -> tuple[int, ...]:
    if concurrency is not None:
        return tuple(sorted(set(positive_numbers(concurrency, int, "--concurrency"))))
    cores = available_cores().count
    return (1,) if goal == "latency" else (1, 2 * cores, 8 * cores)


# ---- what was found ----


def _is_good(report: Report) -> bool:
    """Whether what was found may be written."""
    return report.confirmed and report.met


def _show(report: Report) -> None:
    stdout.print(
        f"[bold]{escape(report.model)}[/] for {report.aim}: {len(report.candidates)} candidates in "
        f"{report.elapsed_s:.0f} s; latency in ms",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("candidate")
    for title in ("concurrency", "inferences/s", "p50", "p99", "rows", "trials"):
        table.add_column(title, justify="right")
    measured = [result for result in report.candidates if result.points]
    shown = measured[:SHOWN]
    shown += [report.default] if report.default in measured[SHOWN:] else []
    for result in shown:
        for row in _rows(report, result):
            table.add_row(*row)
    stdout.print(table)
    left_out = len(measured) - len(shown)
    if left_out:
        stdout.print(f"and {left_out} more", highlight=False)
    for result in report.candidates:
        if result.problem:
            stderr.print(f"[yellow]{escape(result.label)}:[/] {escape(result.problem)}", highlight=False)


def _rows(report: Report, result: Result) -> Iterator[list[str]]:
    mark = "*" if result == report.chosen else ""
    for k, point in enumerate(result.points):
        yield [
            "" if k else mark,
            "" if k else escape(result.label),
            str(point.concurrency),
            f"{point.inferences_per_s:,.1f}{'' if point.stable else ' ~'}",
            f"{point.p50_ms:.2f}",
            f"{point.p99_ms:.2f}",
            "-" if point.rows is None else f"{point.rows:.1f}",
            "" if k else str(result.trials),
        ]


def _tell(report: Report) -> None:
    """What the table does not say."""
    for key, value in report.kept.items():
        _note(f"config.pbtxt says {key} {value}, which was kept (--force to vary it)")
    if not report.met:
        best = "" if report.best_p99_ms is None else f"; the lowest that was reached is {report.best_p99_ms:.2f} ms"
        _note(f"nothing keeps p99 at {report.p99_ms:g} ms{best}. Nothing is written")
    elif report.interrupted and not report.confirmed:
        _note("interrupted before the best candidate was measured against the default in turn: nothing is written")
    elif report.interrupted:
        _note("interrupted")
    elif len(report.candidates) == 1:
        _note("there was nothing to try, or no time for it: give a larger --budget. Nothing is written")
    elif not report.confirmed:
        _note("the time did not suffice to measure the best candidate against the default: give a larger --budget")
    if _is_good(report):
        for line in report.findings():
            stderr.print(escape(line), highlight=False)


def _note(text: str) -> None:
    stderr.print(f"[yellow]note:[/] {escape(text)}", highlight=False)


def _added(before: str, after: str) -> str:
    """The lines that are new."""
    return "".join(line[1:] for line in write.difference(before, after, Path()).splitlines(True)[2:] if line[0] == "+")


def _write(target: Path | None, before: str, after: str, *, show_only: bool, to: Console) -> None:
    if show_only or target is None:
        to.print(write.difference(before, after, target or Path("config.pbtxt")), end="", highlight=False, markup=False)
        if target is None and not show_only:
            _note("these files are in no model repository: nothing is written; --output-config says where to")
        return
    backup = write.save(target, after)
    kept = "" if backup is None else f"; as it was: {backup}"
    stderr.print(f"written: {target}{kept}", highlight=False, markup=False)


def _write_report(path: Path, report: Report, settings: str) -> None:
    try:
        path.write_text(page(report, settings) if path.suffix == ".html" else plot(report), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    stderr.print(f"written: {path}", highlight=False, markup=False)
