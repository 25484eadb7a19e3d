"""The command that measures: a served model under load, or its layers one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from tnn_serving.cli.model import parse_shapes
from tnn_serving.cli.output import EXIT_BAD, EXIT_INTERRUPTED, JsonFlag, print_json, stderr, stdout
from tnn_serving.client.connection import Protocol
from tnn_serving.client.load.options import OPEN_LOOP_CONNECTIONS, BenchRequests, Level, Pace, SharedMemory
from tnn_serving.errors import UsageError
from tnn_serving.look.defaults import PROFILE_RUNS

if TYPE_CHECKING:
    from tnn_serving.client.load import Measurement, Window
    from tnn_serving.look.profile import Profile

Order = Literal["time", "order"]

KEPT = 0.95
"""A rate is kept when at least this share of it was answered."""


def bench(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|URL",
            help="A model folder or file, which is served for the while; or the address of a running server.",
        ),
    ],
    model: Annotated[str | None, typer.Option(help="At a URL: name of the model; not needed if there is one.")] = None,
    concurrency: Annotated[
        str | None,
        typer.Option(metavar="N[,N...]", help="Requests in flight all the time; several levels in turn."),
    ] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="R[,R...]", help="Requests per second, sent whether or not answers come.")
    ] = None,
    poisson: Annotated[
        bool, typer.Option("--poisson", help="With --rate: at random moments, as from many users.")
    ] = False,
    connections: Annotated[
        int, typer.Option(min=1, help="With --rate: how many requests can be in flight.")
    ] = OPEN_LOOP_CONNECTIONS,
    protocol: Annotated[Protocol, typer.Option(help="For a URL without a scheme, and for a MODEL.")] = "http",
    batch: Annotated[int, typer.Option(min=1, help="First dim of each input: inferences per request.")] = 1,
    shape: Annotated[list[str] | None, typer.Option(help="Input shape, as NAME=1x3x224x224; may be repeated.")] = None,
    data: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A picture, or an .npz with arrays by input name.")
    ] = None,
    seed: Annotated[int, typer.Option(help="For random inputs, where --data gives none.")] = 0,
    window: Annotated[float, typer.Option(min=0.05, help="Seconds of a window, at least.")] = 2.0,
    stability: Annotated[
        float, typer.Option(min=0.001, help="The last three windows agree within this share of their mean.")
    ] = 0.05,
    max_windows: Annotated[int, typer.Option(min=1, help="Windows per level, if they do not agree earlier.")] = 10,
    shared_memory: Annotated[
        SharedMemory, typer.Option(help="Pass tensors through shared memory, on this machine.")
    ] = "none",
    verify: Annotated[bool, typer.Option("--verify", help="Compare each answer with the first; costs time.")] = False,
    layers: Annotated[
        bool, typer.Option("--layers", help="Time each layer of a MODEL instead, in this process, without a server.")
    ] = False,
    engine: Annotated[str, typer.Option(help="With --layers: auto, or the name of an engine.")] = "auto",
    runs: Annotated[int, typer.Option(min=1, help="With --layers: inferences to average.")] = PROFILE_RUNS,
    sort: Annotated[Order, typer.Option(help="With --layers: of the table.")] = "time",
    json: JsonFlag = False,
) -> None:
    """Measure a served model under load: throughput, latency, and where the time goes.

    Load goes on until three windows in a row agree. Ctrl-C shows what there is. Exit code 1 if requests failed.
    With --layers: the time of each layer, by its name in the model.

    Examples:

      tnn-serving bench models/face --concurrency 1,4,16

      tnn-serving bench models/face/1 --shape input=1x3x480x640 --protocol grpc

      tnn-serving bench localhost:8000 --model face --rate 50,100 --poisson

      tnn-serving bench models/classification --data cat.jpg --json | jq '.[].latency.p99_ms'

      tnn-serving bench models/face/1 --layers --engine onnxruntime
    """
    from tnn_serving.client.load.bench import bench as measure

    shapes = parse_shapes(shape or [])
    if layers:
        _bench_layers(target, engine, shapes, data, seed=seed, runs=runs, sort=sort, json=json)
        return
    levels = _levels(concurrency, rate)
    requests = BenchRequests(shapes, data, batch, seed, shared_memory, verify)
    pace = Pace(poisson, connections, window, stability, max_windows)
    with _Progress() as progress:
        done = measure(target, model, protocol, levels, requests, pace, progress)
    if json:
        print_json(done)
    else:
        _show(done)
    _warn(done)
    if done[-1].interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if any(level.errors for level in done):
        raise typer.Exit(EXIT_BAD)


class _Progress:
    """Shows each window as it ends, on a terminal."""

    def __init__(self) -> None:
        self._live = Live(console=stderr, auto_refresh=False, transient=True)
        self._counts: Counter[Level] = Counter()

    def __enter__(self) -> _Progress:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def __call__(self, level: Level, window: Window) -> None:
        self._counts[level] += 1
        p50 = "" if window.p50_ms is None else f", p50 {window.p50_ms:.2f} ms"
        figures = f"window {self._counts[level]}, {window.requests_per_s:,.0f} requests/s{p50}"
        if self._live.console.is_terminal:
            self._live.update(f"{level.label}: {figures}", refresh=True)


def _levels(concurrency: str | None, rate: str | None) -> list[Level]:
    if concurrency is not None and rate is not None:
        raise typer.BadParameter("give one of --concurrency and --rate", param_hint="--rate")
    if rate is not None:
        return [Level(rate=one) for one in positive_numbers(rate, float, "--rate")]
    return [Level(concurrency=one) for one in positive_numbers(concurrency or "1", int, "--concurrency")]


Number = TypeVar("Number", int, float)


def positive_numbers(text: str, kind: Callable[[str], Number], option: str) -> list[Number]:
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) <= 0:
        raise typer.BadParameter(f"{text!r}: expected positive numbers, as 1,4,16", param_hint=option)
    return numbers


def _show(levels: Sequence[Measurement]) -> None:
    first = levels[0]
    stdout.print(
        f"[bold]{escape(first.model)}[/] over {first.protocol}, batch {first.batch}; "
        "latency in ms, server in ms per request, processor time in µs per request",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    load = "rate" if first.rate is not None else "concurrency"
    for title in (load, "requests/s", "p50", "p90", "p95", "p99", "max", "errors"):
        table.add_column(title, justify="right")
    for title in ("queue", "infer", "other", "outside", "batch", "server µs", "client µs", "client core"):
        table.add_column(title, justify="right")
    for level in levels:
        table.add_row(*_load_cells(level), *_side_cells(level))
    stdout.print(table)


def _load_cells(level: Measurement) -> list[str]:
    mark = "" if level.stable else " ~"
    load = f"{level.rate:g}" if level.rate is not None else str(level.concurrency)
    latency = level.latency
    figures = (
        ["-"] * 5
        if latency is None
        else [f"{ms:.2f}" for ms in (latency.p50_ms, latency.p90_ms, latency.p95_ms, latency.p99_ms, latency.max_ms)]
    )
    return [load, f"{level.requests_per_s:,.1f}{mark}", *figures, str(level.errors)]


def _side_cells(level: Measurement) -> list[str]:
    server, client = level.server, [f"{level.client.cpu_us:.0f}", f"{level.client.cpu_share:.0%}"]
    if server is None:
        return ["-"] * 6 + client
    other_ms = server.compute_input_ms + server.compute_output_ms
    outside = "-" if level.latency is None else f"{level.latency.mean_ms - server.total_ms:.2f}"
    return [
        f"{server.queue_ms:.2f}",
        f"{server.compute_infer_ms:.2f}",
        f"{other_ms:.2f}",
        outside,
        f"{server.average_batch:.1f}",
        "-" if server.cpu_us is None else f"{server.cpu_us:.0f}",
        *client,
    ]


def _warn(levels: Sequence[Measurement]) -> None:
    for level in levels:
        label = Level(level.concurrency, level.rate).label
        for text, count in list(level.error_texts.items())[:3]:
            stderr.print(f"[bold red]{label}:[/] {count} requests failed: {escape(text)}", highlight=False)
        if level.interrupted:
            stderr.print(f"[yellow]{label}:[/] interrupted", highlight=False)
        elif not level.stable:
            stderr.print(f"[yellow]{label}:[/] the last windows do not agree (~)", highlight=False)
        if level.rate is not None and level.requests_per_s < KEPT * level.rate:
            stderr.print(
                f"[yellow]{label}:[/] not kept, {level.backlog} requests were waiting at the end", highlight=False
            )
        if level.client_is_busy:
            stderr.print(f"[yellow]{label}:[/] the client is busy and may be what was measured", highlight=False)


def _bench_layers(
    model: str,
    engine: str,
    shapes: Mapping[str, Sequence[int]],
    data: Path | None,
    *,
    seed: int,
    runs: int,
    sort: str,
    json: bool,
) -> None:
    from tnn_serving.look.profile import profile
    from tnn_serving.prepare.recorded_case import read_inputs

    if not Path(model).exists():
        raise UsageError("--layers needs a model file, not a server", found=model)
    inputs = None if data is None else read_inputs(data)
    found = profile(model, engine, inputs=inputs, shapes=shapes, seed=seed, runs=runs)
    if json:
        print_json(found)
    else:
        _show_profile(found, sort)


def _show_profile(found: Profile, sort: str) -> None:
    shapes = ", ".join(f"{name} {dims}" for name, dims in found.shapes.items())
    stdout.print(f"[bold]{escape(found.source)}[/] on {found.engine}, {escape(shapes)}", highlight=False)
    table = Table(box=None, pad_edge=False)
    for title, side in (("#", "right"), ("layer", "left"), ("type", "left"), ("ms", "right"), ("share", "right")):
        table.add_column(title, justify="right" if side == "right" else "left")
    table.add_column("kernel")
    rows = sorted(found.layers, key=lambda row: -row.time_ms) if sort == "time" else found.layers
    for row in rows:
        nothing = f"in {row.merged_into}" if row.merged_into else "nothing to run"
        table.add_row(
            "" if row.index is None else str(row.index),
            escape(row.layer) or "[dim]engine[/]",
            row.type,
            f"{row.time_ms:.3f}",
            f"{row.share:.1%}",
            escape(", ".join(row.kernels)) or f"[dim]{escape(nothing)}[/]",
        )
    stdout.print(
        table,
        f"sum of layers {found.total_ms:.3f} ms, an inference {found.wall_ms:.3f} ms, {found.runs} runs",
        highlight=False,
    )
