"""The ``tnn-serving`` program."""

from __future__ import annotations

from typing import Annotated

import typer

from tnn_serving.cli.backend import backend
from tnn_serving.cli.bench import bench
from tnn_serving.cli.check import check, prepare, sign
from tnn_serving.cli.demo import demo
from tnn_serving.cli.model import compare, export, inspect
from tnn_serving.cli.output import errors_shown
from tnn_serving.cli.pictures import classify, detect, request
from tnn_serving.cli.serve import install_server, serve
from tnn_serving.cli.soak import soak
from tnn_serving.cli.tune import tune
from tnn_serving.version import VERSION

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Serve TNN models with Triton on CPU, and inspect them.",
)

PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True}

app.command(rich_help_panel="Serve", context_settings=PASS_THROUGH)(serve)
app.command("install-server", rich_help_panel="Serve")(install_server)
app.command(rich_help_panel="Serve")(check)
app.command(rich_help_panel="Serve")(prepare)
app.command(rich_help_panel="Serve")(sign)
app.add_typer(backend, name="backend", rich_help_panel="Serve")
app.add_typer(demo, name="demo", rich_help_panel="Serve")
app.command(rich_help_panel="Query a server")(classify)
app.command(rich_help_panel="Query a server")(detect)
app.command(rich_help_panel="Query a server")(request)
app.command(rich_help_panel="Measure")(bench)
app.command(rich_help_panel="Measure")(tune)
app.command(rich_help_panel="Measure")(soak)
app.command(rich_help_panel="Inspect a model")(inspect)
app.command(rich_help_panel="Inspect a model")(compare)
app.command(rich_help_panel="Inspect a model")(export)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"tnn-serving {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: a TnnError becomes a message and exit code 1."""
    with errors_shown():
        app()
