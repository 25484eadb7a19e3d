"""Commands that look at a model without serving it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from tnn_serving.choices import ExportedInt8, Int8Choice
from tnn_serving.cli.output import EXIT_BAD, JsonFlag, print_json, stderr, stdout
from tnn_serving.look.defaults import COMPARE_TOLERANCE
from tnn_serving.nearest import did_you_mean
from tnn_serving.network.formats import open_network

if TYPE_CHECKING:
    from tnn_serving.look.compare import Comparison
    from tnn_serving.look.summary import Summary
    from tnn_serving.network.views import LayerView

ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model folder, or the file of a model: of TNN, or ONNX.")
]


def inspect(
    model: ModelPath,
    shape: Annotated[
        list[str] | None, typer.Option(help="Input shape to infer with, as NAME=1x3x224x224; may be repeated.")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Show all there is about one layer.")] = None,
    json: JsonFlag = False,
) -> None:
    """Show what a model contains: inputs, outputs, and each layer with its shapes and weights.

    Examples:

      tnn-serving inspect models/face/1

      tnn-serving inspect models/face/1 --shape input=1x3x480x640

      tnn-serving inspect models/face/1 --layer conv_5

      tnn-serving inspect models/face/1 --json | jq '.layers[].type'
    """
    from tnn_serving.look.summary import summarize

    shapes = parse_shapes(shape or [])
    summary = summarize(open_network(model), shapes)
    if layer is not None:
        _show_layer(summary, layer, as_json=json)
    elif json:
        print_json(summary)
    else:
        _show(summary)
    if summary.problem:
        raise typer.Exit(EXIT_BAD)


def export(
    model: ModelPath,
    output: Annotated[Path, typer.Option("-o", "--output", help="The ONNX file to write.")],
    int8: Annotated[
        ExportedInt8, typer.Option(help="Form of int8 layers: TNN's codes, or Quantize and DequantizeLinear.")
    ] = "exact",
    raw_int8: Annotated[bool, typer.Option(help="Take and give int8 blobs as codes.")] = False,
) -> None:
    """Write a model as ONNX, as it is served: free sizes symbolic, blob names kept.

    A TNN model becomes opset 21 and standard operators.

    Examples:

      tnn-serving export models/face/1 -o face.onnx
    """
    from tnn_serving.formats.onnx import write_onnx
    from tnn_serving.model import to_onnx

    made = to_onnx(model, int8=int8, raw_int8=raw_int8)
    write_onnx(made, output)
    stderr.print(f"written: {output} ({len(made.graph.node)} nodes)", highlight=False)


def compare(
    model: ModelPath,
    other: Annotated[Path | None, typer.Argument(metavar="OTHER", help="A second model to compare with.")] = None,
    against: Annotated[Path | None, typer.Option(help="Recording: an .npz with in.BLOB and out.BLOB arrays.")] = None,
    engines: Annotated[
        str, typer.Option(metavar="ENGINE[,ENGINE]", help="The engines to compare, or the first of them to use; all.")
    ] = "",
    shape: Annotated[list[str] | None, typer.Option(help="Input shape, as NAME=1x3x224x224; may be repeated.")] = None,
    blob: Annotated[list[str] | None, typer.Option(help="Only these blobs; may be repeated.")] = None,
    tolerance: Annotated[
        float, typer.Option(help="Largest difference over the largest value that counts as equal.")
    ] = (COMPARE_TOLERANCE),
    int8: Annotated[Int8Choice, typer.Option(help="Form of int8 layers.")] = "exact",
    reference_int8: Annotated[
        Int8Choice | None, typer.Option(help="Their form in the reference, if it is another one.")
    ] = None,
    seed: Annotated[int, typer.Option(help="For random inputs, where no recording gives them.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Find the first layer whose blob differs: between engines, from a recording, or from another model.

    Exit code 1 if anything differs.

    Examples:

      tnn-serving compare models/face/1

      tnn-serving compare models/face/1 --against face.npz

      tnn-serving compare models/face/1 models/face_int8/1 --tolerance 0.05

      tnn-serving compare models/face/1 face.onnx
    """
    from tnn_serving.look.compare import compare as compare_models

    found = compare_models(
        model,
        other,
        against=against,
        engines=engines.split(",") if engines else (),
        shapes=parse_shapes(shape or []),
        blobs=blob or (),
        tolerance=tolerance,
        int8=int8,
        reference_int8=reference_int8,
        seed=seed,
    )
    if json:
        print_json(found)
    else:
        _show_comparison(found)
    if found.first is not None:
        raise typer.Exit(EXIT_BAD)


def _show_comparison(found: Comparison) -> None:
    stdout.print(f"{escape(found.left)}\n{escape(found.right)} (reference)\n", highlight=False)
    table = Table("", "#", "type", "blob", "max abs", "relative", "cosine", box=None, pad_edge=False)
    for row in found.blobs:
        mark = "" if row.equal else "first" if row is found.first else "differs"
        table.add_row(
            mark,
            str(row.index),
            row.type,
            escape(row.blob),
            f"{row.max_abs:.3g}",
            f"{row.relative:.3g}",
            f"{row.cosine:.7f}",
        )
    stdout.print(table, "")
    if found.first is None:
        stdout.print(
            f"{_several(len(found.blobs), 'blob')}, all within {found.tolerance:g} of their largest value",
            highlight=False,
        )
        return
    first = found.first
    what = first.problem or f"{first.value:.7g} instead of {first.reference:.7g} at {list(first.worst)}"
    stdout.print(
        f"[bold red]differs first[/] at layer {first.index} `{escape(first.layer)}` ({first.type}), "
        f"blob `{escape(first.blob)}`: {escape(what)}",
        highlight=False,
    )


def parse_shapes(options: list[str], option_name: str = "--shape") -> dict[str, tuple[int, ...]]:
    """Shapes of ``--shape`` options, or of another one's, by input name. Raises typer.BadParameter."""
    shapes = {}
    for option in options:
        match = re.fullmatch(r"(.+)=(\d+(?:[x,]\d+)*)", option)
        if match is None:
            raise typer.BadParameter(f"{option!r}: expected NAME=1x3x224x224", param_hint=option_name)
        shapes[match[1]] = tuple(int(part) for part in re.split("[x,]", match[2]))
    return shapes


def _dims(dims: list[int | None] | None, free: list[bool] | None = None) -> str:
    if dims is None:
        return "?"
    marks = free or [False] * len(dims)
    return (
        " x ".join(("?" if d is None else str(d)) + ("*" if f else "") for d, f in zip(dims, marks, strict=True))
        or "scalar"
    )


def _several(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _count(number: int) -> str:
    for limit, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= limit:
            return f"{number / limit:.2f} {unit}"
    return str(number)


def _show(summary: Summary) -> None:
    stdout.print(f"[bold]{escape(summary.source)}[/]  version {summary.proto_version}", highlight=False)
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
        f"{_several(len(summary.layers), 'layer')}, {_count(summary.parameters)} parameters in "
        f"{_count(summary.weight_bytes)}B, {macs} MACs, {summary.int8_blobs} int8 blobs, "
        f"{len(summary.constants)} constants",
        highlight=False,
    )
    for engine, form in summary.int8.items():
        stdout.print(f"int8 on {engine}: {form}", highlight=False)
    if summary.problem:
        stdout.print(f"[bold red]cannot run:[/] {escape(summary.problem)}", highlight=False)


def _show_layer(summary: Summary, name: str, *, as_json: bool) -> None:
    found = [row for row in summary.layers if row.name == name]
    if not found:
        hint = did_you_mean(name, [row.name for row in summary.layers])
        raise typer.BadParameter(f"no layer {name!r}" + (f"; {hint}" if hint else ""), param_hint="--layer")
    if as_json:
        print_json(found)
        return
    for row in found:
        _show_one(row)


def _show_one(row: LayerView) -> None:
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
