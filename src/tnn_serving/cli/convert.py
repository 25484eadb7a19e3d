"""The command that makes a TNN model of an ONNX one."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from tnn_serving.cli.model import parse_shapes
from tnn_serving.cli.output import JsonFlag, print_json, stderr, stdout

if TYPE_CHECKING:
    import numpy as np

    from tnn_serving.conversion import Conversion


def convert(
    model: Annotated[Path, typer.Argument(help="An ONNX model, or the folder of one.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write the pair of TNN files to.")],
    dims: Annotated[
        list[str] | None,
        typer.Option(help="Default dims of an input, as NAME=1x3x224x224; may be repeated. Free sizes stay free."),
    ] = None,
    outputs: Annotated[
        str, typer.Option(metavar="NAME[,NAME]", help="Values to end the network at, if not its outputs.")
    ] = "",
    optimize: Annotated[
        bool, typer.Option("--optimize", help="Put activations into the convolutions before them.")
    ] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Store weights in half.")] = False,
    dynamic_range: Annotated[
        bool, typer.Option("--dynamic-range", help="Store weights as int8 codes with a scale.")
    ] = False,
    inputs: Annotated[
        Path | None, typer.Option(help="An .npz with an array for each input to try the network on; random ones.")
    ] = None,
    check: Annotated[bool, typer.Option(help="Run both networks and compare their answers.")] = True,
    json: JsonFlag = False,
) -> None:
    """Make a TNN model of an ONNX model, and try whether it answers the same.

    Names of values are kept. Nothing is written if a node cannot be converted, or if an answer differs.

    Examples:

      tnn-serving convert model.onnx -o models/face/1

      tnn-serving convert model.onnx -o models/face/1 --dims input=1x3x480x640

      tnn-serving convert model.onnx -o models/face/1 --outputs 537,538 --fp16
    """
    from tnn_serving.conversion import Account
    from tnn_serving.conversion import convert as convert_model
    from tnn_serving.formats.onnx import onnx_file

    found = convert_model(
        onnx_file(model) if model.is_dir() else model,
        output,
        dims=parse_shapes(dims or [], "--dims"),
        outputs=[name for name in outputs.split(",") if name],
        optimize=optimize,
        fp16=fp16,
        dynamic_range=dynamic_range,
        checked=check,
        inputs=None if inputs is None else _arrays(inputs),
        on_step=lambda text: stderr.print(f"{text} ...", style="dim", highlight=False),
    )
    if json:
        print_json({item.name: getattr(found, item.name) for item in fields(Account)})
    else:
        _show(found)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    from tnn_serving.prepare.recorded_case import read_arrays

    return dict(read_arrays(path))


def _show(found: Conversion) -> None:
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(found.layers.items(), key=lambda item: -item[1]))
    stdout.print(f"{sum(found.operators.values())} nodes -> {sum(found.layers.values())} layers: {escape(kinds)}")
    for note in found.notes:
        stdout.print(f"note: {escape(note)}", highlight=False)
    if found.check is None:
        stdout.print("not tried", highlight=False)
    else:
        for run in found.check.tried:
            shapes = ", ".join(f"{name} {' x '.join(map(str, dims)) or 'scalar'}" for name, dims in run.shapes.items())
            stdout.print(
                f"same answer at {escape(shapes)}: within {run.largest:.2g} of the largest value", highlight=False
            )
        if found.check.untried:
            stdout.print(f"not tried at another size: {escape(found.check.untried)}", highlight=False)
    if found.loss is not None:
        stdout.print(f"the smaller weights change the answer by {found.loss:.2g} of the largest value", highlight=False)
    for path in (found.proto, found.model):
        stdout.print(f"written: {path}", highlight=False)
