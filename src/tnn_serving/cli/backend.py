"""Commands for the Triton backend itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tnn_serving.cli.help import Command
from tnn_serving.cli.output import stderr, stdout
from tnn_serving.triton.install import find_interpreter, uninstall
from tnn_serving.triton.install import install as install_backend

backend = typer.Typer(no_args_is_help=True, help="The backend for a Triton that you start yourself.")


@backend.callback()
def _group() -> None:
    pass


@backend.command(cls=Command)
def install(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIRECTORY", help="The Triton's backend directory, such as /opt/tritonserver/backends."),
    ],
    python: Annotated[
        str | None,
        typer.Option(help="The Python that the backend starts inside the server; this command's by default."),
    ] = None,
    remove: Annotated[bool, typer.Option("--uninstall", help="Remove the backend from the directory.")] = False,
) -> None:
    """Install the backend into the backend directory of any Triton.

    Copies the library, and writes a file with the Python that it starts. Models need a config.pbtxt with
    backend: "tnn".

    Examples:

      tnn-serving backend install /opt/tritonserver/backends

      tnn-serving backend install /opt/tritonserver/backends --python /opt/tnn-serving/bin/python

      tnn-serving backend install /opt/tritonserver/backends --uninstall
    """
    if remove:
        folder = uninstall(directory)
        stderr.print(f"removed {folder}", highlight=False, markup=False)
        return
    interpreter = find_interpreter(python or sys.executable)
    folder = install_backend(directory, interpreter)
    stdout.print(str(folder), highlight=False, markup=False)
    stderr.print(
        f"it starts {interpreter.executable} with {interpreter.libpython}; next: start tritonserver with models whose "
        'config.pbtxt has backend: "tnn"',
        highlight=False,
        markup=False,
    )
