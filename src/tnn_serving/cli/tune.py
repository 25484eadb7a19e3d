"""The tune command: finds the best settings for serving a model on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, ProgressColumn, Task, TextColumn
from rich.progress_bar import ProgressBar
from rich.table import Table

from tnn_serving.cli.bench import positive_numbers
from tnn_serving.cli.model import parse_shapes
from tnn_serving.cli.output import EXIT_BAD, EXIT_INTERRUPTED, JsonFlag, note, print_json, say, stderr, stdout
from tnn_serving.tune.goal import Goal, GoalKind
from tnn_serving.tune.model_paths import ModelPaths

if TYPE_CHECKING:
    from tnn_serving.tune.change import Change
    from tnn_serving.tune.report import CandidateResult, Report
    from tnn_serving.tune.space import Candidate

SHOWN_CANDIDATES = 10
"""How many candidates the table shows; --json and --report contain all."""

BUDGET = "120s"
UNIT_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
MIN_S = 5.0


def tune(
    model: Annotated[
        Path,
        typer.Argument(
            exists=True, metavar="MODEL", help="A model folder (REPOSITORY/NAME), or a folder with a model's files."
        ),
    ],
    goal: Annotated[GoalKind, typer.Option(help="The lowest p50, or the most inferences per second.")] = "latency",
    p99: Annotated[
        float | None, typer.Option("--p99", min=0.001, metavar="MS", help="Limit of the 99th percentile of latency.")
    ] = None,
    budget: Annotated[str, typer.Option(metavar="TIME", help="Total time, as 90s, 5m or 1h.")] = BUDGET,
    concurrency: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N...]",
            help="Levels of concurrent requests. By default 1 for latency; for throughput 1, and 2 and 8 times the "
            "number of cores.",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="First dim of each input: inferences per request.")] = 1,
    shape: Annotated[list[str] | None, typer.Option(help="Input shape, as NAME=1x3x224x224; may be repeated.")] = None,
    data: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A picture, or an .npz with arrays by input name.")
    ] = None,
    seed: Annotated[int, typer.Option(help="For random inputs, without --data.")] = 0,
    allow_bf16: Annotated[
        bool, typer.Option("--allow-bf16", help="Also try bf16, if its answers differ by at most 1 %.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also vary and replace settings that config.pbtxt contains.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the change of config.pbtxt without writing it.")
    ] = False,
    output_config: Annotated[
        Path | None,
        typer.Option(dir_okay=False, metavar="PATH", help="Write to this file, not the model's config.pbtxt."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(dir_okay=False, metavar="PATH", help="A page with plots (.html), or the plots alone (.svg)."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Find the best settings for serving a model on this machine, and write them to its config.pbtxt.

    Engine, streams, threads, joined rows and instances are measured on a real server; the best candidates and the
    default alternately. Settings in config.pbtxt are kept. Ctrl-C shows the results so far. Exit code 1 if all
    candidates exceed --p99.

    Examples:

      tnn-serving tune models/face

      tnn-serving tune models/face --goal throughput --p99 50 --budget 5m --report face.html

      tnn-serving tune models/face --shape input=1x3x480x640 --dry-run

      tnn-serving tune exported/face --output-config config.pbtxt --json | jq '.chosen.parameters'
    """
    from tnn_serving.tune import TrialLoad
    from tnn_serving.tune import tune as tuned
    from tnn_serving.tune.change import ConfigFile
    from tnn_serving.tune.page import check_suffix, save_report

    aim, budget_s = Goal(goal, p99), _seconds(budget)
    if report is not None:
        check_suffix(report)
    load = TrialLoad(_levels(concurrency, goal), batch, parse_shapes(shape or []), data, seed)
    paths = ModelPaths.of(model)
    config = ConfigFile.of(paths.config, output_config)
    with _TimeBar(budget_s) as bar:
        found, chosen = tuned(
            paths,
            aim,
            load,
            budget_s=budget_s,
            text=config.text(),
            allow_bf16=allow_bf16,
            force=force,
            on_trial=bar.trial,
        )
    if json:
        print_json(found)
    else:
        _show(found)
    _show_notes(found)
    change = config.change(found, chosen, force=force)
    if report is not None:
        save_report(report, found, change.added() if found.changed else "")
        say(f"written: {report}")
    if found.confirmed and found.met and change:
        if not found.changed:
            note("the settings of an earlier tuning are not clearly better than the default and are removed")
        _write(config.target, change, show_only=dry_run, to=stderr if json else stdout)
    if found.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if not found.met:
        raise typer.Exit(EXIT_BAD)


class _TimeBar:
    """Shows elapsed time and current candidate on a terminal."""

    def __init__(self, budget_s: float) -> None:
        # Twice per second: drawing uses CPU time that is measured.
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
    """A bar of the elapsed time, since the number of trials is not known beforehand."""

    def render(self, task: Task) -> ProgressBar:
        total = task.total or 1.0
        return ProgressBar(total=total, completed=min(total, task.elapsed or 0.0), width=30)


# ---- options ----


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    seconds = float(match[1]) * UNIT_S[match[2]] if match else 0.0
    if seconds < MIN_S:
        raise typer.BadParameter(f"{text!r}: expected at least {MIN_S:g}s, as 90s, 5m or 1h", param_hint="--budget")
    return seconds


def _levels(concurrency: str | None, goal: GoalKind) -> tuple[int, ...]:
    if concurrency is not None:
        return tuple(sorted(set(positive_numbers(concurrency, int, "--concurrency"))))
    from tnn_serving.engines.cpu import available_cores

    cores = available_cores().count
    return (1,) if goal == "latency" else (1, 2 * cores, 8 * cores)


# ---- results ----


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
    shown = measured[:SHOWN_CANDIDATES]
    shown += [report.default] if report.default in measured[SHOWN_CANDIDATES:] else []
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


def _rows(report: Report, result: CandidateResult) -> Iterator[list[str]]:
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


def _show_notes(report: Report) -> None:
    """Prints notes and findings in addition to the table."""
    for key, value in report.kept.items():
        note(f"config.pbtxt sets {key} to {value}, which was kept (--force to vary it)")
    if not report.met:
        best = "" if report.best_p99_ms is None else f"; the lowest is {report.best_p99_ms:.2f} ms"
        note(f"all candidates exceed the p99 limit of {report.p99_ms:g} ms{best}. Nothing is written")
    elif report.interrupted and not report.confirmed:
        note("interrupted before the best candidate and the default were measured alternately: nothing is written")
    elif report.interrupted:
        note("interrupted")
    elif len(report.candidates) == 1:
        note("there was nothing to try, or no time for it: give a larger --budget. Nothing is written")
    elif not report.confirmed:
        note("too little time to measure the best candidate and the default alternately: give a larger --budget")
    if report.confirmed and report.met:
        for line in report.findings():
            stderr.print(escape(line), highlight=False)


def _write(target: Path | None, change: Change, *, show_only: bool, to: Console) -> None:
    from tnn_serving.tune.write import save

    if show_only or target is None:
        to.print(change.diff(target or Path("config.pbtxt")), end="", highlight=False, markup=False)
        if target is None and not show_only:
            note("these files are not in a model repository: nothing is written; give --output-config")
        return
    backup = save(target, change.after)
    say(f"written: {target}" + ("" if backup is None else f"; backup: {backup}"))
