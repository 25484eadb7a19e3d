"""The soak command: a long mixed load with a verdict on memory growth."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from tnn_serving.cli.output import EXIT_BAD, EXIT_INTERRUPTED, JsonFlag, print_json, printable, stderr, stdout

DEFAULT_SECONDS = 600.0


def soak(
    models: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Repository to serve; a small generated one by default."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="Duration; 600 if neither this nor --requests is given.")
    ] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="End after this number of requests.")] = None,
    clients: Annotated[int, typer.Option(min=1, help="Threads that send requests.")] = 8,
    allow: Annotated[
        float, typer.Option(min=0, metavar="MB", help="Memory growth per hour that is still acceptable, in MB.")
    ] = 10.0,
    report: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write a page (.html) or only the plot (.svg).")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Put a temporary server under a long mixed load, and check whether its memory grows.

    The load: many shapes, invalid requests, pictures, cancelled requests, shared memory and model reloads, over HTTP
    and gRPC. Every few seconds the load stops, and the memory of all server processes is sampled at rest; a line is
    fitted to the samples after the warm-up. Exit code 1 if the slope's whole 95 % confidence interval is above --allow,
    or if anything failed unexpectedly. Ctrl-C ends it early, with the report so far.

    Examples:
      tnn-serving soak
      tnn-serving soak --models /srv/models --seconds 3600 --report soak.html
      tnn-serving soak --requests 100000 --json | jq .growth
    """
    from tnn_serving.soak import soak as run
    from tnn_serving.soak.report import summary_rows, verdict_sentence, write_report

    if seconds is None and requests is None:
        seconds = DEFAULT_SECONDS
    if report is not None and report.suffix not in (".html", ".svg"):
        raise typer.BadParameter(f"{report.name}: expected a name that ends in .html or .svg", param_hint="--report")
    with ExitStack() as stack:
        live = stack.enter_context(Live(console=stderr, transient=True)) if stderr.is_terminal else None

        def show(passed_s: float, sent: int, memory_mb: float) -> None:
            if live is not None:
                until = f" of {seconds:.0f}" if seconds is not None else ""
                live.update(f"{passed_s:.0f}{until} s, {sent:,} requests, {memory_mb:.0f} MB")

        found = run(
            models, seconds=seconds, requests=requests, clients=clients, allowed_mb_per_hour=allow, on_sample=show
        )
    if report is not None:
        write_report(found, report)
    if json:
        print_json(found)
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        for label, value in summary_rows(found):
            table.add_row(label, value)
        stdout.print(table)
        for text, count in found.failures.items():
            stdout.print(f"[bold red]{count} times:[/] {escape(printable(text))}", highlight=False)
        stdout.print(verdict_sentence(found), highlight=False)
    if found.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if not found.good:
        raise typer.Exit(EXIT_BAD)
