"""The command that waits for leaks."""

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
        typer.Option(exists=True, file_okay=False, help="Repository to serve; a small made one if left out."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=1, help="How long, 600 if neither this nor --requests is given.")
    ] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="How many requests, if that is reached earlier.")] = None,
    clients: Annotated[int, typer.Option(min=1, help="Threads that send.")] = 8,
    allow: Annotated[
        float, typer.Option(min=0, metavar="MB", help="Growth in MB an hour that is not called growth.")
    ] = 10.0,
    report: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write a page (.html) or only the plot (.svg).")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Load a server of its own with everything at random, and see whether its memory grows.

    Many shapes, wrong requests, pictures, cancelled requests, shared memory, and models that are reloaded, over HTTP
    and gRPC. The memory (PSS) of all server processes is sampled every second; after a warm-up, a third of the time, a
    line is laid through it. Exit code 1 if all of the slope's 95 % confidence interval is above --allow, or if anything
    failed that should not have. Ctrl-C ends it early, with the report so far.

    Examples:
      tnn-serving soak
      tnn-serving soak --models /srv/models --seconds 3600 --report soak.html
      tnn-serving soak --requests 100000 --json | jq .growth
    """
    from tnn_serving.soak import soak as run
    from tnn_serving.soak.report import rows, said, write_report

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
            models, seconds=seconds, requests=requests, clients=clients, allowed_mb_per_hour=allow, progress=show
        )
    if report is not None:
        write_report(found, report)
    if json:
        print_json(found)
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        for label, value in rows(found):
            table.add_row(label, value)
        stdout.print(table)
        for text, count in found.failures.items():
            stdout.print(f"[bold red]{count} times:[/] {escape(printable(text))}", highlight=False)
        stdout.print(said(found), highlight=False)
    if found.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if not found.good:
        raise typer.Exit(EXIT_BAD)
