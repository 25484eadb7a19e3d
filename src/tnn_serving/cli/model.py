"""Commands that look at a model without serving it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tnn_serving.cli.output import JsonFlag, print_json, stdout
from tnn_serving.formats import read_model
from tnn_serving.summary import LayerSummary, Summary, summarize

ModelPath = Annotated[Path, typer.Argument(help="A model folder, or a .tnnproto with its .tnnmodel beside it.")]


def inspect(
    model: ModelPath,
    shape: Annotated[
        list[str] | None, typer.Option(help="Input shape to infer with, as NAME=1x3x224x224; may be repeated.")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Show all there is about one layer.")] = None,
    json: JsonFlag = False,
) -> None:
    """Show what a TNN model contains, without running it.

    Examples:

      tnn-serving inspect models/face/1

      tnn-serving inspect models/face/1 --shape input=1x3x480x640

      tnn-serving inspect models/face/1 --layer conv_5

      tnn-serving inspect models/face/1 --json | jq '.layers[].type'
    """
    summary = summarize(read_model(model), _shapes(shape or []))
    if layer is not None:
        _show_layer(summary, layer, as_json=json)
    elif json:
        print_json(summary)
    else:
        _show(summary)
    if summary.problem:
        raise typer.Exit(1)


def _shapes(options: list[str]) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for option in options:
        match = re.fullmatch(r"(.+)=(\d+(?:[x,]\d+)*)", option)
        if match is None:
            raise typer.BadParameter(f"{option!r}: expected NAME=1x3x224x224", param_hint="--shape")
        shapes[match[1]] = tuple(int(part) for part in re.split("[x,]", match[2]))
    return shapes


def _dims(dims: list[int | None] | None, free: list[bool] | None = None) -> str:
    if dims is None:
        return "?"
    marks = free or [False] * len(dims)
    return " x ".join(("?" if d is None else str(d)) + ("*" if f else "") for d, f in zip(dims, marks, strict=True)) or "scalar"


def _count(number: int) -> str:
    for limit, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= limit:
            return f"{number / limit:.2f} {unit}"
    return str(number)


def _show(summary: Summary) -> None:
    stdout.print(f"[bold]{summary.source}[/]  proto {summary.proto_version}", highlight=False)
    blobs = Table("", "blob", "type", "dims (* free)", box=None, pad_edge=False)
    for kind, group in (("input", summary.inputs), ("output", summary.outputs)):
        for blob in group:
            blobs.add_row(kind, blob.name, blob.dtype, _dims(blob.dims, blob.free))
    stdout.print(blobs, "")
    layers = Table("#", "type", "layer", "output dims", "weights", "MACs", box=None, pad_edge=False)
    for row in summary.layers:
        dims = "; ".join(_dims(d) for d in row.output_dims)
        layers.add_row(
            str(row.index),
            row.type,
            row.name,
            dims,
            _count(row.elements) if row.elements else "",
            _count(row.macs) if row.macs else "",
        )
    stdout.print(layers, "")
    macs = "unknown" if summary.macs is None else _count(summary.macs)
    stdout.print(
        f"{len(summary.layers)} layers, {_count(summary.parameters)} parameters in {_count(summary.weight_bytes)}B, "
        f"{macs} MACs, {summary.int8_blobs} int8 blobs, {len(summary.constants)} constants",
        highlight=False,
    )
    if summary.problem:
        stdout.print(f"[bold red]cannot run:[/] {summary.problem}", highlight=False)


def _show_layer(summary: Summary, name: str, *, as_json: bool) -> None:
    found = [row for row in summary.layers if row.name == name]
    if not found:
        raise typer.BadParameter(f"no layer {name!r}", param_hint="--layer")
    if as_json:
        print_json(found)
        return
    for row in found:
        _show_one(row)


def _show_one(row: LayerSummary) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("layer", f"{row.index} {row.name} ({row.type})")
    table.add_row("inputs", ", ".join(row.inputs))
    for name, dims in zip(row.outputs, row.output_dims, strict=True):
        table.add_row("output", f"{name}: {_dims(dims)}")
    for key, value in row.parameters.items():
        table.add_row(key, str(value))
    for weight in row.weights:
        shape = " x ".join(map(str, weight.dims)) if weight.dims else "no dims stored"
        table.add_row(weight.name, f"{weight.elements} values of {weight.dtype} ({shape})")
    stdout.print(table)
