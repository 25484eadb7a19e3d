"""One small SVG plot per benchmark, in colours that are distinguishable with any colour vision (Okabe and Ito's)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt

from results import Result, Row

BLUE, ORANGE, GREEN, PINK, SKY, RED, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#999999",
)
STYLE = {
    "svg.hashsalt": "tnn-serving",
    "svg.fonttype": "none",
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
}
WIDTH_IN = 7.5


def draw(result: Result, path: Path) -> None:
    """Writes the plot of a result."""
    with mpl.rc_context(STYLE):
        figure = PLOTS[result.program](result)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)


def grouped(
    axes: Any, groups: Sequence[str], series: dict[str, Sequence[float | None]], colours: Sequence[str]
) -> None:
    """Grouped bars: one group per name, one colour per series."""
    width = 0.8 / len(series)
    for k, (name, values) in enumerate(series.items()):
        places = [group + (k - (len(series) - 1) / 2) * width for group in range(len(groups))]
        axes.bar(places, [value or 0 for value in values], width * 0.92, label=name, color=colours[k])
    axes.set_xticks(range(len(groups)), groups)
    axes.grid(axis="x", visible=False)


def sideways(axes: Any, names: Sequence[str], values: Sequence[float], colours: Sequence[str]) -> None:
    """One horizontal bar per name with its number, the first one at the top."""
    axes.barh(range(len(names)), values, color=colours)
    for place, value in enumerate(values):
        axes.annotate(f" {value:,.0f}", (value, place), va="center", fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.18)


def served(result: Result) -> Any:
    """CPU per request by number of connections: engine plus floor stacked, beside the served network."""
    (rows,) = result.tables.values()
    engine = next(row["cpu_us"] for row in rows if row["what"] == "bare engine")
    figure, panes = plt.subplots(1, 2, figsize=(WIDTH_IN, 2.8), sharey=True)
    for axes, protocol in zip(panes, ("http", "grpc"), strict=True):
        mine = [row for row in rows if row["protocol"] == protocol]
        connections = sorted({row["connections"] for row in mine})
        cpu = {(row["what"], row["connections"]): row["cpu_us"] / 1e3 for row in mine}
        names = [what for what in dict.fromkeys(row["what"] for row in mine) if what != "floor"]
        for k, count in enumerate(connections):
            bottom = engine / 1e3
            axes.bar(k - 0.27, bottom, 0.24, color=GREY, label="bare engine" if not k else None)
            axes.bar(k - 0.27, cpu["floor", count], 0.24, bottom, color=ORANGE, label="+ floor" if not k else None)
            for m, (name, colour) in enumerate(zip(names, (BLUE, SKY), strict=True)):
                axes.bar(k + 0.27 * m, cpu[name, count], 0.24, color=colour, label=name if not k else None)
        axes.set_xticks(range(len(connections)), [f"{count}" for count in connections])
        axes.grid(axis="x", visible=False)
        axes.set_title(protocol, fontsize=9)
        axes.set_xlabel("connections")
    panes[0].set_ylabel("CPU per request, ms")
    handles, labels = panes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7)
    return figure


def floor(result: Result) -> Any:
    """Requests per second of both."""
    figure, panes = plt.subplots(1, len(result.tables), figsize=(WIDTH_IN, 2.4))
    for axes, (title, rows) in zip(panes, result.tables.items(), strict=True):
        series = {"floor": [row["floor_rate"] for row in rows], "one ReLU": [row["tnn_rate"] for row in rows]}
        grouped(axes, [str(row["connections"]) for row in rows], series, (ORANGE, BLUE))
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("connections")
    panes[0].set_ylabel("requests/s")
    panes[0].legend(fontsize=7)
    return figure


def peers(result: Result) -> Any:
    """Requests per second at the most connections, the best first."""
    figure, panes = plt.subplots(1, len(result.tables), figsize=(WIDTH_IN, 3.4))
    for axes, (network, rows) in zip(panes if len(result.tables) > 1 else [panes], result.tables.items(), strict=True):
        most = max(row["connections"] for row in rows)
        mine = sorted((row for row in rows if row["connections"] == most), key=lambda row: -row["requests_rate"])
        names = [form(row) for row in mine]
        colours = [BLUE if row["server"] == "tnn-serving" else GREY for row in mine]
        sideways(axes, names, [row["requests_rate"] for row in mine], colours)
        axes.set_title(f"{network}, {most} connections", fontsize=9)
        axes.set_xlabel("requests/s")
    return figure


def form(row: Row) -> str:
    """A server with its configuration."""
    if row["server"] == "tnn-serving":
        return "tnn-serving"
    batch = f", batches of {row['batch']}" if row["batch"] > 1 else ""
    return f"{row['server']}, {row['workers']} worker{'s' if row['workers'] > 1 else ''}{batch}"


def engines(result: Result) -> Any:
    """Time of each engine relative to the better one."""
    (rows,) = result.tables.values()
    figure, axes = plt.subplots(figsize=(WIDTH_IN, 2.8))
    best = [min(row[key] for key in ("openvino_ms", "onnxruntime_ms") if row[key]) for row in rows]
    series = {
        name: [row[f"{name}_ms"] and row[f"{name}_ms"] / least for row, least in zip(rows, best, strict=True)]
        for name in ("openvino", "onnxruntime", "auto")
    }
    grouped(axes, [row["network"] for row in rows], series, (SKY, ORANGE, BLUE))
    slanted(axes)
    axes.axhline(1.05, color=RED, linewidth=0.8)
    axes.set_ylabel("time over the better engine's")
    axes.legend(fontsize=7, ncols=3)
    return figure


def int8_forms(result: Result) -> Any:
    """Times of the forms on OpenVINO relative to float32."""
    (rows,) = result.tables.values()
    mine = [row for row in rows if row["engine"] == "openvino"]
    figure, axes = plt.subplots(figsize=(WIDTH_IN, 2.8))
    series = {
        name: [row[key] and row[key] / row["fp32_ms"] for row in mine]
        for name, key in (("int8, exact", "exact_ms"), ("int8, fast", "fast_ms"), ("bf16", "bf16_ms"))
    }
    grouped(axes, [row["network"].removeprefix("quant_") for row in mine], series, (PINK, BLUE, GREEN))
    slanted(axes)
    axes.axhline(1, color=GREY, linewidth=0.8)
    axes.set_ylabel("time over float32's")
    axes.legend(fontsize=7, ncols=3)
    return figure


def load_time(result: Result) -> Any:
    """First and second load, in Python and of the server."""
    (rows,) = result.tables.values()
    figure, panes = plt.subplots(1, 2, figsize=(WIDTH_IN, 3.0))
    for axes, where in zip(panes, ("python", "server"), strict=True):
        series = {turn: [row[f"{where}_{turn}_ms"] / 1e3 for row in rows] for turn in ("first", "second")}
        grouped(axes, [row["network"] for row in rows], series, (ORANGE, BLUE))
        slanted(axes)
        axes.set_title("tnn_serving.load" if where == "python" else "server, to READY", fontsize=9)
    panes[0].set_ylabel("seconds")
    panes[0].legend(fontsize=7)
    return figure


def loading(result: Result) -> Any:
    """Seconds before and now."""
    rows = result.tables["times"]
    figure, axes = plt.subplots(figsize=(WIDTH_IN, 3.0))
    series: dict[str, Sequence[float | None]] = {name: [row[f"{name}_s"] for row in rows] for name in ("before", "now")}
    grouped(axes, [row["what"].replace("`", "") for row in rows], series, (GREY, BLUE))
    axes.set_ylabel("seconds")
    slanted(axes)
    axes.legend()
    return figure


def memory(result: Result) -> Any:
    """PSS over instances, shapes and loads."""
    figure, panes = plt.subplots(1, len(result.tables), figsize=(WIDTH_IN, 2.4), sharey=True)
    for axes, (title, rows) in zip(panes, result.tables.items(), strict=True):
        at = [row[next(iter(row))] for row in rows]
        axes.plot(at, [row["pss_mb"] for row in rows], "o-", color=BLUE, markersize=3)
        axes.set_xlabel(title)
    panes[0].set_ylim(bottom=0)
    panes[0].set_ylabel("PSS, MB")
    return figure


def slanted(axes: Any) -> None:
    """Long names below an axis."""
    plt.setp(axes.get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor", fontsize=7)


PLOTS: dict[str, Callable[[Result], Any]] = {
    plot.__name__: plot for plot in (served, floor, peers, engines, int8_forms, load_time, loading, memory)
}
