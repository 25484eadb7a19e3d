"""Commands for model folders before they are served: check and sign."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from tnn_serving.cache import cache_option
from tnn_serving.check.report import Checked, CheckedModel, CheckedTensor, Finding, memory_text
from tnn_serving.cli.output import EXIT_BAD, JsonFlag, print_json, printable, stderr, stdout
from tnn_serving.prepare.manifest import sign as sign_folder

CacheOption = Annotated[
    str,
    typer.Option(help="Folder for prepared models and measurements, or none.", show_default="user's cache"),
]

SEVERITY_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def check(
    repositories: Annotated[list[Path], typer.Argument(metavar="REPOSITORY...", help="Repositories for one server.")],
    backend_config: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A parameter of the server's command line; may be repeated."),
    ] = None,
    allow_backend: Annotated[
        list[str] | None, typer.Option(metavar="BACKEND", help="As of serve; may be repeated.")
    ] = None,
    cache_dir: CacheOption = "",
    json: JsonFlag = False,
) -> None:
    """Report all errors in a model repository before it is served.

    Needs no server. Exit code 1 if there is an error. Memory is an estimate at the default shapes. What is good is
    prepared on the way: the server starts with it at once.

    Examples:

      tnn-serving check models

      tnn-serving check models more-models --backend-config require_manifest=true

      tnn-serving check models --json | jq '.models[].findings'
    """
    from tnn_serving.check.repository import check as check_repositories

    options = {**_cache(cache_dir), **dict(_pair(text) for text in backend_config or [])}
    with progress("checked") as show:
        found = check_repositories(repositories, options, allowed=allow_backend or (), on_progress=show)
    if json:
        print_json(found)
    else:
        _show(found)
    if found.errors:
        raise typer.Exit(EXIT_BAD)


def prepare(
    repositories: Annotated[list[Path], typer.Argument(metavar="REPOSITORY...", help="Repositories for one server.")],
    out: CacheOption = "",
    backend_config: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A parameter of the server's command line; may be repeated."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Prepare the models of a repository: read, translate, compile, measure and verify them before a server starts.

    A server on the same kind of machine, with the same versions and settings, opens what is left in the folder and
    compiles nothing. Exit code 1 if a model cannot be prepared.

    Examples:

      tnn-serving prepare models

      tnn-serving prepare models --out prepared

      tnn-serving serve models --cache-dir prepared --prepared-only
    """
    from tnn_serving.check.repository import check as check_repositories

    options = {**_cache(out), **dict(_pair(text) for text in backend_config or [])}
    with progress("prepared") as show:
        found = check_repositories(repositories, options, on_progress=show)
    if json:
        print_json(found)
    else:
        stdout.print(_prepared_table(found), "")
        for model in found.models:
            _show_model(model, least="error")
    if found.errors:
        raise typer.Exit(EXIT_BAD)


@contextmanager
def progress(done_to: str) -> Iterator[Callable[[int, int, str], None]]:
    """Shows how many models are done."""
    with Status("starting", console=stderr) as status:

        def show(done: int, total: int, name: str) -> None:
            status.update(f"{done} of {total} models {done_to}; last: {escape(printable(name))}")

        yield show


def _cache(folder: str) -> dict[str, str]:
    cache = cache_option(folder)
    return {} if cache is None else {"cache_dir": os.fspath(cache)}


def _prepared_table(found: Checked) -> Table:
    table = Table("model", "version", "engine", box=None, pad_edge=False)
    for model in found.models:
        for version in model.versions:
            engine = version.engine or "[red]not prepared[/]"
            table.add_row(printable(model.name), str(version.version), engine)
    return table


def sign(
    folders: Annotated[list[Path], typer.Argument(metavar="MODEL_FOLDER...", help="Model folders, REPOSITORY/NAME.")],
) -> None:
    """Write the SHA-256 sums of a model folder's files to its SHA256SUMS.

    A model with this file is loaded only if no file has changed since. The format is that of sha256sum.

    Examples:

      tnn-serving sign models/face models/ocr

      (cd models/face && sha256sum --check SHA256SUMS)
    """
    for folder in folders:
        stderr.print(f"written: {sign_folder(folder)}", highlight=False, markup=False)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--backend-config")
    return key, value


def _show(found: Checked) -> None:
    if found.models:
        stdout.print(_table(found), "")
    for model in found.models:
        _show_model(model)
    for line in found.skipped:
        stdout.print(f"[dim]note:[/] not served: {escape(line)}", highlight=False)
    counts = [
        f"{count} {word}{'' if count == 1 else 's'}"
        for count, word in ((len(found.models), "model"), (found.errors, "error"), (found.warnings, "warning"))
    ]
    stdout.print(", ".join(counts), highlight=False)


def _table(found: Checked) -> Table:
    table = Table(
        "model", "version", "inputs", "outputs", "batch", "engine", "memory", "verdict", box=None, pad_edge=False
    )
    for model in found.models:
        if not model.versions:
            table.add_row(printable(model.name), "", "", "", "", model.kind, "", _verdict(model.findings))
        for version in model.versions:
            table.add_row(
                printable(model.name),
                str(version.version),
                "\n".join(_tensor(tensor) for tensor in version.inputs),
                "\n".join(_tensor(tensor) for tensor in version.outputs),
                escape(version.batch),
                version.engine,
                memory_text(version.memory),
                _verdict([*model.findings, *version.findings]) if version.served else "not served",
            )
    return table


def _tensor(tensor: CheckedTensor) -> str:
    return escape(f"{printable(tensor.name)} {tensor.datatype} [{','.join(map(str, tensor.dims))}]")


def _verdict(findings: list[Finding]) -> str:
    for severity in ("error", "warning"):
        count = sum(finding.severity == severity for finding in findings)
        if count:
            return f"[{SEVERITY_STYLES[severity]}]{count} {severity}{'' if count == 1 else 's'}[/]"
    return "[green]good[/]"


def _show_model(model: CheckedModel, *, least: str = "note") -> None:
    for number, finding in model.everything():
        if least == "error" and finding.severity != "error":
            continue
        place = model.name if number is None else f"{model.name}, version {number}"
        text = printable(
            f"{place}, {finding.where}: {finding.problem}" if finding.where else f"{place}: {finding.problem}"
        )
        stdout.print(f"[{SEVERITY_STYLES[finding.severity]}]{finding.severity}:[/] {escape(text)}", highlight=False)
        for label, fact in (("expected", finding.expected), ("found", finding.found), ("hint", finding.hint)):
            if fact:
                stdout.print(f"  {label + ':':9} {escape(printable(fact))}", highlight=False)
    for version in model.versions if least == "note" else ():
        for line in version.completed:
            text = printable(f"{model.name}, version {version.version}, filled in: {line}")
            stdout.print(f"[dim]note:[/] {escape(text)}", highlight=False)
